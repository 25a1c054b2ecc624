"""Shards with `--since` hold what a full run makes, byte by byte; earlier tars stay as they are; splits do not change.

Covers: `pipelines.sharding.incremental.earlier_shards`, `pipelines.sharding.incremental.image_record`,
`pipelines.sharding.incremental.increment`, `pipelines.sharding.incremental.kept_tars`,
`pipelines.sharding.incremental.known_images`, `pipelines.sharding.incremental.tar_plan`.
"""

import json
import os
import re
import shlex
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ecor.data.shard_manifest import ShardManifest, read_shard_manifest
from ecor.data.shards import read_shard
from ecor.storage import filesystem
from pipelines.__main__ import EXIT_DONE, main
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.stages import ShardConfig
from pipelines.sharding import inspection, shard_writer
from pipelines.sharding.incremental.image_record import RECORD_NAME
from pipelines.stages import shard
from tests.pipelines.stages.test_shard import VOCABULARY, config_for, dror_world, picture, put, summary_of
from tests.support.image_forms import as_parquet, as_web_dataset, as_zip, pictures
from tests.support.processes import hit

HERE = ClusterConfig(num_cpus=1)
LONG_AGO_S = 1_700_000_000
NUM = 60


def place(path: Path, number: int, *, modified_s: int = LONG_AGO_S) -> Path:
    """A picture that was written long ago; all have the same number of pixels, so that sizes may be equal."""
    put(path, picture(number))
    os.utime(path, (modified_s, modified_s))
    return path


def members_of(output: str | Path) -> dict[str, dict[str, bytes]]:
    """Each file in the tars of each split, after these were verified."""
    found: dict[str, dict[str, bytes]] = {}
    for split, manifest in manifests_of(output).items():
        files = found.setdefault(split, {})
        for info in manifest.shards:
            assert sum(1 for _ in read_shard(f"{output}/{split}", info)) == info.num_samples
            with filesystem.open_file(f"{output}/{split}/{info.name}") as file, tarfile.open(fileobj=file) as tar:
                for member in tar:
                    assert member.name not in files, "no sample is there twice"
                    extracted = tar.extractfile(member)
                    assert extracted is not None
                    files[member.name] = extracted.read()
    return found


def manifests_of(output: str | Path) -> dict[str, ShardManifest]:
    names = filesystem.names_in(output)
    return {
        name: read_shard_manifest(f"{output}/{name}")
        for name in names
        if filesystem.exists(f"{output}/{name}/manifest.json")
    }


def tables_of(output: Path) -> dict[str, list[dict]]:
    return {name: pq.read_table(output / f"{name}.parquet").to_pylist() for name in ("quarantine", "duplicates")}


