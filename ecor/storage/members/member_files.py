"""What the readers of archives and of rows have in common: names, sizes, bytes, and errors of one member."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from ecor.storage.store_errors import AddressError


class MemberError(AddressError):
    """A member that cannot be read, and could not on another attempt: damaged, encrypted, no plain file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The file that holds members."""

    url: str
    store: Any
    """File system of fsspec."""
    path: str
    """In the store."""
    num_bytes: int
    modified: Any
    """Time of the last write, as the store tells it; None where it tells none."""

    def read(self, start: int, end: int) -> bytes:
        """A range of its bytes."""
        return self.store.cat_file(self.path, start=start, end=end)


@runtime_checkable
class MemberFiles(Protocol):
    """The members of one file; safe for several threads."""

    @property
    def names(self) -> Sequence[str]:
        """Relative paths of all members, sorted; empty where members are found by their number only."""

    def num_bytes(self, name: str) -> int:
        """Size of a member. Raises FileNotFoundError when there is none of this name."""

    def read(self, name: str) -> bytes:
        """All bytes of a member. Raises FileNotFoundError, MemberError."""


@runtime_checkable
class _Named(Protocol):
    """A member that is found by its name."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def problem(self) -> str | None:
        """Why it cannot be read."""


_M = TypeVar("_M", bound=_Named)


class NamedMembers(Generic[_M]):
    """Names and sizes of an archive's members, the same for each kind of archive."""

    def __init__(self, container: Container, members: Mapping[str, _M]) -> None:
        self._container, self._members, self._names = container, members, sorted(members)

    @property
    def names(self) -> Sequence[str]:
        return self._names

    def num_bytes(self, name: str) -> int:
        return self._member(name).num_bytes

    def _member(self, name: str) -> _M:
        found = self._members.get(name)
        if found is None:
            raise FileNotFoundError(f"{self._container.url} has no member {name}")
        return found

    def _readable(self, name: str) -> _M:
        found = self._member(name)
        if found.problem is not None:
            raise MemberError(f"{self._container.url}!/{name} {found.problem}")
        return found


def plain_name(name: str) -> str:
    """A member's name as a relative path without `./` and `..`: nothing is unpacked, so a name leads nowhere."""
    return posixpath.normpath(f"/{name}").lstrip("/")
