"""Test claims on the rows of the ablation study, with text tokens and with visual tokens, in one table.

Most are claims of the ECOR paper's ablations and benchmark (ECOR, arXiv:2404.12839); those on pooled decoding are our
own. Each is tested as a difference within repetitions, which is above zero if the claim holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecor.config.scoring import MethodName
from ecor.evaluation.confidence_intervals import mean_over_repetitions
from pipelines.studies.ablation.grid import LOSS_OF_METHOD, Study
from pipelines.studies.ablation.results.arms import ARMS, DEFAULT
from pipelines.studies.ablation.results.tables import (
    REPETITION,
    RR,
    format_difference,
    growing_rows,
    own_test_rows,
    set_sizes,
)
from pipelines.studies.markdown import MarkdownTable


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStudy:
    """A study and the rows of its cells."""

    study: Study
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """Name of its tokens in a table."""
        return "visual tokens" if self.study.name == "shipped" else "text tokens"

    def figure(self, arm: str, rows: pd.DataFrame, *, figure: str) -> "pd.Series[float]":
        """A metric of one of `ARMS` per repetition, set and number of categories; `rows` are some of the study's."""
        chosen = ARMS[arm].select(rows, tokens=self.study.tokens)
        return chosen.groupby([*REPETITION, "set_name", "num_categories"])[figure].mean()


Difference = Callable[[MeasuredStudy, str], "pd.Series[float]"]
"""Of a metric, per repetition; empty where the study did not ask."""


def claims_table(studies: Sequence[MeasuredStudy]) -> MarkdownTable | None:
    """Tabulate each claim with its differences in RR, visible RR and accuracy, and a verdict on each.

    "yes": the whole 95 % interval lies above zero; "no, the opposite": below zero; "not shown": the interval holds
    zero. The columns of several studies stand side by side. Returns None if no claim can be judged.
    """
    body = []
    for claim, difference in _CLAIMS.items():
        found = [difference(each, figure) for figure in RR for each in studies]
        if any(len(each) for each in found):
            body.append((claim, *map(_describe, found)))
    of_study = [f": {each.title}" if len(studies) > 1 else "" for each in studies]
    header = ("claim", *(f"{words}, points{tokens}" for words in RR.values() for tokens in of_study))
    places = ", ".join(f"{each.title} on {len(each.study.sets)} sets" for each in studies)
    title = f"What was claimed, and what was measured on test images ({places})"
    return MarkdownTable(title=title, header=header, rows=tuple(body)) if body else None


def describe_verdict(differences: "pd.Series[float]") -> str:
    """Say whether the whole 95 % interval of the mean lies above zero, below it, or neither."""
    estimate = mean_over_repetitions(differences.to_numpy())
    if np.isnan(estimate.half_width) or abs(estimate.value) <= estimate.half_width:
        return "not shown"
    return "yes" if estimate.value > 0 else "no, the opposite"


def _describe(differences: "pd.Series[float]") -> str:
    if not len(differences):
        return "not asked"
    return f"{format_difference(differences)}, {describe_verdict(differences)}"


def _lead(first: str, second: str) -> Difference:
    """Of one arm over another: the mean over the study's sets, per repetition that has all of them."""

    def difference(measured: MeasuredStudy, figure: str) -> "pd.Series[float]":
        own = own_test_rows(measured.rows)
        gap = measured.figure(first, own, figure=figure) - measured.figure(second, own, figure=figure)
        by_set = gap.droplevel("num_categories").unstack("set_name").reindex(columns=measured.study.sets)
        return by_set.dropna().mean(axis=1)

    return difference


