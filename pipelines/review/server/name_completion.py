"""Names that complete what a reviewer types: those of the vocabulary that fit best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ecor.data.name_parsing import normalise_name
from ecor.data.predictions.manifest import PredictionSet
from pipelines.review.label_index import LabelIndex
from pipelines.storage.label_vocabulary import find_label_vocabulary

MOST_COMPLETIONS = 8
NameKind = Literal["category", "rationale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameCompletion:
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
        """At most `MOST_COMPLETIONS` names that hold a text: at their beginning, then at that of a word, then anywhere.

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
            if len(ranked[0]) >= MOST_COMPLETIONS:
                break
        return [*exact, *ranked[0], *ranked[1], *ranked[2]][:MOST_COMPLETIONS]


def open_name_completion(address: str | None, *, predictions: PredictionSet, index: LabelIndex) -> NameCompletion:
    """The names of a vocabulary: the given one, that of the shards, or else the names that the labels hold.

    Raises:
        ValueError: when the given vocabulary is not the one that the labels were scored with.
    """
    found = find_label_vocabulary(predictions.parents, address=address)
    if found is not None:
        names = found.vocabulary
        return NameCompletion(categories=names.categories, rationales=names.rationales, origin=found.address)
    categories, rationales = (
        tuple(sorted(set(map(normalise_name, names)))) for names in (index.categories, index.rationales)
    )
    return NameCompletion(categories=categories, rationales=rationales, origin="the labels")
