"""Count the input of a pipeline by its own listing, without reading an image, and draw a sample of it."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import name_some, require
from ecor.data.vocabulary import read_vocabulary
from pipelines.config.infrastructure import absolute_address
from pipelines.config.pipeline_file import PipelineConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring.inputs import read_input
from pipelines.scoring.work_units import Listed, ListingUnit
from pipelines.sharding.flows.local_flow import LocalFlow, list_few, local_flow
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.scan import Scan, scan_listing
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.sources.source_places import Source
from pipelines.stages.planning.estimates import Spent, Stopwatch
from pipelines.stages.shard import plan_shards
from pipelines.storage.image_bytes import path_within

_ALL = sys.maxsize // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInput:
    """The listed input of `shard`."""

    source: Source
    scan: Scan
    job: ShardJob
    flow: LocalFlow
    sample: pa.Table
    """Rows of the listing, drawn at random."""
    num_images: int
    num_bytes: int | None
    """None where the listing has no sizes, as that of a table of images."""
    by_split: Mapping[str, int]
    """Images of each split; where the content of an image decides its split, what the shares give."""
    listing: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """What `score` labels at the end of the pipeline."""

    num_images: int
    files: tuple[Listed, ...]
    """A sample to probe with; none where the images are in shards."""
    is_other: bool
    """They are not of the splits that this pipeline makes."""
    has_truth: bool


def list_shard_input(config: PipelineConfig, *, num_probes: int, seed: int) -> ShardInput:
    """List the input, settle vocabulary and splits, and draw the sample; no image is read.

    Raises:
        ValueError: as `pipelines.stages.shard.run`, for all that is known before an image is read.
        OSError: when a disk or a store fails.
    """
    watch = Stopwatch()
    source = find_source(config.shard)
    place = config.shard.vocabulary or source.vocabulary
    vocabulary = read_vocabulary(place) if place else None
    flow = local_flow(config.cluster)
    listing = list_few(source, flow=flow, most=_ALL)
    assert listing is not None, "no limit"
    scan = scan_listing(listing, source=source)
    job = plan_shards(config.shard, source=source, vocabulary=vocabulary, scan=scan)
    images = listing.table.filter(pc.is_null(listing.table["left_out"])).sort_by("source")
    require(images.num_rows > 0, f"{config.shard.input} holds no image")
    require(
        bool(job.vocabulary.rationales),
        f"{config.shard.input} has no rationale of any category ({name_some(job.vocabulary.categories, most=3)}): name "
        "a vocabulary by shard.vocabulary, or write vocabulary.json beside the images",
    )
    sizes = images["num_bytes"]
    return ShardInput(
        source=source,
        scan=scan,
        job=job,
        flow=flow,
        sample=images.take(draw(images.num_rows, num=num_probes, seed=seed)),
        num_images=images.num_rows,
        num_bytes=None if sizes.null_count else int(pc.sum(sizes).as_py()),
        by_split=count_splits(job, given=Counter(images["split"].to_pylist()), num_images=images.num_rows),
        listing=watch.read(num_images=images.num_rows),
    )


def draw(num_items: int, *, num: int, seed: int) -> list[int]:
    """Positions of a random sample without repetition, in random order; all positions if there are no more."""
    return np.random.default_rng(seed).permutation(num_items)[:num].tolist()


def count_splits(job: ShardJob, *, given: Mapping[str | None, int], num_images: int) -> dict[str, int]:
    """Images per split: those that the input names, and the shares of the others, rounded so that they add up."""
    if not job.given_splits:
        shares = [job.config.split_shares[split] for split in job.splits]
        ends = [round(end * num_images) for end in accumulate(shares)]
        return {split: end - before for split, before, end in zip(job.splits, [0, *ends[:-1]], ends, strict=True)}
    counts = {split: given.get(split, 0) for split in job.splits}
    if job.validation_share:
        moved = round(job.validation_share * counts["train"])
        counts |= {"train": counts["train"] - moved, "validation": moved}
    return counts


def list_score_input(config: ScoreConfig, *, shards: ShardInput, num_probes: int, seed: int) -> ScoreInput:
    """Count the images that the pipeline labels at its end, and draw a sample of them.

    Splits that this pipeline makes are counted in advance.

    Raises:
        ValueError: for settings that read no images, and for a place that is no input.
        OSError: when a disk or a store fails.
    """
    require(
        config.features is None and config.input is not None,
        "a plan is of images: score.features reads none, and takes seconds",
    )
    assert config.input is not None
    split = path_within(absolute_address(config.input), folder=shards.job.output)
    if split is not None:
        require(
            split in shards.by_split,
            f"score.input {config.input} is none of the splits that this pipeline makes: "
            f"{', '.join(sorted(shards.by_split))}",
        )
        return ScoreInput(num_images=shards.by_split[split], files=(), is_other=False, has_truth=True)
    found = read_input(
        config.input,
        unit_size=config.unit_size,
        without=absolute_address(config.output),
        follow_links=config.follow_links,
    )
    files = [file for unit in found.units if isinstance(unit, ListingUnit) for file in unit.files]
    drawn = tuple(files[index] for index in draw(len(files), num=num_probes, seed=seed))
    return ScoreInput(
        num_images=found.num_images,
        files=drawn,
        is_other=True,
        has_truth=not drawn or any(file.category is not None for file in drawn),
    )
