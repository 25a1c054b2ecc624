"""The schedule equals, bit for bit, the formulas of tuning and of pretraining written out."""

import math

import pytest

from ecor.training.schedules import warmup_cosine


def naive_tuning(step: int, *, peak: float, warmup: int, num_steps: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(1, num_steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def naive_pretraining(done: float, *, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 1), (0, 7), (4, 12), (7, 50), (9, 9), (20, 5)])
@pytest.mark.parametrize("peak", [40.0, 3e-3, 0.1])
def test_steps_of_tuning_have_the_rates_of_the_formula(warmup: int, num_steps: int, peak: float) -> None:
    total = max(num_steps, warmup + 1)
    for step in range(num_steps + 2):
        found = warmup_cosine(step, warmup=warmup, total=total, ramp_offset=1, peak=peak)
        assert found == naive_tuning(step, peak=peak, warmup=warmup, num_steps=num_steps)


@pytest.mark.parametrize("warmup", [0.0, 0.04, 0.1, 0.9])
def test_shares_of_pretraining_have_the_rates_of_the_formula(warmup: float) -> None:
    for step in range(97):
        assert warmup_cosine(step / 96, warmup=warmup) == naive_pretraining(step / 96, warmup=warmup)


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [warmup_cosine(step, warmup=4, total=12, ramp_offset=1, peak=2.0) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(9)])
    assert warmup_cosine(0, warmup=0, total=1, peak=3.0) == 3.0
