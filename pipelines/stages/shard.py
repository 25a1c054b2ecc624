"""A folder or table of images in, verified WebDataset tars and a manifest per split out (Ray Data).

Workers list, read, hash and validate; Ray Data finds the copies and sorts; one task writes one shard and commits it to
the ledger. The driver holds folders, counts and shards, never images. An interrupted run goes on where it was.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import Dataset

from ecor.data.shards import (
    MANIFEST_NAME,
    ShardManifest,
    read_manifest,
    write_manifest,
    write_side_files,
    write_text,
)
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage import filesystem as store
from pipelines.config.infrastructure import ClusterConfig, absolute_address
from pipelines.config.stages import ShardConfig
from pipelines.runtime.cluster import connect
from pipelines.runtime.console import say
from pipelines.runtime.prometheus import IMAGES_QUARANTINED, IMAGES_SEEN, count
from pipelines.runtime.ray_data import (
    count_rows,
    map_blocks,
    materialize,
    raise_causes,
    ray_data_settings,
    write_table,
)
from pipelines.sharding.deduplication import with_copies_marked
from pipelines.sharding.inspection import (
    IMAGES_PER_READ,
    INSPECTED_SCHEMA,
    Label,
    ShardJob,
    check_labels,
    digest_of,
    inspected,
    labels_in,
    vocabulary_of,
)
from pipelines.sharding.listing import Place, Source, find_source, listed
from pipelines.sharding.shard_writer import How, all_intact, written
from pipelines.storage.work_ledger import WorkLedger

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "stage", "reason", "detail")])
DUPLICATES_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "sha256", "duplicate_of")])
_IMAGES_PER_BLOCK = 1024
_IMAGES_PER_BUCKET = 4096
_LEDGER, _WORK = "_ledger", "_work"
_INSPECTED = "inspected"


def run(config: ShardConfig, *, cluster: ClusterConfig | None = None) -> dict[str, ShardManifest]:
    """Write the shards of every split, and return the manifests by split.

    What an earlier run has finished is verified and kept. Raises ValueError for an input that fits no layout, labels
    that the vocabulary lacks, more rejected images than `max_rejected`, and an output made from something else.
    """
    started = time.perf_counter()
    cluster = cluster or ClusterConfig()
    source = find_source(config)
    vocabulary_file = config.vocabulary or source.vocabulary
    vocabulary = read_vocabulary(vocabulary_file) if vocabulary_file else None
    with connect(cluster, stage="shard"), ray_data_settings(cluster, bars=True), raise_causes():
        listing = _listing(source)
        job = _job(config, source=source, vocabulary=vocabulary, listing=listing)
        manifests, how = _finished(job), Counter[How]()
        if manifests is None:
            manifests, how = _made(job, listing=listing, cluster=cluster)
        _summarise(job, manifests=manifests, source=source, how=how, seconds=time.perf_counter() - started)
    return manifests


def _made(job: ShardJob, *, listing: Dataset, cluster: ClusterConfig) -> tuple[dict[str, ShardManifest], Counter[How]]:
    """Make the shards, unless another job on this output comes to the end first."""
    ledger = WorkLedger(f"{job.output}/{_LEDGER}/{job.name}", lease_s=cluster.lease_s)
    with ledger.hold_lease():
        try:
            with raise_causes():
                return _sharded(job, listing=listing, ledger=ledger)
        except OSError:
            manifests = _finished(replace(job, config=replace(job.config, fresh=False)))
            if manifests is None:
                raise
            return manifests, Counter()  # what is only needed on the way was gone


def _sharded(job: ShardJob, *, listing: Dataset, ledger: WorkLedger) -> tuple[dict[str, ShardManifest], Counter[How]]:
    found = _inspected(job, listing=listing, ledger=ledger)
    rejected = _quarantined(job, found=found, ledger=ledger)
    marked = _marked(found)
    dropped = map_blocks(marked, _dropped)
    write_table(dropped, schema=DUPLICATES_SCHEMA, folder=job.output, name="duplicates.parquet")
    num_dropped = count_rows(dropped, columns=("split",))
    unique = map_blocks(marked, _staying).sort(["split", "key"])
    made = written(job, blocks=materialize(unique).to_arrow_refs(), ledger=ledger, tell=say)
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
    _publish(job, manifests)
    return manifests, Counter(shard.how for shards in made.values() for shard in shards)


# What there is


def _listing(source: Source) -> Dataset:
    places = [{"place": json.dumps(asdict(place))} for place in source.places]
    one_each = ray.data.from_items(places, override_num_blocks=len(places))
    tables = one_each.map_batches(_list_batch, batch_size=1, batch_format="pyarrow")
    return tables.repartition(target_num_rows_per_block=_IMAGES_PER_BLOCK).materialize()


def _list_batch(batch: pa.Table) -> Iterator[pa.Table]:
    for place in batch["place"].to_pylist():
        yield from listed(Place(**json.loads(place)))


def _job(config: ShardConfig, *, source: Source, vocabulary: Vocabulary | None, listing: Dataset) -> ShardJob:
    fingerprint, labels = _looked_through(listing)
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


def _looked_through(listing: Dataset) -> tuple[str, list[Label]]:
    """A digest of the listing, whatever its order, and the distinct labels in it."""
    total, num_images = 0, 0
    sources: dict[tuple[Any, ...], Label] = {}
    for row in map_blocks(listing, _look_through).iter_rows():
        total += int(row["sum"], 16)
        num_images += row["num_images"]
        for label in (Label(**fields) for fields in json.loads(row["labels"])):
            name = (label.split, label.category, label.rationale, label.is_visible)
            sources[name] = min(label, sources.get(name, label), key=lambda each: each.source)
    return digest_of([num_images, total % 2**256]), [sources[name] for name in sorted(sources, key=str)]


def _look_through(table: pa.Table) -> pa.Table:
    total = sum(int(digest_of(row), 16) for row in table.to_pylist())
    labels = json.dumps([asdict(label) for label in labels_in(table)])
    return pa.Table.from_pylist([{"num_images": table.num_rows, "sum": f"{total:x}", "labels": labels}])


# What each image is


def _inspected(job: ShardJob, *, listing: Dataset, ledger: WorkLedger) -> Dataset:
    """Findings about every image (INSPECTED_SCHEMA): kept on disk until the stage is done, so that none is lost."""
    found = ledger.record(_INSPECTED)
    if found is not None and not store.exists(found["folder"]):
        ledger.discard(_INSPECTED, found)
        found = None
    while found is None:
        attempt = ledger.claim(_INSPECTED)
        if attempt is None:
            ledger.wait([_INSPECTED], tell=say)
            found = ledger.record(_INSPECTED)
            continue
        folder = f"{job.output}/{_WORK}/{attempt.name}"
        inspect = partial(inspected, job=job)
        findings = listing.map_batches(inspect, batch_size=IMAGES_PER_READ, batch_format="pyarrow")
        file_system, path = store.store_of(folder)  # fsspec's, as everywhere: one client, one set of credentials
        findings.write_parquet(path, filesystem=file_system, try_create_dir=store.is_local(folder))
        found = ledger.commit(attempt, {"folder": folder})
    return _read_parts(found["folder"])


def _read_parts(folder: str) -> Dataset:
    """What `write_parquet` wrote, in the object store; `read_parquet` takes seconds to begin, each time it is used."""
    paths = [{"path": store.join(folder, name)} for name in store.names_in(folder)]
    parts = ray.data.from_items(paths, override_num_blocks=len(paths))
    return parts.map_batches(_read_part, batch_size=1, batch_format="pyarrow").materialize()


def _read_part(batch: pa.Table) -> pa.Table:
    with store.opened(batch["path"][0].as_py()) as file:
        return pq.ParquetFile(file).read(use_threads=False).cast(INSPECTED_SCHEMA)


def _quarantined(job: ShardJob, *, found: Dataset, ledger: WorkLedger) -> Counter[tuple[str, ...]]:
    """Write the quarantine table; counts by (split, reason), or ValueError when there are more than allowed."""
    rejected = map_blocks(found, _rejected)
    write_table(rejected, schema=QUARANTINE_SCHEMA, folder=job.output, name="quarantine.parquet")
    counts = count_rows(rejected, columns=("split", "reason"))
    num_images, num_rejected = found.count(), sum(counts.values())
    count(IMAGES_SEEN, num_images, stage="shard")
    for (_, reason), number in counts.items():
        count(IMAGES_QUARANTINED, number, stage="shard", reason=reason)
    if num_rejected > job.config.max_rejected * num_images:
        done = ledger.read_commits()
        if done.keys() == {_INSPECTED}:
            ledger.discard(_INSPECTED, done[_INSPECTED])  # the user may mend the images: look at them again
        again = "run the same command again" if done.keys() <= {_INSPECTED} else "start over with --fresh"
        reasons: Counter[str] = Counter()
        for (_, reason), number in counts.items():
            reasons[reason] += number
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        raise ValueError(
            f"{num_rejected} of {num_images} images are rejected ({told}), more than max_rejected = "
            f"{job.config.max_rejected:g} allows: see {job.output}/quarantine.parquet, mend the images and {again}, or "
            f"allow more with --max-rejected"
        )
    return counts


def _rejected(table: pa.Table) -> pa.Table:
    table = table.filter(pc.is_valid(table["reason"]))
    stage = pa.array(["shard"] * table.num_rows, pa.string())
    return table.append_column("stage", stage).select(QUARANTINE_SCHEMA.names)


# Which images stay


def _marked(found: Dataset) -> Dataset:
    """All valid images; those whose bytes another one has are marked with it."""
    num_buckets = max(1, -(-found.count() // _IMAGES_PER_BUCKET))
    valid = map_blocks(found, partial(_bucketed, num_buckets=num_buckets))
    return materialize(valid.groupby("bucket").map_groups(with_copies_marked, batch_format="pyarrow"))


def _bucketed(table: pa.Table, *, num_buckets: int) -> pa.Table:
    """Copies meet in one bucket of thousands, because Ray Data takes as long for a group of one."""
    table = table.filter(pc.is_null(table["reason"]))
    buckets = [int(sha256[:8], 16) % num_buckets for sha256 in table["sha256"].to_pylist()]
    return table.append_column("bucket", pa.array(buckets, pa.int64()))


def _dropped(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["duplicate_of"])).select(DUPLICATES_SCHEMA.names)


def _staying(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["duplicate_of"]))


# The output folder


def _finished(job: ShardJob) -> dict[str, ShardManifest] | None:
    """What a run that came to its end has left, if intact; ValueError when the folder holds something else's output."""
    if job.config.fresh:
        _clear(job.output)
        return None
    manifests = {}
    for split in store.names_in(job.output):
        if store.exists(f"{job.output}/{split}/{MANIFEST_NAME}"):
            manifests[split] = read_manifest(f"{job.output}/{split}")
            _check_parents(manifests[split], job=job)
    others = [name for name in store.names_in(f"{job.output}/{_LEDGER}") if name != job.name]
    begun = [name for name in others if not WorkLedger(f"{job.output}/{_LEDGER}/{name}").is_unused()]
    if begun:
        raise _other(job, f"a run with digest {begun[0]} was begun there, this one is {job.name}")
    if set(manifests) != set(job.splits):
        return None
    shards = [(f"{job.output}/{split}", shard) for split, manifest in manifests.items() for shard in manifest.shards]
    return manifests if all_intact(shards) else None


