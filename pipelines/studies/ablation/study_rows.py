"""Find the rows of cells in the CSV of a study, and append new ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.studies.ablation.grid import Cell, Judgement, Study
from pipelines.studies.ablation.study_cells import selection_cells
from pipelines.studies.drawn_splits import Sizes
from pipelines.studies.result_rows import append_rows, read_result_rows


def missing_cells(cells: Sequence[Cell], *, path: Path, sizes: Sizes) -> list[Cell]:
    """List the cells that have no row for some judgement, with these judgements alone.

    Args:
        cells: of a study.
        path: CSV of the study; it need not exist.
        sizes: of all cells.
    """
    done = {(row["cell"], row["judgement"]) for row in _read_records(path)}
    return [each for cell in cells if (each := _remaining(cell, done=done, sizes=sizes)).judgements]


def _remaining(cell: Cell, *, done: Collection[tuple[str, str]], sizes: Sizes) -> Cell:
    """Return the cell with only those judgements that are not done."""
    name = cell.digest_of(asdict(sizes))
    return replace(cell, judgements=tuple(each for each in cell.judgements if (name, each.name) not in done))


def row_keys(cells: Sequence[Cell], *, sizes: Sizes) -> set[tuple[str, str]]:
    """Cell and judgement of every row that the cells give."""
    return {(cell.digest_of(asdict(sizes)), each.name) for cell in cells for each in cell.judgements}


def grid_rows(study: Study, *, path: Path, sizes: Sizes) -> list[dict[str, Any]] | None:
    """Read the rows that settings are chosen from; None while some are missing."""
    cells = selection_cells(study)
    rows = select_rows(cells, path=path, sizes=sizes)
    return rows if len(rows) == len(row_keys(cells, sizes=sizes)) else None


def select_rows(cells: Sequence[Cell], *, path: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Read the rows of these cells from the CSV, which may also hold rows of other sizes and settings."""
    wanted = row_keys(cells, sizes=sizes)
    return [row for row in _read_records(path) if (row["cell"], row["judgement"]) in wanted]


def _read_records(path: Path) -> list[dict[str, Any]]:
    """Read all rows, and add the name of the judgement, which the file holds in several columns."""
    rows = [{str(name): value for name, value in row.items()} for row in read_result_rows(path).to_dict("records")]
    return [{**row, "judgement": _judgement(row).name} for row in rows]


def _judgement(row: Mapping[str, Any]) -> Judgement:
    return Judgement(
        decoding=row["decoding_judged"],
        test_set=row["test_set"],
        split=row["split"],
        set_size=int(row["set_size"]),
        set_rule=row["set_rule"],
    )


def append_cell_rows(rows: list[dict[str, Any]], *, path: Path) -> None:
    """Append rows to the CSV; no reader sees a partial file."""
    table = pd.DataFrame(rows).drop(columns="judgement", errors="ignore")
    append_rows(table, path, float_format="%.4g")
