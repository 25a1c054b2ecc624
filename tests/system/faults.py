"""Jobs of `ecor` on a cluster of two machines, and blows that hit them at random moments: for tests and `make soak`."""

import contextlib
import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image
from ray.cluster_utils import Cluster

from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import read_prediction_set as read_labels_manifest
from ecor.data.predictions.parts import read_part
from ecor.data.shard_manifest import read_shard_manifest
from pipelines.__main__ import EXIT_DONE, main
from pipelines.config.infrastructure import TrackingConfig
from pipelines.scoring.decoder import decode_unit, images_per_part
from pipelines.scoring.inputs import read_input
from pipelines.scoring.predictions_folder import QUARANTINE_NAME
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.tracking import model_registry
from tests.support.mlflow_databases import new_database
from tests.support.processes import hear_ctrl_c
from tests.support.tiny_models import NAMES, tiny_checkpoint

KINDS = ("worker", "actor", "node", "driver", "terminate", "ctrl-c", "full disk")
BATCH_SIZE = 4
_DISK_MIB = 64
_MISSES = 3
LONG_AGO_S = 1_700_000_000
_AGENTS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


# The cluster


class TwoMachines:
    """A Ray cluster of a head and another machine, one CPU each; the other one dies as often as it is told to."""

    def __init__(self, *, num_gpus: int = 0, head_patience_s: int = 60) -> None:
        """`head_patience_s`: how long whoever is connected tries to reach a head that is gone (Ray's default)."""
        settings = {"gcs_rpc_server_reconnect_timeout_s": head_patience_s}
        head = {"num_cpus": 1, "num_gpus": num_gpus, "include_dashboard": False, "_system_config": settings}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.other = self.cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def workers(self, *, actors: bool) -> list[psutil.Process]:
        """Processes that work for a job: those of actors, or those of tasks."""
        nodes = [self.cluster.head_node, self.other]
        found = [each for node in nodes for each in _descendants(_raylet(node)) if _title(each).startswith("ray::")]
        return [each for each in found if not _title(each).startswith(_AGENTS) and _is_actor(_title(each)) == actors]

    def lose_a_machine(self) -> None:
        """SIGKILL all processes of the machine that is not the head; another one takes its place."""
        raylet = _raylet(self.other)
        _killed([*_descendants(raylet), raylet])
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = self.cluster.add_node(num_cpus=1)

    def lose_the_head(self) -> None:
        """SIGKILL all processes of the head: the cluster is gone, and none takes its place."""
        started = [each.process.pid for kind in self.cluster.head_node.all_processes.values() for each in kind]
        processes = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
        _killed([*(child for each in processes for child in _descendants(each)), *processes])

    def shutdown(self) -> None:
        self.cluster.shutdown()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def _is_actor(title: str) -> bool:
    return any(name in title for name in ("MapWorker", "Actor", "Queue"))


def _picked(processes: Sequence[psutil.Process], share: float) -> list[psutil.Process]:
    """One of them, if there is one."""
    found = sorted(processes, key=lambda each: each.pid)
    return found[int(share * len(found)) :][:1]


def _killed(processes: Sequence[psutil.Process]) -> bool:
    """Whether one of them was still there."""
    num = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            num += 1
    return num > 0


# The jobs


