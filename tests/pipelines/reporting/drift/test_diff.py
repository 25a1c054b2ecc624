"""`ecor diff`: counts against a plain loop, the page, exit codes, and what it refuses.

Covers: `pipelines.reporting.drift.changes`, `pipelines.reporting.drift.diff_page`,
`pipelines.reporting.drift.label_join`, `pipelines.reporting.drift.record`.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ecor.data.predictions.manifest import read_prediction_set, write_prediction_set
from ecor.data.predictions.records import predictions_table
from pipelines.__main__ import main
from pipelines.config.reporting import DiffConfig
from pipelines.reporting.drift import diff, label_join
from pipelines.reporting.drift.record import find_diff
from tests.support.prediction_rows import row, write_labels

HOSTILE = ["<script>alert(1)</script>", "a|b\n# c", "\u202eלום", "'\"&amp;"]


def table(seed: int, *, num: int = 600, start: int = 0, skew: float = 0.0, folder: Path | None = None) -> pa.Table:
    """Labels whose category depends on the key, with errors of their own; `skew` of them become c0."""
    truth, own = np.random.default_rng(1), np.random.default_rng((2, seed))
    categories, rationales = truth.integers(4, size=5000), truth.integers(3, size=5000)
    rows = []
    for index in range(start, start + num):
        category, rationale = categories[index], rationales[index]
        if own.random() < 0.2:
            category = own.integers(4)
        if own.random() < 0.3:
            rationale = own.integers(3)
        category = 0 if own.random() < skew else category
        made = row(f"k{index:05d}", (f"c{category}", f"r{rationale}"), confidence=min(0.99, own.beta(8, 1)))
        rows.append(made if folder is None else replace(made, source=str(folder / f"{index % 7}.png")))
    return predictions_table(rows)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        Image.new("RGB", (40, 30), (30 * number, 90, 120)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def sides(tmp_path: Path, pictures: Path) -> tuple[str, str]:
    """500 images in both, 100 in each of the two alone."""
    write_labels(f"{tmp_path}/v3", table(3, folder=pictures))
    write_labels(f"{tmp_path}/v4", table(4, start=100, folder=pictures).slice(0, 600), rows_per_part=170)
    return f"{tmp_path}/v3", f"{tmp_path}/v4"


def rows_of(folder: str) -> dict[str, dict]:
    found = {}
    for part in read_prediction_set(folder).parts:
        for each in pq.read_table(f"{folder}/{part.name}").to_pylist():
            found[each["key"]] = each
    return found


@pytest.mark.parametrize("rows_per_division", [100_000, 70])
def test_counts_and_rows_are_those_of_a_loop(sides, monkeypatch, rows_per_division):
    monkeypatch.setattr(label_join, "ROWS_PER_DIVISION", rows_per_division)
    found = diff.run(DiffConfig(before=sides[0], after=sides[1]))
    before, after = map(rows_of, sides)
    common = before.keys() & after.keys()
    changed, reasons, confidences = Counter(), Counter(), set()
    for key in common:
        b, a = before[key], after[key]
        if b["category"] != a["category"]:
            changed[b["category"], a["category"], a["rationale"]] += 1
        elif b["rationale"] != a["rationale"]:
            reasons[b["category"], b["rationale"], a["rationale"]] += 1
        elif abs(b["confidence"] - a["confidence"]) >= np.float32(0.1):
            confidences.add(key)
    counts = found.counts
    assert (counts.common, counts.only_before, counts.only_after) == (500, 100, 100)
    assert (counts.category_changed, counts.rationale_changed) == (changed.total(), reasons.total())
    assert counts.confidence_changed == len(confidences) > 10
    written = pq.read_table(f"{sides[1]}-diff/changes.parquet").to_pylist()
    assert [each["count"] for each in written] == sorted((each["count"] for each in written), reverse=True)
    for each in written:
        if each["change"] == "category":
            assert changed[each["category_before"], each["category_after"], each["rationale_after"]] == each["count"]
        else:
            assert each["category_before"] == each["category_after"]
            assert reasons[each["category_before"], each["rationale_before"], each["rationale_after"]] == each["count"]
    assert len(written) == len(changed) + len(reasons)
    rows = pq.read_table(f"{sides[1]}-diff/changed_labels.parquet")
    kinds = Counter(rows["change"].to_pylist())
    assert kinds == {
        "category": changed.total(), "rationale": reasons.total(), "confidence": len(confidences),
        "only_before": 100, "only_after": 100,
    }  # fmt: skip
    alone = rows.filter(pc.equal(rows["change"], "only_before"))
    assert set(alone["key"].to_pylist()) == before.keys() - after.keys()
    assert alone["category_after"].null_count == alone["confidence_after"].null_count == 100


def test_the_same_command_returns_the_same_and_another_is_refused(sides, capsys):
    assert main(["diff", *sides]) == 0
    folder = Path(f"{sides[1]}-diff")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"changed_labels.parquet", "changes.parquet", "diff.html", "diff.json", "summary.json"}
    printed = capsys.readouterr().out
    assert main(["diff", *sides]) == 0
    assert capsys.readouterr().out == printed
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert main(["diff", *sides, "--output", f"{sides[1]}-again"]) == 0
    again = {path.name: path.read_bytes() for path in Path(f"{sides[1]}-again").iterdir()}
    assert again == first, "the same labels give the same bytes"
    capsys.readouterr()
    assert main(["diff", *sides, "--confidence-step", "0.2"]) == 2
    assert (
        "holds another comparison (confidence_step was 0.1, is 0.2): name another --output" in capsys.readouterr().err
    )
    assert main(["diff", *reversed(sides), "--output", str(folder)]) == 2
    record = find_diff(str(folder))
    assert record is not None and record.digest == json.loads((folder / "diff.json").read_text())["digest"]
    (folder / "diff.json").write_text((folder / "diff.json").read_text().replace('"common": 500', '"common": 501'))
    assert main(["diff", *sides]) == 2
    assert "was altered" in capsys.readouterr().err


def test_the_terminal_says_which_labels_change(sides, capsys):
    diff.run(DiffConfig(before=sides[0], after=sides[1]))
    shown = capsys.readouterr().out
    top = pq.read_table(f"{sides[1]}-diff/changes.parquet").to_pylist()
    first = next(each for each in top if each["change"] == "category")
    assert (
        f"{first['category_before']} -> {first['category_after']} because of {first['rationale_after']}: "
        f"{first['count']}" in shown
    )
    assert "500 images in both, 100 only before, 100 only after" in shown
    assert "the OOD score is not compared" in shown


def test_a_drift_is_exit_code_3_only_where_it_is_asked_for(tmp_path, capsys):
    write_labels(f"{tmp_path}/a", table(3))
    write_labels(f"{tmp_path}/b", table(4))
    write_labels(f"{tmp_path}/c", table(4, skew=0.3))
    assert main(["diff", f"{tmp_path}/a", f"{tmp_path}/b", "--fail-on-drift"]) == 0
    assert "no drift" in capsys.readouterr().out
    same = ["diff", f"{tmp_path}/a", f"{tmp_path}/c"]
    assert main(same) == 0
    assert "drift: shares of categories" in capsys.readouterr().out
    assert main([*same, "--fail-on-drift"]) == 3
    record = json.loads(Path(f"{tmp_path}/c-diff/diff.json").read_text())
    assert record["has_drift"] and record["paired"]
    assert {each["quantity"] for each in record["tests"]} == {"confidence", "category", "rationale"}


def test_other_images_are_compared_as_two_samples_and_ood_scores_too(tmp_path):
    for name, seed, start, shift in (("a", 3, 0, 0.0), ("b", 4, 600, 0.0), ("c", 5, 1200, 0.4)):
        rows = table(seed, start=start)
        scores = np.random.default_rng(seed).normal(0.7 + shift, 0.1, size=len(rows))
        write_labels(f"{tmp_path}/{name}", rows.append_column("ood_score", pa.array(scores, pa.float32())))
    equal = diff.run(DiffConfig(before=f"{tmp_path}/a", after=f"{tmp_path}/b"))
    assert not equal.paired and not equal.has_drift
    assert [each.quantity for each in equal.tests] == ["confidence", "ood_score", "category", "rationale"]
    assert (equal.counts.common, equal.counts.confidence_mean_before) == (0, None)
    moved = diff.run(DiffConfig(before=f"{tmp_path}/a", after=f"{tmp_path}/c"))
    assert [each.quantity for each in moved.tests if each.is_drift] == ["ood_score"]


def test_another_model_and_vocabulary_are_named(tmp_path):
    write_labels(f"{tmp_path}/a", table(3))
    found = write_labels(f"{tmp_path}/b", table(4))
    parents = replace(found.parents, model_digest="n" * 64, model_version="4", vocabulary_digest="w" * 64)
    write_prediction_set(f"{tmp_path}/b", replace(found, parents=parents))
    notes = diff.run(DiffConfig(before=f"{tmp_path}/a", after=f"{tmp_path}/b")).notes
    assert notes[0] == "the model differs: ecor version 3, ecor version 4"
    assert notes[1].startswith("the vocabulary differs")


def test_the_page_shows_changes_with_pictures_and_escapes_names(tmp_path, pictures):
    rows = {
        name: predictions_table(
            replace(
                row(f"k{i:03d}", (HOSTILE[(i + step * (i % 3 == 0)) % 4], HOSTILE[i % 3]), confidence=0.6),
                source=str(pictures / f"{i % 7}.png") if i else "gone.png",
            )
            for i in range(40)
        )
        for name, step in (("a", 0), ("b", 1))
    }
    for name, each in rows.items():
        write_labels(f"{tmp_path}/{name}", each)
    found = diff.run(DiffConfig(before=f"{tmp_path}/a", after=f"{tmp_path}/b", max_images=10))
    page = Path(f"{tmp_path}/b-diff/diff.html").read_text()
    assert found.counts.category_changed == 14
    assert page.count('<li class="card"') == 10
    assert page.count("data:image/webp") == 9 + ("gone.png" not in page)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<dt><bdi>before</bdi></dt>" in page
    assert 'class="to-gallery" href="#name=' in page


def test_bad_input_is_one_line(sides, tmp_path, capsys):
    write_labels(f"{tmp_path}/twice", pa.concat_tables([table(3, num=3), table(3, num=3)]))
    write_labels(f"{tmp_path}/none", table(3).slice(0, 0))
    Path(tmp_path, "taken").mkdir()
    Path(tmp_path, "taken", "notes.txt").write_text("mine")
    for args, told in (
        ((f"{tmp_path}/twice", sides[1]), "has the key k00000 twice"),
        ((f"{tmp_path}/none", sides[1]), "has no labels: there is nothing to compare"),
        ((f"{tmp_path}/nowhere", sides[1]), "holds no manifest.json"),
        ((*sides, "--output", f"{tmp_path}/taken"), "holds other files: name another --output"),
        ((*sides, "--output", sides[0]), "holds other files (labels): name another --output"),
        ((*sides, "--false-alarms", "0"), "false_alarms is a probability from 0.001"),
        ((*sides, "--max-images", "0"), "max_images must be at least 1"),
    ):
        assert main(["diff", *args]) == 2, args
        error = capsys.readouterr().err
        assert told in error and len(error.strip().splitlines()) == 1, error
    assert Path(tmp_path, "taken", "notes.txt").read_text() == "mine"
    part = next(Path(sides[0]).glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert main(["diff", *sides]) == 2
    assert not Path(f"{sides[1]}-diff").exists(), "nothing is half written"
