"""A labelled image by name, and the label ids that it teaches in an epoch."""

import re
from dataclasses import dataclass
from zlib import crc32

from ecor.data.vocabulary import Vocabulary
from ecor.storage.digests import text_sha256


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


def sample_key(source: str, *, sha256: str) -> str:
    """Build the key of a sample: without a dot, and given by the image's content and its source alone.

    It holds twelve hex digits of the image's `sha256`, eight of the source path's (copies of one image differ), and the
    file name with everything but letters, digits, "-" and "_" replaced, cut at 40 characters. The content comes first,
    so that sorted keys mix the categories.

    Args:
        source: path or address of the image.
        sha256: of the image's bytes, in hex.
    """
    name = source.rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name)[:40]
    return f"{sha256[:12]}-{text_sha256(source)[:8]}-{stem or '_'}"
