"""Drawn scenes in, the ledger's share of a scoring job out: claims, commits, leases, and verification of what is done.

    python benchmarks/ledger.py --num-images 2048 --unit-sizes 64 512 --models ecor-demo:embedded

The job is what `ecor score` does, in one process and without Ray: units are claimed, decoded, scored, written and
committed; then the same command comes again, and verifies all that is done. The seconds of the ledger's own calls, and
of the digests that its records hold, are set against those of the whole job. CPU seconds stand beside wall-clock ones,
because other work hardly changes them. The aim is a share under 2 % at the default unit size, with the smallest tower
that there is. Each choice here makes the share larger than that of `ecor score`: one process without Ray, start-up left
out of the job, and what the job does beside a renewal of the lease is counted as the renewal's.
"""

import argparse
import hashlib
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch

from ecor.checkpoint import save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig, TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.vocabulary import read_vocabulary
from ecor.demo.dataset import write_dataset
from ecor.model import Recognizer
from pipelines.config.infrastructure import TrackingConfig
from pipelines.scoring.decoder import decode_unit, images_per_part
from pipelines.scoring.inputs import read_input
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.scoring.work_units import CommittedUnit
from pipelines.storage.work_ledger import WorkLedger
from pipelines.tracking import model_registry

BATCH_SIZE = 64


@dataclass(kw_only=True)
class Spent:
    """Seconds of the calls of one kind, and how many there were."""

    wall_s: Counter[str] = field(default_factory=Counter)
    cpu_s: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    def counting(self, name: str, deed: Callable[..., Any]) -> Callable[..., Any]:
        """The same deed; what it takes is counted under `name`."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return deed(*args, **kwargs)
            finally:
                self.wall_s[name] += time.perf_counter() - wall
                self.cpu_s[name] += time.process_time() - cpu
                self.calls[name] += 1

        return counted


@contextmanager
def counted() -> Iterator[Spent]:
    """What the ledger's calls take within the block; renewals of the lease happen beside the work, and count too."""
    spent = Spent()
    watched = (
        ("claims", WorkLedger, "claim_all"),
        ("commits", WorkLedger, "commit"),
        ("what is done", WorkLedger, "committed"),
        ("leases", WorkLedger, "renew"),
        ("leases", WorkLedger, "give_back"),
        ("settings", PredictionsFolder, "take"),
        ("losers", PredictionsFolder, "remove_losers"),
        ("verification", PredictionsFolder, "_is_whole"),
    )
    patches = [patch.object(kind, each, spent.counting(name, getattr(kind, each))) for name, kind, each in watched]
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()


def scorer_of(model: str, *, folder: Path, vocabulary: str) -> Scorer:
    name, _, pretrained = model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision="fp32"))
    config = PromptConfig(rationale_tokens=4, category_tokens=4, visual_tokens=0)
    prompts = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(0))
    recognizer = Recognizer(backbone=backbone, prompts=prompts, vocabulary=read_vocabulary(vocabulary))
    checkpoint = folder / name.replace("/", "-") / "checkpoint"
    save_checkpoint(recognizer, checkpoint, with_backbone=True)
    tracking = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db")
    settings = ScorerSettings(
        model=model_registry.resolve_model(str(checkpoint), tracking=tracking),
        tracking=tracking,
        vocabulary=None,
        scoring=ScoringConfig(),
        text=TextConfig(),
        batch_size=BATCH_SIZE,
        precision="fp32",
        use_gpu=False,
        num_threads=1,
    )
    return Scorer(settings)


def job(scorer: Scorer, *, images: Path, output: Path, unit_size: int) -> None:
    """What `ecor score` does with its units, one after another."""
    found = read_input(str(images), unit_size=unit_size)
    preprocess = scorer.recognizer.backbone.preprocess
    num_images = images_per_part(preprocess, batch_size=BATCH_SIZE)
    folder = PredictionsFolder(str(output), identity={"input_digest": found.digest})
    folder.claim_folder()
    with folder.hold_lease():
        committed = folder.read_commits()
        attempts = folder.claim_units([unit.name for unit in found.units if unit.name not in committed])
        for unit in (unit for unit in found.units if unit.name in attempts):
            parts = decode_unit(unit, preprocess=preprocess, num_images=num_images)
            scored = [scorer.score(part) for part in parts]
            rows = pa.concat_tables([part.rows for part in scored])
            rejected = [each for part in scored for each in part.rejected]
            committed[unit.name] = _saved(folder.save(attempts[unit.name], rows=rows, rejected=rejected, parents={}))
        folder.remove_uncommitted(committed)


def _saved(committed: CommittedUnit | None) -> CommittedUnit:
    assert committed is not None, "nobody else works here"
    return committed


def digested(output: Path, *, spent: Spent) -> None:
    """Count the digests of what was committed, which the job had made while it wrote."""
    for path in output.glob("*.parquet"):
        data = path.read_bytes()
        spent.counting("digests", hashlib.sha256)(data)


def row_of(model: str, *, unit_size: int, num_images: int, images: Path, folder: Path) -> tuple[str, str]:
    """Of one model and unit size: what the ledger takes of a job, and of the same job when it comes again."""
    scorer = scorer_of(model, folder=folder, vocabulary=str(images / "vocabulary.json"))
    output = folder / f"{model.replace(':', '-').replace('/', '-')}-{unit_size}"
    lines = []
    for which in ("first", "again"):
        wall, cpu = time.perf_counter(), time.process_time()
        with counted() as spent:
            job(scorer, images=images / "test", output=output, unit_size=unit_size)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if which == "first":
            digested(output, spent=spent)
        ledger_wall, ledger_cpu = spent.wall_s.total(), spent.cpu_s.total()
        told = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in spent.wall_s.most_common())
        shares = f"{ledger_wall / wall:.2%} | {ledger_cpu / cpu:.2%}" if which == "first" else "– | –"
        lines.append(
            f"| {model} | {unit_size} | {-(-num_images // unit_size)} | {which} | {wall:.1f} | {cpu:.1f} | "
            f"{ledger_wall:.2f} | {ledger_cpu:.2f} | {shares} | {told} |"
        )
    return lines[0], lines[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded"])
    parser.add_argument("--num-images", type=int, default=2048)
    parser.add_argument("--unit-sizes", nargs="+", type=int, default=[64, 512])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one thread, {date.today()}\n")
    print("| model | images per unit | units | run | s | CPU s | ledger s | ledger CPU s | share | CPU share | of it |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = folder / "images"
        write_dataset(images, set_name="demo-small", num_images={"test": args.num_images}, seed=0)
        for model in args.models:
            for unit_size in args.unit_sizes:
                both = row_of(model, unit_size=unit_size, num_images=args.num_images, images=images, folder=folder)
                print("\n".join(both), flush=True)


if __name__ == "__main__":
    main()
