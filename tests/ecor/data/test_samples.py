"""Label ids of a sample: rationales in turn over epochs, and errors for unknown names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecor.data.samples import Sample, label_ids
from ecor.data.vocabulary import vocabulary_from_mapping

VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers", "a tail"], "dog": ["a wet nose"]})


def sample(key: str = "a", *, rationales: tuple[str, ...] = ("whiskers", "a tail")) -> Sample:
    return Sample(
        key=key,
        image=b"",
        extension="png",
        category="cat",
        rationales=rationales,
        visible_rationales=None,
        source=f"{key}.png",
    )


@given(key=st.text(max_size=8))
def test_epochs_take_all_rationales_in_turn(key: str) -> None:
    ids = [label_ids(sample(key), vocabulary=VOCABULARY, epoch=epoch)[1] for epoch in range(4)]
    assert set(ids[:2]) == {0, 1} and ids[:2] == ids[2:]


def test_labels_the_vocabulary_lacks_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown rationale 'tail'"):
        label_ids(sample(rationales=("tail",)), vocabulary=VOCABULARY)
