"""Shape checks on for every test, and the data that only some machines have."""

import gc
import os
import secrets
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.support.order import duration_rank

gc.set_threshold(50_000, 20, 10)  # as in `pipelines.__main__`

install_import_hook("ecor", "beartype.beartype")
settings.register_profile("ecor", deadline=None)  # a machine that is busy is no fault of the code
settings.load_profile("ecor")

if num_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_workers))

# The processes that tests start (Ray's workers, commands) compile the project once, not each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Every Ray that tests start asks for this token, and every process they start has it, whoever started the fork server.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))

# Nor does any of them report to Ray's makers, which takes an actor more.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # as in `pipelines.__main__`

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only slow tests run, files without any are not imported."""
    if config.option.markexpr != "slow" or collection_path.suffix != ".py":
        return None
    return True if "mark.slow" not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: duration_rank(item.nodeid))  # stable: within a file, and among the others, as found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("shared test data (photos, descriptors) is not on this machine")
    return SHARED_DATA


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not be asked for."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster.connect", None)
    monkeypatch.setattr("pipelines.runtime.local_run._names_cluster", lambda config: config.address is not None)
