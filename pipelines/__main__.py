"""Entry point of the command `ecor`: parse the arguments, run one command, return its exit code."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version

import tyro

from pipelines.commands import DESCRIPTION, Command
from pipelines.config.secrets import mask_secrets, own_environment_secrets

EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 1, 2, 130
_PLACEHOLDER = "__tyro-dummy-inner__."


def exit_code(deed: Callable[[], None]) -> int:
    """Do `deed`; a mistake of the user's is one line on stderr and 2, a failure of ours a traceback and 1.

    ECOR_DEBUG=1 shows the traceback of a user's mistake too.
    """
    try:
        deed()
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output (`head`, a pager) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except (ValueError, OSError) as error:
        if os.environ.get("ECOR_DEBUG"):
            _write_error(traceback.format_exc())
        _write_error(f"ecor: {_error_line(error)}\n")
        return EXIT_USER_ERROR
    except Exception:  # noqa: BLE001 - the last frame: show everything, and say that it is ours
        _write_error(traceback.format_exc())
        return EXIT_FAILED
    return EXIT_DONE


def _write_error(text: str) -> None:
    """What goes wrong is kept in logs of jobs for all to read: no password or key of this process is among it."""
    sys.stderr.write(mask_secrets(text, secrets=own_environment_secrets()))


REMEDIES: dict[type[OSError], str] = {
    NotADirectoryError: "a file is where a folder should be: name another place, or move the file away",
    FileExistsError: "a file is where a folder should be: name another place, or move the file away",
    IsADirectoryError: "a folder is where a file should be: name a file",
    PermissionError: "permission denied: name another place, or change the permissions",
}


def _error_line(error: ValueError | OSError) -> str:
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
        return EXIT_DONE
    return exit_code(lambda: _parse_command(words).run())


def _parse_command(args: Sequence[str]) -> Command:
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
