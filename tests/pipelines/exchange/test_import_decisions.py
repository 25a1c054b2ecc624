"""`ecor import`: what people corrected in each tool becomes decisions; the same again adds nothing; bad files.

Covers: `pipelines.exchange.import_database`, `pipelines.exchange.export_files`, `pipelines.exchange.returned_label`,
`pipelines.exchange.formats.coco`, `pipelines.exchange.formats.cvat`, `pipelines.exchange.formats.fiftyone`,
`pipelines.exchange.formats.label_studio`, `pipelines.exchange.formats.label_studio_export`,
`pipelines.exchange.formats.tables`, `pipelines.review.judged_file`.
"""

import csv
import json
import random
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.predictions.parts import read_predictions
from pipelines.__main__ import main
from pipelines.config.exchange import ExportConfig, ImportConfig
from pipelines.exchange import export_labels, import_decisions
from pipelines.exchange.formats import cvat
from pipelines.exchange.formats.registry import IMPORT_FORMATS
from pipelines.exchange.known_names import KnownNames
from pipelines.exchange.returned_label import ReturnedLabel, judge
from pipelines.review.decision import LabelBefore
from pipelines.review.decision_set import read_decision_set
from pipelines.review.decision_table import iterate_decisions
from pipelines.review.judged_file import original_text, spreadsheet_text
from tests.support.labelled_images import NUM_LABELS, write_image_labels, write_shard_labels

FILES = {
    "label-studio": "tasks-00000.json",
    "coco": "annotations.json",
    "cvat": "annotations.xml",
    "csv": "labels.csv",
    "jsonl": "labels.jsonl",
}
T0, T1, T2 = "2026-11-29T10:00:00.000000Z", "2026-11-29T11:00:00.000000Z", "2026-11-29T12:00:00.000000Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image_labels(tmp_path)
    return tmp_path


def export(folder: Path, to: str) -> Path:
    """What a tool would open: the file, or the folder of FiftyOne."""
    output = folder / to
    export_labels.run(ExportConfig(labels=str(folder / "labels"), to=to, output=str(output)))
    return output / FILES[to] if to in FILES else output


def take(folder: Path, source: str, path: Path, **settings) -> import_decisions.ImportedDecisions:
    return import_decisions.run(
        ImportConfig(labels=str(folder / "labels"), source=source, input=str(path), **{"reviewer": "Ada", **settings})
    )


def decided(folder: Path) -> dict[str, Any]:
    """By key: what counts, as (verdict, category, rationales, reviewer), sorted by reviewer."""
    found = {}
    for group in iterate_decisions(read_decision_set(str(folder / "labels-review"))):
        found[group[0].decision.key] = [
            (
                each.decision.verdict,
                each.decision.after and each.decision.after.category,
                each.decision.after and each.decision.after.rationales,
                each.decision.reviewer,
            )
            for each in group
        ]
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_predictions(folder / "labels", columns=["key", "category", "rationale", "confidence"]).to_pylist()


def annotate(task: dict, *, category: str, rationales: list[str], **more: Any) -> dict:
    """A task as Label Studio exports it after a person has submitted it."""
    result = [{"from_name": "category", "to_name": "image", "type": "choices", "value": {"choices": [category]}}]
    if rationales:
        result.append(
            {"from_name": "rationales", "to_name": "image", "type": "choices", "value": {"choices": rationales}}
        )
    for name in ("verdict", "note", "new_category", "new_rationales"):
        if name in more:
            kind = "choices" if name == "verdict" else "text"
            value = more.pop(name)
            texts = value if isinstance(value, list) else [value]
            result.append({"from_name": name, "to_name": "image", "type": kind, "value": {kind: texts}})
    author = more.pop("completed_by", {"id": 7, "email": "grace@example.org"})
    facts = {"was_cancelled": False, "created_at": T0, "updated_at": T1, **more}
    return {**task, "annotations": [{"completed_by": author, "result": result, **facts}]}


