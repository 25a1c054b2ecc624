"""The record of `ecor diff`: how many labels differ between two sets, and which quantities have drifted."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ecor.config.checks import parse_record, require
from ecor.data.predictions.manifest import PredictionSet
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from pipelines.reporting.drift.drift_tests import DriftTest

DIFF_NAME = "diff.json"
SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSide:
    """One of the two sets of labels."""

    labels: str
    """Address of the folder."""
    labels_digest: str
    input: str
    """Address of the images."""
    input_digest: str
    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str
    num_labels: int

    @classmethod
    def of(cls, predictions: PredictionSet, *, address: str) -> "DiffSide":
        """The set of labels at an address."""
        parents = predictions.parents
        names = ("input", "input_digest", "model_name", "model_version", "model_digest", "vocabulary_digest")
        return cls(
            labels=address,
            labels_digest=predictions.digest,
            num_labels=predictions.num_rows,
            **{name: getattr(parents, name) for name in names},
        )

    @property
    def model(self) -> str:
        """Name and version for people."""
        return self.model_name if self.model_version is None else f"{self.model_name} version {self.model_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopChange:
    """A frequent change: of the category, or of the rationale while the category stays."""

    change: str
    category_before: str
    rationale_before: str | None
    category_after: str
    rationale_after: str
    count: int

    def describe(self) -> str:
        """One line, for example `wolf -> husky because of snow: 903`."""
        if self.change == "category":
            return f"{self.category_before} -> {self.category_after} because of {self.rationale_after}: {self.count:,}"
        return f"{self.category_before}: {self.rationale_before} -> {self.rationale_after}: {self.count:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCounts:
    """Numbers of labels."""

    common: int
    """Images in both sets."""
    only_before: int
    only_after: int
    category_changed: int
    rationale_changed: int
    """With the same category."""
    confidence_changed: int
    """With the same category and rationale, by at least `confidence_step`."""
    confidence_mean_before: float | None
    """Of the images in both sets; None without any."""
    confidence_mean_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDiff:
    """The record of `ecor diff`."""

    before: DiffSide
    after: DiffSide
    settings: dict[str, Any]
    """Those that shape the result."""
    counts: ChangeCounts
    top_changes: tuple[TopChange, ...]
    """The most frequent ones; `changes.parquet` has all."""
    paired: bool
    """The tests compare the labels of the same images, one by one; otherwise all labels as two samples."""
    tests: tuple[DriftTest, ...]
    notes: tuple[str, ...]
    """What else differs between the two sets, and what could not be compared."""
    schema_version: str = SCHEMA_VERSION

    @property
    def has_drift(self) -> bool:
        return any(test.is_drift for test in self.tests)

    @property
    def digest(self) -> str:
        """sha256 of the record without the addresses of labels and images."""
        return json_digest(self._content(with_addresses=False))

    def to_json(self) -> str:
        record = {**self._content(with_addresses=True), "has_drift": self.has_drift, "digest": self.digest}
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    def _content(self, *, with_addresses: bool) -> dict[str, Any]:
        content = asdict(self)
        for side in ("before", "after") if not with_addresses else ():
            for name in ("labels", "input"):
                del content[side][name]
        return content

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> "LabelDiff":
        """Raises ValueError, naming `source`, for a text that is no such record or was altered by hand."""
        try:
            values: dict[str, Any] = json.loads(text)
            digest = values.pop("digest")
            del values["has_drift"]
            made = {
                "before": parse_record(DiffSide, values["before"]),
                "after": parse_record(DiffSide, values["after"]),
                "counts": parse_record(ChangeCounts, values["counts"]),
                "top_changes": tuple(parse_record(TopChange, each) for each in values["top_changes"]),
                "tests": tuple(parse_record(DriftTest, each) for each in values["tests"]),
                "notes": tuple(values["notes"]),
            }
            record = parse_record(cls, {**values, **made})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source} is not a record of `ecor diff` ({error}): name another --output") from error
        require(record.digest == digest, f"{source} was altered: it says {digest}, its content has {record.digest}")
        return record


def find_diff(folder: str) -> LabelDiff | None:
    """The record in a folder of `ecor diff`; None where there is none, ValueError for one that was altered."""
    path = filesystem.join(folder, DIFF_NAME)
    try:
        return LabelDiff.from_json(filesystem.read(path), source=path)
    except FileNotFoundError:
        return None
