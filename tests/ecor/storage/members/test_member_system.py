"""Members of archives and rows are files: names, bytes, links and damage, compared with `tarfile`, `zipfile`, pyarrow.

Covers: `ecor.storage.members.member_address`, `ecor.storage.members.member_files`, `ecor.storage.members.tar_files`,
`ecor.storage.members.zip_files`, `ecor.storage.members.row_files`,
`ecor.storage.members.parquet_rows`.
"""

import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.storage import filesystem
from ecor.storage.members.member_address import split_member
from pipelines.storage import image_bytes
from pipelines.storage.image_bytes import MissingError, UnreadableError, read_image_bytes

FILES = {"a/1.jpg": b"one", "a/b.c/2.v1.jpg": os.urandom(5000), "empty.png": b"", "z" * 150 + "/3.jpg": b"long"}


def write_tar(path: Path, files: dict[str, bytes], *, extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        for header in extra:
            tar.addfile(header)
    return path


def write_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


@pytest.mark.parametrize("suffix", ["tar", "zip", "TAR"])
def test_members_are_files_and_folders(tmp_path: Path, suffix: str):
    write = write_zip if suffix == "zip" else write_tar
    root = f"{write(tmp_path / f'x.{suffix}', FILES)}!"
    assert filesystem.files_below(root) == {name: len(data) for name, data in sorted(FILES.items())}
    assert {name: read_image_bytes(f"{root}/{name}") for name in FILES} == FILES
    assert filesystem.names_in(f"{root}/a") == ["1.jpg", "b.c"]
    assert [each.is_folder for each in filesystem.list_folder(f"{root}/a")] == [False, True]
    assert filesystem.is_folder(root) and filesystem.is_folder(f"{root}/a") and filesystem.is_file(f"{root}/a/1.jpg")
    assert not filesystem.exists(f"{root}/a/1") and not filesystem.is_local(f"{root}/a/1.jpg")
    with pytest.raises(MissingError):
        read_image_bytes(f"{root}/a/none.jpg")


def test_names_lead_nowhere_else_and_links_to_members(tmp_path: Path):
    files = {"./a.jpg": b"a", "../up.jpg": b"up", "/etc/b.jpg": b"b", "twice.jpg": b"old"}
    extra = (
        link("link.jpg", "a.jpg"),
        link("hard.jpg", "etc/b.jpg", tarfile.LNKTYPE),
        link("out.jpg", "/etc/passwd"),
        link("round.jpg", "round.jpg"),
        link("device", "", tarfile.CHRTYPE),
    )
    path = write_tar(tmp_path / "x.tar", files, extra=extra)
    with tarfile.open(path, "a") as tar:
        header = tarfile.TarInfo("twice.jpg")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"new"))
    root = f"{path}!"
    found = {name: read_image_bytes(f"{root}/{name}") for name in ("a.jpg", "up.jpg", "etc/b.jpg", "link.jpg")}
    assert found == {"a.jpg": b"a", "up.jpg": b"up", "etc/b.jpg": b"b", "link.jpg": b"a"}
    assert read_image_bytes(f"{root}/hard.jpg") == b"b"
    assert read_image_bytes(f"{root}/twice.jpg") == b"new"  # as where the tar is unpacked
    for name, problem in (("out.jpg", "leads to no member"), ("round.jpg", "no member"), ("device", "no plain file")):
        with pytest.raises(UnreadableError, match=problem):
            read_image_bytes(f"{root}/{name}")


@pytest.mark.parametrize("place", [0, 300, 512, 700, 1600, -2048, -10240])
def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path: Path, place: int):
    data = write_tar(tmp_path / "x.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b"}).read_bytes().rstrip(b"\0")
    (tmp_path / "cut.tar").write_bytes(data[:place])
    with pytest.raises(ValueError, match=r"cut\.tar (is no plain tar, or damaged|has no end)"):
        filesystem.files_below(f"{tmp_path}/cut.tar!")


