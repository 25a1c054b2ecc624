"""Print what the demo measured: a table, and in words what holds beyond the intervals."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ecor.evaluation.confidence_intervals import Estimate
from ecor.evaluation.record import Comparison, Evaluation

COLUMNS = {
    "strict/rr": "RR",
    "strict/rw": "RW",
    "strict/wr": "WR",
    "strict/ww": "WW",
    "strict/accuracy": "accuracy",
    "strict/visible_rr": "visible RR",
}
COMPARED = {"strict/rr": "RR", "strict/visible_rr": "visible RR", "strict/accuracy": "accuracy"}
LEGEND = (
    "RR: category and rationale are right; RW, WR: one of the two; WW: neither; visible RR: the rationale is one the "
    "image shows, labelled or not. Below: 95 % bootstrap intervals. The images chose nothing: templates, epochs and "
    "temperatures are chosen on others. The world is drawn: this shows that the software works, it is no result."
)


def print_summary(evaluation: Evaluation, *, model: str, page: str, seconds: float) -> None:
    """Print the table, the comparisons in words, the model and the path of the page.

    Args:
        evaluation: the shipped method first, then its rivals.
        model: URI and place of the registered model.
        page: path of the report.
        seconds: duration of the demo.
    """
    console = Console()
    console.print(metrics_table(evaluation))
    for line in describe_comparisons(evaluation):
        console.print(line)
    console.print(LEGEND, style="dim")
    console.print(f"model   {model}", soft_wrap=True)
    console.print(f"page    {Path(page).absolute()}", soft_wrap=True)
    console.print(f"took    {seconds:.0f} s")


def metrics_table(evaluation: Evaluation) -> Table:
    """A row per set, the shipped method first, in percent with intervals."""
    table = Table(title=f"{evaluation.results[0].num_images:,} test images of the drawn world, strict rule, %")
    table.add_column("", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for result in evaluation.results:
        cells = []
        for metric in COLUMNS:
            found = result.metrics[metric]
            cells.append(f"{100 * found.value:.1f}\n[dim]{100 * found.low:.0f}–{100 * found.high:.0f}[/dim]")
        table.add_row(result.name, *cells)
    return table


def describe_comparisons(evaluation: Evaluation) -> Iterator[str]:
    """A sentence per rival: on which figures the shipped method is better or worse beyond the intervals."""
    for comparison in evaluation.comparisons:
        yield describe_comparison(comparison)


def describe_comparison(comparison: Comparison) -> str:
    """One sentence on the paired differences of two sets, image by image; intervals that hold 0 say nothing."""
    known = {words: comparison.differences[name] for name, words in COMPARED.items() if name in comparison.differences}
    better = {words: gap for words, gap in known.items() if gap.low > 0}
    worse = {words: gap for words, gap in known.items() if gap.high < 0}
    open_ones = [words for words in known if words not in better and words not in worse]
    parts = []
    if better:
        parts.append(f"better on {_list_gaps(better)}")
    if worse:
        parts.append(f"worse on {_list_gaps(worse)}")
    if open_ones:
        *others, last = open_ones
        parts.append("not told apart on " + " and ".join([*([", ".join(others)] if others else []), last]))
    return f"{comparison.first} beside {comparison.second}: {'; '.join(parts)}."


def _list_gaps(gaps: dict[str, Estimate]) -> str:
    return ", ".join(
        f"{words} ({100 * gap.value:+.1f} points, {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        for words, gap in gaps.items()
    )
