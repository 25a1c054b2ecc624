"""Tables and plots of an evaluation for the HTML report."""

import math
from collections.abc import Iterator

from ecor.evaluation.confidence_intervals import Estimate
from ecor.evaluation.correctness import RULES
from ecor.evaluation.metrics import CUTS
from ecor.evaluation.record import Evaluation, Result, slug
from ecor.storage import filesystem
from pipelines.reporting.embedded_image import read_png
from pipelines.reporting.html_page import Column, MetricTable, MetricValue, Plot, Row

SHARES = (
    Column(name="RR", words="category right, rationale right"),
    Column(name="RW", words="category right, rationale wrong"),
    Column(name="WR", words="category wrong, rationale right"),
    Column(name="WW", words="category wrong, rationale wrong"),
    Column(name="Accuracy", words="category right, whatever the rationale"),
)
SHARE_NAMES = ("rr", "rw", "wr", "ww", "accuracy")
VISIBLE = Column(name="Visible RR", words="category right, and the rationale is one that the picture shows")
CALIBRATION = Column(name="ECE", words="expected calibration error: how far stated probabilities are from frequencies")
RULE_WORDS = {
    "strict": "the most probable pair of category and rationale",
    "dror_vote": "a vote of the five best pairs that stops at the truth: for comparison with published figures",
    "two_stage": "the most probable rationale, then the most probable category given it",
}
SINGLE = {
    "strict/visible_rr": ("Category right, rationale visible", "any rationale that the picture shows counts as right"),
    "strict/visible": ("Rationale visible", "whatever the category"),
    "marginal/accuracy": ("Category right, summed over rationales", "the most probable category, whatever the reason"),
    "per_category/rr": ("RR, mean over categories", "each category weighs the same"),
    "per_category/accuracy": ("Accuracy, mean over categories", "each category weighs the same"),
}
CALIBRATION_COLUMNS = {
    "ece": CALIBRATION,
    "error": Column(
        name="Error", words="root mean square of the same distance, corrected for the noise of few pictures"
    ),
    "brier": Column(name="Brier", words="mean squared distance of the stated probability from what is so (0 or 1)"),
    "nll": Column(name="NLL", words="negative log-likelihood of what is so, in nats"),
}
STATED = {
    "": ("Pair", "the most probable pair of category and rationale is right"),
    "category/": ("Category", "the most probable category is right"),
    "visible/": ("Rationale", "the picture shows the most probable one, where that is known; P(r | I) is of one alone"),
    "rationale_visible/": ("Rationale visible", "the picture shows the named rationale, where that is known"),
}
AT_CUTS = {
    "precision": ("Precision", "share of the rationales given that the picture shows"),
    "recall": ("Recall", "share of the rationales shown that are given"),
    "hit": ("Hit", "at least one rationale given is shown"),
    "rr_any": ("Right, with any", "category right, and at least one rationale given is shown"),
    "rr_all": ("Right, with all", "category right, and every rationale given is shown"),
}
SHARED_PLOTS = {
    "rules.png": "Right and wrong, by rule",
    "differences.png": "Differences, image by image",
}
OWN_PLOTS = {
    "reliability": "Stated probability against frequency",
    "visible-reliability": "Stated probability that the rationale is visible, against frequency",
    "per-category": "Outcomes per category",
    "confusion": "True and predicted categories",
}


def metric_tables(evaluation: Evaluation, result: Result) -> Iterator[MetricTable]:
    """Yield the tables of an evaluation that the page shows.

    Args:
        evaluation: all sets that were evaluated together; several of them give a table that compares them.
        result: result of the page's predictions.
    """
    if len(evaluation.results) > 1:
        yield _methods_table(evaluation, result)
    yield _rules_table(result)
    rows = tuple(
        Row(name=name, note=note, cells=(metric_cell(result, metric),))
        for metric, (name, note) in SINGLE.items()
        if metric in result.metrics
    )
    yield MetricTable(title="In one number", subject="Measure", columns=(Column(name="Share"),), rows=rows)
    if "calibration/ece" in result.metrics or "calibration/category/ece" in result.metrics:
        yield _calibration_table(result)
    if result.num_visible:
        yield _cuts_table(result)


