"""Make shards of the reviewed images, tune the model of the labels on with them, and register it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from ecor.config.checks import require
from ecor.config.model import PromptConfig
from ecor.config.scoring import MethodName
from ecor.config.training import FitConfig, ObjectiveConfig, ObjectiveName
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.shard_manifest import VOCABULARY_NAME, ShardManifest
from ecor.data.shards import read_index
from ecor.data.vocabulary import Vocabulary
from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address
from pipelines.config.learning import LearnConfig
from pipelines.config.stages import RegisterConfig, ShardConfig
from pipelines.config.training import TrainConfig
from pipelines.learning.corrections import iterate_names
from pipelines.learning.extended_vocabulary import extend_vocabulary, new_names
from pipelines.learning.initial_model import OBJECTIVE_OF, InitialModel, open_initial_model
from pipelines.learning.reviewed_images import PRODUCTS, REVIEWED_NAME, ReviewedImages, write_reviewed_images
from pipelines.runtime.balance import Balance, add_counts
from pipelines.runtime.console import say
from pipelines.stages import register, shard, train
from pipelines.storage.image_source import ImageSource
from pipelines.tracking.model_versions import ModelVersion
from pipelines.training.runs.run_folder import RUN, SUMMARY
from pipelines.training.runs.saved_states import has_states

SHARDS_FOLDER, RUN_FOLDER = "shards", "run"
WARMUP_STEPS = 2
"""An epoch of few images has few steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before anything is tuned."""

    initial: InitialModel
    vocabulary: Vocabulary
    """Of the labels, with the reviewers' names."""
    new_names: tuple[str, ...]
    images: ReviewedImages


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A model that was tuned on with corrections."""

    candidate: ModelVersion
    num_explained: Mapping[str, int]
    """Images with category and rationale, by split; `test` is held out."""
    balance: Balance
    """What became of all reviewed images."""


def prepare(
    config: LearnConfig, predictions: PredictionSet, reviewed: pa.Table, *, tracking: TrackingConfig
) -> Prepared:
    """Open the model of the labels, and read the reviewed images; no cluster is needed.

    Args:
        config: settings.
        predictions: the labels.
        reviewed: rows of `pipelines.learning.corrections.REVIEWED_SCHEMA`.
        tracking: MLflow's server.

    Raises:
        ValueError: as `open_initial_model` and `write_reviewed_images`, and when no decision says what an image shows.
        OSError: when a disk, a store or the server fails.
    """
    initial = open_initial_model(config, predictions, tracking=tracking)
    vocabulary = extend_vocabulary(initial.vocabulary, iterate_names(reviewed))
    added = new_names(vocabulary, since=initial.vocabulary)
    if added:
        say(f"new names in the vocabulary: {', '.join(added)}")
    images = write_reviewed_images(
        reviewed,
        labels=config.labels,
        source=ImageSource(predictions.parents, folder=config.source, option="--source"),
        folder=config.folder,
        split_shares=config.split_shares,
        max_rejected=config.max_rejected,
    )
    require(images.num_given > 0, f"no decision in {config.corrections} says what an image shows: review more")
    return Prepared(initial=initial, vocabulary=vocabulary, new_names=tuple(added), images=images)


def tune(
    config: LearnConfig,
    predictions: PredictionSet,
    prepared: Prepared,
    *,
    cluster: ClusterConfig,
    tracking: TrackingConfig,
) -> Tuned:
    """Shard, train and register; stages that are finished return what they made.

    Raises:
        ValueError: when a split gets no image with a category and a rationale, and as the stages.
        OSError: as the stages.
    """
    manifests = _shard(config, vocabulary=prepared.vocabulary, cluster=cluster)
    num_explained = {split: _count_explained(config, manifest) for split, manifest in manifests.items()}
    found = ", ".join(f"{split} {num_explained.get(split, 0)}" for split in config.split_shares)
    require(
        all(num_explained.get(split) for split in config.split_shares),
        f"too few reviewed images with a category and a rationale ({found}; test is held out): review more, or change "
        "--held-out and --validation",
    )
    settings = train_config(config, predictions, initial=prepared.initial)
    train.run(settings, cluster=cluster, tracking=tracking)
    registration = RegisterConfig(checkpoint=_place(config, RUN_FOLDER), name=_model_name(config, prepared.initial))
    return Tuned(
        candidate=register.run(registration, tracking=tracking),
        num_explained=num_explained,
        balance=_balance(config, prepared.images),
    )


def has_learned(config: LearnConfig) -> bool:
    """Whether training has begun: it has a record or a state. The folder alone may be left of a refused run."""
    run = filesystem.join(config.folder, RUN_FOLDER)
    return has_states(run) or any(filesystem.exists(filesystem.join(run, name)) for name in (RUN, SUMMARY))


def clear_products(config: LearnConfig, *, names: tuple[str, ...]) -> None:
    """Remove what `tune` has written before it learned anything, and these records of the command."""
    for name in (SHARDS_FOLDER, RUN_FOLDER, VOCABULARY_NAME, *PRODUCTS, *names):
        filesystem.remove(filesystem.join(config.folder, name))


def train_config(config: LearnConfig, predictions: PredictionSet, *, initial: InitialModel) -> TrainConfig:
    """Settings of `ecor train` for few images, that start from the model of the labels."""
    model = initial.checkpoint.model
    return TrainConfig(
        shards=_place(config, SHARDS_FOLDER),
        output=_place(config, RUN_FOLDER),
        backbone=initial.backbone,
        prompts=model.prompts,
        templates=model.templates,
        objective=ObjectiveConfig(name=_objective_of(predictions.method, prompts=model.prompts)),
        fit=FitConfig(learning_rate=config.learning_rate, warmup_steps=WARMUP_STEPS),
        init_from=initial.version.uri,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        cpus_per_worker=config.cpus_per_worker,
        use_gpu=config.use_gpu,
        seed=config.seed,
    )


def _objective_of(method: MethodName, *, prompts: PromptConfig) -> ObjectiveName:
    """The objective that fits the decoding of the labels; ECOR's own where that one would drop learned tokens."""
    name = OBJECTIVE_OF[method]
    return "two_term" if name in ("pairs", "inverted") and prompts.rationale_tokens else name


