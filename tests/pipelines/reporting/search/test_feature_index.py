"""An index finds nearly what the exact search finds, is made once per set of features, and is never half made."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.reporting.search import feature_index
from pipelines.reporting.search.feature_folders import FeatureFolders, open_feature_folders
from pipelines.reporting.search.feature_index import search_index
from pipelines.reporting.search.find import search
from pipelines.reporting.search.queries import Query
from tests.support.kept_labels import rows_of, unit_vectors, write_kept_labels

pytest.importorskip("usearch", reason="needs the extra ecor[index]")
NUM, DIM, TOP = 3000, 32, 50


def written(folder: Path, *, seed: int = 0) -> FeatureFolders:
    """Labels whose features lie around some directions, in two units."""
    centres = unit_vectors(40, dim=DIM, seed=seed)
    spread = 0.7 * unit_vectors(NUM, dim=DIM, seed=seed + 1)
    vectors = (centres[np.arange(NUM) % 40] + spread).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    keys = [f"k{number}" for number in range(NUM)]
    units = [(rows_of(keys[:1700]), vectors[:1700]), (rows_of(keys[1700:]), vectors[1700:])]
    write_kept_labels(str(folder), units)
    return open_feature_folders([str(folder)], feature="category")


@pytest.fixture(scope="module")
def among(tmp_path_factory: pytest.TempPathFactory) -> FeatureFolders:
    return written(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    wide = unit_vectors(6, dim=DIM, seed=9).astype(np.float32)
    return [Query(name=str(number), kind="text", feature=each) for number, each in enumerate(wide)]


def test_nearly_all_of_the_best_are_found_in_order(among, queries, tmp_path):
    exact, found = search(among, queries, top=TOP), search_index(among, queries, top=TOP, folder=tmp_path)
    assert found.num_seen == NUM
    shares = []
    for query in range(len(queries)):
        (similarity, numbers), (_, expected) = found.of(query), exact.of(query)
        assert len(set(numbers.tolist())) == TOP and (np.diff(similarity) <= 0).all()
        features = np.concatenate(list(among.iterate()))[numbers]
        np.testing.assert_allclose(similarity, features @ queries[query].feature, atol=2e-3)
        shares.append(len(set(numbers.tolist()) & set(expected.tolist())) / TOP)
    assert np.mean(shares) > 0.97


def test_an_index_is_read_again_and_other_features_have_their_own(among, queries, tmp_path, monkeypatch):
    first = search_index(among, queries, top=5, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureFolders, "iterate", None)
        again = search_index(among, queries, top=5, folder=tmp_path)
    assert all((first.of(query)[1] == again.of(query)[1]).all() for query in range(len(queries)))
    other = written(tmp_path / "labels", seed=50)
    search_index(other, queries, top=5, folder=tmp_path)
    assert len(list(tmp_path.glob("*.usearch"))) == 2


def test_more_than_there_are_gives_all(among, queries, tmp_path):
    assert len(search_index(among, queries[:1], top=2 * NUM, folder=tmp_path).of(0)[1]) == NUM


@pytest.mark.parametrize("damage", ["cut off", "other file", "of other labels"])
def test_a_damaged_index_is_named_with_the_remedy(among, queries, tmp_path, damage):
    search_index(among, queries, top=5, folder=tmp_path)
    (path,) = tmp_path.glob("*.usearch")
    if damage == "of other labels":
        write_kept_labels(str(tmp_path / "few"), [(rows_of(["a"]), unit_vectors(1, dim=DIM))])
        search_index(open_feature_folders([str(tmp_path / "few")], feature="category"), queries, top=1, folder=tmp_path)
        (other,) = set(tmp_path.glob("*.usearch")) - {path}
        other.replace(path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if damage == "cut off" else b"no index at all" * 100)
    with pytest.raises(ValueError, match=r"\.usearch is no whole index .*delete it"):
        search_index(among, queries, top=5, folder=tmp_path)


def test_an_index_that_is_not_finished_leaves_nothing(among, queries, tmp_path, monkeypatch):
    def stop(self: FeatureFolders) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureFolders, "iterate", stop)
    with pytest.raises(KeyboardInterrupt):
        search_index(among, queries, top=5, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_usearch_the_remedy_is_said(among, queries, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_index, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(ValueError, match=r"pip install 'ecor\[index\]'"):
        search_index(among, queries, top=5, folder=tmp_path)
