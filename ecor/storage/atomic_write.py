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
"""Characters of the name that the unfinished one shows: with the rest it stays below what file systems take."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is written there gets the name `path` when the block ends well, over what was there.

    The folder is made where it is missing.
    """
    with _temporary_path(path) as unfinished:
        yield unfinished
        unfinished.replace(path)


def create_file_once(path: Path, write: Callable[[Path], object]) -> bool:
    """Write a file unless there is one; of all that try at once one succeeds. Whether it was this one.

    The folder is made where it is missing.

    Args:
        path: its name.
        write: writes all of it to the path that it is given.
    """
    with _temporary_path(path) as unfinished:
        write(unfinished)
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def write_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder to fill; it takes its place when the block ends well, over what was there."""
    target = Path(folder)
    with _temporary_path(target) as unfinished:
        unfinished.mkdir()
        yield unfinished
        move_into_place(unfinished, target)


def move_into_place(finished: Path, target: Path) -> None:
    """Put a finished folder in its place, on one file system; what was there before goes once the new one is there."""
    replaced = _temporary_name(target)
    if target.exists():
        target.replace(replaced)
    try:
        finished.replace(target)
    except OSError:
        with suppress(OSError):
            replaced.replace(target)  # as it was
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """A name in the same folder that nothing else has; what lies there at the end is removed."""
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
