"""Rationales from WordNet: the parts of a thing, and the phrases of its definition, its own and those it inherits."""

from collections.abc import Iterator
from difflib import get_close_matches

from ecor.config.checks import name_some, require
from ecor.convis.wordnet import WordNetLexicon
from ecor.drafting.candidates import Candidate
from ecor.drafting.category_names import CategoryName
from ecor.drafting.phrases import part_phrases, with_article

_WHOLE, _PERSON, _PHYSICAL = "whole.n.02", "person.n.01", "physical_entity.n.01"
_GENERAL = frozenset((_WHOLE, _PHYSICAL, "entity.n.01", "object.n.01", "artifact.n.01", "organism.n.01"))
"""What nearly everything is a kind of: nothing is inherited from it."""


def choose_synset(lexicon: WordNetLexicon, category: CategoryName) -> str | None:
    """The synset that a category means; None for a name that WordNet lacks.

    Not in the paper: the one that the list names. Else the most usual meaning that is a whole thing and no person (so
    that `tiger` is the animal); else the most usual physical one; else the most usual.

    Raises:
        ValueError: when the list names a synset that WordNet lacks; the message lists the meanings of the name.
    """
    meanings = meanings_of(lexicon, category)
    if category.synset is not None:
        shown = name_some(meanings, most=9) or name_some(_near(lexicon, category.synset), most=3) or "none by that name"
        require(
            category.synset in lexicon.concepts,
            f"{category.written}: WordNet has no noun synset {category.synset!r}; it has {shown}",
        )
        return category.synset
    kinds = {meaning: frozenset(name for name, _ in hypernym_levels(lexicon, meaning)) for meaning in meanings}
    whole = [each for each in meanings if _WHOLE in kinds[each] and _PERSON not in kinds[each]]
    physical = [each for each in meanings if _PHYSICAL in kinds[each]]
    return next(iter([*whole, *physical, *meanings]), None)


def meanings_of(lexicon: WordNetLexicon, category: CategoryName) -> tuple[str, ...]:
    """All meanings of a name, most usual first, under the first of its spellings that WordNet has."""
    spellings = (category.written, category.name, category.name.replace(" ", "-"), category.name.replace(" ", ""))
    return next(filter(None, map(lexicon.synsets, spellings)), ())


def hypernym_levels(lexicon: WordNetLexicon, synset: str) -> Iterator[tuple[str, int]]:
    """A synset and all that it is a kind of, each once, with the number of steps up to it: the nearest first."""
    seen, level, steps = {synset}, [synset], 0
    while level:
        yield from ((name, steps) for name in level)
        above = dict.fromkeys(parent for name in level for parent in lexicon.parents(name))
        level = [name for name in above if name not in seen]
        seen.update(level)
        steps += 1


def wordnet_drafts(
    lexicon: WordNetLexicon, category: CategoryName, *, synset: str, depth: int, max_words: int
) -> Iterator[Candidate]:
    """Yield the phrases of definitions, then the parts, the synset's own before inherited ones.

    Args:
        lexicon: WordNet.
        category: that is drafted for.
        synset: that it means.
        depth: levels of hypernyms that are read; 0: none.
        max_words: most words of a rationale.
    """
    levels = [(name, steps) for name, steps in hypernym_levels(lexicon, synset) if steps <= depth]
    read = [name for name, steps in levels if not steps or name not in _GENERAL]
    for name in read:
        for phrase in part_phrases(lexicon.definition(name), max_words=max_words):
            yield Candidate(category=category.name, rationale=phrase, sources=(f"definition of {name}",))
    for name in read:
        for part in lexicon.parts(name):
            noun = lexicon.lemmas(part)[0].replace("_", " ").lower()
            if len(noun.split()) < max_words:
                yield Candidate(category=category.name, rationale=with_article(noun), sources=(f"part of {name}",))


def synonyms_of(lexicon: WordNetLexicon, synset: str) -> tuple[str, ...]:
    """The words of a synset of which it is the most usual meaning, with spaces: `lid` says no hat, `chapeau` does."""
    lemmas = [lemma for lemma in lexicon.lemmas(synset) if lexicon.synsets(lemma)[:1] == (synset,)]
    return tuple(lemma.replace("_", " ").lower() for lemma in lemmas)


def kinds_of(lexicon: WordNetLexicon, synset: str) -> tuple[str, ...]:
    """The words of all that a synset is a kind of, without its own."""
    own = set(synonyms_of(lexicon, synset))
    above = [word for name, steps in hypernym_levels(lexicon, synset) if steps for word in synonyms_of(lexicon, name)]
    return tuple(dict.fromkeys(word for word in above if word not in own))


def _near(lexicon: WordNetLexicon, synset: str) -> list[str]:
    return list(lexicon.synsets(synset.partition(".")[0])) or get_close_matches(synset, lexicon.concepts, n=3)
