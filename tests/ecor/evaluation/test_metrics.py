"""Verdicts by hand and against the protocol written as loops; metrics by hand; intervals against scipy.

Covers: `ecor.evaluation.confidence_intervals`, `ecor.evaluation.correctness`, `ecor.evaluation.label_columns`,
`ecor.evaluation.record`, `ecor.evaluation.table_evaluation`.
"""

import warnings
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ecor.data.predictions.records import predictions_table
from ecor.evaluation.confidence_intervals import Resampling, bootstrap, mean_estimates
from ecor.evaluation.correctness import RULES, RankedAnswers, Truth
from ecor.evaluation.label_columns import read_labels
from ecor.evaluation.metrics import differences, observations, observations_table
from ecor.evaluation.record import Evaluation
from ecor.evaluation.table_evaluation import evaluate, known_labels
from tests.support.prediction_rows import random_table, row

FEW = Resampling(num_resamples=50)


def outcome(rule: str, *pairs: tuple[str, str], rationales: tuple[str, ...] = ("ears",), **kwargs) -> str:
    """The verdict on one image whose truth is a fox, for its ears."""
    labels = read_labels(predictions_table([row("k", *pairs, category="fox", rationales=rationales, **kwargs)]))
    verdicts = RULES[rule](labels.answers, labels.truth)
    return next(name for name, values in verdicts.shares().items() if values[0])


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [(("fox", "ears"), "rr"), (("fox", "tail"), "rw"), (("dog", "ears"), "wr"), (("dog", "tail"), "ww")],
)
def test_the_strict_rule_judges_the_best_pair(pair, verdict):
    assert outcome("strict", pair, ("fox", "ears")) == verdict
    assert outcome("two_stage", ("fox", "ears"), two_stage=pair) == verdict


@pytest.mark.parametrize(
    ("verdict", "pairs"),
    [
        # A hit at the first pair.
        ("rr", ["fox ears", "dog ears", "dog tail", "dog paws", "dog nose"]),
        # The scan stops at the hit: the dogs behind it have no vote.
        ("rr", ["fox tail", "fox ears", "dog ears", "dog tail", "dog paws"]),
        # One dog, one fox at the hit: of equals the first seen, and (dog, ears) is not among the five.
        ("ww", ["dog tail", "fox ears", "fox tail", "fox paws", "fox nose"]),
        # The same, but (dog, ears) stands behind the hit.
        ("wr", ["dog tail", "fox ears", "dog ears", "fox paws", "fox nose"]),
        # No hit: all five vote, foxes win without the reason.
        ("rw", ["dog ears", "fox tail", "fox paws", "cat ears", "cow ears"]),
        # No hit, dogs win, with the true reason.
        ("wr", ["dog tail", "dog ears", "fox tail", "cat ears", "cow ears"]),
        # The true pair at the sixth place is not seen.
        ("ww", ["dog tail", "dog paws", "fox tail", "cat tail", "cow ears", "fox ears"]),
        # Fewer than five pairs.
        ("rw", ["fox tail"]),
    ],
)
def test_the_vote_by_hand(verdict, pairs):
    assert outcome("dror_vote", *(tuple(pair.split()) for pair in pairs)) == verdict


def voted(pairs: list[tuple[int, int]], category: int, rationales: set[int]) -> tuple[bool, bool]:
    """DROR's released protocol, as its steps are told."""
    votes: Counter[int] = Counter()
    hit = False
    for c, r in pairs:
        votes[c] += 1
        if c == category and r in rationales:
            hit = True
            break
    predicted = votes.most_common(1)[0][0]  # of equals the first counted
    if predicted == category:
        return True, hit
    return False, any(c == predicted and r in rationales for c, r in pairs)


cells = st.tuples(st.integers(0, 2), st.integers(0, 3))