def test_labels_come_back_from_every_tool_as_they_went_out(folder):
    """Row for row, with rationales: nothing is a correction, and where people have seen them, all are accepted."""
    before = rows_of(folder)
    tasks = json.loads(export(folder, "label-studio").read_text(encoding="utf-8"))
    seen = [
        annotate(t, category=r["category"], rationales=[r["rationale"]]) for t, r in zip(tasks, before, strict=True)
    ]
    (folder / "project.json").write_text(json.dumps(seen))
    paths = {to: export(folder, to) for to in ("coco", "cvat", "fiftyone")} | {"label-studio": folder / "project.json"}
    for source, path in paths.items():
        returned = list(IMPORT_FORMATS[source](str(path)))
        assert [(each.category, each.rationales) for each in returned] == [
            (each["category"], (each["rationale"],)) for each in before
        ], source
        done = take(folder, source, path, unchanged="accept", output=str(folder / f"{source}-decisions"))
        assert done.balance.num_taken == NUM_LABELS, source
        table = pq.read_table(f"{done.folder}/decisions.parquet")
        assert sorted(table["key"].to_pylist()) == sorted(each["key"] for each in before)
        assert set(table["verdict"].to_pylist()) == {"accept"}
    for source in ("coco", "cvat", "fiftyone"):
        done = take(folder, source, paths[source], output=str(folder / "nothing"))
        assert (done.balance.num_taken, dict(done.balance.left_out)) == (0, {"unchanged": NUM_LABELS})


def correct_label_studio(folder: Path) -> Path:
    path, before = export(folder, "label-studio"), rows_of(folder)
    tasks = json.loads(path.read_text(encoding="utf-8"))
    names = [(each["category"], [each["rationale"]]) for each in before]
    done = [
        annotate(tasks[0], category=names[0][0], rationales=names[0][1]),
        annotate(tasks[1], category="zebra", rationales=["stripes", "斑马 & <i>"], note='a\n"b"'),
        annotate(tasks[2], category=names[2][0], rationales=[]),
        annotate(tasks[3], category=names[3][0], rationales=names[3][1], verdict="wrong"),
        annotate(tasks[4], category=names[4][0], rationales=names[4][1], was_cancelled=True),
        annotate(tasks[5], category="zebra", rationales=[], new_category="okapi", new_rationales=["white legs"]),
        {**tasks[6], "annotations": []},
    ]
    path.write_text(json.dumps(done, ensure_ascii=False))
    return path


def correct_label_studio_flat(folder: Path) -> Path:
    """The JSON-MIN export of the same work."""
    path = correct_label_studio(folder)
    rows = []
    for task in json.loads(path.read_text()):
        for annotation in task["annotations"]:
            row = {**task["data"], "id": 1, "annotator": "grace@example.org", "annotation_id": 2, "updated_at": T1}
            for each in annotation["result"]:
                (values,) = each["value"].values()
                row[each["from_name"]] = values[0] if len(values) == 1 else {"choices": values}
            if annotation["was_cancelled"]:
                row["verdict"] = "skip"
            rows.append(row)
    path.write_text(json.dumps(rows, indent=2))
    return path


def correct_cvat(folder: Path) -> Path:
    path = export(folder, "cvat")
    tree = ElementTree.parse(path)
    images = tree.getroot().findall("image")

    def verdict(number: int, value: str) -> None:
        images[number].find("tag/attribute[@name='verdict']").text = value

    verdict(0, "accept")
    images[1].find("tag").set("label", "zebra")
    images[1].findall("tag")[1].set("label", "because of stripes")
    ElementTree.SubElement(images[1], "tag", label="because of 斑马 & <i>", source="manual")
    images[2].remove(images[2].findall("tag")[1])
    verdict(3, "wrong")
    verdict(4, "skip")
    images[5].find("tag").set("label", "okapi")
    images[5].findall("tag")[1].set("label", "because of white legs")
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return path


