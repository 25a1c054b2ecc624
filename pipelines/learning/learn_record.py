"""The record of `ecor learn`: from which decisions a model was tuned, and whether it was promoted."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ecor.config.checks import parse_record, require
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from pipelines.learning.contest import ContestResult
from pipelines.runtime.balance import Balance

LEARNED_NAME = "learned.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What `ecor learn` made of a set of decisions."""

    labels_digest: str
    corrections_digest: str
    """sha256 of the reviewed images and what was said of them."""
    initial_model: str
    """Where tuning started: `models:/<name>/<version>`, or the folder of a checkpoint."""
    initial_digest: str
    outcome: ContestResult
    num_train: int
    """Images learned from, with category and rationale."""
    num_validation: int
    new_names: tuple[str, ...]
    """Categories and rationales that reviewers have added."""
    balance: Mapping[str, Any]
    """What became of all reviewed images (`pipelines.runtime.balance`)."""

    @property
    def digest(self) -> str:
        return json_digest(asdict(self))

    def describe(self) -> str:
        """One line for the terminal."""
        found = self.outcome
        gap = f"{100 * found.difference:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        verdict = f"{found.candidate} is promoted" if found.is_promoted else f"{found.champion} stays"
        return (
            f"learned from {self.num_train} reviewed images: RR {100 * found.rr:.1f} %, the champion's "
            f"{100 * found.champion_rr:.1f} % ({gap}) on {found.num_held_out} held-out images; {verdict}"
        )

    def describe_balance(self) -> str:
        return Balance.from_record(self.balance).line()


def write_learned(learned: Learned, folder: str) -> None:
    """Write the record, the last step of the command."""
    filesystem.write_json(filesystem.join(folder, LEARNED_NAME), {**asdict(learned), "digest": learned.digest})


def find_learned(folder: str) -> Learned | None:
    """Read the record; None where there is none. ValueError for one that was altered by hand."""
    path = filesystem.join(folder, LEARNED_NAME)
    try:
        values = json.loads(filesystem.read(path))
        digest = values.pop("digest")
        made = {
            "outcome": parse_record(ContestResult, values.pop("outcome")),
            "new_names": tuple(values.pop("new_names")),
        }
        learned = parse_record(Learned, {**values, **made})
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no record of `ecor learn` ({error}): name another --output") from error
    require(learned.digest == digest, f"{path} was altered: it says {digest}, its content has {learned.digest}")
    return learned
