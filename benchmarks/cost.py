"""Hours, GPU-hours, memory, files and requests of `ecor shard` and `ecor score` for up to 10^9 images: a cost model.

    python benchmarks/cost.py                                            (prints the tables of docs/cost.md)
    python benchmarks/cost.py --photos ../shared/data/photos/clothing    (measures a core's decoding)

`MEASURED` holds the figures that were measured, each with the section of README.md that has it; all others are products
and quotients of these. A test compares docs/cost.md with what this prints.
"""

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

UNIT = 512
"""Images per shard and unit: the default."""
SIZES = (10**6, 10**7, 10**8, 10**9)
GIB, TIB = 1024**3, 1024**4


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured number."""

    value: float
    unit: str
    what: str
    section: str
    """Of README.md."""


MEASURED: Mapping[str, Figure] = {
    "b32": Figure(value=7044, unit="images/s", what="ViT-B/32, bf16, on an H200: tower and rows", section="On a GPU"),
    "l14": Figure(value=1637, unit="images/s", what="ViT-L/14, bf16, on an H200: tower and rows", section="On a GPU"),
    "shard": Figure(value=1 / 915, unit="core-s per image", what="`ecor shard` of photos of 400 x 533 pixels, each decoded once", section="Sharding"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a job of so many images takes; all arithmetic."""

    num_images: int
    shard_core_h: float
    decode_core_h: float
    machinery_core_h: float
    gpu_h: Mapping[str, float]
    """By tower."""
