"""ECLIP and LICO in the train stage: as in one process, on however many ranks; registered, fetched, looked through.

Covers: `pipelines.training.systems.eclip_trainer`, `pipelines.training.systems.lico_trainer`,
`pipelines.training.systems.registry`, `pipelines.training.systems.train_state`, `pipelines.training.systems.trainer`,
`pipelines.training.systems.picture_input`.
"""

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecor.clip.loading import load_backbone
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.model import BackboneConfig
from ecor.config.systems import EclipConfig, LicoConfig
from ecor.config.training import FitConfig
from ecor.eclip.projection import read_projection
from ecor.explain import attribute
from ecor.explain.methods.similarity import Eclip
from ecor.lico.classifier import load_classifier
from ecor.storage.artifact import ArtifactRecord
from ecor.training.distributed import Rank
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.pipeline_file import parse_pipeline
from pipelines.config.stages import RegisterConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime.cluster import connect
from pipelines.stages import pipeline as flow
from pipelines.stages import train
from pipelines.tracking import model_cache, model_registry
from pipelines.training.data_loader import read_split
from pipelines.training.systems.eclip_trainer import EclipTrainer
from pipelines.training.systems.lico_trainer import LicoTrainer
from pipelines.training.systems.prompt_trainer import resolve_config
from pipelines.training.systems.train_state import TrainState
from pipelines.training.systems.trainer import Trainer
from tests.support.mlflow_databases import new_database
from tests.support.tiny_splits import NUM_TRAIN, VOCABULARY, sample, write_split, write_world

PLAIN_FIT = FitConfig(learning_rate=0.005, warmup_steps=2)
SGD = FitConfig(optimizer="sgd", learning_rate=0.01, warmup_steps=2)
PLAIN_STEPS = {"eclip": EclipConfig(fit=SGD, project_texts=True), "lico": LicoConfig(fit=SGD, num_context=3)}
"""A gradient of the wrong size shows, and rounding is not blown up: AdamW would do neither."""
SYSTEMS: dict[str, type[Trainer]] = {"eclip": EclipTrainer, "lico": LicoTrainer}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, and shards of two splits."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a worker has: sums of floats are bit for bit the same only on as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(world: Path, output: Path, system: str, **changes: object) -> TrainConfig:
    fit = PLAIN_FIT
    given: dict = {
        "shards": str(world / "shards"),
        "output": str(output),
        "system": system,
        "backbone": BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
        "eclip": EclipConfig(fit=fit, project_texts=True),
        "lico": LicoConfig(fit=fit, num_context=3),
        "num_epochs": 2,
        "batch_size": 4,
        "checkpoint_every_steps": 2,
        "cache_dir": str(output / "cache"),
    }
    return TrainConfig(**(given | changes))


def learning_of(config: TrainConfig, **parts: object) -> Trainer:
    return SYSTEMS[config.system](
        resolve_config(config),
        vocabulary=VOCABULARY,
        train=read_split(f"{config.shards}/train", vocabulary=VOCABULARY),
        validation=read_split(f"{config.shards}/validation", vocabulary=VOCABULARY),
        rank=Rank(),
        cache_dir=Path(str(config.cache_dir)),
        **parts,
    )


def finished(learning: Trainer, progress: TrainState | None = None) -> TrainState:
    for report in learning.reports(learning.module(), progress=progress):
        progress = report.progress
    assert progress is not None
    return progress


