"""Answer the question `shipped`: every method with visual tokens, what was claimed, and what ships by the rule.

The rule was written before any test row was read. It sees rows of validation images alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from pipelines.studies.ablation.grid import ALL_METHODS, LOSS_OF_METHOD, SHIPPED_TOKENS
from pipelines.studies.ablation.results.claims import claims_table, describe_verdict
from pipelines.studies.ablation.results.tables import (
    REPETITION,
    RR,
    Answer,
    answer_by_comparison,
    format_difference,
    own_test_rows,
)
from pipelines.studies.markdown import MarkdownTable

DEFAULT = "joint, tuned"
RULE = (
    "The rule, written before any test row was read: the arm with the highest RR on validation images replaces joint "
    "as the default, unless its accuracy or its visible RR is below that of joint by more than one standard error; "
    "then the next arm above joint is asked. If there is none, joint stays. RR is the mean over sets and repetitions; "
    "the standard error is that of the differences within set and repetition. A new default has to win in both worlds. "
    "The validation images also chose epochs, wordings, temperatures and λ, of every arm alike."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Loss and decoding of some rows of the question."""

    objective: ObjectiveName | None
    decoding: MethodName

    def select(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Select its rows of the question `shipped`."""
        found = rows[rows["wording_is_chosen"] & (rows["decoding_judged"] == self.decoding)]
        if self.objective is None:
            return found[found["objective"].isna() & (found["decoding"] == self.decoding)]
        return found[(found["objective"] == self.objective) & (found["tokens"] == SHIPPED_TOKENS)]


ARMS: Mapping[str, Arm] = {
    **{f"{decoding}, tuned": Arm(objective=loss, decoding=decoding) for decoding, loss in ALL_METHODS.items()},
    "joint's tokens, decoded pooled": Arm(objective="two_term", decoding="pooled"),
    "pooled's tokens, decoded jointly": Arm(objective="three_term", decoding="joint"),
    **{f"{decoding}, zero-shot": Arm(objective=None, decoding=decoding) for decoding in ALL_METHODS},
}


def shipped_answer(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Compare all arms on test images; None without rows."""
    own = own_test_rows(rows)
    return answer_by_comparison(
        pd.concat([arm.select(own).assign(arm=name) for name, arm in ARMS.items()]),
        folder,
        question="shipped",
        note=(
            "Two visual tokens in every block, none in the text. Every tuned arm has its own loss, and learning rates "
            "were chosen with equal effort, if at all (below). Pooled has the loss three_term. All arms have the "
            "hand-written wording that is best on validation images for their decoding."
        ),
        arms=tuple(ARMS),
        columns="set_name",
        against=DEFAULT,
    )


def shipped_claims(rows: pd.DataFrame, *, text_rows: pd.DataFrame | None = None) -> MarkdownTable | None:
    """Tabulate differences between arms on test images, in RR, visible RR and accuracy.

    Args:
        rows: of the question `shipped`.
        text_rows: of the study with text tokens, whose answer to the same claim stands beside them; None: none.
    """
    own = own_test_rows(rows)
    text = _text_answers(text_rows)
    body = []
    for claim, (first, second) in _CLAIMS.items():
        gaps = [_mean_gap(own, figure, first=first, second=second) for figure in RR]
        if len(gaps[0]):
            beside = (text.get(claim, "not asked"),) if text else ()
            body.append((claim, *(f"{format_difference(each)}, {describe_verdict(each)}" for each in gaps), *beside))
    if not body:
        return None
    header = ("claim", *(f"{words}, points" for words in RR.values()), *(("RR with text tokens",) if text else ()))
    return MarkdownTable(
        title="What was claimed, and what was measured on test images", header=header, rows=tuple(body)
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
    """An arm on validation images, beside joint."""

    means: Mapping[str, float]
    """Mean share of each figure over sets and repetitions."""
    gaps: Mapping[str, float]
    """Mean difference from joint, within set and repetition."""
    errors: Mapping[str, float]
    """Standard error of the difference; NaN for a single set and repetition."""

    def is_worse(self, figure: str) -> bool:
        """Whether the figure is below joint's by more than one standard error."""
        return bool(self.gaps[figure] < -np.nan_to_num(self.errors[figure]))


def validation_scores(rows: pd.DataFrame) -> dict[str, ArmScore]:
    """Score all arms on validation images, best RR first; arms that miss a row are left out."""
    judged = rows[(rows["split"] == "validation") & (rows["test_set"] == rows["set_name"])]
    keys = [*REPETITION, "set_name"]
    by_arm = {name: arm.select(judged).set_index(keys)[list(RR)] for name, arm in ARMS.items()}
    base = by_arm[DEFAULT]
    found = {}
    for name, figures in by_arm.items():
        gaps = (figures - base).dropna()
        if len(base) and len(gaps) == len(base):
            means, mean_gaps, errors = figures.mean(), gaps.mean(), gaps.sem()
            found[name] = ArmScore(
                means={figure: float(means[figure]) for figure in RR},
                gaps={figure: float(mean_gaps[figure]) for figure in RR},
                errors={figure: float(errors[figure]) for figure in RR},
            )
    return dict(sorted(found.items(), key=lambda item: -item[1].means["rr"]))


def winner(rows: pd.DataFrame) -> str:
    """Name the arm that ships by `RULE`."""
    for name, score in validation_scores(rows).items():
        if name == DEFAULT or not (score.is_worse("accuracy") or score.is_worse("visible_rr")):
            return name
    return DEFAULT


def _mean_gap(rows: pd.DataFrame, figure: str, *, first: str, second: str) -> "pd.Series[float]":
    """Difference of two arms per repetition that has all sets, the mean over them."""
    keys = [*REPETITION, "set_name"]
    one, other = (ARMS[name].select(rows).set_index(keys)[figure] for name in (first, second))
    by_set = (one - other).unstack("set_name").reindex(columns=rows["set_name"].unique())
    return by_set.dropna().mean(axis=1)


def _format_gap(score: ArmScore, figure: str) -> str:
    return f"{100 * score.gaps[figure]:+.1f} ± {100 * score.errors[figure]:.1f}"


def _text_answers(rows: pd.DataFrame | None) -> dict[str, str]:
    """RR and verdict of each claim that was asked with text tokens too."""
    table = None if rows is None else claims_table(rows)
    return {} if table is None else {words: f"{difference}, {verdict}" for words, difference, _, verdict in table.rows}


_OWN_LOSS = "each tuned with its own loss"
_CLAIMS: Mapping[str, tuple[str, str]] = {
    f"joint beats the inverted order, {_OWN_LOSS}": (DEFAULT, "inverted, tuned"),
    f"joint beats independent factors, {_OWN_LOSS}": (DEFAULT, "independent, tuned"),
    f"joint beats one softmax over pairs (DROR), {_OWN_LOSS}": (DEFAULT, "pairs, tuned"),
    "tuned prompts beat the best hand-written wording": (DEFAULT, "joint, zero-shot"),
    f"pooled beats joint, {_OWN_LOSS}": ("pooled, tuned", DEFAULT),
    **{
        f"pooled beats {rival}, {_OWN_LOSS}": ("pooled, tuned", f"{rival}, tuned")
        for rival in LOSS_OF_METHOD
        if rival != "joint"
    },
    "pooled, tuned, beats the best wording decoded jointly": ("pooled, tuned", "joint, zero-shot"),
    "pooled decoding beats joint decoding of the same tokens (two_term)": ("joint's tokens, decoded pooled", DEFAULT),
    "pooled decoding beats joint decoding without tuning": ("pooled, zero-shot", "joint, zero-shot"),
}
"""Each claim, and the arms whose difference is above zero if it holds."""
