"""MLflow as a team runs it, for tests: PostgreSQL, and the server as `infra/mlflow` starts it, artifacts in a folder.

All on loopback, with secrets made for the occasion, and ended with the block.
"""

import base64
import importlib.util
import json
import os
import pwd
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.programs import is_hidden

if TYPE_CHECKING:
    from pipelines.tracking.model_versions import ModelVersion

START_S = 300.0
ADMIN = "admin"
START = Path(__file__).resolve().parents[2] / "infra/mlflow/kubernetes/start.sh"


def postgres_programs() -> Path | None:
    """Where `initdb` and `postgres` are; None where there is no PostgreSQL, or nobody but root to run it."""
    if is_hidden("postgresql"):
        return None
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folder = Path(found).resolve().parent if found else next(iter(folders), None)
    return folder if folder is not None and (os.getuid() or _user() is not None) else None


class MlflowServer:
    """A server that can be ended and started again at the same address."""

    def __init__(self, folder: Path, *, database: str) -> None:
        port = free_port()
        self.password = secrets.token_urlsafe(12)
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "mlflow.log"
        self.artifacts = folder / "artifacts"
        self._script = start_script(folder, port=port)
        self._environment = {  # what infra/mlflow gives, and one worker of four, to start sooner
            "MLFLOW_BACKEND_STORE_URI": database,
            "AUTH_DATABASE_URI": f"{database}_auth",
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
            "MLFLOW_ARTIFACTS": str(self.artifacts),
            "MLFLOW_WORKERS": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        around = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**around, "PATH": path, **self._environment}
        command = ["bash", "-c", self._script]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def answer(self, path: str, *, host: str | None = None, data: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and text of what the admin gets, by whatever name of the server's (the Host header)."""
        by = base64.b64encode(f"{ADMIN}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {by}", "Content-Type": "application/json"} | (
            {"Host": host} if host else {}
        )
        body = None if data is None else json.dumps(data).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self) -> None:
        """End it, workers and all."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it ended by itself, which its log tells
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None


def has_exporter() -> bool:
    """Whether there is what `--expose-prometheus` needs; MLflow's own image has it."""
    return importlib.util.find_spec("prometheus_flask_exporter") is not None


def start_script(folder: Path, *, port: int) -> str:
    """infra's own, in another place: a port on loopback, and this folder for the temporary one."""
    script = START.read_text()
    changes = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}", "/tmp/": f"{folder}/"}
    if not has_exporter():
        changes[f" \\\n    --expose-prometheus={folder}/metrics"] = ""
    for there, here in changes.items():
        assert there in script, f"{START} has no {there}"
        script = script.replace(there, here)
    return script


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A server with a database of its own; its log and artifacts are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # not in pytest's folder: each pytest that starts closes that to others, and PostgreSQL is another user
    with tempfile.TemporaryDirectory(prefix="ecor-postgres-") as data, _postgres(Path(data)) as address:
        server = MlflowServer(folder, database=f"{address}/mlflow".replace("://", "+psycopg2://", 1))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def fetch_with_others(
    model: "ModelVersion", uri: str, place: Path, num_processes: int, environment: Mapping[str, str]
) -> None:
    """What an actor does to have its model, at the moment when all of them are there: for a process of its own.

    `environment` has the password: a fork server that other tests have started knows only what they had.
    """
    os.environ.update(environment)
    from pipelines.config.infrastructure import TrackingConfig
    from pipelines.tracking import model_cache, model_versions

    download = model_cache._download

    def counted(*given: Any, **named: Any) -> None:
        with (place / "downloads").open("a") as file:
            file.write("once\n")
        download(*given, **named)

    model_cache._download = counted
    (place / f"{os.getpid()}.ready").touch()
    while len(list(place.glob("*.ready"))) < num_processes:
        time.sleep(0.01)
    folder = model_cache.fetch_model(model, tracking=TrackingConfig(uri=uri), cache_dir=place / "cache")
    (place / f"{os.getpid()}.fetched").write_text(model_versions.read_model_record(folder).model_digest)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A database server that wants its password, with its data in an empty folder; its address."""
    programs, port, password = postgres_programs(), free_port(), secrets.token_urlsafe(12)
    assert programs is not None
    (folder / "password").write_text(password)
    user = _user() if os.getuid() == 0 else None
    if user is not None:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    made = ["--auth=scram-sha-256", "--username=mlflow", f"--pwfile={folder}/password", "--no-sync", "--encoding=UTF8"]
    listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "postgres.log").open("w") as log:
        options = {"cwd": folder, "stdout": log, "stderr": log, "start_new_session": True, **run_as}
        subprocess.run([programs / "initdb", *made, f"--pgdata={folder}/data"], check=True, **options)
        server = subprocess.Popen([programs / "postgres", "-D", f"{folder}/data", "-p", f"{port}", *listen], **options)
    address = f"postgresql://mlflow:{password}@127.0.0.1:{port}"
    try:
        _make_databases(address)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


def _make_databases(address: str) -> None:
    import psycopg2

    deadline = time.monotonic() + START_S
    while True:
        try:
            connection = psycopg2.connect(f"{address}/postgres")
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.2)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in ("mlflow", "mlflow_auth"):
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()


def _user() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as, since it refuses to be root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
