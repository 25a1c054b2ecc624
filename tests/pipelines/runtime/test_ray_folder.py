"""A Ray cluster starts where its sockets have room and this user may write, or one line says what to set."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from pipelines.runtime import ray_folder as module
from pipelines.runtime.ray_folder import ray_folder


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_rays_own_choice_stays_where_it_will_do(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.setenv(name, short)
            assert ray_folder() is None
        assert not list(Path(short).iterdir())  # for other users too, so Ray makes it


def test_a_long_folder_is_replaced_by_a_short_one_with_room_for_sockets(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp", suffix="x" * 45) as long:
        monkeypatch.setenv("TMPDIR", long)
        monkeypatch.setattr(tempfile, "tempdir", None)  # it is remembered
        found = ray_folder()
    assert found is not None and found.endswith(f"ray-{os.getuid()}")
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as one:
        longest = f"{short}/{'x' * 200}"[: len(f"{found}{module._WITHIN}")]
        one.bind(longest)  # a path of this length is possible


def test_a_temporary_folder_without_room_for_any_socket_is_refused(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp", suffix="x" * 90) as long:
        monkeypatch.setenv("TMPDIR", long)
        monkeypatch.setattr(tempfile, "tempdir", None)
        with pytest.raises(ValueError, match=r"TMPDIR has \d+ bytes, .* set TMPDIR to a shorter path"):
            ray_folder()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        (Path(short) / "ray").mkdir(mode=0o555)
        monkeypatch.setenv("TMPDIR", short)
        assert str(ray_folder()).endswith(f"ray-{os.getuid()}")


def test_a_file_in_its_place_is_replaced(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        (Path(short) / "ray").touch()
        monkeypatch.setenv("TMPDIR", short)
        assert str(ray_folder()).endswith(f"ray-{os.getuid()}")


def test_what_was_asked_for_is_not_replaced_but_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 25)))
    with pytest.raises(ValueError, match=r"the path of its sockets would have \d+ bytes.*set RAY_TMPDIR"):
        ray_folder()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        (Path(short) / "ray").touch()
        monkeypatch.setenv("RAY_TMPDIR", short)
        with pytest.raises(ValueError, match=f"{short}/ray is a file; set RAY_TMPDIR to a short path"):
            ray_folder()
