"""Rationales from captions: the phrases of sentences that mention a category, by how many captions hold each."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ecor.drafting.candidates import Candidate
from ecor.drafting.phrases import part_phrases


class CaptionPhrases:
    """Counts the phrases of captions per category; captions are added one by one and not kept."""

    def __init__(self, words: Mapping[str, Sequence[str]], *, max_words: int) -> None:
        """Nothing is counted yet.

        Args:
            words: per category the words by which captions mention it: its name, its synonyms.
            max_words: most words of a phrase.
        """
        synonyms = {word: name for name, known in words.items() for word in known if word}
        self._category_of = synonyms | {name: name for name in words}
        longest_first = sorted(self._category_of, key=lambda word: (-len(word), word))
        self._mention = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(?:s|es)?\b")
        self._max_words = max_words
        self.num_captions, self.num_mentioning = 0, 0
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in words}

    def add(self, caption: str) -> None:
        """Count the phrases of one caption, each once.

        A phrase belongs to the category that was mentioned last before it.
        """
        self.num_captions += 1
        text = " ".join(caption.lower().split())
        mentions = list(self._mention.finditer(text))
        if not mentions:
            return
        self.num_mentioning += 1
        found: dict[tuple[str, str], None] = {}
        for mention, end in zip(mentions, [*(each.start() for each in mentions[1:]), len(text)], strict=True):
            category = self._category_of[mention[1]]
            for phrase in part_phrases(text[mention.end() : end], max_words=self._max_words):
                found[(category, phrase)] = None
        for category, phrase in found:
            self._counts[category][phrase] += 1

    def drafts(self, *, min_captions: int) -> Iterator[Candidate]:
        """Yield the phrases of each category, the most frequent first.

        Args:
            min_captions: in which a phrase must stand.
        """
        for category, counts in self._counts.items():
            for phrase, number in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
                if number >= min_captions:
                    yield Candidate(category=category, rationale=phrase, sources=(f"captions ({number:,})",))


def count_phrases(captions: Iterable[str], *, words: Mapping[str, Sequence[str]], max_words: int) -> CaptionPhrases:
    """Count the phrases of all captions (see `CaptionPhrases`)."""
    counts = CaptionPhrases(words, max_words=max_words)
    for caption in captions:
        counts.add(caption)
    return counts
