"""What a tool says of one label after people worked on it, and the verdict that follows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from pipelines.exchange.known_names import KnownNames
from pipelines.review.decision import VERDICTS, Correction, LabelBefore, Verdict

VERDICTS_OF_TOOLS: tuple[Verdict, ...] = tuple(each for each in VERDICTS if each not in ("correct", "undo"))
"""Verdicts that tools offer besides a change of the names, which is a correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedLabel:
    """One label as a tool holds it now."""

    where: str
    """For errors: the file, and the place in it."""
    key: str | None = None
    """Of the image, where the tool has kept it."""
    image: str | None = None
    """What the tool calls the image: path, URI or file name. Finds the label where the key is lost."""
    verdict: Verdict | None = None
    """What a person chose; None: nothing."""
    category: str | None = None
    """None: no category is left."""
    rationales: tuple[str, ...] | None = None
    """None: the tool does not hold rationales."""
    reviewer: str | None = None
    time: datetime | None = None
    """When the tool got it; None: not known."""
    note: str = ""
    image_sha256: str | None = None
    """Of the image that was judged, where the tool has kept it."""
    is_seen: bool = False
    """Whether the tool says that a person has submitted it, so that unchanged means accepted."""
    is_explicit: bool = False
    """Whether only the verdict counts: category and rationales are given for corrections alone."""
    check_label: Callable[[LabelBefore], None] | None = None
    """Raises ValueError for another label than the one that was exported."""

    def __post_init__(self) -> None:
        texts = {name: getattr(self, name) for name in ("key", "image", "category", "reviewer")}
        texts |= {f"rationale {place}": name for place, name in enumerate(self.rationales or (), start=1)}
        for name, text in texts.items():
            is_text = isinstance(text, str) or (text is None and name in ("key", "image", "category", "reviewer"))
            require(is_text, f"{self.where}: the {name} must be a text, got {text!r}: export it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedLabel:
    """The verdict on one label."""

    verdict: Verdict
    after: Correction | None = None


def judge(
    returned: ReturnedLabel, before: LabelBefore, *, names: KnownNames, accept_unchanged: bool
) -> JudgedLabel | None:
    """The verdict that a returned label means; None for one that came back as it was and that no person judged.

    Other names are a correction; a label whose rationales were all taken away is `rationale_not_visible`, one whose
    category was taken away is `wrong`. A note alone is `skip`, so that it is kept.

    Args:
        returned: what the tool says.
        before: the label that was exported.
        names: known ones, whose spelling is kept.
        accept_unchanged: whether an unchanged label that no person is said to have seen is accepted.

    Raises:
        ValueError: when a verdict contradicts the names that stand beside it.
    """
    if returned.is_explicit:
        return _judge_explicit(returned, names=names)
    changed = _judge_names(returned, before, names=names)
    if returned.verdict is None:
        is_judged = changed is not None or returned.is_seen or accept_unchanged
        return changed or (JudgedLabel(verdict="accept") if is_judged else _judge_note(returned))
    return _judge_chosen(returned, returned.verdict, changed=changed)


def _judge_explicit(returned: ReturnedLabel, *, names: KnownNames) -> JudgedLabel | None:
    if returned.verdict is None:
        return _judge_note(returned)
    if returned.verdict != "correct":
        return JudgedLabel(verdict=returned.verdict)
    return JudgedLabel(verdict="correct", after=_correction(returned, names=names))


def _judge_note(returned: ReturnedLabel) -> JudgedLabel | None:
    return JudgedLabel(verdict="skip") if returned.note.strip() else None


def _judge_names(returned: ReturnedLabel, before: LabelBefore, *, names: KnownNames) -> JudgedLabel | None:
    """What the names alone say; None where they are those of the label."""
    if returned.category is None:
        return JudgedLabel(verdict="wrong")
    is_category = normalise_name(returned.category) == normalise_name(before.category)
    is_rationale = returned.rationales is None or (
        set(map(normalise_name, returned.rationales)) == {normalise_name(before.rationale)}
    )
    if is_category and is_rationale:
        return None
    if is_category and not returned.rationales:
        return JudgedLabel(verdict="rationale_not_visible")
    return JudgedLabel(verdict="correct", after=_correction(returned, names=names))


def _judge_chosen(returned: ReturnedLabel, verdict: Verdict, *, changed: JudgedLabel | None) -> JudgedLabel:
    """A chosen verdict beside the names: `wrong` and `skip` fit names that were taken away, but no other names."""
    says_nothing = verdict in ("wrong", "out_of_vocabulary", "skip")
    fits = changed is None or changed.verdict == verdict or (says_nothing and changed.after is None)
    require(
        fits,
        f"{returned.where}: the verdict {verdict} does not fit its names ({returned.category}: "
        f"{', '.join(returned.rationales or ())}): take the verdict away to correct the names, or put the names back",
    )
    return JudgedLabel(verdict=verdict)


def _correction(returned: ReturnedLabel, *, names: KnownNames) -> Correction:
    assert returned.category is not None
    category = names.spelling(returned.category)
    rationales = tuple(dict.fromkeys(names.spelling(each) for each in returned.rationales or () if each.strip()))
    new = tuple(dict.fromkeys(each for each in (category, *rationales) if not names.has(each)))
    try:
        return Correction(category=category, rationales=rationales, new_names=new)
    except ValueError as error:
        raise ValueError(f"{returned.where}: {error}") from error
