"""Lexicons: concepts with definitions and parents, read from a JSON file or given as mappings.

A lexicon is a graph without cycles: concepts point to their parents, of which there may be several.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

from ecor.config.checks import require
from ecor.storage import filesystem
from ecor.storage.digests import json_digest

_Name = TypeVar("_Name", str, int)


@runtime_checkable
class Lexicon(Protocol):
    """Concepts by name, as ConVis (arXiv:2405.14563) needs them."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """All names, each once, in an order that stays."""

    def definition(self, concept: str) -> str:
        """Return the text that the text tower reads for a concept.

        Raises:
            ValueError: when the concept is unknown.
        """

    def parents(self, concept: str) -> tuple[str, ...]:
        """Return the parents of a concept; none for a root.

        Raises:
            ValueError: when the concept is unknown.
        """

    def descendants(self, concept: str) -> tuple[str, ...]:
        """Return the concept itself and all its kinds, in the order of `concepts`.

        Raises:
            ValueError: when the concept is unknown.
        """


class ListLexicon:
    """A taxonomy given as definitions and parents."""

    def __init__(self, definitions: Mapping[str, str], *, parents: Mapping[str, Sequence[str]]) -> None:
        """Keep the order of `definitions`.

        Args:
            definitions: of each concept.
            parents: of each concept that has some.

        Raises:
            ValueError: when a name in `parents` has no definition, or concepts are kinds of themselves.
        """
        self._definitions = dict(definitions)
        self._parents = {name: tuple(parents.get(name, ())) for name in self._definitions}
        named = {name for child, above in parents.items() for name in (child, *above)}
        missing = sorted(named - set(self._definitions))
        require(not missing, f"concepts without a definition: {', '.join(missing[:5])}")
        _check_acyclic(self._parents)

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self._definitions)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Concepts that nothing is a kind of."""
        return tuple(name for name in self._definitions if not self._children[name])

    def definition(self, concept: str) -> str:
        return self._definitions[self._known(concept)]

    def parents(self, concept: str) -> tuple[str, ...]:
        return self._parents[self._known(concept)]

    def descendants(self, concept: str) -> tuple[str, ...]:
        found = reachable([self._known(concept)], self._children)
        return tuple(name for name in self._definitions if name in found)

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        return children_of(self._parents)

    def _known(self, concept: str) -> str:
        require(concept in self._definitions, f"unknown concept {concept!r} among {len(self._definitions)}")
        return concept


def lexicon_digest(lexicon: Lexicon) -> str:
    """sha256 of all names, definitions and parents, in their order."""
    entries = [[name, lexicon.definition(name), lexicon.parents(name)] for name in lexicon.concepts]
    return json_digest(entries, sort_keys=False)


def read_lexicon(path: filesystem.Address) -> ListLexicon:
    """Read a taxonomy from a JSON file: {concept: {"definition": text, "kind_of": [concept, …]}, …}.

    Roots have no `kind_of`.

    Args:
        path: on a disk or in a store.

    Raises:
        ValueError: naming the file, when it cannot be read or is no such JSON, a definition is missing, or concepts are
            kinds of themselves.
    """
    try:
        found = json.loads(filesystem.read(path))
        definitions = {name: entry["definition"] for name, entry in found.items()}
        parents = {name: entry.get("kind_of", []) for name, entry in found.items()}
        texts = [*definitions.values(), *(above for names in parents.values() for above in names)]
        require(all(isinstance(text, str) and text for text in texts), "definitions and kinds are texts")
        return ListLexicon(definitions, parents=parents)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is no lexicon ({error!r}): write {{"concept": {{"definition": "…", "kind_of": ["…"]}}, …}}'
        ) from error


def children_of(parents: Mapping[_Name, Sequence[_Name]]) -> dict[_Name, list[_Name]]:
    children: dict[_Name, list[_Name]] = {name: [] for name in parents}
    for child, above in parents.items():
        for name in above:
            children[name].append(child)
    return children


def reachable(starts: Iterable[_Name], following: Mapping[_Name, Sequence[_Name]]) -> set[_Name]:
    found, waiting = set(), list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(following[name])
    return found


def _check_acyclic(parents: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for cycles: remove roots repeatedly; what remains is on a cycle or below one."""
    waiting = {name: len(set(above)) for name, above in parents.items()}
    children = children_of({name: tuple(dict.fromkeys(above)) for name, above in parents.items()})
    free = [name for name, number in waiting.items() if not number]
    for name in free:
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                free.append(child)
    stuck = sorted(set(parents) - set(free))
    require(not stuck, f"concepts that are kinds of themselves: {', '.join(stuck[:5])}")
