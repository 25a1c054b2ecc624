"""Nothing that comes with data runs, and no secret is written down: see SECURITY.md.

Covers: `pipelines.tracking.mlflow_client`.
"""

import ast
import hashlib
import io
import json
import os
import pickle
import re
import socket
import tarfile
import tomllib
from pathlib import Path

import pytest
import torch

from ecor.checkpoint import read_checkpoint
from ecor.clip.loading import load_backbone
from ecor.config.address_types import STORES
from ecor.config.checks import parse_record
from ecor.config.model import BackboneConfig
from ecor.data.shard_manifest import MANIFEST_NAME, ShardInfo
from ecor.data.shards import read_shard
from pipelines.__main__ import EXIT_USER_ERROR, main
from pipelines.config.addresses import check_address
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.pipeline_file import read_pipeline
from pipelines.config.reporting import EvaluateConfig, ExplainConfig, ReportConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig, ShardConfig
from pipelines.config.studies import ExplainBenchmarkConfig
from pipelines.config.training import PretrainConfig, TrainConfig
from pipelines.scoring.inputs import read_input
from pipelines.scoring.work_units import ListingUnit, Rejection
from pipelines.stages.explain import run as explain
from pipelines.storage.image_bytes import read_image_bytes
from pipelines.tracking import mlflow_client
from tests.support.tiny_models import TINY_CLIP

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct-horse-battery"
READERS_OF_WEIGHTS = ("torch.load", "load_checkpoint", "open_clip.create_model")
SOURCES = sorted(path for folder in ("ecor", "pipelines") for path in (ROOT / folder).rglob("*.py"))


class Runs:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# Nothing runs


