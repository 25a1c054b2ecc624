"""Write a folder or table of images as verified WebDataset tars, with a manifest per split (`ecor shard`).

Workers of a cluster, or threads of this process where there are few images, list, read, hash and validate them, find
copies and sort. Each shard is written at once and committed to the ledger. The same command resumes an interrupted run.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ecor.data.shard_manifest import ShardInfo, ShardManifest
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from pipelines.cards.dataset_records import keep_dataset_card
from pipelines.config.infrastructure import ClusterConfig, absolute_address
from pipelines.config.stages import ShardConfig
from pipelines.runtime.balance import add_counts, say_balance, say_multipicture
from pipelines.runtime.console import say
from pipelines.sharding.dataflow import (
    DUPLICATES,
    DUPLICATES_SCHEMA,
    count_rows,
    describe_conflicts,
    duplicate_rows,
    inspect_all,
    unique_rows,
    write_quarantine,
)
from pipelines.sharding.flows.flow import Flow, Rows
from pipelines.sharding.flows.open_flow import open_flow
from pipelines.sharding.folder_gaps import describe_gaps
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.incremental.earlier_shards import EarlierShards, read_earlier_shards
from pipelines.sharding.incremental.image_record import count_multipicture, write_record
from pipelines.sharding.incremental.increment import count_increment, describe_increment
from pipelines.sharding.incremental.known_images import add_known_contents, find_held_splits
from pipelines.sharding.incremental.tar_plan import plan_increment
from pipelines.sharding.label_names import check_labels, vocabulary_of
from pipelines.sharding.scan import Scan, balance_listing, scan_listing
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, How, ShardUnit
from pipelines.sharding.shard_writer import plan_units, write_shards
from pipelines.sharding.shards_folder import LEDGER, publish_shards, read_finished, read_rejected, write_summary
from pipelines.sharding.sources.source_places import Source
from pipelines.storage.work_ledger import WorkLedger


def run(config: ShardConfig, *, cluster: ClusterConfig | None = None) -> dict[str, ShardManifest]:
    """Write the shards of every split, and return the manifests by split.

    What an earlier run has finished is verified and kept. Raises ValueError for an input that fits no layout, labels
    that the vocabulary lacks, more rejected images than `max_rejected`, and an output made from something else.
    """
    started = time.perf_counter()
    cluster = cluster or ClusterConfig()
    source, earlier = find_source(config), read_earlier_shards(config)
    say(source.describe())
    vocabulary_file = config.vocabulary or source.vocabulary
    vocabulary = read_vocabulary(vocabulary_file) if vocabulary_file else None
    with open_flow(source, cluster=cluster) as (flow, listing):
        for line in describe_gaps(source, listing=listing):
            say(line)
        scan = scan_listing(listing, source=source)
        job = plan_shards(config, source=source, vocabulary=vocabulary, scan=scan, earlier=earlier)
        manifests, how = read_finished(job, flow=flow), Counter[How]()
        if manifests is None:
            inputs = Inputs(listing=listing, scan=scan, earlier=earlier)
            manifests, how = make_shards(job, inputs=inputs, flow=flow, lease_s=cluster.lease_s)
        counts = None if earlier is None else count_increment(job.output, manifests=manifests, earlier=earlier)
        seconds = time.perf_counter() - started
        balance = balance_listing(scan, manifests=manifests, rejected=read_rejected(job, manifests=manifests))
        num_multipicture = count_multipicture(job.output)
        write_summary(
            job,
            manifests=manifests,
            source=source,
            how=how,
            balance=balance,
            num_multipicture=num_multipicture,
            flow=flow,
            seconds=seconds,
            increment=describe_increment(counts, earlier=earlier),
        )
    keep_dataset_card(job.output)
    for line in describe_conflicts(job.output):
        say(line)
    if counts is not None:
        say(f"since {config.since}: {counts.line()}")
    say_multipicture(num_multipicture)
    say_balance(balance)
    return manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the shards are made from."""

    listing: Rows
    scan: Scan
    earlier: EarlierShards | None
    """Shards whose tars are taken over."""


def make_shards(
    job: ShardJob, *, inputs: Inputs, flow: Flow, lease_s: float
) -> tuple[dict[str, ShardManifest], Counter[How]]:
    """Make the shards, unless another job on this output finishes first."""
    ledger = WorkLedger(f"{job.output}/{LEDGER}/{job.name}", lease_s=lease_s)
    with ledger.hold_lease():
        try:
            with flow.raise_causes():
                return shard_images(job, inputs=inputs, flow=flow, ledger=ledger)
        except OSError:
            manifests = read_finished(replace(job, config=replace(job.config, fresh=False)), flow=flow)
            if manifests is None:
                raise
            return manifests, Counter()  # the other job had removed intermediate files


