"""Others' readers find in our shards the samples that we put there, without a converter."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files, write_text
from ecor.data.shards import ShardEntry, read_shard, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.cluster import connect

VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers"], "dog": ["a wet nose", "a tail"]})


def picture(number: int, *, form: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def sample(number: int) -> Sample:
    form = ("jpeg", "png", "webp")[number % 3]
    return Sample(
        key=f"{number:04d}-a_b",
        image=picture(number, form=form),
        extension=form.replace("jpeg", "jpg"),
        category=VOCABULARY.categories[number % 2],
        rationales=("whiskers",) if number % 2 == 0 else ("a tail", "a wet nose"),
        visible_rationales=None,
        source=f"test/{number}.{form}",
    )


SAMPLES = [sample(number) for number in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A split of three shards with all side files."""
    root = tmp_path_factory.mktemp("peers")
    shards = [
        write_shard(
            [ShardEntry(sample=each) for each in SAMPLES[start : start + 4]],
            folder=root / "test",
            name=f"{number}.tar",
            vocabulary=VOCABULARY,
        )
        for number, start in enumerate(range(0, len(SAMPLES), 4))
    ]
    write_side_files(root, vocabulary=VOCABULARY)
    write_text(f"{len(shards)}\n", folder=root / "test", name="nshards.txt")
    manifest = ShardManifest(
        split="test",
        shards=tuple(shards),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=len(SAMPLES),
        num_rejected=0,
        num_duplicates=0,
        config_digest="",
        parents={},
    )
    write_shard_manifest(manifest, root / "test")
    assert [each for info in shards for each in read_shard(root / "test", info)] == SAMPLES
    return root


def check_members(found: dict[str, bytes], expected: Sample) -> None:
    assert found["__key__"] == expected.key
    assert found[expected.extension] == expected.image
    assert json.loads(found["json"])["rationales"] == list(expected.rationales)
    assert int(found["cls"]) == VOCABULARY.category_id(expected.category)
    assert expected.category in bytes(found["txt"]).decode()


def test_webdataset_reads_them(folder):
    import webdataset as wds

    found = list(wds.WebDataset(f"{folder}/test/{{0..2}}.tar", shardshuffle=False))
    assert len(found) == len(SAMPLES)
    for each, expected in zip(found, SAMPLES, strict=True):
        check_members(each, expected)


def test_clip_benchmark_reads_them(folder):
    from clip_benchmark.datasets.builder import build_dataset

    dataset = build_dataset("wds/ours", root=str(folder), split="test", transform=np.asarray)
    assert dataset.classes == list(VOCABULARY.categories)
    assert dataset.templates == ["This is a photo of a {c}."]
    found = list(dataset)
    assert [label for _, label in found] == [VOCABULARY.category_id(each.category) for each in SAMPLES]
    for (pixels, _), expected in zip(found, SAMPLES, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(expected.image)).convert("RGB")))


@pytest.mark.slow
def test_ray_data_reads_them(folder):
    import ray

    with connect(ClusterConfig(num_cpus=1)):
        rows = ray.data.read_webdataset([f"{folder}/test/{number}.tar" for number in range(3)], decoder=None).take_all()
    assert len(rows) == len(SAMPLES)
    for each, expected in zip(sorted(rows, key=lambda row: row["__key__"]), SAMPLES, strict=True):
        check_members(each, expected)
