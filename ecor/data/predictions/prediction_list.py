"""Labels of pictures as a sequence: what `Recognizer.predict` returns."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from ecor.data.predictions.records import ExplainablePrediction, iterate_predictions


class Predictions(Sequence[ExplainablePrediction]):
    """The labels of some pictures, in their order: a sequence of `ExplainablePrediction`, and a table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def to_arrow(self) -> pa.Table:
        """One row per picture, with the columns of `ecor.data.predictions.schema.PREDICTION_SCHEMA`."""
        return self._table

    def to_pandas(self) -> pd.DataFrame:
        """One row per picture."""
        return self._table.to_pandas()

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: Any) -> Any:
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return Predictions(self._table.take(list(rows)))
        return next(iterate_predictions(self._table.slice(rows, 1)))

    def __iter__(self) -> Iterator[ExplainablePrediction]:
        return iterate_predictions(self._table)

    def __repr__(self) -> str:
        return (
            f"Predictions({len(self)} pictures)\n{self.to_pandas()[['source', 'category', 'rationale', 'confidence']]}"
        )

    def _repr_html_(self) -> str:
        return self.to_pandas()[["source", "category", "rationale", "confidence"]].to_html()
