"""One reader for every table a user brings: the same rows from every format, and a line about what cannot be read.

Covers: `ecor.data.table_row`.
"""

import csv
import errno
import gzip
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.data.table_row import TableRow, show_value
from ecor.data.tables import read_json_lines, read_rows

COLUMNS = {"required": ("path",), "optional": ("category", "split", "rationales")}


def rows_of(path: Path, **columns: Sequence[str]) -> list[TableRow]:
    return list(read_rows(path, **(columns or COLUMNS)))


def write(folder: Path, rows: Sequence[dict[str, Any]], *, suffix: str) -> Path:
    path = folder / f"images.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str):
    rows = [{"path": "a, b.png", "category": "cät", "note": "x"}, {"path": "c.png", "category": None, "note": "y"}]
    found = rows_of(write(tmp_path, rows, suffix=suffix))
    assert [(row.cells["path"], row.text("category")) for row in found] == [("a, b.png", "cät"), ("c.png", None)]
    assert all("note" not in row.cells and row.names("rationales") is None for row in found)
    assert [row.where.rpartition(": ")[2] for row in found] == {
        "csv": ["line 2", "line 3"],
        "jsonl": ["line 1", "line 2"],
        "parquet": ["row 0", "row 1"],
    }[suffix]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(("value", "text"), [(0, "0"), (7, "7"), (-3, "-3"), ("0", "0"), ("false", "false")])
def test_a_whole_number_is_its_digits_and_zero_is_a_name(tmp_path: Path, suffix: str, value: Any, text: str):
    (row,) = rows_of(write(tmp_path, [{"path": "a.png", "category": value}], suffix=suffix))
    assert row.text("category") == text


@pytest.mark.parametrize("value", [True, False, 1.0, float("nan"), ["a"], {"a": 1}, "\ud800"])
def test_a_cell_that_is_no_text_is_an_error_with_its_place_and_value(tmp_path: Path, value: Any):
    (row,) = rows_of(write(tmp_path, [{"path": "a.png", "category": value}], suffix="jsonl"))
    with pytest.raises(ValueError, match=r"images\.jsonl: line 1: category .*got ") as caught:
        row.text("category")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [pd.Timestamp("2026-01-02"), np.float32(0.5), b"cat"])
def test_types_that_only_parquet_has_are_refused_too(tmp_path: Path, value: Any):
    pd.DataFrame({"path": ["a.png"], "category": [value]}).to_parquet(tmp_path / "images.parquet")
    (row,) = rows_of(tmp_path / "images.parquet")
    with pytest.raises(ValueError, match="row 0: category must be a text"):
        row.text("category")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["a brim", "b"], ["a brim", "b"]),
        ("a brim|b", ["a brim", "b"]),
        ("a brim| |b|", ["a brim", "b"]),
        ('["a brim", "b"]', ["a brim", "b"]),
        ("['a brim', 'b']", ["a brim", "b"]),  # as pandas writes a list into a CSV
        ("['a brim' 'b']", ["a brim", "b"]),  # as numpy prints an array
        ("['a brim'\n \"it's\"]", ["a brim", "it's"]),
        ("array(['a brim', 'b'], dtype=object)", ["a brim", "b"]),
        ("array([], dtype=object)", []),
        ("('a brim', 'b')", ["a brim", "b"]),
        ("('a brim',)", ["a brim"]),
        ("{'a brim', 'b'}", ["a brim", "b"]),
        ("a brim\r\nb", ["a brim", "b"]),  # as Excel breaks lines in a cell
        ("(worn) brim", ["(worn) brim"]),
        ("[1, 'b']", ["1", "b"]),
        ([1, "b"], ["1", "b"]),
        ([], []),
        (None, None),
    ],
)
def test_names_of_a_cell(tmp_path: Path, value: Any, names: list[str] | None):
    (row,) = rows_of(write(tmp_path, [{"path": "a.png", "rationales": value}], suffix="jsonl"))
    assert row.names("rationales") == names


@pytest.mark.parametrize(
    "value",
    [
        5,
        {"a": 1},
        ["a", None],
        [["a"]],
        "[1",
        "[a, b]",
        "[1.5]",
        "['a''b']",
        "['a' 1 'b']",
        "['a' ... 'b']",
        "('a', 1)",
        "{'a': 1}",
    ],
)
def test_cells_that_hold_no_names(tmp_path: Path, value: Any):
    (row,) = rows_of(write(tmp_path, [{"path": "a.png", "rationales": value}], suffix="jsonl"))
    with pytest.raises(ValueError, match=r"line 1: rationales .*got "):
        row.names("rationales")


