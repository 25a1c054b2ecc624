"""`ecor audit`: the sample, judgements by people and by truth, certificates, decisions, the page, and what it refuses.

Covers: `pipelines.audit.certificate`, `pipelines.audit.certificate_folder`, `pipelines.audit.certification`,
`pipelines.audit.judgements`, `pipelines.audit.label_decisions`, `pipelines.audit.policy_watch`,
`pipelines.audit.provenance`, `pipelines.audit.sampling`, `pipelines.config.review`,
`pipelines.reporting.risk_coverage`.
"""

import csv
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from ecor.data.predictions.manifest import read_prediction_set, write_prediction_set
from ecor.data.predictions.records import predictions_table
from pipelines.__main__ import main
from pipelines.audit.certificate import Certificate, read_certificate
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import ReportConfig
from pipelines.config.review import AuditConfig
from pipelines.review.decision import Decision, LabelBefore
from pipelines.review.decision_set import open_decision_set
from pipelines.runtime.balance import Balance
from pipelines.stages import audit, report
from pipelines.tracking.mlflow_runs import recorded_run
from tests.support.prediction_rows import row, write_labels

NUM_LABELS = 2000


def labelled_table(num: int = NUM_LABELS, *, seed: int = 0, num_categories: int = 4) -> pa.Table:
    """Rows whose category is right about as often as their confidence says; the reason is shown in nine of ten."""
    generator = np.random.default_rng(seed)
    confidences = generator.beta(8, 0.7, size=num).clip(0.01, 0.999)
    rows = []
    for index, confidence in enumerate(confidences.tolist()):
        category = f"c{index % num_categories}"
        is_right, is_shown = generator.random() < confidence, generator.random() < 0.97
        rows.append(
            row(
                f"k{index:05d}",
                (category, "r0"),
                category=category if is_right else "other",
                rationales=("r0",) if is_shown else ("r1",),
                visible=("r0", "r1") if is_shown else ("r1",),
                confidence=confidence,
            )
        )
    return predictions_table(rows)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return labelled_table()


