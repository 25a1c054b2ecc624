"""Which folders are tables and archives, which columns are images and labels, and what is beside an image.

Covers: `ecor.data.sources.image_columns`, `ecor.data.sources.metadata_tables`, `ecor.data.sources.sidecars`,
`ecor.data.images.image_names`.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.data.sources.discovery import find_archives, find_tables
from ecor.data.sources.image_columns import find_image_columns
from ecor.data.sources.image_tables import read_image_rows
from ecor.data.sources.sidecars import has_sidecars, sidecars_of

PAIR = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ASKED = {"required": ("path", "category"), "optional": ("split", "rationales")}


def columns_of(*fields: tuple[str, pa.DataType], features: dict | None = None, **asked):
    schema = pa.schema(fields)
    if features is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return find_image_columns(schema, where="t", **(asked or ASKED))


def class_label(*names: str) -> dict:
    return {"names": list(names), "_type": "ClassLabel"}


def test_images_are_a_pair_or_the_only_bytes():
    text = ("category", pa.string())
    assert columns_of(("picture", PAIR), ("hash", pa.binary()), text).image == "picture"
    assert columns_of(("x", pa.large_binary()), text).image == "x"
    assert columns_of(("a", PAIR), ("image", PAIR), text).image == "image"
    assert columns_of(("path", pa.string()), ("thumbnail", pa.binary()), text) is None
    assert columns_of(("path", pa.string()), text) is None
    with pytest.raises(ValueError, match=r"images in the columns \['a', 'b'\]: call one image"):
        columns_of(("a", PAIR), ("b", PAIR), text)


def test_a_class_label_is_the_category_where_no_column_is_called_so():
    cat = class_label("a", "b")
    found = columns_of(("image", PAIR), ("label", pa.int64()), features={"label": cat})
    assert (found.labels, found.class_names) == ({"category": "label"}, {"category": ("a", "b")})
    found = columns_of(("image", PAIR), ("fine", pa.int64()), features={"fine": cat})
    assert found.labels == {"category": "fine"}
    found = columns_of(("image", PAIR), ("label", pa.string()), ("fine", pa.int64()), features={"fine": cat})
    assert found.labels == {"category": "label"}
    with pytest.raises(ValueError, match=r"no column category beside its images, it has \['coarse', 'fine'\]"):
        columns_of(("image", PAIR), ("coarse", pa.int64()), ("fine", pa.int64()), features={"fine": cat, "coarse": cat})
    with pytest.raises(ValueError, match="no column category"):
        columns_of(("image", PAIR), ("label", pa.int64()))
    assert columns_of(("image", PAIR), ("label", pa.int64()), required=("path",)).as_columns.describe_unread() == (
        "columns that are not read: label"
    )


def test_labels_of_rows_are_names_minus_one_is_none_and_other_numbers_are_refused(tmp_path: Path):
    def write(numbers: list[int | None]) -> str:
        table = pa.table({"image": pa.array([{"bytes": b"x", "path": None}] * len(numbers), PAIR), "label": numbers})
        told = {"huggingface": json.dumps({"info": {"features": {"label": class_label("hat", "shoe")}}})}
        pq.write_table(table.replace_schema_metadata(told), tmp_path / "t.parquet")
        return str(tmp_path / "t.parquet")

    found = [row.cells for row in read_image_rows(write([1, 0, -1, None]), **ASKED)]
    assert [row["category"] for row in found] == ["shoe", "hat", None, None]
    assert found[2]["path"] == "t.parquet!/image/2"
    with pytest.raises(ValueError, match="row 1: category must be a number below 2, got 2"):
        list(read_image_rows(write([0, 2]), **ASKED))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_path_stands_in_place_of_bytes(tmp_path: Path, suffix: str):
    table = pa.table({"image": pa.array([{"bytes": None, "path": "a/1.jpg"}, {"bytes": None, "path": None}], PAIR)})
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    found = [row.path("path") for row in read_image_rows(str(path), required=("path",))]
    assert found == ["a/1.jpg", f"t.{suffix}!/image/1"]


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def test_folders_of_archives_and_tables_by_names(tmp_path: Path):
    def archives(name: str, *files: str) -> list[tuple[str, str | None]]:
        return [(each.path, each.split) for each in find_archives(touch(tmp_path / name, *files))]

    assert archives("a", "0.tar", "1.TAR", "0.parquet", "0_stats.json") == [("0.tar", None), ("1.TAR", None)]
    assert archives("b", "x-train-0.tar", "x-val-0.tar") == [("x-train-0.tar", "train"), ("x-val-0.tar", "validation")]
    assert archives("c", "train/0.tar", "val/0.zip") == [("train/0.tar", "train"), ("val/0.zip", "validation")]
    assert archives("d", "0.tar", "a.jpg") == archives("e", "0.tar", "cat/a.jpg") == archives("f", "a.jpg") == []

    def tables(name: str, *files: str) -> list[tuple[str, str | None]]:
        return [(each.path, each.split) for each in find_tables(touch(tmp_path / name, *files))]

    assert tables("g", "data/train-0-of-1.parquet", "data/test-0-of-1.parquet", "README.md", ".gitattributes") == [
        ("data/test-0-of-1.parquet", "test"),
        ("data/train-0-of-1.parquet", "train"),
    ]
    assert tables("h", "a.parquet", "b.parquet") == [("a.parquet", None), ("b.parquet", None)]
    assert tables("i", "a.parquet", "cat/1.jpg") == tables("j", "a.parquet", "1.jpg") == []


def test_a_saved_dict_of_datasets_has_its_splits(tmp_path: Path):
    touch(tmp_path, "train/x.arrow", "test/y.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, name in (("train", "x.arrow"), ("test", "y.arrow")):
        (tmp_path / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert [(each.path, each.split) for each in find_tables(str(tmp_path))] == [
        ("train/x.arrow", "train"),
        ("test/y.arrow", "test"),
    ]
    (tmp_path / "test" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json is no JSON of `datasets`: save the dataset again"):
        find_tables(str(tmp_path))
    (tmp_path / "test" / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    with pytest.raises(ValueError, match="names no data files"):
        find_tables(str(tmp_path))


def test_metadata_is_a_table_with_file_names_and_an_unrelated_file_is_none(tmp_path: Path):
    touch(tmp_path / "in", "train/cat/1.jpg", "test/2.jpg")
    (tmp_path / "in" / "metadata.csv").write_text("camera,year\nx,2020\n")
    assert find_tables(str(tmp_path / "in")) == ()
    (tmp_path / "in" / "train" / "metadata.jsonl").write_text('{"file_name": "cat/1.jpg", "text": "a cat"}\n')
    (tmp_path / "in" / "test" / "metadata.csv").write_text("file_name,label\n2.jpg,0\n")
    found = find_tables(str(tmp_path / "in"))
    assert [(each.path, each.split) for each in found] == [
        ("test/metadata.csv", "test"),
        ("train/metadata.jsonl", "train"),
    ]
    cells = [next(iter(read_image_rows(f"{tmp_path}/in/{each.path}", **ASKED))).cells for each in found]
    assert cells == [{"path": "2.jpg", "category": "0"}, {"path": "cat/1.jpg", "category": "cat"}]
    rows = read_image_rows(f"{tmp_path}/in/train/metadata.jsonl", **ASKED)
    assert len(list(rows)) == 1 and rows.describe_unread() == "columns that are not read: text"
    (tmp_path / "in" / "train" / "metadata.jsonl").write_text('{"file_name": "1.jpg"}\n')
    with pytest.raises(ValueError, match=r"line 1: 1\.jpg has no category: add a column category"):
        list(read_image_rows(f"{tmp_path}/in/train/metadata.jsonl", **ASKED))


def test_what_is_beside_an_image_belongs_to_its_key():
    names = {"a/1.v2.jpg", "a/1.v2.json", "a/2.left.png", "a/2.cls", "a/3.jpg", "b/3.cls", "4.jpg", "4.txt"}
    assert sidecars_of("a/1.v2.jpg", names) == ["a/1.v2.json"]
    assert sidecars_of("a/2.left.png", names) == ["a/2.cls"]
    assert sidecars_of("a/3.jpg", names) == []
    assert sidecars_of("4.jpg", names) == ["4.txt"]
    assert has_sidecars(names) and not has_sidecars({"a/3.jpg", "b/3.cls"})
