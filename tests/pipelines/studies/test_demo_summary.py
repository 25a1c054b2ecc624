"""What the demo says in words holds beyond the intervals, whichever side it is on; its table has a row per set."""

import pytest
from rich.console import Console

from ecor.evaluation.confidence_intervals import Estimate, Resampling
from ecor.evaluation.record import Comparison, Evaluation
from ecor.evaluation.table_evaluation import evaluate
from pipelines.studies.demo_summary import COLUMNS, describe_comparison, describe_comparisons, metrics_table
from tests.support.prediction_rows import random_table


def gap(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, num_images=100)


@pytest.mark.parametrize(
    "rr, accuracy, sentence",
    [
        (gap(0.05, 0.02), gap(0.01, 0.02), "better on RR (+5.0 points, +3.0 to +7.0); not told apart on accuracy."),
        (
            gap(-0.05, 0.02),
            gap(0.04, 0.01),
            "better on accuracy (+4.0 points, +3.0 to +5.0); worse on RR (-5.0 points, -7.0 to -3.0).",
        ),
        (gap(0.0, 0.02), gap(0.01, 0.02), "not told apart on RR and accuracy."),
    ],
)
def test_a_sentence_says_what_the_intervals_leave(rr: Estimate, accuracy: Estimate, sentence: str) -> None:
    differences = {"strict/rr": rr, "strict/accuracy": accuracy, "dror_vote/rr": gap(0.5, 0.1)}
    assert describe_comparison(Comparison(first="A", second="B", differences=differences)) == f"A beside B: {sentence}"


def test_three_figures_are_listed_with_one_and() -> None:
    differences = {f"strict/{name}": gap(0.0, 0.02) for name in ("rr", "visible_rr", "accuracy")}
    described = describe_comparison(Comparison(first="A", second="B", differences=differences))
    assert described == "A beside B: not told apart on RR, visible RR and accuracy."


def test_the_table_has_a_row_per_set_and_the_own_model_first() -> None:
    few = Resampling(num_resamples=20)
    results = tuple(
        evaluate(random_table(60, seed=seed), name=name, resampling=few) for seed, name in enumerate(("ours", "theirs"))
    )
    table = metrics_table(Evaluation(results=results, comparisons=(), resampling=few, num_bins=15))
    assert [column.header for column in table.columns[1:]] == list(COLUMNS.values())
    assert [str(cell) for cell in table.columns[0].cells] == ["ours", "theirs"]
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table)
    assert f"{100 * results[0].metrics['strict/rr'].value:.1f}" in shown.get()
    assert list(describe_comparisons(Evaluation(results=results, comparisons=(), resampling=few, num_bins=15))) == []
