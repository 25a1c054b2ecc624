"""Take a tar of earlier shards over as it is: a hard link on a local disk, a copy by the store itself in a store."""

from dataclasses import replace

from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import verify_shard
from ecor.storage import filesystem
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.shard_units import KeptTar


def take_over_tar(tar: KeptTar, *, folder: str, name: str, verified: bool) -> ShardInfo:
    """Link or copy a tar and its index.

    Args:
        tar: the earlier tar; it is not changed.
        folder: of the new split.
        name: new name of the tar.
        verified: compare the digest, for which all is read; otherwise only the size. Readers of shards verify too.

    Raises:
        ValueError: when the earlier tar or its index is missing or altered.
        OSError: when a disk or a store fails.
    """
    info = replace(tar.info, name=name, index=name.removesuffix(".tar") + ".index.parquet")
    for before, now in ((tar.info.name, info.name), (tar.info.index, info.index)):
        source = filesystem.join(tar.folder, before)
        try:
            _copy(source, filesystem.join(folder, now))
        except FileNotFoundError as error:
            raise ValueError(f"shard {source} is missing: leave out --since, to shard all images") from error
    found = filesystem.num_bytes(filesystem.join(folder, info.name))
    if found != info.num_bytes:
        raise ValueError(
            f"shard {tar.folder}/{tar.info.name} has {found} bytes, its manifest says {info.num_bytes}: leave out "
            "--since, to shard all images"
        )
    if verified:
        verify_shard(folder, info)
    return info


def _copy(source: str, target: str) -> None:
    retry_in_store(lambda: filesystem.copy(source, target), place=target)
