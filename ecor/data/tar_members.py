"""Encode samples as members of a tar file, and read them back with checks of the format.

Per sample `<key>.<jpg|png|…>` (the image's bytes untouched), `<key>.json` (all labels and provenance) and, where the
category is known, `<key>.cls` (its id as text) and `<key>.txt` (a caption). Tars are written and read without
webdataset: its TarWriter tells no offsets and takes longer than hashing, checking and writing take here
(benchmarks/sharding.py). Its readers read them; the tests hold us to that.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ecor.config.model import TemplateConfig
from ecor.data.samples import Sample
from ecor.data.templates import category_sentence, pair_sentence
from ecor.data.vocabulary import Vocabulary
from ecor.storage.digests import bytes_sha256

_BLOCK = tarfile.BLOCKSIZE
_NOT_IMAGES = ("json", "cls", "txt")
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class HashingWriter:
    """Write to a file, and count and hash the bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.num_bytes += len(data)

    def end(self) -> None:
        """Close the tar: two empty blocks, and more up to a whole record."""
        self.write(bytes(_padding(self.num_bytes, block=tarfile.RECORDSIZE, at_least=2 * _BLOCK)))


def write_sample(
    sample: Sample,
    *,
    out: HashingWriter,
    sha256: str,
    provenance: Mapping[str, Any],
    vocabulary: Vocabulary,
    templates: TemplateConfig,
) -> int:
    """Write a sample's members, and return the byte offset of its image in the tar.

    Args:
        sample: with an image as encoded bytes.
        out: the tar.
        sha256: of the image's bytes, in hex.
        provenance: more JSON values for the `.json` member; labels win over them.
        vocabulary: gives the id for the `.cls` member.
        templates: of the caption in the `.txt` member.

    Raises:
        ValueError: when the key is empty, too long for a tar, or holds a dot or a slash, or the vocabulary lacks the
            category.
    """
    if "." in sample.key or "/" in sample.key or not sample.key:
        raise ValueError(f"key {sample.key!r} of {sample.source} must not be empty nor hold a dot or a slash")
    labels = {
        "category": sample.category,
        "key": sample.key,
        "rationales": list(sample.rationales),
        "sha256": sha256,
        "source": sample.source,
        "visible_rationales": None if sample.visible_rationales is None else list(sample.visible_rationales),
    }
    others = {"json": json_bytes({**provenance, **labels})}
    if sample.category is not None:
        others["cls"] = str(vocabulary.category_id(sample.category)).encode()
        others["txt"] = _caption(sample, category=sample.category, templates=templates).encode()
    members = [_tar_member(f"{sample.key}.{extension}", data) for extension, data in others.items()]
    out.write(tar_header(f"{sample.key}.{sample.extension}", num_bytes=len(sample.image)))
    offset = out.num_bytes
    out.write(sample.image)
    out.write(bytes(_padding(len(sample.image), block=_BLOCK)) + b"".join(members))
    return offset


def _caption(sample: Sample, *, category: str, templates: TemplateConfig) -> str:
    if not sample.rationales:
        return category_sentence(templates, category)
    return pair_sentence(templates, category, sample.rationales[0])


def _tar_member(name: str, data: bytes) -> bytes:
    return tar_header(name, num_bytes=len(data)) + data + bytes(_padding(len(data), block=_BLOCK))


@lru_cache(maxsize=1)
def _header_template() -> tuple[bytes, int]:
    """The header of a file without a name, size and checksum, and the sum of its bytes: the same for all members."""
    member = tarfile.TarInfo("")
    member.mode, member.uname, member.gname = 0o444, "ecor", "ecor"
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    header[124:135] = bytes(11)
    header[148:156] = b" " * 8
    return bytes(header), sum(header)


def tar_header(name: str, *, num_bytes: int) -> bytes:
    """Header of a tar member (POSIX ustar): as `TarInfo.tobuf` with fixed metadata, ten times as fast.

    Args:
        name: of the member, at most 100 bytes.
        num_bytes: size of its content.

    Raises:
        ValueError: when the name or the content is too long.
    """
    encoded, size = name.encode(), b"%011o" % num_bytes
    if len(encoded) > 100 or len(size) > 11:
        raise ValueError(f"tar member {name!r} of {num_bytes} bytes: names have at most 100 bytes, files 8 GiB")
    template, sum_of_template = _header_template()
    checksum = b"%06o\0" % (sum_of_template + sum(encoded) + sum(size))
    return b"".join((encoded, template[len(encoded) : 124], size, template[135:148], checksum, template[155:]))


