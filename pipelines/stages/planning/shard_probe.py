"""Probe `shard`: inspect a sample in portions, write some of it, and make shards of it for the other probes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle

import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import require
from ecor.data.shard_manifest import ShardManifest
from ecor.data.shards import write_shard
from pipelines.config.infrastructure import ClusterConfig
from pipelines.sharding.dataflow import unique_rows
from pipelines.sharding.flows.flow import Flow
from pipelines.sharding.flows.local_flow import LocalRows
from pipelines.sharding.inspection import entries, inspect_images
from pipelines.sharding.scan import scan_listing
from pipelines.sharding.shard_job import ShardJob
from pipelines.stages.planning.estimates import (
    Cost,
    Estimate,
    Spent,
    Stopwatch,
    first_use,
    fixed_cost,
    mean_of,
    share_of,
    total,
)
from pipelines.stages.planning.inputs import ShardInput
from pipelines.stages.planning.workspace import Workspace, quiet
from pipelines.stages.shard import Inputs, make_shards

_NUM_PORTIONS = 8
_SMALL, _LARGE = "shards-small", "shards-large"
_FEWEST = 8
"""Valid images that are needed to train and validate with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardProbe:
    """What the sample shows about `shard`."""

    fixed: Cost
    """Of the first shards that a process makes."""
    inspect: Cost
    """Per image: reading, hashing, decoding."""
    write: Cost
    """Per image that is valid."""
    num_probed: int
    rejected: Mapping[str, int]
    """Images of the sample by reason."""
    num_copies: int
    tar_bytes: Estimate
    """Of each valid image."""
    small: str
    """Folder of shards of few images."""
    large: str
    """Folder of shards of most of the sample."""
    valid: tuple[str, ...]
    """Sources of the valid images."""

    @property
    def valid_share(self) -> Estimate:
        """Share of valid images, among all."""
        share = share_of(sum(self.rejected.values()), total=self.num_probed)
        return Estimate(value=1 - share.value, low=1 - share.high, high=1 - share.low)


def probe_shard(
    shards: ShardInput, *, validation: str, batch_size: int, workspace: Workspace, cluster: ClusterConfig
) -> ShardProbe:
    """Inspect and write the sample.

    Args:
        shards: the listed input.
        validation: name of the split that `train` validates on.
        batch_size: images per shard of the sample.
        workspace: where shards are made.
        cluster: in this process, or on a Ray started here.

    Raises:
        ValueError: when hardly any image of the sample is valid.
        OSError: when a disk or a store fails.
    """
    job, flow = shards.job, shards.flow
    config = replace(
        job.config, max_rejected=1.0, since=None, split_shares={"train": 1.0}, samples_per_shard=batch_size
    )
    job = replace(job, config=config, given_splits=("train", validation))
    found, inspected = _inspect(shards)
    rejected = Counter(found["reason"].drop_null().to_pylist())
    valid = found.filter(pc.is_null(found["reason"]))
    unique = unique_rows(LocalRows(valid, flow.threads).mark_duplicates({}).table)
    require(
        unique.num_rows >= min(_FEWEST, shards.num_images),
        f"{unique.num_rows} of {found.num_rows} images of the sample are valid and no copies "
        f"({', '.join(f'{number} {reason}' for reason, number in rejected.most_common()) or 'copies'}): "
        "mend the images first, or raise --num-probes",
    )
    written = _write(unique, job=job, folder=workspace.path("written"))
    (first_inspect, inspect), (first_write, write) = first_use(inspected), first_use(written)
    sources = unique["source"].to_pylist()
    made = partial(_make, shards=shards, job=job, workspace=workspace, cluster=cluster)
    eighth = max(1, len(sources) // 8)
    watch = Stopwatch()
    made(_SMALL, train=sources[:eighth], validation=sources[eighth : 2 * eighth] or sources[:1])
    small = fixed_cost(watch.read(), variable=(inspect + write).times(2 * eighth))
    large = made(_LARGE, train=sources[: 5 * eighth], validation=sources[5 * eighth :] or sources[:1])
    tars = [info for manifest in large.values() for info in manifest.shards]
    return ShardProbe(
        fixed=total([first_inspect, first_write, small]),
        inspect=inspect,
        write=write,
        num_probed=found.num_rows,
        rejected=rejected,
        num_copies=valid.num_rows - unique.num_rows,
        tar_bytes=mean_of([info.num_bytes / info.num_samples for info in tars]),
        small=workspace.path(_SMALL),
        large=workspace.path(_LARGE),
        valid=tuple(sources),
    )


def _pieces(table: pa.Table, *, num: int) -> list[pa.Table]:
    """Some slices of about the same size, none of them empty."""
    size = -(-table.num_rows // num) or 1
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def _inspect(shards: ShardInput) -> tuple[pa.Table, list[Spent]]:
    """Inspect the sample in portions, each by all threads; every image is read once, as in the stage itself."""
    threads, tables, spent = shards.flow.threads, [], []
    for portion in _pieces(shards.sample, num=_NUM_PORTIONS):
        watch = Stopwatch()
        pieces = _pieces(portion, num=threads.num_threads)
        tables += [table for _, table in threads.run(lambda piece: inspect_images(piece, job=shards.job), pieces)]
        spent.append(watch.read(num_images=portion.num_rows))
    return pa.concat_tables(tables), spent


def _write(rows: pa.Table, *, job: ShardJob, folder: str) -> list[Spent]:
    """Write parts of the sample as tars, one after the other."""
    spent = []
    for number, portion in zip(range(_NUM_PORTIONS), cycle(_pieces(rows, num=4)), strict=False):
        watch = Stopwatch()
        write_shard(entries(portion, job=job), folder=folder, name=f"{number}.tar", vocabulary=job.vocabulary)
        spent.append(watch.read(num_images=portion.num_rows))
    return spent


def _make(
    name: str,
    *,
    train: Sequence[str],
    validation: Sequence[str],
    shards: ShardInput,
    job: ShardJob,
    workspace: Workspace,
    cluster: ClusterConfig,
) -> Mapping[str, ShardManifest]:
    """Make shards of two splits by the stage's own functions."""
    split_of = dict.fromkeys(train, job.given_splits[0]) | dict.fromkeys(validation, job.given_splits[1])
    rows = shards.sample.filter(pc.is_in(shards.sample["source"], pa.array(list(split_of), pa.string())))
    splits = pa.array([split_of[source] for source in rows["source"].to_pylist()], pa.string())
    rows = rows.set_column(rows.column_names.index("split"), "split", splits)
    source = replace(shards.source, num_ignored=0, junk={})
    job = replace(job, output=workspace.path(name), parents={"input": name})
    with quiet(), _open_flow(shards, cluster=cluster) as flow:
        listing = flow.spread(rows)
        inputs = Inputs(listing=listing, scan=scan_listing(listing, source=source), earlier=None)
        manifests, _ = make_shards(job, inputs=inputs, flow=flow, lease_s=cluster.lease_s)
    return manifests


@contextmanager
def _open_flow(shards: ShardInput, *, cluster: ClusterConfig) -> Iterator[Flow]:
    if cluster.local_images:
        yield shards.flow
        return
    from pipelines.runtime.cluster import connect
    from pipelines.runtime.ray_data import raise_causes, ray_data_settings
    from pipelines.sharding.flows.cluster_flow import ClusterFlow

    with connect(cluster), ray_data_settings(cluster), raise_causes():
        yield ClusterFlow()