def test_columns_are_matched_without_case_and_spaces(tmp_path: Path):
    (tmp_path / "images.csv").write_text("Path, category ,SPLIT\na.png,cat,val\n")
    (row,) = rows_of(tmp_path / "images.csv")
    assert dict(row.cells) == {"path": "a.png", "category": "cat", "split": "val"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,Path,category", "line 1 has the column path twice, as 'path' and 'Path'"),
        ("paths,category", "line 1 has no column path, but 'paths': rename"),
        ("path,categories", "line 1 has no column category, but 'categories': rename"),
        ("path,rationale", "line 1 has no column rationales, but 'rationale': rename"),
        ("file,label", "line 1 has no column path, but 'file': rename it to path"),
        ("where,what", "line 1 has no column path, it has "),
        *[
            (f"path,category,{name}", f"no column split, but '{name}': rename it to split, or to an unlike name")
            for name in ("subset", "Set", "data set", "fold", "partition", "Split Name", "Usage")
        ],
        *[(f"path,{name}", f"no column category, but '{name}'") for name in ("label", "Class", "class_name")],
    ],
)
def test_columns_that_are_not_there_or_twice(tmp_path: Path, header: str, message: str):
    (tmp_path / "images.csv").write_text(f"{header}\n" + ",".join("x" for _ in header.split(",")) + "\n")
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "images.csv")


def test_a_name_that_is_there_beside_a_like_one_is_no_mistake(tmp_path: Path):
    (tmp_path / "images.csv").write_text("path,category,categories\na.png,cat,cat dog\n")
    (row,) = rows_of(tmp_path / "images.csv")
    assert row.text("category") == "cat"


def describe_unread(path: Path, **columns: tuple[str, ...]) -> str | None:
    """The line after all rows were read."""
    rows = read_rows(path, **columns)
    deque(rows, maxlen=0)
    return rows.describe_unread()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_that_are_not_read_are_named_once(tmp_path: Path, suffix: str):
    row = {"path": "a.png", "Category": "cat", "catagory": "dog", "dataset": "x", "notes": "y", "kategorie": "z"}
    path = write(tmp_path, [row, row], suffix=suffix)
    assert describe_unread(path, required=("path", "category"), optional=("rationales",)) == (
        "columns that are not read: catagory (is category meant?), dataset, notes, kategorie (is category meant?)"
    )
    known = write(tmp_path, [{"path": "a.png", "category": "cat"}], suffix=suffix)
    assert describe_unread(known, required=("path", "category")) is None


