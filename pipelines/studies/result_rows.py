"""Read the CSV of a long measurement, and append to it as rows are measured."""

from pathlib import Path

import pandas as pd

from ecor.storage import filesystem


def read_result_rows(path: Path) -> pd.DataFrame:
    """Read the rows; an empty table if there is no file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def append_rows(rows: pd.DataFrame, path: Path, *, float_format: str) -> None:
    """Append rows to the file, with an atomic replacement. Only one process may write.

    Args:
        rows: the new rows.
        path: local CSV file; it need not exist.
        float_format: printf format of all numbers, also of the old rows.
    """
    known = read_result_rows(path)
    write_rows(pd.concat([known, rows], ignore_index=True) if len(known) else rows, path, float_format=float_format)


def write_rows(rows: pd.DataFrame, path: Path, *, float_format: str | None = None, missing: str = "") -> None:
    """Write the file with these rows alone.

    Args:
        rows: all rows.
        path: local CSV file.
        float_format: printf format of numbers; None: all digits.
        missing: text for NaN.
    """
    filesystem.write(path, rows.to_csv(index=False, float_format=float_format, na_rep=missing).encode())
