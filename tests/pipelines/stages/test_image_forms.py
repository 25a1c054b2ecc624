"""Images are the same in whatever form they come: content, labels, features and order, for `shard` and `score`.

Covers: `pipelines.scoring.sources.listed_folder`, `pipelines.scoring.sources.listed_tables`,
`pipelines.sharding.sources.listed_source`, `pipelines.sharding.sources.source_places`,
`ecor.data.sources.image_tables`, `ecor.data.sources.row_tables`.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ecor.clip.image_features import FEATURES_FOLDER, read_feature_part, read_feature_set
from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage.digests import bytes_sha256
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.scoring.inputs import read_input
from pipelines.scoring.work_units import ImageItem, unit_from_json, unit_to_json
from pipelines.stages import score, shard
from tests.support.image_forms import FORMS, WITHOUT_SCORE_LABELS, as_folder, as_parquet, pictures, write_tar
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import tiny_checkpoint

ONE = ClusterConfig(num_cpus=1)
Labelled = list[tuple[str, str | None]]


pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


def sharded(place: Path, output: Path, **settings) -> Labelled:
    """Digest and category of every image in the shards."""
    config = ShardConfig(input=str(place), output=str(output), split_shares={"train": 1.0}, **settings)
    found = []
    for split in shard.run(config, cluster=ONE):
        folder = str(output / split)
        for info in read_shard_manifest(folder).shards:
            found += read_index(folder, info).select(["sha256", "category"]).to_pylist()
    return sorted((row["sha256"], row["category"]) for row in found)


def listed(place: Path) -> Labelled:
    """Digest and category of every image of an input to score; its units travel as JSON."""
    found = []
    for unit in read_input(str(place), unit_size=4).units:
        for item in unit_from_json(unit_to_json(unit)).read():
            assert isinstance(item, ImageItem), item
            found.append((bytes_sha256(item.data), item.category_true))
    return found


def expected(*, with_labels: bool = True) -> Labelled:
    return [(bytes_sha256(data), name.partition("/")[0] if with_labels else None) for name, data in pictures().items()]


@pytest.mark.parametrize("form", FORMS)
def test_shards_hold_the_same_images_and_labels(form: str, tmp_path: Path):
    place = FORMS[form](pictures(), tmp_path)
    found = sharded(place, tmp_path / "shards")
    assert found == sorted(expected()) == sharded(as_folder(pictures(), tmp_path), tmp_path / "plain-shards")
    assert sharded(place, tmp_path / "shards") == found  # the finished job is recognised


@pytest.mark.parametrize("form", FORMS)
def test_scoring_reads_the_same_images_and_labels(form: str, tmp_path: Path):
    found = listed(FORMS[form](pictures(), tmp_path))
    with_labels = form not in WITHOUT_SCORE_LABELS
    assert found == expected(with_labels=with_labels) or sorted(found, key=str) == sorted(
        expected(with_labels=with_labels), key=str
    )


@pytest.mark.parametrize("form", ["parquet", "saved_dataset", "tar", "zip"])
def test_labels_and_features_are_those_of_plain_files(form: str, tmp_path, checkpoint, tracking):
    """To the bit: in the same order, the same images are in one batch."""
    images = dict(sorted(pictures().items()))
    config = ScoreConfig(
        input=str(as_folder(images, tmp_path)),
        output=str(tmp_path / "labels"),
        model=checkpoint,
        unit_size=4,
        keep_features=True,
    )
    other = replace(config, input=str(FORMS[form](images, tmp_path)), output=str(tmp_path / "others"))
    rows = []
    for each in (config, other):
        score.run(each, tracking=tracking)
        table = read_predictions(each.output).to_pandas()
        table["content"] = table["key"].str[:12]
        rows.append(table.sort_values("content").reset_index(drop=True))
    assert list(rows[0]["content"]) == list(rows[1]["content"])
    assert list(rows[0]["rationale"]) == list(rows[1]["rationale"])
    np.testing.assert_array_equal(rows[0]["confidence"], rows[1]["confidence"])
    assert features_by_content(tmp_path / "labels") == features_by_content(tmp_path / "others")
    made = score.run(other, tracking=tracking)  # again: it is finished
    assert made.num_rows == len(pictures())


def features_by_content(folder: Path) -> dict[str, object]:
    kept = read_feature_set(str(folder))
    assert kept is not None
    found: dict[str, object] = {}
    for part in kept.parts:
        for row in read_feature_part(str(folder / FEATURES_FOLDER), part).to_pylist():
            found[row.pop("key")[:12]] = row
    assert len(found) == len(pictures())
    return found


def test_what_is_no_image_in_a_row_or_member_is_rejected_with_its_address(tmp_path, checkpoint, tracking):
    images = {**pictures(), "cat/broken.png": b"\x89PNG\r\n\x1a\n", "dog/empty.png": b""}
    for place in (as_parquet(images, tmp_path), write_tar(tmp_path / "some.tar", images)):
        output = tmp_path / f"{place.name}-labels"
        config = ScoreConfig(input=str(place), output=str(output), model=checkpoint, unit_size=3, max_rejected=0.5)
        made = score.run(config, tracking=tracking)
        assert (made.num_rows, made.num_rejected) == (len(pictures()), 2)
        rejected = pq.ParquetFile(output / "quarantine.parquet").read().to_pylist()
        assert {row["reason"] for row in rejected} == {"not_an_image", "empty"}
        assert all(row["source"].startswith(f"{place}!/") for row in rejected)


def test_splits_are_those_of_folders_and_file_names(tmp_path):
    images = list(pictures().items())
    folder = tmp_path / "data"
    folder.mkdir()
    for split, some in (("train", images[:6]), ("test", images[6:])):
        as_parquet(dict(some), tmp_path).rename(folder / f"{split}-00000-of-00001.parquet")
    config = ShardConfig(input=str(folder), output=str(tmp_path / "shards"), split_shares={"train": 1.0})
    found = shard.run(config, cluster=ONE)
    assert {split: manifest.num_samples for split, manifest in found.items()} == {"train": 6, "test": 3}


def test_a_changed_file_of_rows_is_another_input(tmp_path):
    first = read_input(str(as_parquet(pictures(), tmp_path)), unit_size=4)
    again = read_input(str(as_parquet(pictures(), tmp_path)), unit_size=4)
    other = read_input(str(as_parquet(pictures(seed=1), tmp_path)), unit_size=4)
    assert first.digest == again.digest != other.digest


def test_files_of_several_pictures_are_counted(tmp_path, checkpoint, tracking, capsys):
    """Also by a job that finds its shards finished, and by `--since`, which does not read them again."""
    frames = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 9), dtype=np.uint8)) for seed in (0, 1)]
    images = dict(pictures())
    for name, kind in (("cat/a.gif", "GIF"), ("dog/pages.tif", "TIFF")):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        images[name] = out.getvalue()
    place, line = as_folder(images, tmp_path), "2 files hold several pictures: the first of each is taken"
    for _ in range(2):
        assert len(sharded(place, tmp_path / "shards")) == len(images)
        assert line in capsys.readouterr().err and number_of(tmp_path / "shards") == 2
    assert len(sharded(place, tmp_path / "more", since=str(tmp_path / "shards"))) == len(images)
    assert line in capsys.readouterr().err and number_of(tmp_path / "more") == 2
    config = ScoreConfig(input=str(place), output=str(tmp_path / "labels"), model=checkpoint, unit_size=3)
    score.run(config, tracking=tracking)
    assert line in capsys.readouterr().err and number_of(tmp_path / "labels") == 2


def number_of(folder: Path) -> int:
    return json.loads((folder / "summary.json").read_text())["num_multipicture"]
