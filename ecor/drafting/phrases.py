"""Phrases of visible parts in English sentences, by plain rules: what stands after `with`, `having`, `there is` …

Not in the paper. There is no parser behind the rules, so some phrases are wrong; images are to drop these.
"""

import re
from collections.abc import Iterator

_MARKERS = (
    r"because there (?:is|are)|there (?:is|are)|with|having|has|have|bearing|wearing|characterized by|covered in"
    r"|consisting of|including|includes"
)
_MARKER = re.compile(rf"\b(?:{_MARKERS})\b")
_CLAUSE = re.compile(r"[;:.!?()\[\]\"“”\n]+(?=\s|$)|[()\[\];\"“”\n]")
_CUT = re.compile(
    r"\b(?:that|which|who|whose|where|when|while|because|but|used|usually used|next to|near|beside|in front of)\b.*"
)
_BETWEEN = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|\band\b|\bor\b)\s*")
_WITHIN = re.compile(r"\bwith\b")
_BEFORE = re.compile(
    rf"^(?:{_MARKERS}|and|or|usually|often|sometimes|typically|generally|especially|always|also|its|their|his|her|the)\s+"
)
_NOT_FIRST = re.compile(
    r"is|are|was|were|be|been|being|by|of|in|on|at|to|from|for|as|it|they|he|she|this|these|not|no|more|less|than|can"
    r"|may|such|other|others|etc|e\.g"
)
_NOT_LAST = re.compile(r"an?|the|of|in|on|at|to|from|for|with|and|or|very|as|by|its|their")
_COLOUR = re.compile(r"black|white|red|green|blue|yellow|brown|gr[ea]y|orange|pink|purple|golden|silver|tawny|beige")
_ARTICLES = frozenset(("a", "an"))


def part_phrases(sentence: str, *, max_words: int) -> Iterator[str]:
    """Yield the phrases of a sentence that follow a marker such as `with` or `having`.

    A clause is read from its first marker on, cut before a relative clause or a place (`that`, `which`, `next to`, …),
    and divided at commas, `and` and `or`. `black and white stripes` stays together: a colour, or a word alone that is
    no plural, is no phrase of its own.

    Args:
        sentence: English, in any case.
        max_words: most words of a phrase; a longer one is divided at `with`, and what is still longer is left out.
    """
    for clause in _CLAUSE.split(sentence.lower()):
        marker = _MARKER.search(clause)
        if marker is None:
            continue
        for piece in _pieces(_CUT.sub("", clause[marker.end() :])):
            words = _words(piece)
            short = [words] if len(words) <= max_words else map(_words, _WITHIN.split(" ".join(words)))
            yield from (" ".join(each) for each in short if len(each) <= max_words and _is_phrase(each))


def with_article(noun: str) -> str:
    """`a wheel`, `an antler`, `scissors`: a noun as it stands in a sentence; a plural is one that ends in s."""
    is_plural = noun.endswith("s") and not noun.endswith(("ss", "us", "is"))
    return noun if is_plural else f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _pieces(text: str) -> Iterator[str]:
    """The text divided at commas and conjunctions, where a phrase ends there."""
    start = 0
    for gap in _BETWEEN.finditer(text):
        left = text[start : gap.start()]
        if _ends_phrase(_without_start(left).split(), is_choice="or" in gap[0]):
            yield left
            start = gap.end()
    yield text[start:]


def _ends_phrase(words: list[str], *, is_choice: bool) -> bool:
    """Whether these words can be a phrase before a comma, `and` or `or`, and are not the first of several adjectives.

    `a spout and handle` are two phrases, `a bony or cartilaginous skeleton` is one.
    """
    bare = [word for word in words if word not in _ARTICLES]
    if not bare or _COLOUR.fullmatch(bare[-1]):
        return False
    return len(bare) > 1 or (len(words) > 1 and not is_choice) or bare[0].endswith("s")


def _words(piece: str) -> list[str]:
    words = _without_start(piece).strip(" ,'`-").split()
    while words and _NOT_LAST.fullmatch(words[-1]):
        words.pop()
    return words


def _without_start(piece: str) -> str:
    before = piece.strip()
    while (after := _BEFORE.sub("", before)) != before:
        before = after
    return before


def _is_phrase(words: list[str]) -> bool:
    bare = [word for word in words if word not in _ARTICLES]
    if not bare or _NOT_FIRST.fullmatch(bare[0]) or _COLOUR.fullmatch(bare[-1]):
        return False
    return any(map(str.isalpha, bare[-1]))
