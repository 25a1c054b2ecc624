"""How the machinery of `ecor score` scales: one to eight simulated nodes, with a sleep in place of the image tower.

    python benchmarks/nodes.py --nodes 1 2 4 8
    python benchmarks/nodes.py --nodes 1 2 --units-per-node 3      (a quick run)

Each node is a raylet of its own with one CPU (`ray.cluster_utils`), all on this machine. A scoring actor sleeps
`--sleep-ms` per image and then makes rows of random features: listing, claims, Ray Data, reading of shards, decoding,
decoding of the probabilities, Parquet files and commits are those of `ecor score`, on units of 512 images of
32 x 32 pixels. The sleep has to be so long that this machine's cores can do the work of all nodes; the table says how
many cores that took.

The steady rate of a job is the sum of those of its scorers. A scorer's rate is that from the end of its first unit to
the end of its last one, so start-up and the end of the job, when some scorers have nothing left, do not count; images/s
of the whole job stand beside it. Efficiency is rate(n) / (n x rate(1)).
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from million import UNIT, CpuAccount, draw_images

from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig, ShardConfig


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A job on so many nodes."""

    num_nodes: int
    num_images: int
    wall_s: float
    """Of the whole job, with its start-up, in a cluster that runs."""
    steady_rate: float
    """Images/s."""
    num_scorers: int
    """That ended more than one unit."""
    steady_s: float
    """From the first end of a unit to the last one."""
    steady_cores: float
    """CPU seconds of all processes in that time, by its seconds."""


class SleepingScorer:
    """A scoring actor whose image tower sleeps; it appends a line per unit to a file."""

    def __init__(self, settings: Any, *, sleep_s: float, log: str) -> None:
        import torch

        from ecor.clip.feature_types import ImageFeatures, unit_features
        from pipelines.scoring.scorer import Scorer

        self.scorer, self.log = Scorer(settings), log
        dim = self.scorer.recognizer.backbone.embed_dim
        generator = torch.Generator().manual_seed(0)

        def sleep(pixels_B3HW: torch.Tensor) -> ImageFeatures:
            time.sleep(sleep_s * len(pixels_B3HW))
            features_BD = unit_features(torch.randn(len(pixels_B3HW), dim, generator=generator))
            return ImageFeatures(rationale=features_BD, category=features_BD)

        self.scorer.recognizer.image_features = sleep

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = self.scorer(rows)
        with open(self.log, "a") as file:  # noqa: PTH123 - appends of a line do not mix
            file.write(json.dumps({"scorer": os.getpid(), "ended": time.time()}) + "\n")
        return found


@contextmanager
def simulated_nodes(number: int) -> Iterator[str]:
    """A cluster of so many nodes of one CPU; yields its address."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        cluster = Cluster()
        try:
            for index in range(number):
                head = {"include_dashboard": False} if index == 0 else {}
                cluster.add_node(num_cpus=1, **head)
            yield cluster.address
        finally:
            cluster.shutdown()


def run_job(root: Path, *, num_nodes: int, sleep_s: float) -> dict[str, float]:
    """Score the shards in this process, on nodes that it starts; returns what only this process knows."""
    import ray

    from pipelines.scoring.flows import cluster_flow
    from pipelines.stages import score

    config = ScoreConfig(input=f"{root}/shards/train", output=f"{root}/labels", model=f"{root}/model")
    tracking = TrackingConfig(uri=f"sqlite:///{root}/mlflow.db")

    class Sleeping(SleepingScorer):
        def __init__(self, settings: Any) -> None:
            super().__init__(settings, sleep_s=sleep_s, log=f"{root}/log.jsonl")

    with simulated_nodes(num_nodes) as address, patch.object(cluster_flow, "ScorerActor", Sleeping):
        began = time.perf_counter()
        found = score.run(config, cluster=ClusterConfig(address=address), tracking=tracking)
        wall_s = time.perf_counter() - began
        ray.shutdown()
    return {"num_images": found.num_rows, "wall_s": wall_s}


def measure(root: Path, *, num_nodes: int, args: argparse.Namespace) -> Scored:
    """A job in a new process."""
    for name in ("labels", "shards", "photos"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "log.jsonl").unlink(missing_ok=True)
    write_shards(root, num_images=UNIT * num_nodes * args.units_per_node)
    account = CpuAccount("nodes")
    words = ["--job", str(num_nodes), "--folder", str(root), "--sleep-ms", str(args.sleep_ms)]
    printed, _ = account.run([sys.executable, __file__, *words])
    ends = defaultdict(list)
    for line in (root / "log.jsonl").read_text().splitlines():
        ends[json.loads(line)["scorer"]].append(json.loads(line)["ended"])
    steady = [sorted(each) for each in ends.values() if len(each) > 1]
    first, last = min(each[0] for each in steady), max(each[-1] for each in steady)
    return Scored(
        num_nodes=num_nodes,
        steady_rate=sum(UNIT * (len(each) - 1) / (each[-1] - each[0]) for each in steady),
        num_scorers=len(steady),
        steady_s=last - first,
        steady_cores=cores_between(account.samples, first=first, last=last),
        **json.loads(printed.splitlines()[-1]),
    )


def write_shards(root: Path, *, num_images: int) -> None:
    """Drawn images in shards of one unit each, written in this process."""
    from pipelines.stages import shard

    draw_images(root / "photos", num_images=num_images)
    config = ShardConfig(input=f"{root}/photos", output=f"{root}/shards", split_shares={"train": 1.0})
    with redirect_stdout(sys.stderr):
        shard.run(config, cluster=ClusterConfig(local_images=10**9))


def cores_between(samples: Sequence[tuple[float, float]], *, first: float, last: float) -> float:
    """CPU seconds per second between two times, from samples of the CPU seconds until then."""
    within = [each for each in samples if first <= each[0] <= last]
    (began, cpu_s), (ended, more_cpu_s) = within[0], within[-1]
    return (more_cpu_s - cpu_s) / (ended - began)


def print_table(found: Sequence[Scored], *, sleep_ms: float) -> None:
    print("| nodes | images | scorers | images/s, steady | efficiency | cores, steady | CPU ms per image "
          "| images/s, whole job |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for each in found:
        efficiency = each.steady_rate / (each.num_nodes * found[0].steady_rate / found[0].num_nodes)
        print(
            f"| {each.num_nodes} | {each.num_images:,} | {each.num_scorers} | {each.steady_rate:,.1f} | "
            f"{efficiency:.3f} | {each.steady_cores:.2f} | {1000 * each.steady_cores / each.steady_rate:.2f} | "
            f"{each.num_images / each.wall_s:,.1f} |"
        )
    print(f"\nThe sleep alone: {1000 / sleep_ms:,.1f} images/s per node. Load: {os.getloadavg()[0]:.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--units-per-node", type=int, default=16)
    parser.add_argument("--sleep-ms", type=float, default=10.0, help="per image, in place of the image tower")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        print(json.dumps(run_job(args.folder, num_nodes=args.job, sleep_s=args.sleep_ms / 1000)))
        return
    print(f"`python {' '.join(sys.argv)}`, {platform.machine()}, {os.cpu_count()} CPUs, {date.today()}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        from since import save_model  # torch: the processes of the jobs do without

        save_model(Path(scratch), model="tiny:random")
        found = []
        for num_nodes in sorted(args.nodes):
            found.append(measure(Path(scratch), num_nodes=num_nodes, args=args))
            print(asdict(found[-1]), file=sys.stderr, flush=True)
        print_table(found, sleep_ms=args.sleep_ms)


if __name__ == "__main__":
    main()
