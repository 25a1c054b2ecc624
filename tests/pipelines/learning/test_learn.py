"""`ecor learn`: the loop from labels over decisions to a promoted model, resumed; and what it refuses.

Covers: `pipelines.learning.contest`, `pipelines.learning.initial_model`, `pipelines.learning.learn_record`,
`pipelines.learning.tuning`.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set, write_prediction_set
from ecor.data.predictions.parts import read_predictions, write_part
from ecor.data.predictions.schema import origins_table
from ecor.data.samples import sample_key
from ecor.data.vocabulary import read_vocabulary
from ecor.model import Recognizer
from ecor.storage.digests import bytes_sha256
from pipelines.__main__ import main
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.learning import AskConfig, LearnConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig
from pipelines.learning import contest, learn
from pipelines.learning.contest import ContestResult
from pipelines.learning.initial_model import open_initial_model
from pipelines.learning.learn_record import Learned, find_learned, write_learned
from pipelines.learning.tuning import has_learned
from pipelines.review.decision import Correction
from pipelines.review.decision_set import open_decision_set
from pipelines.runtime.balance import Balance
from pipelines.stages import promote, score
from pipelines.tracking.model_registry import find_version, register_model
from tests.support.drawn_job import decide, draw_images, save_first_model
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table, write_labels
from tests.support.tiny_models import OTHER_NAMES, tiny_checkpoint, tiny_recognizer, write_pictures

ROOT = Path(__file__).resolve().parents[3]
NO_SERVER = TrackingConfig(uri="sqlite:////nowhere/mlflow.db")


def write_job(folder: Path, model: Recognizer, *, checkpoint: Path, paths: list[Path]) -> PredictionSet:
    """Labels of pictures as `ecor score` leaves them, made in this process."""
    preprocess = model.backbone.preprocess
    pixels = [torch.from_numpy(image_to_pixels(decode_image(p.read_bytes()), preprocess=preprocess)) for p in paths]
    keys = [sample_key(str(path), sha256=bytes_sha256(path.read_bytes())) for path in paths]
    table = model.label(torch.stack(pixels), origins=origins_table(keys, source=list(map(str, paths))))
    found = write_labels(str(folder), random_table(1))
    parents = replace(
        found.parents,
        model_name=str(checkpoint),
        model_version=None,
        model_digest=model.digest,
        vocabulary_digest=model.vocabulary.digest,
    )
    part = write_part(str(folder), table, name="part-0.parquet", unit="unit-0")
    made = replace(found, parts=(part,), parents=parents)
    write_prediction_set(str(folder), made)
    return made


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with a tiny model, labels of five pictures, and a reviewer who accepts all."""
    model = load(tiny_checkpoint(tmp_path / "model").folder)
    paths = write_pictures(tmp_path / "photos", num=5)
    predictions = write_job(tmp_path / "labels", model, checkpoint=tmp_path / "model", paths=paths)
    decisions = open_decision_set(f"{tmp_path}/reviewed", labels=f"{tmp_path}/labels", predictions=predictions)
    with decisions.open_log("Ada") as log:
        log.append(
            *(decide(row, predictions.digest, "accept") for row in read_predictions(f"{tmp_path}/labels").to_pylist())
        )
    return tmp_path


def config_of(job: Path, **changes: object) -> LearnConfig:
    return LearnConfig(**{"labels": f"{job}/labels", "corrections": f"{job}/reviewed", **changes})


def run(job: Path, **changes: object) -> object:
    return learn.run(config_of(job, **changes), tracking=NO_SERVER)


def initial(job: Path, **changes: object) -> object:
    config = config_of(job, **changes)
    return open_initial_model(config, read_prediction_set(config.labels), tracking=NO_SERVER)


def test_the_model_of_the_labels_is_found_by_their_record(job: Path) -> None:
    found = initial(job)
    assert found.version.digest == load(job / "model").digest
    assert found.vocabulary.digest == read_prediction_set(f"{job}/labels").parents.vocabulary_digest
    assert found.backbone.name == str(job / "model" / "tiny-clip.json")


def test_a_backbone_that_is_gone_is_taken_from_inside_the_model(job: Path) -> None:
    model = load(job / "model")
    save_checkpoint(model, job / "model" / "checkpoint", with_backbone=True)
    named = model.backbone.config
    shutil.copytree(job / "model", job / "moved")
    record = initial(job, model=str(job / "moved"))
    elsewhere = replace(record.checkpoint.model, backbone=replace(named, name="/gone.json", pretrained="/gone.pt"))
    inside = replace(record, checkpoint=replace(record.checkpoint, model=elsewhere)).backbone
    assert Path(inside.name).is_file()
    assert Path(str(inside.pretrained)).is_file()


