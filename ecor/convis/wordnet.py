"""Read WordNet's nouns as a lexicon, from its database files."""

import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ecor.config.checks import require
from ecor.convis.lexicon import ListLexicon, children_of, reachable
from ecor.storage import filesystem

_DEBIAN_FOLDER = Path("/usr/share/wordnet")


_FILES = ("data.noun", "index.noun", "noun.exc")


_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


_HYPERNYM = "@"  # instances of a concept ("@i") are no kinds of it


_PART = "%p"


_EXAMPLES = re.compile(r';\s*"')  # other quotes belong to the definition


class WordNetLexicon:
    """The noun synsets of a WordNet database in the format wndb(5WN): `dog.n.01` and so on.

    Definitions are glosses without their examples. Instances (a river's name) are nouns here, but no kinds of anything.
    """

    def __init__(self, folder: filesystem.Address | None = None) -> None:
        """Read data.noun, index.noun and noun.exc.

        Args:
            folder: of the files, on a disk or in a store; None: $WNSEARCHDIR, else $WNHOME/dict, else where Debian's
                wordnet-base puts them.

        Raises:
            ValueError: naming the package, where the files are absent.
        """
        self.folder = _find_folder(folder)
        data, index, exceptions = (filesystem.join(self.folder, name) for name in _FILES)
        self._senses = dict(_read_index(index))
        self._synsets = {synset.offset: synset for synset in _read_data(data)}
        self._exceptions = _read_exceptions(exceptions)
        self._offsets = {self._name(synset): synset.offset for synset in self._synsets.values()}
        self._names = {offset: name for name, offset in self._offsets.items()}

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self._offsets)

    def synset(self, concept: str) -> "Synset":
        """Return the record behind a name.

        Raises:
            ValueError: when WordNet has no such noun synset.
        """
        require(concept in self._offsets, f"WordNet has no noun synset {concept!r}: write them as dog.n.01")
        return self._synsets[self._offsets[concept]]

    def definition(self, concept: str) -> str:
        return self.synset(concept).definition

    def lemmas(self, concept: str) -> tuple[str, ...]:
        """The words for a concept, most usual first."""
        return self.synset(concept).lemmas

    def parents(self, concept: str) -> tuple[str, ...]:
        return tuple(self._names[offset] for offset in self.synset(concept).hypernyms)

    def parts(self, concept: str) -> tuple[str, ...]:
        """Its part meronyms: what a thing of this kind has, in WordNet's order; not those of its parents."""
        return tuple(self._names[offset] for offset in self.synset(concept).parts)

    def descendants(self, concept: str) -> tuple[str, ...]:
        found = reachable([self.synset(concept).offset], self._children)
        return tuple(name for name, offset in self._offsets.items() if offset in found)

    def synsets(self, word: str) -> tuple[str, ...]:
        """All meanings of a noun in any of its forms, most usual first; empty for a word that WordNet lacks."""
        offsets = dict.fromkeys(offset for form in self.base_forms(word) for offset in self._senses[form])
        return tuple(self._names[offset] for offset in offsets)

    def base_forms(self, word: str) -> tuple[str, ...]:
        """The word itself and the singulars it may come from (morphy), as far as WordNet has them."""
        word = word.lower().strip().replace(" ", "_")
        if word in self._exceptions:
            candidates = [word, *self._exceptions[word]]
        else:
            candidates = [word, *(word[: -len(old)] + new for old, new in _ENDINGS if word.endswith(old))]
        return tuple(dict.fromkeys(form for form in candidates if form in self._senses))

    def taxonomy(self, words: Iterable[str]) -> ListLexicon:
        """Build a lexicon of all meanings of some words, and of all that they are kinds of, up to the root.

        ConVis builds its graph so. Words that WordNet lacks are left out.

        Raises:
            ValueError: when it lacks all of them.
        """
        seeds = [self._offsets[name] for word in words for name in self.synsets(word)]
        require(bool(seeds), "none of the words is a noun of WordNet")
        kept = reachable(seeds, {offset: synset.hypernyms for offset, synset in self._synsets.items()})
        names = {name: offset for name, offset in self._offsets.items() if offset in kept}
        return ListLexicon(
            {name: self.definition(name) for name in names}, parents={name: self.parents(name) for name in names}
        )

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        return children_of({offset: synset.hypernyms for offset, synset in self._synsets.items()})

    def _name(self, synset: "Synset") -> str:
        lemma = synset.lemmas[0].lower()
        return f"{lemma}.n.{self._senses[lemma].index(synset.offset) + 1:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Synset:
    """One synset, as data.noun holds it."""

    offset: int
    """Its place in the file: WordNet's own id."""
    lemmas: tuple[str, ...]
    """Words for it, spaces as underscores."""
    hypernyms: tuple[int, ...]
    """What it is a kind of."""
    instance_of: tuple[int, ...]
    """What it is a single instance of."""
    parts: tuple[int, ...]
    """Its part meronyms."""
    definition: str


def _find_folder(given: filesystem.Address | None) -> filesystem.Address:
    named = {"WNSEARCHDIR": "", "WNHOME": "dict"}
    set_here = [Path(os.environ[name]) / below for name, below in named.items() if os.environ.get(name)]
    folder = given if given is not None else (set_here or [_DEBIAN_FOLDER])[0]
    missing = [name for name in _FILES if not filesystem.is_file(filesystem.join(folder, name))]
    require(
        not missing,
        f"no WordNet in {folder}: {', '.join(missing)} missing. Install Debian's package wordnet-base, or give the "
        f"folder of the files (or set WNSEARCHDIR)",
    )
    return folder


def _read_lines(path: str) -> Iterator[str]:
    """Without the licence, whose lines start with two spaces."""
    text = io.StringIO(filesystem.read(path).decode("utf-8"))
    yield from (line for line in text if not line.startswith("  "))


def _read_data(path: str) -> Iterator[Synset]:
    for line in _read_lines(path):
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        num_words = int(fields[3], 16)
        after = 4 + 2 * num_words
        pointers = [fields[after + 1 + 4 * k : after + 5 + 4 * k] for k in range(int(fields[after]))]
        yield Synset(
            offset=int(fields[0]),
            lemmas=tuple(fields[4:after:2]),
            hypernyms=tuple(int(target) for kind, target, _, _ in pointers if kind == _HYPERNYM),
            instance_of=tuple(int(target) for kind, target, _, _ in pointers if kind == f"{_HYPERNYM}i"),
            parts=tuple(int(target) for kind, target, _, _ in pointers if kind == _PART),
            definition=_EXAMPLES.split(gloss, maxsplit=1)[0].strip(),
        )


def _read_index(path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Lemma and the offsets of its meanings, most usual first."""
    for line in _read_lines(path):
        fields = line.split()
        yield fields[0], tuple(int(offset) for offset in fields[-int(fields[2]) :])


def _read_exceptions(path: str) -> dict[str, list[str]]:
    return {fields[0]: fields[1:] for fields in (line.split() for line in _read_lines(path)) if fields}
