"""The append-only log of a reviewer's decisions: JSON lines, flushed to the disk one write at a time.

One log file belongs to one reviewer and one process. It is created exclusively, only ever grows, and is closed for ever
when the process ends; the next process creates a new one. `append` returns when the disk has the lines, so a decision
that a reviewer saw confirmed survives `kill -9` and a crash of the machine.

A process killed in the middle of a write leaves a last line that is not complete. No prefix of a JSON object is a JSON
object, so such a line is recognised: `read_log` reports it as a `TornLine`. It was never confirmed.
"""

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from ecor.storage import filesystem
from ecor.storage.filesystem import Address
from pipelines.review.decision import Decision

LOG_SUFFIX = ".jsonl"
_OF_IMPORT = "+import-"
"""In the file's name, after the reviewer's: the decisions were made with another tool. No name has a plus sign."""
_NAME_CHARS = 40
"""Characters of the reviewer's name in the file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """A decision, and where it stands."""

    decision: Decision
    log: str
    """File name of the log."""
    line: int
    """From 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TornLine:
    """The incomplete last line of a log: what a killed process left. Its decision was never confirmed."""

    log: str
    line: int
    text: str

    def __str__(self) -> str:
        return (
            f"{self.log}: line {self.line} is incomplete ({len(self.text)} characters): its process was stopped while "
            f"it wrote (or still writes), and the decision was not confirmed to the reviewer"
        )


class DecisionLog:
    """Appends the decisions of one reviewer to log files of this process. Not safe for several threads at once.

    After a failed write (a full disk), the file is cut back to what was confirmed, and the next decision starts a new
    file, so that an incomplete line is always the last one of its file, also where cutting failed.

    Example:
        >>> with DecisionLog(folder, reviewer="Ada") as log:  # doctest: +SKIP
        ...     log.append(decision)
    """

    def __init__(self, folder: str | Path, *, reviewer: str, is_import: bool = False) -> None:
        """
        Args:
            folder: local, because a store's files cannot grow; the first decision creates the file.
            reviewer: name.
            is_import: the decisions were made with another tool.
        """
        require(filesystem.is_local(folder), f"decisions are logged on a local disk, got {folder}: name a local folder")
        require(bool(reviewer.strip()), "a log needs the name of a reviewer, got an empty one")
        self._folder = Path(filesystem.local_path(folder))
        self.reviewer = reviewer
        self._after_name = _OF_IMPORT if is_import else "-"
        self._file: int | None = None

    def append(self, *decisions: Decision) -> None:
        """Write decisions by one write and one flush to the disk; returns when they are safe.

        Several decisions, such as a whole group that one key accepts, cost one flush.

        Raises:
            ValueError: for a decision of another reviewer.
            OSError: when the disk is full or fails; none of these decisions is confirmed then.
        """
        others = {each.reviewer for each in decisions} - {self.reviewer}
        require(not others, f"the log of {self.reviewer} does not take decisions of {', '.join(sorted(others))}")
        data = "".join(f"{each.to_json()}\n" for each in decisions).encode()
        if self._file is None:
            self._file = self._create_file()
        num_confirmed_bytes = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, num_confirmed_bytes)
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a decision after that starts a new one."""
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def __enter__(self) -> "DecisionLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create_file(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        name = f"{_file_name(self.reviewer)}{self._after_name}{started}-{uuid.uuid4().hex[:8]}{LOG_SUFFIX}"
        file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        _flush_folder(self._folder)
        return file


def is_of_import(name: str) -> bool:
    """Whether a log, by its file name, holds decisions that were made with another tool."""
    return _OF_IMPORT in name


def list_logs(folder: Address) -> list[str]:
    """File names of all logs of a folder, sorted; the folder may be in a store."""
    return [name for name in filesystem.names_in(folder) if name.endswith(LOG_SUFFIX)]


def read_log(folder: Address, name: str) -> Iterator[LoggedDecision | TornLine]:
    """The decisions of one log in order, one in memory at a time; at the end the incomplete line, if there is one.

    Raises:
        ValueError: naming file and line, for a line within the file that is no decision: the file was altered.
    """
    with filesystem.open_file(filesystem.join(folder, name)) as file:
        for number, data in enumerate(file, start=1):
            where = f"{name}: line {number}"
            try:
                decision = Decision.from_json(data, where=where)
            except ValueError as error:
                if not data.endswith(b"\n"):
                    yield TornLine(log=name, line=number, text=data.decode(errors="replace"))
                    return
                raise ValueError(f"{error}; logs of decisions are never edited: restore the file") from error
            yield LoggedDecision(decision=decision, log=name, line=number)


def read_logs(folder: Address, *, names: Sequence[str] | None = None) -> Iterator[LoggedDecision | TornLine]:
    """The decisions of several logs (all of the folder if None), log by log; see `read_log`."""
    for name in list_logs(folder) if names is None else names:
        yield from read_log(folder, name)


def _file_name(reviewer: str) -> str:
    """The reviewer's name as part of a file name; the decisions hold the exact name."""
    return re.sub(r"[^\w-]+", "_", normalise_name(reviewer))[:_NAME_CHARS].strip("_") or "reviewer"


def _flush_folder(folder: Path) -> None:
    """Make a new file's name survive a crash of the machine."""
    with suppress(OSError):  # some file systems cannot flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
