"""Verify a split's shards, and bring those of a store to this node, once per node."""

from pathlib import Path

from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import fetch_shard
from ecor.training.distributed import Rank
from pipelines.training.data_loader import SampleIndex


def fetch_shards(split: SampleIndex, *, rank: Rank, cache_dir: Path) -> list[Path]:
    """Verify all shards of a split, download remote ones, and return their local paths.

    Every rank must call; the ranks of a node share the work.

    Args:
        split: the split.
        rank: this worker.
        cache_dir: folder of this node for remote shards.

    Raises:
        ValueError: on every rank, when one of them found a shard that is missing or altered.
    """
    mine: dict[int, Path | str] = {}
    for number, info in enumerate(split.manifest.shards):
        if number % rank.num_local == rank.local_index:
            mine[number] = _fetch(split.folder, info, cache_dir=cache_dir)
    found = rank.all_gather((rank.node, mine))
    for error in (value for _, paths in found for value in paths.values() if isinstance(value, str)):
        raise ValueError(error)
    here = {number: path for node, paths in found if node == rank.node for number, path in paths.items()}
    return [Path(here[number]) for number in range(len(split.manifest.shards))]


def _fetch(folder: str, info: ShardInfo, *, cache_dir: Path) -> Path | str:
    """Return the path or the error message: an error must reach all ranks, or the others would wait for this one."""
    try:
        return fetch_shard(folder, info, cache_dir=cache_dir / "shards")
    except (ValueError, OSError) as error:
        return str(error)
