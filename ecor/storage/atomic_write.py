"""Write local files and folders atomically: write beside the target, then rename.

The unfinished one lies in the same folder, so that a rename is enough; its name begins with a dot, ends in `.tmp` and
is of one process only. It vanishes after an error; after a killed process it stays and is never read.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME_CHARS = 40
"""Characters of the target's name in the temporary name, to stay below the limit of file systems."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an error, rename it to `path`.

    An existing file is replaced. A missing folder is created.
    """
    with _temporary_path(path) as unfinished:
        yield unfinished
        unfinished.replace(path)


def create_file_once(path: Path, write: Callable[[Path], object]) -> bool:
    """Create a file unless it exists, and return whether this call created it. Of several processes, one succeeds.

    A missing folder is created.

    Args:
        path: of the file.
        write: writes the whole file to the path that it gets.
    """
    with _temporary_path(path) as unfinished:
        write(unfinished)
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy where the file system has no such links.

    An existing file is replaced, a missing folder is created. Nobody may write into a file that has links: replace it.
    """
    found = source.resolve(strict=True)  # a link of a symbolic link would be one too
    with replace_file(target) as unfinished:
        try:
            os.link(found, unfinished)
        except OSError:  # another disk, too many links, not supported
            shutil.copyfile(found, unfinished)


@contextmanager
def write_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder; rename it to `folder`, over an old one, when the block ends without an error."""
    target = Path(folder)
    with _temporary_path(target) as unfinished:
        unfinished.mkdir()
        yield unfinished
        move_into_place(unfinished, target)


def move_into_place(finished: Path, target: Path) -> None:
    """Move a finished folder to its place; an old folder is removed afterwards.

    Args:
        finished: on the file system of `target`.
        target: its place.

    Raises:
        OSError: when it cannot be moved; the old folder is then put back.
    """
    replaced = _temporary_name(target)
    if target.exists():
        target.replace(replaced)
    try:
        finished.replace(target)
    except OSError:
        with suppress(OSError):
            replaced.replace(target)  # restore the old folder
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """Yield a unique path in the same folder, and remove what is left there at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary_name(path)
    try:
        yield unfinished
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    return path.parent / f".{path.name[:_NAME_CHARS]}.{uuid.uuid4().hex}.tmp"
