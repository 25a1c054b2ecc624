"""Answer each question of the ablation study: its arms, its baseline, its tables and plot."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from pipelines.studies.ablation.grid import LOSS_OF_METHOD, TOKENS, Study
from pipelines.studies.ablation.results.dependence import dependence_answer
from pipelines.studies.ablation.results.shipped import shipped_answer
from pipelines.studies.ablation.results.tables import (
    Answer,
    answer_by_comparison,
    own_test_rows,
)
from pipelines.studies.ablation.results.vocabulary_questions import (
    answer_growth,
    answer_objects,
    answer_sets,
    answer_transfer,
)
from pipelines.studies.markdown import MarkdownTable


class _AnswerOfStudy(Protocol):
    def __call__(self, rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None: ...


def answer_question(question: str, rows: pd.DataFrame, *, folder: Path, study: Study) -> Answer | None:
    """Answer a question of a study from test rows, and write its plot into the folder; None if it has no rows."""
    if question in _ANSWERS_OF_STUDY:
        return _ANSWERS_OF_STUDY[question](rows, folder, study=study)
    return _ANSWERS[question](rows, folder)


def _methods(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Answer question 1: every arm with its own loss and decoding; untuned arms with every decoding."""
    own = own_test_rows(rows)
    plain = own[(own["wording_is_chosen"]) & (own["tokens"].isin(["none", "text"]))]
    arms: dict[str, pd.DataFrame] = {}
    for decoding, objective in LOSS_OF_METHOD.items():
        arms[f"{decoding}, tuned"] = plain[(plain["objective"] == objective) & (plain["decoding_judged"] == decoding)]
    untuned = plain[plain["objective"].isna()]
    for decoding in LOSS_OF_METHOD:
        arms[f"{decoding}, zero-shot"] = untuned[
            (untuned["decoding"] == decoding) & (untuned["decoding_judged"] == decoding)
        ]
    ours = plain[plain["objective"] == "two_term"]
    for given in ("oracle", "random"):
        arms[f"{given} rationale, tuned"] = ours[ours["decoding_judged"] == given]
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    return answer_by_comparison(
        found,
        folder,
        question="methods",
        note=(
            "Every tuned arm has its own loss, and settings chosen with equal effort. Zero-shot arms have the "
            "hand-written wording that is best on validation images for their decoding. `oracle` is told the labelled "
            "rationale and `random` any: their RR is not a choice of theirs."
        ),
        arms=tuple(arms),
        columns="set_name",
        against="joint, tuned",
    )