@pytest.fixture
def labels(tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> str:
    """Labels of a model that a checkpoint without parents has made: nothing was chosen on their images."""
    set_lineage(monkeypatch, {})
    write_labels(f"{tmp_path}/labels", table, rows_per_part=300)
    return f"{tmp_path}/labels"


def set_lineage(monkeypatch: pytest.MonkeyPatch, lineage: dict[str, str]) -> None:
    """What the registry says of the model, without a server (`test_model_registry.py` asks a real one)."""
    monkeypatch.setattr("pipelines.audit.provenance.read_lineage", lambda *_, **__: ("m" * 64, lineage))


def run(labels: str, **settings) -> Certificate:
    found = audit.run(AuditConfig(labels=labels, **{"sample_size": 400, "right": 0.9, **settings}))
    assert isinstance(found, Certificate)
    return found


def decisions_of(folder: str) -> pa.Table:
    return pq.read_table(f"{folder}/label_decisions.parquet")


def read_csv(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill(folder: str, table: pa.Table, *, name: str = "judged.csv", **changes: str) -> str:
    """The sample as a person fills it in who knows the truth."""
    truth = {each["key"]: each["category_true"] for each in table.select(["key", "category_true"]).to_pylist()}
    rows = read_csv(f"{folder}/sample.csv")
    for each in rows:
        right = truth[each["key"]] == each["category"]
        each |= {"verdict": "accept" if right else "correct", "category_after": "" if right else truth[each["key"]]}
        each |= {"reviewer": "Ada", **({"verdict": changes[each["key"]]} if each["key"] in changes else {})}
    with Path(folder, name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return f"{folder}/{name}"


def test_truth_certifies_and_every_label_gets_a_decision(labels, table, capsys):
    before = {path.name: path.read_bytes() for path in Path(labels).iterdir()}
    certificate = run(labels, truth=True)
    assert {path.name: path.read_bytes() for path in Path(labels).iterdir()} == before, "labels never change"
    folder = f"{labels}-audit"
    assert read_certificate(folder) == certificate
    decided = decisions_of(folder)
    assert decided["key"].to_pylist() == table["key"].to_pylist()
    accepted = np.array(decided["decision"].to_pylist()) == "accept"
    right = pc.equal(table["category"], table["category_true"]).to_numpy()
    assert accepted.sum() == certificate.num_accepted > 500
    assert right[accepted].mean() >= 0.9
    scores, (group,) = decided["score"].to_numpy(), certificate.groups
    assert scores[accepted].min() >= group.threshold
    # above the threshold, only judged labels that are wrong are left to people
    left = {
        key
        for key, is_left in zip(table["key"].to_pylist(), (scores >= group.threshold) & ~accepted, strict=True)
        if is_left
    }
    judged = pq.read_table(f"{folder}/judgements.parquet")
    assert judged.num_rows == 400
    assert left <= set(judged.filter(judged["category_wrong"])["key"].to_pylist())
    shown = capsys.readouterr().out
    assert f"accepted {certificate.num_accepted:,} of 2,000: at least 90 % right, with 95 % confidence" in shown
    assert f"review {certificate.num_review:,}" in shown
    curve = read_csv(f"{folder}/risk_coverage.csv")
    assert float(curve[-1]["coverage"]) == 1.0
    assert all(
        float(each["low"]) <= float(each["risk"]) <= float(each["high"]) for each in curve if each["risk"] != "nan"
    )
    assert run(labels, truth=True) == certificate, "a finished audit is returned as it is"


def test_reasons_ask_for_a_visible_rationale(labels, table):
    certificate = run(labels, truth=True, reasons=True, right=0.85)
    accepted = np.array(decisions_of(f"{labels}-audit")["decision"].to_pylist()) == "accept"
    right = pc.equal(table["category"], table["category_true"]).to_numpy()
    shown = np.array(["r0" in each for each in table["visible_rationales"].to_pylist()])
    assert accepted.sum() == certificate.num_accepted > 0
    assert (right & shown)[accepted].mean() >= 0.85
    assert certificate.score == "confidence"


def test_people_judge_the_file_and_get_what_the_truth_gives(labels, table, tmp_path, capsys):
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) is None
    folder = f"{labels}-audit"
    assert f"repeat the command with --judged {folder}/sample.csv" in capsys.readouterr().out
    written = Path(folder, "sample.csv").read_bytes()
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) is None
    assert Path(folder, "sample.csv").read_bytes() == written
    by_people = run(labels, judged=fill(folder, table))
    by_truth = run(labels, truth=True, output=f"{tmp_path}/by-truth")
    assert by_people.judged_by == ("Ada",)
    assert by_people.groups == by_truth.groups
    with pytest.raises(ValueError, match="the first judgements count"):
        run(labels, judged=fill(folder, table, name="again.csv", **{first_key(folder): "skip"}))


def test_a_sample_fits_one_promise_and_its_first_judgements(labels, table, tmp_path, monkeypatch):
    """Otherwise settings, or judgements, could be chosen until they accept enough."""
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) is None
    judged = fill(f"{labels}-audit", table)
    for other in ({"right": 0.85}, {"sample_size": 300}, {"by": "category"}, {"reasons": True}):
        with pytest.raises(ValueError, match=r"is not in the sample|are not judged"):
            run(labels, judged=judged, output=f"{tmp_path}/other", **other)
        shutil.rmtree(f"{tmp_path}/other")
    with monkeypatch.context() as patch:
        patch.setattr(audit, "write_curve", fail)
        with pytest.raises(OSError, match="a full disk"):
            run(labels, judged=judged)
    again = fill(f"{labels}-audit", table, name="again.csv", **{first_key(f"{labels}-audit"): "skip"})
    with pytest.raises(ValueError, match="the first judgements count"):
        run(labels, judged=again)
    certificate = run(labels, judged=judged)
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) == certificate, "without --judged"


def fail(*_, **__):
    raise OSError("a full disk")


def test_a_file_about_other_labels_is_refused(labels, table, tmp_path):
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) is None
    path = Path(fill(f"{labels}-audit", table))
    rows = read_csv(str(path))
    rows[7]["category"] = "another one"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=r"line 9.*is not the label that is judged"):
        run(labels, judged=str(path))


