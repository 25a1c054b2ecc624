"""Whole commands, as a person waits for them: seconds from Enter to the prompt, on a machine that does nothing else.

    python benchmarks/commands.py --photos ../shared/data/photos/clothing --models ecor-demo:embedded ViT-B-32:random

Each command is a process of its own, run `--repeats` times after a first run that is not counted (it fills the page
cache); the median counts. The model is registered in a SQLite database and fetched from it, as on a node that has it
not yet: the cache is deleted before each command that opens the model. The peer is what labels one photo with
open_clip alone: import, load, encode.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient
from scoring import vocabulary_of

from ecor.checkpoint import save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.data.images.image_names import IMAGE_SUFFIXES
from ecor.model import Recognizer

PEER = """
import sys, open_clip, torch
from PIL import Image
model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open(sys.argv[1])).unsqueeze(0))
    text = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a hat", "a shoe"]))
print((image @ text.T).argmax())
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One row of the table."""

    title: str
    arguments: Sequence[str]
    before: Callable[[], None]
    """Puts the folder into the state that the command is to find."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One run of a command."""

    wall_s: float
    cpu_s: float
    """Of the process and of its children that have ended."""


def run_once(arguments: Sequence[str], *, folder: Path) -> Spent:
    before = os.times()
    told = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    after = os.times()
    if told.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {told.returncode}:\n{told.stderr[-2000:]}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(wall_s=after.elapsed - before.elapsed, cpu_s=spent)


def measure(command: Command, *, folder: Path, repeats: int) -> Spent:
    runs = []
    for _ in range(repeats + 1):
        command.before()
        runs.append(run_once(command.arguments, folder=folder))
    counted = runs[1:]
    return Spent(
        wall_s=statistics.median(run.wall_s for run in counted), cpu_s=statistics.median(run.cpu_s for run in counted)
    )


def commands_of(model: str, *, folder: Path, photos: Path) -> list[Command]:
    """Checkpoint, one photo and all photos are in the folder; what is done in one row is kept for those below it."""
    ecor = str(Path(sys.executable).parent / "ecor")
    one, everything = folder / "one", folder / "photos"
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    one.mkdir()
    shutil.copy(files[0], one)
    shutil.copytree(photos, everything)
    save_model(model, categories=sorted({path.parent.name for path in files}), folder=folder / "checkpoint")

    def nothing() -> None:
        pass

    def new(*names: str) -> Callable[[], None]:
        def remove() -> None:
            for name in names:
                path = folder / name
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)

        return remove

    def forget_model() -> None:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").delete_registered_model("clothes")

    register = [ecor, "register", "--checkpoint", "checkpoint", "--name", "clothes"]

    def score(source: Path, output: str) -> list[str]:
        return [ecor, "score", "--input", str(source), "--model", "models:/clothes@candidate", "--output", output]

    return [
        Command(title="`ecor --help`", arguments=[ecor, "--help"], before=nothing),
        Command(title="`ecor register`, new database", arguments=register, before=new("mlflow.db", "mlartifacts")),
        Command(title="`ecor register`", arguments=register, before=forget_model),
        Command(title="`ecor score`, one photo", arguments=score(one, "labels-one"), before=new("labels-one", "cache")),
        Command(title="the same again: finished", arguments=score(one, "labels-one"), before=nothing),
        Command(
            title=f"`ecor score`, {len(files)} photos",
            arguments=score(everything, "labels"),
            before=new("labels", "cache"),
        ),
        Command(title="the same again: finished", arguments=score(everything, "labels"), before=nothing),
        Command(
            title="peer: open_clip alone, ViT-B-32, one photo",
            arguments=[sys.executable, "-c", PEER, str(files[0])],
            before=nothing,
        ),
    ]


def save_model(model: str, *, categories: Sequence[str], folder: Path) -> None:
    name, _, pretrained = model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision="fp32"))
    config = PromptConfig(rationale_tokens=4, category_tokens=4, visual_tokens=0)
    prompts = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(0))
    recognizer = Recognizer(backbone=backbone, prompts=prompts, vocabulary=vocabulary_of(categories))
    save_checkpoint(recognizer, str(folder), with_backbone=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of folders of photos, one per category")
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded", "ViT-B-32:random"])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    load = psutil.getloadavg()[0]
    print(
        f"`python {' '.join(sys.argv)}`, {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, ", end=""
    )
    print(f"torch {torch.__version__}, {date.today()}, load {load:.1f} before the first command\n")
    print("| model | command | s | CPU s |\n|---|---|---:|---:|")
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ECOR_CACHE"] = f"{folder}/cache"
            for command in commands_of(model, folder=Path(folder), photos=given.photos.resolve()):
                spent = measure(command, folder=Path(folder), repeats=given.repeats)
                print(f"| {model} | {command.title} | {spent.wall_s:.1f} | {spent.cpu_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
