"""Labels from kept features against labels from images: seconds per image, memory, and how far the labels differ.

    python benchmarks/features.py --speed 320 --model ViT-B-32:random
    python benchmarks/features.py --equality 1000
    python benchmarks/features.py --memory 8192 131072

One process does what the reading, scoring and writing actors of `ecor score` do, with their code on the same folders;
each row of a table is a new process. Models and text features are opened before the clock starts, and told apart.
Images are drawings; for the row of memory, features are drawn too.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.image_features import features_table
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from ecor.data.predictions.parts import read_predictions
from ecor.data.predictions.schema import origins_table
from ecor.demo.dataset import write_dataset
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.actor_resources import reserve_resources
from pipelines.scoring.flows.flow_settings import make_reader, make_scorer_settings
from pipelines.scoring.job import ScoreJob, plan_job
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import KeptRows
from pipelines.scoring.scorer import Scorer
from pipelines.scoring.unit_writer import PartReport, UnitWriter
from pipelines.scoring.work_units import CommittedUnit, unit_to_json
from pipelines.storage.kept_features import read_kept_features

FIRST, SECOND = "demo-small", "demo-new-names"
"""Drawn sets whose names are the first and the second vocabulary where time is measured."""
COMPARED = ("demo-main", "demo-large")
"""Drawn sets whose names are the vocabularies where labels are compared; the images are of the first."""
UNIT = 512
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One job."""

    num_rows: int
    opening_s: float
    """Loading the model and encoding its sentences."""
    wall_s: float
    """Reading, scoring, writing and committing all units."""
    cpu_s: float
    start_mib: float
    """Memory of the process when the first unit is read."""
    peak_mib: float


def run_job(config: ScoreConfig) -> Measured:
    """All units of a job in this process; the folder is published as `ecor score` does it."""
    job = plan_job(config, cluster=ClusterConfig(), tracking=TrackingConfig())
    reservation = reserve_resources(config, machines=[{"CPU": 1.0}])  # one thread: others may use the machine
    folder = PredictionsFolder(config.output, identity=job.identity, keep_features=config.keep_features)
    folder.claim_folder()
    reader, settings = make_reader(job)
    read, write, began = reader(**settings), UnitWriter(folder, parents=job.digests), time.perf_counter()
    score = Scorer(make_scorer_settings(job, reservation=reservation))
    opening_s, start_mib, began, spent = time.perf_counter() - began, peak_mib(), time.perf_counter(), cpu_s()
    with folder.hold_lease():
        attempts = folder.claim_units([unit.name for unit in job.input.units])
        for unit in job.input.units:
            row = pa.table({"unit": [unit_to_json(unit)], "attempt": [attempts[unit.name].to_json()]})
            for part in read(row):
                PartReport.from_rows(write(score(part)))
        wall_s, spent = time.perf_counter() - began, cpu_s() - spent
        num_rows = publish(job, folder=folder).num_rows
    return Measured(
        num_rows=num_rows, opening_s=opening_s, wall_s=wall_s, cpu_s=spent, start_mib=start_mib, peak_mib=peak_mib()
    )


def publish(job: ScoreJob, *, folder: PredictionsFolder) -> PredictionSet:
    committed: Mapping[str, CommittedUnit] = folder.read_commits()
    units = [committed[unit.name] for unit in job.input.units]
    found = PredictionSet(parts=tuple(each.part for each in units), parents=job.parents, scoring=job.config.scoring)
    features = job.feature_set([each.features for each in units], labels_digest=found.digest)
    folder.publish(found, features=features)
    return found


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def prepare(root: Path, *, num_images: int, model: str, images: str = FIRST) -> ScoreConfig:
    """Drawings, a model without learned tokens, and the settings of its job, which keeps features."""
    write_dataset(root / "images", set_name=images, num_images={"test": num_images}, seed=0)
    (root / "second.json").write_text(json.dumps(set_vocabulary(SECOND)))
    name, _, pretrained = model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained))
    save_checkpoint(Recognizer.zero_shot(set_vocabulary(FIRST), backbone=backbone), root / "model")
    return ScoreConfig(
        input=f"{root}/images/test", output=f"{root}/first", model=f"{root}/model", keep_features=True, unit_size=UNIT
    )


def second_of(first: ScoreConfig, *, output: str) -> ScoreConfig:
    """The second vocabulary, from the features of the first job."""
    folder = Path(first.output).parent
    return replace(
        first,
        input=None,
        features=first.output,
        keep_features=False,
        vocabulary=f"{folder}/second.json",
        output=f"{folder}/{output}",
    )


def measure_speed(root: Path, *, num_images: int, model: str) -> None:
    first = prepare(root, num_images=num_images, model=model)
    second = second_of(first, output="second")
    rows = {"first vocabulary, features kept": first, "second vocabulary, from features": second}
    found = {name: run_apart(config) for name, config in rows.items()}
    print(f"| {model}, {num_images} images | ms per image | CPU ms per image | opening s | peak MiB |")
    print("|---|---:|---:|---:|---:|")
    for name, each in found.items():
        wall_ms, cpu_ms = (1000 * value / each.num_rows for value in (each.wall_s, each.cpu_s))
        print(f"| {name} | {wall_ms:.2f} | {cpu_ms:.2f} | {each.opening_s:.1f} | {each.peak_mib:.0f} |")
    first_run, last = found.values()
    print(
        f"\nfrom features {first_run.cpu_s / last.cpu_s:.0f} times less CPU time than the first job, "
        f"{first_run.wall_s / last.wall_s:.0f} times faster; features "
        f"{read_kept_features(first.output).features.num_bytes / num_images:.0f} bytes per image"
    )