def _check_parents(manifest: ShardManifest, *, job: ShardJob) -> None:
    now = {"config": job.config_digest, "vocabulary": job.vocabulary.digest, **job.parents}
    then = {"config": manifest.config_digest, "vocabulary": manifest.vocabulary_digest, **manifest.parents}
    changed = [f"{name} was {then.get(name)}, is {digest}" for name, digest in now.items() if then.get(name) != digest]
    if changed:
        raise _other(job, "; ".join(changed))


def _other(job: ShardJob, told: str) -> ValueError:
    return ValueError(f"{job.output} was made from something else ({told}): name another output, or pass --fresh")


def _publish(job: ShardJob, manifests: Mapping[str, ShardManifest]) -> None:
    """Side files, then manifests; last, all that no manifest names goes."""
    write_side_files(job.output, vocabulary=job.vocabulary)
    for split, manifest in manifests.items():
        folder = f"{job.output}/{split}"
        write_text(f"{len(manifest.shards)}\n", folder=folder, name="nshards.txt")
        named = {name for shard in manifest.shards for name in (shard.name, shard.index)}
        _remove(folder, [name for name in store.names_in(folder) if _is_ours(name) and name not in named])
        write_manifest(manifest, folder)
    _remove(job.output, [_WORK])


def _clear(output: str) -> None:
    """Forget what was made here: manifests first, so that nobody reads half of it."""
    splits = [name for name in store.names_in(output) if store.exists(f"{output}/{name}/{MANIFEST_NAME}")]
    for split in splits:
        _remove(f"{output}/{split}", [MANIFEST_NAME])
    _remove(output, [_LEDGER, _WORK])
    for split in splits:
        _remove(f"{output}/{split}", [name for name in store.names_in(f"{output}/{split}") if _is_ours(name)])


