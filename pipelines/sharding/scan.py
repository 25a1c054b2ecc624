"""Scan a listing of images once: its digest, its labels and splits, and how many files it holds of which kind."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecor.data.shard_manifest import ShardManifest
from pipelines.runtime.balance import Balance
from pipelines.sharding.flows.flow import Rows
from pipelines.sharding.label_names import Label, labels_in
from pipelines.sharding.shard_job import digest_of
from pipelines.sharding.sources.source_places import Source


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


def scan_listing(listing: Rows, *, source: Source) -> Scan:
    """Digest, labels and numbers of a listing of the source."""
    return merge_scans(listing.map_tables(scan_block).iter_rows(), num_rows=listing.count(), source=source)


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
    """One row of what a block of a listing holds; only images count for the digest, without their times."""
    images = table.filter(pc.is_null(table["left_out"])).drop_columns(["left_out", "state", "unread"])
    left_out = Counter(table["left_out"].drop_null().to_pylist())
    found = {
        "num_images": images.num_rows,
        "sum": f"{sum(int(digest_of(row), 16) for row in images.to_pylist()):x}",
        "labels": json.dumps([asdict(label) for label in labels_in(table)]),
        "splits": json.dumps(images["split"].unique().drop_null().to_pylist()),
        "left_out": json.dumps(left_out),
    }
    return pa.Table.from_pylist([found])
