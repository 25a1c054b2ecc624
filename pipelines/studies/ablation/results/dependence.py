"""Relate the dependence of category and rationale to the gain of joint decoding (question: why)."""

from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from pipelines.studies.ablation.grid import QUESTIONS
from pipelines.studies.ablation.results import plots
from pipelines.studies.ablation.results.tables import (
    REPETITION,
    Answer,
    figures_table,
    own_test_rows,
)

FACTOR_FIGURES = {
    "misfit": ("best category and best rationale, found apart, do not belong together", 100, "%"),
    "dependence": ("mutual information of category and rationale given the image", 1, "nats"),
    "entropy": ("entropy of P(c given I)", 1, "nats"),
    "entropy_given": ("entropy of P(c given r, I), under P(r given I)", 1, "nats"),
    "true_given_visible": ("P(true c given r, I), rationales that can be seen", 100, "%"),
    "true_given_hidden": ("P(true c given r, I), rationales that cannot", 100, "%"),
    "ece_rationale": ("calibration error of P(r given I)", 100, "%"),
    "ece_category_given": ("calibration error of P(c given r, I), r labelled", 100, "%"),
    "ece_category": ("calibration error of P(c given I), its own sentence", 100, "%"),
}
"""Columns of the CSV on the factors: title, scale and unit."""


def dependence_answer(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Tabulate metrics of the factors, and correlate dependence with the gain of joint over independent decoding."""
    own = own_test_rows(rows)
    own = own[own["wording_is_chosen"] & own["tokens"].isin(["none", "text"])]
    if "dependence" not in own:
        return None
    untuned, tuned = own[own["objective"].isna()], own[own["objective"] == "two_term"]
    tables, points = [], []
    for name, part in (("zero-shot", untuned), ("tuned", tuned)):
        joint = part[(part["decoding"] == "joint") & (part["decoding_judged"] == "joint")]
        if joint["dependence"].isna().all():
            continue
        tables.append(figures_table(joint, title=f"The factors of the joint, {name}", figures=FACTOR_FIGURES))
        apart = part[part["decoding_judged"] == "independent"]
        points.append(_joint_gains(joint, apart).assign(kind=name))
    gains = pd.concat(points) if points else pd.DataFrame()
    if not len(gains):
        return None
    varies = gains["dependence"].nunique() > 1 and gains["gain"].nunique() > 1
    related = f"{spearmanr(gains['dependence'], gains['gain']).statistic:.2f}" if varies else "not defined"
    plot = "results-why.png"
    plots.draw_relation(gains, x="dependence", y="gain", colour="set_name", marker="kind", path=folder / plot)
    note = (
        "The order of the factors can only matter where category and rationale depend on each other given the image, "
        "and a reason helps only if the true category is likelier under rationales that the image shows than under "
        "others. The plot: per set and repetition the dependence (mutual information) against what decoding jointly "
        "gains in RR over decoding the same tokens independently; tuned ones were tuned for joint decoding. "
        f"Spearman's rank correlation over {len(gains)} points: {related} "
        "(points of a set are not independent of each other, so no p-value is given)."
    )
    return Answer(title=QUESTIONS["why"], note=note, tables=tuple(tables), plot=plot)


def _joint_gains(joint: pd.DataFrame, apart: pd.DataFrame) -> pd.DataFrame:
    """RR of joint minus RR of independent decoding, per set and repetition."""
    keys = [*REPETITION, "set_name"]
    both = joint.merge(apart[[*keys, "rr"]].drop_duplicates(keys), on=keys, suffixes=("", "_apart"))
    return both.assign(gain=both["rr"] - both["rr_apart"])[[*keys, "dependence", "gain"]]
