"""Decode the images of a work unit into parts of uint8 pixels: the CPU actor of `ecor score`.

A part is a run of a unit's images in one uint8 tensor, small enough to stream through Ray's object store. It passes
between actors as a row of an Arrow table, so that pixels are never pickled.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from ecor.config.model import Preprocess
from pipelines.scoring.sources.decoded_images import decode_images
from pipelines.scoring.work_units import ImageUnit, Rejection, unit_from_json
from pipelines.storage.attempt import Attempt

PART_BYTES = 32 * 1024**2
PART_IMAGES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPart:
    """A run of a unit's images on its way between actors: what all kinds of parts hold."""

    unit: str
    attempt: Attempt | None
    """The job's claim of the unit, under which the writer commits it; None where nothing is committed."""
    index: int
    """Position among the unit's parts."""
    num_parts: int
    rejected: tuple[Rejection, ...]
    """Images of this run without a row."""
    num_multipicture: int = 0
    """Images of this run whose files hold more pictures, of which the first is taken."""

    def shared_columns(self) -> dict[str, Any]:
        """Columns of one row that every kind of part has."""
        return {
            "unit": [self.unit],
            "attempt": pa.array([attempt_to_json(self.attempt)], pa.string()),
            "index": [self.index],
            "num_parts": [self.num_parts],
            "rejected": [rejections_to_json(self.rejected)],
            "num_multipicture": [self.num_multipicture],
        }

    @staticmethod
    def shared_values(row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that `shared_columns` wrote."""
        return {
            **{name: row[name] for name in ("unit", "index", "num_parts")},
            "attempt": attempt_from_json(row["attempt"]),
            "rejected": rejections_from_json(row["rejected"]),
            "num_multipicture": row.get("num_multipicture", 0),  # an older version may have written it
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(UnitPart):
    """Some pictures of a unit, decoded, in order."""

    pixels: UInt8[np.ndarray, "B 3 H W"]
    origins: pa.Table
    """B rows with `ecor.data.predictions.schema.ORIGIN_SCHEMA`."""
    decode_s: float
    """Reading, decoding and resizing."""

    @property
    def num_images(self) -> int:
        return len(self.pixels)

    def to_row(self) -> pa.Table:
        """The part as one row; the pixels are not copied."""
        return pa.table(
            {
                **self.shared_columns(),
                "pixels": _binary_view(self.pixels),
                "shape": [list(self.pixels.shape)],
                "origins": [to_ipc(self.origins)],
                "decode_s": [self.decode_s],
            }
        )

    @classmethod
    def from_row(cls, table: pa.Table) -> "Part":
        """Read a table with one row; the pixels share its memory."""
        row = table.drop_columns(["pixels"]).to_pylist()[0]
        shared = np.frombuffer(table["pixels"][0].as_buffer(), dtype=np.uint8)
        return cls(
            **cls.shared_values(row),
            pixels=shared.reshape(row["shape"]),
            origins=from_ipc(row["origins"]),
            decode_s=row["decode_s"],
        )


class Decoder:
    """The Ray Data actor: maps rows with a unit to rows with a part."""

    def __init__(
        self, *, preprocess: Preprocess, num_images: int, fast_jpeg: bool = False, num_threads: int = 1
    ) -> None:
        self.settings: dict[str, Any] = {
            "preprocess": preprocess,
            "num_images": num_images,
            "fast_jpeg": fast_jpeg,
            "num_threads": num_threads,
        }

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            unit, attempt = unit_from_json(row["unit"]), attempt_from_json(row["attempt"])
            for part in decode_unit(unit, attempt=attempt, **self.settings):
                yield part.to_row()


def images_per_part(preprocess: Preprocess, *, batch_size: int) -> int:
    """Images per part: whole batches, at most 32 MiB and 512 images, but at least one batch."""
    height, width = preprocess.image_size
    most = min(PART_IMAGES, PART_BYTES // (3 * height * width))
    return max(1, most // batch_size) * batch_size


def decode_unit(
    unit: ImageUnit,
    *,
    preprocess: Preprocess,
    num_images: int,
    attempt: Attempt | None = None,
    fast_jpeg: bool = False,
    num_threads: int = 1,
) -> Iterator[Part]:
    """Decode a unit in parts; an empty unit has one empty part.

    Args:
        unit: the unit; an image that cannot be read becomes a rejection.
        attempt: the job's claim of the unit; None where nothing is committed.
        preprocess: the model's transform.
        num_images: images per part, unreadable ones included.
        fast_jpeg: decode JPEG files smaller than they are, where the tower takes far fewer pixels.
        num_threads: threads that decode.

    Raises:
        ValueError: when the unit's container differs from its record.
        OSError: when a disk or a store fails.
    """
    found = unit.read()
    num_parts = max(1, math.ceil(unit.num_images / num_images))
    for index in range(num_parts):
        began = time.perf_counter()
        decoded = decode_images(
            found,
            num_images=min(num_images, unit.num_images - index * num_images),
            preprocess=preprocess,
            fast_jpeg=fast_jpeg,
            num_threads=num_threads,
        )
        yield Part(
            unit=unit.name,
            attempt=attempt,
            index=index,
            num_parts=num_parts,
            pixels=decoded.pixels,
            origins=decoded.origins,
            rejected=decoded.rejected,
            num_multipicture=decoded.num_multipicture,
            decode_s=time.perf_counter() - began,
        )


def to_ipc(table: pa.Table) -> bytes:
    """Serialize a table as an Arrow stream, with its schema."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    """Deserialize the bytes of `to_ipc`."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def attempt_to_json(attempt: Attempt | None) -> str | None:
    """Serialize the claim of a unit, where there is one."""
    return None if attempt is None else attempt.to_json()


def attempt_from_json(text: str | None) -> Attempt | None:
    """Deserialize the text of `attempt_to_json`."""
    return None if text is None else Attempt.from_json(text)


def rejections_to_json(rejected: Sequence[Rejection]) -> str:
    """Serialize rejections as a JSON list of objects."""
    return json.dumps([asdict(each) for each in rejected])


def rejections_from_json(text: str) -> tuple[Rejection, ...]:
    """Deserialize the text of `rejections_to_json`."""
    return tuple(Rejection(**each) for each in json.loads(text))


def _binary_view(array: UInt8[np.ndarray, "..."]) -> pa.LargeBinaryArray:
    """One binary value that shares the array's memory."""
    assert array.flags.c_contiguous
    offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])
