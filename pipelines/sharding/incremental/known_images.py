"""Decide, with the record of earlier shards, which listed images need no reading, and which keep their split.

Listing and record are joined as Arrow columns in the driver's memory.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config.stages import SinceCheck
from pipelines.runtime.console import say
from pipelines.sharding.flows.flow import Rows
from pipelines.sharding.incremental.earlier_shards import EarlierShards
from pipelines.sharding.inspection import CONTENT_FACTS, KNOWN_SCHEMA

_CONTENT = ("sha256", *CONTENT_FACTS)
_CONTENT_AND_SPLIT = ("source", "sha256", "split")


def add_known_contents(listing: pa.Table, *, earlier: EarlierShards, check: SinceCheck) -> pa.Table:
    """A listing with the columns of KNOWN_SCHEMA: the content of each image, and whether it surely still has it.

    Args:
        listing: rows of LISTING_SCHEMA.
        earlier: the earlier shards.
        check: with "time", an image of the same size and time has the same content; with "content" all are read.
    """
    position = pc.index_in(listing["source"], value_set=earlier.record["source"], skip_nulls=True)
    before = earlier.record.take(position)
    same = pc.fill_null(pc.equal(listing["state"], before["state"]), False)
    if check == "content":
        same = pc.and_(same, False)
    columns = [*(before[name] for name in _CONTENT), same]
    for field, column in zip(KNOWN_SCHEMA, columns, strict=True):
        listing = listing.append_column(field, column)
    return listing


def find_held_splits(found: Rows, *, earlier: EarlierShards) -> dict[str, str]:
    """Split by sha256, for contents of the earlier shards that images in several splits have now.

    Such a content stays in its split, whatever the input says of a new copy: a model may have been trained on it.

    Args:
        found: rows of INSPECTED_SCHEMA.
        earlier: the earlier shards.

    Raises:
        ValueError: when the images of an earlier content are all in another split now.
    """
    now = found.map_tables(_valid_contents).to_table()
    staying = earlier.record.filter(pc.is_valid(earlier.record["sample_digest"]))
    position = pc.index_in(now["sha256"], value_set=staying["sha256"], skip_nulls=True)
    now = now.append_column("before", staying["split"].take(position)).filter(pc.is_valid(position))
    elsewhere = now.filter(pc.not_equal(now["split"], now["before"]))
    if not elsewhere.num_rows:
        return {}
    at_home = now.filter(pc.equal(now["split"], now["before"]))
    moved = elsewhere.filter(pc.invert(pc.is_in(elsewhere["sha256"], value_set=at_home["sha256"]))).sort_by("source")
    if moved.num_rows:
        first = moved.slice(0, 1).to_pylist()[0]
        raise ValueError(
            f"{moved.num_rows} images have another split than in {earlier.folder} (the first is {first['source']}: "
            f"{first['before']}, now {first['split']}), and a model may have been trained on them: put them back, or "
            "shard all images without --since and train again"
        )
    _say_copies(elsewhere, earlier=earlier)
    return dict(zip(elsewhere["sha256"].to_pylist(), elsewhere["before"].to_pylist(), strict=True))


def _say_copies(elsewhere: pa.Table, *, earlier: EarlierShards) -> None:
    """A line for the new images that are left out because another split has their content."""
    is_new = pc.invert(pc.is_in(elsewhere["source"], value_set=earlier.record["source"]))
    pairs = elsewhere.filter(is_new).select(["split", "before"]).to_pylist()
    if pairs:
        counts = Counter((row["split"], row["before"]) for row in pairs)
        named = ", ".join(f"{number} of {now} in {then}" for (now, then), number in sorted(counts.items()))
        say(f"left out {len(pairs)} new images whose content {earlier.folder} has in another split: {named}")


def _valid_contents(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["reason"])).select(_CONTENT_AND_SPLIT)