def correct_coco(folder: Path) -> Path:
    """As CVAT exports it: other ids, no keys, no supercategory, annotations before images."""
    path = export(folder, "coco")
    content = json.loads(path.read_text(encoding="utf-8"))
    ids = {each["name"]: each["id"] for each in content["categories"]}
    for name in ("okapi", "because of white legs"):
        ids[name] = max(ids.values()) + 1
        content["categories"].append({"id": ids[name], "name": name})
    of = {n: [a for a in content["annotations"] if a["image_id"] == n + 1] for n in range(NUM_LABELS)}
    of[0][0]["attributes"]["verdict"] = "accept"
    of[1][0]["category_id"], of[1][1]["category_id"] = ids["zebra"], ids["because of stripes"]
    content["annotations"].append({**of[1][1], "id": 99, "category_id": ids["because of 斑马 & <i>"]})
    content["annotations"].remove(of[2][1])
    of[3][0]["attributes"]["verdict"], of[4][0]["attributes"]["verdict"] = "wrong", "skip"
    of[5][0]["category_id"], of[5][1]["category_id"] = ids["okapi"], ids["because of white legs"]
    for each in content["categories"]:
        each["supercategory"] = ""
    for each in content["images"]:
        del each["key"]
    order = ("annotations", "licenses", "images", "info", "categories")
    path.write_text(json.dumps({name: content[name] for name in order}, ensure_ascii=False))
    return path


def correct_fiftyone(folder: Path) -> Path:
    """As FiftyOne exports it: with ids, without our file's line breaks, and tags for verdicts."""
    path = export(folder, "fiftyone")
    samples = json.loads((path / "samples.json").read_text(encoding="utf-8"))["samples"]

    def name(*labels: str) -> dict:
        return {"_cls": "Classifications", "classifications": [{"_cls": "Classification", "label": x} for x in labels]}

    samples[0]["tags"] = ["accept", "mine"]
    samples[1]["category"]["label"], samples[1]["rationales"] = "zebra", name("stripes", "斑马 & <i>")
    samples[2]["rationales"] = name()
    samples[3]["tags"], samples[4]["tags"] = ["wrong"], ["skip"]
    samples[5]["category"]["label"], samples[5]["rationales"] = "okapi", name("white legs")
    for number, each in enumerate(samples):
        each["_id"] = {"$oid": f"{number:024x}"}
    (path / "samples.json").write_text(json.dumps({"samples": samples}))
    return path


def correct_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [{**each, "verdict": None, "category_after": None, "rationales_after": None} for each in rows_of(folder)]
    rows[0] |= {"verdict": "accept"}
    rows[1] |= {"verdict": "correct", "category_after": "zebra", "rationales_after": ["stripes", "斑马 & <i>"]}
    rows[2] |= {"verdict": "rationale_not_visible"}
    rows[3] |= {"verdict": "wrong"}
    rows[4] |= {"verdict": "skip"}
    rows[5] |= {"verdict": "correct", "category_after": "okapi", "rationales_after": ["white legs"]}
    return rows


def correct_csv(folder: Path) -> Path:
    """The exported file, filled in by a person in a spreadsheet."""
    path = export(folder, "csv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row, filled in zip(rows, correct_rows(folder), strict=True):
        after = filled["rationales_after"] or []
        row |= {"verdict": filled["verdict"] or "", "category_after": filled["category_after"] or ""}
        row |= {"rationales_after": "|".join(after)}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def correct_jsonl(folder: Path) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in correct_rows(folder)))
    return path


def correct_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(correct_rows(folder)), folder / "judged.parquet")
    return folder / "judged.parquet"


CORRECTED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "label-studio": ("label-studio", correct_label_studio),
    "label-studio, JSON-MIN": ("label-studio", correct_label_studio_flat),
    "cvat": ("cvat", correct_cvat),
    "coco": ("coco", correct_coco),
    "fiftyone": ("fiftyone", correct_fiftyone),
    "csv": ("csv", correct_csv),
    "jsonl": ("jsonl", correct_jsonl),
    "parquet": ("parquet", correct_parquet),
}


