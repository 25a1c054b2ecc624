"""Evaluation as a stage: files, lineage, MLflow, comparisons, promotion's question, and what it refuses.

Covers: `pipelines.reporting.evaluation_folder`, `pipelines.reporting.evaluation_plots`,
`pipelines.reporting.metric_tables`.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.records import predictions_table
from ecor.data.predictions.schema import VISIBLE_COLUMN
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.record import Evaluation, difference_of_folders, read_evaluation, read_observations
from ecor.evaluation.table_evaluation import evaluate as evaluate_table
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.reporting.evaluation_folder import write_plots
from pipelines.reporting.metric_tables import metric_tables, read_plots
from pipelines.stages import evaluate
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table, row, write_labels
from tests.support.processes import ctrl_c_at_file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def tracking(place: Path) -> TrackingConfig:
    return new_database(place, experiment="evaluation")


def config_of(place: Path, *names: str, output: str = "evaluation", **kwargs) -> EvaluateConfig:
    folders = tuple(f"{place}/{name}" for name in names)
    return EvaluateConfig(predictions=folders, output=f"{place}/{output}", num_resamples=100, num_bins=10, **kwargs)


@pytest.mark.slow
def test_two_sets_are_evaluated_compared_drawn_and_logged(place, tracking, capsys):
    records = {
        name: write_labels(f"{place}/{name}", random_table(120, skill=s)) for name, s in (("A", 0.7), ("B", 0.5))
    }
    config = config_of(place, "A", "B", names=("ECOR", "zero shot"))
    record = evaluate.run(config, tracking=tracking)
    folder = Path(config.output)
    assert read_evaluation(str(folder)) == record
    assert [result.predictions for result in record.results] == [each.digest for each in records.values()]
    assert record.results[0].parents["model_version"] == "3"
    assert record.results[0].num_rejected == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert sorted(each.name for each in folder.iterdir()) == summary["files"]
    assert summary["strict_rr"]["ECOR"] == record.results[0].metrics["strict/rr"].value
    pictures = {each.stem for each in folder.glob("*.png")}
    per_set = {
        f"{kind}-{name}" for kind in ("confusion", "reliability", "per-category") for name in ("ecor", "zero-shot")
    }
    assert pictures == per_set | {"rules", "differences"}
    for path in folder.glob("*.png"):
        extrema = Image.open(path).convert("L").getextrema()
        assert extrema[1] - extrema[0] > 100, f"{path.name} is blank"
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    told = {(each["set"], each["metric"]): float(each["value"]) for each in rows}
    assert told["zero shot", "dror_vote/rr"] == record.results[1].metrics["dror_vote/rr"].value
    categories = list(csv.DictReader((folder / "per_category.csv").open()))
    assert {each["category"] for each in categories} == {"c0", "c1", "c2", "c3"}
    assert sum(int(each["num_images"]) for each in categories if each["set"] == "ECOR") == 120

    gap = record.comparisons[0].differences["strict/rr"]
    seen = [read_observations(str(folder), name=name) for name in ("ECOR", "zero shot")]
    means = [each["strict/rr"].to_numpy().mean() for each in seen]
    assert gap.value == pytest.approx(means[0] - means[1], abs=1e-6)
    assert gap.low <= gap.value <= gap.high
    line = "evaluate: 244 listed = 240 taken + 0 copies + 4 rejected (4 unreadable) + 0 left out\n"
    told = capsys.readouterr().err
    assert f"ECOR less zero shot: strict RR {gap.value:+.3f} [" in told and told.endswith(line)
    assert (summary["balance"]["listed"], summary["balance_of"]["ECOR"]["taken"]) == (244, 120)

    client = MlflowClient(tracking.uri)
    run = client.get_run(record.run_id)
    assert run.data.metrics["ecor/strict/rr"] == record.results[0].metrics["strict/rr"].value
    assert run.data.metrics["difference/ecor-zero-shot/strict/rr"] == gap.value
    assert run.data.metrics["ecor/rationales/precision_at_3"] > 0
    assert run.data.tags["ecor.predictions_digest"] == records["A"].digest
    assert run.data.tags["ecor.evaluation_digest"] == record.digest
    assert "rules.png" in {each.path for each in client.list_artifacts(record.run_id)}

    again = evaluate.run(config, tracking=tracking)
    assert again == record  # the finished record, with the same run
    first, *others = config.predictions
    apart = replace(config, predictions=(first,), compare=tuple(others))
    assert evaluate.run(apart, tracking=tracking) == record  # --predictions A --compare B is --predictions A B
    other = evaluate.run(replace(config, seed=1), tracking=tracking)
    assert other.run_id != record.run_id
    single = evaluate.run(replace(config, predictions=(f"{place}/A",), names=("only",)), tracking=tracking)
    assert {each.stem for each in folder.glob("*-*.png")} == {
        f"{k}-only" for k in ("confusion", "reliability", "per-category")
    }
    assert not (folder / "comparisons.csv").exists()
    assert single.results[0].metrics["strict/rr"] == record.results[0].metrics["strict/rr"]


def test_probabilities_of_visible_rationales_are_read_judged_and_drawn(tmp_path):
    """From a folder or a file; the diagram is drawn for the set that states them, and the page has a line for it."""
    table = random_table(60)
    stated = table.append_column(VISIBLE_COLUMN, pa.array(np.linspace(0.01, 0.99, 60), pa.float32()))
    write_labels(f"{tmp_path}/with", stated, scoring=ScoringConfig(visible_probability=True))
    write_labels(f"{tmp_path}/without", table)
    pq.write_table(stated, tmp_path / "file.parquet")
    names = ("with", "without", "file.parquet")
    sets = [evaluate.read_set(evaluate.open_source(f"{tmp_path}/{name}", name=name)) for name in names]
    config = config_of(tmp_path, *names)
    record = evaluate.record_of(config, sets=sets)
    metric = "calibration/rationale_visible/error"
    first, second, third = record.results
    assert metric not in second.metrics and third.metrics == first.metrics
    known = [each is not None for each in table["visible_rationales"].to_pylist()]
    assert first.metrics[metric].num_images == sum(known)
    folder = tmp_path / "plots"
    folder.mkdir()
    write_plots(record, sets, folder)
    drawn = {each.name for each in folder.glob("visible-reliability-*")}
    assert drawn == {"visible-reliability-with.png", "visible-reliability-file-parquet.png"}
    assert Image.open(folder / "visible-reliability-with.png").convert("L").getextrema()[0] < 100
    (found,) = [each for each in metric_tables(record, first) if each.title == "Stated probabilities"]
    lines = {each.name: each for each in found.rows}
    assert lines["Rationale visible"].cells[1].value == first.metrics[metric].value
    titles = [each.title for each in read_plots(str(folder), record, first)]
    assert "Stated probability that the rationale is visible, against frequency" in titles


@pytest.mark.slow
def test_after_ctrl_c_there_is_no_record_without_all_its_files(place, tracking):
    """Also where an older evaluation was: its record goes first."""
    write_labels(f"{place}/C", random_table(40))
    config = config_of(place, "C", output="interrupted")
    record = evaluate.run(config, tracking=tracking)
    folder = Path(config.output)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for number in (0, len(whole) - 1):
        with ctrl_c_at_file(number):
            evaluate.run(replace(config, seed=1), tracking=tracking)
        assert len(list(folder.iterdir())) == number, "no file is there in part, none of the older ones is left"
        with pytest.raises(ValueError, match=r"holds no evaluation\.json"):
            read_evaluation(str(folder))
    again = evaluate.run(config, tracking=tracking)
    assert replace(again, run_id=record.run_id) == record
    assert {path.name for path in folder.iterdir()} == set(whole)


@pytest.mark.slow
def test_the_question_that_promotion_asks(place, tracking):
    for name, skill in (("good", 0.9), ("bad", 0.2)):
        write_labels(f"{place}/{name}", random_table(100, skill=skill))
        evaluate.run(config_of(place, name, output=f"evaluation-{name}"), tracking=tracking)
    gap = difference_of_folders(f"{place}/evaluation-good", f"{place}/evaluation-bad")
    assert gap.low > 0
    assert difference_of_folders(f"{place}/evaluation-bad", f"{place}/evaluation-good").high < 0
    with pytest.raises(ValueError, match=r"holds no evaluation\.json"):
        difference_of_folders(f"{place}/evaluation-good", f"{place}/good")


@pytest.mark.slow
def test_a_parquet_file_many_categories_and_categories_without_reasons(place, tracking):
    table = random_table(80, num_categories=45)
    write_labels(f"{place}/many", table, rows_per_part=100)
    file = next((place / "many").glob("*.parquet"))
    single = evaluate.run(
        EvaluateConfig(predictions=(str(file),), output=f"{place}/of-file", num_resamples=100), tracking=tracking
    )
    assert single.results[0].num_images == 80
    assert (place / "of-file" / f"confusion-{file.stem}-parquet.png").exists()
    plain = [row(f"k{i}", ("fox", "ears"), category=name) for i, name in enumerate(["fox", "owl", "fox"])]
    write_labels(f"{place}/plain", predictions_table(plain))
    record = evaluate.run(config_of(place, "plain", output="of-plain"), tracking=tracking)
    assert record.results[0].metrics["strict/accuracy"].value == pytest.approx(2 / 3)
    assert {each.name for each in (place / "of-plain").glob("*.png")} == {"confusion-plain.png"}


def test_what_cannot_be_evaluated_is_told_and_leaves_nothing(tmp_path):
    write_labels(f"{tmp_path}/unknown", predictions_table([row("a", ("fox", "ears"))]))
    with pytest.raises(ValueError, match="none of the 1 rows of unknown has a true category"):
        evaluate.run(config_of(tmp_path, "unknown"))
    assert not (tmp_path / "evaluation").exists()
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        evaluate.run(config_of(tmp_path, "nothing"))
    with pytest.raises(ValueError, match="choose another folder"):
        evaluate.run(config_of(tmp_path, "unknown", output="unknown"))
    with pytest.raises(ValueError, match="two sets of predictions are called unknown"):
        evaluate.run(config_of(tmp_path, "unknown", "unknown"))
    with pytest.raises(ValueError, match="give the same file names"):
        evaluate.run(config_of(tmp_path, "unknown", "unknown", names=("a b", "a-b")))


def test_sets_without_a_common_image_are_not_compared(tmp_path):
    table = random_table(40)
    write_labels(f"{tmp_path}/first", table.slice(0, 20))
    write_labels(f"{tmp_path}/second", table.slice(20, 20))
    with pytest.raises(ValueError, match="first and second have no image in common"):
        evaluate.run(config_of(tmp_path, "first", "second"))


def test_an_altered_part_is_refused(tmp_path):
    write_labels(f"{tmp_path}/labels", random_table(20))
    part = next((tmp_path / "labels").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"part part-0\.parquet is not the file of the manifest"):
        evaluate.run(config_of(tmp_path, "labels"))


def test_images_without_a_labelled_rationale_are_told_beside_the_figures(capsys):
    """A category whose vocabulary has no rationale counts for accuracy, and not for RR."""
    rows = [
        row("a", ("hat", "a brim"), category="hat", rationales=("a brim",)),
        row("b", ("hat", "a brim"), category="shoes"),
    ]
    result = evaluate_table(predictions_table(rows), name="labels", resampling=Resampling(num_resamples=10))
    record = Evaluation(results=(result,), comparisons=(), resampling=Resampling(num_resamples=10), num_bins=15)
    evaluate.report_figures(record, output="there", seconds=1.0)
    told = capsys.readouterr().err
    assert "of 2 images; 1 of them have no labelled rationale, and no part in RR" in told
    [by_rule] = [table for table in metric_tables(record, result) if table.title == "By rule"]
    assert "1 of 2 pictures have no labelled rationale" in by_rule.note
