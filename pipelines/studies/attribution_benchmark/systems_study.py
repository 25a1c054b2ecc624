"""Run the studies of ECLIP, LICO and prompts over seeds, and write a CSV and a page.

Arms are trained one after the other in this process. Rows are appended when an arm ends, so that the same command
resumes. The page is made from the CSV alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from ecor.config.checks import require
from ecor.evaluation.confidence_intervals import mean_over_repetitions
from ecor.storage.digests import json_digest
from pipelines.config.studies import StudiesConfig, StudyName
from pipelines.runtime.console import say
from pipelines.studies.attribution_benchmark.classifier_figures import Figures
from pipelines.studies.attribution_benchmark.systems_cell import (
    ECLIP_ARMS,
    EFFORT,
    LICO_ARMS,
    PROMPT_ARMS,
    PROMPT_METHODS,
    QUICK,
    Effort,
    eclip_figures,
    lico_figures,
    prompt_figures,
)
from pipelines.studies.markdown import markdown_table, read_introduction, write_parts
from pipelines.studies.result_rows import append_rows, read_result_rows

RESULTS, PAGE = "explain-studies.csv", "explain-studies.md"
FIRST_SEED, QUICK_SEED = 700, 790
"""First seeds of the images; no other experiment here uses them."""
KEY = ["cell", "study", "arm", "seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricColumn:
    """A column of the tables."""

    title: str
    scale: float = 100.0
    digits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A study: its arms, metrics and note."""

    title: str
    note: str
    arms: tuple[str, ...]
    against: str
    """The baseline arm of the differences."""
    figures: Callable[..., dict[str, Figures]]
    columns: Mapping[str, Mapping[str, MetricColumn]]
    """Columns by name of the metric, for each kind of name."""


_MAPS = {
    "miou": MetricColumn(title="mIoU"),
    "msc": MetricColumn(title="mSC", scale=1.0),
    "pointing": MetricColumn(title="pointing game"),
    "accuracy": MetricColumn(title="accuracy of the pooled feature"),
}
_CURVES = {
    f"{name}_{figure}": MetricColumn(title=f"{figure}, {title}", scale=1.0, digits=3)
    for name, title in (("grad_cam", "Grad-CAM"), ("rise", "RISE"))
    for figure in ("insertion", "deletion", "difference")
}
STUDIES: dict[StudyName, StudySpec] = {
    "eclip": StudySpec(
        title="ECLIP: what pooling teaches a projection of patches",
        note="Maps of the method `eclip` (ITSM behind the learned projection) beside ITSM of the plain model, on pairs "
        "that the plain model ranks right. mIoU at the one threshold that suits all maps of a seed best (oracle); mSC "
        "is the mean of the map inside the mask minus that outside, in percent: below zero is the opposite of the "
        "truth. Differences are from ITSM of the plain model.",
        arms=ECLIP_ARMS,
        against=ECLIP_ARMS[0],
        figures=eclip_figures,
        columns={"rationale": _MAPS, "category": _MAPS},
    ),
    "lico": StudySpec(
        title="LICO: a classifier with and without language beside it",
        note="The demo tower, trained on from its weights. Insertion (high is good) and deletion (low) are areas under "
        "the softmax probability of the true class, in steps of 3.6 % of the pixels; insertion starts from a blurred "
        "picture. Differences are from plain cross-entropy.",
        arms=tuple(LICO_ARMS),
        against=next(iter(LICO_ARMS)),
        figures=lico_figures,
        columns={"category": {"accuracy": MetricColumn(title="accuracy"), **_CURVES}},
    ),
    "prompts": StudySpec(
        title="Prompts tuned with LICO's manifold matching",
        note="ECOR's tokens as shipped (in every block of the image tower), with manifold matching of weight 1 or "
        "without. Maps are of the tuned model, on pairs that the untuned model ranks right.",
        arms=tuple(PROMPT_ARMS),
        against=next(iter(PROMPT_ARMS)),
        figures=prompt_figures,
        columns={
            "rationale": {
                "rr": MetricColumn(title="RR on validation"),
                **{
                    f"{name}_{figure}": MetricColumn(title=f"{column.title}, {name}", scale=column.scale)
                    for name in PROMPT_METHODS
                    for figure, column in _MAPS.items()
                    if figure != "accuracy"
                },
            }
        },
    ),
}


