"""What is saved is loaded, bit for bit; what was altered, or does not belong together, is refused.

Covers: `ecor.storage.model_records`.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file

import ecor
from ecor.checkpoint import load, read_checkpoint, read_preprocess, save_checkpoint
from ecor.config.model import TextConfig
from ecor.model import Recognizer
from tests.support.tiny_models import OTHER_NAMES, TINY_CLIP, tiny_recognizer

PARENTS = {"train_manifest": "a" * 64}
METRICS = {"validation_loss": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return tiny_recognizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def saved(model: Recognizer, tmp_path: Path) -> Path:
    save_checkpoint(model, tmp_path / "run" / "checkpoint", parents=PARENTS, metrics=METRICS, run_id="r")
    return tmp_path / "run" / "checkpoint"


def assert_same_numbers(ours: Recognizer, theirs: Recognizer) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.joint(images).log_prob, theirs.joint(images).log_prob)


@pytest.mark.parametrize("name", ["run", "run/checkpoint"])
def test_a_loaded_model_is_the_saved_one(model: Recognizer, saved: Path, tmp_path: Path, name: str) -> None:
    loaded = ecor.load(str(tmp_path / name))
    assert_same_numbers(loaded, model)
    assert (loaded.digest, loaded.vocabulary, loaded.templates) == (model.digest, model.vocabulary, model.templates)
    assert (loaded.temperatures, loaded.calibrated, loaded.config) == (model.temperatures, True, model.config)


def test_only_tokens_are_saved(model: Recognizer, saved: Path) -> None:
    tokens = load_file(saved / "tokens.safetensors")
    assert tokens.keys() == {"rationale_context", "category_context", "visual"}
    assert sorted(path.name for path in saved.iterdir()) == ["checkpoint.json", "tokens.safetensors", "vocabulary.json"]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["checkpoint"]


def test_the_record_names_its_parents(model: Recognizer, saved: Path) -> None:
    record = read_checkpoint(saved.parent)
    assert (record.parents, record.metrics, record.run_id) == (PARENTS, METRICS, "r")
    assert record.model_digest == model.digest
    assert record.vocabulary_digest == record.calibrated_on == model.vocabulary.digest
    assert replace(record, folder="elsewhere", run_id=None).digest == record.digest
    assert replace(record, parents={}).digest != record.digest


def test_preprocessing_is_read_without_the_model(
    model: Recognizer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecor.checkpoint.load_backbone", lambda *args, **kwargs: pytest.fail("the model was opened"))
    assert read_preprocess(saved.parent) == model.backbone.preprocess


def test_an_older_record_without_preprocessing_has_the_same_digest_and_is_still_read(
    model: Recognizer, saved: Path
) -> None:
    digest, path = read_checkpoint(saved).digest, saved / "checkpoint.json"
    values = json.loads(path.read_text())
    del values["preprocess"]
    path.write_text(json.dumps(values))
    assert (read_checkpoint(saved).digest, read_checkpoint(saved).preprocess) == (digest, None)
    assert read_preprocess(saved) == model.backbone.preprocess


def test_preprocessing_that_is_not_the_backbones_is_refused_when_the_model_is_opened(saved: Path) -> None:
    path = saved / "checkpoint.json"
    values = json.loads(path.read_text())
    values["preprocess"]["image_size"] = [64, 64]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="was altered"):
        load(saved)


def test_a_checkpoint_is_replaced_whole(model: Recognizer, saved: Path) -> None:
    other = model.with_vocabulary(OTHER_NAMES)
    save_checkpoint(other, saved)
    assert load(saved).vocabulary == other.vocabulary
    assert sorted(path.name for path in saved.parent.iterdir()) == ["checkpoint"]


def test_failing_to_save_leaves_what_was_there(model: Recognizer, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ecor.checkpoint.save_file", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(model.with_vocabulary(OTHER_NAMES), saved)
    assert load(saved).vocabulary == model.vocabulary
    assert sorted(path.name for path in saved.parent.iterdir()) == ["checkpoint"]


def test_altered_parts_are_refused(saved: Path) -> None:
    tokens = saved / "tokens.safetensors"
    data = tokens.read_bytes()
    tokens.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"tokens\.safetensors of .* was altered"):
        load(saved)
    tokens.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load(saved)
    tokens.write_bytes(data)
    names = saved / "vocabulary.json"
    names.write_text(names.read_text().replace("fox", "cat"))
    with pytest.raises(ValueError, match=r"vocabulary\.json of .* was altered"):
        load(saved)


def test_an_altered_record_and_a_strange_folder_are_refused(saved: Path, tmp_path: Path) -> None:
    record = saved / "checkpoint.json"
    values = json.loads(record.read_text())
    values["temperatures"]["rationale"] = 9.0
    record.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="was altered"):
        load(saved)
    record.write_text("{}")
    with pytest.raises(ValueError, match="no checkpoint's record"):
        load(saved)
    with pytest.raises(ValueError, match=r"holds a checkpoint\.json"):
        load(tmp_path)


def test_another_backbone_is_refused_with_both_digests(model: Recognizer, tmp_path: Path) -> None:
    own = tiny_recognizer(tmp_path)
    save_checkpoint(own, tmp_path / "checkpoint")
    settings = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], "layers": 1}}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="were tuned on backbone") as error:
        load(tmp_path)
    assert own.backbone.digest in str(error.value)


def test_a_backbone_inside_needs_no_other_file(model: Recognizer, tmp_path: Path) -> None:
    own = tiny_recognizer(tmp_path / "here")
    assert save_checkpoint(own, tmp_path / "here" / "checkpoint", with_backbone=True).has_backbone
    shutil.move(tmp_path / "here" / "checkpoint", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    assert_same_numbers(load(tmp_path / "there"), own)


def test_remote_checkpoints_are_loaded_by_url(model: Recognizer, saved: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(saved), "/runs/checkpoint", recursive=True)
    assert_same_numbers(load("memory://runs"), model)


def test_towers_that_are_open_are_taken(model: Recognizer, saved: Path, tmp_path: Path) -> None:
    loaded = load(saved, backbone=model.backbone, text=TextConfig(cache_dir=str(tmp_path / "text")))
    assert loaded.backbone is model.backbone
    assert_same_numbers(loaded, model)
    assert list((tmp_path / "text").iterdir())
