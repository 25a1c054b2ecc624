"""Choose the folder of a Ray cluster that is started here: short enough for its sockets, and writable."""

import os
import sys
import tempfile
from pathlib import Path

from ecor.config.checks import require

_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of a Unix socket's path, at most."""
_WITHIN = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""What Ray appends."""
_OF_PYTHON = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""What Python's multiprocessing, which Ray uses, appends to the system's temporary folder."""


def ray_folder() -> str | None:
    """A folder for Ray's sessions; None where Ray's own choice will do.

    Ray takes `ray` in RAY_TMPDIR, TMPDIR or /tmp. Where that path is too long, or belongs to another user, a folder of
    this user takes its place.

    Raises:
        ValueError: if RAY_TMPDIR says a folder that cannot be used, TMPDIR is too long for any socket, or there is no
            folder at all.
    """
    scratch = tempfile.gettempdir()
    room = _LONGEST_SOCKET - len(_OF_PYTHON)
    require(
        len(os.fsencode(scratch)) <= room,
        f"TMPDIR has {len(os.fsencode(scratch))} bytes, and Ray's sockets leave room for {room}: set TMPDIR to a "
        "shorter path",
    )
    asked = os.environ.get("RAY_TMPDIR")
    scratch_of_ray = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    usual = Path(asked or scratch_of_ray or "/tmp") / "ray"  # noqa: S108 - Ray's own choice
    if (problem := _problem(usual)) is None:
        return None
    if not asked:
        for base in ("/tmp", "/var/tmp", scratch):  # noqa: S108
            own = Path(base) / f"ray-{os.getuid()}"
            if _problem(own) is None and not (own.exists() and own.lstat().st_uid != os.getuid()):
                return str(own)
    raise ValueError(f"Ray cannot work in {usual}: {problem}; set RAY_TMPDIR to a short path of a folder of yours")


def _problem(folder: Path) -> str | None:
    """Why Ray cannot use a folder; None if it can."""
    length = len(os.fsencode(f"{folder}{_WITHIN}"))
    if length > _LONGEST_SOCKET:
        return f"the path of its sockets would have {length} bytes, and {_LONGEST_SOCKET} are possible"
    found = next(each for each in (folder, *folder.parents) if each.exists())  # Ray makes the rest, for all users
    if not found.is_dir():
        return f"{found} is a file"
    return None if os.access(found, os.W_OK | os.X_OK) else f"{found} may not be written to"
