"""Labels with `--since` are those of a full run; unchanged images are not read; a job that was killed resumes.

Covers: `pipelines.scoring.incremental.content_check`, `pipelines.scoring.incremental.earlier_labels`,
`pipelines.scoring.incremental.file_states`, `pipelines.scoring.incremental.listing_record`,
`pipelines.scoring.incremental.reused_units`, `pipelines.storage.file_times`.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from ecor.clip.image_features import feature_arrays
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.predictions.parts import read_part, read_predictions
from ecor.storage import filesystem
from pipelines.__main__ import EXIT_DONE, main
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring import work_units
from pipelines.scoring.incremental import content_check, increment
from pipelines.scoring.incremental.file_states import FileStates
from pipelines.scoring.incremental.listing_record import read_listing
from pipelines.stages import score
from pipelines.storage.file_times import SETTLED_S
from pipelines.storage.kept_features import iterate_features, read_kept_features
from tests.support.mlflow_databases import new_database
from tests.support.processes import ctrl_c_at_file
from tests.support.scoring_without_ray import score_without_ray
from tests.support.tiny_models import NAMES, OTHER_NAMES, tiny_checkpoint

NUM = 14
LONG_AGO_S = 1_700_000_000


def draw(path: Path, *, seed: int, modified_s: float | None = LONG_AGO_S) -> Path:
    """A picture whose size in bytes does not depend on its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((32, 32), Image.Resampling.NEAREST).save(path, "BMP")
    if modified_s is not None:
        os.utime(path, (modified_s, modified_s))
    return path


@dataclass(frozen=True, kw_only=True)
class World:
    """Photos and finished labels of them."""

    folder: Path
    photos: Path
    config: ScoreConfig
    tracking: TrackingConfig

    def score(self, name: str, **changes: Any) -> ScoreConfig:
        """A job like the first one with another output, done."""
        config = replace(self.config, output=str(self.folder / name), **changes)
        score.run(config, tracking=self.tracking)
        return config

    def since(self, name: str, **changes: Any) -> ScoreConfig:
        """Labels that reuse the first ones, done."""
        return self.score(name, **{"since": self.config.output, **changes})

    @property
    def files(self) -> list[Path]:
        return sorted(self.photos.rglob("*.bmp"))


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        score_without_ray(patch)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, without_ray: None) -> World:
    folder = tmp_path_factory.mktemp("world")
    for number in range(NUM):
        draw(folder / "photos" / ("deep" if number % 3 else ".") / f"p{number:02d}.bmp", seed=number)
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    config = ScoreConfig(
        input=str(folder / "photos"),
        output=str(folder / "monday"),
        model=tiny_checkpoint(folder / "run").folder,
        unit_size=4,
        batch_size=3,
        max_rejected=0.3,
    )
    made = World(folder=folder, photos=folder / "photos", config=config, tracking=new_database(folder))
    score.run(config, tracking=made.tracking)
    return made


