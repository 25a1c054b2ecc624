"""Stream a dataset through the cluster with Ray Data: list, inspect, quarantine, and find duplicates."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import Dataset

from ecor.data.shard_manifest import ShardManifest
from ecor.storage import filesystem as store
from pipelines.runtime.balance import Balance
from pipelines.runtime.console import say
from pipelines.runtime.prometheus import IMAGES_QUARANTINED, IMAGES_SEEN, count
from pipelines.runtime.ray_data import (
    count_rows,
    map_blocks,
    materialize,
    write_table,
)
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.folder_layout import Place, Source
from pipelines.sharding.inspection import IMAGES_PER_READ, INSPECTED_SCHEMA, inspect_images
from pipelines.sharding.label_names import Label, labels_in
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob, digest_of
from pipelines.sharding.shards_folder import QUARANTINE, WORK
from pipelines.storage.work_ledger import WorkLedger

_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "stage", "reason", "detail")])


DUPLICATES_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "sha256", "duplicate_of")])


_IMAGES_PER_BLOCK = 1024


_IMAGES_PER_BUCKET = 4096


_INSPECTED = "inspected"


def list_all(source: Source) -> Dataset:
    """All files of the input, left-out ones included, as rows of LISTING_SCHEMA."""
    places = [{"place": json.dumps(asdict(place))} for place in (*source.places, *source.left_out_places)]
    one_each = ray.data.from_items(places, override_num_blocks=len(places))
    tables = one_each.map_batches(_list_batch, batch_size=1, batch_format="pyarrow")
    return tables.repartition(target_num_rows_per_block=_IMAGES_PER_BLOCK).materialize()


def _list_batch(batch: pa.Table) -> Iterator[pa.Table]:
    for place in batch["place"].to_pylist():
        yield from list_images(Place(**json.loads(place)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one pass over a listing finds."""

    fingerprint: str
    """Digest of the images, whatever their order."""
    labels: tuple[Label, ...]
    """The distinct ones."""
    splits: tuple[str, ...]
    """Those that the input gives its images."""
    num_listed: int
    """Images, and files that are left out; of a table its rows."""
    left_out: Mapping[str, int]
    """By kind."""


def scan_listing(listing: Dataset, *, source: Source) -> Scan:
    """Digest, labels and numbers of a listing of the source."""
    return merge_scans(map_blocks(listing, scan_block).iter_rows(), num_rows=listing.count(), source=source)


def merge_scans(rows: Iterable[Mapping[str, Any]], *, num_rows: int, source: Source) -> Scan:
    """Put together what `scan_block` found in each block of a listing of `num_rows` rows."""
    total, num_images = 0, 0
    sources: dict[tuple[Any, ...], Label] = {}
    splits: set[str] = set()
    left_out = Counter(source.left_out)
    for row in rows:
        total += int(row["sum"], 16)
        num_images += row["num_images"]
        splits.update(json.loads(row["splits"]))
        left_out.update(json.loads(row["left_out"]))
        for label in (Label(**fields) for fields in json.loads(row["labels"])):
            name = (label.split, label.category, label.rationale, label.is_visible)
            sources[name] = min(label, sources.get(name, label), key=lambda each: each.source)
    return Scan(
        fingerprint=digest_of([num_images, total % 2**256]),
        labels=tuple(sources[name] for name in sorted(sources, key=str)),
        splits=tuple(sorted(splits)),
        num_listed=num_rows + sum(source.left_out.values()),
        left_out=left_out,
    )


def balance_listing(scan: Scan, *, manifests: Mapping[str, ShardManifest], rejected: Mapping[str, int]) -> Balance:
    """The listing on one side; on the other what the manifests and the quarantine table hold."""
    return Balance(
        stage="shard",
        num_listed=scan.num_listed,
        num_taken=sum(manifest.num_samples for manifest in manifests.values()),
        num_copies=sum(manifest.num_duplicates for manifest in manifests.values()),
        rejected=rejected,
        left_out=scan.left_out,
    )


def scan_block(table: pa.Table) -> pa.Table:
    """One row of what a block of a listing holds; only images count for the digest."""
    images = table.filter(pc.is_null(table["left_out"])).drop_columns(["left_out"])
    left_out = Counter(table["left_out"].drop_null().to_pylist())
    found = {
        "num_images": images.num_rows,
        "sum": f"{sum(int(digest_of(row), 16) for row in images.to_pylist()):x}",
        "labels": json.dumps([asdict(label) for label in labels_in(table)]),
        "splits": json.dumps(images["split"].unique().drop_null().to_pylist()),
        "left_out": json.dumps(left_out),
    }
    return pa.Table.from_pylist([found])


def inspect_all(job: ShardJob, *, listing: Dataset, ledger: WorkLedger) -> Dataset:
    """Read and validate every image; returns a row of INSPECTED_SCHEMA for each.

    The rows are kept on disk until the stage is done, so that none is lost. If another job on this output inspects the
    images, the call waits for its rows.

    Args:
        job: settings and vocabulary.
        listing: rows of LISTING_SCHEMA.
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
        inspect = partial(inspect_images, job=job)
        findings = listing.map_batches(inspect, batch_size=IMAGES_PER_READ, batch_format="pyarrow")
        file_system, path = store.store_of(folder)  # fsspec's, as everywhere: one client, one set of credentials
        findings.write_parquet(path, filesystem=file_system, try_create_dir=store.is_local(folder))
        found = ledger.commit(attempt, {"folder": folder})
    return _read_parts(found["folder"])


def _read_parts(folder: str) -> Dataset:
    """What `write_parquet` wrote, in the object store; `read_parquet` takes seconds to begin, each time it is used."""
    paths = [{"path": store.join(folder, name)} for name in store.names_in(folder)]
    parts = ray.data.from_items(paths, override_num_blocks=len(paths))
    return parts.map_batches(_read_part, batch_size=1, batch_format="pyarrow").materialize()


def _read_part(batch: pa.Table) -> pa.Table:
    with store.open_file(batch["path"][0].as_py()) as file:
        return pq.ParquetFile(file).read(use_threads=False).cast(INSPECTED_SCHEMA)


def write_quarantine(job: ShardJob, *, found: Dataset, ledger: WorkLedger) -> Counter[tuple[str, ...]]:
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
    rejected = map_blocks(found, _rejected_rows)
    write_table(rejected, schema=_QUARANTINE_SCHEMA, folder=job.output, name=QUARANTINE)
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


def mark_duplicates(found: Dataset) -> Dataset:
    """All valid images; those whose bytes another one has are marked with it."""
    num_buckets = max(1, -(-found.count() // _IMAGES_PER_BUCKET))
    valid = map_blocks(found, partial(_bucket_by_content, num_buckets=num_buckets))
    return materialize(valid.groupby("bucket").map_groups(mark_duplicate_rows, batch_format="pyarrow"))


def _bucket_by_content(table: pa.Table, *, num_buckets: int) -> pa.Table:
    """Copies meet in one bucket of thousands, because Ray Data takes as long for a group of one."""
    table = table.filter(pc.is_null(table["reason"]))
    buckets = [int(sha256[:8], 16) % num_buckets for sha256 in table["sha256"].to_pylist()]
    return table.append_column("bucket", pa.array(buckets, pa.int64()))


def duplicate_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["duplicate_of"])).select(DUPLICATES_SCHEMA.names)


def unique_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["duplicate_of"]))
