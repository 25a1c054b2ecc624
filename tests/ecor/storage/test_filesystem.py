"""One law for local disks, memory and S3: whole files, true listings, one creator; and every failure in a line.

Also tests `addresses`, `store_errors` and `exclusive_create`, which are seen through `filesystem`.

Covers: `ecor.storage.addresses`, `ecor.storage.exclusive_create`, `ecor.storage.store_errors`.
"""

import io
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from pathlib import Path

import fsspec
import pytest

from ecor.data.samples import Sample
from ecor.data.shards import ShardEntry, fetch_shard, verify_shard, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage import exclusive_create, filesystem
from pipelines.__main__ import EXIT_USER_ERROR, main
from pipelines.config.infrastructure import absolute_address
from pipelines.config.stages import ShardConfig
from pipelines.runtime import retries
from pipelines.scoring.inputs import read_input
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.listing import list_images
from pipelines.storage.image_bytes import MissingError, UnreadableError, read_image_bytes
from pipelines.storage.record_store import RecordStore
from pipelines.storage.work_ledger import WorkLedger
from tests.support.prediction_rows import random_table

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'ecor[dev]'")
pytest.importorskip("moto", reason="moto is not installed: pip install 'ecor[dev]'")

from tests.support.gcs_server import gcs_in_use
from tests.support.s3_server import S3Server, s3_in_use

