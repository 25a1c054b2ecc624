"""An index of labels in bounded memory: numbers in arrays, texts in a temporary file that is mapped into memory.

Per label, memory holds about 40 bytes; texts (key, source, place in a shard) cost disk, and memory only while they are
used. The temporary file has no name any more once it is mapped: no end of the process leaves it behind.
"""

import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionPart, PredictionSet
from ecor.data.predictions.parts import read_part
from pipelines.storage.image_source import PLACE_COLUMNS, ImagePlace

_NEEDED = (*PLACE_COLUMNS, "category", "rationale", "confidence")
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.string()),
        ("member_offset", pa.int64()),
        ("member_num_bytes", pa.int64()),
        ("search", pa.string()),
    ]
)
_ROWS_AT_ONCE = 8192
"""Rows that are searched at once: their texts fit a processor's cache."""
_COMPARED_AT_ONCE = 2
"""Bytes of a word that are compared everywhere; the others only where these fit."""
_MOST_COUNTED = 1000
"""Texts by which rare bytes are known."""


def fold(text: str) -> str:
    """The form in which texts are searched, as on the page of `ecor report`."""
    return unicodedata.normalize("NFKC", text).lower().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIndex:
    """The labels of one folder; a label's number is its place in the order of the manifest's parts."""

    categories: tuple[str, ...]
    """Names in the labels, by id."""
    rationales: tuple[str, ...]
    category_ids: Int[np.ndarray, " N"]
    rationale_ids: Int[np.ndarray, " N"]
    confidences: Float[np.ndarray, " N"]
    """Probability of category and rationale together."""
    parts: tuple[PredictionPart, ...]
    starts: Int[np.ndarray, " P+1"]
    """First number of each part, and the number of labels."""
    key_hashes: Int[np.ndarray, " N"]
    """Sorted."""
    key_order: Int[np.ndarray, " N"]
    """Numbers of the labels, in the order of `key_hashes`."""
    batches: tuple[pa.RecordBatch, ...]
    """Texts of each part, mapped from a file."""

    def __len__(self) -> int:
        return len(self.confidences)

    def part_of(self, number: int) -> tuple[int, int]:
        """The part of a label, and its row there."""
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        return part, number - int(self.starts[part])

    def place(self, number: int) -> ImagePlace:
        """Key of a label, and where its picture lies."""
        part, row = self.part_of(number)
        return ImagePlace(**{name: self.batches[part].column(name)[row].as_py() for name in PLACE_COLUMNS})

    def keys(self, numbers: Sequence[int] | Int[np.ndarray, " n"]) -> list[str]:
        """Keys of some labels."""
        found = []
        for number in map(int, numbers):
            part, row = self.part_of(number)
            found.append(self.batches[part].column("key")[row].as_py())
        return found

    def category(self, number: int) -> str:
        return self.categories[self.category_ids[number]]

    def rationale(self, number: int) -> str:
        return self.rationales[self.rationale_ids[number]]

    def find(self, keys: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Numbers of labels by key; -1 for a key that no label has."""
        hashes = _hash_keys(keys)
        places = np.searchsorted(self.key_hashes, hashes)
        numbers = np.full(len(keys), -1, dtype=np.int64)
        for index, (key, place) in enumerate(zip(keys, places.tolist(), strict=True)):
            while place < len(self) and self.key_hashes[place] == hashes[index]:
                number = int(self.key_order[place])
                if self.keys([number]) == [key]:
                    numbers[index] = number
                    break
                place += 1
        return numbers

    def texts_with(self, word: str) -> Bool[np.ndarray, " N"]:
        """Which labels have a word (folded, not empty, without spaces) in their key or source."""
        found = np.zeros(len(self), dtype=bool)
        data, order = word.encode(), None
        for batch, start in zip(self.batches, self.starts.tolist(), strict=False):
            for first in range(0, batch.num_rows, _ROWS_AT_ONCE):
                texts = batch.column("search").slice(first, _ROWS_AT_ONCE)
                order = order or _rare_first(data, texts=texts)
                found[start + first : start + first + len(texts)] = _rows_with(texts, data, order=order)
        return found


def _rows_with(texts: pa.StringArray, word: bytes, *, order: Sequence[int]) -> Bool[np.ndarray, " n"]:
    """Search the texts' bytes as a whole: each text ends with a line break, so no place reaches into the next text.

    Args:
        texts: at least one.
        word: not empty.
        order: places in the word, in the order in which they are compared.
    """
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    hits = np.zeros(len(data), dtype=bool)
    among = hits[: max(0, len(data) - len(word) + 1)]
    among[:] = True
    for place in order[:_COMPARED_AT_ONCE]:
        among &= data[place : place + len(among)] == word[place]
    found = np.zeros(len(texts), dtype=bool)
    if len(word) <= _COMPARED_AT_ONCE:  # short words are found nearly everywhere
        found[:] = np.logical_or.reduceat(hits, offsets[:-1] - offsets[0])
        return found
    begins = np.flatnonzero(among)
    for place in order[_COMPARED_AT_ONCE:]:
        begins = begins[data[begins + place] == word[place]]
    found[np.searchsorted(offsets - offsets[0], begins, side="right") - 1] = True
    return found


def _rare_first(word: bytes, *, texts: pa.StringArray) -> list[int]:
    """Places in a word, those first whose byte is rare in some texts."""
    text = "".join(texts.slice(0, _MOST_COUNTED).to_pylist()).encode()
    found = np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=256)
    return sorted(range(len(word)), key=lambda place: found[word[place]])


def build_label_index(
    folder: str, predictions: PredictionSet, *, advance: Callable[[int], None] = lambda num: None
) -> LabelIndex:
    """Read all labels once, part by part.

    Args:
        folder: of the labels.
        predictions: their manifest.
        advance: is told how many labels were read, after each part.

    Raises:
        ValueError: for a missing or altered part, and for two labels with the same key.
    """
    categories, rationales = dict[str, int](), dict[str, int]()
    num_labels = predictions.num_rows
    category_ids, rationale_ids = (np.zeros(num_labels, dtype=np.int32) for _ in range(2))
    confidences, hashes = np.zeros(num_labels, dtype=np.float32), np.zeros(num_labels, dtype=np.uint64)
    starts = np.cumsum([0, *(part.num_rows for part in predictions.parts)])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "labels.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            for part, start in zip(predictions.parts, starts.tolist(), strict=False):
                table = read_part(folder, part, columns=_NEEDED)
                rows = slice(start, start + table.num_rows)
                category_ids[rows] = _ids(table["category"], names=categories)
                rationale_ids[rows] = _ids(table["rationale"], names=rationales)
                confidences[rows] = table["confidence"].to_numpy()
                batch = _texts(table)
                hashes[rows] = _hash_keys(batch.column("key").to_pylist())
                writer.write_batch(batch)
                advance(table.num_rows)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = tuple(reader.get_batch(number) for number in range(reader.num_record_batches))
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    index = LabelIndex(
        categories=tuple(categories),
        rationales=tuple(rationales),
        category_ids=category_ids,
        rationale_ids=rationale_ids,
        confidences=confidences,
        parts=predictions.parts,
        starts=starts,
        key_hashes=hashes[order],
        key_order=order,
        batches=batches,
    )
    _check_keys(index, folder=folder)
    require(bool(np.isfinite(confidences).all()), f"{folder} has a label whose confidence is no number: score again")
    return index


def _check_keys(index: LabelIndex, *, folder: str) -> None:
    same = np.flatnonzero(index.key_hashes[1:] == index.key_hashes[:-1])
    for place in same.tolist():
        first, second = index.keys(index.key_order[[place, place + 1]])
        require(first != second, f"{folder} has two labels with the key {first}: score again")


def _texts(table: pa.Table) -> pa.RecordBatch:
    keys, sources = (table[name].to_pylist() for name in ("key", "source"))
    search = [f"{_one_line(key)} {_one_line(source)}\n" for key, source in zip(keys, sources, strict=True)]
    columns = [*(table[name].combine_chunks() for name in PLACE_COLUMNS), pa.array(search, pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _one_line(text: str) -> str:
    return " ".join(fold(text).split())


def _ids(column: pa.ChunkedArray, *, names: dict[str, int]) -> Int[np.ndarray, " n"]:
    """The id of each name; `names` grows by those that are new."""
    encoded = column.combine_chunks().dictionary_encode()
    ids = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.array(ids, dtype=np.int32)[encoded.indices.to_numpy()] if ids else np.zeros(0, dtype=np.int32)


def _hash_keys(keys: Sequence[str]) -> Int[np.ndarray, " n"]:
    """64 bits per key, by Python's own hash: of this process only."""
    return np.fromiter(map(hash, keys), dtype=np.int64, count=len(keys)).view(np.uint64)
