"""Write Markdown tables, and render the pages of the studies from templates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ecor.storage import filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkdownTable:
    """One table of a page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def markdown(self) -> str:
        """Format the title in bold, and the table."""
        return f"**{self.title}**\n\n{markdown_table(self.header, self.rows)}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table, without a newline at its end.

    Args:
        header: titles of the columns.
        rows: texts of the cells. A cell that holds `|` becomes two cells.
    """
    return "\n".join([table_row(header), "|" + "---|" * len(header), *map(table_row, rows)])


def table_row(cells: Sequence[str]) -> str:
    """Format one line of a table; `"---"` for every cell makes the line below its header."""
    return f"| {' | '.join(cells)} |"


def read_introduction(page: Path) -> str:
    """Read the hand-written introduction of a page, from `<name>-words.md` beside it; empty if there is none."""
    words = page.with_name(f"{page.stem}-words.md")
    return words.read_text(encoding="utf-8").strip() if words.is_file() else ""


def render_template(template: str, *, package: str, **values: Any) -> str:
    """Render a template of the folder `templates` of a package; a missing value is an error."""
    text = files(package).joinpath(f"templates/{template}").read_text(encoding="utf-8")
    return jinja2.Template(text, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(values)


def write_parts(page: Path, *parts: str) -> Path:
    """Write the non-empty parts, separated by blank lines, with an atomic replacement."""
    filesystem.write(page, ("\n\n".join(filter(None, parts)).rstrip("\n") + "\n").encode())
    return page
