"""Which images are asked for next: each strategy against a naive count, and the written list.

Covers: `pipelines.config.learning`, `pipelines.learning.review_list`.
"""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.data.predictions.records import RankedCategory, predictions_table
from pipelines.config.learning import AskConfig, LearnConfig
from pipelines.learning.corrections import REVIEWED_SCHEMA
from pipelines.learning.review_list import write_review_list
from pipelines.learning.strategies import WrongReasonRates, category_margin, rank_labels
from tests.support.prediction_rows import row, write_labels

NUM = 130


def reviewed_rows(table: pa.Table, *, places: list[int], wrong: set[int] = frozenset()) -> pa.Table:
    rows = []
    for place in places:
        each = table.slice(place, 1).to_pylist()[0]
        rows.append(
            {
                "key": each["key"],
                "use": "taken",
                "category": each["category"],
                "rationales": [],
                "category_before": each["category"],
                "rationale_before": each["rationale"],
                "is_wrong_reason": place in wrong,
            }
        )
    return pa.Table.from_pylist(rows, schema=REVIEWED_SCHEMA)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Labels whose best categories have any probability, or no rival at all."""
    random = np.random.default_rng(5)
    rows = []
    for number in range(NUM):
        best, second = sorted(random.random(2) / 2, reverse=True)
        ranked = [RankedCategory(category="a", log_prob=float(np.log(best)))]
        if number % 10:
            ranked.append(RankedCategory(category="b", log_prob=float(np.log(second))))
        pair = (f"c{random.integers(3)}", f"r{random.integers(4)}")
        made = row(f"k{number:03d}", pair, confidence=float(random.random()))
        rows.append(type(made)(**{**{n: getattr(made, n) for n in made.__slots__}, "categories": tuple(ranked)}))
    return predictions_table(rows)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> str:
    folder = f"{tmp_path_factory.mktemp('asking')}/labels"
    write_labels(folder, table, rows_per_part=40)
    return folder


def ranked(labels: str, reviewed: pa.Table, **settings) -> list[int]:
    return rank_labels(labels, reviewed=reviewed, config=AskConfig(**{"number": NUM, **settings}))[0].tolist()


def test_margin_is_the_gap_of_the_two_best_categories(table: pa.Table, labels: str) -> None:
    naive = []
    for each in table.to_pylist():
        best, *others = (np.exp(one["log_prob"]) for one in each["categories"])
        naive.append(best - (others[0] if others else 0))
    assert np.allclose(-category_margin(table), naive)
    assert ranked(labels, REVIEWED_SCHEMA.empty_table(), strategy="margin") == np.argsort(naive).tolist()


def test_nobody_is_asked_twice(table: pa.Table, labels: str) -> None:
    reviewed = reviewed_rows(table, places=[0, 50, 129])
    for strategy in ("random", "margin", "wrong_reason", "coverage"):
        found = ranked(labels, reviewed, strategy=strategy)
        assert sorted(found) == sorted(set(range(NUM)) - {0, 50, 129})
        assert ranked(labels, reviewed, strategy=strategy, number=7) == found[:7]


def test_random_depends_on_the_seed_alone(table: pa.Table, labels: str) -> None:
    none = REVIEWED_SCHEMA.empty_table()
    assert ranked(labels, none) == ranked(labels, none)
    assert ranked(labels, none) != ranked(labels, none, seed=1)
    some = ranked(labels, reviewed_rows(table, places=[3]))
    assert some == [place for place in ranked(labels, none) if place != 3]


def test_coverage_takes_the_least_reviewed_pairs_first(table: pa.Table, labels: str) -> None:
    places = list(range(0, 60, 2))
    order = ranked(labels, reviewed_rows(table, places=places), strategy="coverage")
    pairs = [(each["category"], each["rationale"]) for each in table.to_pylist()]
    counts = Counter(pairs[place] for place in places)
    left = Counter(pairs) - counts
    for place in order:  # at each step, no pair that still has labels was seen less often
        assert counts[pairs[place]] == min(counts[pair] for pair, number in left.items() if number > 0)
        counts[pairs[place]] += 1
        left[pairs[place]] -= 1


def test_rates_of_wrong_reasons_are_shrunk_to_larger_groups() -> None:
    table = predictions_table(
        [row(f"k{i}", ("fox", "ears")) for i in range(4)] + [row(f"m{i}", ("owl", "eyes")) for i in range(4)]
    )
    rates = WrongReasonRates(reviewed_rows(table, places=list(range(8)), wrong={0, 1, 2}))
    overall = 4 / 10
    ears, eyes = (3 + 2 * overall) / 6, (0 + 2 * overall) / 6
    assert rates.of("fox", "ears") == pytest.approx((3 + 2 * ears) / 6)
    assert rates.of("wolf", "ears") == pytest.approx(ears)
    assert rates.of("owl", "eyes") == pytest.approx((0 + 2 * eyes) / 6)
    assert rates.of("cat", "tail") == pytest.approx(overall)


def test_wrong_reasons_come_first_where_the_category_is_probable(tmp_path: Path) -> None:
    table = predictions_table(
        [
            row("seen", ("fox", "ears")),
            row("sure", ("fox", "ears"), confidence=0.9),
            row("unsure", ("fox", "ears"), confidence=0.2),
            row("other", ("owl", "eyes"), confidence=0.9),
        ]
    )
    write_labels(f"{tmp_path}/labels", table)
    reviewed = reviewed_rows(table, places=[0], wrong={0})
    assert ranked(f"{tmp_path}/labels", reviewed, strategy="wrong_reason") == [1, 3, 2]
    with pytest.raises(ValueError, match="wrong_reason learns from corrections"):
        ranked(f"{tmp_path}/labels", REVIEWED_SCHEMA.empty_table(), strategy="wrong_reason")


def test_disagreement_asks_for_other_categories_then_other_reasons(tmp_path: Path) -> None:
    write_labels(f"{tmp_path}/ours", predictions_table([row(key, ("fox", "ears")) for key in "abcde"]))
    said = {"a": ("fox", "ears"), "b": ("fox", "tail"), "c": ("owl", "ears"), "e": ("fox", "ears")}
    write_labels(f"{tmp_path}/theirs", predictions_table([row(key, pair) for key, pair in said.items()]))
    none, settings = REVIEWED_SCHEMA.empty_table(), {"strategy": "disagreement", "others": (f"{tmp_path}/theirs",)}
    order = ranked(f"{tmp_path}/ours", none, **settings)
    assert order[:2] == [2, 1]
    assert sorted(order[2:]) == [0, 3, 4]
    write_labels(f"{tmp_path}/strangers", predictions_table([row("z", ("fox", "ears"))]))
    with pytest.raises(ValueError, match="has no image of"):
        ranked(f"{tmp_path}/ours", none, strategy="disagreement", others=(f"{tmp_path}/strangers",))


def test_the_list_is_written_best_first(table: pa.Table, labels: str, tmp_path: Path) -> None:
    config = AskConfig(strategy="margin", number=25)
    none = REVIEWED_SCHEMA.empty_table()
    written = write_review_list(labels, reviewed=none, config=config, folder=str(tmp_path))
    places, priorities = rank_labels(labels, reviewed=none, config=config)
    assert written["key"].to_pylist() == table["key"].take(places).to_pylist()
    assert written["rank"].to_pylist() == list(range(1, 26))
    assert written["priority"].to_pylist() == priorities.tolist()
    read = pq.ParquetFile(tmp_path / "ask.parquet").read()
    assert read.equals(written)
    with (tmp_path / "ask.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [each["key"] for each in csv.DictReader(file)] == written["key"].to_pylist()


def test_cells_are_no_formulas(tmp_path: Path) -> None:
    write_labels(f"{tmp_path}/labels", predictions_table([row("k", ("=1+1", "@SUM(A1)"))]))
    write_review_list(
        f"{tmp_path}/labels", reviewed=REVIEWED_SCHEMA.empty_table(), config=AskConfig(), folder=str(tmp_path)
    )
    with (tmp_path / "ask.csv").open(newline="", encoding="utf-8-sig") as file:
        (only,) = csv.DictReader(file)
    assert (only["category"], only["rationale"]) == ("'=1+1", "'@SUM(A1)")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"held_out": 0}, "held_out is a share between 0 and 1, both excluded, got 0"),
        ({"held_out": 0.6, "validation": 0.4}, "leave no image to learn from"),
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"reviewer": " "}, "reviewer needs a name"),
        ({"corrections": "pipe:cat"}, "corrections must be a path"),
    ],
)
def test_settings_are_checked(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LearnConfig(labels="labels", **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"number": 0}, "number must be at least 1"),
        ({"strategy": "disagreement"}, "name at least one folder of labels"),
        ({"others": ("labels",)}, "leave it out"),
    ],
)
def test_settings_of_the_list_are_checked(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AskConfig(**settings)