def test_names_that_are_formulas_or_hold_line_breaks_come_back(table, tmp_path, monkeypatch):
    set_lineage(monkeypatch, {})
    hostile = table
    for name, text in (("source", "/d/a\rb.jpg"), ("rationale", "=1+1"), ("category", "-löwe")):
        index = table.schema.get_field_index(name)
        hostile = hostile.set_column(index, table.schema.field(name), pa.array([text] * len(table), pa.string()))
    write_labels(f"{tmp_path}/hostile", hostile)
    assert audit.run(AuditConfig(labels=f"{tmp_path}/hostile", sample_size=400, right=0.9)) is None
    shown = read_csv(f"{tmp_path}/hostile-audit/sample.csv")[0]
    assert (shown["rationale"], shown["category"]) == ("'=1+1", "'-löwe")
    assert Path(f"{tmp_path}/hostile-audit/sample.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    rows = [
        each | {"verdict": "accept", "reviewer": "Ada"} for each in read_csv(f"{tmp_path}/hostile-audit/sample.csv")
    ]
    with Path(f"{tmp_path}/judged.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(each | {"verdict": "accept", "reviewer": "Ada"} for each in rows)
    assert run(f"{tmp_path}/hostile", judged=f"{tmp_path}/judged.csv").judged_by == ("Ada",)


def test_a_share_that_rejects_nothing_is_refused_before_anyone_judges(table, tmp_path, monkeypatch):
    set_lineage(monkeypatch, {})
    same = table.append_column("ood_score", pa.array([1.0] * len(table), pa.float32()))
    write_labels(f"{tmp_path}/same", same)
    with pytest.raises(ValueError, match="no label has an OOD score above the rest"):
        audit.run(AuditConfig(labels=f"{tmp_path}/same", sample_size=400, right=0.9, reject=0.2))
    assert not Path(f"{tmp_path}/same-audit").exists()


def test_a_decision_set_judges_and_disagreement_counts_as_wrong(labels, table, tmp_path):
    assert audit.run(AuditConfig(labels=labels, sample_size=400, right=0.9)) is None
    predictions = read_prediction_set(labels)
    decisions = open_decision_set(f"{tmp_path}/reviewed", labels=labels, predictions=predictions)
    rows = {each["key"]: each for each in table.to_pylist()}
    keys = [each["key"] for each in read_csv(f"{labels}-audit/sample.csv")]
    right = [key for key in keys if rows[key]["category"] == rows[key]["category_true"]]

    def decide(reviewer: str, key: str, verdict: str) -> Decision:
        before = LabelBefore(**{name: rows[key][name] for name in ("category", "rationale", "confidence")})
        return Decision(
            labels_digest=predictions.digest, key=key, reviewer=reviewer, time=datetime.now(UTC), verdict=verdict,
            before=before,
        )  # fmt: skip

    with decisions.open_log("Ada") as log:
        log.append(*(decide("Ada", key, "accept" if key in right else "wrong") for key in keys[1:]))
    with pytest.raises(
        ValueError, match=rf"1 of 400 labels of the sample are not judged .* \(the first is {keys[0]}\)"
    ):
        run(labels, judged=decisions.folder)
    with decisions.open_log("Ada") as log:
        log.append(decide("Ada", keys[0], "skip"))
    with decisions.open_log("Bob") as log:
        log.append(*(decide("Bob", key, "wrong") for key in right[1:4]))
    certificate = run(labels, judged=decisions.folder)
    assert (certificate.judged_by, certificate.num_skipped) == (("Ada", "Bob"), 1)
    assert certificate.num_disputed == 3
    num_wrong = 400 - len(right) + 3 + (keys[0] in right)
    assert certificate.groups[0].num_wrong == num_wrong
    other = write_labels(f"{tmp_path}/other", labelled_table(500, seed=9))
    elsewhere = open_decision_set(f"{tmp_path}/elsewhere", labels=f"{tmp_path}/other", predictions=other)
    with pytest.raises(ValueError, match="holds decisions about the labels"):
        run(labels, judged=elsewhere.folder)


def test_categories_are_certified_on_their_own_and_small_ones_are_pooled(labels, tmp_path, capsys):
    certificate = run(labels, truth=True, by="category", right=0.8)
    assert [each.name for each in certificate.groups] == ["c0", "c1", "c2", "c3"]
    assert sum(each.num_labels for each in certificate.groups) == NUM_LABELS
    assert all(each.num_accepted > 0 for each in certificate.groups)
    few = run(labels, truth=True, by="category", right=0.95, output=f"{tmp_path}/few", sample_size=100)
    (group,) = few.groups
    assert (group.name, group.categories) == ("pooled", ("c0", "c1", "c2", "c3"))
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"a sample of 40 of 2,000 labels can promise nothing.*at least 57"):
        run(labels, truth=True, right=0.95, output=f"{tmp_path}/none", sample_size=40)
    mixed = write_labels(f"{tmp_path}/mixed", pa.concat_tables([labelled_table(1900, seed=2), rare_rows()]))
    assert mixed.num_rows == 1930
    found = run(f"{tmp_path}/mixed", truth=True, by="category", right=0.8)
    assert [each.name for each in found.groups][-1] == "rare"
    assert "too few judged: rare (" in capsys.readouterr().out


