"""Pictures in the order in which they were given, and how messages name them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from ecor.data.images.decoding import Picture


def as_picture_list(images: Any) -> Sequence[Picture]:
    """Pictures by position; ValueError for one alone, and for what has no order or cannot be counted."""
    if isinstance(images, str | Path | bytes | Image.Image):
        raise ValueError(f"predict takes a list of pictures, got one {type(images).__name__}: write [picture]")
    if isinstance(images, pd.Series | pd.Index | np.ndarray | Tensor):
        return list(images)  # of a Series, images[0] would be the one whose label is 0
    if isinstance(images, pd.DataFrame):
        raise ValueError(f"predict takes a list of pictures, got a DataFrame: pass one column, of {list(images)}")
    if not isinstance(images, Sequence):
        remedy = "list(its .values())" if isinstance(images, Mapping) else "list(…)"
        raise ValueError(f"predict takes a list of pictures, got a {type(images).__name__}: pass {remedy}")
    return images


def name_picture(picture: Picture, *, index: int) -> str:
    """The path of a picture, or its number where it has none."""
    return str(picture) if isinstance(picture, str | Path) else f"picture {index}"