@pytest.mark.parametrize("case", CORRECTED)
def test_the_same_work_in_each_tool_gives_the_same_decisions(folder, case, capsys):
    source, correct = CORRECTED[case]
    path = correct(folder)
    done = take(folder, source, path)
    who = "grace@example.org" if source == "label-studio" else "Ada"
    keys = [each["key"] for each in rows_of(folder)]
    assert decided(folder) == {
        keys[0]: [("accept", None, None, who)],
        keys[1]: [("correct", "zebra", ("stripes", "斑马 & <i>"), who)],
        keys[2]: [("rationale_not_visible", None, None, who)],
        keys[3]: [("wrong", None, None, who)],
        keys[4]: [("skip", None, None, who)],
        keys[5]: [("correct", "okapi", ("white legs",), who)],
    }
    assert done.balance.num_taken == 6
    table = pq.read_table(f"{done.folder}/decisions.parquet").to_pylist()
    (new,) = [each["new_names"] for each in table if each["category_after"] == "okapi"]
    assert new == ["okapi", "white legs"]
    assert {each["labels_digest"] for each in table} == {read_prediction_set(str(folder / "labels")).digest}
    if source == "label-studio":
        assert {each["time"] for each in table} == {datetime.fromisoformat(T1)}

    again = take(folder, source, path)
    assert not again.is_new and again.balance == done.balance
    assert "imported before" in capsys.readouterr().out
    touch(path if path.is_file() else path / "samples.json")
    other = take(folder, source, path)
    assert other.is_new and other.balance.num_taken == 0, "another file with the same content"
    assert other.balance.left_out["known"] == 6
    assert pq.read_table(f"{done.folder}/decisions.parquet").to_pylist() == table


def touch(path: Path) -> None:
    """The same content in other bytes."""
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path), path, compression="none")
    elif path.suffix == ".csv":
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    else:
        path.write_bytes(path.read_bytes().rstrip() + b"\n\n")


def test_an_earlier_decision_does_not_come_back_after_a_later_one(folder):
    """The tool's times order decisions, whatever is imported last."""
    tasks = json.loads(export(folder, "label-studio").read_text(encoding="utf-8"))
    names = rows_of(folder)[0]
    accepted = annotate(tasks[0], category=names["category"], rationales=[names["rationale"]], updated_at=T2)
    first = annotate(tasks[0], category="zebra", rationales=["a flowing mane"], updated_at=T1)
    for name, task in (("late.json", accepted), ("early.json", first)):
        (folder / name).write_text(json.dumps([task]))
        assert take(folder, "label-studio", folder / name).balance.num_taken == 1
    assert decided(folder) == {names["key"]: [("accept", None, None, "grace@example.org")]}


def test_the_same_file_of_a_second_reviewer_counts_too(folder):
    """Ada and Bob judge alike, and a tool has made the same file of both."""
    path = correct_csv(folder)
    for reviewer in ("Ada", "Bob"):
        done = take(folder, "csv", path, reviewer=reviewer)
        assert done.is_new and done.balance.num_taken == 6
    assert not take(folder, "csv", path, reviewer="Bob").is_new
    assert {tuple(who for *_, who in each) for each in decided(folder).values()} == {("Ada", "Bob")}


def test_names_of_a_skipped_task_are_a_draft(folder):
    (task, *_) = json.loads(export(folder, "label-studio").read_text(encoding="utf-8"))
    skipped = annotate(task, category="zebra", rationales=["x"], was_cancelled=True)
    (folder / "skipped.json").write_text(json.dumps([skipped]))
    take(folder, "label-studio", folder / "skipped.json")
    assert decided(folder) == {rows_of(folder)[0]["key"]: [("skip", None, None, "grace@example.org")]}


