"""Names that complete what a reviewer types: those of the vocabulary that fit best."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from ecor.config.checks import require
from ecor.data.predictions import PredictionSet
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.vocabulary import Vocabulary, normalise_name, read_vocabulary
from ecor.storage import filesystem
from pipelines.review.label_index import LabelIndex

MOST_NAMES = 8
NameKind = Literal["category", "rationale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNames:
    """The names that corrections can use without being marked as new."""

    categories: tuple[str, ...]
    """Normalised, unique."""
    rationales: tuple[str, ...]
    origin: str
    """Where they are from, for people."""
    _all: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_all", frozenset((*self.categories, *self.rationales)))

    @property
    def all(self) -> frozenset[str]:
        return self._all

    def complete(self, text: str, *, kind: NameKind, first: Sequence[str] = ()) -> list[str]:
        """At most `MOST_NAMES` names that hold a text: at their beginning, then at that of a word, then anywhere.

        Args:
            text: what was typed; empty: all names fit.
            kind: of the names.
            first: names that come first among equal ones, such as those that the model finds probable.
        """
        typed = normalise_name(text)
        ours = self.categories if kind == "category" else self.rationales
        names = dict.fromkeys([*(name for name in map(normalise_name, first) if name), *ours])
        ranked: list[list[str]] = [[], [], []]
        exact = [typed] if typed in names else []
        for name in names:
            place = -1 if exact and name == typed else name.find(typed)
            if place == 0:
                ranked[0].append(name)
            elif place > 0:
                ranked[1 if f" {typed}" in name else 2].append(name)
            if len(ranked[0]) >= MOST_NAMES:
                break
        return [*exact, *ranked[0], *ranked[1], *ranked[2]][:MOST_NAMES]


def read_known_names(address: str | None, *, predictions: PredictionSet, index: LabelIndex) -> KnownNames:
    """The names of a vocabulary: the given one, that of the shards, or else the names that the labels hold.

    Raises:
        ValueError: when the given vocabulary is not the one that the labels were scored with.
    """
    expected = predictions.parents.vocabulary_digest
    if address is not None:
        vocabulary = read_vocabulary(address)
        require(
            vocabulary.digest == expected,
            f"{address} has digest {vocabulary.digest[:12]}…, the labels were scored with {expected[:12]}…: name the "
            f"vocabulary of the labels",
        )
        return _of_vocabulary(vocabulary, origin=address)
    beside = filesystem.join(predictions.parents.input.rstrip("/").rpartition("/")[0] or ".", VOCABULARY_NAME)
    with suppress(OSError, ValueError, ImportError):
        vocabulary = read_vocabulary(beside)
        if vocabulary.digest == expected:
            return _of_vocabulary(vocabulary, origin=beside)
    categories, rationales = (
        tuple(sorted(set(map(normalise_name, names)))) for names in (index.categories, index.rationales)
    )
    return KnownNames(categories=categories, rationales=rationales, origin="the labels")


def _of_vocabulary(vocabulary: Vocabulary, *, origin: str) -> KnownNames:
    return KnownNames(categories=vocabulary.categories, rationales=vocabulary.rationales, origin=origin)
