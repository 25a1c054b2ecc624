"""Encode sentences block by block, and log a time estimate when it takes long."""

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONG_S = 30.0
"""Work that takes longer is logged, at intervals of this length."""
_log = logging.getLogger(__name__)


def encode_blocks(
    blocks: list[range],
    *,
    encode: Callable[[range], Tensor],
    keep: Callable[[int, NDArray[np.floating]], None],
    width: int,
    is_there: Callable[[range], bool] = lambda block: False,
) -> None:
    """Encode and store block by block; log the remaining time if it is long.

    Args:
        blocks: ranges of rows.
        encode: gives the features of a block's rows.
        keep: stores features from a row on.
        width: sentences per row, for the log.
        is_there: whether a block is stored already; then it is skipped.
    """
    started = logged = time.monotonic()
    for done, block in enumerate(blocks):
        now = time.monotonic()
        left_s = (now - started) / max(1, done) * (len(blocks) - done)
        if (done == 1 and left_s > LONG_S) or now - logged > LONG_S:
            logged = now
            num_left = width * sum(map(len, blocks[done:]))
            _log.warning("encoding %s sentences: about %s left", f"{num_left:,}", _format_duration(left_s))
        if is_there(block):
            continue
        with torch.inference_mode():
            keep(block.start, encode(block).float().cpu().numpy())


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
