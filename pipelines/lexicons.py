"""What a user calls a lexicon in, the lexicon out: the demo's own, a JSON file, or WordNet above some words."""

from pathlib import Path

from ecor.demo.taxonomy import demo_lexicon
from ecor.explain.lexicon import Lexicon, WordNetLexicon, read_lexicon


def lexicon_named(name: str) -> Lexicon:
    """A lexicon by name.

    Args:
        name: `demo`; the path of a JSON file (`ecor.explain.lexicon.read_lexicon`); or `wordnet:<path>`, a text file of
            words, one a line: all their meanings and what these are kinds of (Debian's wordnet-base, or $WNSEARCHDIR).

    Raises:
        ValueError: for a file that is none of these, and as `WordNetLexicon` does.
    """
    if name == "demo":
        return demo_lexicon()
    kind, marker, path = name.partition(":")
    if kind == "wordnet" and marker:
        words = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        return WordNetLexicon().taxonomy(word for word in words if word)
    return read_lexicon(name)
