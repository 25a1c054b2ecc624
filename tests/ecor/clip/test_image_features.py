"""Kept features come back bit for bit, or not at all; an image side is what decides them, and nothing else."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecor.clip.image_features import (
    FEATURES_FOLDER,
    MANIFEST,
    FeatureSet,
    ImageSide,
    feature_arrays,
    features_table,
    read_feature_part,
    read_feature_set,
    rejected_in,
    write_feature_part,
    write_feature_set,
)
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig, TemplateConfig
from ecor.config.scoring import Temperatures
from ecor.model import Recognizer
from ecor.storage import filesystem
from tests.support.tiny_models import OTHER_NAMES, TINY_CLIP, tiny_recognizer

SIDE = ImageSide(model_digest="a" * 64, precision="fp32")
LOST = [{"source": "x.png", "stage": "decode", "reason": "empty", "detail": "ü"}]


def draw(num: int, *, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float16)


def save(folder: str, *, num: int = 3, unit: str = "u", dim: int = 6, has_two: bool = False):
    category = draw(num, dim=dim, seed=1) if has_two else None
    table = features_table([f"k{n}" for n in range(num)], rationale=draw(num, dim=dim), category=category)
    part = write_feature_part(folder, table, name=f"{unit}.arrow", unit=unit, image_side=SIDE, rejected=LOST)
    return part, table


@given(num=st.integers(0, 5), dim=st.integers(1, 9), has_two=st.booleans())
@settings(max_examples=20)
def test_a_part_is_read_as_it_was_written_and_the_same_features_give_the_same_bytes(num, dim, has_two):
    part, table = save("memory://features", num=num, dim=dim, has_two=has_two)
    found = read_feature_part("memory://features", part)
    assert found.equals(table) and rejected_in(found) == LOST
    rationale, category = feature_arrays(found)
    np.testing.assert_array_equal(rationale, draw(num, dim=dim))
    np.testing.assert_array_equal(category, draw(num, dim=dim, seed=1) if has_two else rationale)
    assert (part.num_rows, part.num_rejected) == (num, 1)
    assert part.num_bytes == len(filesystem.read("memory://features/u.arrow"))
    assert save("memory://again", num=num, dim=dim, has_two=has_two)[0] == part


def test_a_missing_or_altered_part_is_an_error_with_the_remedy(tmp_path: Path):
    part, _ = save(str(tmp_path))
    path = tmp_path / part.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"u\.arrow is not the file of its record.*{part.sha256}.*--keep-features"):
        read_feature_part(str(tmp_path), part)
    path.unlink()
    with pytest.raises(ValueError, match=r"u\.arrow is missing.*--keep-features"):
        read_feature_part(str(tmp_path), part)


def test_the_record_is_read_as_it_was_written_and_refused_where_it_was_altered(tmp_path: Path):
    assert read_feature_set(str(tmp_path)) is None
    part, _ = save(str(tmp_path / FEATURES_FOLDER))
    kept = FeatureSet(parts=(part,), image_side=SIDE, labels_digest="l" * 64)
    write_feature_set(str(tmp_path), kept)
    assert read_feature_set(str(tmp_path)) == kept
    assert (kept.num_rows, kept.num_bytes) == (part.num_rows, part.num_bytes)
    renamed = replace(kept, parts=(replace(part, name="other.arrow"),))
    assert renamed.digest == kept.digest != replace(kept, labels_digest="m" * 64).digest
    record, path = json.loads((tmp_path / MANIFEST).read_text()), tmp_path / MANIFEST
    assert record["image_side_digest"] == SIDE.digest
    for change, message in (
        ({"labels_digest": "m" * 64}, "was altered"),
        ({"image_side": {**asdict(SIDE), "precision": "bf16"}}, "was altered"),
        ({"schema_version": "2"}, "version 2, this version of ecor reads 1"),
        ({"label_digest": "x"}, "did you mean 'labels_digest'"),
        ({"parts": None}, "no record of kept features"),
    ):
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=rf"manifest\.json is no record.*{message}|{message}"):
            read_feature_set(str(tmp_path))
    path.write_text("[]")
    with pytest.raises(ValueError, match="no record of kept features"):
        read_feature_set(str(tmp_path))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return tiny_recognizer(tmp_path_factory.mktemp("model"))


def test_names_templates_temperatures_and_text_tokens_have_no_part_in_the_image_side(model: Recognizer, tmp_path: Path):
    other = tiny_recognizer(tmp_path)
    with torch.no_grad():
        other.prompts.rationale_context.add_(1)
        other.prompts.category_context.add_(1)
        other.backbone.token_embedding.weight.add_(1)  # of the text tower
        other.backbone.model.logit_scale.add_(1)
    other = Recognizer(
        backbone=other.backbone,
        prompts=other.prompts,
        vocabulary=other.with_vocabulary(OTHER_NAMES).vocabulary,
        templates=TemplateConfig(rationale="{rationale}"),
        temperatures=Temperatures(rationale=3.0),
    )
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert other.digest != model.digest and other.backbone.digest != model.backbone.digest
    assert other.image_side == model.image_side
    assert torch.equal(other.image_features(pixels).rationale, model.image_features(pixels).rationale)


def _change_tower(model: Recognizer) -> None:
    model.backbone.model.visual.conv1.weight.data[0, 0, 0, 0] += 1e-3


def _change_tokens(model: Recognizer) -> None:
    model.prompts.visual.data[0, -1, -1, -1] += 1e-3


def _change_preprocessing(model: Recognizer) -> None:
    model.backbone.model.visual.preprocess_cfg["resize_mode"] = "squash"


def _change_precision(model: Recognizer) -> None:
    model.backbone.config = replace(model.backbone.config, precision="bf16")


@pytest.mark.parametrize("change", [_change_tower, _change_tokens, _change_preprocessing, _change_precision])
def test_what_changes_the_features_changes_the_image_side(model: Recognizer, tmp_path: Path, change):
    other = tiny_recognizer(tmp_path)
    change(other)
    assert other.image_side.digest != model.image_side.digest
    assert (other.image_side.model_digest == model.image_side.model_digest) == (change is _change_precision)


def test_visual_tokens_of_each_prompt_are_another_image_side_and_give_two_features(tmp_path: Path):
    path = tmp_path / "clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    backbone = load_backbone(BackboneConfig(name=str(path), pretrained="random"))
    shared, separate = (
        PromptLearner(PromptConfig(visual_shared=value), backbone, generator=torch.Generator().manual_seed(0))
        for value in (True, False)
    )
    assert (shared.has_two_features, separate.has_two_features) == (False, True)
    names = tiny_recognizer(tmp_path).vocabulary
    sides = [Recognizer(backbone=backbone, prompts=each, vocabulary=names).image_side for each in (shared, separate)]
    assert sides[0] != sides[1]
