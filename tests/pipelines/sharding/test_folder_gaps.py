"""What a folder promises and does not hold is said in one line for each kind."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.stages import ShardConfig
from pipelines.sharding.flows.local_flow import list_few, local_flow
from pipelines.sharding.folder_gaps import count_by_folder, describe_gaps, find_gaps
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.listing import ROWS_AT_ONCE, list_images


def make(root: Path, *names: str) -> ShardConfig:
    for name in names:
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"any")
    return ShardConfig(input=str(root / "in"), output=str(root / "out"))


def gaps(config: ShardConfig) -> list[str]:
    source = find_source(config)
    depth = source.places[0].path.count("/") + 1
    tables = [count_by_folder(table, depth=depth) for place in source.places for table in list_images(place)]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return list(find_gaps(source, counts=rows))


def test_a_full_folder_has_no_gaps(tmp_path: Path):
    assert gaps(make(tmp_path, "hat/a.png", "shoe/b.png")) == []
    assert gaps(make(tmp_path / "split", "train/hat/a.png", "test/hat/b.png")) == []


def test_empty_categories_are_named(tmp_path: Path):
    (line,) = gaps(make(tmp_path, "hat/a.png", "shoe/", "sock/.hidden", "cap/deep/"))
    assert line == "left out 3 categories whose folders hold no image: cap, shoe, sock"
    (line,) = gaps(make(tmp_path / "split", "train/hat/a.png", "train/shoe/", "test/hat/b.png"))
    assert line == "left out 1 categories whose folders hold no image: train/shoe"
    (line,) = gaps(make(tmp_path / "many", "hat/a.png", *(f"none{number:03d}/" for number in range(300))))
    assert line.endswith("none004 and 295 more") and len(line) < 500


def test_lines_of_a_sidecar_that_match_no_file_are_counted(tmp_path: Path):
    config = make(tmp_path, "train/hat/a.png", "train/shoe/b.png", "test/hat/c.png")
    for split, files in (("train", ("hat/a.png", "hat/gone.png", "Shoe/b.png")), ("test", ("hat/c.png",))):
        lines = [{"file": name, "visible_rationales": ["a brim"]} for name in files]
        text = "\n".join(map(json.dumps, [*lines, {"file": "none/at/all.png"}]))  # it says nothing of its file
        (tmp_path / "in" / split / "truth.jsonl").write_text(text)
    (line,) = gaps(config)
    path = tmp_path / "in" / "train" / "truth.jsonl"
    assert line == f"left out 2 of the 3 images that {path} describes: no such files"


def test_a_sidecar_with_empty_cells_says_no_more_than_it_has(tmp_path: Path):
    """As pandas writes it."""
    config = make(tmp_path, "hat/a.png")
    lines = [{"file": "hat/a.png", "weather": None}, {"file": "hat/gone.png", "weather": None}]
    (tmp_path / "in" / "truth.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (line,) = gaps(config)
    assert line.startswith("left out 1 of the 2 images")


def test_dror_through_links_is_dror(tmp_path: Path):
    make(tmp_path, "hat/")
    (tmp_path / "brim" / "1").mkdir(parents=True)
    (tmp_path / "brim" / "1" / "a.png").write_bytes(b"any")
    (tmp_path / "in" / "hat" / "a brim").symlink_to(tmp_path / "brim")
    source = find_source(ShardConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), follow_links=True))
    assert source.layout == "dror"


def test_links_to_categories_are_named_and_followed_if_asked(tmp_path: Path):
    make(tmp_path, "hat/a.png", "hat/b.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").write_bytes(b"any")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "shoe")  # noqa: PTH211
    config = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    source = find_source(ShardConfig(**config))
    assert "links to the folders shoe (--follow-links takes them)" in source.describe()
    followed = find_source(ShardConfig(**config, follow_links=True))
    assert "links" not in followed.describe()
    found = [row["source"] for place in followed.places for table in list_images(place) for row in table.to_pylist()]
    assert found == ["hat/a.png", "hat/b.png", "shoe/c.png"]


def test_an_input_of_links_alone_is_refused_with_the_setting(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "hat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="--follow-links"):
        find_source(ShardConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out")))


def test_columns_of_a_table_that_are_not_read_are_named(tmp_path: Path):
    rows = [{"notes": "x", "visible": "y"}, *[{}] * ROWS_AT_ONCE, {"visible": "y", "kategorie": "z"}]
    lines = [json.dumps({"path": f"{number}.png", "category": "cat", **row}) for number, row in enumerate(rows)]
    (tmp_path / "images.jsonl").write_text("\n".join(lines))
    source = find_source(ShardConfig(input=str(tmp_path / "images.jsonl"), output=str(tmp_path / "shards")))
    listing = list_few(source, flow=local_flow(ClusterConfig()), most=2 * ROWS_AT_ONCE)
    (tmp_path / "images.jsonl").unlink()  # what the listing has found is not read again
    assert describe_gaps(source, listing=listing) == [
        "columns that are not read: notes, visible, kategorie (is category meant?)"
    ]
