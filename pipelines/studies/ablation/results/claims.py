"""Test the claims of the ECOR paper on the rows of the ablation study, in one table.

The claims are those of the paper's ablations and benchmark (ECOR, arXiv:2404.12839). Each is tested as a difference
within repetitions, which is above zero if the claim holds.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from ecor.evaluation.confidence_intervals import mean_over_repetitions
from pipelines.studies.ablation.grid import LOSS_OF_METHOD
from pipelines.studies.ablation.results.tables import REPETITION, format_difference, growing_rows, own_test_rows
from pipelines.studies.markdown import MarkdownTable

FIGURES = ("rr", "visible_rr")


def claims_table(rows: pd.DataFrame) -> MarkdownTable | None:
    """Tabulate each claim with its differences in RR and visible RR, and a verdict by the difference in RR.

    "yes": the whole 95 % interval lies above zero; "no, the opposite": below zero; "not shown": the interval holds
    zero. Returns None if no claim can be judged.
    """
    body = []
    for words, difference in _CLAIMS.items():
        found = [difference(rows, figure) for figure in FIGURES]
        if len(found[0]):
            body.append((words, *(format_difference(each) for each in found), describe_verdict(found[0])))
    header = ("claim", "difference in RR, points", "in visible RR, points", "holds here (by RR)")
    return (
        MarkdownTable(title="What was claimed, and what was measured", header=header, rows=tuple(body))
        if body
        else None
    )


def describe_verdict(differences: "pd.Series[float]") -> str:
    """Say whether the whole 95 % interval of the mean lies above zero, below it, or neither."""
    estimate = mean_over_repetitions(differences.to_numpy())
    if np.isnan(estimate.half_width) or abs(estimate.value) <= estimate.half_width:
        return "not shown"
    return "yes" if estimate.value > 0 else "no, the opposite"


def _metric_by_set(
    rows: pd.DataFrame, figure: str, *, objective: ObjectiveName | None, decoding: MethodName
) -> pd.Series:
    """Mean of a metric of one method, per repetition and set."""
    chosen = rows[rows["wording_is_chosen"] & (rows["decoding_judged"] == decoding)]
    if objective is None:
        chosen = chosen[chosen["objective"].isna() & (chosen["decoding"] == decoding)]
    else:
        chosen = chosen[(chosen["objective"] == objective) & (chosen["tokens"] == "text")]
    return chosen.groupby([*REPETITION, "set_name", "num_categories"])[figure].mean()


def _tuned_metric(rows: pd.DataFrame, figure: str, *, decoding: MethodName) -> pd.Series:
    return _metric_by_set(rows, figure, objective=LOSS_OF_METHOD[decoding], decoding=decoding)


def _joint_minus(rival: MethodName) -> Callable[[pd.DataFrame, str], "pd.Series[float]"]:
    def difference(rows: pd.DataFrame, figure: str) -> "pd.Series[float]":
        own = own_test_rows(rows)
        gap = (_tuned_metric(own, figure, decoding="joint") - _tuned_metric(own, figure, decoding=rival)).dropna()
        return gap.groupby(REPETITION).mean()

    return difference


def _tuned_minus_zero_shot(rows: pd.DataFrame, figure: str) -> "pd.Series[float]":
    own = own_test_rows(rows)
    untuned = _metric_by_set(own, figure, objective=None, decoding="joint")
    return (_tuned_metric(own, figure, decoding="joint") - untuned).dropna().groupby(REPETITION).mean()


def _growing_lead(rival: MethodName) -> Callable[[pd.DataFrame, str], "pd.Series[float]"]:
    """Lead of joint on all categories of the growing set, minus its lead on the smallest number of categories."""

    def difference(rows: pd.DataFrame, figure: str) -> "pd.Series[float]":
        own = growing_rows(own_test_rows(rows, whole=False))
        if not len(own):
            return pd.Series(dtype=float)
        lead = (_tuned_metric(own, figure, decoding="joint") - _tuned_metric(own, figure, decoding=rival)).dropna()
        by_size = lead.groupby([*REPETITION, "num_categories"]).mean().unstack()
        return (by_size[by_size.columns.max()] - by_size[by_size.columns.min()]).dropna()

    return difference


def _transfer_gain(rows: pd.DataFrame, figure: str) -> "pd.Series[float]":
    """Metric of tokens tuned on another set, minus that without tokens; mean over all pairs of sets."""
    judged = rows[rows["wording_is_chosen"] & (rows["decoding_judged"] == "joint") & (rows["set_size"] == 1)]
    elsewhere = judged[
        (judged["objective"] == "two_term") & (judged["tokens"] == "text") & (judged["test_set"] != judged["set_name"])
    ]
    untuned = judged[judged["objective"].isna() & (judged["decoding"] == "joint")]
    keys = [*REPETITION, "test_set"]
    gap = elsewhere.groupby(keys)[figure].mean() - untuned.groupby(keys)[figure].mean()
    return gap.dropna().groupby(REPETITION).mean()


_CLAIMS: Mapping[str, Callable[[pd.DataFrame, str], "pd.Series[float]"]] = {
    "joint beats the inverted order, each tuned with its own loss": _joint_minus("inverted"),
    "joint beats independent factors, each tuned with its own loss": _joint_minus("independent"),
    "joint beats one softmax over pairs (DROR), each tuned with its own loss": _joint_minus("pairs"),
    "tuned prompts beat the best hand-written wording": _tuned_minus_zero_shot,
    "the lead over the inverted order grows with the vocabulary": _growing_lead("inverted"),
    "the lead over independent factors grows with the vocabulary": _growing_lead("independent"),
    "prompts tuned on one set help on another (zero-shot transfer)": _transfer_gain,
}