@pytest.fixture
def world(first: World) -> Iterator[World]:
    """The first labels, and photos that a test may change: they are put back, with their times."""
    before = first.folder / "before"
    shutil.copytree(first.photos, before)
    yield first
    shutil.rmtree(first.photos)
    before.rename(first.photos)
    for path in first.folder.iterdir():
        if path.is_dir() and path.name not in ("photos", "run", "monday"):
            shutil.rmtree(path)


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of images that were read to be labelled, and to be compared."""
    found: dict[str, list[str]] = {"labelled": [], "compared": []}
    for module, kind in ((work_units, "labelled"), (content_check, "compared")):
        read = module.read_image_bytes

        def note(url: str, *, read: Any = read, kind: str = kind, **settings: Any) -> bytes:
            found[kind].append(url)
            return read(url, **settings)

        monkeypatch.setattr(module, "read_image_bytes", note)
    return found


def counts_of(config: ScoreConfig) -> dict[str, int]:
    found = json.loads((Path(config.output) / "summary.json").read_text())["since"]
    return {name.removeprefix("num_"): value for name, value in found.items() if name.startswith("num_") and value}


def assert_equal_values(ours: Any, theirs: Any) -> None:
    """Nested values, numbers to the rounding of float32."""
    if isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-5)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_equal_values(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal_values(one, other)
    else:
        assert ours == theirs


def assert_equal_to_full_run(world: World, found: ScoreConfig) -> pd.DataFrame:
    """The rows are those of a full run on the images as they are now."""
    full = replace(found, since=None, output=str(world.folder / "full"), fresh=True, model=world.config.model)
    score.run(full, tracking=world.tracking)
    ours, theirs = (read_predictions(each.output).sort_by("key") for each in (found, full))
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert_equal_values(ours.to_pylist(), theirs.to_pylist())
    rejected = [pq.read_table(Path(each.output) / "quarantine.parquet").to_pylist() for each in (found, full)]
    assert rejected[0] == rejected[1]
    return ours.to_pandas()


def vanished(config: ScoreConfig) -> list[str]:
    return [Path(each).name for each in pd.read_parquet(Path(config.output) / "vanished.parquet")["source"]]


# What is reused


def test_nothing_new_reads_no_image_and_loads_no_model(
    world: World, images_read: dict, monkeypatch: pytest.MonkeyPatch
):
    (world.photos / "broken.png").unlink()  # what has no label is tried again
    monkeypatch.setattr("pipelines.scoring.scorer.Scorer", None)
    found = world.since("tuesday", model=None)
    assert images_read == {"labelled": [], "compared": []}
    assert counts_of(found) == {"listed": NUM, "reused": NUM, "before": NUM}
    monkeypatch.undo()
    assert_equal_to_full_run(world, found)
    assert vanished(found) == []
    before, after = (read_prediction_set(each.output).parts for each in (world.config, found))
    assert [part.sha256 for part in after] == [part.sha256 for part in before], "whole files are copied"


def test_only_a_new_image_is_read(world: World, images_read: dict):
    new = draw(world.photos / "a-new.bmp", seed=99)
    found = world.since("tuesday")
    assert images_read == {"labelled": [str(new), str(world.photos / "broken.png")], "compared": []}
    assert counts_of(found) == {"listed": NUM + 2, "reused": NUM, "new": 2, "before": NUM}
    assert new.stem in "".join(assert_equal_to_full_run(world, found)["key"])


def test_another_size_is_another_content(world: World, images_read: dict):
    changed = world.files[3]
    Image.new("RGB", (40, 40), "red").save(changed)
    os.utime(changed, (LONG_AGO_S, LONG_AGO_S))
    found = world.since("tuesday")
    assert counts_of(found)["changed"] == 1 and images_read["compared"] == []
    assert_equal_to_full_run(world, found)


@pytest.mark.parametrize("is_same_content", [True, False])
def test_another_time_is_decided_by_content(world: World, images_read: dict, is_same_content: bool):
    touched = world.files[5]
    if not is_same_content:
        draw(touched, seed=77)
    os.utime(touched, (LONG_AGO_S + 5, LONG_AGO_S + 5))
    found = world.since("tuesday")
    assert images_read["compared"] == [str(touched)]
    assert counts_of(found).get("changed", 0) == (0 if is_same_content else 1)
    assert (str(touched) in images_read["labelled"]) is not is_same_content
    assert_equal_to_full_run(world, found)


def test_a_new_content_of_the_same_size_and_time_is_found_where_contents_are_compared(world: World, images_read: dict):
    draw(world.files[2], seed=78)
    by_time = world.since("by-time")
    assert counts_of(by_time)["reused"] == NUM  # what size and time cannot tell
    by_content = world.since("by-content", since_check="content")
    assert counts_of(by_content) == {
        **{"listed": NUM + 1, "reused": NUM - 1, "changed": 1, "new": 1, "before": NUM, "compared": NUM}
    }
    assert_equal_to_full_run(world, by_content)


def test_vanished_images_are_dropped_and_listed(world: World):
    gone = [world.files[index] for index in (0, 7)]
    for path in gone:
        path.unlink()
    found = world.since("tuesday")
    assert counts_of(found) == {"listed": NUM - 1, "reused": NUM - 2, "new": 1, "before": NUM, "vanished": 2}
    assert sorted(vanished(found)) == sorted(path.name for path in gone)
    assert_equal_to_full_run(world, found)


def test_a_renamed_image_is_a_new_one(world: World):
    old = world.files[4]
    old.rename(old.with_name("renamed.bmp"))
    found = world.since("tuesday")
    assert {name: counts_of(found)[name] for name in ("new", "vanished")} == {"new": 2, "vanished": 1}
    assert "renamed" in "".join(assert_equal_to_full_run(world, found)["key"])
    assert vanished(found) == [old.name]


def test_copies_of_one_content_are_images_of_their_own(world: World):
    copy = world.photos / "deep" / "copy.bmp"
    shutil.copy2(world.files[1], copy)
    second = world.since("tuesday")
    shutil.copy2(world.files[1], world.photos / "copy.bmp")
    copy.unlink()
    found = world.since("wednesday", since=second.output)
    assert counts_of(found)["reused"] == NUM and vanished(found) == ["copy.bmp"]
    assert assert_equal_to_full_run(world, found)["source"].is_unique


def test_mended_images_get_a_label(world: World):
    (world.photos / "broken.png").write_bytes((world.files[0]).read_bytes())
    found = world.since("tuesday")
    assert len(assert_equal_to_full_run(world, found)) == NUM + 1


def test_hostile_names(world: World, tmp_path: Path):
    names = ["with\nnewline.bmp", "'quotes\" and, commas;.bmp", "Ünïcödé 画像.bmp", "%41 #?*.bmp", "x" * 200 + ".bmp"]
    for number, name in enumerate(names):
        draw(world.photos / name, seed=200 + number)
    with open(os.fsencode(world.photos) + b"/not-\xff-utf8.bmp", "wb") as file:  # noqa: PTH123 - bytes
        file.write(world.files[0].read_bytes())
    before = world.score("tuesday")
    found = world.since("wednesday", since=before.output)
    assert counts_of(found)["reused"] == NUM + len(names)
    assert len(assert_equal_to_full_run(world, found)) == NUM + len(names)
    assert len(pq.read_table(Path(found.output) / "quarantine.parquet")) == 2


def test_heat_maps_and_features_are_kept(world: World):
    before = world.score("tuesday", explain="grad_eclip", explain_top=1, keep_features=True)
    draw(world.photos / "new.bmp", seed=99)
    world.files[0].unlink()
    found = world.since("wednesday", since=before.output, explain="grad_eclip", explain_top=1)
    assert counts_of(found)["reused"] == NUM - 1
    assert_equal_to_full_run(world, replace(found, keep_features=True))
    ours, theirs = (
        {
            key: feature
            for unit in iterate_features(read_kept_features(str(world.folder / name)))
            for key, feature in zip(unit.features["key"].to_pylist(), feature_arrays(unit.features)[0], strict=True)
        }
        for name in ("wednesday", "full")
    )
    assert ours.keys() == theirs.keys() and len(ours) == NUM
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-4)


def test_labels_of_a_table_are_those_of_the_table_now(world: World):
    table = world.folder / "photos.csv"
    rows = [{"path": str(path), "category": "fox", "rationales": '["a bushy tail"]'} for path in world.files]
    pd.DataFrame(rows).to_csv(table, index=False)
    before = world.score("tuesday", input=str(table))
    rows[0] |= {"category": "owl", "rationales": '["pointed ears"]'}
    rows[1] |= {"category": None, "rationales": None}
    draw(world.files[2], seed=55, modified_s=LONG_AGO_S + 9)
    pd.DataFrame(rows[:-1]).to_csv(table, index=False)
    found = world.since("wednesday", input=str(table), since=before.output)
    assert counts_of(found) == {
        **{"listed": NUM - 1, "reused": NUM - 2, "changed": 1, "before": NUM, "vanished": 1, "compared": 1}
    }
    assert "owl" in set(assert_equal_to_full_run(world, found)["category_true"])
    assert sum(part.num_labelled for part in read_prediction_set(found.output).parts) == NUM - 2
    table.unlink()


def test_units_do_not_become_smaller_from_night_to_night(world: World):
    last = world.config.output
    for night in range(4):
        draw(world.photos / f"night-{night}.bmp", seed=300 + night)
        last = world.since(f"night-{night}", since=last).output
    units = [part.num_rows for part in read_prediction_set(last).parts]
    assert sum(units) == NUM + 4 and max(units) == 4
    assert len(units) <= 2 * (NUM + 4) / 4 + 1
    assert_equal_to_full_run(world, replace(world.config, output=last, since="any"))


def test_the_commands_of_the_docs(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[4] / "docs" / "since.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("ecor score ")]
    assert len(commands) == 2 and "--since" in commands[1]
    home = world.folder / "home"
    shutil.copytree(world.photos, home / "photos")
    monkeypatch.chdir(home)
    more = ["--tracking.uri", str(world.tracking.uri), "--max-rejected", "0.3"]
    assert main([*commands[0], *more, "--model", str(world.config.model)]) == EXIT_DONE
    draw(home / "photos" / "new.bmp", seed=99)
    assert main([*commands[1], *more]) == EXIT_DONE
    assert "since labels/monday: 16 images = 14 reused + 0 changed + 2 new; 14 labels before" in capfd.readouterr().err
    assert main([*commands[1], *more, "--precision", "fp16", "--output", "labels/wednesday"]) == 2
    found = capfd.readouterr().err
    assert re.search("precision was (fp32|bf16), is fp16", found) and "Traceback" not in found
    assert not (home / "labels" / "wednesday").exists()


# When it was labelled


def test_files_that_were_just_written_are_compared_by_content(world: World, images_read: dict):
    recent = [draw(world.photos / f"recent-{number}.bmp", seed=400 + number, modified_s=None) for number in range(2)]
    before = world.score("tuesday")
    facts = recent[0].stat()
    draw(recent[0], seed=500, modified_s=None)  # at once: on many disks with the same time
    os.utime(recent[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    images_read["compared"].clear()
    found = world.since("wednesday", since=before.output)
    assert sorted(images_read["compared"]) == [str(path) for path in recent]
    assert counts_of(found)["changed"] == 1
    assert_equal_to_full_run(world, found)


def test_an_image_that_changes_while_it_is_labelled_is_not_trusted(world: World, monkeypatch: pytest.MonkeyPatch):
    prepare = increment.prepare_listing
    late = world.files[6]

    def prepare_and_change(job: Any, *, folder: Any) -> Any:
        found = prepare(job, folder=folder)
        draw(late, seed=600, modified_s=LONG_AGO_S + 60)
        return found

    monkeypatch.setattr(score, "prepare_listing", prepare_and_change)
    before = world.score("tuesday")
    monkeypatch.undo()
    draw(late, seed=601, modified_s=LONG_AGO_S + 60)
    found = world.since("wednesday", since=before.output)
    assert counts_of(found) == {
        **{"listed": NUM + 1, "reused": NUM - 1, "changed": 1, "new": 1, "before": NUM, "compared": 1}
    }
    assert_equal_to_full_run(world, found)


def record_of(folder: str) -> Path:
    [path] = Path(folder, "_commits").glob("*/listing.parquet")
    return path


def test_labels_without_a_record_of_times_are_compared_by_content(
    world: World, capsys: pytest.CaptureFixture[str], images_read: dict
):
    older = world.folder / "older"
    shutil.copytree(world.config.output, older)
    record_of(str(older)).unlink()
    found = world.since("tuesday", since=str(older))
    assert "has no record of sizes and times" in capsys.readouterr().err
    assert counts_of(found)["compared"] == counts_of(found)["reused"] == NUM
    assert_equal_to_full_run(world, found)
    again = replace(world.config, output=str(older))
    score.run(again, tracking=world.tracking)
    assert not list(older.glob("_commits/*/listing.parquet")), "a time of now says nothing of what was labelled then"


def test_a_listing_is_recorded_once(world: World):
    before = read_listing(str(record_of(world.config.output).parent))
    os.utime(world.files[0], (LONG_AGO_S + 3, LONG_AGO_S + 3))
    score.run(world.config, tracking=world.tracking)
    assert read_listing(str(record_of(world.config.output).parent)).equals(before)
    assert before["num_bytes"].to_pylist()[1:] == [path.stat().st_size for path in world.files]


def test_times_near_the_listing_and_later_ones_are_unknown():
    facts = [filesystem.FileFacts(5, time) for time in (0, None, 10**12, 10**12 - SETTLED_S * 10**9, 10**15)]
    states = FileStates.of(facts, listed_ns=10**12)
    assert states.modified_ns.to_pylist() == [0, None, None, 10**12 - SETTLED_S * 10**9, None]
    assert states.num_bytes.to_pylist() == [5] * 5


def test_images_in_a_store(world: World):
    store = fsspec.filesystem("memory")
    for path in world.files:
        store.pipe_file(f"/since/{path.name}", path.read_bytes())
    before = world.score("tuesday", input="memory://since")
    store.pipe_file("/since/p00.bmp", world.files[1].read_bytes())
    store.rm_file("/since/p01.bmp")
    found = world.since("wednesday", input="memory://since", since=before.output)
    assert counts_of(found) == {
        **{"listed": NUM - 1, "reused": NUM - 2, "changed": 1, "before": NUM, "vanished": 1, "compared": NUM - 1}
    }
    assert_equal_to_full_run(world, found)


# Interrupted


@pytest.mark.parametrize("number", [0, 1, 2, 4, 6, 9])
def test_a_killed_job_resumes_with_its_plan(world: World, number: int):
    draw(world.photos / "new.bmp", seed=99)
    world.files[1].unlink()
    os.utime(world.files[4], (LONG_AGO_S + 5, LONG_AGO_S + 5))
    with ctrl_c_at_file(number):
        world.since("tuesday")
    found = world.since("tuesday")
    assert counts_of(found) == {
        **{"listed": NUM + 1, "reused": NUM - 1, "new": 2, "before": NUM, "vanished": 1, "compared": 1}
    }
    assert_equal_to_full_run(world, found)
    left = {path.name for path in Path(found.output).glob("*.parquet")} - {"quarantine.parquet", "vanished.parquet"}
    assert left == {part.name for part in read_prediction_set(found.output).parts}


def test_a_resumed_job_follows_the_plan_of_its_first_run(world: World, images_read: dict):
    os.utime(world.files[4], (LONG_AGO_S + 5, LONG_AGO_S + 5))
    with ctrl_c_at_file(4):
        world.since("tuesday")
    compared = list(images_read["compared"])
    for path in world.files:
        os.utime(path, (LONG_AGO_S + 50, LONG_AGO_S + 50))
    found = world.since("tuesday")
    assert images_read["compared"] == compared == [str(world.files[4])]
    assert_equal_to_full_run(world, found)


def test_a_finished_job_is_found_finished(world: World, capsys: pytest.CaptureFixture[str], images_read: dict):
    found = world.since("tuesday")
    lines = capsys.readouterr()
    assert f"since {world.config.output}: 15 images = 14 reused + 0 changed + 1 new; 14 labels before" in lines.err
    manifest = (Path(found.output) / "manifest.json").read_bytes()
    images_read["labelled"].clear()
    assert world.since("tuesday") == found
    assert "15 images = 14 reused" in capsys.readouterr().err
    assert (Path(found.output) / "manifest.json").read_bytes() == manifest and images_read["labelled"] == []


def test_a_unit_that_is_damaged_is_copied_again(world: World):
    found = world.since("tuesday")
    before = read_prediction_set(found.output)
    part = next(part for part in before.parts if part.unit.startswith("reused-"))
    (Path(found.output) / part.name).write_bytes(b"damaged")
    world.since("tuesday")
    after = read_prediction_set(found.output)
    assert after.digest == before.digest
    again = next(each for each in after.parts if each.unit == part.unit)
    assert read_part(found.output, again).num_rows == part.num_rows


def test_parents_and_metrics_name_the_earlier_labels(world: World):
    found = read_prediction_set(world.since("tuesday").output)
    before = read_prediction_set(world.config.output)
    assert (found.parents.since, found.parents.since_digest) == (world.config.output, before.digest)
    assert before.parents.since is None and "since" not in before.parents.to_record()
    assert found.run_id is not None
    run = MlflowClient(world.tracking.uri).get_run(found.run_id)
    assert run.data.tags["ecor.since_digest"] == before.digest
    assert (run.data.metrics["since.num_reused"], run.data.metrics["since.num_new"]) == (NUM, 1)


# Refused


REFUSED = {
    "scoring": ({"scoring": ScoringConfig(top_k=2)}, "scoring was"),
    "precision": ({"precision": "fp16"}, "precision was (fp32|bf16), is fp16"),
    "maps": ({"explain": "grad_eclip"}, "evidence was None"),
    "itself": ({"since": "{folder}/tuesday"}, "--output .*tuesday is in the folder of the earlier labels"),
    "within": ({"since": "{folder}"}, "is in the folder of the earlier labels: name another"),
    "nothing": ({"since": "{folder}/nothing"}, "holds no manifest.json: not a folder of labels, or not finished"),
    "features": ({"keep_features": True}, "holds labels without features"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(world: World, name: str):
    changes, reason = REFUSED[name]
    changes = {
        key: value.format(folder=world.folder) if isinstance(value, str) else value for key, value in changes.items()
    }
    with pytest.raises(ValueError, match=reason):
        world.since("tuesday", **changes)
    assert not (world.folder / "tuesday").exists()


def test_another_model_or_vocabulary_is_refused(world: World):
    other = tiny_checkpoint(world.folder / "other", seed=5).folder
    with pytest.raises(ValueError, match=r"were made otherwise: .*model_digest was .*leave out --since to label all"):
        world.since("tuesday", model=other)
    (world.folder / "other" / "names.json").write_text(json.dumps(OTHER_NAMES))
    with pytest.raises(ValueError, match="were made otherwise: vocabulary_digest was"):
        world.since("tuesday", vocabulary=str(world.folder / "other" / "names.json"))
    (world.folder / "other" / "names.json").write_text(json.dumps(NAMES))
    assert counts_of(world.since("tuesday", vocabulary=str(world.folder / "other" / "names.json")))["reused"] == NUM


def test_settings_that_exclude_each_other_are_refused():
    since = {"output": "out", "since": "monday"}
    with pytest.raises(ValueError, match="--since monday and --features sunday: name one"):
        ScoreConfig(**since, features="sunday")
    with pytest.raises(ValueError, match="--explain-images sample chooses among all images"):
        ScoreConfig(**since, input="photos", explain="grad_eclip", explain_images="sample")


def test_unfinished_and_damaged_labels_are_refused(world: World):
    half = world.folder / "half"
    shutil.copytree(world.config.output, half)
    (half / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds no manifest.json: not a folder of labels, or not finished"):
        world.since("tuesday", since=str(half))
    shutil.copy(Path(world.config.output) / "manifest.json", half)
    [identity] = half.glob("_commits/job/identity.json")
    kept = identity.read_bytes()
    identity.unlink()
    with pytest.raises(ValueError, match="no record of the settings that made its labels"):
        world.since("tuesday", since=str(half))
    identity.write_bytes(kept)
    record_of(str(half)).write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"listing.parquet is damaged .*--fresh"):
        world.since("tuesday", since=str(half))
    record_of(str(half)).unlink()
    part = read_prediction_set(str(half)).parts[1]
    (half / part.name).unlink()
    with pytest.raises(ValueError, match=f"part {part.name} is missing in .*score again to make it"):
        world.since("tuesday", since=str(half))
    shutil.copy(Path(world.config.output) / part.name, half)
    assert counts_of(world.since("tuesday", since=str(half)))["reused"] == NUM  # the corrected job takes the output


def test_a_folder_that_was_moved_is_told(world: World, capsys: pytest.CaptureFixture[str]):
    world.photos.rename(world.folder / "moved")
    found = world.since("tuesday", input=str(world.folder / "moved"))
    assert "no image of" in capsys.readouterr().err
    assert (counts_of(found)["new"], counts_of(found)["vanished"]) == (NUM + 1, NUM)
    (world.folder / "moved").rename(world.photos)
