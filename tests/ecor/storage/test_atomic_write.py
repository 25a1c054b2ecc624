"""A file or folder is there whole or not at all, whatever ends the writing; nothing unfinished stays."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ecor.storage.atomic_write import create_file_once, link_or_copy, move_into_place, replace_file, write_folder

NUM_WRITERS = 8


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_is_seen_only_after_the_block(tmp_path):
    path = tmp_path / "deep" / "file"
    for content in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with replace_file(path) as unfinished:
            unfinished.write_text(content)
            assert unfinished.parent == path.parent and unfinished.name.startswith(".")
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_link_is_of_the_file_itself_and_replacing_one_leaves_the_other(tmp_path, monkeypatch, has_links):
    source, symbolic, target = (tmp_path / name for name in ("source", "symbolic", "deep/target"))
    source.write_text("first")
    symbolic.symlink_to(source)
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *given: (_ for _ in ()).throw(OSError("no links on this disk")))
    for _ in range(2):
        link_or_copy(symbolic, target)
        assert target.samefile(source) is has_links and not target.is_symlink()
        assert names(target.parent) == ["target"]
    with replace_file(source) as unfinished:
        unfinished.write_text("second")
    assert target.read_text() == "first"


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(RuntimeError), replace_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and names(tmp_path) == ["file"]


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    path = tmp_path / ("é" * 127)
    with replace_file(path) as unfinished:
        unfinished.write_text("whole")
    assert names(tmp_path) == [path.name]


def test_of_all_that_write_at_once_one_succeeds(tmp_path):
    path, barrier = tmp_path / "file", Barrier(NUM_WRITERS)

    def attempt(number: int) -> bool:
        def write(unfinished: Path) -> None:
            unfinished.write_text(str(number))
            barrier.wait()

        return create_file_once(path, write)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        succeeded = list(pool.map(attempt, range(NUM_WRITERS)))
    assert succeeded.count(True) == 1
    assert path.read_text() == str(succeeded.index(True)) and names(tmp_path) == ["file"]


def test_a_write_that_fails_makes_no_file(tmp_path):
    def write(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        create_file_once(tmp_path / "file", write)
    assert not names(tmp_path)


def test_a_folder_replaces_all_of_the_one_before(tmp_path):
    for name in ("old", "new"):
        with write_folder(tmp_path / "deep" / "folder") as unfinished:
            (unfinished / name).write_text(name)
    assert names(tmp_path / "deep") == ["folder"] and names(tmp_path / "deep" / "folder") == ["new"]


def test_an_error_leaves_the_folder_that_was_there(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), write_folder(target) as unfinished:
        (unfinished / "new").touch()
        raise RuntimeError
    assert names(tmp_path) == ["folder"] and names(target) == ["old"]


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OSError, match="missing"):
        move_into_place(tmp_path / "missing", target)
    assert names(tmp_path) == ["folder"] and names(target) == ["old"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process")
def test_a_killed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    child = os.fork()
    if child == 0:
        with replace_file(path) as unfinished:
            unfinished.write_text("half")
            os._exit(1)
    os.waitpid(child, 0)
    [left] = [name for name in names(tmp_path) if name != "file"]
    assert path.read_text() == "before" and left.startswith(".") and left.endswith(".tmp")