def _place(config: LearnConfig, name: str) -> str:
    return filesystem.join(absolute_address(config.folder), name)


def _model_name(config: LearnConfig, initial: InitialModel) -> str:
    if config.name is not None:
        return config.name
    return "ecor" if initial.version.version is None else initial.version.name


def _shard(config: LearnConfig, *, vocabulary: Vocabulary, cluster: ClusterConfig) -> dict[str, ShardManifest]:
    """Shards of the reviewed images, whose table names the split of each."""
    names = _place(config, VOCABULARY_NAME)
    filesystem.write(names, vocabulary.to_json().encode())
    settings = ShardConfig(
        input=_place(config, REVIEWED_NAME),
        output=_place(config, SHARDS_FOLDER),
        vocabulary=names,
        split_shares=config.split_shares,
        max_rejected=config.max_rejected,
    )
    return shard.run(settings, cluster=cluster)


def _balance(config: LearnConfig, images: ReviewedImages) -> Balance:
    """What became of all reviewed images: those in shards are taken."""
    summary = json.loads(filesystem.read(_place(config, f"{SHARDS_FOLDER}/summary.json")))
    sharded = Balance.from_record(summary["balance"])
    return Balance(
        stage="learn",
        num_listed=images.num_reviewed,
        num_taken=sharded.num_taken,
        num_copies=sharded.num_copies,
        rejected=add_counts([images.rejected, sharded.rejected]),
        left_out=add_counts([images.left_out, sharded.left_out]),
    )


def _count_explained(config: LearnConfig, manifest: ShardManifest) -> int:
    """Images of a split whose rationale is known too."""
    folder = _place(config, f"{SHARDS_FOLDER}/{manifest.split}")
    indexes = (read_index(folder, info) for info in manifest.shards)
    return sum(bool(labels) for index in indexes for labels in index["rationales"].to_pylist())