def _calibration_table(result: Result) -> MetricTable:
    rows = tuple(
        Row(
            name=name,
            note=note,
            cells=_metric_cells(result, tuple(f"calibration/{prefix}{metric}" for metric in CALIBRATION_COLUMNS)),
        )
        for prefix, (name, note) in STATED.items()
        if f"calibration/{prefix}ece" in result.metrics
    )
    return MetricTable(
        title="Stated probabilities",
        note="how far they are from frequencies",
        subject="Probability of",
        columns=tuple(CALIBRATION_COLUMNS.values()),
        rows=rows,
    )


def _methods_table(evaluation: Evaluation, result: Result) -> MetricTable:
    is_corrected = all("calibration/error" in each.metrics for each in evaluation.results)  # not in older records
    error = "error" if is_corrected else "ece"
    metrics = (*(f"strict/{name}" for name in SHARE_NAMES), "strict/visible_rr", f"calibration/{error}")
    rows = tuple(
        Row(name=each.name, note=_model_and_method(each), cells=_metric_cells(each, metrics), marked=each is result)
        for each in evaluation.results
    )
    return MetricTable(
        title="Methods compared",
        note="by the strict rule; this page is about the one in bold",
        subject="Method",
        columns=(*SHARES, VISIBLE, CALIBRATION_COLUMNS[error]),
        rows=rows,
    )


def _model_and_method(result: Result) -> str:
    name, version = result.parents.get("model_name"), result.parents.get("model_version")
    model = f"{name} version {version}" if name and version else name
    return ", ".join(str(each) for each in (model, result.method) if each)


def _rules_table(result: Result) -> MetricTable:
    rows = tuple(
        Row(
            name=rule.replace("_", " "),
            note=RULE_WORDS[rule],
            cells=_metric_cells(result, tuple(f"{rule}/{name}" for name in SHARE_NAMES)),
            marked=rule == "strict",
        )
        for rule in RULES
    )
    lacking = result.num_images - result.num_explained
    note = f"what counts as the answer; {lacking:,} of {result.num_images:,} pictures have no labelled rationale: they "
    note += "count for accuracy alone"
    return MetricTable(
        title="By rule",
        note=note if lacking else "what counts as the answer",
        subject="Rule",
        columns=SHARES,
        rows=rows,
    )


def _cuts_table(result: Result) -> MetricTable:
    cuts = [cut for cut in CUTS if f"rationales/precision@{cut}" in result.metrics]
    rows = tuple(
        Row(name=name, note=note, cells=_metric_cells(result, tuple(f"rationales/{metric}@{cut}" for cut in cuts)))
        for metric, (name, note) in AT_CUTS.items()
    )
    return MetricTable(
        title="Several rationales",
        note=f"against all that are visible, where that is known: {result.num_visible:,} pictures",
        subject="Measure",
        columns=tuple(Column(name=f"best {cut}" if cut > 1 else "the best") for cut in cuts),
        rows=rows,
    )


def _metric_cells(result: Result, metrics: tuple[str, ...]) -> tuple[MetricValue | None, ...]:
    return tuple(metric_cell(result, metric) for metric in metrics)


def metric_cell(result: Result, metric: str) -> MetricValue | None:
    """Return a metric with its interval; None if it is unknown.

    Args:
        result: result of one set of predictions.
        metric: name of the metric, such as `strict/rr`.
    """
    estimate = result.metrics.get(metric)
    if estimate is None or math.isnan(estimate.value):
        return None
    low, high = _interval(estimate)
    is_share = not metric.endswith(("/brier", "/nll"))
    return MetricValue(value=estimate.value, low=low, high=high, is_share=is_share)


def _interval(estimate: Estimate) -> tuple[float | None, float | None]:
    known = not math.isnan(estimate.low) and not math.isnan(estimate.high)
    return (estimate.low, estimate.high) if known else (None, None)


def read_plots(folder: str, evaluation: Evaluation, result: Result) -> Iterator[Plot]:
    """Read the existing plots of a set of predictions from the folder of an evaluation.

    Args:
        folder: output of `ecor evaluate`, local or in a store.
        evaluation: its record. Plots of all sets are read only if there are several.
        result: result of the set.

    Raises:
        OSError: when the store fails.
    """
    # the file names that `ecor evaluate` gives
    own = {f"{kind}-{slug(result.name)}.png": title for kind, title in OWN_PLOTS.items()}
    shared = SHARED_PLOTS if len(evaluation.results) > 1 else {}
    for name, title in {**shared, **own}.items():
        path = filesystem.join(folder, name)
        if filesystem.exists(path):
            yield Plot(title=title, picture=read_png(filesystem.read(path)))