def test_columns_of_every_line_count_and_long_lists_are_cut(tmp_path: Path):
    rows = [{"path": "a.png"}, {"path": "b.png", **{f"x{number:02d}": 1 for number in range(14)}, "y\n" + "z" * 99: 1}]
    path = write(tmp_path, rows, suffix="jsonl")
    found = describe_unread(path, required=("path",))
    assert found is not None and found.endswith("x08, x09 and 5 more") and "\n" not in found


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_with_the_name_of_a_table_is_refused(tmp_path: Path, suffix: str):
    (tmp_path / f"images.{suffix}").mkdir()
    with pytest.raises(ValueError, match=rf"images\.{suffix} is a folder: name one file"):
        rows_of(tmp_path / f"images.{suffix}")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_byte_order_mark(tmp_path: Path, separator: str):
    text = separator.join(["path", "category"]) + "\r\n" + separator.join(["a.png", "cat"]) + "\r\n\r\n"
    (tmp_path / "images.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (row,) = rows_of(tmp_path / "images.csv")
    assert dict(row.cells) == {"path": "a.png", "category": "cat"}


def test_quoted_line_breaks_far_into_a_large_file(tmp_path: Path):
    lines = [f"{number}.png,cat" for number in range(100_000)] + ['"odd\nname.png",dog']
    (tmp_path / "images.csv").write_text("path,category\n" + "\n".join(lines) + "\n")
    found = rows_of(tmp_path / "images.csv")
    assert len(found) == 100_001 and found[-1].cells["path"] == "odd\nname.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,category\na.png,cat\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("path,category\na.png,caf\u00e9\n".encode("cp1252"), r"not UTF-8 \(byte 0xe9\): save the file as UTF-8"),
        (b"path,category\na.png\n", "line 2 has 1 cells, the first line names 2 columns"),
        (b'path,category\na.png,"cat\n', "line 2: unexpected end of data"),
        ("path,category\na.png,cat\n".encode("utf-16-le"), "is no text, or UTF-16"),
        (
            b"PK\x03\x04\x14\0\6\0",
            "is a zip file, such as a spreadsheet of Excel or LibreOffice: save it there as CSV",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet of an old Excel"),
        (b"PAR1\x15\4", r"is a Parquet file: rename it, so that its name ends in \.parquet"),
        (gzip.compress(b"path,category\n", mtime=0), "is compressed by gzip: unpack it with gunzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"", "is empty: its first line must name the columns"),
        (b"path\n" + b"x" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_csv_files_that_cannot_be_read(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "images.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "images.csv")


def test_a_parquet_file_that_is_none_is_told_as_what_it_is(tmp_path: Path):
    (tmp_path / "images.parquet").write_bytes(b"PK\x03\x04\x14\0\6\0")
    with pytest.raises(ValueError, match="is a zip file, such as a spreadsheet"):
        rows_of(tmp_path / "images.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"path": "a.png"}\n{"path": \n', "line 2 is not JSON"),
        (b'{"path": "a.png"}\n[1, 2]\n', r"line 2 must be a JSON object, got '\[1, 2\]'"),
        (b'{"path": "\xe9.png"}\n', "line 1 or later is not UTF-8"),
        (b'{"path": "a.png"}\n\n{"category": "cat"}\n', "line 3 has no column path"),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        (
            b'{"path": "a.png"}\n{"path": "b.png", "path": "c.png"}\n',
            "line 2: an object: the key 'path' is there twice",
        ),
        (b'{"path": "a.png", "category": ' + b"9" * 5000 + b"}\n", r"images.jsonl: line 1: .*4300"),
    ],
)
def test_json_lines_that_cannot_be_read(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "images.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "images.jsonl")


def test_other_files(tmp_path: Path):
    with pytest.raises(ValueError, match=r"images\.csv: there is no such table"):
        rows_of(tmp_path / "images.csv")
    with pytest.raises(ValueError, match=r"a table is a \.csv, \.parquet, \.jsonl file, got \.xlsx"):
        rows_of(tmp_path / "images.xlsx")
    (tmp_path / "images.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="not a Parquet file"):
        rows_of(tmp_path / "images.parquet")


def test_parquet_files_that_cannot_be_read(tmp_path: Path):
    path = tmp_path / "images.parquet"
    latin = pa.array([b"h\xfct"], pa.binary()).buffers()
    texts = pa.Array.from_buffers(pa.string(), 1, [None, *latin[1:]])
    pq.write_table(pa.table({"path": ["a.png"], "category": texts}), path)
    with pytest.raises(ValueError, match=r"images\.parquet: row 0 or later is not UTF-8"):
        rows_of(path)
    pq.write_table(pa.table({"path": [f"a{number}.png" for number in range(20_000)]}), path)
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.parquet: not a Parquet file, or damaged"):
        rows_of(path)
    (tmp_path / "spark.parquet").mkdir()
    with pytest.raises(ValueError, match=r"spark\.parquet is a folder: name one file"):
        rows_of(tmp_path / "spark.parquet")


def test_a_disk_that_fails_is_no_damaged_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, [{"path": "a.png"}], suffix="parquet")

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="Input/output error"):
        rows_of(tmp_path / "images.parquet")


def test_a_value_of_a_million_characters_does_not_fill_the_screen(tmp_path: Path):
    cell = {"bytes": "x" * 858_000, "path": "a.png"}
    (row,) = rows_of(write(tmp_path, [{"path": "a.png", "category": cell}], suffix="jsonl"))
    with pytest.raises(ValueError, match="characters") as caught:
        row.text("category")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert show_value("short") == "'short'"


def test_json_lines_skip_empty_lines(tmp_path: Path):
    (tmp_path / "truth.jsonl").write_text('{"a": 1}\n\n  \n{"b": 2}\n')
    assert [record for _, record in read_json_lines(tmp_path / "truth.jsonl")] == [{"a": 1}, {"b": 2}]
