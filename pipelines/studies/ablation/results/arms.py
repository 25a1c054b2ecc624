"""Arms of a study: a loss, or none, with a decoding, and the rows that belong to it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from pipelines.studies.ablation.grid import ALL_METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Loss and decoding of some rows."""

    objective: ObjectiveName | None
    """None: without tuning."""
    decoding: MethodName

    def select(self, rows: pd.DataFrame, *, tokens: str) -> pd.DataFrame:
        """Select its rows, with the wording chosen on validation images.

        Args:
            rows: of a study.
            tokens: kind of tokens that were tuned.
        """
        found = rows[rows["wording_is_chosen"] & (rows["decoding_judged"] == self.decoding)]
        if self.objective is None:
            return found[found["objective"].isna() & (found["decoding"] == self.decoding)]
        return found[(found["objective"] == self.objective) & (found["tokens"] == tokens)]


DEFAULT = "joint, tuned"
ARMS: Mapping[str, Arm] = {
    **{f"{decoding}, tuned": Arm(objective=loss, decoding=decoding) for decoding, loss in ALL_METHODS.items()},
    "joint's tokens, decoded pooled": Arm(objective="two_term", decoding="pooled"),
    "pooled's tokens, decoded jointly": Arm(objective="three_term", decoding="joint"),
    **{f"{decoding}, zero-shot": Arm(objective=None, decoding=decoding) for decoding in ALL_METHODS},
}