@pytest.mark.parametrize("encoder", [None, "clip", "torchvision/mobilenet_v3_small"])
def test_going_on_equals_never_stopping_bit_for_bit(world: Path, tmp_path: Path, encoder: str | None) -> None:
    """Stopped within an epoch; LICO draws the order of its context and what dropout drops at every step.

    A CNN with batch normalisation goes on with the means it had: they are no parameters. No encoder: ECLIP.
    """
    system = "lico" if encoder else "eclip"
    changes: dict = {"checkpoint_every_steps": 1}
    if encoder:
        image_size = None if encoder == "clip" else 64
        changes["lico"] = LicoConfig(fit=PLAIN_FIT, num_context=3, encoder=encoder, image_size=image_size)
    config = config_of(world, tmp_path, system, **changes)
    whole, stopped, file = finished(learning_of(config)), learning_of(config), io.BytesIO()
    for report in stopped.reports(stopped.module()):
        if report.is_due and report.progress.step == 7:
            torch.save(
                {each.name: getattr(report.progress, each.name) for each in dataclasses.fields(TrainState)}, file
            )
            break
    saved = TrainState(**torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    again = finished(learning_of(config), saved)
    assert again.step == whole.step == 2 * (NUM_TRAIN // 4)
    assert any("running_mean" in name for name in whole.tokens) == (encoder not in (None, "clip"))
    for name, value in whole.tokens.items():
        assert torch.equal(again.tokens[name], value), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_they_learn(world: Path, tmp_path: Path, system: str) -> None:
    learning = learning_of(config_of(world, tmp_path, system, num_epochs=6))
    learning._open()
    (before,) = [learning._validate()]
    assert finished(learning).epochs[-1]["validation_loss"] < before["validation_loss"]


def test_what_is_kept_is_what_is_computed_anew(world: Path, tmp_path: Path) -> None:
    kept = finished(learning_of(config_of(world, tmp_path, "eclip")))
    anew = EclipConfig(fit=FitConfig(learning_rate=0.005, warmup_steps=2), project_texts=True, cache=False)
    again = finished(learning_of(config_of(world, tmp_path / "anew", "eclip", eclip=anew)))
    torch.testing.assert_close(kept.tokens, again.tokens, atol=1e-6, rtol=1e-4)
    assert (tmp_path / "cache" / "features").is_dir() and not (tmp_path / "anew" / "cache" / "features").exists()


def test_guidance_of_ones_own_is_used(world: Path, tmp_path: Path) -> None:
    """Of guidance that is even, all patches are kept: the same as maximum pooling without a mask."""
    fit = FitConfig(learning_rate=0.005, warmup_steps=2)
    masked = config_of(world, tmp_path, "eclip", eclip=EclipConfig(fit=fit))
    whole = config_of(world, tmp_path, "eclip", eclip=EclipConfig(fit=fit, pooling="max"))

    def even(tower: ImageTower, pixels: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(pixels), 16)

    ours, expected = finished(learning_of(masked, guidance=even)), finished(learning_of(whole))
    torch.testing.assert_close(ours.tokens, expected.tokens, atol=1e-6, rtol=1e-4)


def test_captions_are_those_of_the_tars_and_are_learned_from(world: Path, tmp_path: Path) -> None:
    """Each picture's own; ones that are alike are one sentence, as two ranks see them too."""
    fit = FitConfig(learning_rate=0.005, warmup_steps=2)
    config = config_of(world, tmp_path, "eclip", eclip=EclipConfig(fit=fit, texts="captions"), num_epochs=6)
    learning = learning_of(config)
    assert isinstance(learning, EclipTrainer)
    captions, ids = learning._captions
    for split in (learning.train, learning.validation):
        for position in range(len(split)):
            tar = Path(split.folder) / split.manifest.shards[split.shard_of[position]].name
            key = split.indexes[split.shard_of[position]]["key"][int(split.row_of[position])].as_py()
            with tarfile.open(tar) as opened:
                assert opened.extractfile(f"{key}.txt").read().decode() == captions[ids[split.folder][position]]
    assert len(captions) == len(set(captions)) == len(VOCABULARY.categories)
    expected = learning.backbone.encode_text(captions, fp32=True)
    torch.testing.assert_close(learning.names.captions, expected, atol=1e-5, rtol=1e-4)
    learning._open()
    before = learning._validate()
    after = finished(learning).epochs[-1]
    assert after["validation_loss_captions"] == after["validation_loss"] < before["validation_loss"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_picture_that_cannot_be_read_teaches_nothing(tmp_path: Path, world: Path, system: str) -> None:
    broken = dataclasses.replace(sample(3), image=sample(3).image[:40])
    write_split(tmp_path / "shards", [sample(0), sample(1), sample(2), broken], split="train")
    write_split(tmp_path / "shards", [sample(4), dataclasses.replace(broken, key="0005")], split="validation")
    given = {"shards": str(tmp_path / "shards"), "num_epochs": 1, "max_rejected": 0.5}
    progress = finished(learning_of(config_of(world, tmp_path, system, **given)))
    assert progress.epochs[0]["num_unreadable"] == 1
    assert all(torch.isfinite(value).all() for value in progress.tokens.values())


def test_settings_of_another_system_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fit and preset are of the system ecor, not of lico: set lico\.fit"):
        TrainConfig(shards="s", output="o", system="lico", fit=FitConfig(learning_rate=1.0))
    settings = {"output": "o", "shard": {"input": "i"}, "train": {"system": "eclip"}}
    with pytest.raises(ValueError, match="a pipeline labels pictures, which eclip does not"):
        flow.run(parse_pipeline(settings, source="a dict"))


# With Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterConfig]:
    with connect(ClusterConfig(num_cpus=2)):
        yield ClusterConfig()


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_ranks_learn_in_the_stage_what_one_process_learns(
    world: Path, tmp_path: Path, cluster: ClusterConfig, system: str
) -> None:
    """And it is recorded, registered as a version, fetched with its digests checked, and ready for use."""
    from mlflow import MlflowClient

    tracking = new_database(tmp_path)
    config = config_of(world, tmp_path / "run", system, num_workers=2, cpus_per_worker=0.5, **PLAIN_STEPS)
    record = train.run(config, cluster=cluster, tracking=tracking)
    assert isinstance(record, ArtifactRecord) and train.run(config, cluster=cluster, tracking=tracking) == record
    local = learning_of(config_of(world, tmp_path / "local", system, **PLAIN_STEPS))
    expected = finished(local)
    learned = load_file(tmp_path / "run" / "checkpoint" / f"{system}.safetensors")
    for name, value in learned.items():
        own = expected.best_tokens[name if system == "eclip" else f"classifier.{name}"]
        torch.testing.assert_close(value, own, rtol=0, atol=1e-4)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["system"], summary["num_train"]) == (system, NUM_TRAIN)
    assert record.metrics["validation_loss"] == pytest.approx(
        expected.epochs[expected.best_epoch]["validation_loss"], abs=1e-4
    )
    client = MlflowClient(tracking_uri=tracking.uri)
    assert len(client.get_metric_history(record.run_id, "loss")) == summary["num_steps"]

    version = model_registry.register_model(
        RegisterConfig(checkpoint=str(tmp_path / "run"), name=system), tracking=tracking
    )
    assert (version.digest, version.run_id) == (record.model_digest, record.run_id)
    assert client.get_model_version(system, version.version).tags["ecor.system"] == system
    candidate = model_registry.resolve_model(f"models:/{system}@candidate", tracking=tracking)
    folder = model_cache.fetch_model(candidate, tracking=tracking, cache_dir=tmp_path / "models")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    if system == "eclip":
        tower = ImageTower(backbone=load_backbone(config.backbone))
        method = Eclip(**read_projection(folder, backbone_digest=tower.backbone.digest))
        maps = attribute(tower, pixels, torch.randn(3, 32), method=method)
        assert maps.scores.shape == (2, 3, 4, 4)
    else:
        classifier = load_classifier(folder)
        assert classifier(classifier.normalise(pixels)).shape == (2, len(VOCABULARY.categories))
