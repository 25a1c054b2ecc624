"""The vocabulary of some labels with the names that reviewers have added."""

from collections.abc import Iterable, Sequence

from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping


def extend_vocabulary(vocabulary: Vocabulary, named: Iterable[tuple[str, Sequence[str]]]) -> Vocabulary:
    """Add categories and rationales that the vocabulary lacks; without new names it is returned as it is.

    A new category comes last, with all rationales that it was named with. A new rationale goes to its category. A known
    rationale is not added to another known category: pairs of any two names can be predicted.

    Args:
        vocabulary: of the labels.
        named: normalised categories with their rationales, as reviewers name them.

    Raises:
        ValueError: for a name that no vocabulary can hold (empty, or with control characters).
    """
    names = {
        category: [vocabulary.rationales[number] for number in ids]
        for category, ids in zip(vocabulary.categories, vocabulary.rationales_of, strict=True)
    }
    known, num_known = set(vocabulary.rationales), len(names)
    is_changed = False
    for category, rationales in sorted((category, sorted(each)) for category, each in named):
        is_new = category not in vocabulary.categories
        own = names.setdefault(category, [])
        added = [each for each in rationales if (is_new or each not in known) and each not in own]
        own += added
        is_changed |= bool(added)
    if not is_changed and len(names) == num_known:
        return vocabulary
    return vocabulary_from_mapping(names, source="the vocabulary with the reviewers' names")


def new_names(vocabulary: Vocabulary, *, since: Vocabulary) -> list[str]:
    """Categories and rationales that an earlier vocabulary lacks."""
    before = {*since.categories, *since.rationales}
    return [name for name in (*vocabulary.categories, *vocabulary.rationales) if name not in before]
