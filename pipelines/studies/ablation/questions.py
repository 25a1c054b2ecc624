"""Answer each question of the ablation study: its arms, its baseline, its tables and plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.studies.ablation.dependence import dependence_answer
from pipelines.studies.ablation.grid import METHODS, QUESTIONS, TOKENS
from pipelines.studies.ablation.tables import (
    RR,
    Answer,
    comparison_tables,
    growing_rows,
    own_test_rows,
    set_sizes,
)
from pipelines.studies.markdown import MarkdownTable


def answer_question(question: str, rows: pd.DataFrame, *, folder: Path) -> Answer | None:
    """Answer a question from test rows, and write its plot into the folder; None if it has no rows."""
    return _ANSWERS[question](rows, folder)


def _methods(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Answer question 1: every arm with its own loss and decoding; untuned arms with every decoding."""
    own = own_test_rows(rows)
    plain = own[(own["wording_is_chosen"]) & (own["tokens"].isin(["none", "text"]))]
    arms: dict[str, pd.DataFrame] = {}
    for decoding, objective in METHODS.items():
        arms[f"{decoding}, tuned"] = plain[(plain["objective"] == objective) & (plain["decoding_judged"] == decoding)]
    untuned = plain[plain["objective"].isna()]
    for decoding in METHODS:
        arms[f"{decoding}, zero-shot"] = untuned[
            (untuned["decoding"] == decoding) & (untuned["decoding_judged"] == decoding)
        ]
    ours = plain[plain["objective"] == "two_term"]
    for given in ("oracle", "random"):
        arms[f"{given} rationale, tuned"] = ours[ours["decoding_judged"] == given]
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    return _answer(
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


def _crossed(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    tuned = own[own["wording_is_chosen"] & (own["tokens"] == "text") & own["objective"].isin(METHODS.values())]
    tuned = tuned[tuned["decoding_judged"].isin(list(METHODS))]
    found = tuned.assign(arm="loss " + tuned["objective"] + ", decoding " + tuned["decoding_judged"])
    arms = tuple(f"loss {loss}, decoding {decoding}" for loss in METHODS.values() for decoding in METHODS)
    note = "The same tuned tokens, decoded in all four ways."
    return _answer(
        found,
        folder,
        question="crossed",
        note=note,
        arms=arms,
        columns="set_name",
        against="loss two_term, decoding joint",
    )


def _tokens(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    found = own[own["wording_is_chosen"] & (own["objective"] == "two_term") & (own["decoding_judged"] == "joint")]
    sets = found.loc[found["tokens"] != "text", "set_name"].unique()
    found = found[found["set_name"].isin(sets)].assign(arm=lambda part: part["tokens"])
    answer = _answer(
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
    return _answer(
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
    return _answer(
        found,
        folder,
        question="wording",
        note="The four wordings of `template_search.HAND_TEMPLATES`, without tuning and as the start of tuning.",
        arms=arms,
        columns="set_name",
        against=None,
    )


def _sets(rows: pd.DataFrame, folder: Path) -> Answer | None:
    ours = rows[rows["wording_is_chosen"] & (rows["objective"] == "two_term") & (rows["tokens"] == "text")]
    ours = ours[(ours["set_name"] == ours["test_set"]) & (ours["decoding_judged"] == "joint")]
    several = ours[ours["set_size"] > 1]
    ours = ours[ours["set_name"].isin(several["set_name"].unique()) & (ours["num_categories"] == set_sizes(ours))]
    size = ours["set_size"].astype(int).astype(str)
    arm = np.where(ours["set_size"] == 1, "m = 1", "m = " + size + ", " + ours["set_rule"])
    arms = ("m = 1", *(f"m = {m}, {rule}" for m in (2, 3) for rule in ("mixture", "sentence")))
    return _answer(
        ours.assign(arm=arm),
        folder,
        question="sets",
        note=(
            "RR: the category is right and the set holds the labelled rationale, so more rationales have more chances. "
            "Visible RR: the category is right and every rationale of the set is visible."
        ),
        arms=arms,
        columns="set_name",
        against="m = 1",
    )


def _transfer(rows: pd.DataFrame, folder: Path) -> Answer | None:
    ours = rows[rows["wording_is_chosen"] & rows["tokens"].isin(["text", "none"])]
    ours = ours[
        (ours["decoding_judged"] == "joint")
        & (ours["set_size"] == 1)
        & (ours["num_categories"] == set_sizes(ours))
        & (ours["decoding"] == "joint")
    ]
    tuned = ours[ours["objective"] == "two_term"]
    untuned = ours[ours["objective"].isna()]
    found = pd.concat([tuned.assign(arm="tuned on " + tuned["set_name"]), untuned.assign(arm="zero-shot")])
    arms = ("zero-shot", *(f"tuned on {name}" for name in sorted(tuned["set_name"].unique())))
    return _answer(
        found,
        folder,
        question="transfer",
        note="Rows: what the prompts were tuned on; columns: whose names and images they are judged on.",
        arms=arms,
        columns="test_set",
        against="zero-shot",
    )


def _growth(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows, whole=False)
    large = growing_rows(own[own["wording_is_chosen"]])
    if not len(large):
        return None
    name = large["set_name"].iloc[0]
    arms: dict[str, pd.DataFrame] = {}
    for decoding, objective in METHODS.items():
        arms[f"{decoding}, tuned"] = large[(large["objective"] == objective) & (large["decoding_judged"] == decoding)]
        arms[f"{decoding}, zero-shot"] = large[
            large["objective"].isna() & (large["decoding"] == decoding) & (large["decoding_judged"] == decoding)
        ]
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    found = found.assign(size=found["num_categories"].astype(int))
    return _answer(
        found,
        folder,
        question="growth",
        note=f"Columns: number of categories of {name} that take part, drawn by each repetition's seed.",
        arms=tuple(arms),
        columns="size",
        against="joint, tuned",
    )


def _objects(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    plain = own[own["wording_is_chosen"] & (own["tokens"] == "text")]
    parts = []
    for decoding, objective in METHODS.items():
        part = plain[(plain["objective"] == objective) & (plain["decoding_judged"] == decoding)]
        for number in ("one", "two"):
            columns = {f"{figure}_{number}": figure for figure in RR}
            renamed = part.drop(columns=list(RR)).rename(columns=columns)
            parts.append(renamed.assign(arm=decoding, things=f"{number} object{'s' * (number == 'two')}"))
    found = pd.concat(parts)
    return _answer(
        found,
        folder,
        question="objects",
        note="All sets together; each arm tuned with its own loss.",
        arms=tuple(METHODS),
        columns="things",
        against="joint",
    )


def _pooled(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Not in the paper: the joint and its pool with the category alone, by the loss that tuned the tokens."""
    own = own_test_rows(rows)
    plain = own[own["wording_is_chosen"] & own["tokens"].isin(["none", "text"])]
    plain = plain[plain["decoding_judged"].isin(["joint", "pooled"])]
    plain = plain[plain["objective"].notna() | (plain["decoding"] == plain["decoding_judged"])]
    losses = (*METHODS.values(), "three_term")
    arms = [f"loss {loss}, decoding {decoding}" for loss in losses for decoding in ("joint", "pooled")]
    found = plain[plain["objective"].isna() | plain["objective"].isin(losses)]
    if not (found["decoding_judged"] == "pooled").any():
        return None
    tuned = "loss " + found["objective"].fillna("none") + ", decoding " + found["decoding_judged"]
    return _answer(
        found.assign(arm=tuned.str.replace("loss none, decoding ", "zero-shot, decoding ")),
        folder,
        question="pooled",
        note=(
            "Pooled decoding is P(r | I) · P(c | r, I) · P(c | I)^λ, with λ fitted on validation images together with "
            "the temperatures (not in the paper); three_term is two_term with −log P(c | I)."
        ),
        arms=("zero-shot, decoding joint", "zero-shot, decoding pooled", *arms),
        columns="set_name",
        against="loss two_term, decoding joint",
    )


_ANSWERS: Mapping[str, Callable[[pd.DataFrame, Path], Answer | None]] = {
    "methods": _methods,
    "crossed": _crossed,
    "tokens": _tokens,
    "negatives": _negatives,
    "wording": _wording,
    "sets": _sets,
    "transfer": _transfer,
    "growth": _growth,
    "objects": _objects,
    "why": dependence_answer,
    "pooled": _pooled,
}


def _answer(
    rows: pd.DataFrame,
    folder: Path,
    *,
    question: str,
    note: str,
    arms: Sequence[str],
    columns: str,
    against: str | None,
) -> Answer | None:
    found = comparison_tables(rows, folder, name=question, arms=arms, columns=columns, against=against)
    return Answer(title=QUESTIONS[question], note=note, tables=found.tables, plot=found.plot) if found else None
