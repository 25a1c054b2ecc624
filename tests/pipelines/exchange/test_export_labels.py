"""`ecor export`: what each format holds, row for row, hostile names, decisions, maps, refusals, and stores.

Covers: `pipelines.config.exchange`, `pipelines.exchange.export_folder`, `pipelines.exchange.exported_label`,
`pipelines.exchange.image_placement`,
`pipelines.exchange.known_names`, `pipelines.exchange.label_rows`, `pipelines.exchange.formats.hugging_face`,
`pipelines.exchange.formats.image_folder`, `pipelines.exchange.formats.map_images`,
`pipelines.exchange.formats.registry`, `pipelines.exchange.formats.web_dataset`, `pipelines.exchange.formats.writer`.
"""

import base64
import csv
import io
import json
import math
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from pycocotools.coco import COCO

from ecor.data.predictions.parts import read_predictions
from ecor.data.predictions.records import iterate_predictions
from ecor.storage import filesystem
from pipelines.__main__ import main
from pipelines.config.exchange import ExportConfig, ExportFormat
from pipelines.config.review import AuditConfig
from pipelines.exchange import export_labels
from pipelines.exchange.exported_label import ExportedLabel, PlacedImage
from pipelines.exchange.formats.image_folder import folder_name
from pipelines.exchange.formats.registry import EXPORT_FORMATS, IMPORT_FORMATS
from pipelines.exchange.image_placement import file_stem
from pipelines.review.decision import Correction, Decision, LabelBefore
from pipelines.review.decision_set import open_decision_set
from pipelines.stages import audit
from tests.support.labelled_images import (
    CATEGORIES,
    FILE_NAMES,
    NUM_LABELS,
    picture,
    write_image_labels,
    write_shard_labels,
)
from tests.support.prediction_rows import row

FORMATS = get_args(ExportFormat)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image_labels(tmp_path, with_maps=True)
    return tmp_path


def export(folder: Path, to: str, **settings) -> Path:
    """The folder of an export."""
    output = settings.pop("output", str(folder / to))
    export_labels.run(ExportConfig(labels=str(folder / "labels"), to=to, output=output, **settings))
    return Path(output)


def expected(folder: Path) -> list[dict]:
    rows = iterate_predictions(read_predictions(folder / "labels"))
    return [{"key": r.key, "category": r.category, "rationale": r.rationale, "confidence": r.confidence} for r in rows]


