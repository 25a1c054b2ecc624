"""The README's commands do what it says, on a few photos and with random weights where it names a download.

`ecor` runs in this process, through the same `main` as on the command line, so that one import of torch serves all
commands; everything else in a block is run by bash.

Covers: `pipelines.studies.demo`.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from ecor.demo.dataset import write_dataset
from pipelines.__main__ import EXIT_DONE, main
from tests.support.tiny_models import TINY_CLIP

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = ("hat", "pants", "shoes", "t-shirt")
NUM_PHOTOS = 12
_MARK = r"<!-- run: (?P<name>[\w-]+)(?:; needs the network: [^>]*)? -->\n"
_BLOCK = re.compile(_MARK + r"```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of the README that says how it is tested."""

    kind: str
    text: str


def blocks(page: str = "README.md") -> dict[str, Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return {found["name"]: Block(kind=found["kind"], text=found["text"]) for found in _BLOCK.finditer(text)}


@pytest.fixture(scope="module", autouse=True)
def no_cluster() -> Iterator[None]:
    """All commands are small work: none may start Ray, as the README says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("pipelines.runtime.cluster._init", None)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder as a new user has it: photos, nothing else."""
    folder = tmp_path_factory.mktemp("readme")
    shared = ROOT.parent / "shared" / "data" / "photos" / "clothing"
    rng = np.random.default_rng(0)
    for category in CATEGORIES:
        target = folder / "photos" / category
        target.mkdir(parents=True)
        found = sorted((shared / category).glob("*.jpg"))[:NUM_PHOTOS]
        for number in range(NUM_PHOTOS):
            if found:
                image = Image.open(found[number]).convert("RGB")
                image.thumbnail((160, 160))
            else:
                image = Image.fromarray(rng.integers(0, 255, (80, 100, 3), np.uint8))
            image.save(target / f"{number + 1:04d}.jpg")
    return folder


@pytest.fixture
def run_block(home, tmp_path_factory, monkeypatch):
    """Runs a block as written, but for the backbone: a tiny CLIP with random weights stands for what is downloaded."""
    clip = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    clip.write_text(json.dumps(TINY_CLIP))
    monkeypatch.chdir(home)
    monkeypatch.setenv("ECOR_CACHE", str(home / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(block: Block) -> None:
        text = re.sub(r"(--backbone\.name) \S+", rf"\1 {shlex.quote(str(clip))}", block.text)
        text = re.sub(r"(--backbone\.pretrained) \S+", r"\1 random", text)
        text = re.sub(r"(?<=\[train\.backbone\]\nname = ).*\npretrained = .*", f'"{clip}"\npretrained = "random"', text)
        for line in re.split(r"^(?=ecor )", text, flags=re.M):
            if line.startswith("ecor "):
                assert main(shlex.split(line)[1:]) == EXIT_DONE, line
            else:
                subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)

    return run


def run_python(block: Block, *, home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.text}\n{done.stderr[-4000:]}"


def test_one_file_then_every_stage_by_hand_on_photos_then_notebook_and_pyfunc(home, run_block):
    for name in ("names", "toml"):
        run_block(blocks()[name])
    assert (home / "labels" / "final" / "manifest.json").is_file()
    kinds = ("*.tar", "*.safetensors", "labels/final/*.parquet")
    made = {path: path.stat().st_mtime_ns for kind in kinds for path in home.rglob(kind)}
    (home / "report.html").unlink()
    run_block(blocks()["photos"])
    assert {path: path.stat().st_mtime_ns for path in made} == made, "the same stages: what they made is kept"
    assert "<html" in (home / "report.html").read_text(encoding="utf-8")
    registered = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db").search_model_versions("name='clothes'")
    assert len(registered) == 1
    for name in ("notebook", "pyfunc"):
        run_python(blocks()[name], home=home)


def test_dror_in_its_own_layout(home, run_block):
    """The drawn world is written in DROR's layout; its archive has a train and a test split."""
    images = home / "DoubleRight" / "CIFAR-10"
    write_dataset(images, set_name="demo-small", num_images={"train": 60, "test": 30}, seed=1)
    (images / "vocabulary.json").rename(home / "cifar10.json")
    run_block(blocks()["dror"])
    evaluation = json.loads((home / "dror" / "evaluation" / "evaluation.json").read_text())
    assert [result["method"] for result in evaluation["results"]] == ["pooled", "pairs"]
    assert [result["num_images"] for result in evaluation["results"]] == [30, 30]


def test_the_demo(home, monkeypatch, capsys):
    """`make demo` in small: a table of four ways to label, a champion in the registry, and a page."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("ECOR_CACHE", str(home / "cache"))
    assert main(["demo", "--num-train", "120", "--num-validation", "60", "--num-test", "60"]) == EXIT_DONE
    shown = capsys.readouterr().out
    beside = ("ECOR, pooled beside DROR pairs: ", "ECOR, pooled beside ECOR, joint: ")
    for told in ("zero-shot CLIP", *beside, "models:/ecor-demo/1", "report.html"):
        assert told in shown
    page = (home / "demo-run" / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and "Where the evidence is" in page


def test_the_loop_on_the_labels_of_the_demo(home, run_block, capsys):
    """`docs/loop.md`: audit, corrections of another tool, learning, what has changed; after the demo, in its folder."""
    assert (home / "demo-run" / "labels" / "manifest.json").is_file(), "run after the demo"
    loop = blocks("docs/loop.md")
    assert list(loop) == ["audit", "export", "judge", "import", "learn", "again"]
    run_block(replace(loop["audit"], text=loop["audit"].text.replace("--right 0.8", "--right 0.6")))  # of 60 labels
    run_block(loop["export"])
    run_python(replace(loop["judge"], text=loop["judge"].text.replace("120", "40")), home=home)
    for name in ("import", "learn", "again"):
        run_block(loop[name])
    shown = capsys.readouterr()
    for told in ("at least 60 % right", "40 decisions of corrections.csv", "learned from", "category changed: "):
        assert told in shown.out + shown.err
    learned = json.loads((home / "demo-run" / "labels-learned" / "learned.json").read_text())
    assert learned
    assert "<html" in (home / "demo-run" / "labels-2-diff" / "diff.html").read_text(encoding="utf-8")


def test_all_blocks_are_tested():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(blocks()) == {"names", "photos", "toml", "dror", "notebook", "pyfunc"}
    assert len(re.findall(r"^```(?:sh|python)$", text, re.M)) == len(blocks())
