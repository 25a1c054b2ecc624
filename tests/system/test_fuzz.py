"""Damage to pictures and tars is detected, or changes nothing: a sample of what `make soak` does."""

import random

import numpy as np
import pytest

from ecor.data.images.decoding import decode_image
from tests.system.fuzz import ANY, TARS, fuzz_pictures, fuzz_tars, good_pictures, good_samples, table_of


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_rejected_or_pictures_and_always_detected_in_their_shard():
    outcomes = fuzz_pictures(450, seed=0)
    assert [told for each in outcomes.values() for told in each.broken] == []
    assert sum(each.counts["damaged"] for each in outcomes.values()) == 450
    for form in ("PNG", "PNG, 16 bit"):  # checksums of their own
        assert outcomes[form].counts["rejected"] > outcomes[form].counts["another picture"]


def test_damaged_tars_are_detected_or_hold_the_same_samples():
    outcomes = fuzz_tars(260, seed=0)
    assert [told for each in outcomes.values() for told in each.broken] == []
    assert sum(each.counts["rejected"] for each in outcomes.values()) > 130


def test_what_breaks_the_law_is_counted(monkeypatch):
    """The fuzz would see it: a reader that gives a sample more or less, or fails in a way that is not promised."""
    monkeypatch.setattr("tests.system.fuzz.read_members", lambda *args, **kwargs: good_samples()[:1])
    monkeypatch.setattr("tests.system.fuzz.read_shard", lambda *args, **kwargs: 1 / 0)
    outcomes = {"pictures": fuzz_pictures(15, seed=0)["JPEG"], **fuzz_tars(13, seed=0)}
    assert all(each.counts["undetected"] == each.counts["damaged"] for each in outcomes.values())
    assert "ZeroDivisionError" in table_of(outcomes, name="damage", columns=["undetected"])


def test_each_kind_of_damage_changes_bytes_and_can_be_done_again():
    data = good_pictures()["PNG"]
    for kind, damage in ANY.items():
        assert damage(data, random.Random(3)) == damage(data, random.Random(3))
        assert any(damage(data, random.Random(seed)) != data for seed in range(5)), kind
    assert set(ANY) < set(TARS)
    assert all(np.asarray(decode_image(picture)).ndim == 3 for picture in good_pictures().values())
