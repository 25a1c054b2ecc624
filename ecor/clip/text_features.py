"""Text features of a vocabulary: held in memory, read from a file, or encoded on first use.

A row is Prompt_{c|R} of one rationale with every category. All routes encode the same blocks of rows in the same calls
and keep them in the same type, so that they give the same numbers.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ecor.clip.encoding_blocks import LONG_S, encode_blocks
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.config.checks import require
from ecor.config.model import TextConfig
from ecor.storage.digests import bytes_sha256, json_digest
from ecor.storage.feature_file import FeatureFile, save_array_once

_FORMAT = 1  # raise it when the numbers in the files change their meaning
_log = logging.getLogger(__name__)


class TextFeatures:
    """Text features on one device, in fp32 (a `TextFeatureTable`); made by `build_text_features`.

    A missing row or column is encoded on first use and then kept; `prepare` encodes many ahead.
    """

    digest: str
    """sha256 of backbone, contexts, templates, vocabulary, precision and type: of all that changes the features."""

    def __init__(self, encoder: SentenceEncoder, *, config: TextConfig, device: torch.device) -> None:
        self._encoder, self._device = encoder, device
        self._dtype = np.dtype({"fp32": np.float32, "fp16": np.float16}[config.dtype])
        self.digest = features_digest(encoder, config=config)
        self._config = config
        table_bytes = self.num_rationales * self.num_categories * encoder.embed_dim * self._dtype.itemsize
        fits = table_bytes <= config.table_budget_bytes
        self._table: Tensor | None = None
        self._encoding_s = self._logged_s = 0.0
        if fits and config.fill != "on_demand":
            self._table = self._full_table(in_file=config.cache_dir is not None)
        elif config.fill == "ahead":
            self.prepare()

    @property
    def num_categories(self) -> int:
        return self._encoder.num_categories

    @property
    def num_rationales(self) -> int:
        return self._encoder.num_rationales

    @property
    def is_table(self) -> bool:
        """Whether all sentences are encoded and in memory."""
        return self._table is not None

    @property
    def table(self) -> Float[Tensor, "R C D"] | None:
        """Prompt_{c|R} of every pair, in the type that it is kept in; None where not all are in memory."""
        return self._table

    @property
    def num_truncated(self) -> int:
        """Sentences that did not fit the tower."""
        return self._encoder.num_truncated

    @cached_property
    def rationales(self) -> Float[Tensor, "R D"]:
        """Prompt_R of every rationale."""
        return self._load_or_encode("rationales", self._encoder.rationale_features)

    @cached_property
    def categories(self) -> Float[Tensor, "C D"]:
        """Every category alone, without a rationale."""
        return self._load_or_encode("categories", self._encoder.categories)

    def row(self, rationale: int) -> Float[Tensor, "C D"]:
        """Prompt_{c|R} of one rationale with every category."""
        if self._table is not None:
            return self._table[rationale].float()
        self.prepare([rationale])
        return self._on_device(self._rows.row(rationale))

    def rows(self, rationales: Sequence[int]) -> Float[Tensor, "N C D"]:
        """Several rows at once; they must fit in memory."""
        self.prepare(rationales)
        return torch.stack([self.row(rationale) for rationale in rationales])

    def column(self, category: int) -> Float[Tensor, "R D"]:
        """Prompt_{c|R} of one category with every rationale, kept in a file of columns until all rows are there."""
        if self._table is not None:
            return self._table[:, category].float()
        if not self._rows.missing():
            return self._on_device(self._rows.column(category))
        self._fill(self._columns, self._encode_columns, wanted=[category])
        return self._on_device(self._columns.row(category))

    def prepare(self, rationales: Sequence[int] | None = None) -> None:
        """Encode the missing rows among these, or among all; a time estimate is logged if it takes long."""
        if self._table is None:
            self._fill(self._rows, self._encode_rows, wanted=rationales)

    @cached_property
    def _temporary(self) -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="ecor-text-")  # removed together with this object

    @property
    def _folder(self) -> Path:
        return Path(self._config.cache_dir or self._temporary.name) / self.digest[:32]

    @cached_property
    def _rows(self) -> FeatureFile:
        shape = (self.num_rationales, self.num_categories, self._encoder.embed_dim)
        return FeatureFile(self._folder / "rows.npy", shape=shape, dtype=self._dtype)

    @cached_property
    def _columns(self) -> FeatureFile:
        shape = (self.num_categories, self.num_rationales, self._encoder.embed_dim)
        return FeatureFile(self._folder / "columns.npy", shape=shape, dtype=self._dtype)

    def _encode_rows(self, rationales: range) -> Tensor:
        return self._encoder.category_features(torch.arange(rationales.start, rationales.stop))

    def _encode_columns(self, categories: range) -> Tensor:
        every = torch.arange(self.num_rationales)
        return self._encoder.category_features(every, torch.arange(categories.start, categories.stop)).transpose(0, 1)

    def _full_table(self, *, in_file: bool) -> Tensor:
        if in_file:
            self.prepare()
            return torch.from_numpy(np.load(self._rows.path)).to(self._device)
        table = np.empty((self.num_rationales, self.num_categories, self._encoder.embed_dim), dtype=self._dtype)

        def keep(first: int, features: NDArray[np.floating]) -> None:
            table[first : first + len(features)] = features

        blocks = self._blocks(range(self.num_rationales), num_rows=len(table), width=self.num_categories)
        encode_blocks(blocks, encode=self._encode_rows, keep=keep, width=self.num_categories)
        return torch.from_numpy(table).to(self._device)

    def _fill(self, file: FeatureFile, encode: Callable[[range], Tensor], *, wanted: Sequence[int] | None) -> None:
        missing = file.missing(wanted)
        if not missing:
            return
        num_rows, width, _ = file.shape
        blocks = self._blocks(missing, num_rows=num_rows, width=width)
        _check_disk_space(file, num_rows=sum(map(len, blocks)))
        started = time.monotonic()
        # Processes that fill the same file start at different blocks, and skip blocks that another has written.
        first = os.getpid() % len(blocks)
        encode_blocks(
            [*blocks[first:], *blocks[:first]],
            encode=encode,
            keep=file.write,
            width=width,
            is_there=lambda block: not file.missing(block),
        )
        self._log_progress(file, seconds=time.monotonic() - started)

    def _log_progress(self, file: FeatureFile, *, seconds: float) -> None:
        """Log now and then when many short encodings take long together."""
        self._encoding_s += seconds
        if self._encoding_s - self._logged_s > LONG_S:
            self._logged_s = self._encoding_s
            kind, left = file.path.stem, len(file.missing())
            _log.warning(
                "text features: %d of %d %s are there, %.0f s spent on them; each is encoded when first asked for",
                file.shape[0] - left, file.shape[0], kind, self._encoding_s,
            )  # fmt: skip

    def _blocks(self, rows: Sequence[int], *, num_rows: int, width: int) -> list[range]:
        """The fixed blocks that hold the rows: the unit of encoding, the same on every route."""
        size = max(1, self._encoder.sentences_per_pass // max(1, width))
        return [range(i * size, min((i + 1) * size, num_rows)) for i in sorted({row // size for row in rows})]

    def _load_or_encode(self, name: str, encode: Callable[[], Tensor]) -> Tensor:
        """Features of sentences with one name, always in memory; also in a file if there is a cache folder."""
        path = Path(self._config.cache_dir) / self.digest[:32] / f"{name}.npy" if self._config.cache_dir else None
        if path is not None and path.exists():
            return self._on_device(np.load(path))
        with torch.inference_mode():
            features = encode().float().cpu().numpy()
        if path is not None:
            save_array_once(path, features)
        return self._on_device(features)

    def _on_device(self, features: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(features).to(self._device).float()


def build_text_features(
    encoder: SentenceEncoder, *, config: TextConfig, device: torch.device | str | None = None
) -> TextFeatures:
    """Build text features of a vocabulary with the current contexts, stored as its size and `config` require.

    Up to `config.table_budget_bytes`: a table in memory, encoded at once (by way of the file if there is `cache_dir`).
    Above: a sparse file, memory-mapped, filled ahead or row by row as rows are asked for; rows are never dropped, and
    all processes of a node that have the same digest and `cache_dir` share them.

    Args:
        encoder: of the sentences; its contexts are copied.
        config: budget, folder, type, and when to fill.
        device: of the returned features; None: the backbone's.

    Raises:
        ValueError: when the disk has too little space for the rows, or a file of another shape exists.
    """
    place = torch.device(device or encoder.backbone.device)
    return TextFeatures(encoder.with_frozen_contexts(), config=config, device=place)


def features_digest(encoder: SentenceEncoder, *, config: TextConfig) -> str:
    """sha256 of all that changes the features; each digest has its own cache folder."""
    contexts = (encoder.rationale_context, encoder.category_context)
    facts = {
        "format": _FORMAT,
        "backbone": encoder.backbone.digest,
        "precision": encoder.backbone.text_precision,
        "contexts": [None if each is None else _tensor_digest(each) for each in contexts],
        "templates": asdict(encoder.templates),
        "vocabulary": encoder.vocabulary.digest,
        "dtype": config.dtype,
    }
    return json_digest(facts)


def _tensor_digest(tensor: Tensor) -> str:
    return bytes_sha256(repr(tuple(tensor.shape)).encode() + tensor.detach().float().cpu().numpy().tobytes())


def _check_disk_space(file: FeatureFile, *, num_rows: int) -> None:
    needed, free = num_rows * file.row_bytes, shutil.disk_usage(file.path.parent).free
    require(
        needed <= free,
        f"{file.path.parent} has {free / 1e9:.1f} GB left and {needed / 1e9:.1f} GB of text features to take: name a "
        f"cache_dir with more room, or take fp16",
    )
