"""Find near copies and outliers among labelled images by their kept features, each compared with all (`ecor copies`).

The output folder is published whole; the record is written last:

copies.parquet    every image that has a near copy, with its group
outliers.parquet  the images farthest from all others
index.html        the page: groups side by side
copies.json       counts, settings and digests
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float16

from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.storage import filesystem
from pipelines.config.identity import output_settings
from pipelines.config.reporting import CopiesConfig
from pipelines.reporting.html_page import Fact
from pipelines.reporting.search.copy_groups import (
    KINDS,
    CopyCounts,
    CopyGroup,
    copies_table,
    describe_counts,
    make_groups,
    outliers_table,
)
from pipelines.reporting.search.feature_folders import (
    FeatureFolders,
    LabelledImage,
    balance_images,
    open_feature_folders,
)
from pipelines.reporting.search.neighbours import Neighbours, find_neighbours
from pipelines.reporting.search.picture_page import PictureGroup, ShownImage, draw_page
from pipelines.reporting.search.result_folder import (
    PAGE_NAME,
    find_result,
    new_result_folder,
    publish_result,
    say_recorded_balance,
)
from pipelines.runtime.console import progress_bar, say

RECORD_NAME, COPIES_NAME, OUTLIERS_NAME = "copies.json", "copies.parquet", "outliers.parquet"
Outliers = list[tuple[float, LabelledImage]]


def run(config: CopiesConfig) -> dict[str, Any]:
    """Compare all images, write the result, and print the counts; a finished result is returned as it is.

    Returns:
        The record `copies.json`.

    Raises:
        ValueError: for labels without kept features, a damaged file, folders with features of different image sides,
            and an output folder that holds something else.
    """
    among = open_feature_folders(config.labels, feature=config.feature)
    digests = [each.features.digest for each in among.kept]
    identity = {"features_digests": digests, **output_settings(config)}
    record = find_result(config.output, name=RECORD_NAME, identity=identity)
    if record is None:
        record = _compare(config, among, identity=identity)
    for line in record["lines"]:
        say(line, to_stdout=True)
    say(f"page: {filesystem.join(config.output, PAGE_NAME)}")
    say_recorded_balance(record)
    return record


def compare_all(among: FeatureFolders, *, scratch: Path, similarity: float, num_nearest: int) -> Neighbours:
    """Compare every image with every other one.

    Args:
        among: the features of N images.
        scratch: an empty local folder, for 2 bytes per number of a feature: 1 kB an image for ViT-B/32.
        similarity: cosine from which two images are near copies.
        num_nearest: images in the mean distance to the nearest.

    Raises:
        ValueError: as `FeatureFolders.iterate`.
    """
    num = among.num_rows
    features_ND = _to_file(among, path=scratch / "features.fp16")
    with progress_bar(f"compare {num:,} images", total=num * (num - 1) // 2, unit="pairs") as advance:
        return find_neighbours(features_ND, similarity=similarity, num_nearest=num_nearest, advance=advance)


def _to_file(among: FeatureFolders, *, path: Path) -> Float16[np.ndarray, "N D"]:
    """All features, mapped from one file."""
    dim = 0
    with path.open("wb") as file:
        for features_BD in among.iterate():
            dim = features_BD.shape[1]
            file.write(features_BD.astype(np.float16).tobytes())
    return np.memmap(path, dtype=np.float16, mode="r", shape=(among.num_rows, dim))


def _compare(config: CopiesConfig, among: FeatureFolders, *, identity: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as features, new_result_folder() as scratch:
        nearest = compare_all(
            among, scratch=Path(features), similarity=config.similarity, num_nearest=config.num_nearest
        )
        groups, outliers = make_groups(nearest, among), _outliers(nearest, among, number=config.num_outliers)
        counts = CopyCounts.of(groups, num_images=among.num_rows, num_pairs=nearest.num_pairs)
        lines = describe_counts(counts, similarity=config.similarity, num_rejected=among.num_rejected)
        num_copies, num_compared = counts.num_members - counts.num_groups, len(nearest.mean_distance)
        balance = balance_images("copies", among, num_taken=num_compared - num_copies, num_copies=num_copies)
        record = {
            "stage": "copies",
            "identity": identity,
            "counts": asdict(counts),
            "balance": balance.to_record(),
            "lines": lines,
        }
        pq.write_table(copies_table(groups), scratch / COPIES_NAME, **PARQUET_OPTIONS)
        pq.write_table(outliers_table(outliers), scratch / OUTLIERS_NAME, **PARQUET_OPTIONS)
        page = _page(config, groups, outliers, among=among, lines=lines)
        (scratch / PAGE_NAME).write_text(page, encoding="utf-8")
        publish_result(scratch, config.output, name=RECORD_NAME, record=record)
    return record


def _outliers(nearest: Neighbours, among: FeatureFolders, *, number: int) -> Outliers:
    """Images with the largest mean distance to their nearest, the farthest first."""
    order = np.argsort(-nearest.mean_distance, kind="stable")[: number if among.num_rows > 1 else 0]
    return list(zip(nearest.mean_distance[order].tolist(), among.read_images(order.tolist()), strict=True))


def _page(
    config: CopiesConfig,
    groups: Sequence[CopyGroup],
    outliers: Outliers,
    *,
    among: FeatureFolders,
    lines: Sequence[str],
) -> str:
    room = max(0, config.max_images - len(outliers))
    shown = [*_copy_sections(groups, room=room), *_outlier_section(outliers, num_nearest=config.num_nearest)]
    side = among.kept[0].features.image_side
    return draw_page(
        shown,
        title="Near copies and outliers",
        sentence=f"{among.num_rows:,} labelled images were compared with each other.",
        words=lines,
        facts=[
            *_label_facts(among),
            Fact(label="Near copies", value=f"cosine {config.similarity:.6g} or more", note=config.feature),
            Fact(label="Image side", value=f"{side.digest[:12]}…", note=side.precision),
        ],
        among=among,
        max_images=config.max_images,
        size_px=config.thumbnail_px,
    )


def _label_facts(among: FeatureFolders) -> Iterator[Fact]:
    for address, each in zip(among.addresses, among.kept, strict=True):
        yield Fact(label="Labels", value=address, note=f"{each.labels.num_rows:,} of {each.labels.parents.input}")


def _copy_sections(groups: Sequence[CopyGroup], *, room: int) -> Iterator[PictureGroup]:
    """Groups that fit, those across splits first, then the largest."""
    left = room
    for group in sorted(groups, key=lambda each: (not each.crosses_splits, each.number)):
        if left <= 0:
            return
        splits = f" Across the splits {', '.join(group.splits)}." if len(group.splits) > 1 else ""
        cut = f" {left:,} are shown." if len(group.members) > left else ""
        yield PictureGroup(
            title=f"Group {group.number}",
            note=f"{len(group.members):,} images.{splits}{cut}",
            images=tuple(
                ShownImage(
                    image=each.image,
                    figure=f"{each.similarity:.3f}",
                    figure_words="Cosine similarity with the nearest image",
                    notes=tuple(filter(None, (each.split, KINDS[each.kind]))),
                )
                for each in group.members[:left]
            ),
        )
        left -= len(group.members)


def _outlier_section(outliers: Outliers, *, num_nearest: int) -> Iterator[PictureGroup]:
    if outliers:
        yield PictureGroup(
            title="Outliers",
            note=f"Mean distance (1 less the cosine) to the {num_nearest} nearest images, the largest first.",
            images=tuple(
                ShownImage(image=image, figure=f"{each:.3f}", figure_words="Mean distance to the nearest images")
                for each, image in outliers
            ),
        )