def test_another_model_or_vocabulary_than_that_of_the_labels_is_refused(job: Path, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=r"other is model .*but the labels were made by .*--model"):
        initial(job, model=str(tmp_path / "other"))
    (tmp_path / "names.json").write_text(json.dumps(OTHER_NAMES))
    with pytest.raises(ValueError, match=r"the labels were made with the vocabulary .*names\.json is"):
        initial(job, vocabulary=str(tmp_path / "names.json"))
    shutil.rmtree(job / "model")
    with pytest.raises(ValueError, match="Learning starts from the model of the labels: name it with --model"):
        initial(job)


def test_a_model_without_tokens_cannot_be_tuned(job: Path, tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path / "plain", num_tokens=0)
    save_checkpoint(model, tmp_path / "plain" / "checkpoint")
    paths = write_pictures(tmp_path / "photos", num=2)
    write_job(tmp_path / "labels", model, checkpoint=tmp_path / "plain", paths=paths)
    with pytest.raises(ValueError, match="has no prompt tokens, so there is nothing to tune"):
        initial(job)


def test_decisions_about_other_labels_are_refused(job: Path) -> None:
    open_decision_set(f"{job}/others", labels="x", predictions=write_labels(f"{job}/x", random_table(3)))
    with pytest.raises(ValueError, match=r"holds decisions about the labels .* not about"):
        run(job, corrections=f"{job}/others")
    assert not Path(f"{job}/labels-learned").exists()


def test_what_was_refused_leaves_the_folder_free(job: Path) -> None:
    shutil.rmtree(job / "photos")
    with pytest.raises(ValueError, match=r"5 of 5 reviewed images cannot be used \(missing"):
        run(job)
    left = [path for path in Path(f"{job}/labels-learned").rglob("*") if path.is_file()]
    assert not left


def test_a_folder_with_files_of_others_is_refused_and_keeps_them(job: Path) -> None:
    """A project's own `shards` and `vocabulary.json` are neither written over nor removed."""
    folder = job / "project"
    (folder / "shards").mkdir(parents=True)
    (folder / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"project holds shards, vocabulary\.json: name another --output"):
        run(job, output=str(folder))
    assert sorted(each.name for each in folder.iterdir()) == ["shards", "vocabulary.json"]
    assert (folder / "vocabulary.json").read_text() == "{}"


def test_a_run_that_was_refused_before_its_first_state_has_learned_nothing(job: Path) -> None:
    config = config_of(job)
    (Path(config.folder) / "run" / "_ledger").mkdir(parents=True)
    assert not has_learned(config)
    (Path(config.folder) / "run" / "run.json").write_text("{}")
    assert has_learned(config)


def test_images_that_were_reviewed_by_earlier_labels_are_not_asked_for_again(job: Path) -> None:
    def asked(name: str, **ask: object) -> int:
        run(job, corrections=None, output=f"{job}/{name}", ask=AskConfig(**ask))
        return pq.ParquetFile(f"{job}/{name}/ask.parquet").metadata.num_rows

    assert asked("all") == 5
    assert asked("rest", seen=(f"{job}/reviewed",)) == 0
    others = write_labels(f"{job}/x", random_table(3))
    open_decision_set(
        f"{job}/others", labels="x", predictions=replace(others, parents=replace(others.parents, input_digest="0" * 64))
    )
    with pytest.raises(ValueError, match="decisions about labels of other images"):
        asked("none", seen=(f"{job}/others",))


def test_a_folder_of_something_else_is_refused(job: Path) -> None:
    with pytest.raises(ValueError, match=r"holds labels or an audit \(manifest.json\): name another --output"):
        run(job, output=f"{job}/labels")


def test_other_settings_in_the_same_folder_are_named(job: Path) -> None:
    predictions = read_prediction_set(f"{job}/labels")
    learn._claim_folder(config_of(job), predictions)
    learn._claim_folder(config_of(job, max_rejected=0.5), predictions)
    with pytest.raises(ValueError, match=r"other settings: num_epochs was 10, is 3\. Name another --output"):
        learn._claim_folder(config_of(job, num_epochs=3), predictions)


