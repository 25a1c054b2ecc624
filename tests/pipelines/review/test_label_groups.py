"""The index of labels, groups and filters, against naive loops over the rows.

Covers: `pipelines.review.label_index`, `pipelines.review.server.label_details`.
"""

import math
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecor.data.predictions.records import ExplainablePrediction
from pipelines.review.label_groups import LabelFilter, LabelGroups
from pipelines.review.label_index import LabelIndex, build_label_index
from pipelines.review.server.label_details import LabelDetails
from tests.support.review_labels import evidence, label, write_labels

WORDS = ("fox", "red  fox", "Füchse", "ﬁsh", "'", '"><b>', "שלום", "a\nb", "owl", "Æ")


@pytest.fixture(scope="module")
def rows() -> list[ExplainablePrediction]:
    """Labels whose names, sources and confidences are drawn; some confidences lie on the border of a band."""
    random = np.random.default_rng(5)
    made = []
    for number in range(400):
        category, rationale, source = (WORDS[each] for each in random.integers(0, len(WORDS), 3))
        confidence = float(random.choice([0.0, 0.3, 0.7, 1.0, random.random()]))
        made.append(
            label(
                number,
                category=category,
                rationale=rationale,
                source=f"/photos/{source}/{number}.jpg",
                confidence=confidence,
                evidence=evidence(number) if number % 3 == 0 else None,
            )
        )
    return made


@pytest.fixture(scope="module")
def index(rows: list[ExplainablePrediction], tmp_path_factory: pytest.TempPathFactory) -> LabelIndex:
    folder = tmp_path_factory.mktemp("labels")
    return build_label_index(str(folder), write_labels(folder, rows, per_part=70))


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def is_shown(row: ExplainablePrediction, chosen: LabelFilter, *, names: set[str]) -> bool:
    """What a filter means, said for one row."""
    confidence, wanted = np.float32(row.confidence), unicodedata.normalize("NFKC", chosen.name).lower().strip()
    category = unicodedata.normalize("NFKC", row.category).lower().strip()
    fits_name = category == wanted if wanted in names else wanted in category
    texts = [unicodedata.normalize("NFKC", each).lower() for each in (row.category, row.rationale)]
    texts += [normal(row.key), normal(row.source)]
    has_words = all(any(word in text for text in texts) for word in normal(chosen.text).split())
    return bool(np.float32(chosen.low) <= confidence <= np.float32(chosen.high)) and fits_name and has_words


FILTERS = [
    LabelFilter(),
    *(
        LabelFilter(text=text)
        for text in ("fox", "FOX", "fish", "photos", "1", "12.jpg", "zebra", "fox owl", "b/1", "'")
    ),
    *(LabelFilter(text=text) for text in ("שלום", "æ", "photos fox 7", "0399", "\n", "s/fü", "jpg /photos", "b>")),
    *(LabelFilter(name=name) for name in ("fox", "fo", "FISH", "nobody", "a\nb")),
    LabelFilter(low=0.3, high=0.7),
    LabelFilter(low=0.3, high=0.3),
    LabelFilter(low=0.25, name="owl", text="photos 2"),
]


@pytest.mark.parametrize("chosen", FILTERS, ids=repr)
def test_a_filter_shows_what_a_loop_finds(
    rows: list[ExplainablePrediction], index: LabelIndex, chosen: LabelFilter
) -> None:
    names = {unicodedata.normalize("NFKC", row.category).lower().strip() for row in rows}
    groups = LabelGroups(index)
    for _ in range(2):  # computed, and kept
        mask = groups.select(chosen)
        found = np.ones(len(rows), dtype=bool) if mask is None else mask
        assert found.tolist() == [is_shown(row, chosen, names=names) for row in rows]


def test_groups_are_those_of_a_loop_and_hold_every_label_once(
    rows: list[ExplainablePrediction], index: LabelIndex
) -> None:
    groups = LabelGroups(index)
    expected = Counter(
        (row.category, row.rationale, min(9, math.floor(np.float32(row.confidence) * np.float32(10)))) for row in rows
    )
    sizes = groups.count(None)
    found = {}
    for number in range(len(groups)):
        group = groups.describe(number, size=int(sizes[number]), num_done=0)
        found[(group.category, group.rationale, round(group.low * 10))] = group.size
        members = groups.members(number)
        assert all((index.category(m), index.rationale(m)) == (group.category, group.rationale) for m in members)
        assert sorted(index.confidences[members].tolist(), reverse=True) == index.confidences[members].tolist()
    assert found == expected
    every = np.concatenate([groups.members(number) for number in range(len(groups))])
    assert sorted(every.tolist()) == list(range(len(rows)))


def test_orders_of_groups(index: LabelIndex) -> None:
    groups = LabelGroups(index)
    mask = groups.select(LabelFilter(text="photos 1"))
    sizes = groups.count(mask)
    assert sizes.tolist() == [len(groups.members(number, mask=mask)) for number in range(len(groups))]
    there = [number for number in range(len(groups)) if sizes[number]]
    names = [
        (index.categories[groups.category_ids[g]], index.rationales[groups.rationale_ids[g]], -int(groups.bands[g]))
        for g in range(len(groups))
    ]
    keys = {
        "size": lambda g: (-sizes[g], names[g]),
        "unsure": lambda g: (groups.bands[g], -sizes[g], names[g]),
        "sure": lambda g: (-groups.bands[g], -sizes[g], names[g]),
        "name": lambda g: names[g],
    }
    for order, key in keys.items():
        assert groups.sort(sizes, order=order).tolist() == sorted(there, key=key), order  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no group 999"):
        groups.members(999)


def test_labels_are_found_by_key_and_their_rows_by_number(
    rows: list[ExplainablePrediction], index: LabelIndex, tmp_path: Path
) -> None:
    keys = [row.key for row in rows]
    assert index.find(keys[::-1]).tolist() == list(range(len(rows)))[::-1]
    assert index.find(["", "9999", "0001 "]).tolist() == [-1, -1, -1]
    assert index.keys(range(len(rows))) == keys
    write_labels(tmp_path, rows, per_part=70)
    details = LabelDetails(str(tmp_path), index=index)
    for number in (0, 399, 69, 70, 210, 1):
        row, ranked = rows[number], details.ranked(number)
        assert index.place(number).source == row.source
        assert [each["rationale"] for each in ranked["rationales"]] == [each.rationale for each in row.rationales]
        assert details.evidence(number) == row.evidence


def test_labels_that_cannot_be_reviewed_are_refused(rows: list[ExplainablePrediction], tmp_path: Path) -> None:
    twice = write_labels(tmp_path / "twice", [*rows, rows[3]])
    with pytest.raises(ValueError, match="two labels with the key 0003"):
        build_label_index(str(tmp_path / "twice"), twice)
    nan = write_labels(tmp_path / "nan", [replace(rows[0], confidence=math.nan)])
    with pytest.raises(ValueError, match="no number"):
        build_label_index(str(tmp_path / "nan"), nan)
    altered = write_labels(tmp_path / "altered", rows)
    (tmp_path / "altered" / "part-40.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part part-40\.parquet is not the file of the manifest"):
        build_label_index(str(tmp_path / "altered"), altered)


def test_no_file_is_left_behind(
    rows: list[ExplainablePrediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_labels(tmp_path / "labels", rows)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    index = build_label_index(str(tmp_path / "labels"), labels)
    assert index.keys([5]) == ["0005"] and not list((tmp_path / "scratch").iterdir())
