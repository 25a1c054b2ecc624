"""A labelled image by name, and the label ids that it teaches in an epoch."""

from dataclasses import dataclass
from zlib import crc32

from ecor.data.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One encoded image with its labels by name."""

    key: str
    """Unique in its data set, without a dot."""
    image: bytes
    """Encoded, as it came."""
    extension: str
    """Of the image's format, without a dot: `jpg`."""
    category: str | None
    rationales: tuple[str, ...]
    """Labelled ones; may be empty."""
    visible_rationales: tuple[str, ...] | None
    """All that can be seen, where that is known."""
    source: str
    """Path or address it came from."""


def label_ids(sample: Sample, *, vocabulary: Vocabulary, epoch: int = 0) -> tuple[int, int]:
    """Ids of a sample's category and of the one rationale it teaches in `epoch`; -1 for what is not labelled.

    Epochs take a sample's rationales in turn, and each sample starts at a place given by its key. So the ids depend on
    the sample and the epoch alone, and neither ranks nor restarts change them.

    Args:
        sample: with or without labels.
        vocabulary: gives the ids.
        epoch: counted from 0.

    Raises:
        ValueError: when the vocabulary lacks a name.
    """
    category = -1 if sample.category is None else vocabulary.category_id(sample.category)
    if not sample.rationales:
        return category, -1
    turn = (crc32(sample.key.encode()) + epoch) % len(sample.rationales)
    return category, vocabulary.rationale_id(sample.rationales[turn])
