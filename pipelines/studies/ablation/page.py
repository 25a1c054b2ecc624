"""Rows of the study in, one page of tables and plots out."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import pandas as pd

from pipelines.studies.ablation.claims import claims_table
from pipelines.studies.ablation.grid import Study, careful_settings, chosen_settings
from pipelines.studies.ablation.questions import answer_to
from pipelines.studies.ablation.tables import REPETITION, Table

PAGE = "results.md"
WORDS = "results-words.md"
"""What a reader of the tables wrote about them; opens the page."""


def write_page(
    rows: pd.DataFrame,
    *,
    grid: pd.DataFrame,
    folder: Path,
    study: Study,
    num_missing: int = 0,
    is_quick: bool = False,
) -> Path:
    """Write `results.md` and its plots into `folder`; the page's path.

    Args:
        rows: of the study's cells, all on test images.
        grid: of the cells that settings were chosen by.
        folder: of the page.
        study: whose questions are answered.
        num_missing: rows that are still to be measured.
        is_quick: whether the figures mean nothing.

    Raises ValueError when there are no rows yet.
    """
    if not len(rows):
        raise ValueError(f"{folder} has no rows of this study yet: run the same command without --only-page")
    answers = [answer for each in study.questions if (answer := answer_to(each, rows, folder=folder)) is not None]
    template = files("pipelines.studies.ablation").joinpath("templates/results.md.j2").read_text(encoding="utf-8")
    words = folder / WORDS
    text = jinja2.Template(template, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(
        words=words.read_text(encoding="utf-8").strip() if words.is_file() else "",
        claims=claims_table(rows),
        answers=answers,
        chosen=_chosen(grid),
        num_rows=len(rows),
        num_missing=num_missing,
        num_repetitions=len(rows[REPETITION].drop_duplicates()),
        num_pretrainings=rows["pretraining_seed"].nunique(),
        num_test=int(rows["num_images"].max()),
        is_quick=is_quick,
        world=study.world,
    )
    page = folder / PAGE
    page.write_text(text, encoding="utf-8")
    return page


def _chosen(grid: pd.DataFrame) -> Table:
    """What was chosen on validation images, and what the whole grid gave."""
    records: Sequence[dict[str, object]] = grid.to_dict("records")  # type: ignore[assignment]
    means = grid.groupby(["objective", "tokens", "learning_rate", "num_tokens"])["rr"].mean()
    careful = careful_settings(records)
    body = tuple(
        (
            *method,
            f"{settings.learning_rate:g}",
            str(settings.num_tokens),
            f"{100 * means[method].min():.1f} to {100 * means[method].max():.1f}",
            f"{careful[method].learning_rate:g}, {careful[method].num_tokens}",
        )
        for method, settings in chosen_settings(records).items()
    )
    header = (
        "loss",
        "tokens",
        "learning rate",
        "tokens each",
        "validation RR over the grid, %",
        "smallest rate and tokens within one standard error",
    )
    return Table(title="Settings chosen on validation images", header=header, rows=body)
