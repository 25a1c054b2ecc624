"""Load captioned images from shards, for contrastive pretraining."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from ecor.clip.backbone import Backbone
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.training.caption_batches import BatchPart, CaptionedImages, Clip, match_captions
from ecor.training.distributed import Rank
from pipelines.training.data_loader import (
    PictureReader,
    SampleIndex,
    Split,
    batch_positions,
    num_batches,
    order_of_epoch,
)
from pipelines.training.sample_use import Uses, mark_samples
from pipelines.training.shard_files import fetch_shards

_CAPTION = ".txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned(SampleIndex):
    """The samples of one split that have a caption, by position."""

    captions: tuple[str, ...]
    num_without: int
    """Samples that are left out, because they have no caption."""
    paths: tuple[Path, ...]
    """Paths of the shards on this machine."""

    def __len__(self) -> int:
        return len(self.captions)


def read_captioned(folder: str, *, rank: Rank, cache_dir: Path) -> Captioned:
    """Read the captions of a split from verified shards; samples without a caption are left out.

    Every rank must call; each reads a part of the captions.

    Args:
        folder: the split's folder, local or in a store.
        rank: this worker.
        cache_dir: folder of this node for remote shards.

    Raises:
        ValueError: when a shard is missing or altered, or no sample has a caption (`.txt` in the tar).
    """
    manifest = read_shard_manifest(folder)
    indexes = tuple(read_index(folder, info) for info in manifest.shards)
    none = np.zeros(0, dtype=np.int64)
    places = SampleIndex(folder=folder, manifest=manifest, indexes=indexes, shard_of=none, row_of=none)
    paths = fetch_shards(places, rank=rank, cache_dir=cache_dir)
    found = _read_captions(paths, rank=rank)
    rows = [
        (shard, row, found[shard][key])
        for shard, index in enumerate(indexes)
        for row, key in enumerate(index["key"].to_pylist())
        if found[shard].get(key)
    ]
    num_rows = sum(index.num_rows for index in indexes)
    if not rows:
        raise ValueError(f"{folder} holds {manifest.num_samples} samples, none with a caption: label them, and reshard")
    shards, numbers, captions = zip(*rows, strict=True)
    return Captioned(
        folder=folder,
        manifest=manifest,
        indexes=indexes,
        shard_of=np.array(shards),
        row_of=np.array(numbers),
        captions=captions,
        num_without=num_rows - len(rows),
        paths=tuple(paths),
    )


def captions_of(split: Split, *, rank: Rank, cache_dir: Path) -> tuple[str, ...]:
    """Read the caption of each labelled sample of a split, by position; empty where it has none.

    Every rank must call; each reads a part of the captions.

    Args:
        split: the labelled samples.
        rank: this worker.
        cache_dir: folder of this node for remote shards.

    Raises:
        ValueError: when a shard is missing or altered.
    """
    found = _read_captions(fetch_shards(split, rank=rank, cache_dir=cache_dir), rank=rank)
    keys = [index["key"].to_pylist() for index in split.indexes]
    places = zip(split.shard_of.tolist(), split.row_of.tolist(), strict=True)
    return tuple(found[shard].get(keys[shard][row], "") for shard, row in places)


def _read_captions(paths: Sequence[Path], *, rank: Rank) -> dict[int, dict[str, str]]:
    """Captions by key, of every shard; each rank reads a part of them."""
    mine = {number: _captions(path) for number, path in enumerate(paths) if number % rank.num_ranks == rank.index}
    return {number: captions for part in rank.all_gather(mine) for number, captions in part.items()}


def _captions(path: Path) -> dict[str, str]:
    """Read the captions of one tar, by key."""
    captions = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.endswith(_CAPTION):
                file = tar.extractfile(member)
                assert file is not None, f"{member.name} is not a plain file"
                captions[member.name.removesuffix(_CAPTION)] = file.read().decode().strip()
    return captions


class CaptionedShards:
    """Batches of captioned pictures in the loader's order; the model's own transform makes the pixels.

    Equal captions are not negatives of each other; all others are, because nothing else is known of a caption.
    """

    num_attributes = 0

    def __init__(self, split: Captioned, *, backbone: Backbone, seed: int, batch_size: int, num_threads: int) -> None:
        self._split, self._backbone = split, backbone
        self._seed, self._batch_size = seed, batch_size
        self._reader = PictureReader(split, paths=split.paths, preprocess=backbone.preprocess, num_threads=num_threads)
        self._order = lru_cache(maxsize=2)(self._order_of_epoch)
        self._uses = torch.zeros(len(split), dtype=torch.uint8)

    @property
    def split(self) -> Captioned:
        return self._split

    def texts(self) -> tuple[str, ...]:
        return self._split.captions

    def unreadable(self) -> dict[str, str]:
        return dict(self._reader.reasons)  # a copy: it grows while the next batch is read

    def batch(self, step: int, *, part: BatchPart) -> CaptionedImages:
        epoch, place = divmod(step, num_batches(len(self._split), batch_size=self._batch_size))
        positions = batch_positions(self._order(epoch), batch=place, batch_size=self._batch_size, rank=Rank())
        captions, own = match_captions([self._split.captions[position] for position in positions])
        mine = positions[part.of(len(positions))]
        pixels, readable = self._reader.pixels(mine)
        mark_samples(self._uses, mine, readable=readable)
        return CaptionedImages(
            images=self._backbone.normalise(pixels),
            readable=readable,
            captions=tuple(captions),
            own=own,
            true=own,
            attributes=torch.zeros((len(positions), 0), dtype=torch.bool),
        )

    def uses(self) -> Uses:
        return self._uses

    def evaluate(self, clip: Clip) -> dict[str, float]:
        return {}

    def _order_of_epoch(self, epoch: int) -> Int[np.ndarray, " N"]:
        return order_of_epoch(len(self._split), seed=self._seed, epoch=epoch)
