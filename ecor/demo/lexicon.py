"""A lexicon of the familiar world: its categories, their parts, and the concepts above them.

Definitions use words that the small CLIP has read, as far as there are any: it knows no others.
"""

from ecor.convis.lexicon import Lexicon, ListLexicon
from ecor.demo.worlds.concept_kinds import ABOVE, CATEGORIES_UNDER, PARTS_UNDER
from ecor.demo.worlds.familiar import FAMILIAR

ROOT = "thing"


def demo_lexicon() -> ListLexicon:
    """Categories, parts and what they are kinds of, up to `ROOT`.

    A category is defined by its parts, without its name and without what it is a kind of, whose words the small CLIP
    does not know; a part by its own text.
    """
    parents: dict[str, list[str]] = {name: [above] for name, (above, _) in ABOVE.items() if above}
    for groups in (CATEGORIES_UNDER, PARTS_UNDER):
        for above, members in groups.items():
            for name in members:
                parents.setdefault(name, []).append(above)
    definitions = {name: definition for name, (_, definition) in ABOVE.items()}
    definitions |= {name: _category_definition(name) for name in FAMILIAR.categories}
    definitions |= {text: text for text in FAMILIAR.rationales}
    return ListLexicon(definitions, parents=parents)


def categories_under(concept: str, *, lexicon: Lexicon) -> tuple[str, ...]:
    """Return the categories that are kinds of a concept, in the world's order.

    Args:
        concept: by name.
        lexicon: that holds it.

    Raises:
        ValueError: when the lexicon does not know the concept.
    """
    found = set(lexicon.descendants(concept))
    return tuple(name for name in FAMILIAR.categories if name in found)


def _category_definition(name: str) -> str:
    *first, last = FAMILIAR.kinds[name].rationales
    return f"something with {', '.join(first)} and {last}"
