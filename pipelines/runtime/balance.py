"""Account for everything that a stage listed: taken, a copy, rejected or left out, and nothing else."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.console import say

_KINDS_NAMED = 5
"""Kinds that a line names; records and metrics have all."""
_KINDS_LOGGED = 50
"""Kinds that are metrics of their own in MLflow; suffixes of a folder can be without number."""
_KIND_LENGTH = 60
_NO_METRIC = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What became of all that a stage listed; the numbers come from separate counts, so they can disagree.

    Raises ValueError when they do: something was lost, or counted twice.
    """

    stage: str
    num_listed: int
    num_taken: int
    """Used as the stage uses images: written, learned from, labelled, evaluated, shown."""
    num_copies: int = 0
    """Merged with another one of the same content."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason, as in the quarantine table."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By kind; `docs/bad-input.md` lists the kinds of each stage."""

    def __post_init__(self) -> None:
        for name in ("rejected", "left_out"):
            found = {kind: number for kind, number in sorted(getattr(self, name).items()) if number}
            object.__setattr__(self, name, found)
        numbers = (self.num_listed, self.num_taken, self.num_copies, *self.rejected.values(), *self.left_out.values())
        if (
            min(numbers) < 0
            or self.num_listed != self.num_taken + self.num_copies + self.num_rejected + self.num_left_out
        ):
            raise ValueError(
                f"{self.line().replace(' = ', ' is not ')}: something was lost or counted twice. If the input changed "
                "meanwhile, run again, with --fresh where the stage has it; else report this as a fault"
            )

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def num_left_out(self) -> int:
        return sum(self.left_out.values())

    def line(self) -> str:
        """`score: 13 listed = 9 taken + 0 copies + 1 rejected (1 truncated) + 3 left out (2 .heic, 1 hidden)`."""
        return (
            f"{self.stage}: {self.num_listed} listed = {self.num_taken} taken + {self.num_copies} copies + "
            f"{self.num_rejected} rejected{_in_brackets(self.rejected)} + {self.num_left_out} left out"
            f"{_in_brackets(self.left_out)}"
        )

    def to_record(self) -> dict[str, Any]:
        """For a summary in JSON."""
        return {
            "stage": self.stage,
            "listed": self.num_listed,
            "taken": self.num_taken,
            "copies": self.num_copies,
            "rejected": dict(self.rejected),
            "left_out": dict(self.left_out),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Balance":
        """Read what `to_record` wrote; ValueError when it does not balance."""
        return cls(
            stage=record["stage"],
            num_listed=record["listed"],
            num_taken=record["taken"],
            num_copies=record["copies"],
            rejected=record["rejected"],
            left_out=record["left_out"],
        )

    def metrics(self, *, within: str = "") -> dict[str, int]:
        """For MLflow: `balance/listed`, `/taken`, `/copies`, `/rejected`, `/left_out`, and the most frequent kinds as
        `/rejected_of/<reason>` and `/left_out_of/<kind>`; all others are `other`.

        MLflow's file store makes a folder of what stands before a `/`, so no name is the beginning of another.

        Args:
            within: what stands before `balance/`, in the run of another stage; `audit/` for example.
        """
        place = f"{within}balance"
        found = {
            f"{place}/listed": self.num_listed,
            f"{place}/taken": self.num_taken,
            f"{place}/copies": self.num_copies,
            f"{place}/rejected": self.num_rejected,
            f"{place}/left_out": self.num_left_out,
        }
        for name, kinds in (("rejected", self.rejected), ("left_out", self.left_out)):
            ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
            for rank, (kind, number) in enumerate(ordered):
                word = _NO_METRIC.sub("_", kind)[:_KIND_LENGTH] if rank < _KINDS_LOGGED else "other"
                key = f"{place}/{name}_of/{word if word.strip('.') else '_'}"
                found[key] = found.get(key, 0) + number
        return found


def add_balances(stage: str, balances: Iterable[Balance]) -> Balance:
    """The balance of several inputs together."""
    each = tuple(balances)
    return Balance(
        stage=stage,
        num_listed=sum(one.num_listed for one in each),
        num_taken=sum(one.num_taken for one in each),
        num_copies=sum(one.num_copies for one in each),
        rejected=add_counts(one.rejected for one in each),
        left_out=add_counts(one.left_out for one in each),
    )


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by kind."""
    total: dict[str, int] = {}
    for each in counts:
        for kind, number in each.items():
            total[kind] = total.get(kind, 0) + number
    return total


def say_balance(balance: Balance) -> None:
    """Print the line with which a stage ends."""
    say(balance.line())


def say_multipicture(number: int) -> None:
    """Print a line on files with several pictures (animations, pages), if there are any."""
    if number:
        files = (
            "1 file holds several pictures: its first"
            if number == 1
            else (f"{number} files hold several pictures: the first of each")
        )
        say(f"{files} is taken")


def _in_brackets(kinds: Mapping[str, int]) -> str:
    """The most frequent kinds with their numbers."""
    if not kinds:
        return ""
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{number} {_shown(kind)}" for kind, number in ordered[:_KINDS_NAMED]]
    more = len(ordered) - _KINDS_NAMED
    return f" ({', '.join(named)}{f' and {more} kinds more' if more > 0 else ''})"


def _shown(kind: str) -> str:
    """A kind may be the end of a file name, which can hold anything."""
    text = kind[:_KIND_LENGTH].replace("_", " ")
    return text if text.isprintable() else ascii(text)
