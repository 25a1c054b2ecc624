"""One decision of a reviewer about one label: a frozen record, and its line of JSON.

A decision never changes the labels. It names them by digest, says what the label was (`before`) and, for a correction,
what the image shows (`after`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ecor.config.checks import parse_record, require
from ecor.data.name_parsing import normalise_name

Verdict = Literal["accept", "correct", "rationale_not_visible", "wrong", "out_of_vocabulary", "skip", "undo"]
"""What a reviewer says of a label:

accept                  the category is right, and the image shows the rationale
correct                 `after` says what the image shows
rationale_not_visible   the category is right, but the image does not show the rationale
wrong                   the category is wrong, and the reviewer does not say what is right
out_of_vocabulary       the image shows none of the categories
skip                    seen, and left open
undo                    takes back the same reviewer's last decision on this image that is left: of the same log,
                        else of all
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBefore:
    """The label that the reviewer saw: columns of `ecor.data.predictions.schema.PREDICTION_SCHEMA`."""

    category: str
    rationale: str
    confidence: float
    """Probability of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the image shows, as the reviewer says."""

    category: str
    rationales: tuple[str, ...] = ()
    """All that the reviewer names, the most important one first; may be empty."""
    new_names: tuple[str, ...] = ()
    """Those of these names that the vocabulary of the labels does not have."""

    def __post_init__(self) -> None:
        require(bool(self.category.strip()), "a correction needs a category, got an empty name")
        require(all(each.strip() for each in self.rationales), f"a rationale has no name: {list(self.rationales)}")
        unknown = set(self.new_names) - {self.category, *self.rationales}
        require(not unknown, f"new_names holds names that the correction does not use: {sorted(unknown)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one reviewer decided about the label of one image."""

    labels_digest: str
    """`PredictionSet.digest` of the labels that the decision is about."""
    key: str
    """Of the image, as in the labels."""
    image_sha256: str | None = None
    """Of the image's bytes, as in a shard's index; None if the reviewer's tool did not read them."""
    reviewer: str
    """Name of the person or tool."""
    time: datetime
    """UTC, by the clock of the reviewer's machine."""
    verdict: Verdict
    before: LabelBefore
    after: Correction | None = None
    """Only for `correct`."""
    note: str = ""

    def __post_init__(self) -> None:
        require(self.verdict in VERDICTS, f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")
        require(bool(self.key), "a decision needs the key of an image, got an empty one")
        require(bool(self.reviewer.strip()), "a decision needs the name of a reviewer, got an empty one")
        require(
            (self.after is not None) == (self.verdict == "correct"),
            f"{self.key}: a correction says what the image shows, and no other verdict does; got {self.verdict} "
            f"with {self.after}",
        )
        require(self.time.utcoffset() is not None, f"{self.key}: time must have a time zone, got {self.time}")

    @property
    def is_category_right(self) -> bool | None:
        """Whether the label's category is right; None where this decision leaves it open."""
        if self.verdict in ("skip", "undo"):
            return None
        if self.after is not None:
            return normalise_name(self.after.category) == normalise_name(self.before.category)
        return self.verdict in ("accept", "rationale_not_visible")

    @property
    def is_rationale_visible(self) -> bool | None:
        """Whether the image shows the label's rationale; None where this decision leaves it open."""
        if self.verdict in ("skip", "undo", "wrong", "out_of_vocabulary"):
            return None
        if self.after is not None:
            return normalise_name(self.before.rationale) in map(normalise_name, self.after.rationales)
        return self.verdict == "accept"

    @property
    def outcome(self) -> tuple[str, ...]:
        """What two reviewers of an image are compared by: the verdict, and for a correction the names."""
        if self.after is None:
            return (self.verdict,)
        rationales = sorted(map(normalise_name, self.after.rationales))
        return (self.verdict, normalise_name(self.after.category), *rationales)

    def to_json(self) -> str:
        """One line of JSON, without the line break."""
        return json.dumps({**asdict(self), "time": format_time(self.time)}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "Decision":
        """Read what `to_json` wrote; ValueError, naming `where`, for anything else."""
        try:
            return cls.from_record(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is not a decision: {error}") from error

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> "Decision":
        """Build a decision from JSON values; ValueError for missing, unknown and wrong ones."""
        after = values.get("after")
        made = {
            "before": parse_record(LabelBefore, values.get("before") or {}),
            "after": None if after is None else _parse_correction(after),
            "time": parse_time(values.get("time")),
        }
        return parse_record(cls, {**values, **made})


def _parse_correction(values: Mapping[str, Any]) -> Correction:
    lists = {name: tuple(values[name]) for name in ("rationales", "new_names") if name in values}
    return parse_record(Correction, {**values, **lists})


def format_time(time: datetime) -> str:
    """UTC with microseconds: `2026-01-31T12:00:00.000000Z`."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: Any) -> datetime:
    """A time with its zone, as ISO 8601 writes it; ValueError for anything else."""
    require(isinstance(text, str), f"time must be a text such as 2026-01-31T12:00:00Z, got {text!r}")
    time = datetime.fromisoformat(text)
    require(time.utcoffset() is not None, f"time needs a zone, as in 2026-01-31T12:00:00Z, got {text}")
    return time
