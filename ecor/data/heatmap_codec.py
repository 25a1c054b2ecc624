"""Quantize heat maps to 8 bits per cell for the `evidence` column of predictions, and decode them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from ecor.config.model import Preprocess

STEPS = 255
MOST_CELLS = 32
"""Of a map's side (ours): of maps with a value for each pixel, means of cells are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceMap:
    """One map quantized to 0 (lowest score) to 255 (highest); the error is at most half a step."""

    rationale: str | None
    """The explained rationale; None: the category, given the kept rationales."""
    height: int
    """Cells: of the tower's grid, or at most `MOST_CELLS` per side."""
    width: int
    low: float
    """Score of the value 0."""
    high: float
    """Score of the value 255; in a constant map, the score of all cells."""
    values: bytes
    """A byte per cell, row by row from the top left."""

    @property
    def normalised(self) -> Float[np.ndarray, "h w"]:
        """Cells from 0 (least) to 1 (most); a constant map is all zeros."""
        cells = np.frombuffer(self.values, dtype=np.uint8).reshape(self.height, self.width)
        return cells.astype(np.float32) / STEPS

    @property
    def scores(self) -> Float[np.ndarray, "h w"]:
        """Raw scores, as the method made them, up to rounding."""
        return self.low + (self.high - self.low) * self.normalised.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The maps of one image, and the preprocessing that defines the area they cover."""

    method: str
    """Name in `ecor.explain.METHODS`."""
    category: str
    """Of the map without a rationale."""
    input_height: int
    """Pixels of the tower's input."""
    input_width: int
    resize_mode: str
    """As in `ecor.config.Preprocess`."""
    maps: tuple[EvidenceMap, ...]
    """The category's, then one of each rationale, the most probable first."""

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing for `ecor.data.heatmap.frame_of`, which locates the maps on the source image."""
        return Preprocess(
            image_size=(self.input_height, self.input_width),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            resize_mode=self.resize_mode,  # type: ignore[arg-type]
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Evidence | None":
        """Read the evidence of a row of predictions, as `Table.to_pylist` gives it; None for an image that was not
        explained.
        """
        values = row.get(EVIDENCE)
        if values is None:
            return None
        return cls(**{**values, "maps": tuple(EvidenceMap(**each) for each in values["maps"])})


def quantize(scores: Float[np.ndarray, "h w"], *, rationale: str | None) -> EvidenceMap:
    """Quantize a map of raw scores to 8 bits per cell.

    Args:
        scores: of one map, finite.
        rationale: the explained one; None: the category, given the kept rationales.
    """
    low, high = float(scores.min()), float(scores.max())
    span = high - low
    steps = np.zeros(scores.shape) if span == 0 else np.round(STEPS * (scores.astype(np.float64) - low) / span)
    return EvidenceMap(
        rationale=rationale,
        height=scores.shape[0],
        width=scores.shape[1],
        low=low,
        high=high,
        values=steps.astype(np.uint8).tobytes(),
    )


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


EVIDENCE = "evidence"
_MAP = pa.struct(
    [
        pa.field("rationale", pa.string()),
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("low", pa.float64()),
        _required("high", pa.float64()),
        _required("values", pa.binary()),
    ]
)
EVIDENCE_COLUMN = pa.field(
    EVIDENCE,
    pa.struct(
        [
            _required("method", pa.string()),
            _required("category", pa.string()),
            _required("input_height", pa.int32()),
            _required("input_width", pa.int32()),
            _required("resize_mode", pa.string()),
            _required("maps", pa.list_(pa.field("item", _MAP, nullable=False))),
        ]
    ),
    metadata={
        "description": "where the evidence is: maps of the category given its rationales (rationale null) and of the "
        "most probable rationales, on the tower's grid or, of methods by pixel, means on 32 x 32 cells; a byte per "
        "cell from low (0) to high (255), row by row; they cover the tower's input, which input_height, input_width "
        "and resize_mode tell; null: not explained",
        "unit": "",
    },
)
"""The column that `ecor score --explain` adds; without it there is none."""
