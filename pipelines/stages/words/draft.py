"""Draft rationales for a list of categories from all sources that a user gives: descriptors, captions, WordNet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ecor.config.checks import name_some
from ecor.convis.wordnet import WordNetLexicon
from ecor.data.name_parsing import decode_utf8, normalise_name
from ecor.data.vocabulary import read_vocabulary
from ecor.drafting.candidates import Candidate, merge_candidates
from ecor.drafting.caption_drafts import count_phrases
from ecor.drafting.category_names import CategoryName, parse_category_names
from ecor.drafting.text_rules import CategoryWords, text_verdicts
from ecor.drafting.wordnet_drafts import choose_synset, kinds_of, meanings_of, synonyms_of, wordnet_drafts
from ecor.storage.digests import bytes_sha256, file_sha256
from pipelines.config.learning import WordsConfig
from pipelines.stages.words.caption_file import read_captions, read_file

_NAMED = 8
"""Categories that a line names."""
_SOURCES = {"descriptors": "descriptors", "captions": "captions", "definition": "definitions", "part": "parts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Rationales that were drafted for some categories."""

    categories: tuple[str, ...]
    """Normalised, in the order of the list."""
    candidates: tuple[Candidate, ...]
    """In order of preference: descriptors, captions by their number, definitions, parts."""
    verdicts: tuple[str, ...]
    """Of their texts (`ecor.drafting.text_rules.text_verdicts`)."""
    synsets: Mapping[str, str]
    """WordNet's synset of each category that it knows."""
    lines: tuple[str, ...]
    """What to print."""
    digests: Mapping[str, str]
    """sha256 of each file that was read."""


def draft_rationales(config: WordsConfig) -> Draft:
    """Draft from every source of the settings.

    Raises:
        ValueError: for a file that is not there or cannot be read, a list of categories with errors, a synset that
            WordNet lacks, and where WordNet is asked for and not installed.
    """
    listed = read_file(config.categories, what="categories, one name a line")
    names = parse_category_names(decode_utf8(listed, source=config.categories), source=config.categories)
    digests = {"categories": bytes_sha256(listed)}
    lexicon = WordNetLexicon(config.wordnet_folder) if config.wordnet else None
    chosen = {} if lexicon is None else {each.name: choose_synset(lexicon, each) for each in names}
    synsets = {name: synset for name, synset in chosen.items() if synset is not None}
    words = {each.name: _words_for(each, lexicon=lexicon, synset=synsets.get(each.name)) for each in names}
    found, lines = list[Candidate](), list[str]()
    if config.descriptors is not None:
        found += _from_descriptors(config.descriptors, words=words, lines=lines)
        digests["descriptors"] = file_sha256(config.descriptors)
    if config.captions is not None:
        found += _from_captions(config, words=words, lines=lines)
        digests["captions"] = file_sha256(config.captions)
    if lexicon is not None:
        lines += _describe_meanings(lexicon, names, synsets=synsets)
        found += _from_wordnet(lexicon, names, synsets=synsets, config=config)
    candidates = merge_candidates(found)
    return Draft(
        categories=tuple(each.name for each in names),
        candidates=candidates,
        verdicts=text_verdicts(candidates, words),
        synsets=synsets,
        lines=(*lines, *_describe_draft(names, candidates)),
        digests=digests,
    )


def _words_for(category: CategoryName, *, lexicon: WordNetLexicon | None, synset: str | None) -> CategoryWords:
    written = (category.name, category.written.lower())
    if lexicon is None or synset is None:
        return CategoryWords(names=tuple(dict.fromkeys(written)))
    return CategoryWords(
        names=tuple(dict.fromkeys((*written, *synonyms_of(lexicon, synset)))), kinds=kinds_of(lexicon, synset)
    )


def _from_descriptors(path: str, *, words: Mapping[str, CategoryWords], lines: list[str]) -> Iterator[Candidate]:
    """Those of the categories on the list, by name or synonym."""
    described = read_vocabulary(path)
    known = {name: number for number, name in enumerate(described.categories)}
    taken = 0
    for category, each in words.items():
        spellings = map(normalise_name, each.names)
        number = next((known[spelling] for spelling in spellings if spelling in known), None)
        taken += number is not None
        for rationale in () if number is None else described.rationales_of[number]:
            yield Candidate(category=category, rationale=described.rationales[rationale], sources=("descriptors",))
    lines.append(f"descriptors: {taken:,} of {len(words):,} categories are in {path}, which has {len(known):,}")


def _from_captions(config: WordsConfig, *, words: Mapping[str, CategoryWords], lines: list[str]) -> list[Candidate]:
    assert config.captions is not None
    counts = count_phrases(
        read_captions(config.captions, column=config.caption_column),
        words={name: each.names for name, each in words.items()},
        max_words=config.draft.max_words,
    )
    lines.append(f"captions: {counts.num_captions:,} read, {counts.num_mentioning:,} mention a category")
    return list(counts.drafts(min_captions=config.draft.min_captions))


def _from_wordnet(
    lexicon: WordNetLexicon, names: Sequence[CategoryName], *, synsets: Mapping[str, str], config: WordsConfig
) -> Iterator[Candidate]:
    for each in names:
        if each.name in synsets:
            depth, max_words = config.draft.depth, config.draft.max_words
            yield from wordnet_drafts(lexicon, each, synset=synsets[each.name], depth=depth, max_words=max_words)


def _describe_meanings(
    lexicon: WordNetLexicon, names: Sequence[CategoryName], *, synsets: Mapping[str, str]
) -> Iterator[str]:
    unknown = [each.name for each in names if each.name not in synsets]
    if unknown:
        yield f"not in WordNet: {name_some(unknown, most=_NAMED)}"
    meanings = {each.name: len(meanings_of(lexicon, each)) for each in names if each.synset is None}
    several = [f"{name} ({synsets[name]} of {number})" for name, number in meanings.items() if number > 1]
    if several:
        yield (
            f"several meanings in WordNet, of which one was taken: {name_some(several, most=_NAMED)}; to take another "
            "one, write `name: synset` in the list"
        )


def _describe_draft(names: Sequence[CategoryName], candidates: Sequence[Candidate]) -> Iterator[str]:
    kinds = [next(kind for kind in _SOURCES if each.sources[0].startswith(kind)) for each in candidates]
    parts = [f"{kinds.count(kind):,} from {words}" for kind, words in _SOURCES.items() if kind in kinds]
    yield f"{len(names):,} categories, {len(candidates):,} rationales drafted: {', '.join(parts) or 'none'}"
    drafted = {each.category for each in candidates}
    without = [each.name for each in names if each.name not in drafted]
    if without:
        yield f"without any draft, write rationales for them by hand: {name_some(without, most=_NAMED)}"
