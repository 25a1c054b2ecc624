"""Read the vocabulary beside some shards, and say which of its categories training cannot learn or tell apart."""

from collections.abc import Iterator

from ecor.config.checks import name_some, require
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage import filesystem

_NAMED = 5
"""Categories in a line, at most."""


def read_shards_vocabulary(shards: str) -> Vocabulary:
    """The vocabulary of a folder of `ecor shard`; ValueError for another folder, and for a damaged vocabulary."""
    path = f"{shards}/{VOCABULARY_NAME}"
    require(
        filesystem.exists(path),
        f"{shards} holds no {VOCABULARY_NAME}: name the folder that `ecor shard` wrote, which holds the splits",
    )
    return read_vocabulary(path)


def describe_vocabulary(vocabulary: Vocabulary, *, shards: str, system: str) -> Iterator[str]:
    """Lines before training: names that nothing can be told apart from, and categories whose images teach nothing.

    Args:
        vocabulary: of the shards.
        shards: their address, for the error.
        system: `ecor train --system`; LICO needs no rationales.

    Raises:
        ValueError: for a vocabulary without any rationale.
    """
    kinds = {"category": vocabulary.categories, "rationale": vocabulary.rationales if system != "lico" else ()}
    for kind, names in kinds.items():
        if len(names) == 1:
            yield f"the vocabulary has one {kind} alone ({names[0]}): it is right for every image, whatever is learned"
    lacking = [name for name, ids in zip(vocabulary.categories, vocabulary.rationales_of, strict=True) if not ids]
    if system == "lico" or not lacking:
        return
    named = name_some(lacking, most=_NAMED)
    require(
        bool(vocabulary.rationales),
        f"{shards}/{VOCABULARY_NAME} has no rationale at all ({named}): add rationales, and shard again",
    )
    yield (
        f"{len(lacking)} of {len(vocabulary.categories)} categories have no rationale ({named}): their images are left "
        "out of training and of its figures, unless they have rationales of their own"
    )
