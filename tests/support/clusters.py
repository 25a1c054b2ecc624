"""A Ray cluster of several nodes on this machine, started by `ray start` as a person would: for tests of submission."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
_START_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A cluster that runs."""

    dashboard: str
    """Where jobs are submitted to."""
    metrics: tuple[str, ...]
    """Of each node, where Prometheus would scrape."""
    environment: Mapping[str, str]
    """Of whoever submits: address and token."""
    logs: Path

    def ray(self, *words: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        """A `ray` command as the submitter types it, with its output."""
        return subprocess.run(
            [BIN / "ray", *words],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def asked(self, path: str, content: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the dashboard answers about jobs, as `ray job` asks it but without starting a process; posts `content`.

        ValueError with what it says when it refuses.
        """
        request = urllib.request.Request(
            f"{self.dashboard}/api/jobs/{path}",
            data=None if content is None else json.dumps(content).encode(),
            headers={
                "Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from error

    def scraped(self) -> str:
        """What Prometheus would read now of all nodes."""
        pages = []
        for url in self.metrics:
            with urllib.request.urlopen(url, timeout=10) as answer:
                pages.append(answer.read().decode())
        return "\n".join(pages)


@contextmanager
def nodes_started(*, num_cpus: Sequence[int], environment: Mapping[str, str]) -> Iterator[Nodes]:
    """A head and workers with these CPUs, with token authentication; `environment` is what jobs find on the nodes.

    All processes are ended with the block; no other cluster of this machine is touched.
    """
    token = secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="ecor-ray-"))  # a short path: Ray puts sockets below it
    gcs, dashboard, client, *metrics = _free_ports(3 + len(num_cpus))
    around = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    on_nodes = {**around, **environment, **secret, "RAY_metrics_report_interval_ms": "1000"}
    address = f"http://127.0.0.1:{dashboard}"
    head = [
        *("--head", f"--port={gcs}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"),
    ]
    started: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for index, cpus in enumerate(num_cpus):
            role = [f"--address=127.0.0.1:{gcs}"] if index else head
            pages = [*([] if index else [f"{address}/api/version"]), f"http://127.0.0.1:{metrics[index]}/metrics"]
            for is_last in (False, True):  # Ray gives its own processes 30 s to start, whatever else the machine does
                node = _node(role, cpus=cpus, metrics=metrics[index], environment=on_nodes, folder=folder)
                process = stack.enter_context(node)
                if all(_answers(page, process=process, token=token, folder=folder) for page in pages):
                    break
                assert not is_last, f"a node ended while it started\n{_newest_log(folder)}"
                _end(process)
            started.append(process)
        try:
            yield Nodes(
                dashboard=address,
                metrics=tuple(f"http://127.0.0.1:{port}/metrics" for port in metrics),
                environment={**around, **secret, "RAY_ADDRESS": address},
                logs=folder,
            )
        finally:
            for process in started:  # all at once: each takes its time to end
                process.terminate()


@contextmanager
def _node(
    role: Sequence[str], *, cpus: int, metrics: int, environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """One node, in a process group of its own."""
    number = len(list(folder.glob("node-*.log")))
    command = [
        *(str(BIN / "ray"), "start", *role, "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
        *(f"--num-cpus={cpus}", "--num-gpus=0", f"--metrics-export-port={metrics}"),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
    ]
    with (folder / f"node-{number}.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, preexec_fn=_end_with_parent
        )
        try:
            yield process
        finally:
            _end(process)


def _end_with_parent() -> None:
    """`ray start --block` ends all it started on SIGTERM: have one sent when the tests are killed too. Linux only."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to `ray start --block`, which ends what it started; then SIGKILL to what is left of its group."""
    process.terminate()
    try:
        process.wait(timeout=4)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _answers(url: str, *, process: "subprocess.Popen[bytes]", token: str, folder: Path) -> bool:
    """Wait until a page answers; False when the node that serves it has ended."""
    deadline = time.monotonic() + _START_S
    while process.poll() is None:
        try:
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            urllib.request.urlopen(request, timeout=5).close()
            return True
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url} answers {error.code}\n{_newest_log(folder)}") from error
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer\n{_newest_log(folder)}"
            time.sleep(0.3)
    return False


def _newest_log(folder: Path) -> str:
    """The end of what the node that was started last has said."""
    last = max(folder.glob("node-*.log"), key=lambda path: int(path.stem.partition("-")[2]))
    return last.read_text()[-2000:]


def _free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