def _padding(num_bytes: int, *, block: int, at_least: int = 0) -> int:
    return at_least + -(num_bytes + at_least) % block


def read_samples(path: Path, *, where: str) -> Iterator[Sample]:
    """Yield all samples of a tar in its order.

    Args:
        path: of the tar, on this machine.
        where: begins the messages of errors.

    Raises:
        ValueError: naming the member, when keys are unsorted, repeated or hold a slash, a member is no plain file, or a
            sample lacks its one image or the `.json` that describes it; also when the tar is damaged or cut short.
    """
    before = ""
    try:
        with tarfile.open(path, "r:") as tar:
            _check_end(path, where=where)
            for key, members in groupby(_plain_members(tar, where=where), key=lambda each: each.name.partition(".")[0]):
                if key <= before:
                    raise ValueError(f"{where}: key {key!r} comes after {before!r}: keys are sorted, each there once")
                yield _sample_from_members(key, [(each, _read_member(tar, each)) for each in members], where=where)
                before = key
    except (tarfile.TarError, OverflowError) as error:
        raise ValueError(f"{where} is no plain tar, or damaged: {error}") from error


def _check_end(path: Path, *, where: str) -> None:
    """Raise ValueError unless the tar ends with two empty blocks; `tarfile` accepts a truncated tar."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _BLOCK))
        if file.read() != bytes(2 * _BLOCK):
            raise ValueError(f"{where} has no end: it was cut short")


def _plain_members(tar: tarfile.TarFile, *, where: str) -> Iterator[tarfile.TarInfo]:
    num_bytes = Path(str(tar.name)).stat().st_size
    for member in tar:
        key, dot, extension = member.name.partition(".")
        if member.offset_data + member.size > num_bytes:  # before memory is taken for it
            raise ValueError(f"{where}: member {member.name!r} says that it has {member.size} bytes: damaged")
        if not member.isreg() or not key or "/" in member.name or not dot or not extension:
            raise ValueError(f"{where}: member {member.name!r} is not a plain file <key>.<extension>")
        yield member


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, f"{member.name} is a plain file"
    return file.read()


def _sample_from_members(key: str, members: Sequence[tuple[tarfile.TarInfo, bytes]], *, where: str) -> Sample:
    contents = {member.name.partition(".")[2]: data for member, data in members}
    images = [extension for extension in contents if extension not in _NOT_IMAGES]
    if len(contents) < len(members) or len(images) != 1 or "json" not in contents:
        names = [member.name for member, _ in members]
        raise ValueError(f"{where}: sample {key!r} needs one image and one .json, each member once, got {names}")
    try:
        row = json.loads(contents["json"])
        sample = sample_from_row({**row, "extension": images[0]}, image=contents[images[0]])
        sha256 = row["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {key}.json does not describe a sample: {error!r}") from error
    if sample.key != key or bytes_sha256(sample.image) != sha256:
        raise ValueError(f"{where}: {key}.json is of another sample or image, {sample.key!r} with sha256 {sha256}")
    return sample


def sample_from_row(row: Mapping[str, Any], *, image: bytes) -> Sample:
    """Build a sample from its labels and its image.

    Args:
        row: the sample's `.json` with its `extension`, or its row of the index.
        image: encoded, as it came.
    """
    visible = row["visible_rationales"]
    return Sample(
        key=row["key"],
        image=image,
        extension=row["extension"],
        category=row["category"],
        rationales=tuple(row["rationales"]),
        visible_rationales=None if visible is None else tuple(visible),
        source=row["source"],
    )


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """One line of JSON that is the same for the same value."""
    return _ENCODER.encode(value).encode()


def read_members(path: str | Path, index: pa.Table, *, rows: Sequence[int]) -> list[Sample]:
    """Read some samples of a tar on this machine, by seeking.

    Args:
        path: as `fetch_shard` returns it.
        index: as `read_index` returns it.
        rows: positions in the index, in the order of the result.

    Raises:
        ValueError: when an image does not hash to the digest in the index.
    """
    samples = []
    with Path(path).open("rb") as tar:
        for row in index.take(pa.array(rows, pa.int64())).to_pylist():
            tar.seek(row["member_offset"])
            image = tar.read(row["member_num_bytes"])
            if bytes_sha256(image) != row["sha256"]:
                raise ValueError(f"{path}: image {row['key']} at byte {row['member_offset']} is not what was written")
            samples.append(sample_from_row(row, image=image))
    return samples
