"""Folders as people have them: splits are known by any common name, and what is not clear is asked."""

import errno
import os
from pathlib import Path

import pytest

from ecor.data.split_names import split_of
from pipelines.config.stages import ShardConfig
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.listing import list_images
from pipelines.sharding.sources.source_places import Source
from pipelines.storage.image_bytes import is_within, path_within


def source_of(root: Path, *files: str, **settings) -> Source:
    """The layout of a folder with these (empty) files."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return find_source(ShardConfig(input=str(root), output=str(root.parent / "shards"), **settings))


def found(source: Source) -> dict[str, str | None]:
    return {place.path: place.split for place in source.places}


@pytest.mark.parametrize(
    "folders",
    [
        ("Train", "Test"),
        ("train2017", "val2017"),
        ("train", "test", "unlabeled"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train_data", "val_data", "test_data"),
        ("train", "dev"),
        ("train", "eval"),
    ],
)
def test_splits_by_other_names_are_no_categories(tmp_path: Path, folders: tuple[str, ...]):
    source = source_of(tmp_path / "in", *(f"{folder}/hat/a.png" for folder in folders))
    expected = {f"{folder}/hat": split_of(folder) for folder in folders if split_of(folder)}
    assert found(source) == expected and source.layout == "folders"
    assert source.ignored_folders == tuple(folder for folder in folders if split_of(folder) is None)


def test_folders_of_systems_are_no_categories_and_files_beside_folders_are_counted(tmp_path: Path):
    junk = (
        "__MACOSX/train/hat/._a.png",
        "@eaDir/a.png",
        "#recycle/b.png",
        "Thumbs.db",
        "desktop.ini",
        ".git/x",
        "Icon\r",
        "#snapshot/monday/hat/a.png",
        "~snapshot/hourly.0/hat/a.png",
        "@Recycle/c.png",
        "train/hat/@__thumb/a.png",
        "train/hat/a.png:Zone.Identifier",
    )
    source = source_of(tmp_path / "in", *junk, "train/hat/a.png", "test/hat/b.png", "loose.png", "README.txt")
    assert found(source) == {"train/hat": "train", "test/hat": "test"}
    assert source.num_ignored == 2
    assert source.describe() == (
        "layout folders: 1 categories, splits test, train; left out: 2 files beside the folders (--layout and "
        "--no-split-folders overrule this)"
    )
    assert source.junk == {"system_files": 3}
    kinds = {place.path: place.left_out for place in source.left_out_places}
    assert (kinds["@eaDir"], kinds[".git"], kinds["__MACOSX"]) == ("nas_files", "hidden", "resource_forks")


def test_what_is_left_out_may_be_unreadable_and_has_no_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such as `lost+found` of a disk; a category must be read."""
    source = source_of(tmp_path / "in", "train/hat/a.png", "test/hat/b.png", ".cache/x", "unlabeled/c.png")
    (tmp_path / "in" / "truth.jsonl").write_text('{"image": "of another tool"}')
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name in ("unlabeled", "test"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    listed = [row for place in source.left_out_places for table in list_images(place) for row in table.to_pylist()]
    assert [(row["source"], row["left_out"]) for row in listed] == [(".cache/x", "hidden")]
    monkeypatch.setattr(os, "scandir", lambda folder: refuse("test") if "test" in str(folder) else scan(folder))
    with pytest.raises(PermissionError):
        [list(list_images(place)) for place in source.places]


def test_a_category_may_be_called_train(tmp_path: Path):
    source = source_of(tmp_path / "in", "train/a.png", "ship/b.png")
    assert found(source) == {"train": None, "ship": None}
    assert source.describe().startswith("layout folders: 2 categories, no splits (")


def test_splits_beside_other_folders_are_asked_for(tmp_path: Path):
    files = ("train/hat/a.png", "test/hat/b.png", "extra/hat/c.png")
    with pytest.raises(ValueError, match=r"splits test, train, and beside them extra: .*--no-split-folders"):
        source_of(tmp_path / "in", *files)
    source = source_of(tmp_path / "in", *files, split_folders=False)
    assert found(source) == {"train": None, "test": None, "extra": None}


@pytest.mark.parametrize("files", [("train/hat/a.png", "labels/a.txt"), ("trainA/a.png", "testA/b.png")])
def test_folders_of_which_some_may_be_splits_are_asked_for(tmp_path: Path, files: tuple[str, ...]):
    with pytest.raises(ValueError, match=r"splits.*(labels|trainA).*--no-split-folders"):
        source_of(tmp_path / "in", *files)
    source = source_of(tmp_path / "in", *files, split_folders=False)
    assert found(source) == {file.partition("/")[0]: None for file in files}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("dataset/train/hat/a.png", "dataset/test/hat/b.png"),
            "folder dataset holds the splits .*: pass dataset alone",
        ),
        (("images/train/a.png", "images/val/b.png", "labels/train/a.txt"), "folder images holds the splits"),
        (("hat/train/a.png", "hat/test/b.png", "shoe/train/c.png"), "folder hat holds the splits"),
        (("bottle/train/good/a.png", "bottle/test/broken/b.png"), "folder bottle holds the splits"),
        (
            ("train/train/hat/a.png", "test/test/hat/b.png"),
            "split test holds test in place of categories: .*one level up",
        ),
    ],
)
def test_splits_below_the_top_are_asked_for(tmp_path: Path, files: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=f"{message}.*--no-split-folders"):
        source_of(tmp_path / "in", *files)
    source = source_of(tmp_path / "in", *files, split_folders=False, layout="folders")
    assert set(found(source)) == {file.partition("/")[0] for file in files}