def _growing_lead(first: str, second: str) -> Difference:
    """Lead of one arm on the largest number of categories of the growing set, minus that on the smallest."""

    def difference(measured: MeasuredStudy, figure: str) -> "pd.Series[float]":
        own = growing_rows(own_test_rows(measured.rows, whole=False), study=measured.study)
        lead = (measured.figure(first, own, figure=figure) - measured.figure(second, own, figure=figure)).dropna()
        if not len(lead):
            return pd.Series(dtype=float)
        by_size = lead.groupby([*REPETITION, "num_categories"]).mean().unstack()
        return (by_size[by_size.columns.max()] - by_size[by_size.columns.min()]).dropna()

    return difference


def _lead_with_more_objects(first: str, second: str) -> Difference:
    """Lead of one arm on scenes with two objects, minus that on scenes with one."""

    def difference(measured: MeasuredStudy, figure: str) -> "pd.Series[float]":
        lead = _lead(first, second)
        return (lead(measured, f"{figure}_two") - lead(measured, f"{figure}_one")).dropna()

    return difference


def _transfer_gain(decoding: MethodName) -> Difference:
    """Metric of tokens tuned on another set, minus that without tokens; mean over all pairs of sets."""

    def difference(measured: MeasuredStudy, figure: str) -> "pd.Series[float]":
        rows, tokens = measured.rows, measured.study.tokens
        is_plain = (rows["set_size"] == 1) & (rows["split"] == "test")
        judged = rows[is_plain & (rows["num_categories"] == set_sizes(rows))]
        tuned = ARMS[f"{decoding}, tuned"].select(judged, tokens=tokens)
        elsewhere = tuned[tuned["test_set"] != tuned["set_name"]]
        untuned = ARMS[f"{decoding}, zero-shot"].select(judged, tokens=tokens)
        keys = [*REPETITION, "test_set"]
        gap = elsewhere.groupby(keys)[figure].mean() - untuned.groupby(keys)[figure].mean()
        return gap.dropna().groupby(REPETITION).mean()

    return difference


_OWN_LOSS = "each tuned with its own loss"
_CLAIMS: Mapping[str, Difference] = {
    f"joint beats the inverted order, {_OWN_LOSS}": _lead(DEFAULT, "inverted, tuned"),
    f"joint beats independent factors, {_OWN_LOSS}": _lead(DEFAULT, "independent, tuned"),
    f"joint beats one softmax over pairs (DROR), {_OWN_LOSS}": _lead(DEFAULT, "pairs, tuned"),
    "tuned prompts beat the best hand-written wording": _lead(DEFAULT, "joint, zero-shot"),
    "the lead of joint over the inverted order grows with the vocabulary": _growing_lead(DEFAULT, "inverted, tuned"),
    "the lead of joint over independent factors grows with the vocabulary": _growing_lead(
        DEFAULT, "independent, tuned"
    ),
    "the lead of joint over independent factors is larger with two objects": _lead_with_more_objects(
        DEFAULT, "independent, tuned"
    ),
    "prompts tuned on one set help on another (zero-shot transfer), joint": _transfer_gain("joint"),
    f"pooled beats joint, {_OWN_LOSS}": _lead("pooled, tuned", DEFAULT),
    **{
        f"pooled beats {rival}, {_OWN_LOSS}": _lead("pooled, tuned", f"{rival}, tuned")
        for rival in LOSS_OF_METHOD
        if rival != "joint"
    },
    "pooled, tuned, beats the best wording decoded jointly": _lead("pooled, tuned", "joint, zero-shot"),
    "pooled decoding beats joint decoding of the same tokens (two_term)": _lead(
        "joint's tokens, decoded pooled", DEFAULT
    ),
    "pooled decoding beats joint decoding without tuning": _lead("pooled, zero-shot", "joint, zero-shot"),
    "the lead of pooled over joint grows with the vocabulary": _growing_lead("pooled, tuned", DEFAULT),
    "the lead of pooled over joint is larger with two objects": _lead_with_more_objects("pooled, tuned", DEFAULT),
    "prompts tuned on one set help on another (zero-shot transfer), pooled": _transfer_gain("pooled"),
}
"""Each claim, and the difference that is above zero if it holds."""