def assert_as_a_full_run(config: ShardConfig) -> None:
    """Samples, tables and the numbers of the manifests are those of all images sharded anew."""
    full = replace(config, since=None, output=f"{config.output}-full", fresh=True)
    shard.run(full, cluster=HERE)
    assert members_of(config.output) == members_of(full.output)
    assert tables_of(Path(config.output)) == tables_of(Path(full.output))
    for split, theirs in manifests_of(full.output).items():
        ours = manifests_of(config.output)[split]
        for name in ("num_samples", "num_rejected", "num_duplicates", "vocabulary_digest", "config_digest"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert len(ours.shards) <= 2 * len(theirs.shards) + 1
        assert [info.name for info in ours.shards] == [f"{number}.tar" for number in range(len(ours.shards))]
        assert (Path(config.output) / split / "nshards.txt").read_text() == f"{len(ours.shards)}\n"


@dataclass(frozen=True, kw_only=True)
class Store:
    """Images, and finished shards of them."""

    images: Path
    monday: ShardConfig

    def since(self, name: str = "tuesday", **changes: Any) -> ShardConfig:
        """Shards that take over those of monday, done."""
        output = str(Path(self.monday.output).with_name(name))
        config = replace(self.monday, **({"since": self.monday.output, "output": output} | changes))
        shard.run(config, cluster=HERE)
        return config

    @property
    def files(self) -> list[Path]:
        return sorted(self.images.rglob("*.png"))


def drawn(root: Path) -> Path:
    """Images of three categories; the splits are decided by shares."""
    for number in range(NUM):
        place(root / sorted(VOCABULARY)[number % 3] / f"p{number:03d}.png", number)
    place(root / "cat" / "copy-of-0.png", 0)
    put(root / "dog" / "broken.png", picture(900)[:50])
    (root / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    monday = config_for(drawn(tmp_path / "images"), tmp_path / "monday", samples_per_shard=8)
    shard.run(monday, cluster=HERE)
    return Store(images=tmp_path / "images", monday=monday)


@pytest.fixture
def given(tmp_path: Path) -> Store:
    """A store whose input has splits, in DROR's layout."""
    dror_world(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*"):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    monday = config_for(tmp_path / "images", tmp_path / "monday", samples_per_shard=4, max_rejected=0.2)
    shard.run(monday, cluster=HERE)
    return Store(images=tmp_path / "images", monday=monday)


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read, as often as they are."""
    found: list[str] = []
    read = inspection.read_image_bytes

    def note(url: str, **settings: Any) -> bytes:
        found.append(Path(url).name)
        return read(url, **settings)

    monkeypatch.setattr(inspection, "read_image_bytes", note)
    return found


def counts_of(config: ShardConfig) -> dict[str, int]:
    found = summary_of(Path(config.output))["since"]
    return {name.removeprefix("num_"): value for name, value in found.items() if name.startswith("num_") and value}


def vanished_of(config: ShardConfig) -> list[str]:
    return [Path(each).name for each in pd.read_parquet(Path(config.output) / "vanished.parquet")["source"]]


def content_of(folder: str) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file of a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# What is taken over


def test_nothing_new_reads_no_image_and_links_every_tar(store: Store, images_read: list[str]):
    (store.images / "dog" / "broken.png").unlink()  # what was rejected is tried again
    tuesday = store.since()
    assert images_read == []
    num_tars = sum(len(each.shards) for each in manifests_of(store.monday.output).values())
    assert counts_of(tuesday) == {
        **{"listed": NUM + 1, "unchanged": NUM + 1, "before": NUM + 1},
        **{"tars": num_tars, "tars_kept": num_tars, "tars_before": num_tars},
    }
    for path in Path(tuesday.output).glob("*/*.tar"):
        assert path.samefile(Path(store.monday.output) / path.parent.name / path.name)
    assert_as_a_full_run(tuesday)


def test_only_new_images_are_read_and_the_earlier_shards_stay_as_they_are(store: Store, images_read: list[str]):
    before = content_of(store.monday.output)
    for number in range(3):
        place(store.images / "stone" / f"new{number}.png", 200 + number)
    tuesday = store.since()
    assert set(images_read) == {"broken.png", "new0.png", "new1.png", "new2.png"}
    assert {name: counts_of(tuesday)[name] for name in ("listed", "unchanged", "new")} == {
        **{"listed": NUM + 5, "unchanged": NUM + 1, "new": 4}
    }
    assert content_of(store.monday.output) == before
    assert_as_a_full_run(tuesday)
    shutil.rmtree(store.monday.output)
    assert members_of(tuesday.output) == members_of(f"{tuesday.output}-full"), "monday is not needed any more"


def test_a_vanished_and_a_changed_image_are_in_no_tar_any_more(store: Store):
    gone, changed = store.files[3], store.files[-5]
    old = [path.read_bytes() for path in (gone, changed)]
    gone.unlink()
    place(changed, 777, modified_s=LONG_AGO_S + 5)
    tuesday = store.since()
    assert vanished_of(tuesday) == [gone.name]
    assert {name: counts_of(tuesday)[name] for name in ("changed", "vanished")} == {"changed": 1, "vanished": 1}
    assert counts_of(tuesday)["tars_kept"] > 0
    assert_as_a_full_run(tuesday)
    for files in members_of(tuesday.output).values():
        assert not set(old) & set(files.values())


def test_another_time_is_decided_by_content(store: Store, images_read: list[str], monkeypatch: pytest.MonkeyPatch):
    touched = store.files[5]
    os.utime(touched, (LONG_AGO_S + 9, LONG_AGO_S + 9))
    decoded, decode = list[bytes](), inspection.decode_image
    monkeypatch.setattr(inspection, "decode_image", lambda data: decoded.append(data) or decode(data))
    tuesday = store.since()
    assert sorted(images_read) == ["broken.png", touched.name]
    assert touched.read_bytes() not in decoded, "what was valid is not decoded again"
    assert counts_of(tuesday)["unchanged"] == NUM + 1
    assert counts_of(tuesday)["tars_kept"] == counts_of(tuesday)["tars"]


def test_a_new_content_of_the_same_size_and_time_is_found_where_contents_are_compared(store: Store):
    one, data = store.files[2], store.files[2].read_bytes()
    others = (each for number in range(1000, 3000) if len(each := picture(number)) == len(data))
    one.write_bytes(next(others))
    os.utime(one, (LONG_AGO_S, LONG_AGO_S))
    assert counts_of(store.since("by-time")).get("changed") is None  # what size and time cannot tell
    by_content = store.since("by-content", since_check="content")
    assert counts_of(by_content)["changed"] == 1
    assert_as_a_full_run(by_content)


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path, images_read: list[str]):
    drawn(tmp_path / "images")
    young = tmp_path / "images" / "cat" / "young.png"
    put(young, picture(500))
    monday = config_for(tmp_path / "images", tmp_path / "monday", samples_per_shard=8)
    shard.run(monday, cluster=HERE)
    images_read.clear()
    Store(images=tmp_path / "images", monday=monday).since()
    assert sorted(images_read) == ["broken.png", "young.png"]


def test_labels_of_a_table_are_those_of_the_table_now(tmp_path: Path):
    images = [place(tmp_path / "images" / f"{number}.png", number) for number in range(24)]
    table = tmp_path / "table.csv"
    rows = [
        {"path": str(path), "category": "cat", "rationales": '["whiskers"]', "split": "test" if number < 5 else "train"}
        for number, path in enumerate(images)
    ]
    rows.append(rows[7] | {"rationales": '["a tail"]'})  # one file in two rows
    (tmp_path / "names.json").write_text(json.dumps(VOCABULARY))
    pd.DataFrame(rows).to_csv(table, index=False)
    names = {"vocabulary": str(tmp_path / "names.json"), "samples_per_shard": 8}
    monday = config_for(table, tmp_path / "monday", **names)
    shard.run(monday, cluster=HERE)
    rows[9] |= {"category": "dog", "rationales": '["a tail"]'}
    del rows[12]
    pd.DataFrame(rows).to_csv(table, index=False)
    tuesday = Store(images=tmp_path / "images", monday=monday).since()
    assert {name: counts_of(tuesday)[name] for name in ("listed", "unchanged", "changed", "vanished")} == {
        **{"listed": 23, "unchanged": 22, "changed": 1, "vanished": 1}
    }
    assert_as_a_full_run(tuesday)


def change(path: Path, *, how: int, name: str, random: np.random.Generator) -> None:
    """Remove, replace, rename, copy or touch an image, or put another one beside it."""
    [
        lambda: path.unlink(),
        lambda: place(path, int(random.integers(10_000, 20_000)), modified_s=LONG_AGO_S + 20),
        lambda: path.rename(path.with_name(f"renamed-{name}-{path.name}")),
        lambda: shutil.copy2(path, path.parents[1] / "stone" / f"copy-{name}-{path.name}"),
        lambda: os.utime(path, (LONG_AGO_S + 50, LONG_AGO_S + 50)),
        lambda: place(path.with_name(f"new-{name}-{path.name}"), int(random.integers(1000, 10_000))),
    ][how]()


@pytest.mark.parametrize("seed", range(3))
def test_after_any_nights_the_shards_are_those_of_a_full_run(store: Store, seed: int):
    random = np.random.default_rng(seed)
    last, where = store.monday, dict[str, str]()
    for night in range(4):
        for index in random.permutation(len(store.files))[: random.integers(0, 12)]:
            change(store.files[index], how=random.integers(6), name=f"{night}-{index}", random=random)
        last = store.since(f"night-{night}", since=last.output)
        for row in pq.read_table(Path(last.output) / RECORD_NAME).to_pylist():
            assert where.setdefault(row["sha256"], row["split"]) == row["split"], "no content changes its split"
        assert_as_a_full_run(last)


def test_tars_do_not_become_smaller_from_night_to_night(store: Store):
    last = store.monday
    for night in range(12):
        place(store.images / "cat" / f"night-{night}.png", 300 + night)
        last = store.since(f"night-{night}", since=last.output)
    for split, manifest in manifests_of(last.output).items():
        sizes = [info.num_samples for info in manifest.shards]
        assert max(sizes) <= 8 and sum(2 * size < 8 for size in sizes) <= 1, (split, sizes)
    assert_as_a_full_run(last)


# Splits


def test_given_splits(given: Store):
    place(given.images / "train/cat/whiskers/0/new.png", 600)
    place(given.images / "test/cat/whiskers/0/new.png", 601)
    (given.images / "train/dog/a_wet-nose/3/p.v2.JPG").unlink()
    (given.images / "test/dog/a tail/0/b.png").unlink()
    tuesday = given.since()
    assert counts_of(tuesday)["vanished"] == 2
    assert_as_a_full_run(tuesday)


def test_a_new_copy_in_another_split_is_left_out_also_from_a_test_split(given: Store, capsys: pytest.CaptureFixture):
    content = picture(3)
    before = next(split for split, files in members_of(given.monday.output).items() if content in files.values())
    place(given.images / "test/stone/moss/0/copy.png", 3)
    place(given.images / "train/cat/whiskers/0/copy-of-test.png", 302)
    tuesday = given.since()
    said = capsys.readouterr().err
    assert (
        f"left out 2 new images whose content {given.monday.output} has in another split: 1 of test in {before}" in said
    )
    splits = {split for split, files in members_of(tuesday.output).items() if content in files.values()}
    assert splits == {before}
    gone = {row["source"] for row in tables_of(Path(tuesday.output))["duplicates"]}
    assert {"test/stone/moss/0/copy.png", "train/cat/whiskers/0/copy-of-test.png"} <= gone


def test_an_image_that_was_moved_to_another_split_is_refused(given: Store):
    source = given.images / "train/cat/whiskers/0/3.png"
    source.rename(given.images / "test/cat/whiskers/0/moved.png")
    with pytest.raises(ValueError, match=r"1 images have another split than in .*moved\.png: \w+, now test.*again"):
        given.since()
    assert not list(given.images.parent.glob("tuesday/*/manifest.json"))


def test_a_new_folder_of_validation_would_move_images_and_is_refused(given: Store):
    place(given.images / "validation/cat/whiskers/0/new.png", 700)
    has_moved = len(manifests_of(given.monday.output)["validation"].shards) > 0
    if not has_moved:
        given.since()
        return
    with pytest.raises(ValueError, match=r"images have another split than in .*: validation, now train"):
        given.since()


# Interrupted and damaged


def test_a_job_that_was_killed_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch):
    for number in range(9):
        place(store.images / "cat" / f"new{number}.png", 200 + number)
    store.files[30].unlink()
    calls: list[str] = []

    def failing(name: str) -> Callable[..., Any]:
        real = getattr(shard_writer, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) % 3 == 0:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return call

    for name in ("take_over_tar", "write_shard"):
        monkeypatch.setattr(shard_writer, name, failing(name))
    for _ in range(20):
        try:
            tuesday = store.since()
            break
        except KeyboardInterrupt:
            assert not list((store.images.parent / "tuesday").glob("*/manifest.json"))
    monkeypatch.undo()
    assert len(calls) > 6 and summary_of(Path(tuesday.output))["num_shards_kept"] > 0
    assert_as_a_full_run(tuesday)
    before = content_of(tuesday.output)
    store.since()
    changed = {name for name, each in content_of(tuesday.output).items() if before[name] != each}
    assert all(name in ("summary.json", "vanished.parquet") for name in changed), "a finished run changes no shard"


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_the_next_one_needs(store: Store, tmp_path: Path):
    for number in range(40):
        place(store.images / "cat" / f"new{number}.png", 200 + number)
    tuesday = tmp_path / "tuesday"
    words = ["shard", "--input", str(store.images), "--output", str(tuesday), "--since", store.monday.output]
    words += ["--samples-per-shard", "8", "--max-rejected", "0.1", "--cluster.num-cpus", "1"]
    blow = hit(words, blow=signal.SIGKILL, when=lambda: any(tuesday.glob("*/*.tar")), log=tmp_path / "log")
    assert blow == -signal.SIGKILL and not (tuesday / "summary.json").exists()
    assert_as_a_full_run(store.since())


@pytest.mark.parametrize("damage", ["missing", "cut off", "altered", "index"])
def test_a_damaged_earlier_tar_is_told(store: Store, damage: str):
    tar = next(iter(sorted(Path(store.monday.output).glob("train/*.tar"))))
    data = tar.read_bytes()
    if damage == "missing":
        tar.unlink()
    elif damage == "index":
        tar.with_name("0.index.parquet").write_bytes(b"PAR1")
    else:
        tar.write_bytes(data[: len(data) // 2] if damage == "cut off" else data[:700] + b"x" + data[701:])
    message = {
        "missing": "train/0.tar is missing: leave out --since",
        "cut off": r"train/0.tar has \d+ bytes, its manifest says \d+: leave out --since",
        "index": "index .*0.index.parquet has sha256",
        "altered": "train/0.tar has sha256",
    }[damage]
    if damage == "altered":  # linked without being read: whoever reads it finds out, and so does the next run
        tuesday = store.since()
        with pytest.raises(ValueError, match=message):
            members_of(tuesday.output)
    with pytest.raises(ValueError, match=message):
        store.since()


def test_a_damaged_new_tar_is_made_again(store: Store):
    tuesday = store.since()
    expected = members_of(tuesday.output)
    for path in sorted(Path(tuesday.output).glob("train/*.tar"))[:2]:
        path.unlink()
    assert members_of(store.since().output) == expected


# What must be equal


def test_what_does_not_fit_is_refused(store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match=r"other settings \(samples_per_shard was 8, is 9\): repeat those"):
        store.since(samples_per_shard=9)
    with pytest.raises(ValueError, match=r"--output .*monday is --since .*monday, or lies in it: name another output"):
        store.since("monday", fresh=True)
    with pytest.raises(ValueError, match=r"--output .*monday/train is --since .*monday, or lies in it"):
        store.since(output=f"{store.monday.output}/train", fresh=True)
    assert manifests_of(store.monday.output)
    with pytest.raises(ValueError, match=r"monday/train holds no finished shards: name the output folder"):
        store.since(since=f"{store.monday.output}/train")
    with pytest.raises(ValueError, match="none holds no finished shards"):
        store.since(since=str(tmp_path / "none"))
    other = tmp_path / "other.json"
    other.write_text(json.dumps(VOCABULARY | {"stone": ["moss", "cracks"]}))
    with pytest.raises(ValueError, match=r"have the vocabulary .* Pass --vocabulary .*monday/vocabulary.json"):
        store.since(vocabulary=str(other))
    record = Path(store.monday.output) / RECORD_NAME
    data = record.read_bytes()
    record.write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"images.parquet is damaged"):
        store.since()
    place(store.images / "cat" / "new.png", 200)
    shutil.copy(Path(store.since("again", since=None).output) / RECORD_NAME, record)
    with pytest.raises(ValueError, match=r"images.parquet is of other shards"):
        store.since()
    record.unlink()
    with pytest.raises(ValueError, match=r"images.parquet is not there: the shards are of an older version"):
        store.since()
    assert not (tmp_path / "tuesday").exists()


def test_a_new_name_needs_a_new_vocabulary(tmp_path: Path):
    """Where nobody wrote a vocabulary, it is that of the earlier shards."""
    (drawn(tmp_path / "images") / "vocabulary.json").unlink()
    monday = config_for(tmp_path / "images", tmp_path / "monday", samples_per_shard=8)
    shard.run(monday, cluster=HERE)
    store = Store(images=tmp_path / "images", monday=monday)
    place(store.images / "cat" / "new.png", 200)
    assert_as_a_full_run(store.since())
    place(store.images / "zebra" / "new.png", 201)
    with pytest.raises(ValueError, match=r"zebra.*it is that of .*monday, so for new names leave out --since"):
        store.since("wednesday")


def test_another_earlier_set_needs_another_output(store: Store):
    tuesday = store.since()
    place(store.images / "cat" / "new.png", 200)
    wednesday = store.since("wednesday", since=tuesday.output)
    with pytest.raises(ValueError, match=r"was made from something else \(since was .*: name another output"):
        store.since("wednesday")
    assert_as_a_full_run(store.since("wednesday", fresh=True))
    assert wednesday.output != tuesday.output


# Stores


def test_shards_in_a_store_are_copied_there(store: Store, tmp_path: Path):
    monday = replace(store.monday, output="memory://since/monday")
    shard.run(monday, cluster=HERE)
    place(store.images / "cat" / "new.png", 200)
    store.files[4].unlink()
    shard.run(replace(monday, since=monday.output, output="memory://since/tuesday"), cluster=HERE)
    shard.run(replace(monday, since=monday.output, output=str(tmp_path / "from-store")), cluster=HERE)
    shard.run(replace(monday, output=str(tmp_path / "full")), cluster=HERE)
    expected = members_of(tmp_path / "full")
    assert members_of("memory://since/tuesday") == members_of(tmp_path / "from-store") == expected


def test_the_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[4] / "docs" / "since.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("ecor shard ")]
    assert len(commands) == 2 and "--since" in commands[1]
    drawn(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    more = ["--cluster.num-cpus", "1", "--samples-per-shard", "8"]
    assert main([*commands[0], *more]) == EXIT_DONE
    place(tmp_path / "photos" / "cat" / "new.png", 200)
    assert main([*commands[1], *more]) == EXIT_DONE
    said = capfd.readouterr().err
    assert re.search(r"since shards/monday: 63 images = 61 unchanged \+ 0 changed \+ 2 new; 61 before = ", said)
    assert main([*commands[1], *more, "--validate", "header"]) == 2
    assert "other settings (validate was decode, is header)" in capfd.readouterr().err


@pytest.mark.parametrize("form", [as_parquet, as_zip, as_web_dataset])
def test_images_of_an_unchanged_archive_or_table_are_not_read_again(form, tmp_path, images_read):
    """If it has changed, all its images are read and compared; the tars of those that stay are kept."""
    images = pictures()
    store = form(images, tmp_path)
    files = [store] if store.is_file() else list(store.glob("*"))

    def shard_as(name: str, **settings: Any) -> ShardConfig:
        config = config_for(store, tmp_path / name, samples_per_shard=4, **settings)
        images_read.clear()
        shard.run(config, cluster=HERE)
        return config

    for path in files:
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    monday = shard_as("monday")
    assert len(images_read) >= len(images)
    tuesday = shard_as("tuesday", since=monday.output)
    assert not images_read and counts_of(tuesday)["unchanged"] == len(images)
    assert members_of(tuesday.output) == members_of(monday.output)
    for path in files:
        os.utime(path, (LONG_AGO_S + 9, LONG_AGO_S + 9))
    wednesday = shard_as("wednesday", since=tuesday.output)
    assert len(images_read) == len(images) and counts_of(wednesday)["unchanged"] == len(images)
