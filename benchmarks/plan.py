"""`ecor plan` beside what it plans: ten small pipelines, each planned and then really run, in processes of their own.

    python benchmarks/plan.py --folder /tmp/plans --photos ../shared/data/photos/clothing
    python benchmarks/plan.py --folder /tmp/plans --jobs small text-tokens        (some of them)

Wall-clock seconds are those of the whole command. CPU seconds are of the command and the processes that it has waited
for; a job on Ray has processes that nobody waits for, so its CPU seconds are not compared. Jobs that are in the
folder's `results.jsonl` are not run again.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from ecor.demo.dataset import write_dataset

SMALL = {"train": 300, "validation": 60, "test": 100}
NAMES = {
    "dress": ["a skirt", "straps"],
    "hat": ["a brim", "a round crown"],
    "longsleeve": ["long sleeves", "cuffs"],
    "outwear": ["a zip", "a collar"],
    "pants": ["two long legs", "a waistband"],
    "shirt": ["buttons", "a collar"],
    "shoes": ["laces", "a sole"],
    "shorts": ["two short legs", "a waistband"],
    "skirt": ["a hem", "a waistband"],
    "t-shirt": ["short sleeves", "a round neck"],
}
VIT = {"name": "ViT-B-32", "pretrained": "random"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A pipeline: how its images are made, and its settings."""

    what: str
    make: Callable[[Path, Path | None], None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_ray: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was planned, and what it took."""

    name: str
    what: str
    planned: dict[str, dict[str, float]]
    """`wall_s` and `cpu_s`: value, low, high."""
    plan_wall_s: float
    plan_cpu_s: float
    wall_s: float
    cpu_s: float
    load: float
    """Load average of the machine when the run began."""
    refusals: list[str]
    num_rejected: int
    on_ray: bool


def drawn(sizes: Mapping[str, int] = SMALL, *, px: int | None = None, broken: float = 0.0) -> Callable[..., None]:
    """Drawings, enlarged if asked for; a share of them is cut in half."""

    def make(folder: Path, photos: Path | None) -> None:
        del photos
        write_dataset(folder, set_name="demo-small", num_images=dict(sizes), seed=0)
        files = sorted(path for path in folder.rglob("*.png") if "-masks" not in str(path))
        if px is not None:
            for path in files:
                Image.open(path).convert("RGB").resize((px, px), Image.Resampling.BICUBIC).save(path)
        for path in random.Random(0).sample(files, round(broken * len(files))):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def photographed(most: int | None = None) -> Callable[..., None]:
    """Photos of clothing in a folder per category, with names."""

    def make(folder: Path, photos: Path | None) -> None:
        if photos is None:
            raise SystemExit("name the folder of photos by --photos, or leave these jobs out by --jobs")
        files = sorted(path for path in photos.rglob("*.jpg"))
        for path in random.Random(0).sample(files, min(len(files), most or len(files))):
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        found = {path.name for path in folder.iterdir()}
        (folder / "vocabulary.json").write_text(json.dumps({name: NAMES[name] for name in sorted(found)}))

    return make


def with_more(folder: Path, photos: Path | None) -> None:
    """Drawings to learn from, and two thousand others to label."""
    drawn()(folder, photos)
    write_dataset(folder.parent / "more", set_name="demo-small", num_images={"test": 2000}, seed=1)


JOBS: Mapping[str, Job] = {
    "small": Job(what="460 drawings, 64 px", make=drawn(), settings={"train": {"num_epochs": 2}}),
    "large": Job(
        what="3,000 drawings, 64 px, 3 % of them cut off",
        make=drawn({"train": 2000, "validation": 300, "test": 700}, broken=0.03),
        settings={"train": {"num_epochs": 2}},
    ),
    "text-tokens": Job(
        what="1,500 drawings, text tokens",
        make=drawn({"train": 1000, "validation": 200, "test": 300}),
        settings={
            "train": {
                "num_epochs": 4,
                "prompts": {"visual_tokens": 0, "rationale_tokens": 6, "category_tokens": 6},
            }
        },
    ),
    "large-images": Job(what="460 drawings, 512 px", make=drawn(px=512), settings={"train": {"num_epochs": 2}}),
    "heat-maps": Job(
        what="460 drawings, with heat maps",
        make=drawn(),
        settings={"train": {"num_epochs": 2}, "score": {"explain": "grad_eclip"}},
    ),
    "many-to-label": Job(
        what="460 drawings to learn from, 2,000 others to label",
        make=with_more,
        settings={"train": {"num_epochs": 2}, "score": {"input": "{folder}/more/test"}},
    ),
    "small-batches": Job(
        what="460 drawings, batches of 16",
        make=drawn(),
        settings={"train": {"num_epochs": 3, "batch_size": 16}, "score": {"batch_size": 16}},
    ),
    "photos": Job(what="342 photos", make=photographed(), settings={"train": {"num_epochs": 2}}),
    "photos-vit": Job(
        what="80 photos, ViT-B-32",
        make=photographed(80),
        settings={"train": {"num_epochs": 2, "batch_size": 16, "backbone": VIT}, "score": {"batch_size": 16}},
    ),
    "on-ray": Job(
        what="460 drawings, on Ray",
        make=drawn(),
        settings={"train": {"num_epochs": 2}, "cluster": {"local_images": 0}},
        on_ray=True,
    ),
}


def to_toml(settings: Mapping[str, Any], *, prefix: str = "") -> str:
    """Nested tables as TOML."""
    own = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in own.items()]
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += [f"[{prefix}{name}]", to_toml(value, prefix=f"{prefix}{name}.")]
    return "\n".join(lines)


def timed_command(command: list[str], *, folder: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a command; SystemExit with its last lines where it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "ECOR_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_job(name: str, job: Job, *, root: Path, photos: Path | None) -> Result:
    """Plan a job, and run it."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    job.make(folder / "images", photos)
    settings = json.loads(json.dumps(job.settings).replace("{folder}", str(folder)))
    settings["shard"] = {"input": f"{folder}/images", **settings.get("shard", {})}
    (folder / "pipeline.toml").write_text(to_toml({"output": f"{folder}/out", **settings}))
    ecor = [sys.executable, "-m", "pipelines"]
    plan_wall_s, plan_cpu_s = timed_command([*ecor, "plan", "pipeline.toml", "--output", "plan.json"], folder=folder)
    assert not (folder / "out").exists(), "a plan writes nothing"
    load = os.getloadavg()[0]
    wall_s, cpu_s = timed_command([*ecor, "run", "pipeline.toml"], folder=folder)
    plan = json.loads((folder / "plan.json").read_text())
    shard = json.loads((folder / "out" / "shards" / "summary.json").read_text())
    refusals = [
        f"{each['num_images']['value']:.0f} ({each['num_images']['low']:.0f}–{each['num_images']['high']:.0f})"
        for each in plan["refusals"]
        if each["stage"] == "shard"
    ]
    return Result(
        name=name,
        what=job.what,
        planned=plan["total"],
        plan_wall_s=plan_wall_s,
        plan_cpu_s=plan_cpu_s,
        wall_s=wall_s,
        cpu_s=cpu_s,
        load=load,
        refusals=refusals,
        num_rejected=sum(shard["balance"]["rejected"].values()),
        on_ray=job.on_ray,
    )


def table(results: list[Result]) -> str:
    """As Markdown: planned interval, measured seconds, and how far the plan was off."""
    lines = [
        "| job | CPU s: planned | run | off | wall-clock s: planned | run | off | load | rejected: planned | found |",
        "|---|---|---:|---:|---|---:|---:|---:|---|---:|",
    ]
    for each in results:
        cpu = ["–", "–", "–"] if each.on_ray else _compared(each.planned["cpu_s"], each.cpu_s)
        wall = _compared(each.planned["wall_s"], each.wall_s)
        cells = [each.what, *cpu, *wall, f"{each.load:.0f}", each.refusals[-1], str(each.num_rejected)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(planned: Mapping[str, float], measured: float) -> list[str]:
    return [
        f"{planned['value']:.1f} ({planned['low']:.1f}–{planned['high']:.1f})",
        f"{measured:.1f}",
        f"{planned['value'] / measured - 1:+.0%}",
    ]


def main() -> None:
    """Run the jobs that are asked for, and print the table of all that are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    asked = parser.parse_args()
    root, photos = asked.folder.absolute(), asked.photos and asked.photos.absolute()
    root.mkdir(parents=True, exist_ok=True)
    log = root / "results.jsonl"
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for name in asked.jobs:
        if name not in {each["name"] for each in known}:
            known.append(asdict(run_job(name, JOBS[name], root=root, photos=photos)))
            with log.open("a") as file:
                file.write(json.dumps(known[-1]) + "\n")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {datetime.now(UTC).date()}\n")
    print(table([Result(**each) for each in known]))


if __name__ == "__main__":
    main()
