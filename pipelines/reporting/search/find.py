"""Find labelled images by a sentence or a picture: an exact pass over their features, or an index (`ecor find`).

The output folder is published whole; the record is written last:

found.parquet  per search, the most similar images, best first
index.html     the page
find.json      searches, settings and digests
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.model import Recognizer
from ecor.storage import filesystem
from pipelines.config.identity import output_settings
from pipelines.config.reporting import FindConfig
from pipelines.reporting.html_page import Fact
from pipelines.reporting.search.feature_folders import (
    FeatureFolders,
    LabelledImage,
    balance_images,
    open_feature_folders,
    without_feature,
)
from pipelines.reporting.search.feature_index import search_index
from pipelines.reporting.search.picture_page import PictureGroup, ShownImage, draw_page
from pipelines.reporting.search.queries import Query, encode_queries
from pipelines.reporting.search.result_folder import (
    PAGE_NAME,
    find_result,
    new_result_folder,
    publish_result,
    say_recorded_balance,
)
from pipelines.reporting.search.top_k import TopK
from pipelines.runtime.console import progress_bar, say

RECORD_NAME, TABLE_NAME = "find.json", "found.parquet"
_NUM_PRINTED = 3
_NOUNS = {"text": "sentence", "image": "picture"}
FOUND_SCHEMA = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
    ],
    metadata={"ecor.schema": "found", "ecor.schema_version": "1"},
)
"""One row per search and image; `rank` begins with 1, `similarity` is the cosine, `kind` is text or image."""
Found = list[tuple[Query, list[tuple[float, LabelledImage]]]]


def run(config: FindConfig, *, open_model: Callable[..., Recognizer]) -> dict[str, Any]:
    """Search, write the result, and print the best; a finished search is returned as it is.

    Args:
        config: what to search for, and where.
        open_model: loads a model by its address, with the keyword `precision`.

    Returns:
        The record `find.json`.

    Raises:
        ValueError: for labels without kept features, a damaged file, a model with another image side, a sentence or a
            picture that cannot be encoded, and an output folder that holds something else.
    """
    among = open_feature_folders([config.labels], feature=config.feature)
    identity = {"features_digest": among.kept[0].features.digest, **output_settings(config)}
    record = find_result(config.output, name=RECORD_NAME, identity=identity)
    if record is None:
        record = _search(config, among, open_model=open_model, identity=identity)
    for line in record["lines"]:
        say(line, to_stdout=True)
    say(f"page: {filesystem.join(config.output, PAGE_NAME)}")
    say_recorded_balance(record)
    return record


def search(among: FeatureFolders, queries: Sequence[Query], *, top: int) -> TopK:
    """The images most similar to each query, exactly: one pass, one unit of work in memory at a time.

    Args:
        among: the features of N images.
        queries: Q searches.
        top: images per search.

    Raises:
        ValueError: as `FeatureFolders.iterate`.
    """
    found, first = TopK(len(queries), top), 0
    queries_QD = np.stack([each.feature for each in queries])
    with progress_bar("search", total=among.num_rows, unit="images") as advance:
        for features_BD in among.iterate():
            found.add(queries_QD @ features_BD.T, first=first)
            first += len(features_BD)
            advance(len(features_BD))
    return found


def _search(
    config: FindConfig, among: FeatureFolders, *, open_model: Callable[..., Recognizer], identity: dict[str, Any]
) -> dict[str, Any]:
    kept = among.kept[0]
    address = config.model or kept.labels.parents.pinned_model
    model = open_model(address, precision=kept.features.image_side.precision)
    kept.require_image_side(model.image_side, model=address)
    queries = encode_queries(model, texts=config.text, images=config.image, feature=config.feature)
    if config.index is None:
        best = search(among, queries, top=config.top)
    else:
        best = search_index(among, queries, top=config.top, folder=Path(config.index))
    found = []
    for index, query in enumerate(queries):
        similarity, numbers = best.of(index)
        found.append((query, list(zip(similarity.tolist(), among.read_images(numbers.tolist()), strict=True))))
    record = {
        "stage": "find",
        "identity": identity,
        "model": address,
        "balance": balance_images("find", among, num_taken=best.num_seen).to_record(),
        "lines": _lines(found, among=among),
    }
    with new_result_folder() as scratch:
        pq.write_table(_table(found), scratch / TABLE_NAME, **PARQUET_OPTIONS)
        page = _page(config, found, among=among, model=address)
        (scratch / PAGE_NAME).write_text(page, encoding="utf-8")
        publish_result(scratch, config.output, name=RECORD_NAME, record=record)
    return record


def _lines(found: Found, *, among: FeatureFolders) -> list[str]:
    """The result for the terminal."""
    lines = [f"{among.num_rows:,} images searched{without_feature(among.num_rejected)}"]
    for query, images in found:
        lines.append(f"{query.name}:")
        lines += [
            f"  {rank}. {similarity:.3f}  {image.source}  ({image.category} because of {image.rationale})"
            for rank, (similarity, image) in enumerate(images[:_NUM_PRINTED], start=1)
        ]
    return lines


def _table(found: Found) -> pa.Table:
    shown = ("key", "source", "category", "rationale", "confidence")
    rows = [
        {
            "query": query.name,
            "kind": query.kind,
            "rank": rank,
            "similarity": similarity,
            **{name: getattr(image, name) for name in shown},
        }
        for query, images in found
        for rank, (similarity, image) in enumerate(images, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=FOUND_SCHEMA)


def _page(config: FindConfig, found: Found, *, among: FeatureFolders, model: str) -> str:
    per_search = -(-config.max_images // len(found))
    groups = [
        PictureGroup(
            title=query.name,
            note=f"The {len(images[:per_search]):,} most similar images to this {_NOUNS[query.kind]}; the table has "
            f"{len(images):,}.",
            images=tuple(
                ShownImage(image=image, figure=f"{each:.3f}", figure_words="Cosine similarity", notes=(f"{rank}.",))
                for rank, (each, image) in enumerate(images[:per_search], start=1)
            ),
        )
        for query, images in found
    ]
    side = among.kept[0].features.image_side
    return draw_page(
        groups,
        title="Found images",
        sentence=f"{among.num_rows:,} images searched{without_feature(among.num_rejected)}.",
        words=[],
        facts=[
            Fact(label="Labels", value=config.labels),
            Fact(label="Model", value=model, note=f"image side {side.digest[:12]}…, {side.precision}"),
            Fact(label="Feature", value=config.feature),
        ],
        among=among,
        max_images=config.max_images,
        size_px=config.thumbnail_px,
    )