def _remove(folder: str, names: Sequence[str]) -> None:
    for name in names:
        store.remove(store.join(folder, name))


def _is_ours(name: str) -> bool:
    return name.endswith((".tar", ".index.parquet", ".tmp"))


def _summarise(
    job: ShardJob, *, manifests: Mapping[str, ShardManifest], source: Source, how: Counter[How], seconds: float
) -> None:
    num_shards = sum(len(manifest.shards) for manifest in manifests.values())
    num_written = how["done"] + how["taken over"]
    num_kept = num_shards - num_written - how["by another job"]
    totals = {
        name: sum(getattr(manifest, name) for manifest in manifests.values())
        for name in ("num_samples", "num_rejected", "num_duplicates")
    }
    num_images = sum(totals.values())
    summary = {
        "stage": "shard",
        "input": job.config.input,
        "layout": source.layout,
        **totals,
        "num_ignored": source.num_ignored,
        "splits": {split: manifest.num_samples for split, manifest in manifests.items()},
        "num_shards_written": num_written,
        "num_shards_taken_over": how["taken over"],
        "num_shards_by_others": how["by another job"],
        "num_shards_kept": num_kept,
        "seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 1),
        "config": asdict(job.config),
        "vocabulary_digest": job.vocabulary.digest,
        "manifest_digests": {split: manifest.digest for split, manifest in manifests.items()},
    }
    write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", folder=job.output, name="summary.json")
    taken_over = f" ({how['taken over']} taken over)" if how["taken over"] else ""
    by_others = f", {how['by another job']} by another job" if how["by another job"] else ""
    say(
        f"sharded {totals['num_samples']} images into {num_shards} shards ({num_kept} kept, {num_written} written"
        f"{taken_over}{by_others}), {totals['num_rejected']} rejected, {totals['num_duplicates']} copies left out, in "
        f"{seconds:.1f} s, {num_images / seconds:.1f} images/s: {job.output}"
    )
