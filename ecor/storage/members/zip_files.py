"""Find the members of a zip by its directory, and read stored and deflated ones by offset, with bounded memory."""

import struct
import zipfile
import zlib
from dataclasses import dataclass

from ecor.storage.members.member_files import Container, MemberError, NamedMembers, plain_name

_HEADER = struct.Struct("<4s22xHH")
"""Of a member: its signature, and the lengths of its name and its extra fields."""
_SIGNATURE = b"PK\x03\x04"
_SLACK = 1024
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_UNIX_KIND, _PLAIN = 0o170000, 0o100000
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class _Member:
    header_offset: int
    num_packed: int
    num_bytes: int
    method: int
    checksum: int
    problem: str | None
    """Why it cannot be read."""


class ZipFiles(NamedMembers[_Member]):
    """The plain files of a zip. A name that is there twice is the last one, as where a zip is unpacked."""

    def __init__(self, container: Container) -> None:
        """Read the directory at the end of the file.

        Raises:
            ValueError: when it is no zip, or damaged or cut.
            OSError: when a disk or a store fails.
        """
        with container.store.open(container.path, "rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    found = [each for each in archive.infolist() if not each.is_dir()]
            except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
                raise ValueError(f"{container.url} is no zip, or damaged: {error}") from error
        super().__init__(container, {plain_name(each.filename): _member(each) for each in found})

    def read(self, name: str) -> bytes:
        """All bytes of a member; never more than its directory says, whatever it unpacks to."""
        member, where = self._readable(name), f"{self._container.url}!/{name}"
        packed = self._read_packed(member, where=where)
        data = packed if member.method == _STORED else _inflate(packed, most=member.num_bytes, where=where)
        if len(data) != member.num_bytes or zlib.crc32(data) != member.checksum:
            raise MemberError(f"{where} is damaged: it is not what the zip's directory says")
        return data

    def _read_packed(self, member: _Member, *, where: str) -> bytes:
        container, start = self._container, member.header_offset
        header = container.read(start, start + _HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_SIGNATURE):
            raise MemberError(f"{where} is damaged: no member begins at byte {start}")
        _, name_length, extra_length = _HEADER.unpack(header)
        start += _HEADER.size + name_length + extra_length
        if start + member.num_packed > container.num_bytes:
            raise MemberError(f"{where} is damaged: it ends after the zip")
        return container.read(start, start + member.num_packed) if member.num_packed else b""


def _member(info: zipfile.ZipInfo) -> _Member:
    kind = (info.external_attr >> 16) & _UNIX_KIND
    problem = None
    if info.flag_bits & _ENCRYPTED:
        problem = "is encrypted: unpack the zip with its password"
    elif info.compress_type not in (_STORED, _DEFLATED):
        method = zipfile.compressor_names.get(info.compress_type, str(info.compress_type))  # type: ignore[attr-defined]
        problem = f"is compressed by {method}, which is not read: store or deflate it"
    elif kind not in (0, _PLAIN):
        problem = "is no plain file"
    elif info.compress_size > info.file_size * 1.01 + _SLACK:
        problem = "is damaged: it is packed to more bytes than it has"
    return _Member(info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC, problem)


def _inflate(packed: bytes, *, most: int, where: str) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most + 1)
    except zlib.error as error:
        raise MemberError(f"{where} is damaged: {error}") from error
