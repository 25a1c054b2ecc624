"""The record of the images of finished shards (`images.parquet`): content, split and state, for a later `--since`.

It has a row for each valid image, copies included; rejected ones are in the quarantine table.
"""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.data.shard_manifest import ShardManifest
from ecor.storage import filesystem
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.flows.flow import Rows
from pipelines.sharding.inspection import with_columns

RECORD_NAME = "images.parquet"
RECORD_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("key", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("extension", pa.string()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("is_multipicture", pa.bool_()),  # null in a record of an older version
        pa.field("state", pa.string()),  # size and time of the last write when it was listed
        pa.field("row_digest", pa.string()),  # of content and labels
        pa.field("sample_digest", pa.string()),  # of the sample in a tar; null for a copy that is left out
    ]
)
_MANIFESTS = b"ecor.manifests"


def write_record(marked: Rows, *, folder: str, manifests: Mapping[str, ShardManifest]) -> None:
    """Write the record of shards that are about to be published.

    Args:
        marked: rows of `pipelines.sharding.deduplication.mark_duplicate_rows`.
        folder: of the shards.
        manifests: manifest of each split; the record belongs to these.

    Raises:
        OSError: when a disk or a store fails.
    """
    digests = json.dumps(_digests(manifests))
    marked.write_table(schema=RECORD_SCHEMA.with_metadata({_MANIFESTS: digests}), folder=folder, name=RECORD_NAME)


def read_record(folder: str, *, manifests: Mapping[str, ShardManifest]) -> pa.Table:
    """Read the record of finished shards, with RECORD_SCHEMA.

    Args:
        folder: of the shards.
        manifests: manifest of each split.

    Raises:
        ValueError: when there is none, it is damaged, or it belongs to other shards.
        OSError: when a disk or a store fails.
    """
    path = filesystem.join(folder, RECORD_NAME)
    try:
        data = retry_in_store(lambda: filesystem.read(path), place=folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is not there: the shards are of an older version of ecor or not finished. Leave out --since once, "
            "to shard all images"
        ) from error
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        digests = json.loads((table.schema.metadata or {})[_MANIFESTS])
        table = with_columns(table, RECORD_SCHEMA)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): leave out --since, to shard all images") from error
    if digests != _digests(manifests):
        raise ValueError(
            f"{path} is of other shards than the manifests beside it: run the `ecor shard` that made them to its end, "
            "or leave out --since, to shard all images"
        )
    return table


def count_multipicture(folder: str) -> int:
    """Images of finished shards whose files hold several pictures; 0 for shards of an older version."""
    path = filesystem.join(folder, RECORD_NAME)
    if not filesystem.is_file(path):
        return 0
    with filesystem.open_file(path) as file:
        table = pq.ParquetFile(file)
        if "is_multipicture" not in table.schema_arrow.names:
            return 0
        return pc.sum(table.read(columns=["is_multipicture"], use_threads=False)["is_multipicture"]).as_py() or 0


def _digests(manifests: Mapping[str, ShardManifest]) -> dict[str, str]:
    return {split: manifests[split].digest for split in sorted(manifests)}
