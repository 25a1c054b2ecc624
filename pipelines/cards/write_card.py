"""Write the card of shards or of a model (`ecor card`); a registered model's card is its description in MLflow too."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.shard_manifest import MANIFEST_NAME, VOCABULARY_NAME, read_shard_manifest
from ecor.data.vocabulary import read_vocabulary
from ecor.evaluation.record import read_evaluation
from ecor.storage import filesystem
from pipelines.audit.certificate import read_certificate
from pipelines.cards.dataset_card import DatasetFacts, dataset_card
from pipelines.cards.model_card import ModelFacts, model_card
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import CardConfig
from pipelines.runtime.console import say
from pipelines.tracking.model_cache import fetch_model, pin_model
from pipelines.tracking.model_versions import ModelVersion, read_model_record

DATASET_CARD, MODEL_CARD = "dataset_card.md", "model_card.md"
_SUMMARY, _QUARANTINE = "summary.json", "quarantine.parquet"


def run(config: CardConfig, *, tracking: TrackingConfig | None = None) -> str:
    """Write the card, and return it. The same records give the same bytes; a person's description is not replaced.

    Raises:
        ValueError: for an address of neither shards nor a model, for an evaluation or an audit of another model, and as
            the readers of the records.
    """
    folder = _shards_folder(config.address)
    if folder is None:
        return _write_model_card(config, tracking=tracking or TrackingConfig())
    require(
        not config.evaluation and not config.audit,
        f"{config.address} holds shards: --evaluation and --audit are for the card of a model",
    )
    card = dataset_card(read_dataset_facts(folder))
    _write(card, config.output or filesystem.join(folder, DATASET_CARD))
    return card


def read_dataset_facts(folder: str) -> DatasetFacts:
    """The records in a folder of `ecor shard`.

    Raises:
        ValueError: when a manifest or the vocabulary is missing, altered or of other shards.
    """
    splits = _splits(folder)
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


def _splits(folder: str) -> list[str]:
    """Names of the finished splits in a folder."""
    entries = filesystem.list_folder(folder, follow_links=True)
    names = [entry.name for entry in entries if entry.is_folder]
    return [name for name in names if filesystem.exists(f"{filesystem.join(folder, name)}/{MANIFEST_NAME}")]


def _shards_folder(address: str) -> str | None:
    """The folder of shards that an address names, itself or by one of its splits; None for anything else."""
    if address.startswith("models:"):
        return None
    folder = address.rstrip("/")
    if filesystem.exists(filesystem.join(folder, VOCABULARY_NAME)) and _splits(folder):
        return folder
    parent = folder.rpartition("/")[0] if "/" in folder else "."
    is_split = filesystem.exists(filesystem.join(folder, "nshards.txt"))
    return parent if is_split and filesystem.exists(filesystem.join(parent, VOCABULARY_NAME)) else None


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


def _write_model_card(config: CardConfig, *, tracking: TrackingConfig) -> str:
    version = pin_model(config.address, tracking=tracking)
    card = model_card(read_model_facts(version, config=config, tracking=tracking))
    if version.version is not None:
        from pipelines.tracking.version_description import describe_version

        described = describe_version(version, card, tracking=tracking)
        say(f"{version.uri}: {described}", to_stdout=True)
    if config.output is not None or version.version is None:
        _write(card, config.output or filesystem.join(version.uri, MODEL_CARD))
    return card


def read_model_facts(version: ModelVersion, *, config: CardConfig, tracking: TrackingConfig) -> ModelFacts:
    """The records of a model and of what was measured of it; a registered model is downloaded once per machine."""
    folder: str | Path = version.uri if version.version is None else fetch_model(version, tracking=tracking)
    return ModelFacts(
        name=version.name if version.version is None else f"{version.name}, version {version.version}",
        checkpoint=read_model_record(str(folder)),
        evaluations=tuple(read_evaluation(each) for each in config.evaluation),
        certificates=tuple(read_certificate(each) for each in config.audit),
    )


def _write(card: str, path: str) -> None:
    filesystem.write(path, card.encode())
    say(f"card: {path}", to_stdout=True)
