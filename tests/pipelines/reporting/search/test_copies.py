"""`ecor copies`: groups and distances against loops over all pairs, splits, bytes, folders, and planted copies.

Covers: `pipelines.reporting.search.copy_groups`, `pipelines.reporting.search.neighbours`.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecor.clip.image_features import ImageSide
from ecor.data.samples import sample_key
from pipelines.__main__ import main
from pipelines.config.reporting import CopiesConfig
from pipelines.reporting.search import copies
from pipelines.reporting.search.copy_groups import COPIES_SCHEMA, OUTLIERS_SCHEMA
from pipelines.reporting.search.neighbours import find_neighbours
from tests.support.kept_labels import SIDE, rows_of, unit_vectors, write_kept_labels


def with_copies(num: int, *, num_copies: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    """Random directions; the last ones are near to the first ones, some in chains."""
    vectors = unit_vectors(num, dim=dim, seed=seed).astype(np.float32)
    noise = np.random.default_rng(seed + 1).standard_normal((num_copies, dim)) * 0.04
    for number in range(num_copies):
        vectors[num - num_copies + number] = vectors[number // 2] + noise[number]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("block_rows", [7, 64, 1000])
@pytest.mark.parametrize("num_nearest", [1, 5, 500])
def test_all_is_as_loops_over_all_pairs_say(block_rows: int, num_nearest: int) -> None:
    vectors = with_copies(130, num_copies=30)
    vectors[60:64] = vectors[70]
    found = find_neighbours(vectors, similarity=0.95, num_nearest=num_nearest, block_rows=block_rows)
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = wide @ wide.T
    pairs = [(a, b) for a in range(130) for b in range(a) if cosines[a, b] >= 0.95]
    assert found.num_pairs == len(pairs) > 30
    assert {frozenset(each) for each in found.groups()} == join_pairs(pairs)
    assert [len(each) for each in found.groups()] == sorted(map(len, found.groups()), reverse=True)
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_allclose(found.nearest_similarity, cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(cosines[np.arange(130), found.nearest], cosines.max(axis=1), atol=1e-6)
    nearest = np.sort(cosines, axis=1)[:, 1:][:, -num_nearest:]
    np.testing.assert_allclose(found.mean_distance, 1 - nearest.mean(axis=1), atol=1e-5)


def join_pairs(pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    """Groups of what pairs connect, pair by pair."""
    groups: set[frozenset[int]] = set()
    for pair in pairs:
        touched = {group for group in groups if group & set(pair)}
        groups = (groups - touched) | {frozenset(pair).union(*touched)}
    return groups


def test_one_image_and_equal_images() -> None:
    one = find_neighbours(unit_vectors(1, dim=8), similarity=0.97, num_nearest=5)
    assert (one.groups(), one.nearest.tolist(), one.mean_distance.tolist(), one.num_pairs) == ([], [-1], [0.0], 0)
    same = find_neighbours(np.repeat(unit_vectors(1, dim=8), 90, axis=0), similarity=1.0, num_nearest=5, block_rows=20)
    assert same.groups() == [list(range(90))] and same.num_pairs == 90 * 89 // 2
    assert not set(np.flatnonzero(same.nearest == np.arange(90)))


def images(sources: list[str], *, contents: list[int]) -> list[str]:
    """Keys as `ecor score` makes them, by content."""
    return [sample_key(each, sha256=f"{content:064d}"[::-1]) for each, content in zip(sources, contents, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training images with near copies in test and validation, one with the same bytes; one far from all."""
    near = with_copies(8, num_copies=3)[[0, 1, 2, 5, 6, 7]]
    names = ["train/a", "train/b", "train/c", "test/a2", "val/a3", "train/b2"]
    sources = [f"{tmp_path}/photos/{name}.png" for name in names]
    keys = images(sources, contents=[1, 2, 3, 1, 4, 5])
    write_kept_labels(
        f"{tmp_path}/labels",
        [(rows_of(keys[:4], sources[:4]), near[:4]), (rows_of(keys[4:], sources[4:]), near[4:])],
        input_address=f"{tmp_path}/photos",
    )
    return tmp_path


