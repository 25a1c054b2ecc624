"""Laws of what MLflow is told: runs reattach, aliases pin, a changed model is refused.

Covers: `pipelines.stages.promote`, `pipelines.stages.register`, `pipelines.tracking.mlflow_runs`,
`pipelines.tracking.model_cache`, `pipelines.tracking.model_versions`, `pipelines.tracking.run_params`,
`pipelines.tracking.version_lookup`.
"""

import json
import os
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import (
    _validate_logged_model_name,
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from ecor.checkpoint import Checkpoint, load
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.schema import PREDICTION_SCHEMA
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.metrics import observations_table
from ecor.evaluation.record import EVALUATION_NAME, OBSERVATIONS_NAME, Evaluation
from ecor.evaluation.table_evaluation import evaluate as evaluated
from ecor.evaluation.table_evaluation import known_labels
from pipelines.config.infrastructure import TrackingConfig, resolve_tracking
from pipelines.config.reporting import EvaluateConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig
from pipelines.stages import evaluate, promote
from pipelines.tracking import model_cache, model_registry
from pipelines.tracking.model_versions import ModelVersion
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table
from tests.support.tiny_models import tiny_checkpoint, write_pictures


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return new_database(tmp_path_factory.mktemp("mlflow"))


def client(tracking: TrackingConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)


def test_a_run_keeps_params_metrics_and_tags(tracking: TrackingConfig) -> None:
    run_id = model_registry.start_training_run(
        tracking, name="first", params={"fit": {"learning_rate": 0.1}, "seed": 3}, tags={"vocabulary": "abc"}
    )
    for step in range(3):
        model_registry.log_metrics(tracking, run_id=run_id, metrics={"loss": 1.0 / (step + 1)}, step=step)
    model_registry.finish_run(tracking, run_id=run_id, status="FINISHED")
    run = client(tracking).get_run(run_id)
    assert run.data.params == {"fit.learning_rate": "0.1", "seed": "3"}
    assert run.data.tags["vocabulary"] == "abc"
    assert run.info.status == "FINISHED"
    history = client(tracking).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]


def test_a_restarted_run_goes_on_in_the_same_run(tracking: TrackingConfig) -> None:
    first = model_registry.start_training_run(tracking, name="again", params={"seed": 1}, tags={})
    model_registry.finish_run(tracking, run_id=first, status="FAILED")
    second = model_registry.start_training_run(tracking, name="again", params={"seed": 1}, tags={}, run_id=first)
    assert second == first
    assert client(tracking).get_run(first).info.status == "RUNNING"
    with pytest.raises(ValueError, match="0000 is not on sqlite"):
        model_registry.start_training_run(tracking, name="again", params={}, tags={}, run_id="0000")


def test_a_block_that_fails_leaves_a_failed_run(tracking: TrackingConfig) -> None:
    with pytest.raises(RuntimeError), model_registry.recorded_run(tracking, name="bad", params={}, tags={}) as run_id:
        raise RuntimeError("no")
    assert client(tracking).get_run(run_id).info.status == "FAILED"


def test_an_evaluation_is_a_run_with_its_folder(tracking: TrackingConfig, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("rule,rr\nstrict,0.5\n")
    run_id = model_registry.log_evaluation(tracking, metrics={"strict/rr": 0.5}, folder=tmp_path, tags={"model": "m"})
    assert client(tracking).get_run(run_id).data.metrics == {"strict/rr": 0.5}
    assert [file.path for file in client(tracking).list_artifacts(run_id)] == ["table.csv"]


def test_without_a_uri_the_database_is_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking(TrackingConfig()).uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert resolve_tracking(TrackingConfig()).uri == "http://somewhere:5000"
    assert resolve_tracking(TrackingConfig(uri="sqlite:////x.db")).uri == "sqlite:////x.db"


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{uri} does not answer"):
            model_registry.start_training_run(TrackingConfig(uri=uri), name="x", params={}, tags={})
    with pytest.raises(ValueError, match="does not accept the tracking URI"):
        model_registry.start_training_run(TrackingConfig(uri=f"file:{tmp_path}/runs"), name="x", params={}, tags={})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def version(tracking: TrackingConfig, checkpoint: Checkpoint) -> ModelVersion:
    return model_registry.register_model(RegisterConfig(checkpoint=checkpoint.folder, name="tiny"), tracking=tracking)


def test_registering_pins_the_digests_and_sets_the_alias(
    tracking: TrackingConfig, checkpoint: Checkpoint, version: ModelVersion
) -> None:
    assert (version.name, version.version, version.uri) == ("tiny", "1", "models:/tiny/1")
    assert version.digest == checkpoint.model_digest
    assert version.vocabulary_digest == checkpoint.vocabulary_digest
    by_alias = model_registry.resolve_model("models:/tiny@candidate", tracking=tracking)
    assert by_alias == replace(version, asked_for="models:/tiny@candidate")
    record = client(tracking).get_model_version("tiny", "1")
    assert record.tags["ecor.parent.train_manifest"] == "0" * 64
    model_id = client(tracking).get_run(record.run_id).outputs.model_outputs[0].model_id
    logged = client(tracking).get_logged_model(model_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "tiny", "version": "1"}]
    assert logged.params["prompts.rationale_tokens"] == "2"


