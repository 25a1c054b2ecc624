"""Write the page of the ablation study, or of its question `shipped`, from the rows of its CSV."""

from pathlib import Path

import pandas as pd

from pipelines.studies import markdown
from pipelines.studies.ablation.grid import Study
from pipelines.studies.ablation.results.claims import MeasuredStudy, claims_table
from pipelines.studies.ablation.results.questions import answer_question
from pipelines.studies.ablation.results.settings import describe_settings
from pipelines.studies.ablation.results.shipped import RULE, rule_table
from pipelines.studies.ablation.results.tables import REPETITION


def write_results_page(
    rows: pd.DataFrame,
    *,
    grid: pd.DataFrame,
    folder: Path,
    study: Study,
    num_missing: int = 0,
    is_quick: bool = False,
    beside: MeasuredStudy | None = None,
) -> Path:
    """Write the page, `results.md` or `shipped.md`, and its plots into `folder`; returns the path of the page.

    Args:
        rows: rows of the study's cells.
        grid: rows of the cells that settings were chosen from; none if there was no choice.
        folder: folder of the page.
        study: the questions to answer.
        num_missing: number of rows still to be measured.
        is_quick: whether it was a test run, whose figures mean nothing.
        beside: the study with the other kind of tokens, whose answers to the same claims stand beside; None: none.

    Raises:
        ValueError: when there are no rows yet.
    """
    if not len(rows):
        raise ValueError(f"{folder} has no rows of this study yet: run the same command without --only-page")
    found = (answer_question(each, rows, folder=folder, study=study) for each in study.questions)
    answers = [answer for answer in found if answer is not None]
    page, is_shipped = folder / f"{study.name}.md", study.name == "shipped"
    ruling = rule_table(rows) if is_shipped else None
    studies = [MeasuredStudy(study=study, rows=rows), *([beside] if beside else [])]
    text = markdown.render_template(
        "results.md.j2",
        package="pipelines.studies.ablation",
        name=study.name,
        words=markdown.read_introduction(page),
        questions=" ".join(study.questions) if is_shipped else "",
        claims=claims_table(sorted(studies, key=lambda each: each.title)),
        rule=RULE if ruling else "",
        ruling=ruling.markdown if ruling else "",
        answers=answers,
        chosen=describe_settings(grid, study=study),
        num_rows=len(rows),
        num_missing=num_missing,
        num_repetitions=len(rows[REPETITION].drop_duplicates()),
        num_pretrainings=rows["pretraining_seed"].nunique(),
        num_test=int(rows["num_images"].max()),
        is_quick=is_quick,
        world=study.world,
    )
    return markdown.write_parts(page, text)
