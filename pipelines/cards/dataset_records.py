"""Read the records in a folder of shards, and write the dataset card that is made from them beside the shards."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.shard_manifest import MANIFEST_NAME, VOCABULARY_NAME, read_shard_manifest
from ecor.data.vocabulary import read_vocabulary
from ecor.storage import filesystem
from pipelines.cards.dataset_card import DatasetFacts, dataset_card, is_card_of
from pipelines.runtime.console import say

DATASET_CARD = "dataset_card.md"
_SUMMARY, _QUARANTINE = "summary.json", "quarantine.parquet"


def keep_dataset_card(folder: str) -> None:
    """Write the card of finished shards, unless there is one of exactly these shards.

    So a card that somebody has completed stays. The shards count without their card: an error is only reported.
    """
    path = filesystem.join(folder, DATASET_CARD)
    try:
        facts = read_dataset_facts(folder)
        if not (filesystem.exists(path) and is_card_of(facts, filesystem.read(path).decode(errors="replace"))):
            filesystem.write(path, dataset_card(facts).encode())
    except (ValueError, OSError) as error:
        say(f"there is no new dataset card ({error}): write it with `ecor card {folder}`")


def read_dataset_facts(folder: str) -> DatasetFacts:
    """The records in a folder of `ecor shard`.

    Raises:
        ValueError: when a manifest or the vocabulary is missing, altered or of other shards.
    """
    splits = splits_in(folder)
    manifests = tuple(read_shard_manifest(filesystem.join(folder, split)) for split in splits)
    summary = _read_summary(folder)
    digests = {each.split: each.digest for each in manifests}
    return DatasetFacts(
        name=folder.rstrip("/").rpartition("/")[2] or folder,
        manifests=manifests,
        vocabulary=read_vocabulary(filesystem.join(folder, VOCABULARY_NAME)),
        summary=summary if summary and summary.get("manifest_digests") == digests else None,
        rejected=_read_rejected(folder),
    )


def splits_in(folder: str) -> list[str]:
    """Names of the finished splits in a folder."""
    entries = filesystem.list_folder(folder, follow_links=True)
    names = [entry.name for entry in entries if entry.is_folder]
    return [name for name in names if filesystem.exists(f"{filesystem.join(folder, name)}/{MANIFEST_NAME}")]


def _read_summary(folder: str) -> Mapping[str, Any] | None:
    path = filesystem.join(folder, _SUMMARY)
    try:
        found = json.loads(filesystem.read(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}): shard again, or remove it") from error
    require(isinstance(found, dict), f"{path} is no summary of `ecor shard`: shard again, or remove it")
    return found


def _read_rejected(folder: str) -> Mapping[str, int] | None:
    path = filesystem.join(folder, _QUARANTINE)
    if not filesystem.exists(path):
        return None
    with filesystem.open_file(path) as file:
        return Counter(pq.ParquetFile(file).read(columns=["reason"], use_threads=False)["reason"].to_pylist())