def run(config: StudiesConfig) -> Path:
    """Measure every arm that is not in the CSV yet, and write the page; returns its path.

    Raises:
        ValueError: for a page without rows.
    """
    root = Path(config.output).absolute()
    work = Path(config.work).absolute() if config.work else root / "work"
    effort, first = (QUICK, QUICK_SEED) if config.quick else (EFFORT, FIRST_SEED)
    seeds = range(first, first + (2 if config.quick else config.num_seeds))
    names = config.studies or tuple(STUDIES)
    if not config.only_page:
        root.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.num_threads)
        _measure(names, seeds=seeds, effort=effort, root=root, work=work)
    rows = read_result_rows(root / RESULTS)
    rows = rows[rows["cell"] == json_digest(asdict(effort))[:16]] if len(rows) else rows
    require(len(rows) > 0, f"{root / RESULTS} holds no rows of this study: run the same command without --only-page")
    page = root / PAGE
    command = "ecor explain-studies" + (" --quick" if config.quick else "")
    parts = [_section(STUDIES[name], rows[rows["study"] == name]) for name in names]
    head = _head(effort, command=command, is_quick=config.quick)
    write_parts(page, head, read_introduction(page), *parts)
    say(f"{len(rows)} rows: {page}", to_stdout=True)
    return page


def _measure(names: Sequence[StudyName], *, seeds: range, effort: Effort, root: Path, work: Path) -> None:
    cell = json_digest(asdict(effort))[:16]
    known = read_result_rows(root / RESULTS)
    done = set(known[KEY].itertuples(index=False, name=None)) if len(known) else set()
    wanted = [(cell, name, arm, seed) for seed in seeds for name in names for arm in STUDIES[name].arms]
    missing = [key for key in wanted if key not in done]
    for number, key in enumerate(missing, start=1):
        _, name, arm, seed = key
        began = time.perf_counter()
        found = STUDIES[name].figures(arm, seed=seed, effort=effort, root=work)
        seconds = time.perf_counter() - began
        shared = dict(zip(KEY, key, strict=True)) | {"seconds": seconds}
        rows = pd.DataFrame([{**shared, "kind": kind, **figures} for kind, figures in found.items()])
        append_rows(rows, root / RESULTS, float_format="%.6g")
        say(f"{number}/{len(missing)}  {name}: {arm}, seed {seed}  {seconds:.0f} s")


def _head(effort: Effort, *, command: str, is_quick: bool) -> str:
    quick = ["", "**A quick run: it shows that everything runs; its figures mean nothing.**"] if is_quick else []
    return "\n".join(
        [
            "# ECLIP and LICO on drawn scenes",
            "",
            f"Made by `{command}`. Set {effort.set_name}; {effort.num_cases} pairs of an image and a name per seed for "
            f"maps, {effort.num_pictures} pictures and {effort.num_masks} masks for insertion, deletion and RISE. "
            "Means over seeds, each with drawings and a start of its own, and 95 % intervals (Student's t over seeds); "
            "below them the difference within seeds.",
            *quick,
        ]
    )


def _section(asked: StudySpec, rows: pd.DataFrame) -> str:
    """Format the tables of a study, by kind of name; empty if it has no rows."""
    if not len(rows):
        return ""
    tables = []
    for kind, columns in asked.columns.items():
        some = rows[rows["kind"] == kind]
        shown = {name: column for name, column in columns.items() if name in some and some[name].notna().any()}
        arms = {arm: some[some["arm"] == arm].set_index("seed") for arm in asked.arms if (some["arm"] == arm).any()}
        body = []
        for arm, found in arms.items():
            body.append((arm, str(len(found)), *(_format_mean(found[name], column) for name, column in shown.items())))
            if arm != asked.against and asked.against in arms:
                base = arms[asked.against]
                gaps = [
                    _format_mean((found[name] - base[name]).dropna(), column, "+") for name, column in shown.items()
                ]
                body.append(("… difference", "", *gaps))
        tables.append(markdown_table((kind, "seeds", *(column.title for column in shown.values())), body))
    return "\n\n".join([f"## {asked.title}", asked.note, *tables])


def _format_mean(values: "pd.Series[float]", column: MetricColumn, sign: str = "") -> str:
    """Format a mean, and half the width of its interval."""
    values = values.dropna()
    if not len(values):
        return "–"
    mean = mean_over_repetitions(column.scale * values.to_numpy())
    text = f"{mean.value:{sign}.{column.digits}f}"
    return text if mean.num_repetitions == 1 else f"{text} ± {mean.half_width:.{column.digits}f}"
