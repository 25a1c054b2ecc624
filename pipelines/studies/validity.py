"""Measure what the small CLIP knows of each set of a drawn world, as a Markdown table."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ecor.config.checks import require
from ecor.demo.tiny_clip import create_clip, weights_path
from ecor.demo.worlds.registry import get_world
from ecor.demo.zero_shot_eval import SetValidity, Share, measure_validity
from pipelines.config.studies import ValidityConfig
from pipelines.studies.markdown import table_row

_HEADER = (
    "set",
    "categories",
    "rationales",
    "zero-shot, best template",
    "linear probe",
    "labelled rationale first",
    "a visible one first (chance)",
    "composition",
    "separate argmaxes untrue",
    "… never together",
    "best part mIoU, 8 x 8",
)


def run(config: ValidityConfig) -> None:
    """Print the table, row by row.

    Raises:
        ValueError: for an unknown set, for weights that are no file, and when a world without embedded weights is
            given none.
    """
    sets = get_world(config.world).sets
    unknown = set(config.sets) - set(sets)
    require(not unknown, f"no {', '.join(sorted(unknown))} in the world {config.world}: choose among {', '.join(sets)}")
    require(
        config.weights is not None or config.world == "demo",
        f"no weights come with the world {config.world}: make some with `ecor pretrain --world {config.world}` and "
        "name them with --weights",
    )
    weights = Path(config.weights) if config.weights else weights_path()
    require(weights.is_file(), f"{weights} is no file: name the weights.safetensors that `ecor pretrain` wrote")
    torch.set_num_threads(config.num_threads)
    clip = create_clip(weights=weights)
    _print_row(_HEADER)
    _print_row(["---"] * len(_HEADER))
    for set_name in config.sets or sets:
        sizes = {"num_train": config.num_train, "num_images": config.num_images}
        _print_row(_table_row(measure_validity(clip, set_name=set_name, seed=config.seed, **sizes)))


def _table_row(found: SetValidity) -> list[str]:
    chance = found.mean_visible / found.num_rationales
    return [
        found.set_name,
        str(found.num_categories),
        str(found.num_rationales),
        f"{_format_share(found.zero_shot)} `{found.template}`",
        _format_share(found.probe),
        _format_share(found.labelled_first),
        f"{_format_share(found.visible_first)} ({100 * chance:.1f})",
        _format_share(found.composition),
        _format_share(found.untrue),
        _format_share(found.misfit),
        f"{100 * found.best_part_iou:.1f}",
    ]


def _format_share(share: Share) -> str:
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _print_row(cells: Sequence[str]) -> None:
    print(table_row(cells), flush=True)  # noqa: T201
