"""Other processes for tests that hit them: `ecor` as a user starts it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

ROOT = Path(__file__).resolve().parents[2]


def hear_ctrl_c() -> None:
    """A job started in the background by a shell ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def hit(
    words: list[str],
    *,
    blow: signal.Signals,
    when: Callable[[], bool],
    log: Path,
    environment: Mapping[str, str] | None = None,
    patience_s: float = 400,
) -> int:
    """Start `ecor` with these words, strike as soon as `when` holds; its exit code."""
    command = [sys.executable, "-m", "pipelines", *words]
    with log.open("w") as output:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, preexec_fn=hear_ctrl_c)
        try:
            deadline = time.monotonic() + patience_s
            while not when():
                assert job.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.01)
            job.send_signal(blow)
            return job.wait(timeout=60)
        finally:
            job.kill()
            job.wait(timeout=20)


def cpus_held(number: int) -> Any:
    """An actor that has these CPUs, until it is killed."""

    class Holder:  # of this function, so that it travels by value: Ray's workers do not find the tests
        def here(self) -> bool:
            return True

    holder = ray.remote(num_cpus=number)(Holder).remote()
    ray.get(holder.here.remote())
    return holder


def kill_one(name: str, *, when: Callable[[], bool] = lambda: True, patience_s: float = 200) -> int:
    """SIGKILL a process of a cluster that this process has started, as soon as its title holds `name`; its id."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True) if when() else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    process.kill()
                    return process.pid
        time.sleep(0.02)
    raise AssertionError(f"no process {name} in {patience_s} s")


@contextlib.contextmanager
def ctrl_c_at_file(number: int) -> Iterator[None]:
    """Ctrl-C as that file, counted from 0, is written but has not got its name yet (on local disks)."""
    rename, renamed = Path.replace, 0

    def replace(path: Path, target: str | Path) -> Path:
        nonlocal renamed
        if renamed == number:
            raise KeyboardInterrupt
        renamed += 1
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", replace)
        yield
