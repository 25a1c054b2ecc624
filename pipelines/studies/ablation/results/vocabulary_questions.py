"""Answer the questions about names and images: rationale sets, transfer, growing vocabularies, objects."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.studies.ablation.grid import LOSS_OF_METHOD
from pipelines.studies.ablation.results.tables import (
    RR,
    Answer,
    answer_by_comparison,
    growing_rows,
    own_test_rows,
    set_sizes,
)


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


def answer_transfer(rows: pd.DataFrame, folder: Path) -> Answer | None:
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
    return answer_by_comparison(
        found,
        folder,
        question="transfer",
        note="Rows: what the prompts were tuned on; columns: whose names and images they are judged on.",
        arms=arms,
        columns="test_set",
        against="zero-shot",
    )


def answer_growth(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows, whole=False)
    large = growing_rows(own[own["wording_is_chosen"]])
    if not len(large):
        return None
    name = large["set_name"].iloc[0]
    arms: dict[str, pd.DataFrame] = {}
    for decoding, objective in LOSS_OF_METHOD.items():
        arms[f"{decoding}, tuned"] = large[(large["objective"] == objective) & (large["decoding_judged"] == decoding)]
        arms[f"{decoding}, zero-shot"] = large[
            large["objective"].isna() & (large["decoding"] == decoding) & (large["decoding_judged"] == decoding)
        ]
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    found = found.assign(size=found["num_categories"].astype(int))
    return answer_by_comparison(
        found,
        folder,
        question="growth",
        note=f"Columns: number of categories of {name} that take part, drawn by each repetition's seed.",
        arms=tuple(arms),
        columns="size",
        against="joint, tuned",
    )


def answer_objects(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = own_test_rows(rows)
    plain = own[own["wording_is_chosen"] & (own["tokens"] == "text")]
    parts = []
    for decoding, objective in LOSS_OF_METHOD.items():
        part = plain[(plain["objective"] == objective) & (plain["decoding_judged"] == decoding)]
        for number in ("one", "two"):
            columns = {f"{figure}_{number}": figure for figure in RR}
            renamed = part.drop(columns=list(RR)).rename(columns=columns)
            parts.append(renamed.assign(arm=decoding, things=f"{number} object{'s' * (number == 'two')}"))
    found = pd.concat(parts)
    return answer_by_comparison(
        found,
        folder,
        question="objects",
        note="All sets together; each arm tuned with its own loss.",
        arms=tuple(LOSS_OF_METHOD),
        columns="things",
        against="joint",
    )
