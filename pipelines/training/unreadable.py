"""Count, name and report the images that a training run cannot read, on all ranks."""

from collections.abc import Container, Iterable, Mapping

from ecor.config import require
from ecor.training.distributed import Rank

MOST_NAMED = 20
"""Unreadable images that are reported by name; all are counted."""


def merge_reasons(found: Iterable[Mapping[str, str]], *, before: Mapping[str, str]) -> dict[str, str]:
    """Reasons by source, of all ranks and of the run so far: at most `MOST_NAMED`; a reason replaces an empty one."""
    named = dict(before)
    for reasons in found:
        named.update({source: reason for source, reason in reasons.items() if not named.get(source)})
    kept = [*before, *sorted(named.keys() - before.keys())][:MOST_NAMED]
    return {source: named[source] for source in kept}


def check_unreadable(
    num_unreadable: int, *, num_images: int, reasons: Mapping[str, str], max_rejected: float, rank: Rank
) -> int:
    """The number of unreadable images on all ranks; every rank must call.

    Args:
        num_unreadable: on this rank.
        num_images: that all ranks were to read.
        reasons: by source; the first are named in the error.
        max_rejected: largest share that is allowed.
        rank: of this worker.

    Raises:
        ValueError: when the share is larger.
    """
    total = sum(rank.all_gather(num_unreadable))
    first = ", ".join(list(reasons)[:3]) + (", …" if len(reasons) > 3 else "")
    require(
        total <= max_rejected * num_images,
        f"{total} of {num_images} images cannot be read ({first}), more than max_rejected = {max_rejected}: shard them "
        f"with --validate decode, or allow more",
    )
    return total


def unreadable_lines(reasons: Mapping[str, str], *, reported: Container[str]) -> list[str]:
    """A line for each image that was not reported before."""
    lines = [
        f"cannot read {source}" + (f": {reason}" if reason else " (found when its features were made)")
        for source, reason in reasons.items()
        if source not in reported
    ]
    is_full = len(lines) and len(reasons) == MOST_NAMED
    return [*lines, "further images that cannot be read are only counted"] if is_full else lines