def test_the_same_checkpoint_is_one_version(
    tracking: TrackingConfig, checkpoint: Checkpoint, version: ModelVersion, tmp_path: Path
) -> None:
    again = RegisterConfig(checkpoint=checkpoint.folder, name="tiny", alias="again")
    assert model_registry.register_model(again, tracking=tracking) == version
    assert model_registry.resolve_model("models:/tiny@again", tracking=tracking).version == version.version
    other = tiny_checkpoint(tmp_path, seed=1)
    config = RegisterConfig(checkpoint=other.folder, name="tiny", alias="", with_backbone=False)
    assert model_registry.register_model(config, tracking=tracking).version == "2"
    assert model_registry.resolve_model("models:/tiny@candidate", tracking=tracking).version == "1"


def test_what_is_not_there_is_answered_with_what_is(tracking: TrackingConfig, version: ModelVersion) -> None:
    with pytest.raises(ValueError, match=r"tiny has the versions 1.* and the aliases .*candidate \(version 1\)"):
        model_registry.resolve_model("models:/tiny@champion", tracking=tracking)
    with pytest.raises(ValueError, match="registered models are tiny"):
        model_registry.resolve_model("models:/other/1", tracking=tracking)
    with pytest.raises(ValueError, match="models:/<name>@<alias>"):
        model_registry.resolve_model("models:/tiny", tracking=tracking)
    with pytest.raises(ValueError, match=r"nowhere .*checkpoint\.json"):
        model_registry.resolve_model("nowhere", tracking=tracking)
    assert model_registry.find_version("models:/tiny@champion", tracking=tracking) is None
    assert model_registry.find_version("models:/other/1", tracking=tracking) is None
    assert model_registry.find_version("models:/tiny/1", tracking=tracking) == version