def rare_rows() -> pa.Table:
    return predictions_table(row(f"rare{i}", ("rare", "r0"), category="rare", confidence=0.9) for i in range(30))


def test_labels_out_of_distribution_are_rejected_by_their_own_rule(table, tmp_path, monkeypatch):
    set_lineage(monkeypatch, {})
    generator = np.random.default_rng(5)
    strange = np.arange(NUM_LABELS) % 6 == 0
    ood = pa.array(np.where(strange, 2.0, 0.5) + generator.random(NUM_LABELS), pa.float32())
    truth = pa.array(
        ["elsewhere" if odd else name for odd, name in zip(strange, table["category_true"].to_pylist(), strict=True)]
    )
    index = table.schema.get_field_index("category_true")
    changed = table.set_column(index, table.schema.field("category_true"), truth).append_column("ood_score", ood)
    write_labels(f"{tmp_path}/strange", changed, rows_per_part=500)
    certificate = run(f"{tmp_path}/strange", truth=True, reject=0.2, seed=1)
    assert certificate.reject is not None and certificate.reject.threshold is not None
    decided = np.array(decisions_of(f"{tmp_path}/strange-audit")["decision"].to_pylist())
    rejected = decided == "reject"
    assert rejected.sum() == certificate.num_rejected > 100
    wrong = pc.not_equal(changed["category"], changed["category_true"]).to_numpy()
    assert wrong[rejected].mean() >= 0.9
    assert not (decided == "accept")[ood.to_numpy() >= certificate.reject.candidates_from].any()
    assert (~wrong)[decided == "accept"].mean() >= 0.9
    with pytest.raises(ValueError, match="has no column ood_score"):
        write_labels(f"{tmp_path}/plain", table)
        run(f"{tmp_path}/plain", truth=True, reject=0.2)


@pytest.mark.parametrize(
    ("used_as", "told"),
    [
        ("train_manifest", "the model was trained on them"),
        ("initial_train_manifest", "the model was trained on them"),
        ("validation_manifest", "chose the model's epoch and temperatures"),
        ("ecor.promotion_decided_on.iiii", "decided its promotion"),
    ],
)
def test_truth_that_chose_the_model_is_refused(labels, monkeypatch, used_as, told):
    set_lineage(monkeypatch, {used_as: "i" * 64})
    with pytest.raises(ValueError, match=rf"--truth must not use the images of shards/test: .*{told}"):
        run(labels, truth=True)
    set_lineage(monkeypatch, {used_as: "j" * 64})
    assert run(labels, truth=True).num_accepted


def test_truth_of_a_model_without_record_is_refused(labels, monkeypatch):
    monkeypatch.setattr("pipelines.audit.provenance.read_lineage", lambda *_, **__: ("n" * 64, {}))
    with pytest.raises(ValueError, match="needs the record of the model that made the labels"):
        run(labels, truth=True)


def test_a_policy_applies_thresholds_and_promises_nothing(labels, tmp_path, capsys):
    certificate = run(labels, truth=True)
    later = write_labels(f"{tmp_path}/later", labelled_table(800, seed=3))
    capsys.readouterr()
    policy = audit.run(AuditConfig(labels=f"{tmp_path}/later", policy=f"{labels}-audit"))
    shown = capsys.readouterr().out
    assert "policy of the audit of" in shown and "promises nothing" in shown
    record = json.loads(Path(f"{tmp_path}/later-audit/policy.json").read_text())
    assert record["labels_digest"] == later.digest
    assert record["certificate_digest"] == certificate.digest
    decided = decisions_of(f"{tmp_path}/later-audit")
    accepted = pc.sum(pc.greater_equal(decided["score"], certificate.groups[0].threshold)).as_py()
    assert policy.num_accepted == accepted == decided["decision"].to_pylist().count("accept")
    assert not Path(f"{tmp_path}/later-audit/certificate.json").exists()
    with pytest.raises(ValueError, match="is the audit of the labels"):
        report.run(
            ReportConfig(predictions=f"{tmp_path}/later", output=f"{tmp_path}/page.html", audit=f"{labels}-audit")
        )


