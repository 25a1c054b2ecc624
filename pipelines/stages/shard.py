"""Write a folder or table of images as verified WebDataset tars, with a manifest per split (`ecor shard`).

Workers list, read, hash and validate the images. Ray Data finds duplicates and sorts. One task writes one shard and
commits it to the ledger. The driver holds folders, counts and shard records, never images. The same command resumes an
interrupted run.
"""

import time
from collections import Counter
from dataclasses import replace

from ray.data import Dataset

from ecor.data.shard_manifest import ShardManifest
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from pipelines.config.infrastructure import ClusterConfig, absolute_address
from pipelines.config.stages import ShardConfig
from pipelines.runtime.cluster import connect
from pipelines.runtime.console import say
from pipelines.runtime.ray_data import (
    count_rows,
    map_blocks,
    materialize,
    raise_causes,
    ray_data_settings,
    write_table,
)
from pipelines.sharding.dataflow import (
    DUPLICATES_SCHEMA,
    duplicate_rows,
    inspect_all,
    list_all,
    mark_duplicates,
    scan_listing,
    unique_rows,
    write_quarantine,
)
from pipelines.sharding.folder_gaps import describe_gaps
from pipelines.sharding.folder_layout import Source, find_source
from pipelines.sharding.inspection import (
    ShardJob,
    check_labels,
    vocabulary_of,
)
from pipelines.sharding.shard_writer import How, write_shards
from pipelines.sharding.shards_folder import LEDGER, publish_shards, read_finished, write_summary
from pipelines.storage.work_ledger import WorkLedger


def run(config: ShardConfig, *, cluster: ClusterConfig | None = None) -> dict[str, ShardManifest]:
    """Write the shards of every split, and return the manifests by split.

    What an earlier run has finished is verified and kept. Raises ValueError for an input that fits no layout, labels
    that the vocabulary lacks, more rejected images than `max_rejected`, and an output made from something else.
    """
    started = time.perf_counter()
    cluster = cluster or ClusterConfig()
    source = find_source(config)
    say(source.describe())
    vocabulary_file = config.vocabulary or source.vocabulary
    vocabulary = read_vocabulary(vocabulary_file) if vocabulary_file else None
    with connect(cluster, stage="shard"), ray_data_settings(cluster, bars=True), raise_causes():
        listing = list_all(source)
        for line in describe_gaps(source, listing=listing):
            say(line)
        job = plan_job(config, source=source, vocabulary=vocabulary, listing=listing)
        manifests, how = read_finished(job), Counter[How]()
        if manifests is None:
            manifests, how = make_shards(job, listing=listing, cluster=cluster)
        write_summary(job, manifests=manifests, source=source, how=how, seconds=time.perf_counter() - started)
    return manifests


def make_shards(
    job: ShardJob, *, listing: Dataset, cluster: ClusterConfig
) -> tuple[dict[str, ShardManifest], Counter[How]]:
    """Make the shards, unless another job on this output finishes first."""
    ledger = WorkLedger(f"{job.output}/{LEDGER}/{job.name}", lease_s=cluster.lease_s)
    with ledger.hold_lease():
        try:
            with raise_causes():
                return shard_images(job, listing=listing, ledger=ledger)
        except OSError:
            manifests = read_finished(replace(job, config=replace(job.config, fresh=False)))
            if manifests is None:
                raise
            return manifests, Counter()  # the other job had removed intermediate files


def shard_images(
    job: ShardJob, *, listing: Dataset, ledger: WorkLedger
) -> tuple[dict[str, ShardManifest], Counter[How]]:
    """Inspect the images, drop rejected and duplicate ones, write the rest; returns manifests, and shards by how."""
    found = inspect_all(job, listing=listing, ledger=ledger)
    rejected = write_quarantine(job, found=found, ledger=ledger)
    marked = mark_duplicates(found)
    dropped = map_blocks(marked, duplicate_rows)
    write_table(dropped, schema=DUPLICATES_SCHEMA, folder=job.output, name="duplicates.parquet")
    num_dropped = count_rows(dropped, columns=("split",))
    unique = map_blocks(marked, unique_rows).sort(["split", "key"])
    made = write_shards(job, blocks=materialize(unique).to_arrow_refs(), ledger=ledger, tell=say)
    manifests = {
        split: ShardManifest(
            split=split,
            shards=tuple(shard.info for shard in shards),
            vocabulary_digest=job.vocabulary.digest,
            num_samples=sum(shard.info.num_samples for shard in shards),
            num_rejected=sum(count for (in_split, _), count in rejected.items() if in_split == split),
            num_duplicates=num_dropped[(split,)],
            config_digest=job.config_digest,
            parents=job.parents,
        )
        for split, shards in made.items()
    }
    publish_shards(job, manifests)
    return manifests, Counter(shard.how for shards in made.values() for shard in shards)


def plan_job(config: ShardConfig, *, source: Source, vocabulary: Vocabulary | None, listing: Dataset) -> ShardJob:
    """Settle the vocabulary and the splits. Raises ValueError for labels that the vocabulary lacks."""
    fingerprint, labels = scan_listing(listing)
    given = tuple(sorted({label.split for label in labels if label.split is not None}))
    job = ShardJob(
        config=config,
        root=source.root,
        vocabulary=vocabulary or vocabulary_of(labels),
        given_splits=given,
        from_vocabulary=source.layout == "folders",
        parents={"input": fingerprint},
        output=absolute_address(config.output),
    )
    check_labels(labels, job=job)
    return job