def test_reviewers_may_go_on_meanwhile(job: Path) -> None:
    config, predictions = config_of(job), read_prediction_set(f"{job}/labels")
    first, digest = learn._take_snapshot(config, learn._read_decisions(config, predictions))
    row = read_predictions(f"{job}/labels").to_pylist()[0]
    with open_decision_set(f"{job}/reviewed", labels="", predictions=predictions).open_log("Bo") as log:
        log.append(decide(row, predictions.digest, "wrong", reviewer="Bo"))
    again, same = learn._take_snapshot(config, learn._read_decisions(config, predictions))
    assert same == digest
    assert again.equals(first)


def test_without_corrections_only_the_list_is_written(job: Path) -> None:
    assert main(["learn", f"{job}/labels", "--ask.strategy", "margin", "--ask.number", "3"]) == 0
    assert sorted(path.name for path in Path(f"{job}/labels-learned").iterdir()) == ["ask.csv", "ask.parquet"]
    assert pq.ParquetFile(f"{job}/labels-learned/ask.parquet").metadata.num_rows == 3


def test_bad_input_is_one_line_and_exit_code_2(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", f"{job}/labels", "--corrections", f"{job}/photos"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [f"ecor: {job}/photos holds no decision_set.json: not a folder of decisions"]


def test_the_rival_is_the_champion_before_the_candidate(job: Path) -> None:
    """First the model of the labels, which has no version yet; also when a run was killed just after the promotion."""
    tracking = new_database(job)
    found = initial(job)
    tiny_checkpoint(job / "tuned", seed=7)
    candidate = register_model(RegisterConfig(checkpoint=str(job / "tuned")), tracking=tracking)
    judge = contest.Contest(config=config_of(job), scoring=ScoringConfig(), cluster=ClusterConfig(), tracking=tracking)
    rival = judge._find_rival(candidate, initial=found)
    assert (rival.name, rival.digest) == ("ecor", found.version.digest)
    champion = find_version("models:/ecor@champion", tracking=tracking)
    assert champion is not None
    assert champion.version == rival.version != candidate.version
    promote.run(PromoteConfig(model=candidate.uri, force=True), tracking=tracking)
    assert judge._find_rival(candidate, initial=found).version == rival.version
    third = register_model(RegisterConfig(checkpoint=tiny_checkpoint(job / "more", seed=8).folder), tracking=tracking)
    assert judge._find_rival(third, initial=found).version == candidate.version


def test_an_altered_record_is_refused(tmp_path: Path) -> None:
    outcome = ContestResult(
        candidate="models:/ecor/2",
        champion="models:/ecor/1",
        is_promoted=True,
        num_held_out=9,
        rr=0.5,
        champion_rr=0.4,
        difference=0.1,
        low=-0.1,
        high=0.3,
    )
    learned = Learned(
        labels_digest="l" * 64,
        corrections_digest="c" * 64,
        initial_model="run",
        initial_digest="m" * 64,
        outcome=outcome,
        num_train=20,
        num_validation=5,
        new_names=("dragon",),
        balance=Balance(stage="learn", num_listed=34, num_taken=34).to_record(),
    )
    assert find_learned(str(tmp_path)) is None
    write_learned(learned, str(tmp_path))
    assert find_learned(str(tmp_path)) == learned
    assert "RR 50.0 %, the champion's 40.0 % (+10.0 points [-10.0, +30.0]) on 9 held-out" in learned.describe()
    path = tmp_path / "learned.json"
    path.write_text(path.read_text().replace('"num_train": 20', '"num_train": 21'))
    with pytest.raises(ValueError, match="was altered"):
        find_learned(str(tmp_path))


def commands_of_the_page() -> list[list[str]]:
    """The `ecor learn` commands of docs/learn.md, in words."""
    text = (ROOT / "docs" / "learn.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ecor (learn .*)$", text, flags=re.MULTILINE)
    return [line.split() for line in lines]


def test_the_page_lists_images_to_review_first(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(job / "labels", job / "labels" / "final", ignore=shutil.ignore_patterns("final"))
    monkeypatch.chdir(job)
    first = [words for words in commands_of_the_page() if "--corrections" not in words]
    assert len(first) == 1
    assert main(first[0]) == 0
    assert (job / "labels" / "final-learned" / "ask.csv").is_file()


def says(row: dict, digest: str, number: int, *, truth: dict[str, tuple[str, str]]) -> list:
    """What Ada and Bo say: the truth, but for the first four images."""
    category, rationale = truth[row["source"]]
    corrected = Correction(category=category, rationales=(rationale,))
    said = {
        0: [("skip", None, "Ada")],
        1: [("accept", None, "Ada"), ("wrong", None, "Bo")],
        2: [("out_of_vocabulary", None, "Ada")],
        3: [("correct", Correction(category="dragon", rationales=("scales",)), "Ada")],
    }.get(number, [("correct", corrected, "Ada")])
    return [decide(row, digest, verdict, after=after, reviewer=name) for verdict, after, name in said]


def review(folder: Path, *, truth: dict[str, tuple[str, str]]) -> None:
    predictions = read_prediction_set(f"{folder}/labels/final")
    decisions = open_decision_set(f"{folder}/reviewed", labels="labels/final", predictions=predictions)
    rows = read_predictions(f"{folder}/labels/final").sort_by("key").to_pylist()
    with decisions.open_log("Ada") as ada, decisions.open_log("Bo") as bo:
        for number, row in enumerate(rows[:-4]):  # four wait for their review
            for each in says(row, predictions.digest, number, truth=truth):
                (ada if each.reviewer == "Ada" else bo).append(each)


@pytest.mark.slow
def test_the_loop_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels, decisions, and the command of the page: interrupted before the promotion, run again, and once more."""
    monkeypatch.chdir(tmp_path)
    truth = draw_images(tmp_path / "photos", num=48)
    tracking = new_database(tmp_path)
    (command,) = (words for words in commands_of_the_page() if "--corrections" in words)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster._init", None)  # small work starts no Ray
    model = save_first_model(tmp_path / "run")
    score.run(ScoreConfig(input="photos/train", output="labels/final", model=str(model)), tracking=tracking)
    review(tmp_path, truth=truth)
    with monkeypatch.context() as patched:
        patched.setattr(contest.promote, "run", interrupt)
        assert main(command) == 130
    assert find_learned("labels/final-learned") is None
    assert find_version("models:/ecor@champion", tracking=tracking) is None
    trained = read_json("labels/final-learned/run/summary.json")
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    told = capsys.readouterr()
    learned = find_learned("labels/final-learned")
    assert learned is not None
    assert read_json("labels/final-learned/run/summary.json") == trained
    assert trained["parents"]["initial_model"] == learned.initial_digest == load(model).digest
    check_outcome(learned, tracking=tracking)
    check_balance(learned, told=told.err)
    metrics = MlflowClient(tracking.uri).get_run(trained["run_id"]).data.metrics
    assert metrics.items() >= Balance.from_record(learned.balance).metrics(within="learn/").items()
    names = read_vocabulary("labels/final-learned/shards/vocabulary.json")
    assert learned.new_names == ("dragon", "scales")
    assert (names.categories[-1], names.rationales[-1]) == ("dragon", "scales")
    asked = pq.ParquetFile("labels/final-learned/ask.parquet").read()["key"].to_pylist()
    assert sorted(asked) == read_predictions("labels/final").sort_by("key")["key"].to_pylist()[-4:]


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def read_json(path: str) -> dict:
    return json.loads(Path(path).read_text())


def check_outcome(learned, *, tracking: TrackingConfig) -> None:
    """The alias is where the gate says, and both versions were evaluated on the same held-out images."""
    outcome = learned.outcome
    champion = find_version("models:/ecor@champion", tracking=tracking)
    assert champion is not None
    assert champion.uri == (outcome.candidate if outcome.is_promoted else outcome.champion)
    assert outcome.is_promoted == (outcome.high >= 0)
    held_out = pq.ParquetFile(next(Path("labels/final-learned/shards/test").glob("*.index.parquet"))).read()
    assert outcome.num_held_out == held_out.num_rows
    evaluated = [read_predictions(str(path)) for path in Path("labels/final-learned/labels").iterdir()]
    assert len(evaluated) == 2
    for table in evaluated:
        assert table["key"].to_pylist() == held_out["key"].to_pylist()
    found = {f"models:/ecor/{table['model_version'][0].as_py()}": share_right(table) for table in evaluated}
    assert found == pytest.approx({outcome.candidate: outcome.rr, outcome.champion: outcome.champion_rr})


def share_right(table: pa.Table) -> float:
    rows = table.to_pylist()
    right = [r["category"] == r["category_true"] and r["rationale"] in r["rationales_true"] for r in rows]
    return sum(right) / len(right)


def check_balance(learned, *, told: str) -> None:
    balance = Balance.from_record(learned.balance)
    assert balance.num_listed == 44
    assert balance.left_out == {"disputed": 1, "out_of_vocabulary": 1, "skip": 1}
    assert (balance.num_taken, balance.num_copies, balance.num_rejected) == (41, 0, 0)
    assert balance.line() in told
