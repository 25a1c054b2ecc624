"""Names of categories and rationales that people can choose from: of the vocabulary, or of the labels."""

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ecor.data.name_parsing import normalise_name
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from pipelines.storage.label_vocabulary import find_label_vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNames:
    """Names in the order in which a tool shows them."""

    categories: tuple[str, ...]
    rationales: tuple[str, ...]
    is_vocabulary: bool
    """Whether they are all names of the vocabulary; False: only those that the labels hold."""
    _normalised: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = frozenset(map(normalise_name, (*self.categories, *self.rationales)))
        object.__setattr__(self, "_normalised", names)

    def spelling(self, name: str) -> str:
        """A name as the vocabulary spells it, if it has it; else as given, without spaces around it."""
        normalised = normalise_name(name)
        return normalised if self.has(name) else name.strip()

    def has(self, name: str) -> bool:
        """Whether a category or a rationale has this name, in any spelling."""
        return normalise_name(name) in self._normalised


def read_known_names(labels: str, predictions: PredictionSet, *, vocabulary: str | None) -> KnownNames:
    """The names of the vocabulary that the labels were scored with.

    Args:
        labels: folder of the labels.
        predictions: their manifest.
        vocabulary: file of the vocabulary. None: the one beside the shards; where there is none, the names in the
            labels (one pass over them).

    Raises:
        ValueError: when the file is of another vocabulary.
    """
    found = find_label_vocabulary(predictions.parents, address=vocabulary)
    if found is not None:
        names = found.vocabulary
        return KnownNames(categories=names.categories, rationales=names.rationales, is_vocabulary=True)
    return _names_of_labels(labels, predictions)


def _names_of_labels(labels: str, predictions: PredictionSet) -> KnownNames:
    categories, rationales = set[str](), set[str]()
    for part in predictions.parts:
        table = read_part(labels, part, columns=["category", "rationale", "categories", "rationales"])
        categories |= _unique(table["category"]) | _unique(_field(table["categories"], "category"))
        rationales |= _unique(table["rationale"]) | _unique(_field(table["rationales"], "rationale"))
    return KnownNames(categories=tuple(sorted(categories)), rationales=tuple(sorted(rationales)), is_vocabulary=False)


def _field(lists: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.struct_field(pc.list_flatten(lists), name)


def _unique(column: pa.ChunkedArray) -> set[str]:
    return set(pc.unique(column).to_pylist())
