"""Open a file that a tool exported, as it is or in a zip archive."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, TextIO

from ecor.storage import filesystem


@contextmanager
def open_export(path: str, *, within: str = "") -> Iterator[IO[bytes]]:
    """Open an exported file for reading.

    Args:
        path: of the file, local or in a store. A name that ends in `.zip` is an archive.
        within: end of the name of the file in an archive, such as `annotations.xml`.

    Raises:
        ValueError: when there is no such file, or an archive has no such file or several, is damaged or encrypted.
    """
    try:
        with filesystem.open_file(path) as file:
            if not path.lower().endswith(".zip"):
                yield file
                return
            with zipfile.ZipFile(file) as archive, archive.open(_member(archive, path=path, within=within)) as member:
                yield member
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: there is no such file: name what the tool exported") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        if not path.lower().endswith(".zip"):
            raise
        raise ValueError(f"{path} is not a zip archive that can be read ({error}): export it again") from error


@contextmanager
def open_text(path: str, *, within: str = "") -> Iterator[TextIO]:
    """As `open_export`, as text in UTF-8 with or without a byte order mark."""
    with open_export(path, within=within) as file, TextIOWrapper(file, encoding="utf-8-sig") as text:
        yield text


def _member(archive: zipfile.ZipFile, *, path: str, within: str) -> str:
    found = [
        name for name in archive.namelist() if within and name.endswith(within) and not name.startswith("__MACOSX")
    ]
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} files *{within}: unpack it and name one")
    return found[0]
