"""Cards of registered versions: the versions that they were tuned from, and what promotion adds.

Covers: `pipelines.tracking.version_lineage`.
"""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from ecor.checkpoint import save_checkpoint
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.record import EVALUATION_NAME, Evaluation
from ecor.evaluation.table_evaluation import evaluate as evaluated
from ecor.storage.model_records import Checkpoint
from pipelines.__main__ import main
from pipelines.cards import version_card
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig
from pipelines.stages import promote, register
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import Ancestor, ModelVersion
from pipelines.tracking.version_lineage import trace_lineage
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table
from tests.support.tiny_models import tiny_recognizer

pytestmark = pytest.mark.slow


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


def checkpoint(folder: Path, *, seed: int, tuned_from: str | None = None) -> Checkpoint:
    parents = {"train_manifest": f"{seed}" * 64} | ({} if tuned_from is None else {"initial_model": tuned_from})
    return save_checkpoint(tiny_recognizer(folder, seed=seed), folder / "checkpoint", parents=parents)


def registered(saved: Checkpoint, *, tracking: TrackingConfig, name: str = "tiny") -> ModelVersion:
    return register.run(RegisterConfig(checkpoint=saved.folder, name=name, alias=""), tracking=tracking)


def description(version: ModelVersion, *, tracking: TrackingConfig) -> str:
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    return str(client.get_model_version(version.name, str(version.version)).description)


def write_evaluation(folder: Path, version: ModelVersion) -> str:
    parents = {"model_digest": version.digest, "input_digest": "7" * 64, "input": "shards/validation"}
    resampling = Resampling(num_resamples=100)
    result = evaluated(random_table(30), name="tiny", parents=parents, resampling=resampling)
    record = Evaluation(results=(result,), comparisons=(), resampling=resampling, num_bins=15)
    folder.mkdir()
    (folder / EVALUATION_NAME).write_text(record.to_json())
    return str(folder)


def test_a_card_names_all_versions_that_the_model_was_tuned_from(tracking: TrackingConfig, tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "1", seed=1, tuned_from="9" * 64)  # a model that the registry does not have
    second = checkpoint(tmp_path / "2", seed=2, tuned_from=first.model_digest)
    third = checkpoint(tmp_path / "3", seed=3, tuned_from=second.model_digest)
    registered(first, tracking=tracking, name="other")
    versions = [registered(each, tracking=tracking) for each in (first, second, third)]
    lineage = trace_lineage(versions[2], tracking=tracking)
    assert lineage.ancestors == (
        Ancestor(digest=second.model_digest, uri="models:/tiny/2"),
        Ancestor(digest=first.model_digest, uri="models:/tiny/1"),
        Ancestor(digest="9" * 64, uri=None),
    )
    card = description(versions[2], tracking=tracking)
    assert "| step 2 | models:/tiny/1 |" in card and f"| step 3 | not recorded | {'9' * 64} |" in card
    alone = registered(checkpoint(tmp_path / "4", seed=4), tracking=tracking)
    assert trace_lineage(alone, tracking=tracking).ancestors == ()
    assert "No earlier model that it was tuned from is recorded." in description(alone, tracking=tracking)


def test_versions_that_claim_each_other_as_origin_end(tracking: TrackingConfig, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "1", seed=1)
    version = registered(saved, tracking=tracking)
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    client.set_model_version_tag(version.name, str(version.version), "ecor.parent.initial_model", version.digest)
    assert trace_lineage(version, tracking=tracking).ancestors == (Ancestor(digest=version.digest, uri=version.uri),)


def test_promotion_adds_its_evaluation_and_decision_to_the_card(tracking: TrackingConfig, tmp_path: Path) -> None:
    version = registered(checkpoint(tmp_path / "1", seed=1), tracking=tracking)
    assert "No evaluation was given" in description(version, tracking=tracking)
    evaluation = write_evaluation(tmp_path / "evaluation", version)
    config = PromoteConfig(model=version.uri, evaluation=evaluation)
    assert promote.run(config, tracking=tracking) == version
    card = description(version, tracking=tracking)
    for told in (
        "| category and rationale right (rr) |",
        "- promotion to champion, promoted: no rival",
        "- images that decided about its promotion: `777777777777`",
        "These images decided about its promotion: the figures may be too good.",
    ):
        assert told in card
    assert main(["card", version.uri, "--tracking.uri", str(tracking.uri), "--output", str(tmp_path / "card.md")]) == 0
    bare = description(version, tracking=tracking)
    assert bare == (tmp_path / "card.md").read_text() and "promotion to champion, promoted" in bare
    promote.run(config, tracking=tracking)
    assert description(version, tracking=tracking) == card, "a card without evaluation is replaced"
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    for written in ("written by Ada", card.replace("shards/validation", "shards/test")):
        client.update_model_version(version.name, str(version.version), description=written)
        promote.run(config, tracking=tracking)
        assert description(version, tracking=tracking) == written, "it says more, and stays"


@pytest.mark.parametrize("error", [OSError("the server is gone"), ValueError("altered")])
def test_no_job_fails_for_want_of_a_card(
    tracking: TrackingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(version_card, "trace_lineage", fail)
    version = registered(checkpoint(tmp_path / "1", seed=1), tracking=tracking)
    promote.run(
        PromoteConfig(model=version.uri, evaluation=write_evaluation(tmp_path / "e", version)), tracking=tracking
    )
    found = capsys.readouterr()
    line = f"{version.uri} has no new model card ({error}): write it with `ecor card {version.uri}`"
    assert found.err.splitlines() == [line, line]
    assert found.out.splitlines() == [f"registered {version.uri}", f"champion is now {version.uri}"]
    assert model_registry.resolve_model("models:/tiny@champion", tracking=tracking).version == version.version