@given(
    images=st.lists(
        st.tuples(
            st.lists(cells, min_size=5, max_size=5, unique=True),
            st.integers(0, 2),
            st.sets(st.integers(0, 3), min_size=1, max_size=2),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_the_vote_equals_the_protocol_written_as_a_loop(images):
    pairs = np.array([ranked for ranked, _, _ in images])
    number = len(images)
    answers = RankedAnswers(
        keys=tuple(map(str, range(number))),
        pair_categories=pairs[:, :, 0],
        pair_rationales=pairs[:, :, 1],
        rationales=pairs[:, :, 1],
        marginal_categories=pairs[:, 0, 0],
        two_stage_categories=pairs[:, 0, 0],
        two_stage_rationales=pairs[:, 0, 1],
        confidence=np.full(number, 0.5),
        category_confidence=np.full(number, 0.5),
        rationale_confidence=np.full(number, 0.5),
        visible_confidence=np.full(number, 0.5),
    )
    truth = Truth(
        categories=np.array([category for _, category, _ in images]),
        rationales=np.array([[*true, -1, -1][:2] for _, _, true in images]),
        visible=np.full((number, 1), -1),
        visible_known=np.zeros(number, dtype=bool),
    )
    verdicts = RULES["dror_vote"](answers, truth)
    expected = [voted(ranked, category, true) for ranked, category, true in images]
    assert list(zip(verdicts.category.tolist(), verdicts.rationale.tolist(), strict=True)) == expected


@pytest.mark.parametrize("rule", RULES)
def test_every_image_has_one_outcome_and_a_perfect_labeller_is_right(rule):
    labels = read_labels(random_table(60))
    shares = RULES[rule](labels.answers, labels.truth).shares()
    assert sum(values.astype(int) for values in shares.values()).tolist() == [1] * 60
    assert outcome(rule, ("fox", "ears"), ("dog", "tail")) == "rr"


def test_any_labelled_rationale_is_right_and_names_are_compared_as_the_vocabulary_spells_them():
    assert outcome("strict", ("fox", "tail"), rationales=("ears", "tail")) == "rr"
    assert outcome("strict", ("FOX", "pointed_ears"), rationales=("Pointed-Ears",)) == "rr"
    assert outcome("strict", ("fox", "ear")) == "rw"  # a part of a name is another name


def test_numbers_of_a_sliced_table_are_those_of_its_rows():
    table = random_table(30)
    whole, part = read_labels(table), read_labels(pa.concat_tables([table.slice(7, 5), table.slice(20, 4)]))
    rows = [*range(7, 12), *range(20, 24)]
    for name in ("pair_categories", "pair_rationales", "rationales"):
        names = "categories" if name == "pair_categories" else "rationales"
        spelled = [[getattr(whole, names)[i] for i in getattr(whole.answers, name)[at]] for at in rows]
        assert [[getattr(part, names)[i] for i in ids] for ids in getattr(part.answers, name)] == spelled
    assert part.truth.visible_known.tolist() == whole.truth.visible_known[rows].tolist()


def test_metrics_against_visible_rationales_by_hand():
    said = ("ears", "tail", "paws", "nose", "fur")
    table = predictions_table(
        [
            row("a", ("fox", "tail"), category="fox", rationales=("ears",), visible=("ears", "tail"), said=said),
            row("b", ("dog", "ears"), category="fox", rationales=("ears",), visible=("ears", "fur", "eyes"), said=said),
            row("c", ("fox", "ears"), category="fox", rationales=("ears",), said=said),
            row("d", ("fox", "ears"), category="fox", rationales=("ears",), visible=(), said=said),
        ]
    )
    labels = read_labels(table)
    found = {name: values.tolist() for name, values in observations(labels.answers, labels.truth).items()}
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert found["strict/rr"] == [0, 0, 1, 1]
    assert found["strict/visible_rr"] == [1, 0, nan, 0]
    assert found["strict/visible"] == [1, 1, nan, 0]
    assert found["rationales/precision@3"] == [pytest.approx(2 / 3), pytest.approx(1 / 3), nan, 0]
    assert found["rationales/recall@3"] == [1, pytest.approx(1 / 3), nan, nan]
    assert found["rationales/recall@5"] == [1, pytest.approx(2 / 3), nan, nan]
    assert found["rationales/hit@1"] == [1, 1, nan, nan]
    assert found["rationales/rr_any@1"] == [1, 0, nan, nan]
    assert found["rationales/rr_all@3"] == [1, 0, nan, nan]


def test_an_evaluation_by_hand():
    pairs = {"rr": ("fox", "ears"), "rw": ("fox", "tail"), "wr": ("dog", "ears"), "ww": ("dog", "tail")}
    table = predictions_table(
        [
            *(
                row(f"{name}{i}", pair, category="fox", rationales=("ears",), confidence=0.9)
                for name, pair in pairs.items()
                for i in range({"rr": 4, "rw": 3, "wr": 2, "ww": 1}[name])
            ),
            row("other", ("owl", "beak"), category="owl", rationales=("beak",), confidence=0.1, marginal="fox"),
            row("category only", ("fox", "ears"), category="cow"),
            row("unknown", ("fox", "ears")),
        ]
    )
    result = evaluate(table, name="a", resampling=FEW, num_bins=10, num_rejected=3)
    assert (result.num_rows, result.num_images, result.num_explained, result.num_visible) == (13, 12, 11, 0)
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    assert values["strict/rr"] == pytest.approx(5 / 11)
    assert [values[f"strict/{part}"] * 11 for part in ("rw", "wr", "ww")] == pytest.approx([3, 2, 1])
    assert values["strict/accuracy"] == pytest.approx(8 / 12)
    assert values["marginal/accuracy"] == pytest.approx(7 / 12)
    assert values["per_category/rr"] == pytest.approx((4 / 10 + 1) / 2)
    assert values["per_category/accuracy"] == pytest.approx((7 / 10 + 1) / 2)
    assert values["calibration/ece"] == pytest.approx((10 * abs(0.9 - 0.4) + 1 * abs(0.1 - 1)) / 11, abs=1e-6)
    assert [(each.category, each.num_images, each.rr.value) for each in result.per_category] == [
        ("fox", 10, 0.4),
        ("owl", 1, 1.0),
    ]
    assert not any(name.startswith("rationales/") for name in values)
    for estimate in result.metrics.values():
        assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("rule", RULES)
def test_shares_sum_to_one_and_accuracy_is_rr_and_rw(rule):
    metrics = evaluate(random_table(80), name="a", resampling=FEW).metrics
    parts = {part: metrics[f"{rule}/{part}"].value for part in ("rr", "rw", "wr", "ww")}
    assert sum(parts.values()) == pytest.approx(1)
    assert metrics[f"{rule}/accuracy"].value == pytest.approx(parts["rr"] + parts["rw"])


def test_images_without_rationales_have_an_accuracy():
    table = predictions_table([row("a", ("fox", "ears"), category="fox"), row("b", ("fox", "ears"), category="owl")])
    result = evaluate(table, name="a", resampling=FEW)
    assert result.metrics["strict/accuracy"].value == 0.5
    assert "strict/rr" not in result.metrics
    assert (result.num_explained, result.per_category, result.reliability) == (0, (), ())


def test_rows_that_cannot_be_evaluated_are_told():
    unknown = predictions_table([row("a", ("fox", "ears"))])
    with pytest.raises(ValueError, match="none of the 1 rows of mine has a true category"):
        evaluate(unknown, name="mine")
    twice = predictions_table([row("a", ("fox", "ears"), category="fox")] * 2)
    with pytest.raises(ValueError, match="1 keys occur more than once in mine"):
        evaluate(twice, name="mine")
    with pytest.raises(ValueError, match="mine has no predictions"):
        evaluate(unknown.slice(0, 0), name="mine")


def test_intervals_agree_with_scipy_and_cover_about_as_often_as_they_say():
    values = np.random.default_rng(0).random(200) < 0.3
    ours = mean_estimates({"x": values.astype(float)}, resampling=Resampling(num_resamples=4000))["x"]
    theirs = stats.bootstrap((values.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.006)
    assert ours.value == values.mean()
    covered = 0
    for seed in range(100):
        drawn = (np.random.default_rng(seed).random(150) < 0.4).astype(float)
        found = mean_estimates({"x": drawn}, resampling=Resampling(num_resamples=200, seed=seed))["x"]
        covered += found.low <= 0.4 <= found.high
    assert 86 <= covered <= 100


def test_undefined_values_do_not_count():
    values = np.array([1.0, np.nan, 0.0, np.nan, 1.0])
    found = mean_estimates({"x": values, "never": values * np.nan}, resampling=FEW)
    assert set(found) == {"x"}
    assert (found["x"].value, found["x"].num_images) == (pytest.approx(2 / 3), 3)
    one = mean_estimates({"x": np.array([1.0])}, resampling=FEW)["x"]
    assert (one.value, one.low, one.high) == (1, 1, 1)
    with pytest.raises(ValueError, match="number of images must be at least 1"):
        bootstrap(lambda counts: counts, num_images=0, resampling=FEW)


def test_a_number_that_no_sample_defines_has_no_interval_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, low, high = bootstrap(lambda counts: counts * [1.0, np.nan], num_images=2, resampling=FEW)
    assert np.isnan([low[1], high[1]]).all() and low[0] <= value[0] <= high[0]


def test_a_paired_difference_is_surer_than_two_intervals():
    better, worse = random_table(300, skill=0.6), random_table(300, skill=0.5)
    seen = [observations_table(known_labels(table, name="x")) for table in (better, worse)]
    shuffled = seen[1].take(np.random.default_rng(0).permutation(300))
    found = differences(seen[0], shuffled, resampling=Resampling(num_resamples=300))
    a, b = (np.asarray(each["strict/rr"]) for each in seen)
    assert found["strict/rr"].value == pytest.approx((a - b).mean(), abs=1e-6)
    opposite = differences(shuffled, seen[0], resampling=Resampling(num_resamples=300))["strict/rr"]
    assert opposite.value == pytest.approx(-found["strict/rr"].value)
    alone = mean_estimates({"x": a.astype(float)}, resampling=Resampling(num_resamples=300))["x"]
    assert found["strict/rr"].high - found["strict/rr"].low < 2 * (alone.high - alone.low)
    same = differences(seen[0], seen[0], resampling=FEW)
    assert all((each.low, each.value, each.high) == (0, 0, 0) for each in same.values())


def test_a_difference_is_of_the_images_in_both():
    table = random_table(60)
    seen = observations_table(known_labels(table, name="x"))
    found = differences(seen.slice(0, 40), seen.slice(20, 40), resampling=FEW)
    assert found["strict/rr"].num_images == 20
    with pytest.raises(ValueError, match="first and second have no image in common"):
        differences(seen.slice(0, 20), seen.slice(20, 40), names=("first", "second"))
    with pytest.raises(ValueError, match="no metric beauty"):
        differences(seen, seen, metrics=["beauty"])


def test_the_record_comes_back_from_its_json():
    result = evaluate(random_table(40), name="a", predictions="d" * 64, parents={"model_name": "m"}, resampling=FEW)
    record = Evaluation(results=(result,), comparisons=(), resampling=FEW, num_bins=15)
    assert Evaluation.from_json(record.to_json()) == record
    assert record.of("d" * 64) is record.results[0]
    with pytest.raises(ValueError, match="not of predictions eeeeeeeeeeee"):
        record.of("e" * 64)
    with pytest.raises(ValueError, match="x was altered"):
        Evaluation.from_json(record.to_json().replace('"num_rows": 40', '"num_rows": 41'), source="x")
    with pytest.raises(ValueError, match="x is not an evaluation"):
        Evaluation.from_json("{}", source="x")