def test_a_category_may_hold_a_folder_called_train(tmp_path: Path):
    assert found(source_of(tmp_path / "in", "rail/train/a.png", "rail/tram/b.png")) == {"rail": None}
    assert set(found(source_of(tmp_path / "split", "train/train/a.png", "train/hat/b.png"))) == {
        "train/train",
        "train/hat",
    }


def test_two_folders_of_one_split_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="folders Train, train2017 are all the split train: merge them"):
        source_of(tmp_path / "in", "Train/hat/a.png", "train2017/hat/b.png", "test/hat/c.png")


def test_a_year_below_a_category_is_no_dror(tmp_path: Path):
    assert source_of(tmp_path / "years", "hat/2021/a.png", "hat/2022/05/b.png").layout == "folders"
    assert source_of(tmp_path / "dror", "hat/a brim/3/a.png").layout == "dror"
    assert source_of(tmp_path / "both", "hat/2021/a.png", "shoe/laces/7/b.png").layout == "dror"
    few = ("hat/sub/2021/a.png", "shoe/b.png", "shoe/c/d.png", "sock/e.png", "empty/.keep")
    assert source_of(tmp_path / "few", *few).layout == "folders"


def test_an_output_in_the_input_is_refused(tmp_path: Path):
    source_of(tmp_path / "in", "hat/a.png")
    for output in (tmp_path / "in", tmp_path / "in" / "shards"):
        with pytest.raises(ValueError, match=r"lies in the input .*: name a folder outside"):
            find_source(ShardConfig(input=str(tmp_path / "in"), output=str(output)))
    find_source(ShardConfig(input=str(tmp_path / "in"), output=str(tmp_path / "in-shards")))
    assert is_within("s3://b/in/x", folder="s3://b/in/") and not is_within("s3://b/inside", folder="s3://b/in")


def test_an_output_in_the_input_is_known_by_every_spelling(tmp_path: Path):
    (tmp_path / "in" / "hat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    folder = str(tmp_path / "in")
    for output in ("link/shards", "other/../in/shards", "in/./shards", "in//shards"):
        assert path_within(f"{tmp_path}/{output}", folder=folder) == "shards", output
    assert path_within(folder, folder=f"{tmp_path}/link") == ""
    assert path_within(f"file://{folder}/shards", folder=folder) == "shards"
    assert path_within(f"{tmp_path}/inside", folder=folder) is None
    assert path_within("s3a://b//in/x/y", folder="s3://b/in/") == "x/y"


def test_a_table_may_have_its_output_beside_it(tmp_path: Path):
    (tmp_path / "images.csv").write_text("path,category\n")
    source = find_source(ShardConfig(input=str(tmp_path / "images.csv"), output=str(tmp_path / "shards")))
    assert source.layout == "table" and source.describe() == "layout table: images.csv"
