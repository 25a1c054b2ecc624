"""A whole pipeline whose every place is in S3: what local disks give, S3 gives too, failing and slow as it may be."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ecor.checkpoint import load
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.data.predictions.manifest import read_prediction_set as read_labels
from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_shard
from ecor.evaluation.record import read_evaluation
from ecor.storage import filesystem
from pipelines.__main__ import EXIT_DONE, main
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.pipeline_file import PipelineConfig, read_pipeline
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.runtime import cluster
from pipelines.stages import score, shard
from tests.support.image_forms import as_zip
from tests.support.image_forms import pictures as form_pictures
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import NAMES, TINY_CLIP, write_pictures

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'ecor[dev]'")
pytest.importorskip("moto", reason="moto is not installed: pip install 'ecor[dev]'")

from tests.support.s3_server import S3Server, s3_in_use

pytestmark = pytest.mark.slow

BUCKET = "s3://bucket"
JOB = f"{BUCKET}/job"
CLIP, WEIGHTS = f"{BUCKET}/clip.json", f"{BUCKET}/clip.safetensors"
NUM_OF = {"train": 12, "validation": 6, "test": 9}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_in_use() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(scope="module")
def pictures(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Labelled pictures in DROR's layout; their bytes by path."""
    found = {}
    for seed, (split, num) in enumerate(NUM_OF.items()):
        paths = write_pictures(tmp_path_factory.mktemp(split), num=num, seed=seed)
        for number, path in enumerate(paths):
            category = list(NAMES)[number % len(NAMES)]
            found[f"{split}/{category}/{NAMES[category][0]}/{number}/{path.name}"] = path.read_bytes()
    for name, data in found.items():
        filesystem.write(f"{BUCKET}/images/{name}", data)
    return found


@pytest.fixture(scope="module")
def config(
    s3: S3Server, pictures: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PipelineConfig]:
    """The pipeline, run to its end on a small cluster that stays."""
    folder = tmp_path_factory.mktemp("pipeline")
    clip = folder / "tiny-clip.json"
    clip.write_text(json.dumps(TINY_CLIP))
    for path in load_backbone(BackboneConfig(name=str(clip), pretrained="random")).save(folder, stem="clip"):
        filesystem.write(f"{BUCKET}/{path.name}", path.read_bytes())
    text = f"""
        output = "{JOB}/"
        [shard]
        input = "{BUCKET}/images/"
        samples_per_shard = 5
        [train]
        backbone = {{ name = "{CLIP}", pretrained = "{WEIGHTS}" }}
        prompts = {{ rationale_tokens = 1, category_tokens = 1 }}
        num_epochs = 1
        batch_size = 4
        cache_dir = "{folder}/cache"
        [cluster]
        num_cpus = 2
        local_images = 0
        [tracking]
        uri = "{new_database(folder).uri}"
    """
    filesystem.write(f"{BUCKET}/pipeline.toml", text.encode())
    with cluster.connect(ClusterConfig(num_cpus=2)):
        assert main(["run", f"{BUCKET}/pipeline.toml"]) == EXIT_DONE
        yield read_pipeline(f"{BUCKET}/pipeline.toml")


def test_every_record_of_a_pipeline_is_where_it_was_to_be(config: PipelineConfig, pictures: dict[str, bytes]) -> None:
    assert filesystem.names_in(JOB) == ["evaluation", "labels", "report.html", "report.summary.json", "run", "shards"]
    assert filesystem.names_in(f"{JOB}/run") == ["checkpoint", "summary.json"]
    images = {
        f"{split}/{sample.source.removeprefix(f'{split}/')}": sample.image
        for split in NUM_OF
        for info in read_shard_manifest(f"{JOB}/shards/{split}").shards
        for sample in read_shard(f"{JOB}/shards/{split}", info)
    }
    assert images == pictures
    labels = read_labels(config.score.output)
    rows = read_predictions(config.score.output)
    assert rows.num_rows == len(set(rows["key"].to_pylist())) == NUM_OF["test"]
    assert labels.parents.input_digest == read_shard_manifest(f"{JOB}/shards/test").digest
    model = load(f"{JOB}/run")
    assert labels.parents.model_digest == model.digest
    assert (model.backbone.config.name, model.backbone.config.pretrained) == (CLIP, WEIGHTS)
    assert read_evaluation(config.evaluate.output).results[0].predictions == labels.digest
    page = filesystem.read(config.report.output).decode()
    assert page.count("data:image/webp") >= NUM_OF["test"]
    assert not Path("s3:").exists()


