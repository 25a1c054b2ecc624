"""Names and values as Markdown that shows them as they are: no name becomes a link, an image, HTML or a heading."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[\\`*_\[\]#~$!]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "@": "&#64;"}
_LINK = re.compile(r"://|(?<=www)\.", re.IGNORECASE)
"""What makes an address that GitHub and others turn into a link."""
LONGEST = 200
"""Characters of a value in a card; of a longer one, the end is left out."""


def escape(text: object) -> str:
    """A value as Markdown text within a line, a cell or a heading (not at the start of a line of its own).

    Characters with a meaning in CommonMark or in GitHub's tables get a backslash or become entities; control and
    direction characters become spaces; addresses are shown but do not become links.
    """
    shown = "".join(" " if unicodedata.category(each).startswith(("C", "Z")) else each for each in str(text))
    shown = " ".join(shown.split())
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST - 1]}…"
    shown = _SPECIAL.sub(r"\\\g<0>", shown)
    shown = "".join(_ENTITIES.get(each, each) for each in shown)
    return _LINK.sub(lambda found: "&#58;//" if found[0] == "://" else "&#46;", shown)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bullets(lines: Iterable[str]) -> str:
    """A list, one item a line."""
    return "\n".join(f"- {line}" for line in lines)


def section(title: str, *parts: str) -> str:
    """A section with a heading; empty parts are left out."""
    return "\n\n".join([f"## {title}", *filter(None, parts)])
