"""Images per split add up, a sample is random but repeatable, and what is no input is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.pipeline_file import parse_pipeline
from pipelines.stages.planning.inputs import draw, list_score_input, list_shard_input


def photos(folder: Path, *, names: tuple[str, ...], num: int) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(num):
            pixels = np.full((8, 8, 3), (number, len(name), 7), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def listed(folder: Path, *, rationales: tuple[str, ...] = ("a tail",), **sections):
    vocabulary = {"cat": list(rationales), "dog": list(rationales)}
    (folder / "photos" / "vocabulary.json").write_text(json.dumps(vocabulary))
    settings = {"output": str(folder / "out"), "shard": {"input": str(folder / "photos")}, **sections}
    config = parse_pipeline(settings, source="test")
    shards = list_shard_input(config, num_probes=5, seed=0)
    return shards, list_score_input(config.score, shards=shards, num_probes=5, seed=0)


def test_shares_give_splits_that_add_up(tmp_path: Path, no_cluster: None):
    photos(tmp_path / "photos", names=("cat", "dog"), num=13)
    shards, scored = listed(tmp_path)
    assert shards.num_images == 26 and shards.num_bytes == sum(
        path.stat().st_size for path in (tmp_path / "photos").rglob("*.png")
    )
    assert shards.by_split == {"test": 3, "train": 20, "validation": 3}
    assert shards.sample.num_rows == 5 and len(set(shards.sample["source"].to_pylist())) == 5
    assert scored.num_images == 3 and not scored.is_other and scored.has_truth


def test_splits_of_the_input_stay_and_validation_is_taken_from_train(tmp_path: Path, no_cluster: None):
    photos(tmp_path / "photos" / "train", names=("cat", "dog"), num=20)
    photos(tmp_path / "photos" / "test", names=("cat",), num=3)
    shards, _ = listed(tmp_path)
    assert shards.by_split == {"test": 3, "train": 36, "validation": 4}


def test_other_images_to_label_are_counted(tmp_path: Path, no_cluster: None):
    photos(tmp_path / "photos", names=("cat", "dog"), num=13)
    photos(tmp_path / "more", names=("x", "y"), num=11)
    _, scored = listed(tmp_path, score={"input": str(tmp_path / "more")})
    assert scored.num_images == 22 and scored.is_other and len(scored.files) == 5 and not scored.has_truth


def test_what_is_no_input_is_refused(tmp_path: Path, no_cluster: None):
    photos(tmp_path / "photos", names=("cat", "dog"), num=3)
    with pytest.raises(ValueError, match="none of the splits that this pipeline makes: test, train, validation"):
        listed(tmp_path, score={"input": str(tmp_path / "out" / "shards" / "tset")})
    with pytest.raises(ValueError, match="there is no folder or table"):
        listed(tmp_path, shard={"input": str(tmp_path / "photo")})
    with pytest.raises(ValueError, match=r"photos has no rationale of any category \(cat, dog\): name a vocabulary by"):
        listed(tmp_path, rationales=())


def test_a_sample_is_random_and_repeatable():
    assert draw(1000, num=10, seed=3) == draw(1000, num=10, seed=3) != draw(1000, num=10, seed=4)
    assert sorted(draw(7, num=10, seed=0)) == list(range(7))
