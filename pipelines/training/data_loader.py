"""Load batches of labelled images from verified shards, in an order that seed and epoch decide.

The order is one permutation of all samples per (seed, epoch). Each step takes the next positions of it, and rank r of W
takes every W-th of these, from the r-th on. So a run can stop anywhere and resume with another number of ranks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from ecor.config.model import Preprocess
from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, read_shard_manifest
from ecor.data.shards import read_index
from ecor.data.tar_members import read_members
from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from pipelines.training.unreadable import MOST_NAMED


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleIndex:
    """Places of the samples of one split, by position; pictures are read only when they are needed."""

    folder: str
    manifest: ShardManifest
    indexes: tuple[pa.Table, ...]
    """Index of each shard."""
    shard_of: Int[np.ndarray, " N"]
    row_of: Int[np.ndarray, " N"]
    """Row in the shard's index."""

    def source(self, position: int) -> str:
        """Return the source of a sample, as it was recorded when it was sharded."""
        return str(self.indexes[self.shard_of[position]]["source"][int(self.row_of[position])].as_py())


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(SampleIndex):
    """The labelled samples of one split, by position."""

    categories: Int[Tensor, " N"]
    rationales: Int[Tensor, "N L"]
    """Ids of all labelled rationales; −1 where a sample has fewer than L."""
    first_turn: Int[Tensor, " N"]
    """A number per sample that decides which of its rationales is taken first."""
    left_out: Mapping[str, int]
    """Samples that are left out, because they have no category or no rationale: `no_category`, `no_rationale`."""

    @property
    def num_unlabelled(self) -> int:
        """Number of samples that are left out."""
        return sum(self.left_out.values())

    def __len__(self) -> int:
        return len(self.categories)

    def rationales_of_epoch(self, epoch: int) -> Int[Tensor, " N"]:
        """Return the rationale that each sample is trained with in this epoch; its labelled ones take turns."""
        turn = (self.first_turn + epoch) % (self.rationales >= 0).sum(dim=1)
        return self.rationales.gather(1, turn[:, None])[:, 0]


def read_split(folder: str, *, vocabulary: Vocabulary) -> Split:
    """List the samples of a split that have a category and a rationale.

    Args:
        folder: the split's folder, local or in a store.
        vocabulary: the vocabulary that gives the ids.

    Raises:
        ValueError: when the folder was sharded with another vocabulary, the manifest or an index was altered, or no
            sample has both labels.
    """
    manifest = read_shard_manifest(folder)
    if manifest.vocabulary_digest != vocabulary.digest:
        raise ValueError(
            f"vocabulary {vocabulary.digest} does not fit manifest {manifest.digest} of {folder}, which was made with "
            f"{manifest.vocabulary_digest}: reshard, or pass the vocabulary of that manifest"
        )
    indexes = tuple(read_index(folder, info) for info in manifest.shards)
    rows, left_out = [], Counter[str]()
    for shard, index in enumerate(indexes):
        columns = (index[name].to_pylist() for name in ("key", "category", "rationales"))
        for row, (key, category, labels) in enumerate(zip(*columns, strict=True)):
            if category is None or not labels:
                left_out["no_category" if category is None else "no_rationale"] += 1
            else:
                ids = vocabulary.category_id(category), list(map(vocabulary.rationale_id, labels))
                rows.append((shard, row, crc32(key.encode()), *ids))
    if not rows:
        raise ValueError(f"{folder} holds {manifest.num_samples} samples, none with a category and a rationale")
    shards, numbers, turns, categories, labelled = zip(*rows, strict=True)
    longest = max(map(len, labelled))
    return Split(
        folder=folder,
        manifest=manifest,
        indexes=indexes,
        shard_of=np.array(shards),
        row_of=np.array(numbers),
        categories=torch.tensor(categories),
        rationales=torch.tensor([ids + [-1] * (longest - len(ids)) for ids in labelled]),
        first_turn=torch.tensor(turns),
        left_out=left_out,
    )


def order_of_epoch(num_samples: int, *, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    """Shuffle the positions of all samples; seed and epoch alone decide the order.

    Args:
        num_samples: number of samples.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def num_batches(num_samples: int, *, batch_size: int) -> int:
    """Count the whole batches of an epoch, at least one.

    The samples that remain are dropped; each epoch drops others.

    Args:
        num_samples: number of samples.
        batch_size: samples per batch, over all ranks.
    """
    return max(1, num_samples // batch_size)


def batch_positions(order: Int[np.ndarray, " N"], *, batch: int, batch_size: int, rank: Rank) -> Int[np.ndarray, " b"]:
    """Return this rank's positions of one batch.

    With fewer samples than a batch holds, the order starts again within the batch.

    Args:
        order: result of `order_of_epoch`.
        batch: number of the batch, from 0.
        batch_size: samples per batch, over all ranks.
        rank: this worker.
    """
    taken = np.take(order, np.arange(batch * batch_size, (batch + 1) * batch_size), mode="wrap")
    return taken[rank.index :: rank.num_ranks]


class PictureReader:
    """Read the pictures at given positions from verified shards, and decode them on a few threads."""

    def __init__(self, split: SampleIndex, *, paths: Sequence[Path], preprocess: Preprocess, num_threads: int) -> None:
        self.reasons: dict[str, str] = {}
        """Reason why each of the first `MOST_NAMED` unreadable pictures could not be read, by source."""
        self._split = split
        self._paths = paths
        self._preprocess = preprocess
        self._pool = ThreadPoolExecutor(max_workers=num_threads)

    def pixels(self, positions: Int[np.ndarray, " B"]) -> tuple[Tensor, Tensor]:
        """Return pixels [B 3 H W] (8 bit), and which of the pictures could be read [B]; the others are black.

        Raises:
            ValueError: when a picture's bytes are not those that were sharded.
        """
        images = self._pool.map(self._one, self._samples(positions))
        pixels = np.zeros((len(positions), 3, *self._preprocess.image_size), np.uint8)
        readable = np.zeros(len(positions), bool)
        for slot, image in enumerate(images):
            if image is not None:
                pixels[slot], readable[slot] = image, True
        return torch.from_numpy(pixels), torch.from_numpy(readable)

    def _samples(self, positions: Int[np.ndarray, " B"]) -> list[Sample]:
        found: dict[int, Sample] = {}
        shards = self._split.shard_of[positions]
        for shard in np.unique(shards):
            slots = np.flatnonzero(shards == shard)
            rows = self._split.row_of[positions[slots]].tolist()
            samples = read_members(self._paths[shard], self._split.indexes[shard], rows=rows)
            found.update(zip(slots.tolist(), samples, strict=True))
        return [found[slot] for slot in range(len(positions))]

    def _one(self, sample: Sample) -> np.ndarray | None:
        try:
            return image_to_pixels(decode_image(sample.image), preprocess=self._preprocess)
        except ImageError as error:  # the caller counts it; sharding with `decode` finds it beforehand
            if len(self.reasons) < MOST_NAMED:
                self.reasons[sample.source] = str(error)
            return None


def ahead(positions: Iterator[Int[np.ndarray, " B"]], *, reader: PictureReader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pictures of each batch while the next batch is being read.

    Args:
        positions: positions of each batch.
        reader: its `pixels` reads a batch, in another thread.

    Raises:
        ValueError: as `PictureReader.pixels`.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = None
        for wanted in positions:
            following = pool.submit(reader.pixels, wanted)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