FORMULAS = ("=1+1", "'=1+1", "''@a", "-x", "'quoted'", "plain", "+a|-b")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_is_like_a_formula_comes_back_as_it_was(folder, text):
    """Also a text that begins with the apostrophe itself; through a CSV of reviews, which an empty set takes in."""
    assert original_text(spreadsheet_text(text)) == text
    assert not spreadsheet_text(text).startswith(("=", "+", "-", "@"))
    row = rows_of(folder)[0] | {"verdict": "correct", "category_after": text, "rationales_after": text.split("|")}
    row |= {"reviewer": f"{text}!", "note": text, "image_sha256": "a" * 64}
    (folder / "first.jsonl").write_text(json.dumps(row))
    take(folder, "jsonl", folder / "first.jsonl")
    before = decided(folder)
    export_labels.run(
        ExportConfig(
            labels=str(folder / "labels"),
            to="csv",
            output=str(folder / "csv"),
            reviewed=str(folder / "labels-review"),
        )
    )
    (folder / "labels-review").rename(folder / "before")
    take(folder, "csv", folder / "csv" / "labels.csv")
    assert decided(folder) == before
    assert pq.read_table(folder / "labels-review" / "decisions.parquet")["note"].to_pylist() == [text]


def test_a_note_alone_is_kept(folder):
    row = {"key": rows_of(folder)[0]["key"], "verdict": None, "note": "too dark"}
    (folder / "notes.jsonl").write_text(json.dumps(row))
    take(folder, "jsonl", folder / "notes.jsonl")
    path = export(folder, "fiftyone")
    samples = json.loads((path / "samples.json").read_text(encoding="utf-8"))
    samples["samples"][1]["note"] = "a toy"
    (path / "samples.json").write_text(json.dumps(samples))
    take(folder, "fiftyone", path, reviewer="Bob")
    table = pq.read_table(folder / "labels-review" / "decisions.parquet").sort_by("reviewer")
    assert table["verdict"].to_pylist() == ["skip", "skip"] and table["note"].to_pylist() == ["too dark", "a toy"]


def test_two_reviewers_of_an_image_stay_two(folder):
    tasks = json.loads(export(folder, "label-studio").read_text(encoding="utf-8"))
    names = rows_of(folder)[0]
    task = annotate(tasks[0], category=names["category"], rationales=[names["rationale"]])
    other = annotate(tasks[0], category="zebra", rationales=["a flowing mane"], completed_by=3)
    task["annotations"] += other["annotations"]
    (folder / "both.json").write_text(json.dumps([task]))
    take(folder, "label-studio", folder / "both.json")
    assert decided(folder)[names["key"]] == [
        ("correct", "zebra", ("a flowing mane",), "Label Studio user 3"),
        ("accept", None, None, "grace@example.org"),
    ]
    table = pq.read_table(folder / "labels-review" / "decisions.parquet")
    assert table["disputed"].to_pylist() == [True, True]


def test_decisions_of_one_set_come_into_another(folder):
    """The table of a decision set is a Parquet file like any other; times and reviewers stay."""
    take(folder, "cvat", correct_cvat(folder))
    first = decided(folder)
    table = pq.read_table(folder / "labels-review" / "decisions.parquet")
    pq.write_table(table, folder / "shared.parquet")
    other = str(folder / "other")
    assert take(folder, "parquet", folder / "shared.parquet", output=other).balance.num_taken == 6
    (folder / "labels-review").rename(folder / "gone")
    Path(other).rename(folder / "labels-review")
    assert decided(folder) == first
    again = pq.read_table(folder / "labels-review" / "decisions.parquet")
    assert again["time"].to_pylist() == table["time"].to_pylist()
    digests = pa.array(["b" * 64] * 6)  # as `ecor review` knows them
    at = table.schema.get_field_index("image_sha256")
    pq.write_table(table.set_column(at, "image_sha256", digests), folder / "shared.parquet")
    done = take(folder, "parquet", folder / "shared.parquet", output=str(folder / "third"))
    assert pq.read_table(f"{done.folder}/decisions.parquet")["image_sha256"].to_pylist() == digests.to_pylist()


