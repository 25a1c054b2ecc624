"""A listing is complete, or an error: fsspec's own walk omits what it cannot read."""

import contextlib
import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from ecor.storage import filesystem
from ecor.storage.folder_walk import FileFacts, walk_files


def never(name: str) -> bool:
    return False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, size in (("a.png", 3), ("b/c.png", 5), ("b/d/e.png", 7), ("@eaDir/f.png", 9)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path / "in"


class FailingScan:
    """`os.scandir`, with an error for one folder."""

    def __init__(self, folder: Path, code: int) -> None:
        self.folder, self.code, self.scan = str(folder), code, os.scandir

    def __call__(self, folder: Any) -> Any:
        if os.fspath(folder) == self.folder:
            raise OSError(self.code, os.strerror(self.code), self.folder)
        return self.scan(folder)


def test_all_files_are_listed_with_their_sizes(tree: Path):
    assert filesystem.files_below(tree) == {"@eaDir/f.png": 9, "a.png": 3, "b/c.png": 5, "b/d/e.png": 7}
    assert filesystem.files_below(tree / "none") == {}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("within", ["b", "b/d"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    tree: Path, code: int, within: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "scandir", FailingScan(tree / within, code))
    with pytest.raises(OSError) as caught:
        filesystem.files_below(tree)
    assert caught.value.errno == code and str(tree / within) in str(caught.value)
    assert isinstance(caught.value, PermissionError) == (code == errno.EACCES)


def test_a_folder_that_nobody_misses_may_fail(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "scandir", FailingScan(tree / "@eaDir", errno.EACCES))
    assert list(filesystem.files_below(tree, may_fail=lambda name: name == "@eaDir")) == [
        "a.png",
        "b/c.png",
        "b/d/e.png",
    ]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_real_folder_of_another_user(tree: Path):
    (tree / "b" / "d").chmod(0)
    try:
        with pytest.raises(PermissionError, match="b/d"):
            filesystem.files_below(tree)
    finally:
        (tree / "b" / "d").chmod(0o755)


def test_links_to_folders_are_files_unless_they_are_followed(tree: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g.png").write_bytes(bytes(11))
    (tree / "link").symlink_to(tmp_path / "other")
    (tree / "b" / "up").symlink_to(tree)  # it would never end
    (tree / "gone").symlink_to(tmp_path / "nowhere")
    plain = filesystem.files_below(tree)
    assert {"link", "b/up", "gone"} < set(plain) and "link/g.png" not in plain and plain["gone"] == 0
    followed = filesystem.files_below(tree, follow_links=True)
    assert followed["link/g.png"] == 11 and "link" not in followed
    assert [name for name in followed if name.startswith("b/up")] == ["b/up"]
    assert [entry.name for entry in filesystem.list_folder(tree) if entry.is_linked_folder] == ["link"]
    assert next(each for each in filesystem.list_folder(tree, follow_links=True) if each.name == "link").is_folder


def test_what_is_removed_while_it_is_listed_is_no_error(tree: Path, monkeypatch: pytest.MonkeyPatch):
    scan = os.scandir

    def removing_scan(folder: Any) -> Any:
        found = scan(folder)
        if str(folder) == str(tree / "b"):
            entries = sorted(found, key=lambda entry: entry.name)
            (tree / "b" / "c.png").unlink()
            shutil.rmtree(tree / "b" / "d")
            return contextlib.nullcontext(entries)
        return found

    monkeypatch.setattr(os, "scandir", removing_scan)
    assert list(filesystem.files_below(tree)) == ["@eaDir/f.png", "a.png"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_listed_folder_that_cannot_be_looked_at_is_not_empty(tree: Path, code: int, monkeypatch: pytest.MonkeyPatch):
    def failing_stat(path: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr(os, "stat", failing_stat)
    with pytest.raises(OSError) as caught:
        list(walk_files(LocalFileSystem(), str(tree), may_fail=never))
    assert caught.value.errno == code


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tree: Path):
    (tree / "loop").symlink_to(tree / "loop")
    assert filesystem.files_below(tree, follow_links=True)["loop"] == 0
    assert "loop" in [entry.name for entry in filesystem.list_folder(tree)]


class GeneralStore(AbstractFileSystem):
    """A store of fsspec's general kind, one folder of which cannot be listed."""

    cachable = False
    folders: ClassVar = {
        "/walk": [("a.png", "file"), ("b", "directory")],
        "/walk/sound": [("d.png", "file")],
    }

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = path.rstrip("/")
        if path == "/walk/b":
            raise OSError(errno.EIO, "the store fails")
        if path not in self.folders:
            raise FileNotFoundError(path)
        found = [{"name": f"{path}/{name}", "type": kind, "size": 3} for name, kind in self.folders[path]]
        return found if detail else [each["name"] for each in found]


def test_a_general_store_does_not_omit_a_folder_either():
    store = GeneralStore()
    assert store.find("/walk") == ["/walk/a.png"]  # what fsspec does by itself
    with pytest.raises(OSError, match="the store fails"):
        list(walk_files(store, "/walk", may_fail=never))
    assert list(walk_files(store, "/walk/sound", may_fail=never)) == [("d.png", FileFacts(3, None))]
    assert list(walk_files(store, "/none", may_fail=never)) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"LastModified": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, 1_767_323_045 * 10**9),
        ({"updated": "2026-01-02T03:04:05.250Z", "mtime": datetime(2001, 1, 1, tzinfo=UTC)}, 1_767_323_045_250 * 10**6),
        ({"last_modified": datetime(2026, 1, 2, 3, 4, 5)}, 1_767_323_045 * 10**9),
        ({"mtime": 12.5}, 12_500_000_000),
        ({"updated": "yesterday"}, None),
        ({"created": 5}, None),
    ],
)
def test_a_listing_has_the_time_of_the_last_write_where_the_store_lists_it(fields: dict, expected: int | None):
    class Store(GeneralStore):
        def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
            return [each | fields for each in super().ls(path, **options)]

    assert list(walk_files(Store(), "/walk/sound", may_fail=never)) == [("d.png", FileFacts(3, expected))]


def test_files_on_disk_have_the_time_of_their_last_write(tree: Path):
    os.utime(tree / "a.png", ns=(0, 123_456_789_012_345_678))
    (tree / "nowhere.png").symlink_to(tree / "gone.png")
    found = filesystem.file_facts_below(tree)
    assert found["a.png"] == FileFacts(3, 123_456_789_012_345_678)
    assert found["nowhere.png"] == FileFacts(0, None)
    assert {name: facts.num_bytes for name, facts in found.items()} == filesystem.files_below(tree)
