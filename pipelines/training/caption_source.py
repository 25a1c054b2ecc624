"""What pretraining learns from: the model to build, captioned shards or drawings, and the balance of their samples."""

import json
import tempfile
from pathlib import Path

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.config.checks import require
from ecor.config.model import BackboneConfig
from ecor.demo.corpus import cached_corpus
from ecor.demo.pretraining_source import DrawnSource
from ecor.demo.tiny_clip import MODEL_NAME, config_path
from ecor.demo.worlds.registry import get_world
from ecor.demo.worlds.styles import NUM_PIXELS
from ecor.storage import filesystem
from ecor.training.caption_batches import CaptionSource
from ecor.training.distributed import Rank
from pipelines.config.training import PretrainConfig
from pipelines.runtime.balance import Balance
from pipelines.training.caption_loader import CaptionedShards, read_captioned
from pipelines.training.pretrainer import PretrainState
from pipelines.training.sample_use import balance_training


def build_architecture(config: PretrainConfig) -> Backbone:
    """The model that is asked for, with random weights, as open_clip builds it.

    ValueError for a name that open_clip does not know, and for a config with a transform of its own: a plain model
    config, which the output holds, cannot name one.
    """
    path = str(config_path()) if config.model == MODEL_NAME else config.model
    if path.endswith(".json") and filesystem.is_file(path):
        settings = json.loads(filesystem.read(path))
        require("preprocess_cfg" not in settings, f"{path} has a preprocess_cfg: give a plain open_clip model config")
    return load_backbone(BackboneConfig(name=path, pretrained="random"))


def open_captions(config: PretrainConfig, *, backbone: Backbone, rank: Rank) -> CaptionSource:
    """Captioned shards, or drawings; every rank must ask. ValueError for shards without captions."""
    cache_dir = Path(config.cache_dir or Path(tempfile.gettempdir()) / "ecor-cache")
    num_threads = max(1, int(config.cpus_per_worker))
    if config.shards is not None:
        return CaptionedShards(
            read_captioned(f"{config.shards}/{config.split}", rank=rank, cache_dir=cache_dir),
            backbone=backbone,
            seed=config.seed,
            batch_size=config.batch_size,
            num_threads=num_threads,
        )
    require(
        backbone.preprocess.image_size == (NUM_PIXELS, NUM_PIXELS),
        f"drawings are {NUM_PIXELS} px, {config.model} takes {backbone.preprocess.image_size}: choose another model",
    )
    corpus = cached_corpus(
        get_world(config.world),
        num_images=config.num_images,
        seed=config.seed,
        num_processes=num_threads * rank.num_local,
        folder=cache_dir / "drawings",
    )
    return DrawnSource(
        corpus,
        seed=config.seed,
        batch_size=config.batch_size,
        caption_noise=config.caption_noise,
        has_attributes=config.attribute_weight > 0,
    )


def balance_samples(source: CaptionSource, *, progress: PretrainState, config: PretrainConfig) -> Balance:
    """What became of the samples of the split, or of the drawings, once a run is at its end."""
    assert progress.uses is not None, "an event with progress has counted"
    if not isinstance(source, CaptionedShards):
        return balance_training("pretrain", num_listed=config.num_images, uses=[progress.uses])
    return balance_training(
        "pretrain",
        num_listed=source.split.manifest.num_samples,
        uses=[progress.uses],
        left_out=[{"no_caption": source.split.num_without}],
    )
