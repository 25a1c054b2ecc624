"""Rows of the question `shipped` with made-up figures."""

from dataclasses import asdict, replace

import pandas as pd

from ecor.demo.worlds.registry import all_sets
from pipelines.studies.ablation.grid import SHIPPED, Cell
from pipelines.studies.ablation.selection import ChosenSettings
from pipelines.studies.drawn_splits import Sizes

FIGURES = ("rr", "visible_rr", "accuracy")
CHOSEN = {method: ChosenSettings(learning_rate=0.001, num_tokens=2) for method in SHIPPED.tunings}
SMALL = replace(SHIPPED, roles=("small",), num_repetitions=2)


def made_up_rows(cells: list[Cell], figures: dict[tuple[str | None, str, str], tuple[float, ...]]) -> pd.DataFrame:
    """Rows whose figures depend on loss, decoding and split; 0.3 where none are given. One repetition is better."""
    rows = []
    for cell in cells:
        for judgement in cell.judgements:
            told = {name: value for name, value in asdict(cell).items() if name != "judgements"}
            judged = {name: value for name, value in asdict(judgement).items() if name != "decoding"}
            found = figures.get((cell.objective, judgement.decoding, judgement.split), (0.3, 0.3, 0.3))
            shift = 0.02 * (cell.seed == SHIPPED.first_seed)
            figures_ = {name: value + shift for name, value in zip(FIGURES, found, strict=True)}
            parts = {f"{name}_{number}": value for name, value in figures_.items() for number in ("one", "two")}
            size = cell.num_categories or len(all_sets()[cell.set_name].categories)
            rows.append(
                {**told, **judged, **figures_, **parts}
                | {"cell": cell.digest_of(asdict(Sizes())), "judgement": judgement.name, "num_images": 600}
                | {
                    "decoding_judged": judgement.decoding,
                    "num_categories": size,
                    "wording": 0,
                    "wording_is_chosen": True,
                }
                | {"tuning_s": 3.0}
            )
    return pd.DataFrame(rows)
