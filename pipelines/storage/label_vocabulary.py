"""Find the vocabulary that labels were scored with: in the named file, or beside their shards."""

from contextlib import suppress
from dataclasses import dataclass

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionParents
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage import filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelVocabulary:
    """The vocabulary of some labels."""

    vocabulary: Vocabulary
    address: str
    """File that it was read from."""


def find_label_vocabulary(parents: PredictionParents, *, address: str | None) -> LabelVocabulary | None:
    """Read the vocabulary of labels.

    Args:
        parents: inputs of the labels.
        address: its file. None: the one beside the split that was labelled, if that is still the vocabulary of the
            labels.

    Returns:
        The vocabulary; None if no file is named and none is found.

    Raises:
        ValueError: when the named file holds another vocabulary, or none.
    """
    expected = parents.vocabulary_digest
    if address is not None:
        vocabulary = read_vocabulary(address)
        require(
            vocabulary.digest == expected,
            f"{address} is the vocabulary {vocabulary.digest[:12]}…, the labels were scored with {expected[:12]}…: "
            "name the vocabulary of the labels",
        )
        return LabelVocabulary(vocabulary=vocabulary, address=address)
    above = parents.input.rstrip("/").rpartition("/")[0]
    beside = filesystem.join(above or ".", VOCABULARY_NAME)
    with suppress(OSError, ValueError, ImportError):
        vocabulary = read_vocabulary(beside)
        if vocabulary.digest == expected:
            return LabelVocabulary(vocabulary=vocabulary, address=beside)
    return None
