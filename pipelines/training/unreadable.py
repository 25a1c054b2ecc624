"""Count, name and report the images that a training run cannot read, on all ranks."""

from collections.abc import Container, Iterable, Mapping

from ecor.config.checks import require
from ecor.training.distributed import Rank

MOST_NAMED = 20
"""Number of unreadable images that are reported by name; all are counted."""


def merge_reasons(found: Iterable[Mapping[str, str]], *, before: Mapping[str, str]) -> dict[str, str]:
    """Merge the reasons why images could not be read; a reason replaces an empty one.

    Args:
        found: reasons by source, one mapping per rank.
        before: reasons by source of the run so far.

    Returns:
        At most `MOST_NAMED` reasons by source, those of `before` first.
    """
    named = dict(before)
    for reasons in found:
        named.update({source: reason for source, reason in reasons.items() if not named.get(source)})
    kept = [*before, *sorted(named.keys() - before.keys())][:MOST_NAMED]
    return {source: named[source] for source in kept}


def check_unreadable(
    num_unreadable: int, *, num_images: int, reasons: Mapping[str, str], max_rejected: float, rank: Rank
) -> int:
    """Count the unreadable images of all ranks; every rank must call.

    Args:
        num_unreadable: number on this rank.
        num_images: number of images for all ranks to read.
        reasons: reasons by source; the first are named in the error.
        max_rejected: largest share that is allowed.
        rank: this worker.

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
    """Format a line for each image that was not reported before."""
    lines = [
        f"cannot read {source}" + (f": {reason}" if reason else " (found when its features were made)")
        for source, reason in reasons.items()
        if source not in reported
    ]
    is_full = len(lines) and len(reasons) == MOST_NAMED
    return [*lines, "further images that cannot be read are only counted"] if is_full else lines
