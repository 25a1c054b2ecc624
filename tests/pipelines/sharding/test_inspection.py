"""Names that meet in one are refused with both spellings; spellings of one name are not.

Covers: `pipelines.sharding.label_names`, `pipelines.sharding.shard_job`.
"""

from itertools import pairwise

import pytest

from pipelines.config.stages import ShardConfig
from pipelines.sharding.label_names import Label, check_labels, vocabulary_of
from pipelines.sharding.shard_job import ShardJob


def labels_of(*categories: str, rationale: str | None = None) -> list[Label]:
    return [
        Label(split=None, category=name, rationale=rationale, is_visible=False, source=f"{name}/a.png")
        for name in categories
    ]


def check(labels: list[Label]) -> None:
    job = ShardJob(
        config=ShardConfig(input="in", output="out"),
        root="in",
        vocabulary=vocabulary_of(labels),
        given_splits=(),
        from_vocabulary=False,
        parents={},
        output="out",
    )
    check_labels(labels, job=job)


@pytest.mark.parametrize(
    "names",
    [
        ("-1", "1"),
        ("A-", "a"),
        ("_x", "x"),
        ("a-", "a_"),
        ("/b", "or b"),
        ("class_-1", "class_1"),
        ("level -1", "level 1"),
    ],
)
def test_names_that_would_be_one_are_refused_with_both_spellings(names: tuple[str, str]):
    with pytest.raises(ValueError, match="would both be") as caught:
        check(labels_of(*names))
    assert all(repr(name) in str(caught.value) for name in names)


def test_rationales_too():
    with pytest.raises(ValueError, match="rationale '-1' and rationale '1' would both be '1': rename one"):
        check([*labels_of("a", rationale="1"), *labels_of("b", rationale="-1")])


@pytest.mark.parametrize(
    "names",
    [
        ("police_car", "Police car", "police-car"),
        ("long/short", "long or short"),
        ("caf\u00e9", "cafe\u0301"),
        ("5-10", "5 10"),
    ],
)
def test_spellings_of_one_name_are_one(names: tuple[str, ...]):
    for pair in pairwise(names):
        check(labels_of(*pair))


@pytest.mark.parametrize("name", ["-", "_"])
def test_a_name_of_separators_alone_is_an_error_with_its_image(name: str):
    with pytest.raises(ValueError, match=f"{name}/a.png: the category has an empty name: '{name}'"):
        vocabulary_of(labels_of(name))
    with pytest.raises(ValueError, match=f"hat/a.png: a rationale has an empty name: '{name}'"):
        vocabulary_of(labels_of("hat", rationale=name))
