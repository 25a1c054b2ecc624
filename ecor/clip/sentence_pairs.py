"""Tokenize all Prompt_{c|R} sentences as prefix, first name and second name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import Formatter

import torch
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.towers.causal_text import Tokens
from ecor.data.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePairs:
    """Token ids of all Prompt_{c|R} sentences: start, a beginning per first name, an ending per second name."""

    category_first: bool
    start: Tokens
    """Start token and the words before the first name."""
    heads: tuple[Tokens, ...]
    """The first name and the words between, per category (or rationale)."""
    tails: tuple[Tokens, ...]
    """The second name, the words after it, the end token, per rationale (or category)."""
    suspect_categories: frozenset[int]
    """Names that the tokenizer may clean differently inside a whole sentence; their sentences are compared."""
    suspect_rationales: frozenset[int]

    def odd_places(
        self,
        backbone: Backbone,
        text_of: Callable[[int, int], str],
        *,
        rationales: Sequence[int],
        categories: Sequence[int],
    ) -> list[tuple[int, int]]:
        """Places (rationale, category) in the two lists whose whole sentence has other tokens than its parts.

        Args:
            backbone: with CLIP's own tokenizer.
            text_of: whole sentence of a category and a rationale.
            rationales: ids in the vocabulary.
            categories: ids in the vocabulary.
        """
        every = list(enumerate(categories))
        suspects = [(column, category) for column, category in every if category in self.suspect_categories]
        return [
            (row, column)
            for row, rationale in enumerate(rationales)
            for column, category in (every if rationale in self.suspect_rationales else suspects)
            if not self.is_tokenised_alike(
                backbone, text_of(category, rationale), category=category, rationale=rationale
            )
        ]

    def is_tokenised_alike(self, backbone: Backbone, text: str, *, category: int, rationale: int) -> bool:
        """Whether a whole sentence has the tokens of its parts."""
        head, tail = (category, rationale) if self.category_first else (rationale, category)
        return backbone.text_tokenizer.tokenize([text])[0] == [*self.start, *self.heads[head], *self.tails[tail]]


def split_pairs(
    backbone: Backbone, *, vocabulary: Vocabulary, template: str, longest_start: int
) -> SentencePairs | None:
    """Tokenize the names of a vocabulary as beginnings and endings of Prompt_{c|R}; None where this cannot be done.

    It cannot where no white space stands between the two names. CLIP's tokenizer never joins words over white space,
    and its cleaning leaves plain printable ASCII alone but for entities ("&…;"): names of that kind tokenise in parts
    as in the whole; sentences with others are compared.

    Args:
        backbone: with CLIP's own tokenizer.
        vocabulary: categories and rationales.
        template: of Prompt_{c|R}.
        longest_start: most tokens of the common start.
    """
    (before, first, *_), (between, *_), *rest = Formatter().parse(template)
    after = rest[0][0] if rest else ""
    cut = len(between.rstrip()) if between != between.rstrip() else between.rfind(" ")
    if cut < 0:
        return None
    names = (vocabulary.categories, vocabulary.rationales)
    firsts, seconds = names if first == "category" else names[::-1]
    head_texts = [before + name + between[:cut] for name in firsts]
    tail_texts = [between[cut:] + name + after for name in seconds]
    heads = [tuple(ids[:-1]) for ids in backbone.text_tokenizer.tokenize(head_texts)]
    if min(map(len, heads)) < 2:
        return None
    start = common_start(heads, longest=longest_start)
    odd_heads, odd_tails = (
        frozenset(i for i, text in enumerate(texts) if not _is_plain(text)) for texts in (head_texts, tail_texts)
    )
    return SentencePairs(
        category_first=first == "category",
        start=start,
        heads=tuple(each[len(start) :] for each in heads),
        tails=tuple(tuple(ids[1:]) for ids in backbone.text_tokenizer.tokenize(tail_texts)),
        suspect_categories=odd_heads if first == "category" else odd_tails,
        suspect_rationales=odd_tails if first == "category" else odd_heads,
    )


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "&" not in text


def common_start(sentences: Sequence[Tokens], *, longest: int) -> Tokens:
    """Find the longest common prefix, with at least one token left of each sentence.

    Args:
        sentences: at least one.
        longest: most tokens of the prefix.
    """
    shortest, furthest = min(sentences), max(sentences)
    limit = min(longest, min(map(len, sentences)) - 1)
    same = 0
    while same < limit and shortest[same] == furthest[same]:
        same += 1
    return shortest[:same]


def equal_length_batches(sentences: Sequence[Tokens], *, size: int) -> Iterator[list[int]]:
    """Yield the positions of the sentences, the shortest first, in batches of one length and at most `size`."""
    for length in sorted({len(each) for each in sentences}):
        places = [place for place, each in enumerate(sentences) if len(each) == length]
        yield from (places[i : i + size] for i in range(0, len(places), size))


def inverse_order(order: list[int], *, device: torch.device) -> Tensor:
    """Where each of 0, 1, … stands in `order`, a permutation of them: [N]."""
    return torch.tensor(order, device=device).argsort()
