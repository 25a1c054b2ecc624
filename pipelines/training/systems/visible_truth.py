"""Read which rationales validation images show, where their shards list all visible ones."""

from jaxtyping import Int
from torch import Tensor

from ecor.data.vocabulary import Vocabulary
from pipelines.training.data_loader import SampleIndex


def read_visible_rationales(
    split: SampleIndex, *, positions: Int[Tensor, " N"], vocabulary: Vocabulary
) -> list[frozenset[int] | None]:
    """Read the ids of all rationales that each sample shows; None where that is not known.

    Args:
        split: the samples.
        positions: of N samples.
        vocabulary: that gives the ids; a name that it does not have is left out.
    """
    columns = [index["visible_rationales"].to_pylist() for index in split.indexes]
    found: list[frozenset[int] | None] = []
    for position in positions.tolist():
        names = columns[split.shard_of[position]][split.row_of[position]]
        known = None if names is None else [name for name in names if vocabulary.has_rationale(name)]
        found.append(None if known is None else frozenset(map(vocabulary.rationale_id, known)))
    return found
