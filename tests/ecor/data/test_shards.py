"""Tars are the same bytes for the same entries, say where everything is, and are never read when altered.

Also tests `shard_manifest`.

Covers: `ecor.data.shard_manifest`, `ecor.data.tar_members`.
"""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ecor.data.samples import Sample, sample_key
from ecor.data.shard_manifest import ShardManifest, read_shard_manifest, write_shard_manifest, write_side_files
from ecor.data.shards import INDEX_SCHEMA, ShardEntry, fetch_shard, read_index, read_shard, verify_shard, write_shard
from ecor.data.tar_members import read_members, tar_header
from ecor.data.vocabulary import vocabulary_from_mapping

VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers", "a tail"], "dog": ["a wet nose", "a tail"], "stone": []})


def picture(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (colour, 40, 200)).save(file, "png")
    return file.getvalue()


def sample(number: int, **changes) -> Sample:
    fields = {
        "key": f"{number:04d}-x",
        "image": picture(number),
        "extension": "png",
        "category": "cat",
        "rationales": ("a tail", "whiskers"),
        "visible_rationales": None,
        "source": f"train/cat/a tail/0/{number}.png",
    }
    return Sample(**(fields | changes))


SAMPLES = [
    sample(0),
    sample(1, category="dog", rationales=("a wet nose",), visible_rationales=("a tail", "a wet nose")),
    sample(2, category="stone", rationales=(), visible_rationales=()),
    sample(3, category=None, rationales=(), source="ünbekannt/3.png"),
]


def written(folder: Path, samples=SAMPLES, **changes):
    entries = [ShardEntry(sample=each, provenance={"split": "train"}) for each in samples]
    arguments = {"folder": folder, "name": "0.tar", "vocabulary": VOCABULARY}
    return write_shard(entries, **(arguments | changes))


def manifest_of(*shards, **changes) -> ShardManifest:
    fields = {
        "split": "train",
        "shards": shards,
        "vocabulary_digest": VOCABULARY.digest,
        "num_samples": sum(shard.num_samples for shard in shards),
        "num_rejected": 1,
        "num_duplicates": 2,
        "config_digest": "c",
        "parents": {"input": "i"},
    }
    return ShardManifest(**(fields | changes))


def test_samples_come_back_as_they_were(tmp_path):
    info = written(tmp_path)
    assert list(read_shard(tmp_path, info)) == SAMPLES
    assert info.num_samples == 4
    assert info.num_bytes == (tmp_path / "0.tar").stat().st_size


def test_the_same_entries_make_the_same_bytes(tmp_path):
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert (tmp_path / "a/0.tar").read_bytes() == (tmp_path / "b/0.tar").read_bytes()


def test_nothing_but_the_shard_and_its_index_is_left(tmp_path):
    info = written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [info.index, info.name]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="sort the entries"):
        written(tmp_path, [sample(1), sample(0)])
    assert list(tmp_path.iterdir()) == []


def test_members_as_tarfile_sees_them(tmp_path):
    written(tmp_path)
    with tarfile.open(tmp_path / "0.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
        assert {(m.mtime, m.uname, m.gname, m.uid, m.mode) for m in tar} == {(0, "ecor", "ecor", 0, 0o444)}
    assert members["0000-x.png"] == SAMPLES[0].image
    assert members["0001-x.cls"] == b"1"
    assert members["0001-x.txt"] == b"This is a photo of a dog because there is a wet nose."
    assert members["0002-x.txt"] == b"This is a photo of a stone."
    assert "0003-x.cls" not in members and "0003-x.txt" not in members
    told = json.loads(members["0000-x.json"])
    assert told["rationales"] == ["a tail", "whiskers"] and told["split"] == "train"
    assert told["sha256"] == hashlib.sha256(SAMPLES[0].image).hexdigest()


def test_any_row_is_found_by_its_offset(tmp_path):
    info = written(tmp_path)
    index = read_index(tmp_path, info)
    assert index.schema.equals(INDEX_SCHEMA)
    assert read_members(tmp_path / "0.tar", index, rows=[3, 0, 3]) == [SAMPLES[3], SAMPLES[0], SAMPLES[3]]
    assert read_members(tmp_path / "0.tar", index, rows=[]) == []


def test_an_empty_shard_is_a_tar(tmp_path):
    info = written(tmp_path, [])
    assert list(read_shard(tmp_path, info)) == []
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert tar.getnames() == []


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=24),
    num_bytes=st.integers(0, 8**11 - 1),
)
def test_tar_headers_are_tarfiles_own(name, num_bytes):
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uname, member.gname = num_bytes, 0o444, "ecor", "ecor"
    assert tar_header(name, num_bytes=num_bytes) == member.tobuf(tarfile.USTAR_FORMAT, "utf-8")


