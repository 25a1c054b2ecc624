"""Find the members of a plain tar by one pass over its headers, and read them by offset."""

import posixpath
import tarfile
from dataclasses import dataclass

from ecor.storage.members.member_files import Container, NamedMembers, plain_name

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""How compressed files begin, and what unpacks them."""
_BLOCK = tarfile.BLOCKSIZE
_UNKNOWN_BYTES = 1
"""Size of what cannot be read: of an empty file nobody would ask for the reason."""


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    num_bytes: int
    problem: str | None = None
    """Why it cannot be read."""


class TarFiles(NamedMembers[_Member]):
    """The plain files of a tar. A name that is there twice is the last one, as where a tar is unpacked."""

    def __init__(self, container: Container) -> None:
        """Read all headers.

        Raises:
            ValueError: when it is compressed, no tar, or damaged or cut anywhere between its members.
            OSError: when a disk or a store fails.
        """
        super().__init__(container, _read_headers(container))

    def read(self, name: str) -> bytes:
        member = self._readable(name)
        if member.num_bytes == 0:
            return b""
        return self._container.read(member.offset, member.offset + member.num_bytes)


def _read_headers(container: Container) -> dict[str, _Member]:
    start = container.read(0, min(8, container.num_bytes)) if container.num_bytes else b""
    for beginning, program in _COMPRESSED.items():
        if start.startswith(beginning):
            raise ValueError(f"{container.url} is compressed, so its members cannot be read by offset: run {program}")
    members: dict[str, _Member] = {}
    links: dict[str, str] = {}
    with container.store.open(container.path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (header := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it keeps all headers otherwise
                    _add(header, members=members, links=links, container=container)
                end = tar.offset  # type: ignore[attr-defined]
        except (tarfile.TarError, OverflowError, ValueError) as error:
            raise ValueError(f"{container.url} is no plain tar, or damaged: {error}") from error
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(f"{container.url} has no end: it was cut short, or is damaged at byte {end}")
    for name, target in links.items():
        members[name] = members.get(
            _follow(target, links), _Member(0, _UNKNOWN_BYTES, "is a link that leads to no member")
        )
    return members


def _add(header: tarfile.TarInfo, *, members: dict[str, _Member], links: dict[str, str], container: Container) -> None:
    name = plain_name(header.name)
    if header.isdir() or not name:
        return
    links.pop(name, None)
    if header.islnk() or header.issym():
        folder = posixpath.dirname(name) if header.issym() else ""
        links[name] = plain_name(posixpath.join(folder, header.linkname))
    elif not header.isreg() or header.issparse():
        members[name] = _Member(0, _UNKNOWN_BYTES, "is no plain file")
    elif header.offset_data + header.size > container.num_bytes:
        raise ValueError(f"member {header.name!r} says that it has {header.size} bytes, more than the tar has")
    else:
        members[name] = _Member(header.offset_data, header.size)


def _follow(target: str, links: dict[str, str]) -> str:
    for _ in range(len(links)):
        if target not in links:
            break
        target = links[target]
    return target
