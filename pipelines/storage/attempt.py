"""An attempt at a unit of work: the right to commit it, until another job takes it over."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A claim: the right to commit a unit, until it is taken over."""

    unit: str
    number: int
    """Grows with every claim of the unit."""
    owner: str
    """The job that works on it."""
    took_over: bool
    """Whether another job's claim ended without a commit."""

    @property
    def name(self) -> str:
        """Unique name of the attempt, for its files."""
        return f"{self.number}-{self.owner}"

    def to_json(self) -> str:
        """The attempt as it travels with its unit from actor to actor."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Attempt":
        """The attempt that `to_json` was of."""
        return cls(**json.loads(text))