def test_the_page_shows_certificate_and_curve(labels, tmp_path):
    certificate = run(labels, truth=True)
    report.run(ReportConfig(predictions=labels, output=f"{tmp_path}/page.html", audit=f"{labels}-audit", max_images=2))
    page = Path(f"{tmp_path}/page.html").read_text()
    assert f"accepted {certificate.num_accepted:,} of 2,000: at least 90 % right" in page
    assert "Wrong labels against accepted labels" in page and certificate.digest in page


def test_the_sample_is_random_and_of_its_labels(labels, table, tmp_path):
    keys = {}
    write_labels(f"{tmp_path}/reversed", table.take(list(range(NUM_LABELS))[::-1]), rows_per_part=700)
    for name, folder, seed in (("a", labels, 0), ("b", labels, 1), ("c", f"{tmp_path}/reversed", 0)):
        config = AuditConfig(labels=folder, sample_size=500, seed=seed, output=f"{tmp_path}/{name}")
        audit.run(config)
        keys[name] = [each["key"] for each in read_csv(f"{tmp_path}/{name}/sample.csv")]
        assert len(set(keys[name])) == 500
    assert keys["a"] != sorted(keys["a"]), "in random order"
    for other in ("b", "c"):
        assert 90 < len(set(keys["a"]) & set(keys[other])) < 165, "125 expected of two independent samples"
    whole = AuditConfig(labels=labels, sample_size=10**6, output=f"{tmp_path}/whole")
    audit.run(whole)
    assert len(read_csv(f"{tmp_path}/whole/sample.csv")) == NUM_LABELS


