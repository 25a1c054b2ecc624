"""The vocabulary of labels is found in the named file or beside their shards, and never another one."""

from pathlib import Path

import pytest

from ecor.data.predictions.manifest import PredictionParents
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.storage.label_vocabulary import find_label_vocabulary

OURS = vocabulary_from_mapping({"fox": ["pointed ears"]})
OTHER = vocabulary_from_mapping({"cup": ["a handle"]})


def parents_of(split: str) -> PredictionParents:
    return PredictionParents(
        input=split,
        input_digest="i" * 64,
        model_uri="run/checkpoint",
        model_name="run/checkpoint",
        model_version=None,
        model_digest="m" * 64,
        vocabulary_digest=OURS.digest,
    )


def test_the_vocabulary_beside_the_split_is_taken_only_if_it_is_that_of_the_labels(tmp_path: Path) -> None:
    parents = parents_of(f"{tmp_path}/validation/")
    beside = tmp_path / "vocabulary.json"
    assert find_label_vocabulary(parents, address=None) is None
    for text in (OTHER.to_json(), "{", ""):
        beside.write_text(text)
        assert find_label_vocabulary(parents, address=None) is None
    beside.write_text(OURS.to_json())
    found = find_label_vocabulary(parents, address=None)
    assert found is not None and (found.vocabulary, found.address) == (OURS, str(beside))


def test_a_named_file_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    parents = parents_of(f"{tmp_path}/validation")
    named = tmp_path / "names.json"
    named.write_text(OURS.to_json())
    found = find_label_vocabulary(parents, address=str(named))
    assert found is not None and found.vocabulary == OURS
    named.write_text(OTHER.to_json())
    with pytest.raises(ValueError, match=rf"names.json is the vocabulary {OTHER.digest[:12]}.*{OURS.digest[:12]}"):
        find_label_vocabulary(parents, address=str(named))
