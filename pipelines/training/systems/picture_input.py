"""Pictures of one rank's splits: readers, cached rows, and a record of which pictures were used or unreadable."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial, reduce
from operator import or_
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.clip.loading import load_backbone
from ecor.config.model import Preprocess
from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from ecor.training.steps import Pictures
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import PictureReader, Split
from pipelines.training.sample_use import mark_samples
from pipelines.training.shard_files import fetch_shards
from pipelines.training.unreadable import MOST_NAMED, merge_reasons

Rows = tuple[Float[Tensor, "N W"], Bool[Tensor, " N"]]
"""A row per picture, and which pictures could be read."""


class PictureInput(ABC):
    """One rank's access to the pictures of both splits.

    A system defines which input is made from an image.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        vocabulary: Vocabulary,
        train: Split,
        validation: Split,
        rank: Rank,
        cache_dir: Path,
    ) -> None:
        """Open the backbone.

        Args:
            config: resolved settings.
            vocabulary: vocabulary of both splits.
            train: samples to learn from.
            validation: samples that decide which state is kept.
            rank: this worker; with several, their process group is open.
            cache_dir: folder of this node for remote shards and image features.

        Raises:
            ValueError: as `ecor.clip.loading.load_backbone`.
        """
        self.config, self.fit = config, config.own_fit
        self.vocabulary = vocabulary
        self.train, self.validation = train, validation
        self.rank = rank
        self.cache_dir = cache_dir
        self.backbone = load_backbone(config.backbone, device=rank.device)
        self._num_unreadable = 0
        self._unreadable: dict[str, str] = {}
        self._opened: list[PictureReader] = []
        self._uses = {each.folder: torch.zeros(len(each), dtype=torch.uint8) for each in (train, validation)}

    @abstractmethod
    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Pictures, Bool[Tensor, " b"]]]:
        """Yield the module's input for each batch of pictures; and which of the pictures could be read."""

    def _read(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Pictures, Bool[Tensor, " b"]]]:
        """Yield positions with their `_pictures`; unreadable ones are recorded."""
        for wanted, (pictures, readable) in zip(positions, self._pictures(split, positions), strict=True):
            for position in wanted[~readable.numpy()][: MOST_NAMED - len(self._unreadable)].tolist():
                self._unreadable.setdefault(split.source(position), "")
            mark_samples(self._uses[split.folder], wanted, readable=readable)
            yield wanted, pictures, readable

    def _validation_parts(self) -> list[Int[np.ndarray, " b"]]:
        """Positions of this rank's validation pictures, in batches."""
        mine = np.arange(self.rank.index, len(self.validation), self.rank.num_ranks)
        return [mine[i : i + self.config.batch_size] for i in range(0, len(mine), self.config.batch_size)]

    @property
    def preprocess(self) -> Preprocess:
        """The transform from pictures to pixels."""
        return self.backbone.preprocess

    @cached_property
    def _readers(self) -> dict[str, PictureReader]:
        """Readers of the pictures of both splits, by folder."""
        return {split.folder: self._reader(split) for split in (self.train, self.validation)}

    def _reader(self, split: Split) -> PictureReader:
        paths = fetch_shards(split, rank=self.rank, cache_dir=self.cache_dir)
        num_threads = max(1, int(self.config.cpus_per_worker))
        reader = PictureReader(split, paths=paths, preprocess=self.preprocess, num_threads=num_threads)
        self._opened.append(reader)
        return reader

    def _cache(self, cached: Callable[..., Rows]) -> dict[str, Rows]:
        """Rows of both splits by folder, made by a function of `pipelines.training.feature_cache`."""
        return {
            split.folder: cached(
                split,
                reader=partial(self._reader, split),
                batch_size=self.config.batch_size,
                rank=self.rank,
                folder=self.cache_dir / "features",
            )
            for split in (self.train, self.validation)
        }

    def _unreadable_reasons(self, *, before: Mapping[str, str]) -> dict[str, str]:
        """Collect the reasons of both splits from all ranks; every rank must call."""
        reasons = reduce(or_, (reader.reasons for reader in self._opened), self._unreadable)
        return merge_reasons(self.rank.all_gather(reasons), before=before)
