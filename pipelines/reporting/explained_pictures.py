"""Show explained pictures: an overlay of the maps for each, and a table of what they show and why."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

from ecor.config.model import Preprocess
from ecor.data.heatmap import Heatmap, frame_of, visible_mask
from ecor.explain.overlay import Panel, panels_png
from pipelines.runtime.console import percent

Ranked = tuple[tuple[str, float], ...]
"""Names and numbers, best first."""
_PX = 512
"""Longer side of a picture in a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageExplanation:
    """The labels of an image and the answers to what was looked for."""

    category: str
    category_prob: float
    rationales: Ranked = ()
    """With P(r | I)."""
    texts: Ranked = ()
    """Free texts and their cosines."""
    concepts: Ranked = ()
    """Concepts of a lexicon and the cosines of their definitions."""
    others: Ranked = ()
    """For a classifier: the next most probable categories."""

    @property
    def is_finite(self) -> bool:
        """False where the image has a feature of NaN or infinity: its numbers and maps then say nothing."""
        return math.isfinite(self.category_prob)

    @property
    def titles(self) -> list[tuple[str, str]]:
        """Titles of the maps: a name and its probability or cosine."""
        given = ", given its reasons" if self.rationales else ""
        found = [(self.category, f"{percent(self.category_prob, 1)}{given}")]
        found += [(name, percent(prob, 1)) for name, prob in (*self.rationales, *self.others)]
        return found + self.sought

    @property
    def sought(self) -> list[tuple[str, str]]:
        """The texts and concepts that were looked for, with their cosines."""
        named = [(f"“{text}”", cosine) for text, cosine in self.texts]
        named += [(f"concept {name}", cosine) for name, cosine in self.concepts]
        return [(name, f"cosine {cosine:.2f}") for name, cosine in named]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture that is explained."""

    name: str
    """Of its overlay, without the suffix."""
    picture: Image.Image
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What is said of a picture, and where it is drawn."""

    shown: Shown
    answer: ImageExplanation
    path: Path


def explanation_table(explained: Iterable[Explained]) -> Table:
    """A block of lines per picture."""
    explained = list(explained)
    has_reasons = any(each.answer.rationales or each.answer.sought for each in explained)
    columns = ("overlay", "shows", "P", *(("because there is", "P") if has_reasons else ()))
    table = Table(*columns, box=None, pad_edge=False)
    for each in explained:
        answer = each.answer
        reasons = [(name, percent(prob, 1)) for name, prob in answer.rationales]
        reasons += answer.sought
        named = [(name, percent(prob, 1)) for name, prob in ((answer.category, answer.category_prob), *answer.others)]
        for number in range(max(len(reasons), len(named))):
            cells = [rows[number] if number < len(rows) else ("", "") for rows in (named, reasons)]
            row = (each.path.name if number == 0 else "", *cells[0], *cells[1])
            table.add_row(*map(_literal, row[: len(columns)]))
    return table


def draw_explanation(
    shown: Shown, answer: ImageExplanation, heatmaps: Sequence[Heatmap], *, index: int, preprocess: Preprocess
) -> bytes:
    """The original, then the maps."""
    picture = shown.picture.copy()
    picture.thumbnail((_PX, _PX), Image.Resampling.LANCZOS)
    frame = frame_of((picture.height, picture.width), preprocess=preprocess)
    maps = torch.cat([heatmap.on_source(index, frame=frame) for heatmap in heatmaps])
    panels = [Panel(title=Path(shown.source).name)]
    panels += [
        Panel(title=title, note=note, map=map_HW.numpy())
        for (title, note), map_HW in zip(answer.titles, maps.clamp(0, 1).cpu(), strict=True)
    ]
    return panels_png(np.asarray(picture), panels, seen=visible_mask(frame).numpy())


def _literal(text: str) -> Text:
    """Names are no markup of rich's."""
    return Text(text)
