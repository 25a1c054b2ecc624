"""Entry point of the command `ecor`: parse the arguments, run one command, return its exit code."""

import atexit
import contextlib
import errno
import gc
import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import tyro

from pipelines.commands import DESCRIPTION, Command
from pipelines.config.secrets import mask_secrets, own_environment_secrets

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143
_LONGEST_LINE = 500
"""Characters of an error line; of a longer one, the middle is left out."""
_PLACEHOLDER = "__tyro-dummy-inner__."
OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
"""Torch's threads sleep soon when they have nothing to do. By default they keep the CPUs busy for milliseconds, which
decoders lack: `ecor score` is up to 1.5 times as fast so (`benchmarks/README.md`)."""
_COLLECTION_THRESHOLDS = (50_000, 20, 10)
"""Of the garbage collector, for all of the process: with Python's own it takes a fifth of the time of all imports."""


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: 0 done, 2 user error (one line on stderr), 1 bug (a traceback).

    A command may return another code of its own (`pipelines.label_commands.EXIT_DRIFT`).
    ECOR_DEBUG=1 shows the traceback of a user error too.
    """
    try:
        code = command() or EXIT_DONE
        sys.stdout.flush()  # a full disk is an error of the command, not of Python's end
        return code
    except KeyboardInterrupt as stop:
        is_term = isinstance(stop, _Terminated)
        what, code = ("terminated", EXIT_TERMINATED) if is_term else ("interrupted", EXIT_INTERRUPTED)
        print(f"{what}: run the same command again to resume", file=sys.stderr)  # noqa: T201
        return code
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            _discard_output()
            return EXIT_DONE
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _discard_output()
        if os.environ.get("ECOR_DEBUG"):
            _write_error(traceback.format_exc())
        _write_error(f"ecor: {_error_line(error)}\n")
        return EXIT_USER_ERROR
    except Exception:  # noqa: BLE001 - the last frame: show the traceback of a bug
        _write_error(traceback.format_exc())
        return EXIT_FAILED


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which schedulers end a job: leases and temporary folders are given up as after Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _is_unread(stream: TextIO) -> bool:
    """Whether the reader of a pipe (`head`, a pager) has closed it."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of its own
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Let what Python still holds for stdout go nowhere: writing it would fail again."""
    with contextlib.suppress(OSError, ValueError):  # no file of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_error(text: str) -> None:
    """Write to stderr. All passwords and keys of this process are masked, because others can read the logs of jobs."""
    sys.stderr.write(mask_secrets(text, secrets=own_environment_secrets()))


REMEDIES: dict[type[OSError], str] = {
    NotADirectoryError: "a file is where a folder should be: name another place, or move the file away",
    FileExistsError: "a file is where a folder should be: name another place, or move the file away",
    IsADirectoryError: "a folder is where a file should be: name a file",
    PermissionError: "permission denied: name another place, or change the permissions",
}


def _error_line(error: ValueError | OSError) -> str:
    """Format an error as one line; for an error that came through Ray, its cause."""
    cause = getattr(error, "cause", None)
    root = cause if isinstance(cause, ValueError | OSError) else error
    if isinstance(root, OSError) and root.filename is not None and type(root) in REMEDIES:
        return f"{root.filename2 or root.filename}: {REMEDIES[type(root)]}"
    text = " ".join(str(root).split()) or type(root).__name__
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 202]} … {text[-199:]}"


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see `exit_code`), or without `args` ends the process with it."""
    words = sys.argv[1:] if args is None else list(args)
    if args is None:
        _accept_any_text()
        _set_up_process()
    code = exit_code(lambda: _run_command(words))
    if args is None:
        _end_process(code)
    return code


def _set_up_process() -> None:
    """Settings of this process, and of the processes of a Ray that it starts; before torch is imported."""
    # A thread of Ray Data that outlives a stalled stage would start a cluster while the process ends.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(OPENMP)
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    signal.signal(signal.SIGTERM, _terminate)


def _end_process(code: int) -> NoReturn:
    """End as Python does, but for the search of all libraries for garbage, which takes one to two seconds.

    Threads are waited for and exit functions are called, in Python's order; objects are not destroyed one by one.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that is gone, a closed stream
            stream.flush()
    os._exit(code)


def _run_command(words: Sequence[str]) -> int | None:
    if words == ["--version"]:
        print(f"ecor {version('ecor')}")  # noqa: T201
        return EXIT_DONE
    command = _parse_command(words)
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ValueError("the working folder is no longer there: change to another one (cd)") from error
    return command.run()


def _accept_any_text() -> None:
    """Write characters that the terminal lacks as escapes: printing a name must not fail after the work is done.

    A stream that the caller has closed (`2>&-`) is one to nowhere.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parse_command(args: Sequence[str]) -> Command:
    """Parse the arguments; for wrong ones tyro writes to stderr and exits with 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(Command, prog="ecor", description=DESCRIPTION, args=args)  # type: ignore[call-overload]
    finally:
        # tyro names the union of commands by a placeholder of its own
        sys.stderr.write(errors.getvalue().replace(f"{_PLACEHOLDER}config.", "").replace(_PLACEHOLDER, ""))


if __name__ == "__main__":
    sys.exit(main())
