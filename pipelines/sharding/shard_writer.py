"""Write sorted images as shards, each as a unit of work that is committed once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import write_shard
from pipelines.runtime.console import progress_bar
from pipelines.runtime.prometheus import RETRIES, UNITS_DONE, count
from pipelines.sharding.flows.flow import Flow
from pipelines.sharding.incremental.kept_tars import take_over_tar
from pipelines.sharding.inspection import entries
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, Made, ShardUnit, is_intact, pieces_of
from pipelines.storage.work_ledger import WorkLedger


def write_shards(
    job: ShardJob,
    units: Sequence[ShardUnit],
    *,
    blocks: Sequence[Block],
    flow: Flow,
    ledger: WorkLedger,
    tell: Callable[[str], None],
) -> dict[str, list[Made]]:
    """Write the shards of each split, and return them in order.

    If another job on this output writes a shard, the call waits for it.

    Args:
        job: settings and output folder.
        units: the shards.
        blocks: that the units take rows of.
        flow: where the shards are written.
        ledger: units of this output.
        tell: called with a line for each other job that is waited for.

    Raises:
        ValueError: when an image has changed since it was inspected, or cannot be read any more.
        OSError: when a disk or a store fails.
        TimeoutError: when no shard is finished within the no-progress timeout.
    """
    committed = ledger.read_commits()
    left = [replace(unit, record=committed.get(unit.name)) for unit in units]
    made: dict[tuple[str, int], Made] = {}
    with progress_bar("writing", total=len(left), unit="shards") as advance:
        while left:
            held = []
            for unit, shard in flow.make_shards(job, left, blocks=blocks, ledger=ledger):
                if shard is None:
                    held.append(unit)
                    continue
                made[unit.split, unit.number] = shard
                count(UNITS_DONE, stage="shard", how=shard.how)
                count(RETRIES, int(shard.how == "taken over"), kind="taken over")
                advance()
            if held:
                ledger.wait([unit.name for unit in held], tell=tell)
            left = held
    return {split: [made[name] for name in sorted(made) if name[0] == split] for split in job.splits}


def plan_units(job: ShardJob, *, blocks: Sequence[Block]) -> list[ShardUnit]:
    """The shards of all images.

    Args:
        job: its settings.
        blocks: all images, sorted by split and key.
    """
    counts = [block.num_by_split for block in blocks]
    return [
        ShardUnit(split=split, number=number, pieces=pieces)
        for split in job.splits
        for number, pieces in enumerate(pieces_of(counts, split=split, size=job.config.samples_per_shard))
    ]


def make_shard(job: ShardJob, ledger: WorkLedger, unit: ShardUnit, *tables: pa.Table) -> Made | None:
    """Write and commit one shard, unless it is done and intact; None when another job has it in hand.

    Any number of attempts may write the same shard: they write the same bytes, each in one step.

    Args:
        job: settings and output folder.
        ledger: units of this output.
        unit: the shard.
        *tables: the blocks that it takes rows of, in the order of its pieces.

    Raises:
        ValueError: when an image has changed since it was inspected, or cannot be read any more.
        OSError: when a disk or a store fails.
    """
    folder = f"{job.output}/{unit.split}"
    if unit.record is not None:
        if is_intact(folder, ShardInfo(**unit.record["shard"])):
            return Made(info=ShardInfo(**unit.record["shard"]), how="kept")
        ledger.discard(unit.name, unit.record)
    attempt = ledger.claim(unit.name)
    if attempt is None:
        return _made_by_another(ledger, folder=folder, unit=unit.name)
    try:
        info = _write_shard(job, unit, tables, folder=folder)
    except OSError:
        made = _made_by_another(ledger, folder=folder, unit=unit.name)
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
    if unit.kept is not None:
        return Made(info=info, how="linked")
    return Made(info=info, how="taken over" if attempt.took_over else "done")


def _write_shard(job: ShardJob, unit: ShardUnit, tables: Sequence[pa.Table], *, folder: str) -> ShardInfo:
    name = f"{unit.number}.tar"
    if unit.kept is not None:
        return take_over_tar(unit.kept, folder=folder, name=name, verified=unit.record is not None)
    slices = zip(tables, unit.pieces.values(), strict=True)
    images = entries(
        pa.concat_tables([table.slice(each.start, each.stop - each.start) for table, each in slices]), job=job
    )
    return write_shard(images, folder=folder, name=name, vocabulary=job.vocabulary)


def _made_by_another(ledger: WorkLedger, *, folder: str, unit: str) -> Made | None:
    record = ledger.record(unit)
    if record is None or not is_intact(folder, ShardInfo(**record["shard"])):
        return None
    return Made(info=ShardInfo(**record["shard"]), how="by another job")
