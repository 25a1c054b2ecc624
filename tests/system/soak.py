"""Blows and damage in, two tables out: nothing lost, nothing twice, nothing undetected, nothing hung.

    python tests/system/soak.py                              # both tables, 100 blows: about 90 minutes on two cores
    python tests/system/soak.py --kills 12 --minutes 10      # fewer blows
    python tests/system/soak.py --kills 0                    # the damage alone: a few minutes, without Ray
    python tests/system/soak.py --seed 7 --no-fuzz           # the same kinds of blows, drawn for the same moments

Blows: `ecor shard` and `ecor score` run on a cluster of two machines, and are hit: a worker's process, an actor's, a
whole machine or the driver is killed, the command is told to end (SIGTERM) or interrupted (Ctrl-C), or its disk fills
up. The same command is run again, and hit again, a few times, then left in peace. What it leaves must then be,
byte for byte or row for row, what an undisturbed run leaves. Damage: see `fuzz.py`.

Ends with exit code 1 where a table holds anything but zeros, or a command failed that was not hit. `--record` writes
the tables to a file.
"""

import argparse
import itertools
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
sys.path.insert(0, os.environ["PYTHONPATH"])  # as Ray's workers have it

from tests.system.faults import (
    KINDS,
    Disk,
    Job,
    Outcomes,
    Stage,
    TwoMachines,
    live,
    random_blow,
    score_stage,
    shard_stage,
    small_disk,
    write_world,
)
from tests.system.fuzz import fuzz_table

_BLOWS_PER_LIFE = 4
_ROWS = ("kills", "reruns", "lost", "duplicated", "undetected", "hung")
_FAULTS = """## Faults

`ecor shard` and `ecor score` run on a cluster of two machines. A fault hits them: a worker's process, an actor, a
machine (node) or the driver is killed, the command gets SIGTERM (terminate) or Ctrl-C, or the disk is full. The same
command runs again and is hit again, a few times; the last run is not hit. Its output must equal that of an undisturbed
run: lost, duplicated, undetected and hung must be 0.

"""
"""Opens the first table."""


def lives(stages: Sequence[Stage], *, kinds: Sequence[str], draw: random.Random) -> Iterator[tuple[Stage, list[str]]]:
    """Without end: a stage, and the kinds of its next blows; every kind hits every stage equally often."""
    kinds_of = {stage.name: itertools.cycle(draw.sample(kinds, len(kinds))) for stage in stages}
    for stage in itertools.cycle(stages):
        yield stage, [next(kinds_of[stage.name]) for _ in range(draw.randint(1, _BLOWS_PER_LIFE))]


def quiet_seconds(stage: Stage, *, output: Path) -> float:
    """How long an undisturbed run takes; it must be right."""
    began = time.monotonic()
    job = Job(stage.words(output), log=output.with_name(output.name + ".log"))
    code = job.ended(within_s=600)
    if code != 0:
        raise SystemExit(f"an undisturbed run of {stage.name} ended with {code}: see {job.log}")
    return time.monotonic() - began


def soak(*, num_kills: int, minutes: float, seed: int, folder: Path) -> dict[tuple[str, str], Outcomes]:
    """Outcomes by kind of blow and stage, of `num_kills` blows or as many as fit into `minutes`."""
    draw = random.Random(seed)
    ends = time.monotonic() + 60 * minutes
    tally: dict[tuple[str, str], Outcomes] = {}
    with ExitStack() as stack:
        machines = TwoMachines()
        stack.callback(machines.shutdown)
        disk, kinds = _disk(stack, folder=folder)
        world, quiet = write_world(folder / "world"), folder / "quiet" / "shards"
        quiet.parent.mkdir()
        sharding = shard_stage(world, address=machines.address, quiet=quiet)
        quiet_s = {"shard": quiet_seconds(sharding, output=quiet)}
        scoring = score_stage(quiet, address=machines.address, folder=folder / "model")
        quiet_s["score"] = quiet_seconds(scoring, output=folder / "quiet" / "labels")
        difference = scoring.difference(folder / "quiet" / "labels")
        if difference:
            raise SystemExit(f"score on a cluster and without one differ: {difference}")
        for number, (stage, names) in enumerate(lives((sharding, scoring), kinds=kinds, draw=draw)):
            num_done = sum(each.kills for each in tally.values())
            if num_done >= num_kills or time.monotonic() > ends:
                break
            blows = [random_blow(kind, stage=stage, quiet_s=quiet_s[stage.name], draw=draw) for kind in names]
            print(f"{num_done} blows; now {stage.name}: {', '.join(names)}", flush=True)
            log, output = folder / f"{number}.log", (disk.folder if disk else folder) / f"{number}"
            live(stage, blows, output=output, log=log, machines=machines, disk=disk, tally=tally)
    return tally