def shard_images(
    job: ShardJob, *, inputs: Inputs, flow: Flow, ledger: WorkLedger
) -> tuple[dict[str, ShardManifest], Counter[How]]:
    """Inspect the images, drop rejected and duplicate ones, write the rest; returns manifests, and shards by how."""
    listing, earlier = inputs.listing, inputs.earlier
    if earlier is not None:
        known = add_known_contents(listing.to_table(), earlier=earlier, check=job.config.since_check)
        listing = flow.spread(known)
    found = inspect_all(job, listing=listing, flow=flow, ledger=ledger)
    rejected = write_quarantine(job, found=found, ledger=ledger)
    marked = found.mark_duplicates({} if earlier is None else find_held_splits(found, earlier=earlier))
    dropped = marked.map_tables(duplicate_rows)
    dropped.write_table(schema=DUPLICATES_SCHEMA, folder=job.output, name=DUPLICATES)
    num_dropped = count_rows(dropped, columns=("split",))
    units, blocks = _plan(job, samples=marked.map_tables(unique_rows), earlier=earlier, flow=flow)
    made = write_shards(job, units, blocks=blocks, flow=flow, ledger=ledger, tell=say)
    written = {split: [shard.info for shard in shards] for split, shards in made.items()}
    manifests = make_manifests(job, shards=written, rejected=rejected, dropped=num_dropped)
    reasons = add_counts({reason: number} for (_, reason), number in rejected.items())
    balance_listing(inputs.scan, manifests=manifests, rejected=reasons)  # nothing is published that does not balance
    write_record(marked, folder=job.output, manifests=manifests)
    publish_shards(job, manifests)
    return manifests, Counter(shard.how for shards in made.values() for shard in shards)


def _plan(
    job: ShardJob, *, samples: Rows, earlier: EarlierShards | None, flow: Flow
) -> tuple[Sequence[ShardUnit], Sequence[Block]]:
    if earlier is not None:
        return plan_increment(job, samples.to_table(), earlier=earlier, flow=flow)
    blocks = samples.sort()
    return plan_units(job, blocks=blocks), blocks


def make_manifests(
    job: ShardJob,
    *,
    shards: Mapping[str, Sequence[ShardInfo]],
    rejected: Mapping[tuple[str, ...], int],
    dropped: Mapping[tuple[str, ...], int],
) -> dict[str, ShardManifest]:
    """The manifest of each split, of what was written.

    Args:
        job: the job.
        shards: by split, in order.
        rejected: numbers by split and reason.
        dropped: numbers of copies by split.
    """
    return {
        split: ShardManifest(
            split=split,
            shards=tuple(infos),
            vocabulary_digest=job.vocabulary.digest,
            num_samples=sum(info.num_samples for info in infos),
            num_rejected=sum(number for (in_split, _), number in rejected.items() if in_split == split),
            num_duplicates=dropped.get((split,), 0),
            config_digest=job.config_digest,
            parents=job.parents,
        )
        for split, infos in shards.items()
    }


def plan_shards(
    config: ShardConfig,
    *,
    source: Source,
    vocabulary: Vocabulary | None,
    scan: Scan,
    earlier: EarlierShards | None = None,
) -> ShardJob:
    """Settle the vocabulary and the splits.

    Raises:
        ValueError: for labels that the vocabulary lacks, and settings that do not fit the earlier shards.
    """
    is_earlier = vocabulary is None and earlier is not None
    if vocabulary is None:
        vocabulary = vocabulary_of(scan.labels) if earlier is None else earlier.vocabulary
    job = ShardJob(
        config=config,
        root=source.root,
        vocabulary=vocabulary,
        given_splits=scan.splits,
        from_vocabulary=source.layout == "folders",
        parents={"input": scan.fingerprint} | ({} if earlier is None else {"since": earlier.digest}),
        output=absolute_address(config.output),
    )
    if earlier is not None:
        earlier.require_same_settings(job)
    try:
        check_labels(scan.labels, job=job)
    except ValueError as error:
        more = f"; it is that of {config.since}, so for new names leave out --since, to shard all images"
        raise ValueError(f"{error}{more if is_earlier else ''}") from error
    return job
