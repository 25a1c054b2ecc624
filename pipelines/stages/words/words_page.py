"""The page of `ecor words`: the pictures most similar to each kept rationale, and a list of the dropped ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
import numpy as np
from markupsafe import Markup

import ecor
from ecor.drafting.candidates import Candidate
from ecor.drafting.selection import REASONS, Decision, preference_order
from pipelines.config.learning import WordsConfig
from pipelines.reporting.embedded_image import EmbeddedImage
from pipelines.reporting.html_page import Fact, policy_digest
from pipelines.runtime.console import percent
from pipelines.stages.words.draft import Draft
from pipelines.stages.words.encoded_images import read_thumbnails
from pipelines.stages.words.measured_draft import MeasuredDraft

_SINGULAR_REASONS = {
    "names_category": "names the category",
    "names_kind": "names a kind of the category",
    "same_text": "is there twice",
    "like_the_name": "means the category's name to the model",
    "near_duplicate": "is a near duplicate",
    "never_speaks": "speaks too rarely",
    "does_not_separate": "does not separate",
    "beyond_most": "is beyond the most per category",
}
assert _SINGULAR_REASONS.keys() == REASONS.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPicture:
    """A picture below a rationale."""

    picture: EmbeddedImage | None
    """None where it can no longer be read."""
    source: str
    similarity: float
    category: str
    """Of the image by its labels; empty where it has none."""
    is_own: bool
    """Whether that is the category of the rationale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRationale:
    """A rationale on the page."""

    text: str
    sources: str
    figures: str
    """Its numbers, in words; empty where nothing was measured."""
    note: str = ""
    """Why it is dropped, or stays though images would drop it."""
    pictures: tuple[ShownPicture, ...] = ()


@dataclass(slots=True, kw_only=True)
class ShownCategory:
    """A category on the page."""

    name: str
    synset: str
    kept: list[ShownRationale] = field(default_factory=list)
    dropped: list[ShownRationale] = field(default_factory=list)


def draw_words_page(
    config: WordsConfig,
    draft: Draft,
    decisions: Sequence[Decision],
    *,
    measured: MeasuredDraft | None,
    lines: Sequence[str],
) -> str:
    """The page as HTML; the same result and pictures give the same text.

    Args:
        config: of the command.
        draft: all candidates.
        decisions: on each of them.
        measured: what images say; None: a page without pictures.
        lines: paragraphs below the heading.
    """
    pictures, left_out = _choose_pictures(config, decisions, measured=measured)
    numbers = sorted({number for chosen in pictures.values() for number in chosen})
    thumbnails: Mapping[int, EmbeddedImage] = {}
    if measured is not None and numbers:
        thumbnails = read_thumbnails(measured.encoded, numbers, size_px=config.thumbnail_px)
    categories = {name: ShownCategory(name=name, synset=draft.synsets.get(name, "")) for name in draft.categories}
    for index in preference_order(len(decisions), None if measured is None else measured.found.evidence):
        candidate, decision = draft.candidates[index], decisions[index]
        shown = _shown(index, draft.candidates, decision, measured=measured)
        if decision.is_kept:
            below = tuple(_pictures_of(index, pictures.get(index, ()), candidate, thumbnails, measured=measured))
            shown = ShownRationale(
                text=shown.text, sources=shown.sources, figures=shown.figures, note=shown.note, pictures=below
            )
        part = categories[candidate.category]
        (part.kept if decision.is_kept else part.dropped).append(shown)
    words = [*lines, *([f"{left_out:,} rationales are without pictures here."] if left_out else [])]
    return _render(config, list(categories.values()), words=words, num_images=_num_images(measured))


def _choose_pictures(
    config: WordsConfig, decisions: Sequence[Decision], *, measured: MeasuredDraft | None
) -> tuple[dict[int, list[int]], int]:
    """The most similar images of each kept candidate until there are enough, and how many candidates are without."""
    if measured is None or config.num_pictures == 0:
        return {}, 0
    kept = [index for index, each in enumerate(decisions) if each.is_kept]
    shown = kept[: config.max_pictures // config.num_pictures]
    found = {}
    for index in shown:
        similarity_N = measured.found.similarity[:, measured.found.rationale_ids[index]]
        found[index] = np.argsort(-similarity_N, kind="stable")[: config.num_pictures].tolist()
    return found, len(kept) - len(shown)


def _pictures_of(
    index: int,
    numbers: Sequence[int],
    candidate: Candidate,
    thumbnails: Mapping[int, EmbeddedImage],
    *,
    measured: MeasuredDraft | None,
) -> Iterator[ShownPicture]:
    for number in numbers:
        assert measured is not None
        image = measured.encoded.images[number]
        yield ShownPicture(
            picture=thumbnails.get(number),
            source=image.source,
            similarity=float(measured.found.similarity[number, measured.found.rationale_ids[index]]),
            category=image.category or "",
            is_own=image.category == candidate.category,
        )


def _shown(
    index: int, candidates: Sequence[Candidate], decision: Decision, *, measured: MeasuredDraft | None
) -> ShownRationale:
    note = _SINGULAR_REASONS[decision.reason] if decision.reason else ""
    if decision.reason == "near_duplicate":
        note += f" of {candidates[decision.repeats].rationale}"
    if decision.restored and decision.is_kept:
        note = f"stays because its category has few others: it {_SINGULAR_REASONS[decision.restored]}"
    figures = ""
    if measured is not None:
        found = measured.found.evidence.measurement
        if not np.isnan(found.auc[index]):
            figures = f"AUC {found.auc[index]:.2f}, speaks in {percent(float(found.speaks[index]))}"
    each = candidates[index]
    return ShownRationale(text=each.rationale, sources=", ".join(each.sources), figures=figures, note=note)


def _num_images(measured: MeasuredDraft | None) -> int:
    return 0 if measured is None else len(measured.encoded.images)


def _render(config: WordsConfig, categories: Sequence[ShownCategory], *, words: Sequence[str], num_images: int) -> str:
    templates = files("pipelines.reporting") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"policy_digest": policy_digest}
    css = "".join((templates / name).read_text(encoding="utf-8") for name in ("report.css", "words.css"))
    assert "</" not in css, "a closing tag would end the style"
    num_kept, num_dropped = (sum(len(getattr(each, name)) for each in categories) for name in ("kept", "dropped"))
    images = [Fact(label="Images", value=config.images or "none", note=f"{num_images:,} measured")]
    template = environment.from_string((templates / "words.html.j2").read_text(encoding="utf-8"))
    return (
        template.render(
            title="A first vocabulary",
            sentence=f"{num_kept:,} rationales for {len(categories):,} categories; {num_dropped:,} were dropped.",
            words=words,
            facts=[
                Fact(label="Categories", value=config.categories),
                *images,
                *([Fact(label="Model", value=config.model_name)] if config.images else []),
                *([Fact(label="Descriptors", value=config.descriptors)] if config.descriptors else []),
                *([Fact(label="Captions", value=config.captions)] if config.captions else []),
            ],
            categories=categories,
            colophon=f"Written by ecor {ecor.__version__}. This file loads nothing from anywhere.",
            css=Markup(css),  # noqa: S704  our own files, no data
        )
        + "\n"
    )
