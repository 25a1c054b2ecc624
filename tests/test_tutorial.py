"""The commands of docs/explain.md do what it says, in an empty folder; pictures of the docs are small and there."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from ecor.evidence import Evidence
from ecor.predictions import read_predictions
from pipelines.__main__ import DONE, main

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explain.md"
_BLOCK = re.compile(r"<!-- run: (?P<name>[\w-]+) -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of the page."""

    kind: str
    text: str


def blocks() -> dict[str, Block]:
    return {
        found["name"]: Block(kind=found["kind"], text=found["text"])
        for found in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))
    }


def run(name: str) -> None:
    block = blocks()[name]
    if block.kind == "python":
        done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return
    for line in block.text.splitlines():
        assert line.startswith("ecor ")
        assert main(shlex.split(line)[1:]) == DONE, line


def test_folder_texts_and_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scenes", "folder", "texts", "model", "notebook"):
        run(name)
    assert len(list((tmp_path / "explained").iterdir())) == 10
    assert len(list((tmp_path / "searched").iterdir())) == 1


def test_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("scenes", "model", "bulk", "rows"):
        run(name)
    rows = read_predictions("labels").to_pylist()
    assert len(rows) == 10 and all(len(Evidence.from_row(row).maps) == 4 for row in rows)  # type: ignore[union-attr]
    assert "Where the evidence is" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_blocks_are_run_and_pictures_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(blocks()) == {"scenes", "folder", "texts", "model", "bulk", "rows", "notebook"}
    assert len(re.findall(r"^```(?:sh|python)$", text, re.M)) == len(blocks())
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert Image.open(ROOT / "docs" / name).format == "PNG"
        assert (ROOT / "docs" / name).stat().st_size < 100_000