def calls_in(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imports_in(path: Path) -> set[str]:
    """What a file imports, as module.name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


def offences(path: Path) -> list[str]:
    """What could run what a file holds, or a command."""
    unpicklers = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "subprocess", "pty")
    found = [
        f"imports {name}"
        for name in imports_in(path)
        if name.split(".")[0] in unpicklers and name != "pickle.UnpicklingError"
    ]
    for name, call in calls_in(path):
        last = name.rsplit(".", 1)[-1]
        if name in ("eval", "exec", "compile", "os.system", "os.popen") or last in ("read_pickle", "unsafe_load"):
            found.append(name)
        if (
            name in ("torch.load", "load_checkpoint", "open_clip.create_model")
            and keyword(call, "weights_only") != "True"
        ):
            found.append(f"{name} without weights_only")
        if (
            last == "load"
            and name.startswith(("np.", "numpy."))
            and keyword(call, "allow_pickle") not in (None, "False")
        ):
            found.append(f"{name} of pickles")
        if name == "yaml.load" or keyword(call, "shell") == "True":
            found.append(name)
    return found


def test_no_code_unpickles_or_starts_a_command():
    assert len(SOURCES) > 100
    found = {str(path): offences(path) for path in SOURCES}
    assert not {path: each for path, each in found.items() if each}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import os\nos.system('ls')",
        "import pandas as pd\npd.read_pickle('x')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_what_the_search_finds(code, tmp_path):
    (tmp_path / "code.py").write_text(code)
    assert offences(tmp_path / "code.py")


def traps(path: Path) -> list[str]:
    """What Ray Data offers and what loses samples, or hangs, without a word (2.60): read_webdataset goes on in a tar
    where a read failed; its checkpoints know no such reader; tolerated errors drop blocks, and dead actors of a fixed
    pool are then waited for. Ray Train's checkpoint_config is another thing."""
    forbidden = ("read_webdataset", "max_errored_blocks", "checkpoint_config")
    text, found = path.read_text(encoding="utf-8"), []
    if not any(name in text for name in forbidden):
        return []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [node.attr] if isinstance(node, ast.Attribute) else []
        names += [node.id] if isinstance(node, ast.Name) else []
        names += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []  # getattr
        if isinstance(node, ast.Call):
            of_train = ast.unparse(node.func).rsplit(".", 1)[-1] == "RunConfig"
            names += [each.arg for each in node.keywords if each.arg is not None and not of_train]
        found += [name for name in names if name in forbidden]
    return found


def test_no_code_uses_what_loses_samples():
    found = {str(path): traps(path) for path in SOURCES}
    assert not {path: each for path, each in found.items() if each}


@pytest.mark.parametrize(
    "code",
    [
        "import ray\nray.data.read_webdataset('x')",
        "from ray.data import read_webdataset as read",
        "from ray.data import DataContext\nDataContext.get_current().max_errored_blocks = -1",
        "context.checkpoint_config = CheckpointConfig(id_column='key')",
        "DataContext(checkpoint_config=CheckpointConfig())",
        "setattr(context, 'max_errored_blocks', 3)",
    ],
)
def test_what_the_search_for_traps_finds(code, tmp_path):
    (tmp_path / "code.py").write_text(code)
    assert traps(tmp_path / "code.py")
    (tmp_path / "code.py").write_text("RunConfig(checkpoint_config=CheckpointConfig(num_to_keep=2))")
    assert not traps(tmp_path / "code.py")


def test_weights_that_are_a_pickle_do_not_run(tmp_path):
    clip = tmp_path / "clip.json"
    clip.write_text(json.dumps(TINY_CLIP))
    for name, write in (
        ("old.pt", lambda path: path.write_bytes(pickle.dumps(Runs(tmp_path / "ran"), protocol=2))),
        ("new.pt", lambda path: torch.save({"a": Runs(tmp_path / "ran")}, path)),
    ):
        write(tmp_path / name)
        with pytest.raises(ValueError, match=name):
            load_backbone(BackboneConfig(name=str(clip), pretrained=str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_a_pickle_for_tokens_does_not_run(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("checkpoint.json", "tokens.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ValueError, match="checkpoint"):
        read_checkpoint(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["http://169.254.169.254/x.json", "github://a:b@/x.json", "zip::s3://bucket/x.json"])
def test_a_record_that_names_a_backbone_of_no_store_is_refused(place):
    for name in ("name", "pretrained"):
        with pytest.raises(ValueError, match=r":// is not read") as error:
            parse_record(BackboneConfig, {name: place})
        assert "a:b" not in str(error.value)


@pytest.mark.parametrize("extension", ["pkl", "pyd", "pickle", "pth"])
def test_a_tar_with_a_pickled_member_is_refused_unread(extension, tmp_path):
    """webdataset would decode it by its name."""
    data = pickle.dumps(Runs(tmp_path / "ran"))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(f"0000.{extension}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    (tmp_path / "0.tar").write_bytes(file.getvalue())
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    info = ShardInfo(
        name="0.tar",
        num_samples=1,
        num_bytes=len(file.getvalue()),
        sha256=sha256,
        index="0.index.parquet",
        index_sha256="0" * 64,
    )
    with pytest.raises(ValueError, match=r"0\.tar|0\.index"):
        list(read_shard(tmp_path, info))
    assert not (tmp_path / "ran").exists()


COMMANDS = ["pipe:touch ran", "PIPE: touch ran", "|touch ran", " | touch ran", "pipe://touch ran"]
METADATA = "http://169.254.169.254/x"
"""Where clouds tell a machine its credentials."""
NO_STORES = ["ssh://host/x", "sftp://host/x", "hdfs://host/x", "reference://x", "git://x"]
OTHERS = [*NO_STORES, METADATA]


@pytest.mark.parametrize("address", [*COMMANDS, *OTHERS, "simplecache::s3://bucket/x", "zip://x::http://host/y"])
def test_what_is_no_address_of_a_store_is_refused_by_every_setting(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    makers = {
        "input": lambda: ShardConfig(input=address, output="o"),
        "output": lambda: ScoreConfig(input="i", output=address),
        "vocabulary": lambda: ScoreConfig(input="i", output="o", vocabulary=address),
        "shards": lambda: TrainConfig(shards=address, output="o"),
        "checkpoint": lambda: RegisterConfig(checkpoint=address),
        "predictions": lambda: EvaluateConfig(predictions=("p", address), output="o"),
        "evaluation": lambda: ReportConfig(predictions="p", evaluation=address),
        "pipeline": lambda: read_pipeline(address),
        "images": lambda: explain(ExplainConfig(), images=["photo.png", address]),
        "model": lambda: PretrainConfig(output="o", model=address),
        "name|read": lambda: TrainConfig(shards="s", output="o", backbone=BackboneConfig(name=address)),
        "pretrained|read": lambda: TrainConfig(shards="s", output="o", backbone=BackboneConfig(pretrained=address)),
    }
    of_models = [
        lambda: ScoreConfig(input="i", output="o", model=address),
        lambda: PromoteConfig(model=address),
        lambda: ExplainConfig(model=address),
        lambda: ExplainBenchmarkConfig(model=address),
    ]
    for name, make in [*makers.items(), *(("model", make) for make in of_models)]:
        with pytest.raises(ValueError, match=name):
            make()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address", ["photos", "/a/b c", "a:b", "s3://bucket/key@2", "gs://b/x", "s3://b/x::y.png", "memory://x", "./|x"]
)
def test_paths_and_stores_are_taken(address):
    check_address(address, name="input")


@pytest.mark.parametrize("model", ["models:/a@champion", "models:/a/3", "run/checkpoint", "s3://b/run", "ecor-demo"])
def test_models_of_the_registry_of_folders_and_of_stores_are_taken(model):
    assert ScoreConfig(input="i", output="o", model=model).model == ExplainConfig(model=model).model == model


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "photos", "--output"],
        ["explain-benchmark", "--output"],
        ["ablate", "--output"],
        ["ablate", "--work"],
        ["explain-studies", "--output"],
        ["validity", "--weights"],
        ["concepts", "--output"],
        ["demo", "--output"],
    ],
)
def test_a_command_that_writes_to_disks_alone_refuses_a_store(words, tmp_path, monkeypatch, capsys):
    """Rather than to make a folder that is called `s3:`."""
    monkeypatch.chdir(tmp_path)
    assert main([*words, "s3://bucket/folder"]) == EXIT_USER_ERROR
    assert "must be on a disk of this machine, got s3://bucket/folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_that_names_an_address_on_the_web_is_refused_and_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket.socket, "connect", None)
    (tmp_path / "table.jsonl").write_text(json.dumps({"path": METADATA}) + "\n")
    with pytest.raises(ValueError, match=r"169\.254\.169\.254/x is on the web.*only with --allow-http"):
        read_input(str(tmp_path / "table.jsonl"), unit_size=8)
    with pytest.raises(OSError, match=r"allow-http|is not read"):
        read_image_bytes(METADATA)


@pytest.mark.parametrize("address", [*COMMANDS, *NO_STORES])
def test_a_table_that_names_a_command_gets_a_rejection_and_runs_nothing(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.jsonl").write_text(json.dumps({"path": address}) + "\n")
    (unit,) = read_input(str(tmp_path / "table.jsonl"), unit_size=8).units
    assert isinstance(unit, ListingUnit)
    (found,) = unit.read()
    assert isinstance(found, Rejection)
    assert [path.name for path in tmp_path.iterdir()] == ["table.jsonl"]
    if "://" in address:
        with pytest.raises(OSError, match=r"is not read|got a command"):
            read_image_bytes(address)


# No secret is written down


@pytest.mark.parametrize("scheme", STORES)
def test_credentials_in_an_address_are_refused_without_being_told(scheme):
    for address in (f"{scheme}://me:{SECRET}@bucket/x", f"{scheme}://bucket/x?X-Amz-Signature={SECRET}"):
        for names in ({"input": address}, {"input": "i", "model": address}):
            with pytest.raises(ValueError, match="environment") as error:
                ScoreConfig(**names, output="o")
            assert SECRET not in str(error.value)
        with pytest.raises(ValueError, match="environment") as error:
            TrainConfig(shards="s", output="o", backbone=BackboneConfig(name="x.json", pretrained=address))
        assert SECRET not in str(error.value)


def test_settings_of_the_server_do_not_show_it():
    assert SECRET not in repr(TrackingConfig(uri=f"http://me:{SECRET}@host"))


def test_mlflow_is_told_user_and_password_by_its_own_variables(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")
    uri = mlflow_client.extract_credentials(TrackingConfig(uri="http://me:a%40b%3A@host:5000/x"))
    assert uri == "http://host:5000/x"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "a@b:"


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["promote", "--tracking.uri", f"http://me:{SECRET}@127.0.0.1:9/"], {}),
        (["promote"], {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:9/"}),
        (["promote", "--tracking.uri", f"postgresql://me:{SECRET}@127.0.0.1:9/x"], {}),
        (["promote", "--tracking.uri", f"nosuch://me:{SECRET}@127.0.0.1:9/x"], {}),
        (["score", "--input", f"s3://me:{SECRET}@bucket/x", "--output", "o"], {}),
        (["score", "--input", "x", "--output", f"s3://bucket/x?key={SECRET}"], {}),
        (["score", "--input", "x", "--output", "o", "--model", f"s3://me:{SECRET}@bucket/run"], {}),
        (["score", "--input", "x", "--output", "o", "--model", f"http://me:{SECRET}@host/run"], {}),
        (["promote", "--model", f"models:/a?token={SECRET}"], {}),
        (["run", f"s3://me:{SECRET}@bucket/pipeline.toml"], {}),
        (["explain", f"s3://me:{SECRET}@bucket/photo.png"], {}),
        (["report", "--predictions", f"/nowhere/{SECRET}"], {"AWS_SECRET_ACCESS_KEY": SECRET}),
    ],
)
def test_no_command_tells_a_secret(words, environment, tmp_path, monkeypatch, capfd):
    """Not even with the traceback that ECOR_DEBUG adds, nor in a file."""
    monkeypatch.chdir(tmp_path)
    for name, value in (environment | {"ECOR_DEBUG": "1"}).items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == EXIT_USER_ERROR
    shown = "".join(capfd.readouterr())
    assert SECRET not in shown
    assert "ecor" in shown or "***" in shown
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_the_lint_for_security_is_on():
    """ruff's S rules are bandit's; only asserts and random numbers that are no secrets are allowed."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S")} == {"S101", "S311"}
    assert "ruff check" in (ROOT / "Makefile").read_text()
    # S104: addresses that are refused; S108: Ray's own folder below /tmp; S314: document types are refused
    allowed = {"S104", "S108", "S310", "S314", "S704"}
    used = {rule for path in SOURCES for rule in _allowed_in(path)}
    assert used <= allowed, f"security rules switched off: {used - allowed}"


def _allowed_in(path: Path) -> set[str]:
    return set(re.findall(r"noqa: (S\d+)", path.read_text(encoding="utf-8")))


def test_manifests_are_data(tmp_path):
    (tmp_path / MANIFEST_NAME).write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ValueError, match=MANIFEST_NAME):
        read_input(str(tmp_path), unit_size=1)
    assert not (tmp_path / "ran").exists()