def test_reviews_that_were_exported_add_nothing_when_they_return(folder):
    take(folder, "cvat", correct_cvat(folder))
    export_labels.run(
        ExportConfig(
            labels=str(folder / "labels"),
            to="jsonl",
            output=str(folder / "again"),
            reviewed=str(folder / "labels-review"),
        )
    )
    done = take(folder, "jsonl", folder / "again" / "labels.jsonl")
    assert (done.balance.num_taken, dict(done.balance.left_out)) == (0, {"known": 6, "unchanged": 1})


def test_images_in_shards_are_found_by_the_names_of_their_copies(tmp_path):
    write_shard_labels(tmp_path)
    path = export(tmp_path, "cvat")
    assert take(tmp_path, "cvat", path, unchanged="accept").balance.num_taken == 9
    table = pq.read_table(tmp_path / "labels-review" / "decisions.parquet")
    assert table["new_names"].null_count == 9
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.write(path, "annotations.xml")
        archive.writestr("images/x.png", b"")
    assert take(tmp_path, "cvat", tmp_path / "task.zip").balance.left_out["unchanged"] == 9


def test_killed_before_its_record_an_import_is_repeated_without_copies(folder):
    path = correct_label_studio(folder)
    done = take(folder, "label-studio", path)
    before = decided(folder)
    (record,) = (folder / "labels-review" / "imports").iterdir()
    record.unlink()
    log = next((folder / "labels-review" / "log").iterdir())
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:20])  # what a kill in the middle of a write leaves
    again = take(folder, "label-studio", path)
    assert (again.balance.num_taken, again.balance.left_out["known"]) == (3, 3)
    assert decided(folder) == before and done.balance.num_taken == 6


