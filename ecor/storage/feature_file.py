"""A sparse .npy file of feature rows that all processes of a machine fill and read together."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecor.config.checks import require
from ecor.storage.atomic_write import create_file_once


class FeatureFile:
    """A sparse `.npy` grid [N K D] on a local disk, filled row by row by any number of processes.

    A second file holds one flag byte per row, set after the row is on the disk. A row may be written twice, with the
    same values. This process keeps nothing in memory.

    Args:
        path: of the grid; the file is created where it is missing.
        shape: N, K, D.
        dtype: of the values in the file.

    Raises:
        ValueError: when a file of another shape or type exists.
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
        """Rows, of these or of all, that no process has written yet; sorted."""
        wanted = np.arange(self.shape[0]) if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
        return [int(row) for row in wanted[self._flags[wanted] == 0]]

    def write(self, first: int, features: NDArray[np.floating]) -> None:
        """Write rows; they are flagged as filled only once they are on the disk.

        Args:
            first: position of the first row.
            features: of as many rows as shall be written, [n K D].
        """
        data = np.ascontiguousarray(features, dtype=self.dtype)
        _write_at(self.path, data.tobytes(), offset=self._offset + first * self.row_bytes)
        _write_at(self._flags_path, b"\x01" * len(data), offset=self._flags.offset + first)

    def row(self, row: int) -> NDArray[np.floating]:
        """One row [K D], mapped for this read only, so that a long job does not map the whole file."""
        start = self._offset + row * self.row_bytes
        return np.array(np.memmap(self.path, dtype=self.dtype, mode="r", offset=start, shape=self.shape[1:]))

    def column(self, column: int) -> NDArray[np.floating]:
        """One column [N D]; the grid must be full."""
        return np.array(np.load(self.path, mmap_mode="r")[:, column])


def _create_once(path: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a sparse file of zeros, unless one exists."""

    def sparse(temporary: Path) -> None:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)

    if not path.exists():
        create_file_once(path, sparse)


def save_array_once(path: Path, array: NDArray[np.floating]) -> None:
    """Save an array as a `.npy` file, unless the file exists.

    Args:
        path: of the file; a missing folder is created.
        array: of any shape.
    """

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, numpy would append .npy
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
