"""An index of kept features for stores of many millions of images: approximate, by usearch's HNSW graph.

HNSW: Malkov and Yashunin, arXiv:1603.09320. The file is made in the first search and mapped into memory by later ones.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ecor.config.checks import require
from ecor.storage.atomic_write import replace_file
from pipelines.reporting.search.feature_folders import FeatureFolders
from pipelines.reporting.search.queries import Query
from pipelines.reporting.search.top_k import TopK
from pipelines.runtime.console import progress_bar, say

_EXPANSION, _LEAST_EXPANSION = 40, 4000
"""Candidates that a search keeps (ef in the paper), per result and at least. usearch's default of 64 finds half of the
best for a sentence, whose feature is far from those of all images (`docs/find.md`)."""


def search_index(among: FeatureFolders, queries: Sequence[Query], *, top: int, folder: Path) -> TopK:
    """The images most similar to each query, by an index, which is made where it is not there yet.

    Args:
        among: the features of the N images of one folder of labels.
        queries: Q searches.
        top: images per search.
        folder: of indexes, on this machine; each set of features has a file of its own.

    Returns:
        Similarities are of the features that the index holds, in fp16.

    Raises:
        ValueError: when usearch is not installed, or the index is damaged.
        OSError: when the disk is full.
    """
    require(find_spec("usearch") is not None, "--index needs usearch: pip install 'ecor[index]', or leave out --index")
    from usearch.index import Index

    path = folder / f"{among.kept[0].features.digest[:16]}-{among.feature}.usearch"
    if not path.exists():
        _make_index(among, path)
    index = Index(
        ndim=len(queries[0].feature), metric="ip", dtype="f16", expansion_search=max(_LEAST_EXPANSION, _EXPANSION * top)
    )
    try:
        index.view(str(path))
    except (ValueError, RuntimeError) as error:
        raise ValueError(_damaged(path)) from error
    require(len(index) == among.num_rows, _damaged(path))
    found = TopK(len(queries), top)
    for query, each in enumerate(queries):
        matches = index.search(each.feature, min(top, among.num_rows), exact=top >= among.num_rows)
        found.set_best(query, similarity=1 - matches.distances, number=matches.keys.astype(np.int64))
    found.num_seen = among.num_rows
    return found


def _make_index(among: FeatureFolders, path: Path) -> None:
    """Add all features, one unit of work at a time; the file appears whole or not at all."""
    from usearch.index import Index

    index, first = None, 0
    with progress_bar("index", total=among.num_rows, unit="images") as advance:
        for features_BD in among.iterate():
            index = index or Index(ndim=features_BD.shape[1], metric="ip", dtype="f16")
            index.add(np.arange(first, first + len(features_BD), dtype=np.uint64), features_BD.astype(np.float16))
            first += len(features_BD)
            advance(len(features_BD))
    assert index is not None, "labels without images are refused before"
    with replace_file(path) as unfinished:
        index.save(str(unfinished))
    say(f"index of {first:,} images: {path}")


def _damaged(path: Path) -> str:
    return f"{path} is no whole index of these features: delete it, and the next search makes it again"
