"""The list of categories that a vocabulary is drafted for: one name a line, with a WordNet synset where it matters."""

import re
from dataclasses import dataclass

from ecor.config.checks import require
from ecor.data.name_parsing import check_spelling, checked_name

_SYNSET = re.compile(r"[^\s:]+\.n\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryName:
    """A category as its list has it."""

    name: str
    """Normalised (`ecor.data.name_parsing.normalise_name`)."""
    written: str
    """As it is spelled in the list: a dictionary may know `t-shirt` and not `t shirt`."""
    synset: str | None = None
    """WordNet's noun synset that is meant (`crane.n.04`); None: chosen by a rule."""


def parse_category_names(text: str, *, source: str) -> tuple[CategoryName, ...]:
    """Read a list of categories: a name a line, or `name: synset`. Empty lines, and lines that begin with #, are none.

    Args:
        text: of the list.
        source: name of the list in errors.

    Raises:
        ValueError: naming the line, for a name that is empty, there twice or holds control characters, and for a colon
            without a noun synset after it; for a list without a name.
    """
    found: dict[str, str] = {}
    names, spelled = list[CategoryName](), dict[str, str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{source}: line {number}"
        written, colon, synset = (part.strip() for part in line.partition(":"))
        require(
            not colon or _SYNSET.fullmatch(synset) is not None,
            f"{where}: after a colon stands a noun synset of WordNet, as in `crane: crane.n.04`, got {synset!r}",
        )
        name = checked_name(written, where=f"{where}: the category")
        check_spelling(written, spelled=spelled, where=where, kind="category")
        require(name not in found, f"{where}: {name!r} is named on {found.get(name)} too: keep one")
        found[name] = f"line {number}"
        names.append(CategoryName(name=name, written=written, synset=synset or None))
    require(bool(names), f"{source}: no category in it: write one name a line")
    return tuple(names)