class Job:
    """A command of `ecor` in a process of its own, forked from one that has imported everything that it needs."""

    def __init__(self, words: Sequence[str], *, log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipelines.__main__", "pipelines.stages.shard", "pipelines.stages.score"])
        self.log = log
        self.process = context.Process(target=_run, args=(list(words), str(log)))
        self.process.start()

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def send(self, blow: signal.Signals) -> bool:
        """Whether there was a process to send it to."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, blow)
            return True
        return False

    def ended(self, *, within_s: float) -> int | None:
        """The exit code; None, and the end of it, when it goes on for longer."""
        self.process.join(within_s)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join(20)
        return code


def _run(words: list[str], log: str) -> None:
    hear_ctrl_c()
    with Path(log).open("a") as file:
        print("$ ecor", *words, file=file, flush=True)
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(words))


# What must come out


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a command that said it was done has left, against what a quiet run leaves."""

    num_lost: int
    num_duplicated: int
    others: tuple[str, ...] = ()
    """Files that are not the same, that lack, or that should not be there."""

    def __bool__(self) -> bool:
        return bool(self.num_lost or self.num_duplicated or self.others)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command, and the law that its output is held to."""

    name: str
    words: Callable[[Path], list[str]]
    """The command that writes to a folder."""
    num_commits: Callable[[Path], int]
    """Commit records of units in such a folder."""
    num_units: int
    difference: Callable[[Path], Difference]


def write_world(folder: Path, *, num: int = 40, seed: int = 0) -> Path:
    """Pictures of coloured noise in a folder per category: `num` of each, two copies and a broken one among them.

    They are old: of files written within the last minute shards record no time, so a later run would record more.
    """
    pixels = np.random.default_rng(seed)
    for category in NAMES:
        (folder / category).mkdir(parents=True)
        for number in range(num):
            picture = Image.fromarray(pixels.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            picture.save(folder / category / f"{number}.png")
    first, *_, last = sorted(folder.glob("*/0.png"))
    for copy in (first.with_name("copy.png"), last.with_name("copy.png")):
        copy.write_bytes(first.read_bytes())
    first.with_name("broken.png").write_bytes(first.read_bytes()[:100])
    for path in folder.glob("*/*"):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return folder


def shard_stage(world: Path, *, address: str, quiet: Path, samples_per_shard: int = 4) -> Stage:
    """`ecor shard`; `quiet` is the folder of its undisturbed run, which is there when outputs are looked at."""

    def words(output: Path) -> list[str]:
        return [
            *("shard", "--input", str(world), "--output", str(output), "--max-rejected", "0.1"),
            *("--samples-per-shard", str(samples_per_shard), *_on_cluster(address)),
        ]

    def num_commits(output: Path) -> int:
        return len(list(output.glob("_ledger/*/*~1.json")))

    return Stage(
        name="shard",
        words=words,
        num_commits=num_commits,
        num_units=1 + 3 * len(list(world.glob("*/*.png"))) // 4 // samples_per_shard,
        difference=lambda output: shards_difference(output, quiet=quiet),
    )


def shards_difference(output: Path, *, quiet: Path) -> Difference:
    """Of all bytes that readers use, and of the keys as a plain reader of tars finds them."""
    found, expected = _published(output), _published(quiet)
    keys, expected_keys = _keys_in_tars(output), _keys_in_tars(quiet)
    return Difference(
        num_lost=sum((expected_keys - keys).values()),
        num_duplicated=sum((keys - expected_keys).values()),
        others=tuple(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)),
    )


def _published(output: Path) -> dict[str, bytes]:
    own = ("summary.json", "dataset_card.md")  # times and the name of the folder: no two are alike
    files = [path for path in output.rglob("*") if path.is_file() and path.name not in own]
    named = {str(path.relative_to(output)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith("_ledger/")}


def _keys_in_tars(output: Path) -> Counter[str]:
    keys: Counter[str] = Counter()
    for path in output.glob("*/*.tar"):
        with tarfile.open(path) as tar:
            keys.update(name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json"))
    return keys


def score_stage(shards: Path, *, address: str, folder: Path) -> Stage:
    """`ecor score` of the train split of `shards`, with a tiny model that is made in `folder`."""
    checkpoint = tiny_checkpoint(folder / "run").folder
    tracking = new_database(folder)
    expected = rows_without_a_cluster(shards / "train", checkpoint=checkpoint, tracking=tracking)

    def words(output: Path) -> list[str]:
        return [
            *("score", "--input", str(shards / "train"), "--output", str(output), "--model", checkpoint),
            *("--batch-size", str(BATCH_SIZE), "--precision", "fp32"),  # as the rows that are expected
            *("--tracking.uri", str(tracking.uri), *_on_cluster(address)),
        ]

    def num_commits(output: Path) -> int:
        return len(list(output.glob("_commits/*/*~1.json")))

    return Stage(
        name="score",
        words=words,
        num_commits=num_commits,
        num_units=len(read_shard_manifest(shards / "train").shards),
        difference=lambda output: labels_difference(output, expected=expected),
    )


def labels_difference(output: Path, *, expected: pa.Table) -> Difference:
    """Of all rows, and of the files beside them."""
    predictions = read_labels_manifest(str(output))
    rows = pa.concat_tables([read_part(str(output), part) for part in predictions.parts])
    keys, expected_keys = (Counter(table["key"].to_pylist()) for table in (rows, expected))
    named = {part.name for part in predictions.parts} | {QUARANTINE_NAME}
    strays = sorted({path.name for path in output.glob("*.parquet")} ^ named)
    same = rows.equals(expected.select(rows.column_names))
    return Difference(
        num_lost=sum((expected_keys - keys).values()),
        num_duplicated=sum((keys - expected_keys).values()),
        others=(*strays, *(() if same else ("rows",))),
    )


def rows_without_a_cluster(split: Path, *, checkpoint: str, tracking: TrackingConfig) -> pa.Table:
    """What `ecor score` writes of a split, by its own decoder and scorer in this process."""
    settings = ScorerSettings(
        model=model_registry.resolve_model(checkpoint, tracking=tracking),
        tracking=tracking,
        vocabulary=None,
        scoring=ScoringConfig(),
        text=TextConfig(),
        batch_size=BATCH_SIZE,
        precision="fp32",
        use_gpu=False,
        num_threads=1,
    )
    scorer = Scorer(settings)
    preprocess = scorer.recognizer.backbone.preprocess
    num_images = images_per_part(preprocess, batch_size=BATCH_SIZE)
    units = read_input(str(split), unit_size=1).units
    parts = [part for unit in units for part in decode_unit(unit, preprocess=preprocess, num_images=num_images)]
    return pa.concat_tables([scorer.score(part).rows for part in parts])


def _on_cluster(address: str) -> list[str]:
    return ["--cluster.address", address, "--cluster.no-progress-timeout-s", "150"]


# The blows


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What hits a job, and when: as soon as it has run so long and has committed so many units."""

    kind: str
    after_s: float
    num_commits: int
    pick: float
    """Which of the processes that can be hit: a share of them, in the order of their ids."""

    def sooner(self) -> "Blow":
        """The same in half of the time, after half of the commits."""
        return replace(self, after_s=self.after_s / 2, num_commits=self.num_commits // 2)


def random_blow(kind: str, *, stage: Stage, quiet_s: float, draw: random.Random) -> Blow:
    """Half of them at any moment of an undisturbed run, half while units are being committed."""
    pick = draw.random()
    if draw.random() < 0.5:
        return Blow(kind=kind, after_s=draw.uniform(0, quiet_s), num_commits=0, pick=pick)
    num_commits = draw.randint(1, stage.num_units - 1)
    return Blow(kind=kind, after_s=draw.uniform(0, 0.3), num_commits=num_commits, pick=pick)


class Disk:
    """A folder on a disk of its own that can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> bool:
        """Leave no byte."""
        with self._filler.open("wb", buffering=0) as file:
            for num_bytes in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(num_bytes)) == num_bytes:
                        pass
        return True

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A tmpfs; raises PermissionError where this process may not mount one."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs"]
    if subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode != 0:
        raise PermissionError(errno.EPERM, "a small tmpfs can be mounted by root only")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def struck(blow: Blow, *, job: Job, stage: Stage, output: Path, machines: TwoMachines, disk: Disk | None) -> bool:
    """Wait for the moment, and strike; whether the job was still there to be hit."""
    deeds: dict[str, Callable[[], bool]] = {
        "worker": lambda: _killed(_picked(machines.workers(actors=False), blow.pick)),
        "actor": lambda: _killed(_picked(machines.workers(actors=True), blow.pick)),
        "node": lambda: machines.lose_a_machine() is None,
        "driver": lambda: job.send(signal.SIGKILL),
        "terminate": lambda: job.send(signal.SIGTERM),
        "ctrl-c": lambda: job.send(signal.SIGINT),
        "full disk": lambda: disk is not None and disk.fill(),
    }
    began = time.monotonic()
    while job.is_running:
        is_due = time.monotonic() - began >= blow.after_s and stage.num_commits(output) >= blow.num_commits
        if is_due and deeds[blow.kind]():
            return True
        time.sleep(0.02)
    return False


# Lives


@dataclass(kw_only=True)
class Outcomes:
    """What blows of one kind have done to one stage."""

    kills: int = 0
    reruns: int = 0
    lost: int = 0
    duplicated: int = 0
    undetected: int = 0
    hung: int = 0
    notes: list[str] = field(default_factory=list)
    """Of whatever is not as it must be."""


def live(
    stage: Stage,
    blows: Sequence[Blow],
    *,
    output: Path,
    log: Path,
    machines: TwoMachines,
    disk: Disk | None,
    tally: dict[tuple[str, str], Outcomes],
    patience_s: float = 180.0,
) -> None:
    """Run a command, hit it, run it again, hit it again, and so on, then leave it in peace; and look at what it made.

    A command that is done is looked at, and started anew as long as there are blows. `tally` holds the outcomes by kind
    of blow and stage; what comes of several blows is counted for the last one.
    """
    left, is_begun, num_missed = list(blows), False, 0
    outcomes = tally.setdefault((blows[0].kind, stage.name), Outcomes())
    while left or is_begun:
        blow = left[0] if left else None
        job = Job(stage.words(output), log=log)
        hit = blow is not None and struck(blow, job=job, stage=stage, output=output, machines=machines, disk=disk)
        if blow is not None and hit:
            outcomes = tally.setdefault((blow.kind, stage.name), Outcomes())
            outcomes.kills += 1
        if hit or num_missed == _MISSES:
            left, num_missed = left[1:], 0
        elif blow is not None:  # it came too late
            left[0], num_missed = blow.sooner(), num_missed + 1
        code = job.ended(within_s=patience_s)
        if disk is not None:
            disk.free()
        is_begun = code != EXIT_DONE
        if code is None:
            outcomes.hung += 1
            outcomes.notes.append(f"{stage.name} hung after {blow}: see {log}")
        elif is_begun:
            outcomes.reruns += 1
        else:
            _look(stage, output=output, outcomes=outcomes, told=f"{stage.name} after {list(blows)}, see {log}")
        if is_begun and not hit:
            outcomes.notes.append(f"{stage.name}, not hit, ended with {code}: see {log}")
            return


def _look(stage: Stage, *, output: Path, outcomes: Outcomes, told: str) -> None:
    """Hold what a command that was done has left to what it must be; then remove it."""
    difference = stage.difference(output)
    outcomes.lost += difference.num_lost
    outcomes.duplicated += difference.num_duplicated
    if difference:
        outcomes.undetected += 1
        outcomes.notes.append(f"{told}: {difference}")
    shutil.rmtree(output)
