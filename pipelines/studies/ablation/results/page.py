"""Write the page of the ablation study, or of its question `shipped`, from the rows of its CSV."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipelines.studies import markdown
from pipelines.studies.ablation.grid import Study
from pipelines.studies.ablation.results.claims import claims_table
from pipelines.studies.ablation.results.questions import answer_question
from pipelines.studies.ablation.results.shipped import RULE, rule_table, shipped_claims
from pipelines.studies.ablation.results.tables import REPETITION
from pipelines.studies.ablation.selection import best_settings, one_standard_error_settings


def write_results_page(
    rows: pd.DataFrame,
    *,
    grid: pd.DataFrame,
    folder: Path,
    study: Study,
    num_missing: int = 0,
    is_quick: bool = False,
    text_rows: pd.DataFrame | None = None,
) -> Path:
    """Write the page, `results.md` or `shipped.md`, and its plots into `folder`; returns the path of the page.

    Args:
        rows: rows of the study's cells.
        grid: rows of the cells that settings were chosen from; none if there was no choice.
        folder: folder of the page.
        study: the questions to answer.
        num_missing: number of rows still to be measured.
        is_quick: whether it was a test run, whose figures mean nothing.
        text_rows: for the question `shipped`, the rows of the study with text tokens; None: there are none.

    Raises:
        ValueError: when there are no rows yet.
    """
    if not len(rows):
        raise ValueError(f"{folder} has no rows of this study yet: run the same command without --only-page")
    answers = [answer for each in study.questions if (answer := answer_question(each, rows, folder=folder)) is not None]
    page, is_shipped = folder / f"{study.name}.md", study.name == "shipped"
    ruling = rule_table(rows) if is_shipped else None
    text = markdown.render_template(
        "results.md.j2",
        package="pipelines.studies.ablation",
        name=study.name,
        words=markdown.read_introduction(page),
        claims=shipped_claims(rows, text_rows=text_rows) if is_shipped else claims_table(rows),
        rule=RULE if ruling else "",
        ruling=ruling.markdown if ruling else "",
        answers=answers,
        chosen=_settings_table(grid).markdown if study.has_choice else _describe_only_setting(study),
        num_rows=len(rows),
        num_missing=num_missing,
        num_repetitions=len(rows[REPETITION].drop_duplicates()),
        num_pretrainings=rows["pretraining_seed"].nunique(),
        num_test=int(rows["num_images"].max()),
        is_quick=is_quick,
        world=study.world,
    )
    return markdown.write_parts(page, text)


def _describe_only_setting(study: Study) -> str:
    return (
        f"Nothing was chosen: every method has the learning rate {study.learning_rates[0]:g} and "
        f"{study.num_tokens[0]} tokens."
    )


def _settings_table(grid: pd.DataFrame) -> markdown.MarkdownTable:
    """Tabulate the settings chosen on validation images, and the results of the whole grid."""
    records: Sequence[dict[str, object]] = grid.to_dict("records")  # type: ignore[assignment]
    means = grid.groupby(["objective", "tokens", "learning_rate", "num_tokens"])["rr"].mean()
    careful = one_standard_error_settings(records)
    body = tuple(
        (
            *method,
            f"{settings.learning_rate:g}",
            str(settings.num_tokens),
            f"{100 * means[method].min():.1f} to {100 * means[method].max():.1f}",
            f"{careful[method].learning_rate:g}, {careful[method].num_tokens}",
        )
        for method, settings in best_settings(records).items()
    )
    header = (
        "loss",
        "tokens",
        "learning rate",
        "tokens each",
        "validation RR over the grid, %",
        "smallest rate and tokens within one standard error",
    )
    return markdown.MarkdownTable(title="Settings chosen on validation images", header=header, rows=body)
