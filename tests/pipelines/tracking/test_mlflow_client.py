"""A place that is no database, or a server behind a proxy, is one line before MLflow tries for minutes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.config.infrastructure import TrackingConfig, sqlite_uri
from pipelines.tracking.mlflow_client import make_client


def told(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        make_client(TrackingConfig(uri=sqlite_uri(path)))
    assert len(str(caught.value)) <= 500
    return str(caught.value)


def test_a_folder_or_another_file_is_refusal_of(tmp_path: Path):
    assert "is a folder: name a file in it" in told(tmp_path)
    (tmp_path / "photo?.png").write_bytes(b"\x89PNG")
    assert f"{tmp_path}/photo?.png is no SQLite database" in told(tmp_path / "photo?.png")
    (tmp_path / "notes.txt").write_text("SQLite is not in here")
    assert "is no SQLite database" in told(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "SQLite is not in here"


def test_a_proxy_that_is_asked_is_named_with_the_way_round_it(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = TrackingConfig(uri="http://mlflow.lab:5000")
    with pytest.raises(ValueError, match=r"through the proxy .*set NO_PROXY=mlflow\.lab") as caught:
        make_client(server)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ValueError, match="does not answer") as caught:
        make_client(TrackingConfig(uri="http://127.0.0.1:9"))
    assert "proxy" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what?", "50%25 off"])
def test_a_database_in_a_folder_of_any_name_is_made_there_and_nowhere_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_client(TrackingConfig()).create_experiment("any")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with sqlite3.connect(tmp_path / name / "mlflow.db") as database:
        assert ("any",) in database.execute("select name from experiments").fetchall()


def refusal_of(path: Path) -> str:
    """What a client says of a database that it must not open."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ValueError, match=r"--tracking\.uri sqlite:///<file>") as caught:
        make_client(TrackingConfig(uri=sqlite_uri(path)))
    assert (path.read_bytes() if path.is_file() else None) == before
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_damaged_database_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.commit()
    content = bytearray(path.read_bytes())
    content[100:] = bytes(len(content) - 100)
    path.write_bytes(content)
    assert "is damaged" in refusal_of(path)


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos # 1.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
        connection.commit()
    assert "another program, with the table photos" in refusal_of(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which not even root can make files")
@pytest.mark.parametrize("name", ["mlflow.db", "folder/mlflow.db"])
def test_a_folder_that_may_not_be_written_is_told_at_once(name: str) -> None:
    assert "cannot be opened or made" in refusal_of(Path("/proc") / name)


def test_an_unknown_kind_of_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MLflow does not accept the tracking URI"):
        make_client(TrackingConfig(uri=f"sqlite+nodriver:///{tmp_path}/x.db"))
