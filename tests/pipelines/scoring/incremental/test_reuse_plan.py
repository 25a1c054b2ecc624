"""The join of a listing with earlier labels is that of a dictionary; each image and each label is counted once."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.scoring.incremental import reuse_plan
from pipelines.scoring.incremental.listing_record import LISTING_SCHEMA
from pipelines.scoring.incremental.reuse_plan import ReuseCounts, ReusePlan, plan_reuse, vanished_rows

FILES = st.dictionaries(st.sampled_from("abcdefghijkl"), st.tuples(st.integers(1, 2), st.sampled_from([None, 1, 2])))
"""Size and time of each file."""


def listing_of(files: dict[str, tuple[int, int | None]]) -> pa.Table:
    sizes, times = ([value[index] for value in files.values()] for index in (0, 1))
    arrays = [pa.array(list(files), pa.large_string()), pa.array(sizes, pa.int64()), pa.array(times, pa.int64())]
    return pa.Table.from_arrays(arrays, schema=LISTING_SCHEMA)


def labels_of(sources: list[str], *, unit: int, listing: pa.Table | None) -> SimpleNamespace:
    """Earlier labels in parts of `unit` rows, without files."""
    parts = [SimpleNamespace(sources=sources[start : start + unit]) for start in range(0, len(sources), unit)]
    for part in parts:
        part.num_rows = len(part.sources)
    labels = SimpleNamespace(parts=tuple(parts), num_rows=len(sources))
    return SimpleNamespace(folder="labels", labels=labels, read_listing=lambda: listing)


@pytest.fixture(autouse=True)
def without_files(monkeypatch: pytest.MonkeyPatch):
    """Rows come from memory; a content is the same if the image's name is a vowel."""

    def read_names(earlier: SimpleNamespace, part: SimpleNamespace) -> pa.Table:
        names = pa.array(part.sources, pa.large_string())
        return pa.table({"key": names, "source": names})

    monkeypatch.setattr(reuse_plan, "_read_names", read_names)
    monkeypatch.setattr(
        reuse_plan, "compare_contents", lambda sources, keys, allow_http: [each in "aei" for each in sources]
    )


@given(now=FILES, then=FILES, labelled=st.sets(st.sampled_from("abcdefghijkl")), unit=st.integers(1, 5))
@pytest.mark.parametrize("check", ["time", "content"])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_the_plan_is_that_of_a_dictionary(
    now: dict, then: dict, labelled: set, unit: int, check: str, is_recorded: bool
):
    before = sorted(labelled)
    record = listing_of(then) if is_recorded else None
    earlier = labels_of(before, unit=unit, listing=record)
    found = plan_reuse(listing_of(now), earlier, check=check)
    known = then if is_recorded else {}
    expected = []
    for name, state in now.items():
        is_same_size = name not in known or state[0] == known[name][0]
        is_same_file = name in known and state == known[name] and None not in state and check == "time"
        expected.append(name in labelled and is_same_size and (is_same_file or name in "aei"))
    assert found.is_reused.tolist() == expected
    places = [divmod(before.index(name), unit) if name in labelled else (-1, -1) for name in now]
    assert list(zip(found.part.tolist(), found.row.tolist(), strict=True)) == places
    gone = [
        earlier.labels.parts[number].sources[row]
        for number, rows in enumerate(vanished_rows(found, earlier.labels.parts))
        for row in rows
    ]
    assert gone == [name for name in before if name not in now]
    assert found.counts.num_vanished == len(gone)
    assert found.counts.num_reused == sum(expected)


def test_a_plan_is_read_as_it_was_written():
    listing = listing_of({"a": (1, 1), "b": (2, None), "c": (1, 2)})
    plan = plan_reuse(listing, labels_of(["a", "b", "x"], unit=2, listing=listing), check="time")
    found = ReusePlan.from_listing(plan.add_to(listing))
    assert found.counts == plan.counts
    for name in ("part", "row", "is_reused"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plan, name))


def test_one_image_under_two_names_of_a_table_keeps_its_row_once():
    listing = pa.concat_tables([listing_of({"a": (1, 1)}), listing_of({"a": (1, 1)})])
    plan = plan_reuse(listing, labels_of(["a"], unit=1, listing=listing_of({"a": (1, 1)})), check="time")
    assert plan.is_reused.tolist() == [True, False]
    assert (plan.counts.num_reused, plan.counts.num_new, plan.counts.num_vanished) == (1, 1, 0)


def test_labels_with_an_image_twice_are_refused():
    with pytest.raises(ValueError, match="labels has two labels of one image: leave out --since"):
        plan_reuse(listing_of({"a": (1, 1)}), labels_of(["a", "a"], unit=1, listing=None), check="time")


def test_a_name_that_is_no_text_is_new():
    listing = pa.Table.from_arrays(
        [pa.array([None, "a"], pa.large_string()), pa.array([1, 1]), pa.array([1, 1])], schema=LISTING_SCHEMA
    )
    plan = plan_reuse(listing, labels_of(["a"], unit=1, listing=listing), check="time")
    assert plan.is_reused.tolist() == [False, True]


def test_counts_that_do_not_add_up_are_an_error():
    counts = {"num_listed": 3, "num_reused": 1, "num_changed": 1, "num_new": 1, "num_before": 3, "num_vanished": 1}
    assert ReuseCounts(**counts, num_compared=0).line() == (
        "3 images = 1 reused + 1 changed + 1 new; 3 labels before = 1 reused + 1 changed + 1 vanished"
    )
    for name in ("num_reused", "num_new", "num_vanished"):
        with pytest.raises(ValueError, match="an image was lost or counted twice"):
            ReuseCounts(**{**counts, name: counts[name] + 1}, num_compared=0)
