"""Compare a set of predictions with others of the same images, key by key."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ecor.config import require
from ecor.data.predictions import PredictionSet, read_manifest, read_predictions
from pipelines.reporting.html_page import OtherPrediction

PAIR = ["category", "rationale", "confidence"]


class ComparedPredictions:
    """Labels to compare with. All rows' pairs are held in memory, some 100 bytes each."""

    def __init__(self, folder: str, *, name: str, of: PredictionSet) -> None:
        """Read the labels in `folder`, or one Parquet file of them.

        Raises ValueError when a folder's labels are of other pictures than `of`.
        """
        theirs = of if folder.endswith(".parquet") else read_manifest(folder)
        require(
            theirs.parents.input_digest == of.parents.input_digest,
            f"{folder} labels the pictures of {theirs.parents.input} ({theirs.parents.input_digest[:12]}), this page "
            f"those of {of.parents.input} ({of.parents.input_digest[:12]}): score the same input with both",
        )
        self.name = name
        rows = read_predictions(folder, columns=["key", *PAIR])
        self._keys, self._pairs = rows["key"].combine_chunks(), rows.select(PAIR)

    def rows_of(self, keys: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Category, rationale and confidence for each key; null where these labels say nothing."""
        return self._pairs.take(pc.index_in(keys, value_set=self._keys))


def read_comparisons(
    folders: Sequence[str], *, names: Sequence[str], of: PredictionSet
) -> tuple[ComparedPredictions, ...]:
    """The labels in `folders`, called by `names` or, without any, as their folders are.

    Raises ValueError when there are names, but not one for each folder, and for labels of other pictures.
    """
    require(
        not names or len(names) == len(folders),
        f"{len(names)} names for {len(folders)} folders of labels beside: name each of them, or none",
    )
    called = names or [PurePosixPath(folder).stem for folder in folders]
    return tuple(ComparedPredictions(folder, name=name, of=of) for folder, name in zip(folders, called, strict=True))


def other_predictions(
    names: Sequence[str], answers: Sequence[pa.Table], *, rows: Sequence[int]
) -> list[tuple[OtherPrediction, ...]]:
    """What each of the labels called `names` says of some rows of their `answers`."""
    columns = [answer.take(rows).to_pylist() for answer in answers]
    return [
        tuple(
            OtherPrediction(name=name, **pair)
            for name, pair in zip(names, pairs, strict=True)
            if pair["category"] is not None
        )
        for pairs in (zip(*columns, strict=True) if columns else [()] * len(rows))
    ]
