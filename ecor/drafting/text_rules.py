"""What the text of a rationale alone shows: that it names its category or what that is a kind of, or is there twice.

Not in the paper: a rationale that names the category gives no reason for it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecor.drafting.candidates import Candidate

_WORD = re.compile(r"[\w’']+")
_ARTICLES = frozenset(("a", "an", "the", "some", "its"))
_SAYS_MORE = frozenset(
    ("in", "inside", "on", "at", "to", "for", "with", "from", "by", "around", "between", "behind", "that", "which")
)
"""Words after which a text says more than what something is."""
_SINGULARS = (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ss", "ss"), ("s", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryWords:
    """The words for a category."""

    names: tuple[str, ...]
    """Its name and its synonyms."""
    kinds: tuple[str, ...] = ()
    """Words for what it is a kind of."""


def text_verdicts(candidates: Sequence[Candidate], words: Mapping[str, CategoryWords]) -> tuple[str, ...]:
    """Per candidate why its text drops it; empty where it does not.

    - `names_category`: it holds the name of its category, or a synonym, in singular or plural;
    - `names_kind`: it says no more than what the category is a kind of (`a large bird` of an owl);
    - `same_text`: an earlier candidate of the category differs by an article or a plural only.

    Args:
        candidates: in order of preference.
        words: for each category.
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    found = []
    for each in candidates:
        key = (each.category, tuple(word for word in _singular_words(each.rationale) if word not in _ARTICLES))
        found.append(_name_verdict(key[1], words[each.category]) or ("same_text" if key in seen else ""))
        if not found[-1]:
            seen.add(key)
    return tuple(found)


def _name_verdict(text: tuple[str, ...], words: CategoryWords) -> str:
    if any(_holds(text, part) for part in map(_singular_words, words.names)):
        return "names_category"
    if _SAYS_MORE.intersection(text):
        return ""
    is_kind = any(part and text[-len(part) :] == part for part in map(_singular_words, words.kinds))
    return "names_kind" if is_kind else ""


def _holds(text: tuple[str, ...], part: tuple[str, ...]) -> bool:
    places = range(len(text) - len(part) + 1)
    return bool(part) and any(text[place : place + len(part)] == part for place in places)


def _singular_words(text: str) -> tuple[str, ...]:
    words: Iterable[str] = (word.removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text.lower()))
    return tuple(map(_singular, words))


def _singular(word: str) -> str:
    for ending, replacement in _SINGULARS:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + replacement
    return word
