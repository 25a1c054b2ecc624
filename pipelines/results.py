"""Rows of the study in, one page of tables and plots out: every figure a mean over repetitions with its 95 % interval.

An interval is Student's t over repetitions. A repetition has images, a start and (in turn) a pretrained CLIP of its
own, so the interval holds all three; differences are taken within repetitions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from ecor.demo.world import SETS
from ecor.intervals import RepeatedMean, over_repetitions
from pipelines import plots
from pipelines.study import METHODS, QUESTIONS, SELECTION_SEED, TOKENS, Study

PAGE = "results.md"
FIGURES = {"rr": "RR", "visible_rr": "visible RR", "accuracy": "accuracy"}
"""Columns of the CSV that tables show, and how they are called."""
REPETITION = ["pretraining_seed", "seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the page."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the page says to one question."""

    question: str
    note: str
    tables: tuple[Table, ...]
    plot: str | None
    """File name, beside the page."""


def write_page(rows: pd.DataFrame, *, folder: Path, study: Study, is_quick: bool = False) -> Path:
    """Write `results.md` and its plots into `folder`, from the CSV's rows alone; the page's path.

    Raises ValueError when there are no rows yet.
    """
    if not len(rows) or "seed" not in rows:
        raise ValueError(f"{folder} has no rows of a study yet: run `ecor ablate --output {folder}` first")
    measured = rows[rows["seed"] != SELECTION_SEED]
    answers = [answer for question in study.questions if (answer := _ANSWERS[question](measured, folder)) is not None]
    page = folder / PAGE
    template = files("pipelines").joinpath("templates/results.md.j2").read_text(encoding="utf-8")
    text = jinja2.Template(template, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(
        answers=answers,
        chosen=_chosen(rows[rows["seed"] == SELECTION_SEED]),
        num_rows=len(measured),
        num_repetitions=len(measured[REPETITION].drop_duplicates()),
        num_pretrainings=measured["pretraining_seed"].nunique(),
        num_test=int(measured["num_images"].max()),
        is_quick=is_quick,
    )
    page.write_text(text, encoding="utf-8")
    return page


# What is asked of the rows


def _methods(rows: pd.DataFrame, folder: Path) -> Answer | None:
    """Question 1: every arm with its own loss and decoding; untuned ones by every decoding."""
    own = _own_test(rows)
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
    return _compared(
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
    own = _own_test(rows)
    tuned = own[own["wording_is_chosen"] & (own["tokens"] == "text") & own["objective"].isin(METHODS.values())]
    tuned = tuned[tuned["decoding_judged"].isin(list(METHODS))]
    found = tuned.assign(arm="loss " + tuned["objective"] + ", decoding " + tuned["decoding_judged"])
    arms = tuple(f"loss {loss}, decoding {decoding}" for loss in METHODS.values() for decoding in METHODS)
    note = "The same tuned tokens, decoded in all four ways."
    return _compared(
        found,
        folder,
        question="crossed",
        note=note,
        arms=arms,
        columns="set_name",
        against="loss two_term, decoding joint",
    )


def _tokens(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = _own_test(rows)
    found = own[own["wording_is_chosen"] & (own["objective"] == "two_term") & (own["decoding_judged"] == "joint")]
    sets = found.loc[found["tokens"] != "text", "set_name"].unique()
    found = found[found["set_name"].isin(sets)].assign(arm=lambda part: part["tokens"])
    answer = _compared(
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
    gained = tuple(
        (kind, *(f"{float(seconds[name][kind]):.0f} s" for name in seconds.columns))
        for kind in TOKENS
        if kind in seconds.index
    )
    costs = Table(title="Seconds per tuning (one thread)", header=("", *map(str, seconds.columns)), rows=gained)
    return Answer(question=answer.question, note=answer.note, tables=(*answer.tables, costs), plot=answer.plot)


def _negatives(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = _own_test(rows)
    kinds = ("two_term", "in_batch_pairs", "in_batch_categories")
    found = own[own["wording_is_chosen"] & (own["tokens"] == "text") & (own["decoding_judged"] == "joint")]
    sets = found.loc[found["objective"] == "in_batch_pairs", "set_name"].unique()
    found = found[found["set_name"].isin(sets) & found["objective"].isin(kinds)]
    return _compared(
        found.assign(arm=found["objective"]),
        folder,
        question="negatives",
        note="Full-vocabulary cross-entropy (two_term) against the two in-batch losses, all decoded jointly.",
        arms=kinds,
        columns="set_name",
        against="two_term",
    )


def _wording(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = _own_test(rows)
    found = own[~own["wording_is_chosen"] & (own["decoding_judged"] == "joint")]
    kinds = np.where(found["objective"].isna(), "zero-shot", "tuned")
    found = found.assign(
        arm=[f"wording {number:.0f}, {kind}" for number, kind in zip(found["wording"], kinds, strict=True)]
    )
    arms = tuple(f"wording {number}, {kind}" for kind in ("zero-shot", "tuned") for number in range(4))
    return _compared(
        found,
        folder,
        question="wording",
        note="The four wordings of `ecor.wording.HAND_TEMPLATES`, without tuning and as the start of tuning.",
        arms=arms,
        columns="set_name",
        against=None,
    )


def _sets(rows: pd.DataFrame, folder: Path) -> Answer | None:
    ours = rows[rows["wording_is_chosen"] & (rows["objective"] == "two_term") & (rows["tokens"] == "text")]
    ours = ours[(ours["set_name"] == ours["test_set"]) & (ours["decoding_judged"] == "joint")]
    several = ours[ours["set_size"] > 1]
    ours = ours[ours["set_name"].isin(several["set_name"].unique()) & (ours["num_categories"] == _whole(ours))]
    size = ours["set_size"].astype(int).astype(str)
    arm = np.where(ours["set_size"] == 1, "m = 1", "m = " + size + ", " + ours["set_rule"])
    arms = ("m = 1", *(f"m = {m}, {rule}" for m in (2, 3) for rule in ("mixture", "sentence")))
    return _compared(
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
        & (ours["num_categories"] == _whole(ours))
        & (ours["decoding"] == "joint")
    ]
    tuned = ours[ours["objective"] == "two_term"]
    untuned = ours[ours["objective"].isna()]
    found = pd.concat([tuned.assign(arm="tuned on " + tuned["set_name"]), untuned.assign(arm="zero-shot")])
    arms = ("zero-shot", *(f"tuned on {name}" for name in sorted(tuned["set_name"].unique())))
    return _compared(
        found,
        folder,
        question="transfer",
        note="Rows: what the prompts were tuned on; columns: whose names and images they are judged on.",
        arms=arms,
        columns="test_set",
        against="zero-shot",
    )


def _growth(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = _own_test(rows, whole=False)
    large = own[(own["set_name"] == "demo-large") & own["wording_is_chosen"]]
    if large["num_categories"].nunique() < 2:
        return None
    arms: dict[str, pd.DataFrame] = {}
    for decoding, objective in METHODS.items():
        arms[f"{decoding}, tuned"] = large[(large["objective"] == objective) & (large["decoding_judged"] == decoding)]
        arms[f"{decoding}, zero-shot"] = large[
            large["objective"].isna() & (large["decoding"] == decoding) & (large["decoding_judged"] == decoding)
        ]
    found = pd.concat([part.assign(arm=name) for name, part in arms.items()])
    found = found.assign(size=found["num_categories"].astype(int))
    return _compared(
        found,
        folder,
        question="growth",
        note="Columns: number of categories of demo-large that take part, drawn by each repetition's seed.",
        arms=tuple(arms),
        columns="size",
        against="joint, tuned",
    )


def _objects(rows: pd.DataFrame, folder: Path) -> Answer | None:
    own = _own_test(rows)
    plain = own[own["wording_is_chosen"] & (own["tokens"] == "text")]
    parts = []
    for decoding, objective in METHODS.items():
        part = plain[(plain["objective"] == objective) & (plain["decoding_judged"] == decoding)]
        for number in ("one", "two"):
            columns = {f"{figure}_{number}": figure for figure in FIGURES}
            kept = part.drop(columns=list(FIGURES)).rename(columns=columns)
            parts.append(kept.assign(arm=decoding, things=f"{number} object{'s' * (number == 'two')}"))
    found = pd.concat(parts)
    return _compared(
        found,
        folder,
        question="objects",
        note="All sets together; each arm tuned with its own loss.",
        arms=tuple(METHODS),
        columns="things",
        against="joint",
    )


_SET_ORDER = {name: number for number, name in enumerate(SETS)}
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
}


# Tables and plots


def _compared(
    rows: pd.DataFrame,
    folder: Path,
    *,
    question: str,
    note: str,
    arms: Sequence[str],
    columns: str,
    against: str | None,
) -> Answer | None:
    """A table per figure (arms by columns, and the mean over columns), differences from one arm, and a plot."""
    arms = [arm for arm in arms if (rows["arm"] == arm).any()]
    if not arms:
        return None
    names = sorted(rows[columns].unique(), key=lambda name: (_SET_ORDER.get(name, 0), name))
    tables, drawn = [], {}
    for figure, title in FIGURES.items():
        cells = {
            (arm, name): _by_repetition(rows, figure, arm=arm, column=columns, value=name)
            for arm in arms
            for name in names
        }
        means = {arm: _mean_over([cells[arm, name] for name in names]) for arm in arms}
        body = []
        for arm in arms:
            told = [_told(cells[arm, name]) for name in names] + [_told(means[arm])]
            if against is not None:
                told.append("" if arm == against else _told_difference(means[arm], means.get(against)))
            body.append((arm, *told))
        header = ("", *map(str, names), "mean", *([f"less {against}"] if against else []))
        tables.append(Table(title=f"{title}, %", header=header, rows=tuple(body)))
        drawn[title] = {
            arm: {str(name): over_repetitions(cells[arm, name].to_numpy()) for name in names if len(cells[arm, name])}
            for arm in arms
        }
    plot = f"results-{question}.png"
    plots.draw_study(drawn, path=folder / plot)
    return Answer(question=QUESTIONS[question], note=note, tables=tuple(tables), plot=plot)


def _by_repetition(rows: pd.DataFrame, figure: str, *, arm: str, column: str, value: object) -> "pd.Series[float]":
    """The figure per repetition; where several rows answer (all sets together), their mean."""
    found = rows[(rows["arm"] == arm) & (rows[column] == value)].dropna(subset=[figure])
    return found.groupby(REPETITION)[figure].mean()


def _mean_over(parts: Sequence["pd.Series[float]"]) -> "pd.Series[float]":
    """Per repetition the mean over columns, for repetitions that have all of them."""
    return pd.concat(parts, axis=1).dropna().mean(axis=1)


def _percent(estimate: RepeatedMean, *, signed: bool = False) -> str:
    """A mean, and half the width of its interval where there is one."""
    mean = f"{100 * estimate.value:+.1f}" if signed else f"{100 * estimate.value:.1f}"
    return mean if np.isnan(estimate.half_width) else f"{mean} ± {100 * estimate.half_width:.1f}"


def _told(values: "pd.Series[float]") -> str:
    return _percent(over_repetitions(values.to_numpy())) if len(values) else "–"


def _told_difference(values: "pd.Series[float]", others: "pd.Series[float] | None") -> str:
    """Within repetitions, so that what they share cancels."""
    if others is None:
        return "–"
    found = (values - others).dropna()
    return _percent(over_repetitions(found.to_numpy()), signed=True) if len(found) else "–"


def _own_test(rows: pd.DataFrame, *, whole: bool = True) -> pd.DataFrame:
    """Rows judged on test images of the set they were tuned on, one rationale each; `whole`: all its categories."""
    found = rows[(rows["split"] == "test") & (rows["test_set"] == rows["set_name"]) & (rows["set_size"] == 1)]
    return found[found["num_categories"] == _whole(found)] if whole else found


def _whole(rows: pd.DataFrame) -> "pd.Series[float]":
    """How many categories each row's set has in all."""
    return rows["set_name"].map({name: len(world.categories) for name, world in SETS.items()})


def _chosen(rows: pd.DataFrame) -> Table | None:
    """What was chosen on validation images, and what the whole grid gave."""
    if not len(rows):
        return None
    keys = ["objective", "tokens", "learning_rate", "num_tokens"]
    means = rows.groupby(keys)["rr"].mean().reset_index()
    best = means.sort_values(["rr", "learning_rate", "num_tokens"], ascending=[False, True, True])
    best = best.groupby(["objective", "tokens"], sort=False).first().reset_index()
    spread = means.groupby(["objective", "tokens"])["rr"].agg(["min", "max"])
    body = tuple(
        (
            str(row["objective"]),
            str(row["tokens"]),
            f"{row['learning_rate']:g}",
            str(int(row["num_tokens"])),
            f"{100 * spread.loc[(row['objective'], row['tokens']), 'min']:.1f} to {100 * row['rr']:.1f}",
        )
        for _, row in best.iterrows()
    )
    header = ("loss", "tokens", "learning rate", "tokens each", "validation RR over the grid, %")
    return Table(title="Settings chosen on validation images", header=header, rows=body)
