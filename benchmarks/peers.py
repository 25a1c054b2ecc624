"""`ecor score` beside other projects that run CLIP over a folder of photos: whole commands, on this machine's CPUs.

    uv venv /tmp/daft && uv pip install --python /tmp/daft/bin/python daft torch open_clip_torch
    uv venv /tmp/retrieval && uv pip install --python /tmp/retrieval/bin/python clip-retrieval "setuptools<80"
    python benchmarks/peers.py --photos ../shared/data/photos/clothing --daft /tmp/daft/bin/python \
        --clip-retrieval /tmp/retrieval/bin/python

Every command encodes the same photos with a ViT-B/32 of random weights in batches of 64. It runs on `--num-images`
photos, and on 64 of them; the difference gives the rate, and the second run, about, the start-up. clip-retrieval keeps
features; the program for Daft is written as its guide does, and names a category; ours explains its label. A peer whose
interpreter is not named is left out. NeMo Curator's image modules need a GPU.
"""

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import reduce
from pathlib import Path

import torch
from scoring import Setting, checkpoint_of, prepare

from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig

MODEL, BATCH, FEW = "ViT-B-32", 64, 64
DAFT = """
import sys
import daft, open_clip, torch
folder, weights = sys.argv[1:]

@daft.cls
class BestCategory:
    def __init__(self):
        self.model = open_clip.create_model("ViT-B-32", pretrained=weights).eval()
        texts = open_clip.get_tokenizer("ViT-B-32")([f"a photo of {name}" for name in ("a dress", "a hat", "a shirt")])
        with torch.inference_mode():
            self.texts = torch.nn.functional.normalize(self.model.encode_text(texts), dim=-1)

    @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=64)
    def __call__(self, images):
        pixels = torch.stack([torch.from_numpy(each).permute(2, 0, 1) for each in images.to_pylist()]).float() / 255
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        with torch.inference_mode():
            features = torch.nn.functional.normalize(self.model.encode_image(pixels), dim=-1)
        return (features @ self.texts.T).argmax(dim=-1).tolist()

frame = daft.from_glob_path(folder + "/**/*.jpg")
frame = frame.with_column("image", frame["path"].download().decode_image(mode="RGB").resize(224, 224))
frame = frame.with_column("category", BestCategory()(frame["image"])).select("path", "category")
assert frame.count_rows() == len(list(__import__("pathlib").Path(folder).rglob("*.jpg")))
"""


def copy_photos(photos: Path, *, folder: Path, num_images: int) -> None:
    """Photos, repeated where there are too few, each with a name of its own."""
    files = sorted(photos.rglob("*.jpg"))
    for number in range(num_images):
        path = files[number % len(files)]
        target = folder / path.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a command; SystemExit with its last lines where it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)[:300]}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fill(command: Sequence[str], *, folder: Path, output: Path) -> list[str]:
    """A command with its places."""
    places = {"{folder}": str(folder), "{output}": str(output)}
    return [reduce(lambda text, name: text.replace(name, places[name]), places, word) for word in command]


def commands(asked: argparse.Namespace, *, root: Path, weights: Path, checkpoint: str) -> dict[str, list[str]]:
    """Command of each project; `{folder}` and `{output}` are filled in later."""
    ours = [sys.executable, "-m", "pipelines", "score", "--input", "{folder}", "--output", "{output}"]
    ours += ["--model", checkpoint, "--batch-size", str(BATCH), "--tracking.uri", f"sqlite:///{root}/mlflow.db"]
    found = {
        "ours, bf16 (the default here)": ours,
        "ours, fp32": [*ours, "--precision", "fp32"],
    }
    if asked.clip_retrieval:
        call = "from clip_retrieval.cli import main; main()"
        options = {
            "input_dataset": "{folder}",
            "output_folder": "{output}",
            "clip_model": f"open_clip:{MODEL}/{weights}",
            "batch_size": BATCH,
            "num_prepro_workers": os.cpu_count(),
            "enable_text": False,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        found["clip-retrieval inference"] = [asked.clip_retrieval, "-c", call, "inference", *flags]
    if asked.daft:
        found["Daft, as its guide"] = [asked.daft, "-c", DAFT, "{folder}", str(weights)]
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=704)
    parser.add_argument("--daft", metavar="PYTHON")
    parser.add_argument("--clip-retrieval", metavar="PYTHON")
    asked = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {date.today()}, load {os.getloadavg()[0]:.0f}\n")
    print(
        "| project | images/s | images per CPU s | of 64 photos, whole command, s |\n|---|---:|---:|---:|", flush=True
    )
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        setting = Setting(
            model=f"{MODEL}:random",
            folder=scratch,
            num_images=FEW,
            batch_size=BATCH,
            num_cpus=1,
            num_workers=1,
            precision="fp32",
            fast_jpeg=False,
        )
        prepare(setting, photos=asked.photos)
        weights = root / "weights.pt"
        backbone = load_backbone(BackboneConfig(name=MODEL, pretrained="random", precision="fp32"))
        torch.save(backbone.model.state_dict(), weights)
        for name, number in (("few", FEW), ("many", asked.num_images)):
            copy_photos(asked.photos, folder=root / name, num_images=number)
        for project, command in commands(asked, root=root, weights=weights, checkpoint=checkpoint_of(setting)).items():
            (few_s, few_cpu_s), (many_s, many_cpu_s) = (
                timed(fill(command, folder=root / name, output=root / "output" / project / name))
                for name in ("few", "many")
            )
            number = asked.num_images - FEW
            print(
                f"| {project} | {number / (many_s - few_s):.1f} | {number / (many_cpu_s - few_cpu_s):.1f} "
                f"| {few_s:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