NUM_KEYS = 1100
"""More than a page of S3's listings holds."""
ODD_NAMES = ("a b.json", 'it\'s "x".json', "a::b.json", "50%.json", "a?b=c#d.json", "[a-z]*.json", "füchsin 🦊.json")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_in_use() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def in_s3(s3: S3Server) -> str:
    """An empty folder."""
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def in_gcs() -> Iterator[str]:
    """An empty folder."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'ecor[dev]'")
    with gcs_in_use():
        yield "gs://bucket/folder"


@pytest.fixture(params=["local", "memory", "gcs", pytest.param("s3", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("s3", "gcs"):
        return request.getfixturevalue(f"in_{request.param}")
    return str(tmp_path / "folder") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


# --- one law for all stores


def test_what_is_written_is_there_whole_and_listed_at_once(folder: str) -> None:
    assert filesystem.names_in(folder) == []
    assert not filesystem.exists(folder)
    for name in ("b", "a", "deep/er/c"):
        filesystem.write(filesystem.join(folder, name), name.encode() * 3)
        assert filesystem.read(filesystem.join(folder, name)) == name.encode() * 3
    filesystem.write(filesystem.join(folder, "a"), b"again")
    assert filesystem.read(f"{folder}/a", start=1, end=3) == b"ga"
    found = [(each.name, each.is_folder) for each in filesystem.list_folder(folder)]
    assert found == [("a", False), ("b", False), ("deep", True)]
    assert filesystem.files_below(folder) == {"a": 5, "b": 3, "deep/er/c": 27}
    assert (
        filesystem.is_folder(f"{folder}/deep")
        and filesystem.is_file(f"{folder}/a")
        and not filesystem.is_file(f"{folder}/deep")
    )
    assert (
        filesystem.modification_time(f"{folder}/a") is not None and filesystem.modification_time(f"{folder}/no") is None
    )
    for name in ("a", "a", "deep"):
        filesystem.remove(filesystem.join(folder, name))
    assert filesystem.files_below(folder) == {"b": 3}
    with pytest.raises(FileNotFoundError):
        filesystem.read(filesystem.join(folder, "a"))


def test_a_copy_is_whole_and_of_its_own(folder: str, tmp_path: Path) -> None:
    here = str(tmp_path / "here")
    for place in (folder, here):
        filesystem.write(f"{place}/a", b"first")
    filesystem.copy(f"{folder}/a", f"{folder}/deep/b")
    filesystem.copy(f"{folder}/a", f"{here}/c")
    filesystem.copy(f"{here}/a", f"{folder}/d")
    filesystem.copy(f"{here}/a", f"{folder}/deep/b")  # again, over it
    filesystem.write(f"{folder}/a", b"second")
    for path in (f"{folder}/deep/b", f"{here}/c", f"{folder}/d"):
        assert filesystem.read(path) == b"first"
    with pytest.raises(FileNotFoundError):
        filesystem.copy(f"{folder}/none", f"{folder}/e")
    assert sorted(filesystem.files_below(folder)) == ["a", "d", "deep/b"]


def test_names_are_names_whatever_signs_are_in_them(folder: str) -> None:
    names = [name for name in ODD_NAMES if "::" not in name or "memory" not in folder]  # fsspec's memory reads a chain
    for name in names:
        assert filesystem.create(filesystem.join(folder, name), name.encode())
        assert not filesystem.create(filesystem.join(folder, name), b"other")
    assert filesystem.names_in(folder) == sorted(names)
    assert [filesystem.read(filesystem.join(folder, name)).decode() for name in names] == names


def test_of_many_that_create_at_once_one_has_written(folder: str) -> None:
    for round_ in range(3):
        address, barrier = f"{folder}/{round_}", threading.Barrier(8)

        def deed(number: int, address: str = address, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return filesystem.create(address, f"{number}".encode())

        with ThreadPoolExecutor(8) as pool:
            wrote = list(pool.map(deed, range(8)))
        assert wrote.count(True) == 1
        assert filesystem.read(address) == f"{wrote.index(True)}".encode()


def test_a_folder_is_replaced_by_another_and_comes_back_whole(folder: str, tmp_path: Path) -> None:
    for version in ("first", "second"):
        source = tmp_path / version
        (source / "deep").mkdir(parents=True)
        (source / f"only-{version}").write_text(version)
        (source / "deep" / "record").write_text(version)
        filesystem.replace_folder(source, f"{folder}/model", last="deep/record")
        assert sorted(filesystem.files_below(f"{folder}/model")) == ["deep/record", f"only-{version}"]
    with filesystem.local_folder(f"{folder}/model") as local:
        assert (local / "deep" / "record").read_text() == "second"
    assert filesystem.names_in(folder) == ["model"]


def test_what_fails_on_the_way_leaves_nothing(folder: str) -> None:
    with pytest.raises(RuntimeError), filesystem.write_atomically(folder, "a.tar") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not path.exists()
    assert not filesystem.exists(f"{folder}/a.tar")


def test_a_place_is_one_place_with_or_without_a_slash_at_its_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_address("s3://bucket/labels/") == "s3://bucket/labels"
    assert (
        absolute_address("labels/")
        == absolute_address("labels")
        == absolute_address(f"file://{tmp_path}/labels")
        == f"{tmp_path}/labels"
    )
    assert filesystem.join("s3://bucket/labels/", "a") == filesystem.join("s3://bucket/labels", "a")


# --- S3


@pytest.mark.slow
def test_listings_of_more_than_a_page_are_whole(s3: S3Server, in_s3: str) -> None:
    names = [f"{number:05d}" for number in range(NUM_KEYS)]
    s3.fill(f"{in_s3}/_commits", [f"{name}.json" for name in names])
    s3.fill(f"{in_s3}/cats/whiskers", [f"{name}.png" for name in names])
    here = RecordStore(f"{in_s3}/_commits")
    assert here.names() == names
    assert here.read_all(names[::200]) == {name: {"name": f"{name}.json"} for name in names[::200]}
    assert len(filesystem.files_below(in_s3)) == 2 * NUM_KEYS
    found = read_input(f"{in_s3}/cats", unit_size=500)
    assert found.num_images == NUM_KEYS
    assert [each.path for unit in found.units for each in unit.files] == [
        f"{in_s3}/cats/whiskers/{name}.png" for name in names
    ]
    filesystem.remove(f"{in_s3}/_commits")
    source = find_source(ShardConfig(input=f"{in_s3}/", output="unused"))
    rows = [row for place in source.places for table in list_images(place) for row in table.to_pylist()]
    assert [row["source"] for row in rows] == [f"cats/whiskers/{name}.png" for name in names]
    assert {row["category"] for row in rows} == {"cats"}


@pytest.mark.slow
def test_a_marker_of_a_folder_is_no_file(s3: S3Server, in_s3: str) -> None:
    file_system, path = filesystem.store_of(in_s3)
    file_system.pipe_file(f"{path}/cats/", b"")
    filesystem.write(f"{in_s3}/cats/a.png", b"a")
    assert filesystem.names_in(f"{in_s3}/cats") == ["a.png"]
    assert filesystem.files_below(f"{in_s3}/cats") == {"a.png": 1}


@pytest.mark.slow
def test_a_misspelt_bucket_is_named_and_not_made(s3: S3Server) -> None:
    for deed in (filesystem.write, filesystem.create):
        with pytest.raises(FileNotFoundError, match=r"s3://bukket/a.* bucket does not exist"):
            deed("s3://bukket/a", b"")
    assert not filesystem.exists("s3://bukket")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "period"), [("refuse", 2), ("lose", 3)])
def test_a_store_that_fails_delays_a_ledger_and_changes_nothing(
    s3: S3Server, in_s3: str, kind: str, period: int
) -> None:
    """`lose`: the deed is done, and the answer says that it is not."""
    ledger, units = WorkLedger(f"{in_s3}/ledger", lease_s=600), ["unit 0", "unit 1"]
    with s3.faulty(kind=kind, period=period), ledger.hold_lease():
        for unit, attempt in ledger.claim_all(units).items():
            filesystem.write(f"{in_s3}/{unit}-{attempt.name}", unit.encode())
            assert ledger.commit(attempt, {"file": f"{unit}-{attempt.name}"}) == {"file": f"{unit}-{attempt.name}"}
        assert list(ledger.read_commits()) == units
        num_faults = s3.num_faults
    assert num_faults > 5
    assert ledger.read_commits() == {unit: ledger.record(unit) for unit in units}
    links = [f"ledger/unit%20{number}~{link}.json" for number in range(2) for link in range(2)]
    files = [each["file"] for each in ledger.read_commits().values()]
    assert sorted(filesystem.files_below(in_s3)) == sorted(links + files)


@pytest.mark.slow
def test_a_slow_store_is_waited_for(s3: S3Server, in_s3: str, monkeypatch) -> None:
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "read_timeout", 1)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with s3.faulty(kind="wait", seconds=0.3, period=2):
            filesystem.write(f"{in_s3}/a", b"slow")
            assert filesystem.read(f"{in_s3}/a") == b"slow"
        with s3.faulty(kind="wait", seconds=3, times=2):
            assert filesystem.read(f"{in_s3}/a") == b"slow"
            assert s3.num_faults == 2
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.slow
def test_where_a_condition_is_not_heard_the_last_writer_counts(s3: S3Server, in_s3: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr(exclusive_create, "SETTLE_S", 0.5)
    with s3.faulty(kind="unconditional"):
        test_of_many_that_create_at_once_one_has_written(in_s3)
        assert filesystem.create(f"{in_s3}/mine", b"1") and filesystem.create(
            f"{in_s3}/mine", b"1"
        )  # its answer may get lost
        assert not filesystem.create(f"{in_s3}/mine", b"2")
    assert f"{in_s3.removeprefix('s3://')} cannot create exclusively" in caplog.text
    assert [name for name in filesystem.names_in(in_s3) if name.startswith(".probe")] == []


@pytest.mark.slow
def test_an_attempt_that_was_taken_over_never_counts(in_s3: str) -> None:
    folders = [PredictionsFolder(f"{in_s3}/labels", identity={"input": "i"}, lease_s=600) for _ in range(2)]
    rows = random_table(3, seed=1), random_table(3, seed=2)
    for each in folders:
        each.claim_folder()
        each.units.renew()
    late = folders[0].claim_units(["0"])["0"]
    assert folders[1].claim_units(["0"]) == {}
    folders[0].units.release()  # as when it stood still for longer than its lease
    winner = folders[1].claim_units(["0"])["0"]
    assert winner.took_over
    counts = folders[1].save(winner, rows=rows[1], rejected=(), parents={})
    assert folders[0].save(late, rows=rows[0], rejected=(), parents={}) == counts
    assert folders[0].read_commits()["0"] == counts
    folders[0].remove_uncommitted(folders[0].read_commits())
    assert [name for name in filesystem.names_in(f"{in_s3}/labels") if name.endswith(".parquet")] == [counts.part.name]


@pytest.mark.slow
def test_a_shard_in_a_store_is_verified_and_kept_by_digest(s3: S3Server, in_s3: str, tmp_path: Path) -> None:
    names = vocabulary_from_mapping({"cat": ["a tail"]})
    info = write_shard([entry(number) for number in range(3)], folder=in_s3, name="0.tar", vocabulary=names)
    assert info == write_shard([entry(n) for n in range(3)], folder=tmp_path, name="0.tar", vocabulary=names)
    verify_shard(in_s3, info)
    with s3.faulty(kind="refuse", methods=("GET",), times=1):
        path = fetch_shard(in_s3, info, cache_dir=tmp_path / "cache")
    assert path.read_bytes() == (tmp_path / "0.tar").read_bytes()
    with s3.faulty():
        assert fetch_shard(in_s3, info, cache_dir=tmp_path / "cache") == path
        assert s3.num_requests == 0
    filesystem.write(f"{in_s3}/0.tar", path.read_bytes()[:-512])
    with pytest.raises(ValueError, match=rf"{in_s3}/0.tar has {info.num_bytes - 512} bytes"):
        verify_shard(in_s3, info)
    filesystem.remove(f"{in_s3}/0.tar")
    with pytest.raises(ValueError, match=f"{in_s3}/0.tar is missing"):
        verify_shard(in_s3, info)


# --- failures, in a line


def told_by(words: list[str]) -> str:
    """What the command says of a mistake of the user's: one line."""
    with redirect_stderr(io.StringIO()) as said:
        assert main(words) == EXIT_USER_ERROR
    lines = said.getvalue().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_what_is_wrong_with_a_picture_is_told_apart_from_what_is_wrong_with_its_store(s3: S3Server, in_s3: str) -> None:
    filesystem.write(f"{in_s3}/a.png", b"a picture")
    filesystem.write(f"{in_s3}/empty.png", b"")
    assert (read_image_bytes(f"{in_s3}/a.png"), read_image_bytes(f"{in_s3}/empty.png")) == (b"a picture", b"")
    with pytest.raises(MissingError):
        read_image_bytes(f"{in_s3}/nowhere.png")
    for address in (in_s3, "s3://No_Bucket!/a.png"):
        with pytest.raises(UnreadableError):
            read_image_bytes(address)
    with s3.faulty(kind="deny"), pytest.raises(UnreadableError):
        read_image_bytes(f"{in_s3}/a.png")
    with s3.faulty(kind="unknown"), pytest.raises(filesystem.CredentialsError):
        read_image_bytes(f"{in_s3}/a.png")
    with s3.faulty(kind="lose", times=3):
        assert read_image_bytes(f"{in_s3}/a.png") == b"a picture"


