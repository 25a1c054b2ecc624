"""Columns of a table of predictions: origins with nulls, and a description of every column.

Covers: `ecor.data.predictions.records`.
"""

import dataclasses

import pyarrow as pa
import pytest

from ecor.data.predictions.records import ExplainablePrediction
from ecor.data.predictions.schema import OPTIONAL_COLUMNS, ORIGIN_SCHEMA, PREDICTION_SCHEMA, origins_table, schema_rows


def test_origins_fill_what_is_not_known() -> None:
    table = origins_table(["a", "b"], shard=pa.array(["s", "s"]), rationales_true=[["x"], None])
    assert table.schema.equals(ORIGIN_SCHEMA)
    assert table.to_pylist()[1] == {**dict.fromkeys(ORIGIN_SCHEMA.names), "key": "b", "source": "b", "shard": "s"}
    with pytest.raises(ValueError, match="colour"):
        origins_table(["a"], colour=["red"])


def test_every_column_is_documented() -> None:
    optional = [column.name for column in OPTIONAL_COLUMNS]
    assert [column.name for column in dataclasses.fields(ExplainablePrediction)] == [
        *PREDICTION_SCHEMA.names,
        *optional,
    ]
    assert all(row["description"] for row in schema_rows())
    assert {row["name"]: row["unit"] for row in schema_rows()}["confidence"] == "probability"