def _disk(stack: ExitStack, *, folder: Path) -> tuple[Disk | None, list[str]]:
    """A small disk, where there can be one, and the kinds of blows that there can be."""
    try:
        return stack.enter_context(small_disk(folder / "disk")), list(KINDS)
    except PermissionError as error:
        print(f"no blows of the kind `full disk`: {error}")
        return None, [kind for kind in KINDS if kind != "full disk"]


def soak_table(tally: dict[tuple[str, str], Outcomes]) -> str:
    """Markdown: a row per kind of blow and stage, and their sums."""
    lines = [f"| fault | stage | {' | '.join(_ROWS)} |", "|---|---|" + "---:|" * len(_ROWS)]
    for (kind, stage), outcomes in sorted(tally.items()):
        lines.append(f"| {kind} | {stage} | {' | '.join(str(getattr(outcomes, name)) for name in _ROWS)} |")
    sums = [sum(getattr(outcomes, name) for outcomes in tally.values()) for name in _ROWS]
    return "\n".join([*lines, f"| all | | {' | '.join(map(str, sums))} |"])


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Image libraries write of each bad byte to stderr, past Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def machine() -> str:
    """Where this runs."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="blows; 0: none, and no cluster")
    parser.add_argument("--minutes", type=float, default=90.0, help="no life of a job begins after that")
    parser.add_argument("--seed", type=int, help="of kinds and moments; by default a new one, which is told")
    parser.add_argument("--images", type=int, default=10_000, help="damaged images")
    parser.add_argument("--tars", type=int, default=1_000, help="damaged tars")
    parser.add_argument("--no-fuzz", action="store_true", help="blows alone")
    parser.add_argument("--folder", type=Path, help="for outputs and logs; by default a new one, which is told")
    parser.add_argument("--record", type=Path, help="Markdown file to write the tables to, such as docs/soak.md")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    folder = args.folder or Path(tempfile.mkdtemp(prefix="ecor-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, in {folder}", flush=True)
    began, texts, is_bad = time.monotonic(), [], False
    if args.kills:
        tally = soak(num_kills=args.kills, minutes=args.minutes, seed=seed, folder=folder)
        notes = [note for outcomes in tally.values() for note in outcomes.notes]
        is_bad = bool(notes) or any(
            each.lost or each.duplicated or each.undetected or each.hung for each in tally.values()
        )
        texts.append(_FAULTS + soak_table(tally) + "".join(f"\n- {note}" for note in notes))
    if not args.no_fuzz:
        with quiet_decoders():
            table, num_undetected = fuzz_table(num_images=args.images, num_tars=args.tars, seed=seed)
        is_bad = is_bad or num_undetected > 0
        texts.append("## Damage\n\n" + table)
    text = "\n\n".join(texts)
    print(f"\n{text}")
    if args.record:
        words = " ".join(["python tests/system/soak.py", *sys.argv[1:]])
        facts = f"`{words}`, seed {seed}, {datetime.now(UTC):%Y-%m-%d}, {(time.monotonic() - began) / 60:.0f} minutes"
        args.record.write_text(f"# Faults and damage\n\n{facts}, {machine()}.\n\n{text}\n")
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
