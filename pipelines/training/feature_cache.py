"""Compute the image features of a split once, by all ranks together, into one file per node.

If only text tokens or a projection are learned, an epoch then needs no image tower.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.storage.atomic_write import replace_file
from ecor.storage.digests import json_digest
from ecor.training.distributed import Rank
from pipelines.training.data_loader import PictureReader, Split, ahead


def cached_features(
    split: Split,
    *,
    backbone: Backbone,
    reader: Callable[[], PictureReader],
    batch_size: int,
    rank: Rank,
    folder: Path,
) -> tuple[Float[Tensor, "N D"], Bool[Tensor, " N"]]:
    """Return normalised fp32 features of all samples (memory-mapped), and which pictures could be read.

    The file is named by a digest of split, backbone, precision and device. So all runs on the same data share it. It
    may be deleted between runs.

    Args:
        split: the samples.
        backbone: frozen tower; no visual tokens.
        reader: opens the pictures of the split; called only if the file is missing on some node.
        batch_size: pictures per forward pass.
        rank: this worker; all ranks must call.
        folder: folder of this node for such files.

    Raises:
        ValueError: as `PictureReader.pixels`.
    """
    return cached_rows(
        split,
        encode=backbone.encode_image,
        width=backbone.embed_dim,
        content=[backbone.digest, backbone.config.precision],
        reader=reader,
        batch_size=batch_size,
        rank=rank,
        folder=folder,
    )


def cached_rows(
    split: Split,
    *,
    encode: Callable[[Tensor], Tensor],
    width: int,
    content: list[str],
    reader: Callable[[], PictureReader],
    batch_size: int,
    rank: Rank,
    folder: Path,
) -> tuple[Float[Tensor, "N W"], Bool[Tensor, " N"]]:
    """Return a row of fp32 numbers per sample (memory-mapped), and which pictures could be read.

    The file is shared as in `cached_features`.

    Args:
        split: the samples.
        encode: makes the rows of a batch of pixels.
        width: numbers per row.
        content: everything that decides the rows, besides the split and the kind of device; it names the file.
        reader: opens the pictures of the split; called only if the file is missing on some node.
        batch_size: pictures per call of `encode`.
        rank: this worker; all ranks must call.
        folder: folder of this node for such files.

    Raises:
        ValueError: as `PictureReader.pixels`.
    """
    content = [split.manifest.digest, *content, torch.device(rank.device).type]
    path = folder / f"{json_digest(content)}.npy"
    if not all(rank.all_gather(path.is_file())):
        blocks = _blocks(split, encode=encode, width=width, reader=reader(), batch_size=batch_size, rank=rank)
        _write(path, blocks=blocks, shape=(len(split), width), is_writer=rank.local_index == 0)
        rank.all_gather(None)  # no rank opens the file before its writer is done
    rows_NW = torch.from_numpy(np.load(path, mmap_mode="c"))
    return rows_NW, ~rows_NW[:, 0].isnan()


def _blocks(
    split: Split, *, encode: Callable[[Tensor], Tensor], width: int, reader: PictureReader, batch_size: int, rank: Rank
) -> Iterator[Float[Tensor, "B W"]]:
    """Yield the split's rows in order, each block from all ranks; an unreadable picture is a row of NaN."""
    starts = range(0, len(split), batch_size * rank.num_ranks)
    firsts = [start + rank.index * batch_size for start in starts]
    parts = [np.arange(first, max(first, min(first + batch_size, len(split)))) for first in firsts]
    for pixels, readable in ahead(iter(parts), reader=reader):
        with torch.no_grad():
            rows_BW = encode(pixels).cpu() if len(pixels) else torch.empty(0, width)
        yield torch.cat(rank.all_gather(rows_BW.masked_fill(~readable[:, None], torch.nan)))


def _write(path: Path, *, blocks: Iterator[Tensor], shape: tuple[int, int], is_writer: bool) -> None:
    with replace_file(path) if is_writer else nullcontext() as unfinished:
        target = None
        if unfinished is not None:
            target = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)
        row = 0
        for block in blocks:
            if target is not None:
                target[row : row + len(block)] = block.numpy()
            row += len(block)
        assert row == shape[0], f"{row} features of {shape[0]} pictures"
        if target is not None:
            target.flush()