def test_damage_in_headers_never_loses_a_member_silently(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", {f"{number}.jpg": bytes([number]) * 100 for number in range(9)})
    data, chance = path.read_bytes(), random.Random(0)
    for _ in range(40):
        header = 1024 * chance.randrange(9)
        place = header + chance.randrange(345)
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        os.utime(path, ns=(chance.randrange(10**18), chance.randrange(10**18)))  # a new state within a clock's tick
        with pytest.raises(ValueError, match=r"x\.tar"):
            filesystem.files_below(f"{path}!")


@pytest.mark.parametrize(("start", "program"), [(b"\x1f\x8b\x08", "gunzip"), (b"BZh9", "bunzip2")])
def test_a_compressed_tar_is_refused_with_the_program(tmp_path: Path, start: bytes, program: str):
    (tmp_path / "x.tar").write_bytes(start + bytes(2000))
    with pytest.raises(ValueError, match=f"compressed.*run {program}"):
        filesystem.files_below(f"{tmp_path}/x.tar!")


def test_a_zip_never_unpacks_to_more_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_zip(tmp_path / "bomb.zip", {"big.png": bytes(10_000_000)})
    monkeypatch.setattr(image_bytes, "MAX_BYTES", 1_000_000)
    with pytest.raises(UnreadableError, match="has 10000000 bytes, more than 1000000"):
        read_image_bytes(f"{path}!/big.png")
    data = path.read_bytes()
    lie = (10_000_000).to_bytes(4, "little")
    path.write_bytes(data.replace(lie, (1000).to_bytes(4, "little")))
    with pytest.raises(UnreadableError, match="is damaged: it is packed to more bytes than it has"):
        read_image_bytes(f"{path}!/big.png")
    path.write_bytes(data.replace(lie, (20_000).to_bytes(4, "little")))
    with pytest.raises(UnreadableError, match="is not what the zip's directory says"):
        read_image_bytes(f"{path}!/big.png")


def test_members_of_a_zip_that_cannot_be_read_are_told(tmp_path: Path):
    path = write_zip(tmp_path / "x.zip", {"a.jpg": b"a" * 99}, method=zipfile.ZIP_BZIP2)
    with pytest.raises(UnreadableError, match="compressed by bzip2, which is not read"):
        read_image_bytes(f"{path}!/a.jpg")
    path = write_zip(tmp_path / "y.zip", {"a.jpg": b"a" * 99, "b.jpg": b"b" * 99}, method=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"a" * 99, b"a" * 98 + b"x"))
    with pytest.raises(UnreadableError, match="damaged"):
        read_image_bytes(f"{path}!/a.jpg")
    assert read_image_bytes(f"{path}!/b.jpg") == b"b" * 99
    encrypted = bytearray(path.read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "z.zip").write_bytes(encrypted)
    with pytest.raises(UnreadableError, match="is encrypted"):
        read_image_bytes(f"{tmp_path}/z.zip!/a.jpg")
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="is no zip, or damaged"):
        filesystem.files_below(f"{tmp_path}/cut.zip!")


def test_a_folder_that_is_called_as_members_are_is_a_folder(tmp_path: Path):
    (tmp_path / "x.tar!").mkdir()
    (tmp_path / "x.tar!" / "a.jpg").write_bytes(b"a")
    assert split_member(f"{tmp_path}/x.tar!/a.jpg") is not None
    assert read_image_bytes(f"{tmp_path}/x.tar!/a.jpg") == b"a"
    assert filesystem.files_below(f"{tmp_path}/x.tar!") == {"a.jpg": 1}


def test_a_file_that_changes_is_read_anew_and_one_in_a_store_by_ranges(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a"})
    assert read_image_bytes(f"{path}!/a.jpg") == b"a"
    write_tar(path, {"b.jpg": b"b" * 600, "a.jpg": b"new"})
    assert read_image_bytes(f"{path}!/a.jpg") == b"new"
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/x.tar", path.read_bytes())
    assert filesystem.files_below("memory://bucket/x.tar!") == {"a.jpg": 3, "b.jpg": 600}
    assert filesystem.read("memory://bucket/x.tar!/a.jpg") == b"new"


def rows(num: int = 100) -> tuple[list[bytes | None], pa.Table]:
    chance = random.Random(1)
    values = [None if number % 7 == 0 else chance.randbytes(50 + number) for number in range(num)]
    pairs = [{"bytes": value, "path": f"{number}.jpg"} for number, value in enumerate(values)]
    return values, pa.table({"image": pairs, "raw": pa.array(values), "label": list(range(num))})


def write_rows(table: pa.Table, path: Path, *, kind: str) -> Path:
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=30)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    return path


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_images_of_rows_are_read_in_any_order(tmp_path: Path, kind: str):
    values, table = rows()
    path = write_rows(table, tmp_path / f"t.{'parquet' if kind == 'parquet' else 'arrow'}", kind=kind)
    order = random.Random(2).sample(range(100), 100)
    for column in ("image", "raw"):
        for number in order:
            if (value := values[number]) is not None:
                assert read_image_bytes(f"{path}!/{column}/{number}") == value
                continue
            with pytest.raises(MissingError, match=f"row {number} has no bytes"):
                read_image_bytes(f"{path}!/{column}/{number}")
    for name in ("image/100", "image/-1", "label/1", "none/1", "image"):
        with pytest.raises(MissingError):
            read_image_bytes(f"{path}!/{name}")


def test_a_row_group_is_unpacked_to_disk_once_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ecor.storage.members import parquet_rows

    values, table = rows()
    path = write_rows(table, tmp_path / "t.parquet", kind="parquet")
    unpacked = []
    unpack = parquet_rows.ParquetRows._unpack

    def counted(self, path, *, column, group):
        unpacked.append(group)
        return unpack(self, path, column=column, group=group)

    monkeypatch.setattr(parquet_rows.ParquetRows, "_unpack", counted)
    for number in (1, 2, 99, 3, 97):
        assert read_image_bytes(f"{path}!/raw/{number}") == (values[number])
    assert unpacked == [0, 3]
    monkeypatch.setattr(parquet_rows, "_most_unpacked_bytes", lambda: 0)
    for number in (31, 1, 31):
        read_image_bytes(f"{path}!/raw/{number}")
    assert unpacked == [0, 3, 1, 0, 1]


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_damaged_file_of_rows_is_refused(tmp_path: Path, kind: str):
    suffix = "parquet" if kind == "parquet" else "arrow"
    path = write_rows(rows()[1], tmp_path / f"t.{suffix}", kind=kind)
    for size in (0, 3, 100, path.stat().st_size // 2, path.stat().st_size - 6):
        (tmp_path / f"cut{size}.{suffix}").write_bytes(path.read_bytes()[:size])
        with pytest.raises(UnreadableError, match=f"cut{size}.*damaged"):
            read_image_bytes(f"{tmp_path}/cut{size}.{suffix}!/image/1")
