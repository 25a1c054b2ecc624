"""Rows of a scored part as they pass between actors, and where its time was spent.

Nothing here imports torch, so that the actor that writes rows stays small.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ecor.clip.image_features import ImageSide
from ecor.data.predictions.manifest import PredictionPart
from pipelines.scoring.decoder import UnitPart, from_ipc, to_ipc


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimings:
    """Seconds per step, of a part or of a job; summed over actors."""

    decode: float = 0.0
    """Reading, decoding and resizing pictures; or reading their kept features."""
    encode: float = 0.0
    """The image tower."""
    text: float = 0.0
    """Text features, and probabilities from features to rows."""
    write: float = 0.0
    """Parquet files and commit records."""
    explain: float = 0.0
    """Heat maps."""

    def __add__(self, other: "StepTimings") -> "StepTimings":
        return StepTimings(
            decode=self.decode + other.decode,
            encode=self.encode + other.encode,
            text=self.text + other.text,
            write=self.write + other.write,
            explain=self.explain + other.explain,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """Features to keep, in the order of the rows."""

    table: pa.Table
    """Of `ecor.clip.image_features.features_table`."""
    image_side: ImageSide

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "KeptRows | None":
        """Read what `ScoredPart.to_row` wrote."""
        if row["features"] is None:
            return None
        return cls(table=from_ipc(row["features"]), image_side=ImageSide(**json.loads(row["image_side"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPart(UnitPart):
    """The rows of a part."""

    rows: pa.Table
    """Rows of `ecor.data.predictions.schema.schema_for`, with the `evidence` column where heat maps are asked for."""
    seconds: StepTimings
    num_cut: int = 0
    """Sentences of the whole vocabulary that are longer than the text tower reads."""
    features: KeptRows | None = None
    """The features of the rows' images; None where they are not kept."""

    def to_row(self) -> pa.Table:
        """The part as one row of an Arrow table, for Ray Data."""
        return pa.table(
            {
                **self.shared_columns(),
                "rows": [to_ipc(self.rows)],
                "decode_s": [self.seconds.decode],
                "encode_s": [self.seconds.encode],
                "text_s": [self.seconds.text],
                "explain_s": [self.seconds.explain],
                "num_cut": [self.num_cut],
                "features": pa.array([None if self.features is None else to_ipc(self.features.table)], pa.binary()),
                "image_side": [None if self.features is None else json.dumps(asdict(self.features.image_side))],
            }
        )

    @classmethod
    def from_rows(cls, table: pa.Table) -> list["ScoredPart"]:
        """Read all parts of a block of Ray Data."""
        return [
            cls(
                **cls.shared_values(row),
                rows=from_ipc(row["rows"]),
                seconds=StepTimings(
                    decode=row["decode_s"], encode=row["encode_s"], text=row["text_s"], explain=row["explain_s"]
                ),
                num_cut=row["num_cut"],
                features=KeptRows.from_row(row),
            )
            for row in table.to_pylist()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """The rows of a unit as the bytes of a Parquet file that another job has written."""

    part: PredictionPart
    data: bytes
    """Verified: they are those of the part."""
