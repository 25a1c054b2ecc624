"""Candidates of a vocabulary: rationales of categories with the texts that they were drafted from."""

from collections.abc import Iterable
from dataclasses import dataclass

from ecor.data.name_parsing import normalise_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rationale that was drafted for a category."""

    category: str
    rationale: str
    """Both normalised (`ecor.data.name_parsing.normalise_name`)."""
    sources: tuple[str, ...]
    """Where it was found: `part of hat.n.01`, `definition of hat.n.01`, `captions (12)`, `descriptors`."""


def merge_candidates(found: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Merge candidates of the same category and text, with the sources of all; in the order of first appearance.

    Args:
        found: candidates, not normalised; empty texts are left out.
    """
    sources: dict[tuple[str, str], dict[str, None]] = {}
    for each in found:
        pair = (normalise_name(each.category), normalise_name(each.rationale))
        if pair[1]:
            sources.setdefault(pair, {}).update(dict.fromkeys(each.sources))
    return tuple(
        Candidate(category=category, rationale=rationale, sources=tuple(names))
        for (category, rationale), names in sources.items()
    )
