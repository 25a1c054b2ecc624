"""A page of pictures in groups, in the look of the report: for results of `ecor find` and `ecor copies`."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files

import jinja2
from markupsafe import Markup

import ecor
from ecor.data.images.decoding import decode_image
from pipelines.reporting.embedded_image import EmbeddedImage, MissingPictureError, explain_missing, make_thumbnail
from pipelines.reporting.html_page import Fact, policy_digest
from pipelines.reporting.search.feature_folders import FeatureFolders, LabelledImage
from pipelines.runtime.console import percent
from pipelines.storage.image_source import PLACE_COLUMNS, ImagePlace, ImageSource

_NUM_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """An image of a result, and what is said of it."""

    image: LabelledImage
    figure: str
    """In the card's head: its similarity."""
    figure_words: str
    """What the figure is."""
    notes: tuple[str, ...] = ()
    """Short remarks below the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureGroup:
    """Images that belong together."""

    title: str
    note: str = ""
    images: tuple[ShownImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureCard:
    """An image with its thumbnail."""

    shown: ShownImage
    picture: EmbeddedImage | None
    missing: str
    """Why there is no picture; empty if there is one."""


def draw_page(
    groups: Sequence[PictureGroup],
    *,
    title: str,
    sentence: str,
    words: Sequence[str],
    facts: Sequence[Fact],
    among: FeatureFolders,
    max_images: int,
    size_px: int,
) -> str:
    """The page as HTML; the same result and pictures give the same text.

    Args:
        groups: in the order of the page.
        title: heading.
        sentence: what was found, below the heading.
        words: paragraphs above the pictures.
        facts: lines of the page's head.
        among: the labels of the images; pictures are read from where they were labelled.
        max_images: most pictures; groups beyond are left out, which the page says.
        size_px: longer side of a picture.
    """
    shown = list(_first_groups(groups, max_images=max_images))
    num_all, num_shown = (sum(len(group.images) for group in each) for each in (groups, shown))
    left_out = [f"{num_all - num_shown:,} of {num_all:,} images are left out here; the table has all."]
    template = files("pipelines.reporting") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"policy_digest": policy_digest, "percent": percent}
    css = (template / "report.css").read_text(encoding="utf-8")
    assert "</" not in css, "a closing tag would end the style"
    return (
        environment.from_string((template / "pictures.html.j2").read_text(encoding="utf-8")).render(
            title=title,
            sentence=sentence,
            words=[*words, *(left_out if num_shown < num_all else [])],
            facts=facts,
            groups=[(group, cards) for group, cards in _with_cards(shown, among=among, size_px=size_px)],
            colophon=f"Written by ecor {ecor.__version__}. This file loads nothing from anywhere.",
            css=Markup(css),  # noqa: S704  our own file, no data
        )
        + "\n"
    )


def _first_groups(groups: Sequence[PictureGroup], *, max_images: int) -> Iterator[PictureGroup]:
    """Groups until there are enough pictures; the last one is cut."""
    left = max_images
    for group in groups:
        if left <= 0 and group.images:
            return
        yield PictureGroup(title=group.title, note=group.note, images=group.images[:left])
        left -= len(group.images)


def _with_cards(
    groups: Sequence[PictureGroup], *, among: FeatureFolders, size_px: int
) -> Iterator[tuple[PictureGroup, list[PictureCard]]]:
    sources = {place: ImageSource(each.labels.parents) for place, each in enumerate(among.kept)}
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        for group in groups:
            yield group, list(readers.map(lambda each: _card(each, sources=sources, size_px=size_px), group.images))


def _card(shown: ShownImage, *, sources: Mapping[int, ImageSource], size_px: int) -> PictureCard:
    place = ImagePlace(**{name: getattr(shown.image, name) for name in PLACE_COLUMNS})
    try:
        with explain_missing(place):
            picture = decode_image(sources[shown.image.folder].read(place).data)
            return PictureCard(shown=shown, picture=make_thumbnail(picture, size_px=size_px), missing="")
    except MissingPictureError as error:
        return PictureCard(shown=shown, picture=None, missing=str(error))