@settings(max_examples=30)
@given(images=st.lists(st.binary(max_size=2000), max_size=6))
def test_bytes_of_any_length_pass_through(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    samples = [sample(number, image=image) for number, image in enumerate(images)]
    info = written(folder, samples)
    assert list(read_shard(folder, info)) == samples
    assert read_members(folder / "0.tar", read_index(folder, info), rows=range(len(images))) == samples


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
LABELLED = st.builds(
    dict,
    image=st.binary(max_size=600),
    extension=st.sampled_from(["jpg", "png", "webp", "tif"]),
    category=st.none() | st.sampled_from(VOCABULARY.categories),
    rationales=st.lists(TEXTS, max_size=3).map(tuple),
    visible_rationales=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
    source=TEXTS,
)


@settings(max_examples=40)
@given(labels=st.lists(LABELLED, max_size=4), stems=st.data())
def test_any_sample_comes_back_by_every_reader(labels, stems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    keys = stems.draw(st.sets(st.from_regex(r"[A-Za-z0-9_-]{1,60}", fullmatch=True), min_size=len(labels)))
    samples = [sample(0, key=key, **fields) for key, fields in zip(sorted(keys), labels, strict=False)]
    info = written(folder, samples)
    assert list(read_shard(folder, info)) == samples
    assert read_members(folder / "0.tar", read_index(folder, info), rows=range(len(samples))) == samples
    with tarfile.open(folder / "0.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert {f"{each.key}.{each.extension}": each.image for each in samples}.items() <= members.items()
    assert written(folder, samples, name="1.tar").sha256 == info.sha256, "the same samples, the same bytes"


@pytest.mark.parametrize("cut", [1, 512, 3000, 9000])
def test_a_shortened_tar_is_refused_with_both_sizes(tmp_path, cut):
    info = written(tmp_path)
    path = tmp_path / "0.tar"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(
        ValueError, match=rf"0\.tar has {info.num_bytes - cut} bytes, its manifest says {info.num_bytes}"
    ):
        list(read_shard(tmp_path, info))


def test_an_altered_byte_is_refused_with_both_digests(tmp_path):
    info = written(tmp_path)
    path = tmp_path / "0.tar"
    data = bytearray(path.read_bytes())
    data[520] ^= 1  # in the first image
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"0.tar has sha256 .*, its manifest says {info.sha256}"):
        fetch_shard(tmp_path, info)
    with pytest.raises(ValueError, match="is not what was written"):
        read_members(path, read_index(tmp_path, info), rows=[0])


def test_an_altered_or_missing_index_is_refused(tmp_path):
    info = written(tmp_path)
    path = tmp_path / info.index
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=info.index_sha256):
        read_index(tmp_path, info)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        verify_shard(tmp_path, info)


def test_fewer_samples_than_promised_are_an_error(tmp_path):
    info = dataclasses.replace(written(tmp_path), num_samples=5)
    with pytest.raises(ValueError, match=r"0\.index\.parquet has 4 rows, expected 5"):
        list(read_shard(tmp_path, info))


def test_an_image_that_changed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="changed while it was sharded"):
        write_shard(
            [ShardEntry(sample=sample(0), sha256="0" * 64)], folder=tmp_path, name="0.tar", vocabulary=VOCABULARY
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "a.b"}, "dot"),
        ({"key": "a/b"}, "slash"),
        ({"key": "k" * 101}, "at most 100"),
        ({"category": "cart"}, "nearest known one is 'cat'"),
    ],
)
def test_what_a_tar_cannot_hold_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, [sample(0, **changes)])


