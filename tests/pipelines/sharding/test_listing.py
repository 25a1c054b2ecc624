"""What a table says of its images: splits by their usual names, given for every image or for none."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config.stages import ShardConfig
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.listing import list_images


def listed(folder: Path, text: str, *, name: str) -> list[dict[str, Any]]:
    (folder / name).write_text(text)
    source = find_source(ShardConfig(input=str(folder / name), output=str(folder / "shards")))
    return pa.concat_tables(list_images(source.places[0])).to_pylist()


@pytest.mark.parametrize(
    ("given", "split"),
    [("Test_Set", "test"), ("test set", "test"), ("eval", "test"), ("holdout", "test"), ("dev", "validation")],
)
def test_splits_of_a_table_have_their_usual_names(tmp_path: Path, given: str, split: str):
    rows = listed(tmp_path, f"path,category,split\na.png,hat,{given}\nb.png,hat,extra\n", name="t.csv")
    assert [row["split"] for row in rows] == [split, "extra"]


@pytest.mark.parametrize(("first", "second", "problem"), [(0, 1, "missing"), (1, 0, "given")])
def test_a_split_for_some_rows_alone_is_an_error_with_the_row(tmp_path: Path, first: int, second: int, problem: str):
    rows = ('{"path": "a.png", "category": "hat", "split": "train"}', '{"path": "b.png", "category": "hat"}')
    with pytest.raises(ValueError, match=rf"t\.jsonl: line 2: split is {problem}, unlike in the rows before"):
        listed(tmp_path, f"{rows[first]}\n{rows[second]}\n", name="t.jsonl")


@pytest.mark.parametrize("given", ["", "a b", "täst"])
def test_splits_that_are_no_names_of_folders(tmp_path: Path, given: str):
    with pytest.raises(ValueError, match="line 2: split must be a plain name"):
        listed(tmp_path, f"path,category,split\na.png,hat,{given}\n", name="t.csv")
