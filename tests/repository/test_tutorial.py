"""The commands of docs/explain.md do what it says, in an empty folder; pictures of the docs are small and there."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecor.data.heatmap_codec import Evidence
from ecor.data.predictions.parts import read_predictions
from pipelines.__main__ import EXIT_DONE, main
from tests.support.programs import is_hidden

ROOT = Path(__file__).resolve().parents[2]
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
        assert main(shlex.split(line)[1:]) == EXIT_DONE, line


@pytest.fixture(scope="module")
def with_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scenes and the model of the page."""
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("scenes", "model"):
            run(name)
    return folder


def test_folder_texts_and_notebook(with_scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(with_scenes)
    for name in ("folder", "texts", "notebook"):
        run(name)
    assert len(list((with_scenes / "explained").glob("*.png"))) == 10
    assert len(list((with_scenes / "searched").glob("*.png"))) == 1
    for picture, folder in (("explain-overlay.png", "explained"), ("explain-texts.png", "searched")):
        assert min(distance(ROOT / "docs" / picture, made) for made in (with_scenes / folder).glob("*.png")) < 4, (
            picture
        )


def distance(one: Path, other: Path) -> float:
    """Mean difference of their pixels, in levels; infinite where they are not of one size."""
    first, second = (np.asarray(Image.open(path).convert("RGB")).astype(float) for path in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else float("inf")


def test_bulk(with_scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(with_scenes)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("bulk", "rows"):
        run(name)
    rows = read_predictions("labels").to_pylist()
    assert len(rows) == 10 and all(len(Evidence.from_row(row).maps) == 4 for row in rows)  # type: ignore[union-attr]
    assert "Where the evidence is" in (with_scenes / "report.html").read_text(encoding="utf-8")


CATEGORIES = ("hat", "pants", "shoes", "t-shirt")


@pytest.fixture(scope="module")
def with_photos(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A folder with a few real photos, the README's names for them, and words for WordNet."""
    folder = tmp_path_factory.mktemp("photos")
    for category in CATEGORIES:
        (folder / "photos" / category).mkdir(parents=True)
        found = sorted((shared_data / "photos" / "clothing" / category).glob("*.jpg"))
        for number, photo in enumerate(found[: 3 if category == "hat" else 12], start=1):
            shutil.copy(photo, folder / "photos" / category / f"{number:04d}.jpg")
    names = re.search(r"cat > names.json <<'END'\n(.*?)\nEND", (ROOT / "README.md").read_text(), re.S)
    assert names is not None
    (folder / "names.json").write_text(names[1])
    (folder / "words.txt").write_text("\n".join(["hat", "trousers", "shoe", "shirt", "brim", "floor", "face", "tree"]))
    return folder


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen photos are small work: no command may start Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster._init", None)


def shown(folder: Path) -> list[Path]:
    """Overlays of the three hats; each is a picture in which something stands out."""
    found = sorted(folder.glob("*.png"))
    for each in found:
        pixels = np.asarray(Image.open(each).convert("RGB")).astype(int)
        assert pixels.shape[1] > 2 * 230 and (pixels.max(axis=2) - pixels.min(axis=2)).max() > 100, each
    return found


@pytest.mark.usefixtures("no_cluster")
def test_eclip_and_lico_on_real_photos(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharded, trained, and explained on photos that no drawing is like; the registry is a file in the folder."""
    monkeypatch.chdir(with_photos)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run("systems")
    assert len(shown(with_photos / "explained-eclip")) == len(shown(with_photos / "explained-lico")) == 3


def test_concepts_of_wordnet_on_real_photos(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_hidden("wordnet") or not Path("/usr/share/wordnet/data.noun").is_file():
        pytest.skip("Debian's wordnet-base is not on this machine")
    monkeypatch.chdir(with_photos)
    run("concepts")
    assert len(shown(with_photos / "explained-convis")) == 3


def test_all_blocks_are_run_and_pictures_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = {"scenes", "folder", "texts", "systems", "concepts", "model", "bulk", "rows", "notebook"}
    assert set(blocks()) == known
    assert len(re.findall(r"^```(?:sh|python)$", text, re.M)) == len(blocks())
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert Image.open(ROOT / "docs" / name).format == "PNG"
        assert (ROOT / "docs" / name).stat().st_size < 100_000
