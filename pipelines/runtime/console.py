"""Write lines and progress bars for a person at the terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class _Lines(Console):
    """A console whose reader may end: an error of stdout is the caller's; what nobody reads on stderr is dropped."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles BrokenPipeError; rich itself would end the process."""
        if not self.stderr:
            raise


def say(line: str, *, to_stdout: bool = False) -> None:
    """Print one line as it is: long lines are not folded, and names in it are neither coloured nor read as markup.

    Args:
        line: the line.
        to_stdout: print to stdout instead of stderr.
    """
    _Lines(stderr=not to_stdout).print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def progress_bar(title: str, *, total: int, unit: str, say_every: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a bar with rate and time left on stderr, if it is a terminal; yields `advance(num_done=1)`.

    Args:
        title: name of the work.
        total: number of units.
        unit: name of the units, in the plural.
        say_every: without a terminal, print a line after each `say_every` units and one at the end; None: no lines.
    """
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} " + unit + "/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console, began = _Lines(stderr=True), time.perf_counter()
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task, done = bar.add_task(title, total=total, rate=0.0), 0

        def advance(num_done: int = 1) -> None:
            nonlocal done
            before, done = done, done + num_done
            bar.update(task, completed=done, rate=done / (time.perf_counter() - began))
            is_due = say_every is not None and (before // say_every < done // say_every or done >= total)
            if is_due and not console.is_terminal:
                say(f"{title}: {done} of {total} {unit}")

        yield advance


def percent(share: float, digits: int = 0) -> str:
    """Format a share for people: `87%`, `61.2%`; only an exact 0 or 1 becomes 0% or 100%.

    Args:
        share: between 0 and 1.
        digits: decimal places. A share that would be rounded to 0 or 1 is written as `<1%` or `>99%`.
    """
    text, nothing, everything = (f"{100 * each:.{digits}f}%" for each in (share, 0.0, 1.0))
    step = 10.0**-digits
    if text == nothing and share > 0:
        return f"<{step:g}%"
    return f">{100 - step:g}%" if text == everything and share < 1 else text
