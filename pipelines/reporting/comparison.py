"""Compare a set of predictions with others of the same images, key by key."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from ecor.data.predictions.parts import read_predictions
from pipelines.reporting.html_page import OtherPrediction

PAIR = ["category", "rationale", "confidence"]


class ComparedPredictions:
    """Predictions to compare with. The pairs of all rows are held in memory, about 100 bytes each."""

    def __init__(self, folder: str, *, name: str, of: PredictionSet) -> None:
        """Read the predictions of a folder or of one Parquet file.

        Args:
            folder: folder of `ecor score`, or a Parquet file.
            name: name of these predictions on the page.
            of: the predictions of the page.

        Raises:
            ValueError: when a folder's predictions are of other images than `of`, or a part is missing or altered.
        """
        theirs = of if folder.endswith(".parquet") else read_prediction_set(folder)
        require(
            theirs.parents.input_digest == of.parents.input_digest,
            f"{folder} labels the pictures of {theirs.parents.input} ({theirs.parents.input_digest[:12]}), this page "
            f"those of {of.parents.input} ({of.parents.input_digest[:12]}): score the same input with both",
        )
        self.name = name
        rows = read_predictions(folder, columns=["key", *PAIR])
        self._keys, self._pairs = rows["key"].combine_chunks(), rows.select(PAIR)

    def rows_of(self, keys: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Find category, rationale and confidence for each key; null for a key without prediction."""
        return self._pairs.take(pc.index_in(keys, value_set=self._keys))


def read_comparisons(
    folders: Sequence[str], *, names: Sequence[str], of: PredictionSet
) -> tuple[ComparedPredictions, ...]:
    """Read the predictions of several folders, to compare them with those of the page.

    Args:
        folders: folders of `ecor score`, or Parquet files.
        names: a name for each on the page; empty: the names of the folders.
        of: the predictions of the page.

    Raises:
        ValueError: when the numbers of names and folders differ, and as `ComparedPredictions`.
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
    """Collect for each of some rows what the compared sets predict; a set without a prediction is left out.

    Args:
        names: name of each compared set.
        answers: result of `ComparedPredictions.rows_of` for each set, all for the same keys.
        rows: positions of the rows in these tables.
    """
    columns = [answer.take(rows).to_pylist() for answer in answers]
    return [
        tuple(
            OtherPrediction(name=name, **pair)
            for name, pair in zip(names, pairs, strict=True)
            if pair["category"] is not None
        )
        for pairs in (zip(*columns, strict=True) if columns else [()] * len(rows))
    ]
