"""The commands of docs/exchange.md do what the page says, in an empty folder."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ecor.data.predictions.records import predictions_table
from ecor.data.samples import sample_key
from ecor.storage.digests import bytes_sha256
from pipelines.__main__ import main
from tests.support.labelled_images import label
from tests.support.prediction_rows import write_labels

PAGE = Path(__file__).resolve().parents[3] / "docs" / "exchange.md"


def block(name: str) -> str:
    """The code of the page after `<!-- run: name -->`."""
    (code,) = re.findall(rf"<!-- run: {name} -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    return code


def run(code: str) -> None:
    for line in code.splitlines():
        program, *words = shlex.split(line)
        assert program == "ecor"
        assert main(words) == 0, line


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes are drawn as the page says; what `score` would say of them is made here, without a cluster."""
    monkeypatch.chdir(tmp_path)
    exec(block("labels"), {})
    rows = []
    for number, path in enumerate(sorted(Path("scenes").rglob("*.png"))):
        source = str(path.absolute())
        rows.append(label(number, source=source, key=sample_key(source, sha256=bytes_sha256(path.read_bytes()))))
    table = predictions_table([replace(each, model_version=None) for each in rows])
    write_labels("labels", table)
    run(block("out"))
    written = {path.name for path in Path("out").iterdir()}
    assert written == {
        *("csv", "jsonl", "label-studio", "cvat", "coco", "fiftyone", "imagefolder", "huggingface", "webdataset")
    }
    judged = [{"key": rows[0].key, "verdict": "wrong"}, {"key": rows[1].key, "verdict": "accept"}]
    Path("judged.jsonl").write_text("".join(json.dumps(each) + "\n" for each in judged))
    run(block("back"))
    decisions = pq.read_table("labels-review/decisions.parquet").to_pylist()
    of_ada = {each["key"]: each["verdict"] for each in decisions if each["reviewer"] == "Ada"}
    assert of_ada == {each["key"]: each["verdict"] for each in judged}
    assert sum(each["reviewer"] == "Bob" for each in decisions) == len(rows)
