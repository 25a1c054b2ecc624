"""A balance cannot exist unless both sides are equal; its line, its record and its metrics say the same numbers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runtime.balance import Balance, add_balances, say_balance

counts = st.dictionaries(st.sampled_from([".heic", "no_suffix", "hidden", "truncated", "a b", "."]), st.integers(0, 9))


@st.composite
def balances(draw: st.DrawFn) -> Balance:
    taken, copies = draw(st.integers(0, 99)), draw(st.integers(0, 9))
    rejected, left_out = draw(counts), draw(counts)
    return Balance(
        stage="shard",
        num_listed=taken + copies + sum(rejected.values()) + sum(left_out.values()),
        num_taken=taken,
        num_copies=copies,
        rejected=rejected,
        left_out=left_out,
    )


@given(balances())
def test_line_record_and_metrics_are_one(balance: Balance):
    numbers = list(map(int, re.findall(r"(\d+) (?:listed|taken|copies|rejected|left out)\b", balance.line())))
    assert numbers[0] == sum(numbers[1:]), balance.line()
    assert Balance.from_record(balance.to_record()) == balance
    metrics = balance.metrics()
    assert [metrics[f"balance/{name}"] for name in ("listed", "taken", "copies", "rejected", "left_out")] == numbers
    for name in ("rejected", "left_out"):
        kinds = [number for key, number in metrics.items() if key.startswith(f"balance/{name}_of/")]
        assert sum(kinds) == metrics[f"balance/{name}"]


@given(balances(), st.integers(-3, 3).filter(bool), st.sampled_from(["listed", "taken", "copies"]))
def test_sides_that_differ_are_an_error_with_all_numbers(balance: Balance, change: int, name: str):
    record = balance.to_record()
    record[name] += change
    with pytest.raises(ValueError, match=rf"shard: {record['listed']} listed is not {record['taken']} taken \+ .*lost"):
        Balance.from_record(record)


@given(balances(), balances())
def test_sums_balance_too(first: Balance, second: Balance):
    both = add_balances("shard", [first, second])
    assert both.num_listed == first.num_listed + second.num_listed
    assert both.num_left_out == first.num_left_out + second.num_left_out


def test_the_line_names_the_most_frequent_kinds_and_one_line_it_is(capsys):
    kinds = {".a": 1, ".b": 9, ".c": 3, ".d": 3, ".e": 2, ".x\ny": 4, "no_suffix": 5, "zero": 0}
    balance = Balance(stage="score", num_listed=30, num_taken=2, rejected={"truncated": 1}, left_out=kinds)
    say_balance(balance)
    assert capsys.readouterr().err == (
        "score: 30 listed = 2 taken + 0 copies + 1 rejected (1 truncated) + 27 left out (9 .b, 5 no suffix, "
        "4 '.x\\ny', 3 .c, 3 .d and 2 kinds more)\n"
    )
    assert balance.metrics()["balance/left_out_of/.x_y"] == 4 and "zero" not in balance.to_record()["left_out"]


def test_names_of_metrics_are_such_that_mlflow_takes_them(tmp_path):
    from mlflow.utils.validation import _validate_metric_name

    kinds = {f".{name}": 1 for name in ("heic", "a/b", "x y", "ü%&", "z" * 300, "\udcff", "..")}
    balance = Balance(stage="score", num_listed=len(kinds), num_taken=0, left_out=kinds)
    for name in balance.metrics():
        _validate_metric_name(name)


def test_metrics_are_few_and_have_names_that_mlflow_takes() -> None:
    kinds = {".": 3, "..": 2, **{f".{number}": 1 for number in range(5000)}}
    balance = Balance(stage="score", num_listed=5005, num_taken=0, left_out=kinds)
    metrics = balance.metrics()
    assert len(metrics) < 60 and metrics["balance/left_out_of/_"] == 5 and metrics["balance/left_out_of/other"] == 4952
    names = {name for key in metrics for name in (key.rsplit("/", 1)[0],)}
    assert not names & set(metrics), "MLflow's file store cannot have a metric beside a folder of its name"