def test_a_finished_pipeline_is_left_as_it_is_also_by_a_store_that_waits(config: PipelineConfig, s3: S3Server) -> None:
    names = ("shards/test/manifest.json", "run/summary.json", "labels/final/manifest.json")
    records = [f"{JOB}/{name}" for name in names]
    written = {record: (filesystem.modification_time(record), filesystem.read(record)) for record in records}
    with s3.faulty(kind="wait", seconds=1.0, period=20):
        assert main(["run", f"{BUCKET}/pipeline.toml"]) == EXIT_DONE
        assert s3.num_faults > 2
    assert {record: (filesystem.modification_time(record), filesystem.read(record)) for record in records} == written


def test_shards_that_are_damaged_or_missing_come_back_as_they_were_from_a_store_that_fails(
    config: PipelineConfig, s3: S3Server
) -> None:
    folder = f"{JOB}/shards/train"
    before = {name: filesystem.read(f"{folder}/{name}") for name in filesystem.names_in(folder)}
    filesystem.write(f"{folder}/0.tar", before["0.tar"][:-1000])
    filesystem.remove(f"{folder}/1.tar")
    filesystem.remove(f"{folder}/manifest.json")
    with s3.faulty(kind="lose", period=8):
        shard.run(config.shard, cluster=config.cluster)
        assert s3.num_faults > 5
    assert {name: filesystem.read(f"{folder}/{name}") for name in filesystem.names_in(folder)} == before
    summary = json.loads(filesystem.read(f"{JOB}/shards/summary.json"))
    assert (summary["num_shards_written"], summary["num_shards_kept"]) == (2, len(summary["splits"]) + 2)


def test_an_archive_in_a_store_gives_on_ray_what_it_gives_on_a_disk_in_process(
    config: PipelineConfig, tmp_path: Path
) -> None:
    place, model = as_zip(form_pictures(), tmp_path), read_labels(config.score.output).parents.model_uri
    filesystem.write(f"{BUCKET}/forms/{place.name}", place.read_bytes())
    tars, labels = [], []
    for root, output, where in (
        (f"{BUCKET}/forms", f"{BUCKET}/{place.stem}-out", config.cluster),
        (str(tmp_path), str(tmp_path / "out"), ClusterConfig()),
    ):
        settings = ShardConfig(input=f"{root}/{place.name}", output=f"{output}/shards", split_shares={"train": 1.0})
        (manifest,) = shard.run(settings, cluster=where).values()
        tars.append([info.sha256 for info in manifest.shards])
        scoring = ScoreConfig(input=settings.input, output=f"{output}/labels", model=model, unit_size=4)
        score.run(scoring, cluster=where, tracking=config.tracking)
        rows = read_predictions(scoring.output).to_pylist()
        labels.append(sorted((row["key"][:12], row["category"], row["rationale"]) for row in rows))
        assert json.loads(filesystem.read(f"{output}/labels/summary.json"))["in_process"] == (
            where is not config.cluster
        )
    assert tars[0] == tars[1] and labels[0] == labels[1] and len(labels[0]) == len(form_pictures())


def test_labels_that_are_missing_come_back_as_they_were_from_a_store_that_fails(
    config: PipelineConfig, s3: S3Server
) -> None:
    output = config.score.output
    labels, expected = read_labels(output), read_predictions(output).to_pydict()
    missing, *others = labels.parts
    assert others
    filesystem.remove(f"{output}/{missing.name}")
    filesystem.remove(f"{output}/manifest.json")
    settings = replace(config.score, model=labels.parents.model_uri)
    with s3.faulty(kind="lose", period=8):
        score.run(settings, cluster=config.cluster, tracking=config.tracking)
        assert s3.num_faults > 5
    assert read_predictions(output).to_pydict() == expected
    summary = json.loads(filesystem.read(f"{output}/summary.json"))
    assert (summary["num_units_kept"], summary["num_units_done"]) == (len(others), 1)
