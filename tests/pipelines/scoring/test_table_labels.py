"""The labels of a table to score: names that meet, names of separators alone and one path twice are refused."""

from pathlib import Path

import pytest

from pipelines.scoring.inputs import read_input
from pipelines.scoring.work_units import Listed, ListingUnit


def read_table(folder: Path, *lines: str, header: str = "path,category") -> list[Listed]:
    (folder / "t.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    units = read_input(str(folder / "t.csv"), unit_size=9).units
    return [file for unit in units if isinstance(unit, ListingUnit) for file in unit.files]


@pytest.mark.parametrize(("first", "second"), [("A-", "a"), ("-1", "1"), ("class_-1", "class_1")])
def test_labels_that_would_be_one_are_refused(tmp_path: Path, first: str, second: str) -> None:
    problem = f"category '{second}' and category '{first}' would both be"
    with pytest.raises(ValueError, match=f"line 3: {problem}"):
        read_table(tmp_path, f"a.png,{first}", f"b.png,{second}")
    with pytest.raises(ValueError, match=r"line 2: rationale .* would both be"):
        read_table(tmp_path, f"a.png,{first},{second}", header="path,rationales,visible_rationales")


def test_spellings_of_one_label_are_one(tmp_path: Path) -> None:
    found = read_table(tmp_path, "a.png,caf\u00e9", "b.png,Cafe\u0301", "c.png,", "d.png, ")
    assert [file.category for file in found] == ["caf\u00e9", "caf\u00e9", None, None]


@pytest.mark.parametrize("name", ["-", "_"])
def test_a_label_of_separators_alone_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: category has a name of - and _ alone: .* leave the cell empty"):
        read_table(tmp_path, f"a.png,{name}")
    with pytest.raises(ValueError, match="line 2: rationales has a name of - and _ alone"):
        read_table(tmp_path, f"a.png,a brim|{name}", header="path,rationales")


def test_two_spellings_of_one_path_are_one_image(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 3: line 2 lists \./a\.png too"):
        read_table(tmp_path, "a.png,hat", "./a.png,shoe")
    assert len(read_table(tmp_path, "s3://b/a.png,hat", "s3://b/./a.png,hat", "x/../a.png,hat")) == 3


def test_a_label_under_another_name_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column category, but 'label': rename it to category"):
        read_table(tmp_path, "a.png,hat", header="path,label")