def test_splits_bytes_warning_tables_and_page(folder: Path, capsys) -> None:
    words = ["copies", f"{folder}/labels", "--similarity", "0.9", "--output", f"{folder}/out", "--num-outliers", "2"]
    assert main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "5 images in 2 groups of near copies (cosine 0.9 or more, 4 pairs)" in out
    assert "warning: 1 test image is a near copy of training images" in out
    assert "warning: 1 validation image is a near copy of training images" in out
    table = pq.ParquetFile(f"{folder}/out/copies.parquet").read()
    assert table.schema.equals(COPIES_SCHEMA)
    rows = {Path(row["source"]).stem: row for row in table.to_pylist()}
    assert {name: row["group"] for name, row in rows.items()} == {"a": 1, "a2": 1, "a3": 1, "b": 2, "b2": 2}
    assert {name: row["split"] for name, row in rows.items()} == {
        "a": "train", "a2": "test", "a3": "validation", "b": "train", "b2": "train"
    }  # fmt: skip
    assert Counter(row["kind"] for row in rows.values()) == {"near_copy": 3, "same_bytes": 2}
    assert rows["a2"]["kind"] == rows["a"]["kind"] == "same_bytes"
    assert rows["b2"]["nearest_key"] == rows["b"]["key"]
    outliers = pq.ParquetFile(f"{folder}/out/outliers.parquet").read()
    assert outliers.schema.equals(OUTLIERS_SCHEMA) and outliers["rank"].to_pylist() == [1, 2]
    assert outliers["mean_distance"][0].as_py() >= outliers["mean_distance"][1].as_py()
    page = (folder / "out" / "index.html").read_text()
    assert page.index("Group 1") < page.index("Group 2") < page.index("Outliers") and "No picture" in page
    counts = json.loads((folder / "out" / "copies.json").read_text())["counts"]
    assert counts["leaked"] == {"test": 1, "validation": 1} and counts["num_same_bytes"] == 2


def test_the_page_is_cut_and_says_so(folder: Path) -> None:
    config = CopiesConfig(labels=(f"{folder}/labels",), similarity=0.9, output=f"{folder}/out", max_images=4)
    copies.run(replace(config, num_outliers=1))
    page = (folder / "out" / "index.html").read_text()
    assert page.count('<li class="card">') == 4 and "Group 2" not in page and "Outliers" in page


def test_folders_are_compared_with_each_other(folder: Path, capsys) -> None:
    vectors = with_copies(8, num_copies=3)
    write_kept_labels(f"{folder}/other", [(rows_of(["x", "y"], ["s3://b/x.png", "s3://b/y.png"]), vectors[[1, 4]])])
    both = ["copies", f"{folder}/labels", f"{folder}/other", "--similarity", "0.9", "--output", f"{folder}/out"]
    assert main(both) == 0, capsys.readouterr().err
    assert "1 groups have images of more than one folder of labels" in capsys.readouterr().out
    rows = pq.ParquetFile(f"{folder}/out/copies.parquet").read().to_pylist()
    (found,) = [row for row in rows if row["labels"] == f"{folder}/other"]
    assert found["key"] == "x" and found["nearest_labels"] == f"{folder}/labels" and found["kind"] == "near_copy"


def test_folders_of_other_image_sides_and_a_folder_named_twice_are_refused(folder: Path, capsys) -> None:
    side = ImageSide(model_digest="b" * 64, precision="fp32")
    write_kept_labels(f"{folder}/other", [(rows_of(["x"]), unit_vectors(1, dim=24))], image_side=side)
    output = ["--output", f"{folder}/out"]
    assert main(["copies", f"{folder}/labels", f"{folder}/other", *output]) == 2
    error = capsys.readouterr().err
    assert SIDE.digest in error and side.digest in error
    assert main(["copies", f"{folder}/labels", f"{folder}/labels/", *output]) == 2
    assert "is named twice" in capsys.readouterr().err
    for value in ("0", "1.01"):
        assert main(["copies", f"{folder}/labels", "--similarity", value, *output]) == 2
        assert f"similarity is a cosine above 0 and up to 1, got {float(value)}" in capsys.readouterr().err
    assert not (folder / "out").exists()
