"""Tuning that starts from a saved model: its first outputs are that model's, and what does not fit is refused.

Covers: `pipelines.training.initial_tokens`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ecor.checkpoint import load_tokens, save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.systems import EclipConfig
from ecor.config.training import FitConfig
from ecor.data.predictions.schema import origins_table
from ecor.model import Recognizer
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.training import TrainConfig
from pipelines.stages.train import _parents
from pipelines.tracking.model_versions import checkpoint_version
from pipelines.training.initial_tokens import initial_parents, with_local_tokens
from tests.support.in_process_training import finished, tuning_of
from tests.support.tiny_models import TINY_CLIP
from tests.support.tiny_splits import VOCABULARY, write_world

ALL = PromptConfig(rationale_tokens=2, category_tokens=3, visual_tokens=2, visual_depth=1, visual_shared=False)
TEXT = PromptConfig(rationale_tokens=2, category_tokens=3, visual_tokens=0)
NO_SERVER = TrackingConfig(uri="sqlite:////nowhere/mlflow.db")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("warm"))


def config_of(world: Path, output: Path, **changes: object) -> TrainConfig:
    return TrainConfig(
        **{
            "shards": str(world / "shards"),
            "output": str(output),
            "backbone": BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
            "prompts": ALL,
            "fit": FitConfig(learning_rate=0.02, warmup_steps=2),
            "num_epochs": 2,
            "batch_size": 4,
            "cache_dir": str(output / "cache"),
            **changes,
        }
    )


def save_model(world: Path, folder: Path, prompts: PromptConfig) -> Recognizer:
    """A model whose tokens no run of `config_of` begins with."""
    backbone = load_backbone(BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"))
    tokens = PromptLearner(prompts, backbone, generator=torch.Generator().manual_seed(99))
    model = Recognizer(backbone=backbone, prompts=tokens, vocabulary=VOCABULARY, method="pooled")
    save_checkpoint(model, folder / "checkpoint", parents={"train_manifest": "t" * 64, "config": "c" * 64})
    return model


def labels_of(model: Recognizer) -> pa.Table:
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return model.label(pixels, origins=origins_table([str(number) for number in range(6)]))


@pytest.mark.parametrize("prompts", [ALL, TEXT], ids=["all", "text"])
def test_step_zero_is_the_old_model(world: Path, tmp_path: Path, prompts: PromptConfig) -> None:
    old = save_model(world, tmp_path, prompts)
    tuning = tuning_of(config_of(world, tmp_path / "run", prompts=prompts, init_from=str(tmp_path)))
    assert labels_of(tuning._recognizer().with_name("unsaved")).equals(labels_of(old))
    cold = tuning_of(config_of(world, tmp_path / "run", prompts=prompts))
    assert not labels_of(cold._recognizer()).equals(labels_of(old))


def test_tuning_goes_on_from_there_and_leaves_the_old_model(world: Path, tmp_path: Path) -> None:
    old = save_model(world, tmp_path, ALL)
    before = {name: value.clone() for name, value in old.tokens().items()}
    tuning = tuning_of(config_of(world, tmp_path / "run", init_from=str(tmp_path)))
    state = finished(tuning)
    assert any(not torch.equal(value, before[name]) for name, value in state.tokens.items())
    again = load_tokens(tmp_path, backbone=tuning.backbone, prompts=ALL)
    assert all(torch.equal(value, before[name]) for name, value in again.items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rationale_tokens": 1}, "rationale_tokens 2, not 1"),
        ({"visual_tokens": 0}, "visual_tokens 2, not 0"),
        ({"visual_shared": True}, "visual_shared False, not True"),
        ({"visual_depth": 2}, "visual_depth 1, not 2"),
    ],
)
def test_other_tokens_are_refused(world: Path, tmp_path: Path, changes: dict, told: str) -> None:
    save_model(world, tmp_path, ALL)
    with pytest.raises(ValueError, match=f"tuning cannot start from .*{told}"):
        tuning_of(config_of(world, tmp_path / "run", prompts=replace(ALL, **changes), init_from=str(tmp_path)))


def test_another_backbone_is_refused(world: Path, tmp_path: Path) -> None:
    save_model(world, tmp_path, ALL)
    wider = {**TINY_CLIP, "embed_dim": 48}
    (tmp_path / "wider.json").write_text(json.dumps(wider))
    backbone = BackboneConfig(name=str(tmp_path / "wider.json"), pretrained="random")
    with pytest.raises(ValueError, match=r"its tokens are of the backbone .*tiny-clip\.json.*name that backbone"):
        tuning_of(config_of(world, tmp_path / "run", backbone=backbone, init_from=str(tmp_path)))


def test_only_prompts_can_start_from_a_model(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="init_from gives prompt tokens, which eclip does not learn"):
        config_of(world, tmp_path, system="eclip", eclip=EclipConfig(), fit=FitConfig(), init_from="run")


def test_a_worker_takes_the_model_that_the_run_began_with(world: Path, tmp_path: Path) -> None:
    old = save_model(world, tmp_path, ALL)
    config = config_of(world, tmp_path / "run", init_from=str(tmp_path))
    parents = {"initial_model": old.digest}
    assert with_local_tokens(config, parents=parents, tracking=NO_SERVER) == config
    with pytest.raises(ValueError, match=r"by now, and this run began with 0{12}…: put it back"):
        with_local_tokens(config, parents={"initial_model": "0" * 64}, tracking=NO_SERVER)
    cold = config_of(world, tmp_path / "run")
    assert with_local_tokens(cold, parents={}, tracking=NO_SERVER) is cold


def test_a_run_names_the_model_that_it_began_with(world: Path, tmp_path: Path) -> None:
    old = save_model(world, tmp_path, ALL)
    config = config_of(world, tmp_path / "run", init_from=str(tmp_path))
    cold = _parents(config)
    first = initial_parents(checkpoint_version(str(tmp_path)), tracking=NO_SERVER)
    warm = _parents(config, initial=first)
    assert warm["initial_model"] == old.digest
    assert warm["initial_train_manifest"] == "t" * 64
    assert set(warm) - set(cold) == {"initial_model", "initial_train_manifest"}
    assert warm["config"] != cold["config"]
    assert "init_from" not in output_settings(config)
