"""A sparse .npy file of feature rows that all processes of a machine fill and read together."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecor.config import require
from ecor.storage.atomic_write import create_file_once


class FeatureFile:
    """A sparse `.npy` grid [N K D] on a local disk, filled row by row by any number of processes.

    Beside it lies one byte per row, set after the row is on the disk. Writing a row twice is harmless: it is the same
    row. Nothing is kept in this process's memory. ValueError if a file of another shape or type is in the way.
    """

    def __init__(self, path: Path, *, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        _create_once(path, shape=shape, dtype=dtype)
        _create_once(self._flags_path, shape=(shape[0],), dtype=np.dtype(np.uint8))
        found = np.load(path, mmap_mode="r")
        require(
            (found.shape, found.dtype) == (shape, dtype),
            f"{path} holds {found.shape} {found.dtype}, expected {shape} {dtype}: remove it, or use another cache_dir",
        )
        self._offset: int = found.offset
        self._flags = np.load(self._flags_path, mmap_mode="r")

    @property
    def _flags_path(self) -> Path:
        return self.path.with_suffix(".filled.npy")

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    def missing(self, rows: Sequence[int] | None = None) -> list[int]:
        """Those of the rows (or of all) that no process has written yet, sorted."""
        wanted = np.arange(self.shape[0]) if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
        return [int(row) for row in wanted[self._flags[wanted] == 0]]

    def write(self, first: int, features: NDArray[np.floating]) -> None:
        """Rows `first`, `first + 1`, …: on the disk before they count as filled."""
        data = np.ascontiguousarray(features, dtype=self.dtype)
        _write_at(self.path, data.tobytes(), offset=self._offset + first * self.row_bytes)
        _write_at(self._flags_path, b"\x01" * len(data), offset=self._flags.offset + first)

    def row(self, row: int) -> NDArray[np.floating]:
        """[K D], mapped for this reading only, so that a long job does not come to hold the whole file."""
        start = self._offset + row * self.row_bytes
        return np.array(np.memmap(self.path, dtype=self.dtype, mode="r", offset=start, shape=self.shape[1:]))

    def column(self, column: int) -> NDArray[np.floating]:
        """[N D] of a grid that is full."""
        return np.array(np.load(self.path, mmap_mode="r")[:, column])


def _create_once(path: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A file of zeros that takes no room on the disk yet, unless one is there."""

    def sparse(temporary: Path) -> None:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)

    if not path.exists():
        create_file_once(path, sparse)


def save_array_once(path: Path, array: NDArray[np.floating]) -> None:
    """Save an array as a `.npy` file, unless one is there."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would end the name of a path in .npy
            np.save(file, array)

    create_file_once(path, save)


def _write_at(path: Path, data: bytes, *, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
