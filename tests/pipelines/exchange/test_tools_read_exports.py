"""The tools' own readers, where they are installed, read the exports as they were meant."""

import json
from pathlib import Path

import pytest

from pipelines.config.exchange import ExportConfig
from pipelines.exchange import export_labels
from tests.pipelines.exchange.test_export_labels import expected, same
from tests.support.labelled_images import FILE_NAMES, NUM_LABELS, picture, write_image_labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "FIFTYONE_CONFIG_PATH", "FIFTYONE_DATABASE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_image_labels(tmp_path, with_maps=True)
    return tmp_path


def export(folder: Path, to: str, **settings) -> Path:
    labels, output = str(folder / "labels"), str(folder / to)
    export_labels.run(ExportConfig(labels=labels, to=to, output=output, **settings))
    return Path(output)


@pytest.mark.parametrize("images", ["path", "copy"])
def test_datasets_reads_the_parquet_files(folder, images):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face is not installed")
    found = datasets.load_dataset(
        str(export(folder, "huggingface", images=images)), split="train", cache_dir=str(folder / "cache")
    )
    assert same(list(found.remove_columns("image")), expected(folder))
    assert [each.size for each in found["image"]] == [(24, 18)] * NUM_LABELS
    assert found[0]["evidence"]["maps"][1]["rationale"] == found[0]["rationale"]


def test_datasets_reads_the_folder_of_images(folder):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face is not installed")
    output = export(folder, "imagefolder")
    found = datasets.load_dataset("imagefolder", data_dir=str(output), split="train", cache_dir=str(folder / "cache"))
    of_key = {each["key"]: each for each in found}
    assert same([of_key[each["key"]] for each in expected(folder)], expected(folder))
    assert {each["image"].size for each in found} == {(24, 18)}


def test_torchvision_reads_the_folder_of_images(folder):
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(export(folder, "imagefolder")))
    assert len(found) == NUM_LABELS and len(found.classes) == len(set(found.classes)) == 7
    assert found[0][0].size == (24, 18)


def test_label_studio_takes_tasks_configuration_and_predictions(folder):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed"
    ).LabelInterface
    output = export(folder, "label-studio")
    config = interface((output / "labeling_config.xml").read_text(encoding="utf-8"))
    config.validate()
    tasks = json.loads((output / "tasks-00000.json").read_text(encoding="utf-8"))
    for task in tasks:
        (prediction,) = task["predictions"]
        assert config.validate_prediction(prediction)
        assert config.validate_task({"data": task["data"]})
    assert len(tasks) == NUM_LABELS


def test_datumaro_reads_cvat_with_its_images(folder):
    dataset = pytest.importorskip("datumaro.components.dataset", reason="datumaro is not installed").Dataset
    output = export(folder, "cvat")
    (output / "export.json").unlink()  # datumaro looks at all files of the folder
    found = list(dataset.import_from(str(output / "annotations.xml"), "cvat"))
    names = [each["name"] for each in json.loads((output / "labels.json").read_text(encoding="utf-8"))]
    rows = []
    for item in found:
        category, rationale = item.annotations
        rows.append(
            {
                "key": item.id.rpartition("/")[2],
                "category": names[category.label],
                "rationale": names[rationale.label].removeprefix("because of "),
                "confidence": category.attributes["confidence"],
            }
        )
    assert same(rows, expected(folder))
    assert {item.media.size for item in found} == {(18, 24)}


def test_fiftyone_reads_its_samples(folder):
    fiftyone = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    if not hasattr(fiftyone, "Sample"):
        pytest.skip("fiftyone is not installed to its end")
    output = export(folder, "fiftyone")
    samples = json.loads((output / "samples.json").read_text(encoding="utf-8"))["samples"]
    rows = []
    for number, each in enumerate(samples):
        sample = fiftyone.Sample.from_dict(each)
        assert Path(sample.filepath).read_bytes() == picture(number)
        assert sample.filepath == str(folder / "pictures" / FILE_NAMES[number])
        assert isinstance(sample["map_category"], fiftyone.Heatmap)
        (rationale,) = sample["rationales"].classifications
        label = sample["category"]
        rows.append(
            {
                "key": sample["key"],
                "category": label.label,
                "rationale": rationale.label,
                "confidence": label.confidence,
            }
        )
    assert same(rows, expected(folder))
