"""Files that systems and file servers add are told apart, and from images."""

import pytest

from ecor.storage.junk_names import is_junk, junk_kind, path_junk_kind


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("resource_forks", ["__MACOSX", "._a.jpg", "._.DS_Store"]),
        (
            "system_files",
            ["Thumbs.db", "THUMBS.DB", "desktop.ini", ".DS_Store", "$RECYCLE.BIN", "Icon\r"],
        ),
        ("system_files", ["lost+found", "a.jpg:Zone.Identifier", ".Trashes", "System Volume Information"]),
        (
            "nas_files",
            ["@eaDir", "#recycle", "@Recycle", ".AppleDouble", "#snapshot", "a.jpg@SynoEAStream"],
        ),
        ("hidden", [".git", ".a.png", ".", ".thumbs"]),
        (None, ["a.png", "Thumbs", "macosx", "eaDir", "a._b", "icon", "", "x.ini"]),
    ],
)
def test_a_name_has_the_kind_of_what_adds_it(kind, names):
    assert {name: junk_kind(name) for name in names} == dict.fromkeys(names, kind)
    assert all(is_junk(name) == (kind is not None) for name in names)


def test_the_topmost_part_of_a_path_decides():
    assert path_junk_kind("__MACOSX/.a/@eaDir/x.png") == "resource_forks"
    assert path_junk_kind("cat/@eaDir/._x.png") == "nas_files"
    assert path_junk_kind("cat/x.png") is None
