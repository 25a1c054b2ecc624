"""A database is found by its path, whatever characters are in it; what is no database address is refused."""

import pwd
from pathlib import Path

import pytest
import sqlalchemy

from ecor.config.model import BackboneConfig
from pipelines.config.infrastructure import (
    PlanConfig,
    Prices,
    TrackingConfig,
    absolute_address,
    parse_prices,
    resolve_tracking,
    sqlite_path,
    sqlite_uri,
    tracking_uri,
)

FOLDERS = ["plain", "what?", "50%25 off", "100%", "%41", "a#b", "a?b%3Fc", "ü ber"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_default_database_lies_in_the_working_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(TrackingConfig())
    assert sqlite_path(uri) == folder / "mlflow.db"
    assert resolve_tracking(TrackingConfig(uri=uri)).uri == uri
    with sqlalchemy.create_engine(uri).connect() as connection:
        connection.execute(sqlalchemy.text("create table some (a int)"))
    assert [path.name for path in tmp_path.iterdir()] == [name] and (folder / "mlflow.db").stat().st_size


def test_a_plain_path_stays_as_it_was():
    assert sqlite_uri("/a b/mlflow.db") == "sqlite:////a b/mlflow.db"
    assert tracking_uri(TrackingConfig(uri="sqlite:////x.db")) == "sqlite:////x.db"
    assert sqlite_path("postgresql://host/db") is None
    asked = tracking_uri(TrackingConfig(uri="sqlite:///runs/x.db?timeout=5"))
    assert asked.endswith("runs/x.db?timeout=5") and sqlite_path(asked) == Path("runs/x.db").absolute()


def test_a_blank_variable_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    expected = tracking_uri(TrackingConfig())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert tracking_uri(TrackingConfig()) == expected


@pytest.mark.parametrize("uri", ["sqlite://mlflow.db", "sqlite:mlflow.db", "sqlite:/mlflow.db", "mlflow.db"])
def test_an_address_with_too_few_slashes_is_refused(uri: str):
    with pytest.raises(ValueError, match=r"is no address of a database: write sqlite:///mlflow\.db"):
        resolve_tracking(TrackingConfig(uri=uri))


def test_a_tilde_that_names_nobody_is_a_name_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of-user")
    assert absolute_address("~snapshot") == str(tmp_path / "~snapshot")
    assert absolute_address("~no-such-user/x") == str(tmp_path / "~no-such-user/x")
    assert absolute_address("~/x") == absolute_address("file://~/x") == "/home/of-user/x"
    (tmp_path / "~snapshot").write_text("{}")
    found = BackboneConfig(name="local-dir:~no-such-user/x", pretrained="~snapshot").with_absolute_paths()
    assert found.name == f"local-dir:{tmp_path}/~no-such-user/x"
    assert found.pretrained == str(tmp_path / "~snapshot")


def test_a_home_folder_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))  # as in a container
    with pytest.raises(ValueError, match="~/x is below the home folder, and none is known: set HOME"):
        absolute_address("~/x")


def test_schemes_are_compared_without_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(TrackingConfig(uri="SQLITE:///x.db")) == f"sqlite:///{tmp_path}/x.db"
    assert tracking_uri(TrackingConfig(uri="HTTP://Server:5000/A")) == "http://Server:5000/A"


def test_prices_are_numbers_per_hour():
    assert parse_prices([]) is None
    assert parse_prices(["2.10/gpu-hour"]) == Prices(gpu_hour=2.1)
    assert parse_prices([".5/gpu-hour", "3/cpu-hour"]) == Prices(gpu_hour=0.5, cpu_hour=3.0)


@pytest.mark.parametrize("text", ["2.10", "-1/gpu-hour", "2,10/gpu-hour", "2/tpu-hour", "2/gpu-day", "/cpu-hour", ""])
def test_a_price_of_another_form_is_refused(text: str):
    with pytest.raises(ValueError, match="price must be a number and /gpu-hour or /cpu-hour"):
        parse_prices([text])


def test_a_plan_needs_a_sample_and_nodes():
    for wrong in ({"num_probes": 3}, {"num_nodes": 0}, {"seed": -1}, {"probe_s": 0.0}, {"output": "ftp://a/b"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PlanConfig(**wrong)
