"""Answer the question `shipped`: every method with visual tokens, and what ships by the rule.

The rule was written before any test row was read. It sees rows of validation images alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.studies.ablation.grid import SHIPPED_TOKENS, Study
from pipelines.studies.ablation.results.arms import ARMS, DEFAULT
from pipelines.studies.ablation.results.tables import (
    REPETITION,
    RR,
    Answer,
    answer_by_comparison,
    own_test_rows,
)
from pipelines.studies.markdown import MarkdownTable

RULE = (
    "The rule, written before any test row was read: the arm with the highest RR on validation images replaces joint "
    "as the default, unless its accuracy or its visible RR is below that of joint by more than one standard error; "
    "then the next arm above joint is asked. If there is none, joint stays. RR is the mean over sets and repetitions; "
    "the standard error is that of the differences within set and repetition. A new default has to win in both "
    "worlds. The validation images also chose epochs, wordings and temperatures, of every arm alike. Arms whose RR is "
    "below that of the best by at most one standard error are tied with it, and of these the one with the highest "
    "accuracy ships; this sentence was added when five repetitions had been seen, before any other was made."
)


def shipped_answer(rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None:
    """Compare all arms on test images of the study's sets; None without rows."""
    own = own_test_rows(rows[rows["set_name"].isin(study.sets)])
    return answer_by_comparison(
        pd.concat([arm.select(own, tokens=study.tokens).assign(arm=name) for name, arm in ARMS.items()]),
        folder,
        question="shipped",
        note=(
            "Two visual tokens in every block, none in the text. Every tuned arm has its own loss, and learning rates "
            "were chosen with equal effort, if at all (see the end). Pooled has the loss three_term. All arms have the "
            "hand-written wording that is best on validation images for their decoding."
        ),
        arms=tuple(ARMS),
        columns="set_name",
        against=DEFAULT,
    )


def rule_table(rows: pd.DataFrame) -> MarkdownTable | None:
    """Tabulate the figures of all arms on validation images, best RR first; None without rows."""
    scores = validation_scores(rows)
    if DEFAULT not in scores:
        return None
    body = tuple(
        (
            name,
            *(f"{100 * score.means[figure]:.1f}" for figure in RR),
            *("" if name == DEFAULT else _format_gap(score, figure) for figure in RR),
        )
        for name, score in scores.items()
    )
    header = ("", *(f"{words}, %" for words in RR.values()), *(f"{words} minus joint's" for words in RR.values()))
    title = f"Validation images: mean over sets and repetitions, ± one standard error. By the rule: {winner(rows)}"
    return MarkdownTable(title=title, header=header, rows=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """An arm on validation images, beside another: joint, or the best."""

    means: Mapping[str, float]
    """Mean share of each figure over sets and repetitions."""
    gaps: Mapping[str, float]
    """Mean difference from the other arm, within set and repetition."""
    errors: Mapping[str, float]
    """Standard error of the difference; NaN for a single set and repetition."""

    def is_worse(self, figure: str) -> bool:
        """Whether the figure is below the other arm's by more than one standard error."""
        return bool(self.gaps[figure] < -np.nan_to_num(self.errors[figure]))


def validation_scores(rows: pd.DataFrame) -> dict[str, ArmScore]:
    """Score all arms on validation images, best RR first; arms that miss a row are left out."""
    return _scores_beside(DEFAULT, _validation_figures(rows))


def winner(rows: pd.DataFrame) -> str:
    """Name the arm that ships by `RULE`."""
    figures = _validation_figures(rows)
    allowed = [
        name
        for name, score in _scores_beside(DEFAULT, figures).items()
        if name == DEFAULT or not (score.is_worse("accuracy") or score.is_worse("visible_rr"))
    ]
    if not allowed:
        return DEFAULT
    beside_best = _scores_beside(allowed[0], {name: figures[name] for name in allowed})
    tied = [name for name, score in beside_best.items() if not score.is_worse("rr")]
    return max(tied, key=lambda name: beside_best[name].means["accuracy"])


def _validation_figures(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Figures of each arm on validation images, by repetition and set."""
    judged = rows[(rows["split"] == "validation") & (rows["test_set"] == rows["set_name"])]
    keys = [*REPETITION, "set_name"]
    return {name: arm.select(judged, tokens=SHIPPED_TOKENS).set_index(keys)[list(RR)] for name, arm in ARMS.items()}


def _scores_beside(name: str, figures_by_arm: Mapping[str, pd.DataFrame]) -> dict[str, ArmScore]:
    """Score the arms beside one of them, best RR first; arms that miss one of its rows are left out."""
    base = figures_by_arm[name]
    found = {}
    for arm, figures in figures_by_arm.items():
        gaps = (figures - base).dropna()
        if len(base) and len(gaps) == len(base):
            means, mean_gaps, errors = figures.mean(), gaps.mean(), gaps.sem()
            found[arm] = ArmScore(
                means={figure: float(means[figure]) for figure in RR},
                gaps={figure: float(mean_gaps[figure]) for figure in RR},
                errors={figure: float(errors[figure]) for figure in RR},
            )
    return dict(sorted(found.items(), key=lambda item: -item[1].means["rr"]))


def _format_gap(score: ArmScore, figure: str) -> str:
    return f"{100 * score.gaps[figure]:+.1f} ± {100 * score.errors[figure]:.1f}"
