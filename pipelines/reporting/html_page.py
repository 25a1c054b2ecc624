"""The HTML report as one self-contained file: records of its content, and rendering.

The document loads nothing from outside. A content security policy allows only its one style sheet and its one script,
by digest; both hold no data. The template escapes all data.
"""

import base64
import math
from dataclasses import dataclass
from importlib.resources import files

import jinja2
from markupsafe import Markup

from ecor.data.predictions.records import ExplainablePrediction, RankedRationale
from ecor.storage.digests import text_sha256
from pipelines.reporting.embedded_image import EmbeddedImage
from pipelines.runtime.console import percent

MOST_RATIONALES = 5
"""Rationales that a card lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A share or another number, with its interval if known."""

    value: float
    low: float | None = None
    high: float | None = None
    is_share: bool = True
    """Shown in percent, with a whisker from 0 to 100 %; False: as a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One cell of the two by two table of outcomes under the strict rule."""

    code: str
    """`rr`, `rw`, `wr` or `ww`: category right or wrong, then rationale right or wrong."""
    words: str
    share: MetricValue
    count: int

    @property
    def href(self) -> str:
        """Link to the gallery, filtered to this outcome."""
        category, rationale = ("right" if letter == "r" else "wrong" for letter in self.code)
        return f"#category={category}&rationale={rationale}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Head of a column of figures."""

    name: str
    words: str = ""
    """What it means, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table of figures."""

    name: str
    note: str = ""
    cells: tuple[MetricValue | str | None, ...]
    """A share, or a text that is shown as it is."""
    marked: bool = False
    """Whether the line is in bold: the predictions of this page."""
    href: str = ""
    """Link of the name to the gallery, filtered (`#q=…`); empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTable:
    """Figures side by side."""

    title: str
    note: str = ""
    subject: str
    """Head of the first column."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of the evaluation."""

    title: str
    picture: EmbeddedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A line of the page's head."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPrediction:
    """The most probable pair by another set of predictions."""

    name: str
    """Name of the set of predictions."""
    category: str
    rationale: str
    confidence: float
    """Probability of both, between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A heat map over an image."""

    words: str
    """The category or rationale that is explained."""
    picture: EmbeddedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One image of the gallery."""

    prediction: ExplainablePrediction
    picture: EmbeddedImage | None
    missing: str
    """Why there is no picture; empty if there is one."""
    category_right: bool | None
    """Judged by the strict rule; None if the truth is unknown."""
    rationale_right: bool | None
    others: tuple[OtherPrediction, ...] = ()
    """Other predictions of the same image."""
    overlays: tuple[Overlay, ...] = ()
    """Overlays of the category and of the rationales, if the predictions hold maps of this image."""
    explained_by: str = ""
    """Name of the attribution method."""

    @property
    def disputed(self) -> bool:
        """Whether another prediction names a different pair."""
        own = (self.prediction.category, self.prediction.rationale)
        return any((each.category, each.rationale) != own for each in self.others)

    @property
    def rationales(self) -> tuple[RankedRationale, ...]:
        """The most probable rationales, best first."""
        return self.prediction.rationales[:MOST_RATIONALES]

    @property
    def visible_though_wrong(self) -> bool:
        """Whether the predicted rationale is not labelled, but visible in the image."""
        return self.rationale_right is False and self.mark(self.prediction.rationale) == "visible"

    @property
    def search(self) -> str:
        """All names and places of the card, for the search of the page."""
        row = self.prediction
        predicted = [row.category, row.rationale, *(each.rationale for each in self.rationales)]
        predicted += [name for each in self.others for name in (each.category, each.rationale)]
        true = [row.category_true or "", *(row.rationales_true or ()), *(row.visible_rationales or ())]
        return "\n".join([*predicted, *true, row.key, row.source])

    def mark(self, rationale: str) -> str:
        """Say how the truth holds a rationale: `labelled`, `visible`, or empty if it does not."""
        if rationale in (self.prediction.rationales_true or ()):
            return "labelled"
        return "visible" if rationale in (self.prediction.visible_rationales or ()) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Content of the whole page."""

    title: str
    sentence: str
    facts: tuple[Fact, ...]
    lineage: tuple[Fact, ...]
    outcomes: tuple[Outcome, ...]
    """In the order rr, rw, wr, ww; empty if the truth is unknown."""
    outcome_words: tuple[str, ...]
    tables: tuple[MetricTable, ...]
    figure_words: tuple[str, ...]
    plots: tuple[Plot, ...]
    cards: tuple[Card, ...]
    gallery_words: tuple[str, ...]
    colophon: str

    @property
    def judged(self) -> list[tuple[str, str]]:
        """Factors with known outcomes in the gallery: name in the page's state, and heading."""
        factors = [("category", "Category"), ("rationale", "Rationale")]
        return [
            (name, word)
            for name, word in factors
            if any(getattr(card, f"{name}_right") is not None for card in self.cards)
        ]

    @property
    def has_others(self) -> bool:
        """Whether there are other predictions to compare with."""
        return any(card.others for card in self.cards)

    @property
    def explained_by(self) -> list[str]:
        """Names of the attribution methods of the gallery."""
        return sorted({card.explained_by for card in self.cards if card.overlays})

    @property
    def categories(self) -> list[str]:
        """Names of predicted or true categories in the gallery."""
        rows = [card.prediction for card in self.cards]
        return sorted({row.category for row in rows} | {row.category_true for row in rows if row.category_true})


def render(page: Page) -> str:
    """Render the document; the same page gives the same text."""
    templates = files("pipelines.reporting") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    environment.filters |= {
        "percent": percent,
        "points": percent_points,
        "width": bar_width,
        "prob": lambda log_prob: min(1.0, math.exp(log_prob)),
        "thousands": "{:,}".format,
        "policy_digest": policy_digest,
    }
    template = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    css, js = ((templates / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    assert "</" not in css + js, "a closing tag would end the style or the script"
    return template.render(page=page, css=Markup(css), js=Markup(js)) + "\n"  # noqa: S704  our own files, no data


def percent_points(share: float) -> str:
    """Format an end of an interval in percent: `58.9`."""
    return f"{100 * share:.1f}"


def bar_width(share: float) -> str:
    """Format the width of a bar for CSS, limited to 0 to 100 %."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def policy_digest(text: str) -> str:
    """Make the source expression that allows an inline style or script in a content security policy."""
    return "sha256-" + base64.b64encode(bytes.fromhex(text_sha256(str(text)))).decode()