def test_remote_shards_are_cached_by_digest(tmp_path):
    folder = "memory://split-remote"
    info = written(folder)
    path = fetch_shard(folder, info, cache_dir=tmp_path)
    assert path.name == f"{info.sha256}.tar"
    assert list(read_shard(folder, info, cache_dir=tmp_path)) == SAMPLES
    path.write_bytes(b"damaged")
    assert list(read_shard(folder, info, cache_dir=tmp_path)) == SAMPLES
    assert read_index(folder, info).num_rows == 4


class StumblingStore(MemoryFileSystem):
    """Read in small pieces; one read, counted over all files, moves on in its file and then fails."""

    protocol = "stumbling"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    blocksize = 500
    reads: ClassVar[Iterator[int]] = count()
    fails_at: ClassVar[int] = -1

    def open(self, path, mode="rb", **kwargs):
        file = super().open(path, mode, **kwargs)
        if mode == "rb":
            whole = file.read

            def read(num_bytes=-1):
                data = whole(num_bytes)
                if next(self.reads) == self.fails_at:
                    raise OSError("the connection was reset")
                return data

            file.read = read
        return file


def test_a_read_that_fails_on_the_way_loses_no_sample(tmp_path, monkeypatch):
    """Wherever it fails: who went on reading in the same stream, as Ray's own reader does, would get fewer samples."""
    fsspec.register_implementation("stumbling", StumblingStore, clobber=True)
    folder = "stumbling://split"
    info = written(folder)
    num_reads = info.num_bytes // StumblingStore.blocksize + 3
    for point in range(num_reads):
        monkeypatch.setattr(StumblingStore, "reads", count())
        monkeypatch.setattr(StumblingStore, "fails_at", point)
        assert list(read_shard(folder, info, cache_dir=tmp_path / str(point))) == SAMPLES, point
    assert next(StumblingStore.reads) >= num_reads, "all of them are points at which something is read"


def test_a_damaged_remote_shard_is_refused_after_all_attempts(tmp_path):
    folder = "memory://split-damaged"
    info = written(folder)
    fsspec.filesystem("memory").pipe_file("/split-damaged/0.tar", b"short")
    with pytest.raises(OSError, match=f"read 5 bytes .* its manifest says {info.num_bytes}"):
        fetch_shard(folder, info, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_manifests_come_back_and_tell_when_they_were_changed(tmp_path):
    manifest = manifest_of(written(tmp_path))
    write_shard_manifest(manifest, tmp_path)
    assert read_shard_manifest(tmp_path) == manifest
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"num_rejected": 1', '"num_rejected": 0'))
    with pytest.raises(ValueError, match=f"was changed.*{manifest.digest}"):
        read_shard_manifest(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a manifest"):
        read_shard_manifest(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="run `ecor shard`"):
        read_shard_manifest(tmp_path)


def test_a_manifest_adds_up(tmp_path):
    with pytest.raises(ValueError, match="5 samples, but its shards hold 4"):
        manifest_of(written(tmp_path), num_samples=5)


def test_side_files_for_others(tmp_path):
    write_side_files(tmp_path, vocabulary=VOCABULARY)
    assert (tmp_path / "classnames.txt").read_text().splitlines() == ["cat", "dog", "stone"]
    assert (tmp_path / "zeroshot_classification_templates.txt").read_text() == "This is a photo of a {c}.\n"


@given(source=st.text(min_size=1), sha256=st.binary(min_size=32, max_size=32).map(bytes.hex))
def test_keys_are_fit_for_a_tar_and_follow_the_content(source, sha256):
    key = sample_key(source, sha256=sha256)
    assert not set(key) & set("./ \0") and len(f"{key}.index".encode()) <= 100
    assert key.startswith(sha256[:12])
    assert key != sample_key(source + "x", sha256=sha256)
