"""Decide which earlier tars stay whole, and which samples are written to new ones.

A tar whose samples all stay is linked or copied. One that holds a changed or vanished image is written again without
it, from the earlier tar. Tars that are less than half full are written together with the new images, so that there
are at most twice as many as a full run makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from pipelines.sharding.flows.flow import Flow
from pipelines.sharding.incremental.earlier_shards import EarlierShards
from pipelines.sharding.inspection import PLACE_SCHEMA
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, KeptTar, ShardUnit, Slice, pieces_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Samples:
    """All N samples of the new shards, sorted by split and key, and the earlier tar that holds each."""

    rows: pa.Table
    """With the columns of PLACE_SCHEMA."""
    tar: Int[np.ndarray, " N"]
    """Position of the tar; -1 where none holds the sample as it is now."""


def plan_increment(
    job: ShardJob, samples: pa.Table, *, earlier: EarlierShards, flow: Flow
) -> tuple[list[ShardUnit], list[Block]]:
    """The shards to be made, and the blocks that these take rows of.

    Args:
        job: settings and output folder.
        samples: rows of `mark_duplicate_rows` that stay; all of them, in this process.
        earlier: the earlier shards.
        flow: where the shards are made.

    Raises:
        ValueError: when an index of the earlier shards is missing or altered.
        OSError: when a disk or a store fails.
    """
    found = _find_samples(samples, earlier=earlier)
    tars = earlier.tars
    num_kept = np.bincount(found.tar[found.tar >= 0], minlength=len(tars))
    stays = _staying_tars(found, tars=tars, num_kept=num_kept, size=job.config.samples_per_shard)
    rest = flow.block_of(found.rows.filter(pa.array(~np.append(stays, False)[found.tar])))  # -1 is the last: no tar
    order = np.argsort(found.tar, kind="stable")
    starts = np.searchsorted(found.tar[order], np.arange(len(tars) + 1))
    blocks, units = [rest], []
    for split in job.splits:
        made: list[ShardUnit] = []
        for position in (each for each in np.flatnonzero(stays) if tars[each][0] == split):
            tar, number = tars[position][1], len(made)
            if num_kept[position] == tar.info.num_samples:
                made.append(ShardUnit(split=split, number=number, kept=tar))
                continue
            left = found.rows.take(pa.array(order[starts[position] : starts[position + 1]]))
            made.append(ShardUnit(split=split, number=number, pieces={len(blocks): Slice(start=0, stop=left.num_rows)}))
            blocks.append(flow.block_of(left))
        new = pieces_of([rest.num_by_split], split=split, size=job.config.samples_per_shard)
        made += [ShardUnit(split=split, number=number, pieces=each) for number, each in enumerate(new, start=len(made))]
        units += made
    return units, blocks


def _find_samples(samples: pa.Table, *, earlier: EarlierShards) -> _Samples:
    rows = samples.sort_by([("split", "ascending"), ("key", "ascending")])
    members = earlier.read_members()
    position = pc.index_in(rows["key"], value_set=members["key"], skip_nulls=True)
    before = members.take(position)
    is_same = pc.fill_null(pc.equal(rows["sample_digest"], before["sample_digest"]), False)
    tar = pc.if_else(is_same, before["tar"], -1)
    addresses = pa.array([f"{each.folder}/{each.info.name}" for _, each in earlier.tars], pa.string())
    places = [
        addresses.take(pc.if_else(is_same, before["tar"], None).combine_chunks()),
        *(pc.if_else(is_same, before[name], None) for name in ("member_offset", "member_num_bytes")),
    ]
    for field, column in zip(PLACE_SCHEMA, places, strict=True):
        rows = rows.append_column(field, column)
    return _Samples(rows=rows, tar=tar.to_numpy())


def _staying_tars(
    found: _Samples, *, tars: Sequence[tuple[str, KeptTar]], num_kept: Int[np.ndarray, " T"], size: int
) -> Bool[np.ndarray, " T"]:
    """Whether each tar stays, whole or without some of its samples; `size` is the number of samples of a full one."""
    is_small = (num_kept > 0) & (2 * num_kept < size)
    is_new = pa.array(found.tar < 0)
    splits = np.array([split for split, _ in tars], dtype=object)
    for split in set(splits):
        is_here = splits == split
        has_new = pc.any(pc.and_(is_new, pc.equal(found.rows["split"], split))).as_py()
        if not has_new and (is_small & is_here).sum() < 2:  # nothing to write it with
            is_small[is_here] = False
    return (num_kept > 0) & ~is_small
