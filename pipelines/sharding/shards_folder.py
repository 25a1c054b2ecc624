"""The output folder of `ecor shard`: find what an earlier run finished, publish shards and manifests, clear."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.shard_manifest import (
    MANIFEST_NAME,
    ShardManifest,
    read_shard_manifest,
    write_shard_manifest,
    write_side_files,
    write_text,
)
from ecor.storage import filesystem as store
from pipelines.runtime.balance import Balance
from pipelines.runtime.console import say
from pipelines.sharding.flows.flow import Flow
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import How
from pipelines.sharding.sources.source_places import Source
from pipelines.storage.work_ledger import WorkLedger

LEDGER, WORK = "_ledger", "_work"
QUARANTINE = "quarantine.parquet"


def read_finished(job: ShardJob, *, flow: Flow) -> dict[str, ShardManifest] | None:
    """Read the manifests of a finished run of this job; None if it is not finished, or a shard is missing or altered.

    With `fresh`, the output is cleared instead.

    Args:
        job: settings and output folder.
        flow: where the shards are verified.

    Raises:
        ValueError: when the folder holds the output of other settings or another input, or a manifest was altered.
        OSError: when a disk or a store fails.
    """
    if job.config.fresh:
        clear_output(job.output)
        return None
    manifests = {}
    for split in store.names_in(job.output):
        if store.exists(f"{job.output}/{split}/{MANIFEST_NAME}"):
            manifests[split] = read_shard_manifest(f"{job.output}/{split}")
            _check_parents(manifests[split], job=job)
    others = [name for name in store.names_in(f"{job.output}/{LEDGER}") if name != job.name]
    begun = [name for name in others if not WorkLedger(f"{job.output}/{LEDGER}/{name}").is_unused()]
    if begun:
        raise _other_output_error(job, f"a run with digest {begun[0]} was begun there, this one is {job.name}")
    if set(manifests) != set(job.splits):
        return None
    shards = [(f"{job.output}/{split}", shard) for split, manifest in manifests.items() for shard in manifest.shards]
    return manifests if flow.all_intact(shards) else None


def _check_parents(manifest: ShardManifest, *, job: ShardJob) -> None:
    now = {"config": job.config_digest, "vocabulary": job.vocabulary.digest, **job.parents}
    then = {"config": manifest.config_digest, "vocabulary": manifest.vocabulary_digest, **manifest.parents}
    changed = [f"{name} was {then.get(name)}, is {digest}" for name, digest in now.items() if then.get(name) != digest]
    if changed:
        raise _other_output_error(job, "; ".join(changed))


def _other_output_error(job: ShardJob, difference: str) -> ValueError:
    return ValueError(f"{job.output} was made from something else ({difference}): name another output, or pass --fresh")


def publish_shards(job: ShardJob, manifests: Mapping[str, ShardManifest]) -> None:
    """Write the side files, then the manifest of each split.

    Shards that no manifest names are removed before their split's manifest is written, and the work folder at the end.

    Args:
        job: vocabulary and output folder.
        manifests: manifest of each split.

    Raises:
        OSError: when a disk or a store fails.
    """
    write_side_files(job.output, vocabulary=job.vocabulary)
    for split, manifest in manifests.items():
        folder = f"{job.output}/{split}"
        write_text(f"{len(manifest.shards)}\n", folder=folder, name="nshards.txt")
        named = {name for shard in manifest.shards for name in (shard.name, shard.index)}
        _remove_names(folder, [name for name in store.names_in(folder) if _is_shard_file(name) and name not in named])
        write_shard_manifest(manifest, folder)
    _remove_names(job.output, [WORK])


def clear_output(output: str) -> None:
    """Forget what was made here: manifests first, so that nobody reads half of it."""
    splits = [name for name in store.names_in(output) if store.exists(f"{output}/{name}/{MANIFEST_NAME}")]
    for split in splits:
        _remove_names(f"{output}/{split}", [MANIFEST_NAME])
    _remove_names(output, [LEDGER, WORK])
    for split in splits:
        _remove_names(
            f"{output}/{split}", [name for name in store.names_in(f"{output}/{split}") if _is_shard_file(name)]
        )


def _remove_names(folder: str, names: Sequence[str]) -> None:
    for name in names:
        store.remove(store.join(folder, name))


def _is_shard_file(name: str) -> bool:
    return name.endswith((".tar", ".index.parquet", ".tmp"))


def write_rows(schema: pa.Schema, folder: str, name: str, *tables: pa.Table) -> None:
    """Write tables as one Parquet file, sorted by the columns from the first on, which is `source`.

    Args:
        schema: columns of the file; the tables have them, and may have more.
        folder: address of the folder.
        name: name of the file.
        *tables: the rows.

    Raises:
        OSError: when the disk or the store fails.
    """
    rows = [table.select(schema.names).cast(schema) for table in tables if table.num_rows]
    order = [(column, "ascending") for column in schema.names]
    with store.write_atomically(folder, name) as path:
        pq.write_table(pa.concat_tables([schema.empty_table(), *rows]).sort_by(order), path, compression="zstd")


def read_rejected(job: ShardJob, *, manifests: Mapping[str, ShardManifest]) -> dict[str, int]:
    """Rejected images by reason, as the quarantine table has them; without reasons where someone has removed it."""
    path = store.join(job.output, QUARANTINE)
    if not store.exists(path):
        return {"unknown": sum(manifest.num_rejected for manifest in manifests.values())}
    with store.open_file(path) as file:
        return Counter(pq.ParquetFile(file).read(columns=["reason"], use_threads=False)["reason"].to_pylist())


def write_summary(
    job: ShardJob,
    *,
    manifests: Mapping[str, ShardManifest],
    source: Source,
    how: Counter[How],
    balance: Balance,
    num_multipicture: int,
    flow: Flow,
    seconds: float,
    increment: Mapping[str, Any] | None = None,
) -> None:
    """Write `summary.json` into the output folder, and print the same figures as one line.

    Args:
        job: settings and output folder.
        manifests: manifest of each split.
        source: layout of the input.
        how: number of shards that were written, taken over, linked or made by another job; all others count as kept.
        balance: of the stage.
        num_multipicture: images whose files hold more pictures.
        flow: where the job ran.
        seconds: duration of the stage.
        increment: what became of earlier shards, for a job with `since`.

    Raises:
        OSError: when a disk or a store fails.
    """
    num_shards = sum(len(manifest.shards) for manifest in manifests.values())
    num_written = how["done"] + how["taken over"]
    num_kept = num_shards - num_written - how["by another job"] - how["linked"]
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
        "num_multipicture": num_multipicture,
        "balance": balance.to_record(),
        "splits": {split: manifest.num_samples for split, manifest in manifests.items()},
        "num_shards_written": num_written,
        "num_shards_taken_over": how["taken over"],
        "num_shards_by_others": how["by another job"],
        "num_shards_kept": num_kept,
        "num_shards_linked": how["linked"],
        "in_process": flow.is_local,
        "seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 1),
        "config": asdict(job.config),
        "vocabulary_digest": job.vocabulary.digest,
        "manifest_digests": {split: manifest.digest for split, manifest in manifests.items()},
    }
    if increment is not None:
        summary["since"] = increment
    write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", folder=job.output, name="summary.json")
    say(_summary_line(summary, num_shards=num_shards, how=how, output=job.output))


def _summary_line(summary: Mapping[str, Any], *, num_shards: int, how: Counter[How], output: str) -> str:
    taken_over = f" ({how['taken over']} taken over)" if how["taken over"] else ""
    linked = f", {how['linked']} of the earlier shards" if how["linked"] else ""
    by_others = f", {how['by another job']} by another job" if how["by another job"] else ""
    return (
        f"sharded {summary['num_samples']} images into {num_shards} shards ({summary['num_shards_kept']} kept, "
        f"{summary['num_shards_written']} written{taken_over}{linked}{by_others}), {summary['num_rejected']} rejected, "
        f"{summary['num_duplicates']} copies left out, in {summary['seconds']:.1f} s, "
        f"{summary['images_per_second']:.1f} images/s: {output}"
    )