def first_key(folder: str) -> str:
    return read_csv(f"{folder}/sample.csv")[0]["key"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("key,verdict\nnobody,accept\n", "line 2: key is not in the sample"),
        ("key,verdict\n{first},right\n", "verdict must be one of accept"),
        ("key,verdict\n{first},accept\n{first},wrong\n", "is judged twice by unnamed"),
        ("key,verdict,category_after\n{first},correct,\n", "category_after is empty"),
        ("key,verdict\n{first},\n", "400 of 400 labels of the sample are not judged"),
        ("name,verdict\n", "has no column key"),
    ],
)
def test_a_judged_file_that_does_not_fit_is_one_line_and_exit_code_2(labels, tmp_path, capsys, content, told):
    args = ["audit", labels, "--sample-size", "400"]
    assert main(args) == 0
    path = tmp_path / "judged.csv"
    path.write_text(content.replace("{first}", first_key(f"{labels}-audit")))
    capsys.readouterr()
    assert main([*args, "--judged", str(path)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_other_bad_input_is_one_line_and_exit_code_2(labels, table, tmp_path, capsys):
    index = table.schema.get_field_index("calibrated")
    flags = pa.array([False] * 3 + [True] * (NUM_LABELS - 3))
    write_labels(f"{tmp_path}/raw", table.set_column(index, table.schema.field("calibrated"), flags))
    write_labels(f"{tmp_path}/empty", table.slice(0, 0))
    assert main(["audit", labels, "--sample-size", "400"]) == 0
    cases = [
        ([f"{tmp_path}/raw"], "confidence of 3 of 2,000 labels"),
        ([f"{tmp_path}/empty"], "there is nothing to audit"),
        ([f"{tmp_path}/nowhere"], "holds no manifest.json"),
        ([labels, "--sample-size", "300"], "sample_size was 400, is 300"),
        ([labels, "--right", "1"], "right is a share between 0 and 1"),
        ([labels, "--truth", "--judged", "x.csv"], "truth and judged are ways to judge"),
        ([labels, "--sample-size", "400", "--judged", f"{tmp_path}/x"], "neither a table nor a folder of decisions"),
        ([labels, "--output", labels], "holds labels or shards"),
        (["ftp://host/labels"], "ftp:// is not read"),
    ]
    capsys.readouterr()
    for args, told in cases:
        assert main(["audit", *args]) == 2, args
        error = capsys.readouterr().err
        assert told in error and "Traceback" not in error
    assert main(["audit", f"{tmp_path}/raw", "--allow-uncalibrated"]) == 0


def test_an_altered_certificate_is_refused(labels):
    certificate = run(labels, truth=True)
    path = Path(f"{labels}-audit/certificate.json")
    path.write_text(replace(certificate, num_disputed=1).to_json().replace('"num_disputed": 1', '"num_disputed": 0'))
    with pytest.raises(ValueError, match="was altered"):
        read_certificate(f"{labels}-audit")


@pytest.mark.slow
def test_the_certificate_is_logged_to_the_run_of_the_labels(labels, tmp_path, capsys):
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    with recorded_run(tracking, name="score", params={}, tags={}) as run_id:
        pass
    predictions = replace(read_prediction_set(labels), run_id=run_id)
    write_prediction_set(labels, predictions)
    config = AuditConfig(labels=labels, sample_size=400, right=0.9, truth=True)
    certificate = audit.run(config, tracking=tracking)
    assert certificate.run_id == run_id
    client = MlflowClient(tracking.uri)
    found = client.get_run(run_id)
    assert found.data.metrics["audit/num_accepted"] == certificate.num_accepted
    summary = json.loads(Path(f"{labels}-audit/summary.json").read_text())
    balance = Balance.from_record(summary["balance"])
    assert found.data.metrics.items() >= balance.metrics(within="audit/").items()
    assert found.data.metrics["audit/balance/listed"] == NUM_LABELS + predictions.num_rejected
    assert "balance/listed" not in found.data.metrics, "that is what `ecor score` listed"
    assert balance.line() in capsys.readouterr().err
    assert found.data.tags["ecor.certificate_digest"] == certificate.digest
    assert found.info.status == "FINISHED"
    logged = {each.path for each in client.list_artifacts(run_id, "audit")}
    assert {"audit/certificate.json", "audit/risk_coverage.png", "audit/summary.json"} <= logged
    elsewhere = TrackingConfig(uri=f"sqlite:///{tmp_path}/other.db")
    alone = audit.run(replace(config, output=f"{tmp_path}/alone"), tracking=elsewhere)
    assert alone.run_id is None and alone.digest == certificate.digest
    assert f"the MLflow run {run_id} of the labels is not on this server" in capsys.readouterr().err


def test_a_policy_tells_whether_scores_have_drifted(labels, table, tmp_path, capsys):
    run(labels, truth=True)
    write_labels(f"{tmp_path}/equal", labelled_table(1500, seed=11))
    policy = audit.run(AuditConfig(labels=f"{tmp_path}/equal", policy=f"{labels}-audit"))
    assert not policy.drift.is_drift and "no drift of an effect of 0.02 or more" in capsys.readouterr().out
    index = table.schema.get_field_index("category_log_prob")
    lower = pa.array(np.log(np.exp(table["category_log_prob"].to_numpy()) * 0.8), pa.float32())
    write_labels(f"{tmp_path}/unsure", table.set_column(index, table.schema.field(index), lower))
    policy = audit.run(AuditConfig(labels=f"{tmp_path}/unsure", policy=f"{labels}-audit"))
    assert policy.drift.is_drift and policy.drift.effect > 0.5
    assert "drift: scores of these labels against the certified ones (effect" in capsys.readouterr().out
    record = json.loads(Path(f"{tmp_path}/unsure-audit/policy.json").read_text())
    assert record["drift"]["is_drift"] and record["limits"] == {"false_alarms": 0.05, "smallest_effect": 0.02}
    shutil.copytree(f"{labels}-audit", f"{tmp_path}/part")
    Path(f"{tmp_path}/part/label_decisions.parquet").unlink()
    with pytest.raises(ValueError, match="copy the whole folder of the audit"):
        audit.run(AuditConfig(labels=f"{tmp_path}/equal", policy=f"{tmp_path}/part", output=f"{tmp_path}/other"))
    assert not Path(f"{tmp_path}/other").exists()