def measure_equality(root: Path, *, num_images: int, model: str) -> None:
    first = prepare(root, num_images=num_images, model=model, images=COMPARED[0])
    first = replace(first, scoring=ScoringConfig(ood_score=True))
    run_apart(first)
    print(
        "| vocabulary | images | equal best pairs | equal categories | confidence: largest change | mean | OOD score |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in COMPARED:
        (root / "second.json").write_text(json.dumps(set_vocabulary(name)))
        found = second_of(first, output=f"features-{name}")
        full = replace(found, input=first.input, features=None, output=f"{root}/full-{name}")
        tables = []
        for config in (full, found):
            run_apart(config)
            tables.append(read_predictions(config.output).to_pandas())
        theirs, ours = tables
        assert list(theirs["key"]) == list(ours["key"])
        categories = ours["category"] == theirs["category"]
        pairs = categories & (ours["rationale"] == theirs["rationale"])
        change = (ours["confidence"] - theirs["confidence"]).abs()
        ood = (ours["ood_score"] - theirs["ood_score"]).abs().max()
        print(
            f"| {name} | {len(ours):,} | {pairs.sum():,} ({100 * pairs.mean():.2f} %) | {categories.sum():,} "
            f"| {change.max():.1e} | {change.mean():.1e} | {ood:.1e} |",
            flush=True,
        )


def measure_memory(root: Path, *, sizes: list[int], model: str) -> None:
    first = prepare(root, num_images=8, model=model)
    run_apart(first)
    print("| kept features | ms per image | CPU ms per image | MiB before the first unit | peak MiB |")
    print("|---:|---:|---:|---:|---:|")
    for num_rows in sizes:
        place = f"{root}/drawn-{num_rows}"
        draw_features(replace(first, output=place), num_rows=num_rows)
        found = run_apart(replace(second_of(first, output=f"second-{num_rows}"), features=place))
        assert found.num_rows == num_rows
        wall_ms, cpu_ms = (1000 * value / num_rows for value in (found.wall_s, found.cpu_s))
        print(
            f"| {num_rows:,} | {wall_ms:.2f} | {cpu_ms:.2f} | {found.start_mib:.0f} | {found.peak_mib:.0f} |",
            flush=True,
        )


def draw_features(config: ScoreConfig, *, num_rows: int) -> None:
    """A folder of labels as a job of so many images leaves it, with features at random."""
    job = plan_job(config, cluster=ClusterConfig(), tracking=TrackingConfig())
    assert job.image_side is not None
    folder = PredictionsFolder(config.output, identity=job.identity, keep_features=True)
    recognizer = load(str(config.model))
    parts, features = [], []
    with folder.hold_lease():
        for number, keys in enumerate(_runs(num_rows)):
            rationale = torch.nn.functional.normalize(
                torch.randn(len(keys), recognizer.backbone.embed_dim, generator=torch.Generator().manual_seed(number))
            )
            table = features_table(keys, rationale=rationale.half().numpy().astype(np.float16), category=None)
            rows = _rows_like(read_predictions(f"{Path(config.output).parent}/first"), keys=keys)
            attempt = folder.claim_units([f"{number:06d}"])[f"{number:06d}"]
            kept = KeptRows(table=table, image_side=job.image_side)
            saved = folder.save(attempt, rows=rows, rejected=(), parents=job.digests, features=kept)
            assert saved is not None and saved.features is not None
            parts.append(saved.part)
            features.append(saved.features)
    found = PredictionSet(parts=tuple(parts), parents=job.parents, scoring=job.config.scoring)
    folder.publish(found, features=job.feature_set(features, labels_digest=found.digest))
    assert read_prediction_set(config.output).num_rows == num_rows


def _runs(num_rows: int) -> Iterator[list[str]]:
    for start in range(0, num_rows, UNIT):
        yield [f"k{number:09d}" for number in range(start, min(start + UNIT, num_rows))]


def _rows_like(table: pa.Table, *, keys: list[str]) -> pa.Table:
    """Rows with other keys, again and again."""
    rows = table.take([number % table.num_rows for number in range(len(keys))])
    origins = origins_table(keys)
    for name in ("key", "source"):
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(name), origins[name])
    return rows


def run_apart(config: ScoreConfig) -> Measured:
    """A job in a new process."""
    given = json.dumps(asdict(config))
    done = subprocess.run(
        [sys.executable, __file__, "--job", given], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _config_from(text: str) -> ScoreConfig:
    values = json.loads(text)
    scoring = ScoringConfig(**values.pop("scoring"))
    del values["text"]
    return ScoreConfig(**{**values, "scoring": scoring, "explain_settings": ()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=int, metavar="IMAGES")
    parser.add_argument("--equality", type=int, metavar="IMAGES")
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES")
    parser.add_argument("--model", default="ecor-demo:embedded", help="name and weights, such as ViT-B-32:random")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(asdict(run_job(_config_from(given.job)))))
        return
    print(f"`python {' '.join(sys.argv)}`, {platform.machine()}, {os.cpu_count()} CPUs, ", end="")
    print(f"torch {torch.__version__}, {date.today()}, load {os.getloadavg()[0]:.0f}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.speed:
            measure_speed(Path(folder), num_images=given.speed, model=given.model)
        elif given.equality:
            measure_equality(Path(folder), num_images=given.equality, model=given.model)
        elif given.memory:
            measure_memory(Path(folder), sizes=given.memory, model=given.model)


if __name__ == "__main__":
    main()
