"""Answer the questions about names and images: rationale sets, transfer, growing vocabularies, objects."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.studies.ablation.grid import Study
from pipelines.studies.ablation.results.arms import ARMS, DEFAULT
from pipelines.studies.ablation.results.tables import (
    REPETITION,
    RR,
    Answer,
    answer_by_comparison,
    growing_rows,
    own_test_rows,
    set_sizes,
)
from pipelines.studies.ablation.study_cells import TRANSFER_METHODS


def answer_sets(rows: pd.DataFrame, folder: Path) -> Answer | None:
    ours = rows[rows["wording_is_chosen"] & (rows["objective"] == "two_term") & (rows["tokens"] == "text")]
    ours = ours[(ours["set_name"] == ours["test_set"]) & (ours["decoding_judged"] == "joint")]
    several = ours[ours["set_size"] > 1]
    ours = ours[ours["set_name"].isin(several["set_name"].unique()) & (ours["num_categories"] == set_sizes(ours))]
    size = ours["set_size"].astype(int).astype(str)
    arm = np.where(ours["set_size"] == 1, "m = 1", "m = " + size + ", " + ours["set_rule"])
    arms = ("m = 1", *(f"m = {m}, {rule}" for m in (2, 3) for rule in ("mixture", "sentence")))
    return answer_by_comparison(
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


def answer_transfer(rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None:
    """Judge tokens on names and images of other sets; with visual tokens those of two methods."""
    judged = rows[(rows["set_size"] == 1) & (rows["split"] == "test") & (rows["num_categories"] == set_sizes(rows))]
    arms: dict[str, pd.DataFrame] = {}
    for method in TRANSFER_METHODS if study.name == "shipped" else ("joint",):
        name = f"{method}, " if study.name == "shipped" else ""
        arms[f"{name}zero-shot"] = ARMS[f"{method}, zero-shot"].select(judged, tokens=study.tokens)
        tuned = ARMS[f"{method}, tuned"].select(judged, tokens=study.tokens)
        arms |= {f"{name}tuned on {source}": part for source, part in tuned.groupby("set_name")}
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    wide = pd.MultiIndex.from_tuples(study.wide_repetitions, names=REPETITION)
    found = found[pd.MultiIndex.from_frame(found[REPETITION]).isin(wide)]
    return answer_by_comparison(
        found,
        folder,
        question="transfer",
        note="Rows: what the prompts were tuned on; columns: whose names and images they are judged on.",
        arms=tuple(arms),
        columns="test_set",
        against=next(iter(arms)),
        study=study,
    )


def answer_growth(rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None:
    """Compare the methods on some and all of the categories of one set."""
    large = growing_rows(own_test_rows(rows, whole=False), study=study)
    if not len(large):
        return None
    arms = tuple(f"{method}, {how}" for method in study.methods for how in ("tuned", "zero-shot"))
    found = pd.concat([ARMS[arm].select(large, tokens=study.tokens).assign(arm=arm) for arm in arms])
    found = found.assign(size=found["num_categories"].astype(int))
    return answer_by_comparison(
        found,
        folder,
        question="growth",
        note=f"Columns: number of categories of {study.growing_set} that take part, drawn by each repetition's seed.",
        arms=arms,
        columns="size",
        against=DEFAULT,
        study=study,
    )


def answer_objects(rows: pd.DataFrame, folder: Path, *, study: Study) -> Answer | None:
    """Compare the methods on scenes with one object and with two."""
    own = own_test_rows(rows[rows["set_name"].isin(study.sets)])
    parts = []
    for method in study.methods:
        part = ARMS[f"{method}, tuned"].select(own, tokens=study.tokens)
        for number in ("one", "two"):
            columns = {f"{figure}_{number}": figure for figure in RR}
            renamed = part.drop(columns=list(RR)).rename(columns=columns)
            parts.append(renamed.assign(arm=method, things=f"{number} object{'s' * (number == 'two')}"))
    found = pd.concat(parts)
    return answer_by_comparison(
        found,
        folder,
        question="objects",
        note="All sets together; each arm tuned with its own loss.",
        arms=tuple(study.methods),
        columns="things",
        against="joint",
        study=study,
    )
