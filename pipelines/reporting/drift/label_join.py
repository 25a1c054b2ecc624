"""Join two sets of labels by image key with bounded memory: through files on disk, divided by a hash of the key.

Both sets are read once, a part at a time. A division of about `ROWS_PER_DIVISION` labels of each set is then joined in
memory. The order of the result depends on the keys alone.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import OOD_COLUMN

ROWS_PER_DIVISION = 100_000
LABEL_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("source", pa.string()),
        pa.field("category", pa.string()),
        pa.field("rationale", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field(OOD_COLUMN.name, pa.float32()),
    ]
)
"""What is compared of a label; the OOD score is null where labels have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFolder:
    """A set of labels and its address."""

    address: str
    predictions: PredictionSet


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedDivision:
    """Labels of some keys, each table sorted by key and with `LABEL_SCHEMA`."""

    common_before: pa.Table
    common_after: pa.Table
    """Labels of the same images as `common_before`, in the same order."""
    only_before: pa.Table
    only_after: pa.Table


def join_labels(
    before: LabelFolder, after: LabelFolder, *, scratch: Path, advance: Callable[[int], None]
) -> Iterator[JoinedDivision]:
    """Yield the labels of both sets, matched by key, a division at a time.

    Args:
        before: the first set.
        after: the second set.
        scratch: an empty local folder, for about the size of the compared columns.
        advance: called with the number of labels of each part that was read.

    Raises:
        ValueError: when a part is missing or altered, a key occurs twice in a set, or a confidence is no number.
    """
    largest = max(before.predictions.num_rows, after.predictions.num_rows)
    num_divisions = max(1, -(-largest // ROWS_PER_DIVISION))
    for name, labels in (("before", before), ("after", after)):
        _divide(labels, folder=scratch / name, num_divisions=num_divisions, advance=advance)
    for number in range(num_divisions):
        yield _join(
            *(
                _read_division(scratch / name / f"{number}.arrow", labels=labels)
                for name, labels in (("before", before), ("after", after))
            )
        )


def _divide(labels: LabelFolder, *, folder: Path, num_divisions: int, advance: Callable[[int], None]) -> None:
    """Write the compared columns of all labels into a file per division."""
    folder.mkdir()
    with ExitStack() as opened:
        files = [
            opened.enter_context(pa.ipc.new_file(str(folder / f"{number}.arrow"), LABEL_SCHEMA))
            for number in range(num_divisions)
        ]
        for part in labels.predictions.parts:
            table = _compared_columns(read_part(labels.address, part), address=labels.address)
            division = _divisions(table["key"], num_divisions=num_divisions)
            for number in np.unique(division).tolist():
                files[number].write_table(table.filter(pa.array(division == number)))
            advance(table.num_rows)


def _compared_columns(table: pa.Table, *, address: str) -> pa.Table:
    if OOD_COLUMN.name not in table.column_names:
        table = table.append_column(OOD_COLUMN.name, pa.nulls(table.num_rows, pa.float32()))
    for name in ("confidence", OOD_COLUMN.name):
        is_number = pc.all(pc.is_finite(table[name].drop_null())).as_py()
        require(is_number is not False, f"a label in {address} has a {name} that is no number: score again")
    return table.select(LABEL_SCHEMA.names).cast(LABEL_SCHEMA)


def _divisions(keys: pa.ChunkedArray, *, num_divisions: int) -> np.ndarray:
    """The division of each key: the same on every machine, unlike Python's own hash."""
    if num_divisions == 1:
        return np.zeros(len(keys), dtype=np.int64)
    return np.fromiter((zlib.crc32(key.encode()) for key in keys.to_pylist()), np.int64, len(keys)) % num_divisions


def _read_division(path: Path, *, labels: LabelFolder) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
    table = table.sort_by("key")
    keys = table["key"].combine_chunks()
    if len(keys) > 1:
        same = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))
        repeated = keys.slice(1).filter(same)
        require(
            len(repeated) == 0,
            f"{labels.address} has the key {repeated[0] if len(repeated) else ''} twice: score again",
        )
    path.unlink()
    return table


def _join(before: pa.Table, after: pa.Table) -> JoinedDivision:
    in_after = pc.is_in(before["key"], value_set=after["key"].combine_chunks())
    in_before = pc.is_in(after["key"], value_set=before["key"].combine_chunks())
    return JoinedDivision(
        common_before=before.filter(in_after),
        common_after=after.filter(in_before),
        only_before=before.filter(pc.invert(in_after)),
        only_after=after.filter(pc.invert(in_before)),
    )