def same(found: list[dict], wanted: list[dict]) -> bool:
    """Equal row for row; confidences up to the digits of 32 bits."""
    names = ("key", "category", "rationale")
    return [[each[n] for n in names] for each in found] == [
        [each[n] for n in names] for each in wanted
    ] and np.allclose(
        [float(each["confidence"]) for each in found], [each["confidence"] for each in wanted], rtol=1e-6, atol=0
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def read_json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_every_format_is_in_the_registry():
    assert set(FORMATS) == set(EXPORT_FORMATS)
    assert set(IMPORT_FORMATS) == {"label-studio", "fiftyone", "coco", "cvat", "csv", "jsonl", "parquet"}


def test_csv_has_a_row_per_label_and_no_formula(folder):
    rows = read_csv(export(folder, "csv") / "labels.csv")
    assert not [cell for each in rows for cell in each.values() if cell.startswith(("=", "+", "-", "@"))]
    plain = [{name: value.removeprefix("'") for name, value in each.items()} for each in rows]
    assert same(plain, expected(folder))
    assert [each["source"] for each in plain] == [str(folder / "pictures" / name) for name in FILE_NAMES]
    assert all(each["verdict"] == "" for each in rows)


def test_jsonl_has_a_row_per_label_with_ranks_and_maps(folder):
    rows = read_json_lines(export(folder, "jsonl") / "labels.jsonl")
    assert same(rows, expected(folder))
    for each, label in zip(rows, iterate_predictions(read_predictions(folder / "labels")), strict=True):
        assert each["ranked_rationales"] == [r.rationale for r in label.rationales]
        assert each["rationale_probs"] == pytest.approx([math.exp(r.log_prob) for r in label.rationales])
        assert label.evidence is not None
        values = [base64.b64decode(m["values"]) for m in each["evidence"]["maps"]]
        assert values == [m.values for m in label.evidence.maps]
    bare = read_json_lines(export(folder, "jsonl", maps=False, output=str(folder / "bare")) / "labels.jsonl")
    assert bare == [{name: value for name, value in each.items() if name != "evidence"} for each in rows]


def test_label_studio_gets_predictions_and_a_configuration_with_all_names(folder):
    output = export(folder, "label-studio")
    tasks = json.loads((output / "tasks-00000.json").read_text(encoding="utf-8"))
    found = []
    for task in tasks:
        (prediction,) = task["predictions"]
        chosen = {each["from_name"]: each["value"]["choices"] for each in prediction["result"]}
        (category,), (rationale,) = chosen["category"], chosen["rationales"]
        confidence = prediction["score"]
        found.append(
            {"key": task["data"]["key"], "category": category, "rationale": rationale, "confidence": confidence}
        )
        assert prediction["model_version"] == "ecor 3"
    assert same(found, expected(folder))
    from xml.etree import ElementTree

    config = ElementTree.parse(output / "labeling_config.xml")
    values = [each.get("value") for each in config.findall(".//Choices[@name='category']/Choice")]
    assert sorted(values) == sorted(CATEGORIES)


def test_coco_is_read_by_pycocotools(folder, capsys):
    coco = COCO(str(export(folder, "coco") / "annotations.json"))
    names = {number: each["name"] for number, each in coco.cats.items()}
    found = []
    for number, image in coco.imgs.items():
        category, rationale = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert category["bbox"] == [0, 0, 24, 18] and category["area"] == 24 * 18
        assert coco.cats[rationale["category_id"]]["supercategory"] == "rationale"
        found.append(
            {
                "key": image["key"],
                "category": names[category["category_id"]],
                "rationale": names[rationale["category_id"]].removeprefix("because of "),
                "confidence": category["score"],
            }
        )
    assert same(found, expected(folder))
    assert [image["file_name"] for image in coco.imgs.values()] == [str(folder / "pictures" / n) for n in FILE_NAMES]


def test_cvat_is_xml_with_tags_per_image(folder):
    from xml.etree import ElementTree

    output = export(folder, "cvat")
    root, found = ElementTree.parse(output / "annotations.xml").getroot(), []
    for image in root.iter("image"):
        category, rationale = image.iter("tag")
        stem = image.get("name").rpartition("/")[2].partition(".")[0]
        found.append(
            {
                "key": stem,
                "category": category.get("label"),
                "rationale": rationale.get("label").removeprefix("because of "),
                "confidence": category.find("attribute[@name='confidence']").text,
            }
        )
        assert (output / "images" / image.get("name")).is_file()
        assert (image.get("width"), image.get("height")) == ("24", "18")
    assert same(found, expected(folder))
    names = {each["name"] for each in json.loads((output / "labels.json").read_text(encoding="utf-8"))}
    assert names == {each.text for each in root.findall(".//labels/label/name")} >= set(CATEGORIES)


def test_fiftyone_has_classifications_and_maps_over_the_image(folder):
    output = export(folder, "fiftyone")
    samples = json.loads((output / "samples.json").read_text(encoding="utf-8"))["samples"]
    found = [
        {
            "key": each["key"],
            "category": each["category"]["label"],
            "rationale": each["rationales"]["classifications"][0]["label"],
            "confidence": each["category"]["confidence"],
        }
        for each in samples
    ]
    assert same(found, expected(folder))
    assert "version" not in json.loads((output / "metadata.json").read_text())
    for each in samples:
        assert each["metadata"] == {"_cls": "ImageMetadata", "width": 24, "height": 18}
        heat = np.asarray(Image.open(each["map_rationale_1"]["map_path"]))
        assert heat.shape == (48, 64), "the picture's shape, 64 pixels on its longer side"
        assert heat[0, 0] == 255 and heat[-1, -1] == 0, "the evidence was in the upper left corner"


@pytest.mark.parametrize("form", ["jpeg", "tiff"])
@pytest.mark.parametrize(("orientation", "shape"), [(3, (48, 64)), (6, (64, 48)), (8, (64, 48))])
def test_sizes_and_maps_of_a_turned_photo_are_those_of_its_upright_one(folder, form, orientation, shape):
    """Tools show the photo upright, and the map over it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (each for each in (folder / "pictures").rglob("*") if each.is_file()):
        Image.open(io.BytesIO(path.read_bytes())).save(path, form, exif=exif)
    height, width = (round(side * 18 / 48) for side in shape)
    output = export(folder, "fiftyone")
    for each in json.loads((output / "samples.json").read_text(encoding="utf-8"))["samples"]:
        assert each["metadata"] == {"_cls": "ImageMetadata", "width": width, "height": height}
        heat = np.asarray(Image.open(each["map_rationale_1"]["map_path"]))
        assert heat.shape == shape and heat[0, 0] == 255 and heat[-1, -1] == 0
    listed = COCO(str(export(folder, "coco") / "annotations.json"))
    assert {(each["width"], each["height"]) for each in listed.imgs.values()} == {(width, height)}


def test_imagefolder_has_a_safe_folder_per_category(folder):
    output = export(folder, "imagefolder")
    rows = read_json_lines(output / "metadata.jsonl")
    assert same(rows, expected(folder))
    for number, each in enumerate(rows):
        assert (output / each["file_name"]).read_bytes() == picture(number)
        assert Path(each["file_name"]).parts[0] == folder_name(each["category"])
    folders = {path.name for path in output.iterdir() if path.is_dir()}
    assert len(folders) == len(CATEGORIES)


def test_names_of_folders_are_safe_and_never_shared():
    hostile = [
        "..",
        ".",
        "a/b",
        "a b",
        "a_b",
        "A b",
        "con",
        "CON",
        "nul.txt",
        "train",
        "",
        " ",
        "x" * 300,
        "a\0b",
        "ä",
        "Ä",
    ]
    names = [folder_name(each) for each in hostile]
    assert len({name.casefold() for name in names}) == len(hostile)
    assert all(name == Path(name).name and "\0" not in name and 0 < len(name) < 100 for name in names)
    assert not {"con", "nul", "train", "..", "."} & set(names)
    assert folder_name("a b") == "a_b" and folder_name("police car") == "police_car"


def test_stems_of_files_are_safe_and_never_shared():
    keys = ["a", "A", "a b", "a/b", "..", "", "é", "0058536b0005-94716756-IMG_1", "0058536b0005-94716756-img_1"]
    stems = [file_stem(each) for each in keys]
    assert len(set(stems)) == len(keys)
    assert all(stem == Path(stem).name and "." not in stem and stem for stem in stems)
    assert file_stem(keys[-2]) == keys[-2]


def test_huggingface_is_parquet_with_the_images_bytes_and_features(folder):
    output = export(folder, "huggingface", images="copy")
    table = pq.read_table(output / "data")
    assert same(table.to_pylist(), expected(folder))
    assert [each["bytes"] for each in table["image"].to_pylist()] == [picture(n) for n in range(NUM_LABELS)]
    features = json.loads(pq.read_schema(output / "data" / "train-00000.parquet").metadata[b"huggingface"])
    assert features["info"]["features"]["image"] == {"_type": "Image"}
    assert set(features["info"]["features"]) == set(table.column_names)
    assert table["evidence"].to_pylist()[0]["method"] == "eclip"
    paths = pq.read_table(export(folder, "huggingface", output=str(folder / "paths")) / "data")["image"].to_pylist()
    assert paths == [{"bytes": None, "path": str(folder / "pictures" / name)} for name in FILE_NAMES]


def test_webdataset_is_read_by_webdataset(folder):
    output = export(folder, "webdataset")
    names = (output / "classnames.txt").read_text(encoding="utf-8").splitlines()
    samples = list(webdataset.WebDataset(str(output / "labels-000000.tar"), shardshuffle=False))
    rows = [json.loads(each["json"]) for each in samples]
    assert same(rows, expected(folder))
    assert [each["png"] for each in samples] == [picture(number) for number in range(NUM_LABELS)]
    assert [names[int(each["cls"])] for each in samples] == [each["category"] for each in rows]
    assert "stripes" in samples[0]["txt"].decode()


@pytest.mark.parametrize("to", FORMATS)
def test_images_in_shards_are_copied_where_a_tool_opens_them(tmp_path, to):
    write_shard_labels(tmp_path)
    output = export(tmp_path, to)
    record = json.loads((output / "export.json").read_text())
    assert record["images"] == ("path" if to in ("csv", "jsonl") else "copy")
    assert record["balance"]["taken"] == 9
    files = list(output.rglob("*.png"))
    assert len(files) == (0 if to in ("csv", "jsonl", "huggingface", "webdataset") else 9)
    for path in files:
        assert Image.open(path).size == (40, 36)


def test_images_in_shards_have_no_path(tmp_path):
    write_shard_labels(tmp_path)
    with pytest.raises(ValueError, match=r"lies in a shard .* --images copy"):
        export(tmp_path, "label-studio", images="path")
    assert not (tmp_path / "label-studio").exists(), "nothing half written"
    tasks = json.loads((export(tmp_path, "label-studio", image_root="s3://photos") / "tasks-00000.json").read_text())
    assert tasks[0]["data"]["image"] == "s3://photos/0.png"


def test_links_lead_to_the_images(folder):
    output = export(folder, "imagefolder", images="link")
    for number, each in enumerate(read_json_lines(output / "metadata.jsonl")):
        link = output / each["file_name"]
        assert link.is_symlink() and link.read_bytes() == picture(number)


def decide(folder: Path, *decisions: tuple[int, str, str, Correction | None]) -> str:
    """A decision set with decisions by (row, reviewer, verdict, after)."""
    from ecor.data.predictions.manifest import read_prediction_set

    labels = read_prediction_set(str(folder / "labels"))
    made, rows = open_decision_set(str(folder / "reviewed"), labels="labels", predictions=labels), expected(folder)
    for number, reviewer, verdict, after in decisions:
        label = rows[number]
        with made.open_log(reviewer) as log:
            before = LabelBefore(**{name: label[name] for name in ("category", "rationale", "confidence")})
            log.append(
                Decision(
                    labels_digest=labels.digest,
                    key=label["key"],
                    reviewer=reviewer,
                    time=NOW,
                    verdict=verdict,
                    before=before,
                    after=after,
                    note="a, \"b\"\n'c'",
                )
            )
    return made.folder


def test_reviews_are_exported_and_final_names_follow_from_them(folder):
    horse = Correction(category="horse", rationales=("a mane", "a | b"), new_names=("a mane",))
    reviewed = decide(
        folder,
        (0, "Ada", "correct", horse),
        (1, "Ada", "wrong", None),
        (2, "Ada", "rationale_not_visible", None),
        (3, "Ada", "correct", horse),
        (3, "Bob", "accept", None),
        (4, "Ada", "skip", None),
    )
    rows = read_json_lines(export(folder, "jsonl", reviewed=reviewed) / "labels.jsonl")
    finals = [(each["final_category"], each["final_rationales"]) for each in rows]
    before = [(each["category"], [each["rationale"]]) for each in rows]
    assert finals == [
        ("horse", ["a mane", "a | b"]),
        (None, []),
        (before[2][0], []),
        *before[3:],  # a dispute and a skip change nothing
    ]
    assert [len(each["reviews"]) for each in rows] == [1, 1, 1, 2, 1, 0, 0]
    assert (rows[0]["verdict"], rows[0]["reviewer"], rows[3]["verdict"]) == ("correct", "Ada", None)
    output = export(folder, "imagefolder", reviewed=reviewed)
    assert json.loads((output / "export.json").read_text())["balance"]["left_out"] == {"no_category_after_review": 1}
    assert {Path(each["file_name"]).parts[0] for each in read_json_lines(output / "metadata.jsonl")} >= {"horse"}
    tasks = json.loads((export(folder, "label-studio", reviewed=reviewed) / "tasks-00000.json").read_text())
    assert [len(each.get("annotations", ())) for each in tasks] == [1, 1, 1, 2, 1, 0, 0]


def test_only_the_labels_that_the_audit_sends_to_review(folder, capsys):
    from xml.etree import ElementTree

    labels = str(folder / "labels")
    audit.run(AuditConfig(labels=labels, sample_size=NUM_LABELS, right=0.2, sure=0.6, reasons=True))
    sample = read_csv(Path(f"{labels}-audit/sample.csv"))
    with Path(f"{labels}-audit/sample.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(sample[0]))
        writer.writeheader()
        writer.writerows([{**each, "verdict": "accept" if n % 2 else "wrong"} for n, each in enumerate(sample)])
    audit.run(
        AuditConfig(
            labels=labels,
            sample_size=NUM_LABELS,
            right=0.2,
            sure=0.6,
            reasons=True,
            judged=f"{labels}-audit/sample.csv",
        )
    )
    decided = {
        each["key"]: each["decision"] for each in pq.read_table(f"{labels}-audit/label_decisions.parquet").to_pylist()
    }
    assert set(decided.values()) == {"accept", "review"}
    rows = read_json_lines(export(folder, "jsonl", audit=f"{labels}-audit") / "labels.jsonl")
    assert {each["key"]: each["decision"] for each in rows} == decided
    settings = {"audit": f"{labels}-audit", "only": "review", "output": str(folder / "some")}
    some = read_json_lines(export(folder, "jsonl", **settings) / "labels.jsonl")
    assert {each["key"] for each in some} == {key for key, decision in decided.items() if decision == "review"}
    assert len(some) < NUM_LABELS
    readme = export(folder, "huggingface", **{**settings, "output": str(folder / "hub")}) / "README.md"
    assert f"\n{len(some)} labels with their rationales" in readme.read_text()
    xml = export(folder, "cvat", **{**settings, "output": str(folder / "cvat")}) / "annotations.xml"
    root = ElementTree.parse(xml).getroot()
    assert root.findtext("meta/task/size") == str(len(root.findall("image"))) == str(len(some))


def test_a_finished_export_is_left_alone_and_another_one_is_refused(folder, capsys):
    before = {path: path.read_bytes() for path in export(folder, "jsonl").rglob("*") if path.is_file()}
    (line,) = [each for each in capsys.readouterr().err.splitlines() if " listed = " in each]
    export(folder, "jsonl")
    said = capsys.readouterr()
    assert "nothing to do" in said.out and line in said.err, "the last line is that of the run that made it"
    assert {path: path.read_bytes() for path in (folder / "jsonl").rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match=r"another export: maps was True, is False.*--fresh"):
        export(folder, "jsonl", maps=False)
    export(folder, "jsonl", maps=False, fresh=True)
    assert "evidence" not in read_json_lines(folder / "jsonl" / "labels.jsonl")[0]
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists and is no export"):
        export(folder, "jsonl", output=str(folder / "mine"))
    assert (folder / "mine" / "notes.txt").read_text() == "keep"


def test_images_that_cannot_be_read_are_counted_and_too_many_stop_the_export(folder):
    (folder / "pictures" / FILE_NAMES[0]).unlink()
    (folder / "pictures" / FILE_NAMES[1]).write_bytes(picture(1)[:40])
    with pytest.raises(ValueError, match=r"more than max_rejected .* restore them"):
        export(folder, "cvat")
    assert not (folder / "cvat").exists()
    output = export(folder, "cvat", max_rejected=0.5)
    rejected = pq.read_table(output / "quarantine.parquet").to_pylist()
    assert (rejected[0]["source"], rejected[0]["reason"]) == (str(folder / "pictures/plain.png"), "missing")
    assert len(rejected) == 2
    assert len(read_json_lines(export(folder, "jsonl") / "labels.jsonl")) == NUM_LABELS, "no image is needed there"


def test_an_export_goes_to_a_store_and_comes_back(folder):
    store = f"memory://exports-{os.getpid()}/jsonl"
    export_labels.run(ExportConfig(labels=str(folder / "labels"), to="jsonl", output=store))
    data = filesystem.read(f"{store}/labels.jsonl")
    assert data == (export(folder, "jsonl") / "labels.jsonl").read_bytes()
    assert filesystem.exists(f"{store}/export.json")
    with pytest.raises(ValueError, match="in a store, which has no links"):
        export_labels.run(
            ExportConfig(labels=str(folder / "labels"), to="imagefolder", output=f"{store}-2", images="link")
        )


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--to", "webdataset", "--images", "path"], "--images path does not fit --to webdataset, which takes copy"),
        (["--to", "csv", "--only", "review"], "only review needs the decisions of an --audit"),
        (["--to", "csv", "--audit", "nowhere"], "nowhere holds no certificate.json"),
        (["--to", "csv", "--reviewed", "nowhere"], "nowhere holds no decision_set.json"),
        (["--to", "csv", "--vocabulary", "nowhere.json"], "nowhere.json: there is no such vocabulary file"),
    ],
)
def test_what_cannot_be_is_one_line(folder, args, told, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    try:
        code = main(["export", "labels", *args, "--output", "out"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (folder / "out").exists()


def test_a_character_without_a_form_in_xml_is_refused(tmp_path):
    write_image_labels(tmp_path, change=lambda each: replace(each, category=each.category + "\x01"))
    with pytest.raises(ValueError, match="holds a character that XML has no form for"):
        export(tmp_path, "cvat")


def test_the_probability_of_a_category_is_not_that_of_the_pair():
    made = replace(row("k", ("zebra", "stripes"), confidence=0.25), category_log_prob=math.log(0.75))
    label = ExportedLabel(prediction=made, image=PlacedImage(address="k.jpg"))
    assert label.category_confidence == pytest.approx(0.75)


def test_torch_and_ray_are_not_loaded():
    names = "pipelines.exchange.export_labels, pipelines.exchange.import_decisions"
    code = f"import sys, {names}; print([each for each in ('torch', 'ray', 'mlflow') if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_tars_are_plain(folder):
    with tarfile.open(export(folder, "webdataset") / "labels-000000.tar", "r:") as tar:
        assert all(member.isreg() and member.name == Path(member.name).name for member in tar)
        assert Image.open(io.BytesIO(tar.extractfile(tar.getmembers()[0]).read())).size == (24, 18)
