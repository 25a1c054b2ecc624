"""Write sorted blocks of images as shards, each by one task, and commit each shard once."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import pyarrow as pa
import ray

from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import verify_shard, write_shard
from pipelines.runtime.console import progress_bar
from pipelines.runtime.prometheus import RETRIES, UNITS_DONE, count
from pipelines.runtime.ray_data import iter_completed, wait_for_all
from pipelines.sharding.inspection import entries
from pipelines.sharding.shard_job import ShardJob
from pipelines.storage.work_ledger import WorkLedger

How = Literal["done", "taken over", "kept", "by another job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows of one block."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A shard, and who wrote it: this run, this run after another ended without it, one before, or one meanwhile."""

    info: ShardInfo
    how: How


def write_shards(
    job: ShardJob, *, blocks: Sequence[Any], ledger: WorkLedger, tell: Callable[[str], None]
) -> dict[str, list[Made]]:
    """Write the shards of each split, and return them in order.

    If another job on this output writes a shard, the call waits for it.

    Args:
        job: settings and output folder.
        blocks: references to tables of images, sorted by split and key.
        ledger: units of this output.
        tell: called with a line for each other job that is waited for.

    Raises:
        ValueError: when an image has changed since it was inspected, or cannot be read any more.
        OSError: when a disk or a store fails.
        TimeoutError: when no shard is finished within the no-progress timeout.
    """
    counts = wait_for_all([_split_counts.remote(block) for block in blocks])
    job_reference, committed = ray.put(job), ledger.read_commits()
    begun: dict[Any, tuple[str, int, Mapping[int, Slice]]] = {}

    def begin(split: str, number: int, pieces: Mapping[int, Slice]) -> None:
        used, record = [blocks[index] for index in pieces], committed.get(_unit(split, number))
        task = _make_shard.remote(job_reference, ledger, split, number, record, list(pieces.values()), *used)
        begun[task] = (split, number, pieces)

    for split in job.splits:
        for number, pieces in enumerate(pieces_of(counts, split=split, size=job.config.samples_per_shard)):
            begin(split, number, pieces)
    made: dict[tuple[str, int], Made] = {}
    with progress_bar("writing", total=len(begun), unit="shards") as advance:
        while begun:
            left = []
            for task in iter_completed(list(begun)):
                split, number, rows = begun.pop(task)
                shard = ray.get(task)
                if shard is None:
                    left.append((split, number, rows))
                else:
                    made[split, number] = shard
                    count(UNITS_DONE, stage="shard", how=shard.how)
                    count(RETRIES, int(shard.how == "taken over"), kind="taken over")
                    advance()
            if left:
                ledger.wait([_unit(split, number) for split, number, _ in left], tell=tell)
            for each in left:
                begin(*each)
    return {split: [made[name] for name in sorted(made) if name[0] == split] for split in job.splits}


def pieces_of(counts: Sequence[Mapping[str, int]], *, split: str, size: int) -> list[dict[int, Slice]]:
    """For each shard of a split, the rows it takes from which blocks: `size` in all, in the order of the blocks."""
    before = [sum(count for name, count in block.items() if name < split) for block in counts]
    ends = list(accumulate((block.get(split, 0) for block in counts), initial=0))
    shards = []
    for start in range(0, ends[-1], size):
        pieces = {}
        for index, (first, last) in enumerate(pairwise(ends)):
            low, high = max(start, first), min(start + size, last)
            if low < high:
                pieces[index] = Slice(start=before[index] + low - first, stop=before[index] + high - first)
        shards.append(pieces)
    return shards


@ray.remote(num_cpus=1)
def _split_counts(block: pa.Table) -> dict[str, int]:
    return dict(Counter(block["split"].to_pylist())) if block.num_rows else {}


@ray.remote(num_cpus=1)
def _make_shard(
    job: ShardJob,
    ledger: WorkLedger,
    split: str,
    number: int,
    record: dict[str, Any] | None,
    slices: Sequence[Slice],
    *blocks: pa.Table,
) -> Made | None:
    """Write and commit one shard, unless it is done and intact; None when another job has it in hand.

    Any number of attempts may write the same shard: they write the same bytes, each in one step.
    """
    folder, unit = f"{job.output}/{split}", _unit(split, number)
    if record is not None:
        if _is_intact(folder, ShardInfo(**record["shard"])):
            return Made(info=ShardInfo(**record["shard"]), how="kept")
        ledger.discard(unit, record)
    attempt = ledger.claim(unit)
    if attempt is None:
        return _made_by_another(ledger, folder=folder, unit=unit)
    pieces = [block.slice(piece.start, piece.stop - piece.start) for block, piece in zip(blocks, slices, strict=True)]
    images = entries(pa.concat_tables(pieces), job=job)
    try:
        info = write_shard(images, folder=folder, name=f"{number}.tar", vocabulary=job.vocabulary)
    except OSError:
        made = _made_by_another(ledger, folder=folder, unit=unit)
        if made is None:
            raise
        return made  # by a job that has cleaned up, and with it what was being written here
    counting = ledger.commit(attempt, {"shard": asdict(info), "parents": {**job.parents, "job": job.name}})
    if counting is None:
        return None
    if counting["shard"] != asdict(info):
        raise ValueError(
            f"{folder}/{info.name} has sha256 {info.sha256}, but {counting['shard']['sha256']} before: redo all, fresh"
        )
    return Made(info=info, how="taken over" if attempt.took_over else "done")


def _made_by_another(ledger: WorkLedger, *, folder: str, unit: str) -> Made | None:
    record = ledger.record(unit)
    if record is None or not _is_intact(folder, ShardInfo(**record["shard"])):
        return None
    return Made(info=ShardInfo(**record["shard"]), how="by another job")


def _is_intact(folder: str, info: ShardInfo) -> bool:
    try:
        verify_shard(folder, info)
    except ValueError:
        return False
    return True


def all_intact(shards: Sequence[tuple[str, ShardInfo]]) -> bool:
    """Whether shards, each with its folder, are as they were written; workers look."""
    return all(wait_for_all([_intact_on_a_worker.remote(folder, info) for folder, info in shards]))


def _unit(split: str, number: int) -> str:
    return f"{split}/{number}"


_intact_on_a_worker = ray.remote(num_cpus=1)(_is_intact)
