"""The command `ecor`: parse the words, run one stage, and end with its exit code."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version

import tyro

from pipelines.commands import DESCRIPTION, Command
from pipelines.config.addresses import masked, secrets_of_this_process

DONE, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130
_PLACEHOLDER = "__tyro-dummy-inner__."


def exit_code(deed: Callable[[], None]) -> int:
    """Do `deed`; a mistake of the user's is one line on stderr and 2, a failure of ours a traceback and 1.

    ECOR_DEBUG=1 shows the traceback of a user's mistake too.
    """
    try:
        deed()
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output (`head`, a pager) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, OSError) as error:
        if os.environ.get("ECOR_DEBUG"):
            _tell(traceback.format_exc())
        _tell(f"ecor: {_in_words(error)}\n")
        return USER_MISTAKE
    except Exception:  # noqa: BLE001 - the last frame: show everything, and say that it is ours
        _tell(traceback.format_exc())
        return FAILED
    return DONE


def _tell(text: str) -> None:
    """What goes wrong is kept in logs of jobs for all to read: no password or key of this process is among it."""
    sys.stderr.write(masked(text, secrets=secrets_of_this_process()))


REMEDIES: dict[type[OSError], str] = {
    NotADirectoryError: "a file is where a folder should be: name another place, or move the file away",
    FileExistsError: "a file is where a folder should be: name another place, or move the file away",
    IsADirectoryError: "a folder is where a file should be: name a file",
    PermissionError: "permission denied: name another place, or change the permissions",
}


def _in_words(error: ValueError | OSError) -> str:
    """What went wrong in one line; an error that crossed Ray is told by its cause."""
    cause = getattr(error, "cause", None)
    told = cause if isinstance(cause, ValueError | OSError) else error
    if isinstance(told, OSError) and told.filename is not None and type(told) in REMEDIES:
        return f"{told.filename2 or told.filename}: {REMEDIES[type(told)]}"
    return " ".join(str(told).split()) or type(told).__name__


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 when done, 2 for a user's mistake, 1 otherwise."""

    words = sys.argv[1:] if args is None else list(args)
    if words == ["--version"]:
        print(f"ecor {version('ecor')}")  # noqa: T201
        return DONE
    return exit_code(lambda: _parsed(words).run())


def _parsed(args: Sequence[str]) -> Command:
    """The command; what is wrong with the words goes to stderr and ends the program with 2 (by tyro)."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(Command, prog="ecor", description=DESCRIPTION, args=args)  # type: ignore[call-overload]
    finally:
        # tyro names the union of commands by a placeholder of its own
        sys.stderr.write(told.getvalue().replace(f"{_PLACEHOLDER}config.", "").replace(_PLACEHOLDER, ""))


if __name__ == "__main__":
    sys.exit(main())
