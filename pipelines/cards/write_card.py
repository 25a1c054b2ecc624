"""Write the card of shards or of a model (`ecor card`); a registered model's card is its description in MLflow too."""

from ecor.config.checks import require
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.storage import filesystem
from pipelines.cards.dataset_card import dataset_card
from pipelines.cards.dataset_records import DATASET_CARD, read_dataset_facts, splits_in
from pipelines.cards.model_card import model_card
from pipelines.cards.model_records import read_model_facts
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import CardConfig
from pipelines.runtime.console import say
from pipelines.tracking.model_cache import pin_model

MODEL_CARD = "model_card.md"


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


def _shards_folder(address: str) -> str | None:
    """The folder of shards that an address names, itself or by one of its splits; None for anything else."""
    if address.startswith("models:"):
        return None
    folder = address.rstrip("/")
    if filesystem.exists(filesystem.join(folder, VOCABULARY_NAME)) and splits_in(folder):
        return folder
    parent = folder.rpartition("/")[0] if "/" in folder else "."
    is_split = filesystem.exists(filesystem.join(folder, "nshards.txt"))
    return parent if is_split and filesystem.exists(filesystem.join(parent, VOCABULARY_NAME)) else None


def _write_model_card(config: CardConfig, *, tracking: TrackingConfig) -> str:
    version = pin_model(config.address, tracking=tracking)
    if version.version is None:
        facts = read_model_facts(version.name, folder=version.uri, evaluations=config.evaluation, audits=config.audit)
    else:
        from pipelines.cards.version_card import describe, read_version_facts  # imports MLflow

        facts = read_version_facts(version, tracking=tracking, evaluations=config.evaluation, audits=config.audit)
        say(f"{version.uri}: {describe(version, facts, tracking=tracking)}", to_stdout=True)
    card = model_card(facts)
    if config.output is not None or version.version is None:
        _write(card, config.output or filesystem.join(version.uri, MODEL_CARD))
    return card


def _write(card: str, path: str) -> None:
    filesystem.write(path, card.encode())
    say(f"card: {path}", to_stdout=True)
