"""What a run is judged by: each objective's validation and temperatures fit its decoding (no Ray).

Covers: `pipelines.training.data_loader`, `pipelines.training.feature_cache`, `pipelines.training.systems.local_run`.
"""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ecor.clip.prompts import PromptLearner
from ecor.config.model import TextConfig
from ecor.config.scoring import FACTORS, MethodName
from ecor.config.training import ObjectiveConfig, ObjectiveName
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.model import Recognizer
from ecor.training.distributed import Rank
from pipelines.__main__ import _parse_command
from pipelines.commands import Train
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.prompt_trainer import (
    PromptTrainer,
    calibrated_methods,
    resolve_config,
    tuned_method,
    validation_objective,
)
from pipelines.training.systems.registry import build_trainer
from tests.support.tiny_models import NAMES, TINY_CLIP
from tests.support.tiny_towers import COCA, CONVNEXT, RESNET, SIGLIP, TEXT, TIMM, VITS

VOCABULARY = vocabulary_from_mapping(NAMES)
RIVALS: tuple[MethodName, ...] = ("inverted", "independent", "pairs")


def parsed(*words: str) -> TrainConfig:
    command = _parse_command(["train", *words])
    assert isinstance(command, Train)
    return resolve_config(command.config)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP beside shards of two splits: every pair of a category and one of its rationales."""
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    pairs = [(c, r) for c, rationales in NAMES.items() for r in rationales]
    for split, seed in (("train", 0), ("validation", 1)):
        entries = [
            ShardEntry(sample=sample(f"{number:03d}", category=c, rationale=r, folder=folder, seed=100 * seed + number))
            for number, (c, r) in enumerate(2 * pairs)
        ]
        shard = write_shard(entries, folder=folder / split, name="000000.tar", vocabulary=VOCABULARY)
        manifest = ShardManifest(
            split=split,
            shards=(shard,),
            vocabulary_digest=VOCABULARY.digest,
            num_samples=len(entries),
            num_rejected=0,
            num_duplicates=0,
            config_digest="c" * 64,
            parents={},
        )
        write_shard_manifest(manifest, folder / split)
    write_side_files(folder, vocabulary=VOCABULARY)
    return folder


def sample(key: str, *, category: str, rationale: str, folder: Path, seed: int) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return Sample(
        key=key,
        image=(folder / "one.png").read_bytes(),
        extension="png",
        category=category,
        rationales=(rationale,),
        visible_rationales=None,
        source=f"{key}.png",
    )


def test_the_inverted_objective_is_validated_by_the_inverted_decoding():
    tokens = ("--prompts.rationale-tokens", "6", "--prompts.category-tokens", "6")
    config = parsed("--shards", "s", "--output", "o", "--objective.name", "inverted", *tokens)
    assert tuned_method(config.objective) == "inverted"
    assert validation_objective(config.objective).name == "inverted"
    assert (config.prompts.rationale_tokens, config.prompts.category_tokens) == (0, 6), "it never reads Prompt_R"


@pytest.mark.parametrize("name", get_args(ObjectiveName))
def test_losses_and_decodings_of_validation_fit_each_other(name: ObjectiveName):
    config = ObjectiveConfig(name=name, max_sentences_per_step=4)
    method, objective = tuned_method(config), validation_objective(config)
    expected = {"three_term": ("pooled", "three_term"), **{rival: (rival, rival) for rival in RIVALS}}
    assert (method, objective.name) == expected.get(name, ("joint", "two_term"))
    assert objective.max_sentences_per_step > 10**12, "nothing is sampled"


@pytest.mark.parametrize("name", ["two_term", "three_term", *RIVALS])
def test_a_run_ends_with_temperatures_for_its_decoding(shards: Path, tmp_path: Path, name: str):
    words = f"--shards {shards} --output {tmp_path} --cache-dir {tmp_path}/cache --objective.name {name}"
    words += f" --backbone.name {shards}/tiny-clip.json --backbone.pretrained random --num-epochs 1 --batch-size 6"
    for budget, fitted in ((TextConfig().table_budget_bytes, set(get_args(MethodName))), (0, {"joint", "independent"})):
        config = parsed(*words.split(), "--text.table-budget-bytes", str(budget))
        tuning = PromptTrainer(
            config,
            vocabulary=VOCABULARY,
            train=read_split(str(shards / "train"), vocabulary=VOCABULARY),
            validation=read_split(str(shards / "validation"), vocabulary=VOCABULARY),
            rank=Rank(),
            cache_dir=tmp_path / "cache",
        )
        *_, last = tuning.reports(tuning.module())
        own = tuned_method(config.objective)
        assert last.metrics["validation_loss"] > 0
        recognizer = tuning.best_recognizer(last.progress)
        assert {method for method in FACTORS if recognizer.temperatures.cover(method)} == fitted | {own}
        assert set(calibrated_methods(config.objective, text=recognizer.text)) == fitted | {own}


def words_for(settings: dict, *, shards: Path, output: Path) -> list[str]:
    """Command line that tunes a random tower for an epoch by the default settings."""
    (output / "tower.json").write_text(json.dumps(settings))
    words = f"--shards {shards} --output {output} --num-epochs 1 --batch-size 6 --cache-dir {output}/cache"
    return [*words.split(), "--backbone.pretrained", "random", "--backbone.name", f"{output}/tower.json"]


def tune(config: TrainConfig) -> Recognizer:
    tuning = build_trainer(config, vocabulary=VOCABULARY, rank=Rank())
    assert isinstance(tuning, PromptTrainer)
    *_, last = tuning.reports(tuning.module())
    return tuning.best_recognizer(last.progress)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("ViT", VITS["average"] | {"text_cfg": TEXT}), ("ResNet", RESNET | {"text_cfg": TEXT}),
     ("timm", TIMM | {"text_cfg": TEXT}), ("ConvNeXt", CONVNEXT | {"text_cfg": TEXT}), ("SigLIP", SIGLIP),
     ("CoCa", COCA)],
)  # fmt: skip
def test_every_family_of_towers_is_tuned_by_the_default_settings(
    family: str, settings: dict, shards: Path, tmp_path: Path
):
    config = parsed(
        *words_for(
            settings | {"text_cfg": settings["text_cfg"] | {"vocab_size": 49408}}, shards=shards, output=tmp_path
        )
    )
    found, prompts = tune(config), config.prompts
    assert found.prompts.config == prompts
    is_vit = family in ("ViT", "CoCa")
    assert (prompts.visual_tokens, prompts.rationale_tokens, prompts.category_tokens) == (
        (2, 0, 0) if is_vit else (0, 6, 6)
    )
    assert config.fit.learning_rate == (0.001 if is_vit else 0.016) and resolve_config(config) == config
    untuned = PromptLearner(prompts, found.backbone, generator=torch.Generator().manual_seed(config.seed))
    assert all((a != b).any() for a, b in zip(untuned.parameters(), found.prompts.parameters(), strict=True)), "learned"


def test_what_is_asked_of_a_tower_without_visual_tokens_is_not_replaced(shards: Path, tmp_path: Path):
    words = words_for(RESNET | {"text_cfg": TEXT}, shards=shards, output=tmp_path)
    assert parsed(*words, "--fit.learning-rate", "0.002").fit.learning_rate == 0.002
    assert parsed(*words, "--objective.name", "pairs").prompts.rationale_tokens == 0
    with pytest.raises(ValueError, match="visual_tokens needs an open_clip ViT"):
        build_trainer(parsed(*words, "--prompts.visual-tokens", "4"), vocabulary=VOCABULARY, rank=Rank())
