"""Read all that labels say of one image (ranked names, maps of the evidence) from their Parquet part, when asked."""

import threading
from collections import OrderedDict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.heatmap_codec import EVIDENCE, Evidence
from ecor.storage import filesystem
from pipelines.review.label_index import LabelIndex

_RANKED = ("categories", "rationales")
MOST_GROUPS = 4
"""Row groups of Parquet (16,384 rows at most) that are kept in memory: neighbours are asked for next."""


class LabelDetails:
    """Reads single rows of the parts of one folder of labels; safe for several threads."""

    def __init__(self, folder: str, *, index: LabelIndex) -> None:
        self._folder = folder
        self._index = index
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._files: OrderedDict[int, pq.FileMetaData] = OrderedDict()

    def ranked(self, number: int) -> dict[str, list[dict[str, Any]]]:
        """The ranked categories and rationales of a label, as its row holds them."""
        return self._row(number, columns=_RANKED)

    def evidence(self, number: int) -> Evidence | None:
        """The maps of a label's evidence; None where it has none."""
        return Evidence.from_row(self._row(number, columns=(EVIDENCE,)))

    def _row(self, number: int, *, columns: tuple[str, ...]) -> dict[str, Any]:
        part, row = self._index.part_of(number)
        with self._lock:
            table, first = self._row_group(part, row, columns=columns)
        found: list[dict[str, Any]] = table.slice(row - first, 1).to_pylist()
        return found[0]

    def _row_group(self, part: int, row: int, *, columns: tuple[str, ...]) -> tuple[pa.Table, int]:
        """The row group of a row with some columns (of those that there are), and the group's first row."""
        address = filesystem.join(self._folder, self._index.parts[part].name)
        facts = self._files.get(part)
        if facts is None:
            with filesystem.open_file(address) as file:
                facts = self._files[part] = pq.ParquetFile(file).metadata
        group, first = 0, 0
        while first + facts.row_group(group).num_rows <= row:
            first += facts.row_group(group).num_rows
            group += 1
        kept = self._tables.get((part, group, columns))
        if kept is None:
            with filesystem.open_file(address) as file:
                parquet = pq.ParquetFile(file, metadata=facts)
                there = [name for name in columns if name in parquet.schema_arrow.names]
                kept = parquet.read_row_group(group, columns=there, use_threads=False)
            self._tables[(part, group, columns)] = kept
        self._tables.move_to_end((part, group, columns))
        while len(self._tables) > MOST_GROUPS:
            self._tables.popitem(last=False)
        return kept, first
