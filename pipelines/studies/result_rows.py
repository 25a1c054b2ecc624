"""A CSV of rows and more rows in, the same file with all of them out: how a long measurement goes on."""

from pathlib import Path

import pandas as pd

from ecor.storage import filesystem


def read_rows(path: Path) -> pd.DataFrame:
    """The rows that are there; none where there is no file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def append_rows(rows: pd.DataFrame, path: Path, *, float_format: str) -> None:
    """Add rows to the file, which is never seen half-written. One process writes."""
    known = read_rows(path)
    both = pd.concat([known, rows], ignore_index=True) if len(known) else rows
    filesystem.write(path, both.to_csv(index=False, float_format=float_format).encode())