def test_pictures_are_read_from_googles_store(in_gcs: str) -> None:
    filesystem.write(f"{in_gcs}/a.png", b"a picture")
    filesystem.write(f"{in_gcs}/empty.png", b"")
    assert (read_image_bytes(f"{in_gcs}/a.png"), read_image_bytes(f"{in_gcs}/empty.png")) == (b"a picture", b"")
    with pytest.raises(MissingError):
        read_image_bytes(f"{in_gcs}/nowhere.png")


@pytest.mark.slow
def test_a_store_that_denies_is_told_in_a_line_without_its_secret(s3: S3Server, in_s3: str) -> None:
    with s3.faulty(kind="deny"):
        line = told_by(["evaluate", "--predictions", f"{in_s3}/labels", "--output", f"{in_s3}/evaluation"])
    assert line.startswith(f"ecor: {in_s3}/evaluation/manifest.json: ")
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in line


@pytest.mark.slow
def test_missing_credentials_are_told_with_what_to_set(s3: S3Server, in_s3: str, monkeypatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        line = told_by(["report", "--predictions", f"{in_s3}/labels", "--output", str(tmp_path / "page.html")])
        assert "no credentials" in line and "AWS_ACCESS_KEY_ID" in line
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_missing_client_is_told_with_the_extra_that_brings_it(monkeypatch) -> None:
    def without(protocol: str) -> type:
        raise ImportError(f"Install {protocol} to access it")

    monkeypatch.setattr(fsspec, "get_filesystem_class", without)
    for address, client in (("s3://bucket/a", "s3fs"), ("gs://bucket/a", "gcsfs")):
        with pytest.raises(ValueError, match=rf"{address}: {client} is not installed: pip install 'ecor\[remote\]'"):
            filesystem.read(address)


def test_a_store_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nosuch://a/b: Protocol not known: nosuch"):
        filesystem.read("nosuch://a/b")
    line = told_by(["report", "--predictions", "nosuch://labels", "--output", str(tmp_path / "page.html")])
    assert "nosuch://" in line and "s3://" in line


def entry(number: int) -> ShardEntry:
    sample = Sample(
        key=f"{number:04d}",
        image=bytes([number]) * 5000,
        extension="png",
        category="cat",
        rationales=("a tail",),
        visible_rationales=None,
        source=f"{number}.png",
    )
    return ShardEntry(sample=sample)


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,) * len(retries.PAUSES_S))
