"""The README's commands do what it says, on a few photos and with random weights where it names a download."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models import TINY_CLIP
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = ("hat", "pants", "shoes", "t-shirt")
NUM_PHOTOS = 8
_BLOCK = re.compile(
    r"<!-- run: (?P<name>[\w-]+)(?:; needs the network: [^>]*)? -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.S
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of the README that says how it is tested."""

    kind: str
    text: str


def blocks() -> dict[str, Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return {found["name"]: Block(kind=found["kind"], text=found["text"]) for found in _BLOCK.finditer(text)}


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


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> dict[str, str]:
    """What stands for the backbones that the README downloads: a tiny CLIP with random weights."""
    path = tmp_path_factory.mktemp("clip") / "tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    return {"name": str(path), "pretrained": "random"}


def run_shell(block: Block, *, home: Path, offline: dict[str, str]) -> None:
    """Run a block of shell commands as written, but for the backbone."""
    text = re.sub(r"(--backbone\.name) \S+", rf"\1 {shlex.quote(offline['name'])}", block.text)
    text = re.sub(r"(--backbone\.pretrained) \S+", rf"\1 {shlex.quote(offline['pretrained'])}", text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ECOR_CACHE": str(home / "cache")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def run_python(block: Block, *, home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.text}\n{done.stderr[-4000:]}"


def test_every_stage_by_hand_on_photos_then_notebook_and_pyfunc(home, offline):
    readme = blocks()
    run_shell(readme["names"], home=home, offline=offline)
    run_shell(readme["photos"], home=home, offline=offline)
    assert "<html" in (home / "report.html").read_text(encoding="utf-8")
    assert (home / "labels" / "all" / "manifest.json").is_file()
    run_python(readme["notebook"], home=home)
    run_python(readme["pyfunc"], home=home)


def test_pipeline_from_one_file(home, offline):
    readme = blocks()
    run_shell(readme["names"], home=home, offline=offline)
    run_shell(readme["toml"], home=home, offline=offline)
    assert "<html" in (home / "pipeline" / "report.html").read_text(encoding="utf-8")


def test_all_blocks_are_known():
    assert set(blocks()) == {"names", "photos", "toml", "dror", "notebook", "pyfunc"}
    shown = re.findall(r"^```(sh|python)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(shown) == len(blocks())