def _crossed(rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None:
    """Answer question 2: the tokens of each loss, decoded by each method."""
    own = own_test_rows(rows[rows["set_name"].isin(study.sets)])
    losses = tuple(study.methods.values())
    tuned = own[own["wording_is_chosen"] & (own["tokens"] == study.tokens) & own["objective"].isin(losses)]
    tuned = tuned[tuned["decoding_judged"].isin(list(study.methods))]
    found = tuned.assign(arm="loss " + tuned["objective"] + ", decoding " + tuned["decoding_judged"])
    arms = tuple(f"loss {loss}, decoding {decoding}" for loss in losses for decoding in study.methods)
    note = "The same tuned tokens, decoded in every way."
    return answer_by_comparison(
        found,
        folder,
        question="crossed",
        note=note,
        arms=arms,
        columns="set_name",
        against="loss two_term, decoding joint",
        study=study,
    )


def _tokens(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    found = own[own["wording_is_chosen"] & (own["objective"] == "two_term") & (own["decoding_judged"] == "joint")]
    sets = found.loc[found["tokens"] != "text", "set_name"].unique()
    found = found[found["set_name"].isin(sets)].assign(arm=lambda part: part["tokens"])
    answer = answer_by_comparison(
        found,
        folder,
        question="tokens",
        note="Loss two_term, decoding joint, each kind with its own chosen settings.",
        arms=TOKENS,
        columns="set_name",
        against="text",
    )
    if answer is None:
        return None
    seconds = found.groupby(["tokens", "set_name"])["tuning_s"].mean().unstack()
    body = tuple(
        (kind, *(f"{float(seconds[name][kind]):.0f} s" for name in seconds.columns))
        for kind in TOKENS
        if kind in seconds.index
    )
    costs = MarkdownTable(title="Seconds per tuning (one thread)", header=("", *map(str, seconds.columns)), rows=body)
    return replace(answer, tables=(*answer.tables, costs))


def _negatives(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    kinds = ("two_term", "in_batch_pairs", "in_batch_categories")
    found = own[own["wording_is_chosen"] & (own["tokens"] == "text") & (own["decoding_judged"] == "joint")]
    sets = found.loc[found["objective"] == "in_batch_pairs", "set_name"].unique()
    found = found[found["set_name"].isin(sets) & found["objective"].isin(kinds)]
    return answer_by_comparison(
        found.assign(arm=found["objective"]),
        folder,
        question="negatives",
        note="Full-vocabulary cross-entropy (two_term) against the two in-batch losses, all decoded jointly.",
        arms=kinds,
        columns="set_name",
        against="two_term",
    )


def _wording(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    found = own[~own["wording_is_chosen"] & (own["decoding_judged"] == "joint")]
    kinds = np.where(found["objective"].isna(), "zero-shot", "tuned")
    found = found.assign(
        arm=[f"wording {number:.0f}, {kind}" for number, kind in zip(found["wording"], kinds, strict=True)]
    )
    arms = tuple(f"wording {number}, {kind}" for kind in ("zero-shot", "tuned") for number in range(4))
    return answer_by_comparison(
        found,
        folder,
        question="wording",
        note="The four wordings of `template_search.HAND_TEMPLATES`, without tuning and as the start of tuning.",
        arms=arms,
        columns="set_name",
        against=None,
    )


def _pooled(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Not in the paper: the joint and its pool with the category alone, by the loss that tuned the tokens."""
    own = own_test_rows(rows)
    plain = own[own["wording_is_chosen"] & own["tokens"].isin(["none", "text"])]
    plain = plain[plain["decoding_judged"].isin(["joint", "pooled"])]
    plain = plain[plain["objective"].notna() | (plain["decoding"] == plain["decoding_judged"])]
    losses = (*LOSS_OF_METHOD.values(), "three_term")
    arms = [f"loss {loss}, decoding {decoding}" for loss in losses for decoding in ("joint", "pooled")]
    found = plain[plain["objective"].isna() | plain["objective"].isin(losses)]
    if not (found["decoding_judged"] == "pooled").any():
        return None
    tuned = "loss " + found["objective"].fillna("none") + ", decoding " + found["decoding_judged"]
    return answer_by_comparison(
        found.assign(arm=tuned.str.replace("loss none, decoding ", "zero-shot, decoding ")),
        folder,
        question="pooled",
        note=(
            "Pooled decoding is P(r | I) · P(c | r, I) · P(c | I), with a temperature of the whole that is fitted on "
            "validation images (not in the paper); three_term is two_term with −log P(c | I)."
        ),
        arms=("zero-shot, decoding joint", "zero-shot, decoding pooled", *arms),
        columns="set_name",
        against="loss two_term, decoding joint",
    )


_ANSWERS: Mapping[str, Callable[[pd.DataFrame, Path], Answer | None]] = {
    "methods": _methods,
    "tokens": _tokens,
    "negatives": _negatives,
    "wording": _wording,
    "sets": answer_sets,
    "why": dependence_answer,
    "pooled": _pooled,
}
_ANSWERS_OF_STUDY: Mapping[str, _AnswerOfStudy] = {
    "crossed": _crossed,
    "transfer": answer_transfer,
    "growth": answer_growth,
    "objects": answer_objects,
    "shipped": shipped_answer,
}
"""Answers that depend on the tokens and methods of the study."""
