"""Addresses of files within one file: `photos.zip!/cats/1.jpg`, `train.parquet!/image/17` (column and row)."""

import re

ARCHIVE_SUFFIXES = (".tar", ".zip")
"""Files that are read as folders."""
ROW_SUFFIXES = (".parquet", ".arrow")
"""Files whose rows may hold images."""
MARK = "!"
"""Stands between a file and what is in it."""
_SUFFIXES = "|".join(suffix[1:] for suffix in (*ARCHIVE_SUFFIXES, *ROW_SUFFIXES))
_MEMBER = re.compile(rf"(?P<file>.+?\.(?:{_SUFFIXES})){MARK}(?:/(?P<member>.*))?", re.IGNORECASE | re.DOTALL)


def split_member(address: str) -> tuple[str, str] | None:
    """The file and the name in it, empty for all of it; None for any other address.

    A folder may be called `a.zip!` too: the file's name alone does not tell whether there is such a file.
    """
    found = _MEMBER.fullmatch(address)
    return None if found is None else (found["file"], (found["member"] or "").strip("/"))


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_row_file(name: str) -> bool:
    """Whether a file has rows that may hold images, by its name."""
    return name.lower().endswith(ROW_SUFFIXES)
