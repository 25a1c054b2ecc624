"""Write the list of images to review next: `ask.parquet` for tools, `ask.csv` for people."""

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.predictions.parts import iterate_parts
from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.storage import filesystem
from pipelines.config.learning import AskConfig
from pipelines.learning.strategies import rank_labels
from pipelines.review.judged_file import spreadsheet_text
from pipelines.runtime.console import say

ASK_NAMES = ("ask.parquet", "ask.csv")
_SHOWN = ("key", "source", "shard", "member_offset", "member_num_bytes", "category", "rationale", "confidence")


def write_review_list(labels: str, *, reviewed: pa.Table, config: AskConfig, folder: str) -> pa.Table:
    """Rank the labels that nobody has reviewed, and write the first ones, best first; older lists are replaced.

    Args:
        labels: folder of labels.
        reviewed: rows of `pipelines.learning.corrections.REVIEWED_SCHEMA`.
        config: strategy, number and seed.
        folder: that gets both files.

    Returns:
        The list.

    Raises:
        ValueError: as `rank_labels`.
    """
    positions, priorities = rank_labels(labels, reviewed=reviewed, config=config)
    table = _take_rows(labels, positions).append_column("priority", pa.array(priorities, pa.float64()))
    table = table.add_column(0, "rank", pa.array(np.arange(1, table.num_rows + 1)))
    with filesystem.write_atomically(folder, ASK_NAMES[0]) as path:
        pq.write_table(table, path, **PARQUET_OPTIONS)
    filesystem.write(filesystem.join(folder, ASK_NAMES[1]), _encode(table))
    say(
        f"ask: {table.num_rows} images to review next, by {config.strategy}: {filesystem.join(folder, ASK_NAMES[1])}",
        to_stdout=True,
    )
    return table


def _take_rows(labels: str, positions: np.ndarray) -> pa.Table:
    """Rows of the labels at these positions, in this order; one part in memory at a time."""
    order = np.argsort(positions)
    wanted, start, found = positions[order], 0, []
    for part in iterate_parts(labels, columns=list(_SHOWN)):
        first, last = np.searchsorted(wanted, [start, start + part.num_rows])
        found.append(part.take(pa.array(wanted[first:last] - start)))
        start += part.num_rows
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(found).combine_chunks().take(pa.array(back))


def _encode(table: pa.Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        row |= {name: f"{row[name]:.4f}" for name in ("confidence", "priority")}
        writer.writerow(["" if value is None else spreadsheet_text(str(value)) for value in row.values()])
    return text.getvalue().encode("utf-8-sig")
