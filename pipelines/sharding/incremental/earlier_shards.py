"""Finished shards whose tars a new job takes over (`ecor shard --since`): both must have the same settings."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import require
from ecor.data.shard_manifest import MANIFEST_NAME, VOCABULARY_NAME, ShardManifest, read_shard_manifest
from ecor.data.shards import INDEX_SCHEMA, read_index
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage import filesystem
from pipelines.config.identity import describe_changes, output_settings
from pipelines.config.infrastructure import absolute_address
from pipelines.config.stages import ShardConfig
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.incremental.image_record import read_record
from pipelines.sharding.shard_job import ShardJob, digest_of
from pipelines.sharding.shard_units import KeptTar
from pipelines.storage.image_bytes import is_within

_NUM_READERS = 8
_MEMBER_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in ("key", "member_offset", "member_num_bytes")])


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierShards:
    """Shards of an earlier job."""

    folder: str
    """Absolute address."""
    manifests: Mapping[str, ShardManifest]
    """By split."""
    vocabulary: Vocabulary
    record: pa.Table
    """All valid images, with `pipelines.sharding.incremental.image_record.RECORD_SCHEMA`."""

    @property
    def digest(self) -> str:
        return digest_of({split: manifest.digest for split, manifest in self.manifests.items()})

    @property
    def tars(self) -> list[tuple[str, KeptTar]]:
        """Split and place of each tar, by split, in the order of the manifests."""
        return [
            (split, KeptTar(folder=f"{self.folder}/{split}", info=info))
            for split in sorted(self.manifests)
            for info in self.manifests[split].shards
        ]

    def read_members(self) -> pa.Table:
        """Of each sample: key, `tar` (position in `tars`), offset, size, and digest as the record has it.

        Raises:
            ValueError: when an index is missing or altered.
            OSError: when a disk or a store fails.
        """
        tars = self.tars
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            tables = list(pool.map(lambda each: _read_members(each[1]), tars))
        found = pa.concat_tables([_MEMBER_SCHEMA.empty_table(), *tables]).combine_chunks()
        tar = np.repeat(np.arange(len(tars)), [table.num_rows for table in tables])
        staying = self.record.filter(pc.is_valid(self.record["sample_digest"]))
        position = pc.index_in(found["key"], value_set=staying["key"], skip_nulls=True)
        digests = staying["sample_digest"].take(position)
        return found.append_column("tar", pa.array(tar)).append_column("sample_digest", digests)

    def require_same_settings(self, job: ShardJob) -> None:
        """Check that a job makes such shards.

        Args:
            job: the new job.

        Raises:
            ValueError: naming what differs.
        """
        for manifest in self.manifests.values():
            if manifest.vocabulary_digest != job.vocabulary.digest:
                raise ValueError(
                    f"the shards of {self.folder} have the vocabulary {manifest.vocabulary_digest[:12]}…, and their "
                    f"tars hold ids of it; this one is {job.vocabulary.digest[:12]}…. Pass --vocabulary "
                    f"{self.folder}/{VOCABULARY_NAME}, or leave out --since, to shard all images"
                )
            if manifest.config_digest != job.config_digest:
                changes = self._describe_settings(job.config)
                raise ValueError(
                    f"the shards of {self.folder} were made with other settings ({changes}): repeat those, or leave "
                    "out --since, to shard all images"
                )

    def _describe_settings(self, config: ShardConfig) -> str:
        asked, found = output_settings(config), dict[str, Any]()
        with suppress(ValueError, OSError, KeyError):  # only names what differs
            found = json.loads(filesystem.read(filesystem.join(self.folder, "summary.json")))["config"]
        return describe_changes({name: found[name] for name in asked if name in found}, asked) if found else "see there"


def read_earlier_shards(config: ShardConfig) -> EarlierShards | None:
    """Open the shards of `config.since`; None without it. No tar is read.

    Raises:
        ValueError: when they are not finished, are the output itself, or have no record of their images.
        OSError: when a disk or a store fails.
    """
    if config.since is None:
        return None
    folder = absolute_address(config.since)
    require(
        not is_within(absolute_address(config.output), folder=folder),
        f"--output {config.output} is --since {config.since}, or lies in it: name another output, the earlier "
        "shards stay as they are",
    )
    names = retry_in_store(lambda: filesystem.list_folder(folder, follow_links=True), place=folder)
    found = [
        each.name for each in names if each.is_folder and filesystem.exists(f"{folder}/{each.name}/{MANIFEST_NAME}")
    ]
    require(
        bool(found),
        f"{config.since} holds no finished shards: name the output folder of an `ecor shard` that ran to its end, not "
        "one of its splits",
    )
    manifests = {split: read_shard_manifest(f"{folder}/{split}") for split in found}
    return EarlierShards(
        folder=folder,
        manifests=manifests,
        vocabulary=read_vocabulary(f"{folder}/{VOCABULARY_NAME}"),
        record=read_record(folder, manifests=manifests),
    )


def _read_members(tar: KeptTar) -> pa.Table:
    try:
        index = read_index(tar.folder, tar.info)
    except FileNotFoundError as error:
        raise ValueError(f"{tar.folder}/{tar.info.index} is missing: leave out --since, to shard all images") from error
    return index.select(_MEMBER_SCHEMA.names).cast(_MEMBER_SCHEMA)
