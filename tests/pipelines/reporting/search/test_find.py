"""`ecor find` equals a sort of all cosines; what it writes, what it refuses, and the page `docs/find.md`.

Covers: `pipelines.reporting.search.feature_folders`, `pipelines.reporting.search.top_k`,
`pipelines.reporting.search.queries`, `pipelines.reporting.search.result_folder`,
`pipelines.reporting.search.picture_page`.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ecor.checkpoint import load
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.manifest import read_prediction_set
from pipelines.__main__ import main
from pipelines.config.reporting import CopiesConfig, FindConfig
from pipelines.config.stages import ScoreConfig
from pipelines.reporting.search.feature_folders import open_feature_folders
from pipelines.reporting.search.find import FOUND_SCHEMA, search
from pipelines.reporting.search.queries import Query
from pipelines.reporting.search.top_k import TopK
from pipelines.runtime.balance import Balance
from pipelines.stages import score
from tests.support.kept_labels import rows_of, unit_vectors, write_kept_labels
from tests.support.mlflow_databases import new_database
from tests.support.scoring_without_ray import score_without_ray
from tests.support.tiny_models import tiny_checkpoint, write_pictures

PAGE = (Path(__file__).parents[4] / "docs" / "find.md").read_text(encoding="utf-8")
NUM = 14


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Photos, of which one is no picture, in `labels/monday` with features by the model `run`."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", num=NUM)
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    config = ScoreConfig(
        input=str(folder / "photos"),
        output=str(folder / "labels" / "monday"),
        model=tiny_checkpoint(folder / "run").folder,
        keep_features=True,
        unit_size=4,
        max_rejected=0.2,
    )
    with pytest.MonkeyPatch.context() as patch:
        score_without_ray(patch)
        score.run(config, tracking=new_database(folder))
        score.run(replace(config, output=f"{folder}/plain", keep_features=False), tracking=new_database(folder))
        patch.chdir(folder)
        yield folder


def found_in(folder: str) -> list[dict]:
    table = pq.ParquetFile(f"{folder}/found.parquet").read()
    assert table.schema.equals(FOUND_SCHEMA)
    return table.to_pylist()


# The search


@pytest.mark.parametrize("top", [1, 7, 100, 1000])
def test_a_search_equals_a_sort_of_all_cosines_with_ties(tmp_path: Path, top: int) -> None:
    vectors = unit_vectors(300, dim=16)
    vectors[200:260] = vectors[20]  # ties across units
    place = str(tmp_path / "labels")
    sizes = [130, 1, 0, 169]
    starts = np.cumsum([0, *sizes])
    units = [
        (rows_of([f"k{number}" for number in range(start, start + size)]), vectors[start : start + size])
        for start, size in zip(starts, sizes, strict=False)
    ]
    write_kept_labels(place, units)
    wide = vectors.astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    queries = [Query(name=str(number), kind="text", feature=wide[number]) for number in (20, 250, 3)]
    among = open_feature_folders([place], feature="category")
    found = search(among, queries, top=top)
    for number, query in enumerate(queries):
        similarity, numbers = found.of(number)
        cosines = np.concatenate(
            [wide[start : start + size] @ query.feature for start, size in zip(starts, sizes, strict=False)]
        )
        expected = np.argsort(-cosines, kind="stable")[:top]
        np.testing.assert_allclose(similarity, cosines[expected], atol=1e-6)
        assert len(numbers) == min(top, 300) == len(set(numbers.tolist()))
        assert [each.key for each in among.read_images(numbers.tolist())] == [f"k{each}" for each in numbers.tolist()]
    assert {each.key for each in among.read_images([299, 130, 0, 299])} == {"k299", "k130", "k0"}


def test_of_equals_the_first_stay() -> None:
    found = TopK(1, 3)
    for first, block in ((0, [0.5, 0.9]), (2, [0.9, 0.5, 0.9, 0.1]), (6, [0.9, 0.95])):
        found.add(np.array([block], dtype=np.float32), first=first)
    assert found.of(0)[1].tolist() == [7, 1, 2]


def test_the_feature_that_is_asked_for_is_compared(tmp_path: Path) -> None:
    rationale, category = unit_vectors(9, dim=8), unit_vectors(9, dim=8, seed=1)
    place = str(tmp_path / "labels")
    write_kept_labels(place, [(rows_of([f"k{number}" for number in range(9)]), rationale)], category=[category])
    for feature, vectors in (("rationale", rationale), ("category", category)):
        query = Query(name="q", kind="image", feature=vectors[4].astype(np.float32))
        found = search(open_feature_folders([place], feature=feature), [query], top=1)
        assert found.of(0)[1].tolist() == [4]


# The command


def test_a_picture_finds_itself_and_a_sentence_what_its_feature_is_nearest_to(world: Path, capsys) -> None:
    photo = str(sorted((world / "photos").glob("*.png"))[3])
    words = ["find", "labels/monday", "--text", "a zip", "--text", "stripes", "--image", photo, "--top", "5"]
    assert main([*words, "--output", "found-all"]) == 0, capsys.readouterr().err
    rows, model = found_in("found-all"), load(str(world / "run" / "checkpoint"))
    assert [(row["query"], row["rank"]) for row in rows] == [
        (query, rank) for query in ("a zip", "stripes", photo) for rank in range(1, 6)
    ]
    best = rows[10]
    assert (best["kind"], best["source"]) == ("image", photo) and best["similarity"] > 0.999
    with torch.no_grad():
        text_D = model.backbone.encode_text(["a zip"])[0]
        for row in rows[:5]:
            pixels = image_to_pixels(
                decode_image(Path(row["source"]).read_bytes()), preprocess=model.backbone.preprocess
            )
            expected = float(model.image_features(torch.from_numpy(pixels[None])).category[0] @ text_D)
            assert row["similarity"] == pytest.approx(expected, abs=2e-3)
    told = capsys.readouterr()
    assert f"{NUM} images searched; 1 rejected image has no feature" in told.out and best["source"] in told.out
    balance = Balance.from_record(json.loads(Path("found-all/find.json").read_text())["balance"])
    assert (balance.num_listed, balance.num_taken, balance.num_rejected) == (NUM + 1, NUM, 1)
    assert balance.line() in told.err
    page = Path("found-all/index.html").read_text()
    assert page.count('<img src="data:image/webp') == 15 and "<script" not in page
    before = (world / "found-all" / "index.html").stat().st_mtime_ns
    assert main([*words, "--output", "found-all"]) == 0
    assert (world / "found-all" / "index.html").stat().st_mtime_ns == before, "a finished search is not repeated"
    assert main([*words[:-1], "6", "--output", "found-all"]) == 2
    assert "top was 5, is 6" in capsys.readouterr().err


def test_a_hostile_sentence_is_text_on_the_page_and_a_picture_that_is_gone_is_said(world: Path, tmp_path: Path) -> None:
    shutil.copytree("labels/monday", tmp_path / "labels")
    gone = sorted((world / "photos").glob("*.png"))[2]
    data = gone.read_bytes()
    gone.unlink()
    try:
        assert main(["find", f"{tmp_path}/labels", "--text", "<script>x</script>", "--output", f"{tmp_path}/out"]) == 0
    finally:
        gone.write_bytes(data)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;script&gt;x" in page and "<script" not in page and f"not found: {gone}" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["labels/monday"], "say what to find, with --text or --image"),
        (["labels/monday", "--text", "  "], "a --text is empty"),
        (["labels/monday", "--text", "a", "--top", "0"], "top must be at least 1, got 0"),
        (["labels/monday", "--text", "a red truck " * 40], "tokens, the model reads 40: shorten it"),
        (["labels/monday", "--image", "photos/broken.png"], "--image photos/broken.png cannot be read"),
        (["labels/monday", "--image", "no.png"], "--image no.png cannot be read"),
        (["labels/monday", "--text", "a", "--model", "ecor-demo"], "name a model with that image side"),
        (["plain", "--text", "a"], "again with --keep-features"),
        (["nowhere", "--text", "a"], "nowhere"),
        (["labels/monday", "--text", "a", "--output", "photos"], "photos holds other files: name another --output"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy_and_nothing_is_written(world: Path, words, said, capsys) -> None:
    output = [] if "--output" in words else ["--output", "refused"]
    assert main(["find", *words, *output]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len([line for line in error.splitlines() if "Error" in line or said in line]) == 1
    assert "Traceback" not in error and not (world / "refused").exists()


@pytest.mark.parametrize("command", [["find", "--text", "a"], ["copies"]])
def test_a_damaged_file_of_features_is_refused(world: Path, tmp_path: Path, capsys, command) -> None:
    shutil.copytree("labels/monday", tmp_path / "labels")
    part = sorted((tmp_path / "labels" / "features").glob("*.arrow"))[1]
    part.write_bytes(part.read_bytes()[:-40])
    assert main([command[0], f"{tmp_path}/labels", *command[1:], "--output", f"{tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert part.name in error and "--keep-features" in error and not (tmp_path / "out").exists()


def test_labels_without_images_are_refused(tmp_path: Path, capsys) -> None:
    write_kept_labels(f"{tmp_path}/labels", [(rows_of([]), unit_vectors(0, dim=8))])
    assert main(["copies", f"{tmp_path}/labels", "--output", f"{tmp_path}/out"]) == 2
    assert "there are no labels, so there is nothing to search" in capsys.readouterr().err


# The page


def test_the_commands_of_the_page_run(world: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    shutil.copytree("labels/monday", tmp_path / "labels" / "monday")
    Image.open(sorted((world / "photos").glob("picture*.png"))[0]).save(tmp_path / "jacket.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    score_without_ray(monkeypatch)
    write_pictures(Path("photos-2026"), num=5, seed=3)
    shutil.copytree(world / "run", "run")
    commands = [
        shlex.split(line, comments=True)[1:]
        for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert [each[0] for each in commands] == ["score", *4 * ["find"], "copies", "score", "copies"]
    for command in commands[1:]:
        assert main(command) == 0, capsys.readouterr().err
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/find.md", "exec"), {})
    assert read_prediction_set("labels/other").num_rows == 5
    assert len(json.loads(Path("copies-both/copies.json").read_text())["identity"]["features_digests"]) == 2


def test_the_page_names_defaults_and_options_as_they_are(capsys) -> None:
    for command in ("find", "copies"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    helped = capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--keep-features"}:
        assert option in helped, option
    assert f"`--similarity {CopiesConfig(labels=('x',)).similarity}`" in PAGE
    assert f"`--top` (default {FindConfig(labels='x', text=('a',)).top})" in PAGE