def test_a_fetched_model_gives_the_same_numbers_without_its_original(
    tracking: TrackingConfig, version: ModelVersion, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    original = load(checkpoint.folder)
    backbone_json = Path(original.backbone.config.name)
    hidden = backbone_json.rename(backbone_json.with_suffix(".hidden"))  # only the packed backbone is left
    try:
        fetched = load(model_cache.fetch_model(version, tracking=tracking, cache_dir=tmp_path / "cache"))
    finally:
        hidden.rename(backbone_json)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(fetched.joint(pixels).log_prob, original.joint(pixels).log_prob)
    assert fetched.digest == version.digest


def test_a_model_is_fetched_once_and_verified(
    tracking: TrackingConfig, version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model_cache.fetch_model(version, tracking=tracking, cache_dir=tmp_path)
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", None)  # a second download would fail
    assert model_cache.fetch_model(version, tracking=tracking, cache_dir=tmp_path) == first
    monkeypatch.undo()
    for name, change in (("model", {"digest": "f" * 64}), ("vocabulary", {"vocabulary_digest": "f" * 64})):
        found = getattr(version, *change)
        with pytest.raises(ValueError, match=f"should be {name} ffff.* holds {found}: register it again"):
            model_cache.fetch_model(replace(version, **change), tracking=tracking, cache_dir=tmp_path)


def test_a_checkpoint_folder_stands_for_a_model(tracking: TrackingConfig, checkpoint: Checkpoint) -> None:
    plain = model_registry.resolve_model(checkpoint.folder, tracking=tracking)
    assert (plain.version, plain.digest) == (None, checkpoint.model_digest)
    assert model_cache.fetch_model(plain, tracking=tracking) == Path(checkpoint.folder)


@dataclass(frozen=True)
class Rivals:
    """Two versions, and the folders of their evaluations on the same pictures: whose answers are the truth wins."""

    tracking: TrackingConfig
    right: ModelVersion
    wrong: ModelVersion
    evaluation_of: dict[str, str]

    def config(self, version: ModelVersion, *, champion: ModelVersion, force: bool = False) -> PromoteConfig:
        return PromoteConfig(
            model=version.uri,
            evaluation=self.evaluation_of[version.uri],
            champion_evaluation=self.evaluation_of[champion.uri],
            force=force,
        )


@pytest.fixture
def rivals(tracking: TrackingConfig, tmp_path: Path) -> Rivals:
    name, pictures = f"rivals-{tmp_path.name}", write_pictures(tmp_path / "pictures", num=40)
    checkpoints = [tiny_checkpoint(tmp_path / str(seed), seed=seed, num_tokens=4) for seed in (0, 1)]
    versions = [
        model_registry.register_model(RegisterConfig(checkpoint=each.folder, name=name, alias=""), tracking=tracking)
        for each in checkpoints
    ]
    truth = load(checkpoints[0].folder).predict(pictures).to_arrow()
    evaluations = {}
    for checkpoint, version in zip(checkpoints, versions, strict=True):
        labels = str(tmp_path / f"labels-{version.version}")
        rows = load(checkpoint.folder).predict(pictures).to_arrow().to_pylist()
        known = [
            row | {"category_true": right["category"], "rationales_true": [right["rationale"]]}
            for row, right in zip(rows, truth.to_pylist(), strict=True)
        ]
        part = write_part(labels, pa.Table.from_pylist(known, schema=PREDICTION_SCHEMA), name="0.parquet", unit="0")
        write_prediction_set(labels, PredictionSet(parts=(part,), parents=parents_of(version), scoring=ScoringConfig()))
        evaluations[version.uri] = str(tmp_path / f"evaluation-{version.version}")
        config = EvaluateConfig(predictions=(labels,), output=evaluations[version.uri], num_resamples=200)
        evaluate.run(config, tracking=tracking)
    return Rivals(tracking, versions[0], versions[1], evaluations)


def parents_of(version: ModelVersion) -> PredictionParents:
    return PredictionParents(
        input="pictures",
        input_digest="0" * 64,
        model_uri=version.uri,
        model_name=version.name,
        model_version=version.version,
        model_digest=version.digest,
        vocabulary_digest=version.vocabulary_digest,
    )


def champion_of(rivals: Rivals) -> ModelVersion | None:
    return model_registry.find_version(f"models:/{rivals.right.name}@champion", tracking=rivals.tracking)


@pytest.mark.slow
def test_a_worse_version_is_refused_and_a_better_one_promoted(rivals: Rivals) -> None:
    tracking, right, wrong = rivals.tracking, rivals.right, rivals.wrong
    assert promote.run(PromoteConfig(model=wrong.uri), tracking=tracking) == wrong
    assert promote.run(PromoteConfig(model=right.uri), tracking=tracking).version == wrong.version
    tags = client(tracking).get_model_version(right.name, str(right.version)).tags
    assert tags["ecor.champion.refused"].startswith(f"not compared with {wrong.uri}")
    assert promote.run(rivals.config(right, champion=wrong), tracking=tracking) == right
    digest, lineage = model_registry.read_lineage(right.name, str(right.version), tracking=tracking)
    assert (digest, lineage[f"ecor.promotion_decided_on.{'0' * 16}"]) == (right.digest, "0" * 64)
    with pytest.raises(ValueError, match=f"there is no models:/{right.name}/99"):
        model_registry.read_lineage(right.name, "99", tracking=tracking)
    refused = promote.run(rivals.config(wrong, champion=right), tracking=tracking)
    assert refused.version == right.version
    tags = client(tracking).get_model_version(wrong.name, str(wrong.version)).tags
    assert tags["ecor.champion.refused"].startswith(f"strict RR less that of {right.uri}: -")
    assert promote.run(rivals.config(wrong, champion=right, force=True), tracking=tracking) == wrong
    tags = client(tracking).get_model_version(wrong.name, str(wrong.version)).tags
    assert tags["ecor.champion.forced"] == tags["ecor.champion.refused"]
    found = champion_of(rivals)
    assert found is not None
    assert found.version == wrong.version


@pytest.mark.slow
def test_an_evaluation_of_another_model_is_refused(rivals: Rivals) -> None:
    promote.run(PromoteConfig(model=rivals.right.uri), tracking=rivals.tracking)
    config = rivals.config(rivals.wrong, champion=rivals.right)
    swapped = replace(config, evaluation=config.champion_evaluation)
    with pytest.raises(ValueError, match=f"is of model {rivals.right.digest}, but {rivals.wrong.uri}"):
        promote.run(swapped, tracking=rivals.tracking)
    with pytest.raises(ValueError, match="name both"):
        promote.run(replace(config, evaluation=None), tracking=rivals.tracking)


@pytest.mark.parametrize("others", ["0" * 64, "1" * 64])
def test_versions_that_were_judged_on_other_images_are_not_compared(tmp_path: Path, others: str) -> None:
    pinned_at = {"asked_for": "", "name": "a", "vocabulary_digest": "v", "backbone_digest": "b", "run_id": None}
    candidate, champion = (
        ModelVersion(uri=f"models:/a/{version}", version=version, digest=version * 64, **pinned_at) for version in "21"
    )
    folders = list[str]()
    for version, images in ((candidate, "0" * 64), (champion, others)):
        parents = {"model_digest": version.digest, "input_digest": images}
        table = random_table(30)
        resampling = Resampling(num_resamples=100)
        result = evaluated(table, name="a", parents=parents, resampling=resampling)
        record = Evaluation(results=(result,), comparisons=(), resampling=resampling, num_bins=15)
        folder = tmp_path / f"evaluation-{version.version}"
        folder.mkdir()
        (folder / EVALUATION_NAME).write_text(record.to_json())
        seen = observations_table(known_labels(table, name="a"))
        pq.write_table(seen.append_column("name", pa.array(["a"] * len(seen))), folder / OBSERVATIONS_NAME)
        folders.append(str(folder))
    first, second = folders
    config = PromoteConfig(model=candidate.uri, evaluation=first, champion_evaluation=second)
    if others == "0" * 64:
        is_barred, grounds = promote._compare_with_champion(config, candidate=candidate, champion=champion)
        assert not is_barred and grounds.startswith("strict RR less that of models:/a/1: +0.0000")
    else:
        told = rf"{first} is of other images than {second} \(0000.* and 1111.*: score the same split with both"
        with pytest.raises(ValueError, match=told):
            promote._compare_with_champion(config, candidate=candidate, champion=champion)


def test_an_evaluation_that_is_not_there_promotes_nobody(tracking: TrackingConfig, version: ModelVersion) -> None:
    """Without a rival it is not compared, but it was named."""
    config = PromoteConfig(model=version.uri, alias="first", evaluation="nowhere")
    with pytest.raises(ValueError, match=r"nowhere holds no evaluation\.json"):
        promote.run(config, tracking=tracking)
    assert model_registry.find_version(f"models:/{version.name}@first", tracking=tracking) is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "a/b"}, "got 'a/b'"),
        ({"name": "a.b"}, "got 'a.b'"),
        ({"name": " "}, "got ' '"),
        ({"name": "a@b"}, "got 'a@b'"),
        ({"alias": "a b"}, "got 'a b'"),
        ({"alias": "v1"}, "got 'v1'"),
        ({"alias": "Latest"}, "got 'Latest'"),
    ],
)
def test_names_that_mlflow_refuses_are_refused_before_anything_is_made(settings: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RegisterConfig(checkpoint="run", **settings)
    if "alias" in settings:
        with pytest.raises(ValueError, match=told):
            PromoteConfig(**settings)


@given(names=st.text(st.sampled_from("aZ09-_ .:/%@é'\""), max_size=4))
def test_whatever_name_is_taken_mlflow_takes_too(names: str) -> None:
    with suppress(ValueError):
        name = RegisterConfig(checkpoint="run", name=names).name
        _validate_model_name(name)
        _validate_logged_model_name(name)
    with suppress(ValueError):
        alias = PromoteConfig(alias=names).alias
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)


def test_models_lie_in_the_temporary_folder_where_there_is_no_home(tmp_path, monkeypatch):
    for name in ("ECOR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = model_cache.make_cache_dir()
    assert found == tmp_path / f"ecor-{os.getuid()}" / "models" and found.is_dir()
    assert found.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert model_cache.make_cache_dir() == tmp_path / "home" / ".cache" / "ecor" / "models"
    monkeypatch.setenv("ECOR_CACHE", "/dev/null/nowhere")
    with pytest.raises(OSError, match="nowhere"):
        model_cache.make_cache_dir()