BAD: dict[str, tuple[str, str, str]] = {
    "not JSON": ("label-studio", "[{]", "character 1: is not JSON"),
    "another JSON": ("label-studio", '[{"a": 1}]', "task 1 has neither data nor an annotator"),
    "a text": ("label-studio", '"a"', "must be a JSON array or object"),
    "an unknown key": ("jsonl", '{"key": "nobody", "verdict": "accept"}', "the key nobody is not among the labels"),
    "an unknown verdict": ("jsonl", '{"key": "{key}", "verdict": "good"}', "verdict must be one of accept"),
    "no names": ("jsonl", '{"key": "{key}", "verdict": "correct"}', "category_after is empty"),
    "another label": (
        "jsonl",
        '{"key": "{key}", "verdict": "accept", "category": "yak"}',
        "is not the label that is judged (zebra)",
    ),
    "a correction without its verdict": (
        "jsonl",
        '{"key": "{key}", "verdict": "", "category_after": "horse", "rationales_after": ["mane"]}',
        "line 1: category_after stands beside no verdict: write the verdict correct, or empty the cell, got 'horse'",
    ),
    "a correction beside another verdict": (
        "jsonl",
        '{"key": "{key}", "verdict": "accept", "rationales_after": ["mane"]}',
        "line 1: rationales_after stands beside accept",
    ),
    "no digest": ("jsonl", '{"key": "{key}", "verdict": "accept", "image_sha256": "x"}', "image_sha256 must be 64"),
    "a time without a zone": (
        "jsonl",
        '{"key": "{key}", "verdict": "accept", "time": "2026-11-29T10:00:00"}',
        "time must be a time with its zone",
    ),
    "twice": (
        "jsonl",
        '{"key": "{key}", "verdict": "accept"}\n{"key": "{key}", "verdict": "wrong"}',
        "is judged twice by Ada",
    ),
    "not XML": ("cvat", "<annotations><image", "is not XML"),
    "another XML": ("cvat", "<a/>", "begins with <a>"),
    "entities": (
        "cvat",
        '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>',
        "has a document type",
    ),
    "a video": ("cvat", '<annotations><track id="0"/></annotations>', "is of a video"),
    "two categories": (
        "cvat",
        '<annotations><image name="{key}.png"><tag label="a"/><tag label="b"/></image></annotations>',
        "has the categories a and b",
    ),
    "a foreign image": ("cvat", '<annotations><image name="x.png"/></annotations>', "the image x.png is not among"),
    "a lost image": (
        "coco",
        '{"images": [], "annotations": [{"image_id": 3, "category_id": 1}], "categories": []}',
        "an annotation is of the image 3",
    ),
    "a lost category": (
        "coco",
        '{"images": [{"id": 1, "file_name": "{key}.png"}], "annotations": [{"image_id": 1, "category_id": 1}]}',
        "has the category 1, which the file lacks",
    ),
    "an unknown encoding": ("cvat", '<?xml version="1.0" encoding="foo"?><annotations/>', "is not XML"),
    "a document type after a long comment": (
        "cvat",
        f"<!--{'x' * 2**17}--><!DOCTYPE a><annotations/>",
        "has a document type",
    ),
    "results that are texts": (
        "label-studio",
        '[{"annotations": [{"result": ["x"]}]}]',
        "task 1 is not as Label Studio",
    ),
    "data that is a text": ("label-studio", '[{"data": "x", "annotations": [{}]}]', "task 1 is not as Label Studio"),
    "choices that are numbers": (
        "label-studio",
        '[{"annotations": [{"result": [{"from_name": "category", "value": {"choices": [1]}}]}]}]',
        "task 1: the category must be a text, got 1",
    ),
    "a key that is a number": (
        "label-studio",
        '[{"data": {"key": 5}, "annotations": [{}]}]',
        "task 1: the key must be a text, got 5",
    ),
    "a category without a name": ("coco", '{"categories": [{"id": 1, "name": null}]}', "is not COCO (TypeError"),
    "COCO of another shape": ("coco", '[{"images": []}]', "holds no images"),
    "no COCO": ("coco", '{"images": [{"name": 1}]}', "is not COCO (KeyError: 'id')"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(folder, case, capsys):
    source, text, told = BAD[case]
    path = folder / ("bad.xml" if source == "cvat" else "bad.jsonl" if source == "jsonl" else "bad.json")
    path.write_text(text.replace("{key}", rows_of(folder)[0]["key"]))
    args = ["import", str(folder / "labels"), "--from", source, "--input", str(path), "--reviewer", "Ada"]
    assert main(args) == 2
    shown = capsys.readouterr().err.strip()
    assert told in shown and len(shown.splitlines()) == 1, shown
    assert not (folder / "labels-review").exists()


def test_samples_of_another_shape_are_one_line(folder):
    for text, told in (
        ('{"frames": [{"filepath": "a"}]}', "holds no samples"),
        ('{"samples": [{"filepath": "a", "key": 5}]}', "sample 1: the key must be a text, got 5"),
        ('{"samples": [{"filepath": "a", "tags": 5}]}', "sample 1 is not as FiftyOne writes it"),
    ):
        (folder / "samples.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            take(folder, "fiftyone", folder)


def test_xml_is_bounded_and_has_no_document_type_in_any_encoding(folder, monkeypatch):
    (folder / "wide.xml").write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>'.encode("utf-16"))
    with pytest.raises(ValueError, match="has a document type"):
        take(folder, "cvat", folder / "wide.xml")
    monkeypatch.setattr(cvat, "MOST_BYTES", 2**18)
    images = [f'<image name="{each["key"]}.png"><x a="{"y" * 2**16}"/></image>' for each in rows_of(folder)]
    (folder / "many.xml").write_text(f"<annotations>{''.join(images)}</annotations>")
    assert sum(map(len, images)) > cvat.MOST_BYTES
    assert take(folder, "cvat", folder / "many.xml").balance.num_taken == NUM_LABELS  # each without a category: wrong
    (folder / "long.xml").write_text(f"<annotations><image><x>{'<y/>' * 2**17}</x></image></annotations>")
    with pytest.raises(ValueError, match="has an image of over 262144 bytes of XML"):
        take(folder, "cvat", folder / "long.xml")


def test_archives_that_are_damaged_or_encrypted_are_one_line(folder):
    with zipfile.ZipFile(folder / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(export(folder, "cvat"), "annotations.xml")
    data = bytearray((folder / "task.zip").read_bytes())
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    encrypted, unknown, damaged = bytearray(data), bytearray(data), bytearray(data)
    encrypted[local + 6] |= 1
    encrypted[central + 8] |= 1
    unknown[local + 8] = unknown[central + 10] = 99
    damaged[local + 60 : local + 90] = b"\xff" * 30
    for content in (encrypted, unknown, damaged):
        (folder / "task.zip").write_bytes(content)
        with pytest.raises(ValueError, match="is not a zip archive that can be read"):
            take(folder, "cvat", folder / "task.zip")


def test_no_reviewer_and_contradictions_are_refused(folder):
    with pytest.raises(ValueError, match=r"names no reviewer: give one with --reviewer"):
        take(folder, "cvat", correct_cvat(folder), reviewer=None)
    path = export(folder, "fiftyone") / "samples.json"
    content = json.loads(path.read_text())
    content["samples"][0]["category"]["label"] = "yak"
    content["samples"][0]["tags"] = ["accept"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample 1: the verdict accept does not fit its names \(yak: stripes\)"):
        take(folder, "fiftyone", path.parent)
    for verdict in ("wrong", "skip", "out_of_vocabulary"):
        content["samples"][0]["tags"] = [verdict]
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"sample 1: the verdict {verdict} does not fit its names"):
            take(folder, "fiftyone", path.parent)
    with pytest.raises(ValueError, match=r"there is no such folder with samples\.json"):
        take(folder, "fiftyone", folder / "nowhere")


def test_decisions_about_other_labels_are_refused(folder, tmp_path_factory):
    take(folder, "cvat", correct_cvat(folder))
    other = tmp_path_factory.mktemp("other")
    write_shard_labels(other)
    with pytest.raises(ValueError, match="holds decisions about the labels"):
        take(other, "cvat", export(other, "cvat"), output=str(folder / "labels-review"))


def test_names_decide_as_a_naive_rule_says():
    """Against a table of all cases: same or other category, and which rationales are left."""
    before = LabelBefore(category="zebra", rationale="stripes", confidence=0.5)
    names = KnownNames(categories=("zebra", "horse"), rationales=("stripes", "a mane"), is_vocabulary=True)
    generator = random.Random(0)
    for _ in range(300):
        category = generator.choice(["zebra", "Zebra ", "horse", "yak", None])
        rationales = generator.choice(
            [None, (), ("stripes",), ("Stripes",), ("a mane",), ("stripes", "a mane"), ("x",)]
        )
        is_seen, accept = generator.random() < 0.5, generator.random() < 0.5
        returned = ReturnedLabel(where="here", category=category, rationales=rationales, is_seen=is_seen)
        found = judge(returned, before, names=names, accept_unchanged=accept)
        same = category in ("zebra", "Zebra ")
        if category is None:
            assert found is not None and found.verdict == "wrong"
        elif same and rationales in (None, ("stripes",), ("Stripes",)):
            assert (found is not None) == (is_seen or accept) and (found is None or found.verdict == "accept")
        elif same and rationales == ():
            assert found is not None and found.verdict == "rationale_not_visible"
        else:
            assert found is not None and found.after is not None
            assert found.after.category == ("yak" if category == "yak" else "horse" if category == "horse" else "zebra")
            assert len(found.after.rationales) == len(rationales or ())
            assert set(found.after.new_names) == {"yak", "x"} & {category, *(rationales or ())}
