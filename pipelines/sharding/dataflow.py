"""What happens to the rows of all images, on a cluster or in this process: inspection, quarantine, copies."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.storage import filesystem as store
from pipelines.runtime.console import say
from pipelines.runtime.prometheus import IMAGES_QUARANTINED, IMAGES_SEEN, count
from pipelines.sharding.flows.flow import Flow, Rows
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shards_folder import QUARANTINE, WORK
from pipelines.storage.work_ledger import WorkLedger

_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "stage", "reason", "detail")])
DUPLICATES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", "split", "sha256", "duplicate_of", "category", "stays_as")]
)
DUPLICATES = "duplicates.parquet"
_INSPECTED = "inspected"


def inspect_all(job: ShardJob, *, listing: Rows, flow: Flow, ledger: WorkLedger) -> Rows:
    """Read and validate every image; returns a row of INSPECTED_SCHEMA for each.

    The rows are kept on disk until the stage is done, so that none is lost. If another job on this output inspects the
    images, the call waits for its rows.

    Args:
        job: settings and vocabulary.
        listing: rows of LISTING_SCHEMA.
        flow: where the images are inspected.
        ledger: units of this output.

    Raises:
        OSError: when a disk or a store fails.
    """
    found = ledger.record(_INSPECTED)
    if found is not None and not store.exists(found["folder"]):
        ledger.discard(_INSPECTED, found)
        found = None
    while found is None:
        attempt = ledger.claim(_INSPECTED)
        if attempt is None:
            ledger.wait([_INSPECTED], tell=say)
            found = ledger.record(_INSPECTED)
            continue
        folder = f"{job.output}/{WORK}/{attempt.name}"
        listing.write_inspected(folder, job=job)
        found = ledger.commit(attempt, {"folder": folder})
    return flow.read_inspected(found["folder"])


def write_quarantine(job: ShardJob, *, found: Rows, ledger: WorkLedger) -> Counter[tuple[str, ...]]:
    """Write the quarantine table, and count the rejected images by split and reason.

    Args:
        job: settings and output folder.
        found: rows of `inspect_all`.
        ledger: units of this output. If too many images are rejected and nothing else is done, the next run inspects
            the images again.

    Raises:
        ValueError: when more than `max_rejected` of the images are rejected.
        OSError: when a disk or a store fails.
    """
    rejected = found.map_tables(_rejected_rows)
    rejected.write_table(schema=_QUARANTINE_SCHEMA, folder=job.output, name=QUARANTINE)
    counts = count_rows(rejected, columns=("split", "reason"))
    num_images, num_rejected = found.count(), sum(counts.values())
    count(IMAGES_SEEN, num_images, stage="shard")
    for (_, reason), number in counts.items():
        count(IMAGES_QUARANTINED, number, stage="shard", reason=reason)
    if num_rejected > job.config.max_rejected * num_images:
        done = ledger.read_commits()
        if done.keys() == {_INSPECTED}:
            ledger.discard(_INSPECTED, done[_INSPECTED])  # the user may mend the images: look at them again
        again = "run the same command again" if done.keys() <= {_INSPECTED} else "start over with --fresh"
        reasons: Counter[str] = Counter()
        for (_, reason), number in counts.items():
            reasons[reason] += number
        counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        raise ValueError(
            f"{num_rejected} of {num_images} images are rejected ({counted}), more than max_rejected = "
            f"{job.config.max_rejected:g} allows: see {job.output}/quarantine.parquet, mend the images and {again}, or "
            f"allow more with --max-rejected"
        )
    return counts


def _rejected_rows(table: pa.Table) -> pa.Table:
    table = table.filter(pc.is_valid(table["reason"]))
    stage = pa.array(["shard"] * table.num_rows, pa.string())
    return table.append_column("stage", stage).select(_QUARANTINE_SCHEMA.names)


def count_rows(rows: Rows, *, columns: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the rows of each combination of values.

    Args:
        rows: the rows.
        columns: columns whose values are combined, in this order.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for row in rows.map_tables(partial(_count_table, columns=tuple(columns))).iter_rows():
        for values, number in json.loads(row["counts"]):
            counts[tuple(values)] += number
    return counts


def _count_table(table: pa.Table, *, columns: Sequence[str]) -> pa.Table:
    counts = Counter(zip(*(table[name].to_pylist() for name in columns), strict=True))
    return pa.Table.from_pylist([{"counts": json.dumps(list(counts.items()))}])


def describe_conflicts(output: str) -> list[str]:
    """A line on images with the same bytes and different categories: one category stays, and the other is lost.

    Nothing for shards of an earlier version, whose table of copies does not say it.
    """
    path = store.join(output, DUPLICATES)
    if not store.is_file(path):
        return []
    with store.open_file(path) as file:
        table = pq.ParquetFile(file).read(use_threads=False)
    if "stays_as" not in table.column_names:
        return []
    found = table.filter(pc.is_valid(table["stays_as"]))
    if not found.num_rows:
        return []
    first = found.slice(0, 1).to_pylist()[0]
    return [
        f"{found.num_rows} images have the same bytes as one of another category, which counts ({first['source']}: "
        f"{first['category']}, kept as {first['stays_as']}); {path} names all"
    ]


def duplicate_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["duplicate_of"])).select(DUPLICATES_SCHEMA.names)


def unique_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["duplicate_of"]))
