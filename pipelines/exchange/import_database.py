"""Find labels by key or by image, and decisions that are logged already, in a temporary database on disk."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from pipelines.exchange.image_placement import file_stem
from pipelines.review.decision import Decision, LabelBefore, format_time
from pipelines.review.decision_log import LoggedDecision
from pipelines.review.decision_set import DecisionSet
from pipelines.review.decision_table import iterate_decisions

_COLUMNS = ("key", "source", "category", "rationale", "confidence")


class ImportDatabase:
    """The labels of one folder, and the decisions of one set about them."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def add_labels(self, labels: str, predictions: PredictionSet) -> None:
        """Read all labels, one part in memory at a time."""
        self._database.execute(
            "CREATE TABLE labels (key TEXT PRIMARY KEY, source TEXT, stem TEXT, category TEXT, rationale TEXT, "
            "confidence REAL) WITHOUT ROWID"
        )
        for part in predictions.parts:
            table = read_part(labels, part, columns=_COLUMNS)
            rows = zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)
            self._database.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)",
                ((key, source, file_stem(key), *label) for key, source, *label in rows),
            )
        self._database.execute("CREATE INDEX by_stem ON labels (stem)")
        self._database.execute("CREATE INDEX by_source ON labels (source)")

    def add_decisions(self, decisions: DecisionSet | None) -> None:
        """Read all logs of a decision set; None: there are no decisions yet."""
        self._database.execute("CREATE TABLE logged (key TEXT, reviewer TEXT, time TEXT, outcome TEXT)")
        self._database.execute("CREATE TABLE counting (key TEXT, reviewer TEXT, outcome TEXT)")
        self._database.execute("CREATE INDEX by_time ON logged (key, reviewer, time)")
        self._database.execute("CREATE INDEX by_reviewer ON counting (key, reviewer)")
        if decisions is None:
            return
        self._database.executemany(
            "INSERT INTO logged VALUES (?, ?, ?, ?)",
            (
                (each.decision.key, each.decision.reviewer, format_time(each.decision.time), _outcome(each.decision))
                for each in decisions.iterate_logs()
                if isinstance(each, LoggedDecision)
            ),
        )
        self._database.executemany(
            "INSERT INTO counting VALUES (?, ?, ?)",
            (
                (each.decision.key, each.decision.reviewer, _outcome(each.decision))
                for group in iterate_decisions(decisions)
                for each in group
            ),
        )

    def find_key(self, key: str | None, *, image: str | None) -> str | None:
        """The key of a label by what a tool has kept: the key, or else its name of the image. None: no such label.

        An image is found by the name that `ecor export` gave its file, in any folder, or by its source.
        """
        for each in (key, None if key is None else key.removeprefix("'")):
            if each is not None and self.find(each) is not None:
                return each
        if image is None or key is not None:
            return None
        name = unquote(image)
        stem = name.rpartition("/")[2].rpartition(".")[0]
        by_source = "SELECT key FROM labels WHERE source = ? LIMIT 2"
        return (
            self._only("SELECT key FROM labels WHERE stem = ? LIMIT 2", stem)
            or self._only(by_source, image)
            or self._only(by_source, name)
        )

    def find(self, key: str) -> LabelBefore | None:
        """The label of a key, or None."""
        row = self._database.execute(
            "SELECT category, rationale, confidence FROM labels WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else LabelBefore(category=row[0], rationale=row[1], confidence=row[2])

    def is_logged(self, decision: Decision, *, has_own_time: bool) -> bool:
        """Whether a decision is in the set: with the same time or, if the tool gave none, as the one that counts."""
        values: tuple[str, ...] = (decision.key, decision.reviewer, _outcome(decision))
        if has_own_time:
            query = "SELECT 1 FROM logged WHERE key = ? AND reviewer = ? AND outcome = ? AND time = ?"
            values = (*values, format_time(decision.time))
        else:
            query = "SELECT 1 FROM counting WHERE key = ? AND reviewer = ? AND outcome = ?"
        return self._database.execute(query, values).fetchone() is not None

    def _only(self, query: str, value: str) -> str | None:
        found = self._database.execute(query, (value,)).fetchall()
        return found[0][0] if len(found) == 1 else None


class WaitingDecisions:
    """Decisions that are checked and not written yet, on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE waiting (reviewer TEXT, key TEXT, time TEXT, has_time INT, decision TEXT)")
        database.execute("CREATE UNIQUE INDEX once ON waiting (reviewer, key, time)")

    def add(self, decision: Decision, *, has_own_time: bool) -> bool:
        """Keep a decision; returns whether the reviewer has none of this time on this image yet."""
        time = format_time(decision.time) if has_own_time else ""
        done = self._database.execute(
            "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, ?)",
            (decision.reviewer, decision.key, time, has_own_time, decision.to_json()),
        )
        return done.rowcount == 1

    def reviewers(self) -> list[str]:
        """Names of all reviewers."""
        return [name for (name,) in self._database.execute("SELECT DISTINCT reviewer FROM waiting ORDER BY 1")]

    def of(self, reviewer: str) -> Iterator[Decision]:
        """Decisions of a reviewer in the order of the file."""
        rows = self._database.execute("SELECT decision FROM waiting WHERE reviewer = ? ORDER BY rowid", (reviewer,))
        for (text,) in rows:
            yield Decision.from_json(text, where="a waiting decision")


@contextmanager
def open_database(folder: Path) -> Iterator[sqlite3.Connection]:
    """A temporary database; what it holds is lost in a crash, and made anew."""
    with closing(sqlite3.connect(folder / "import.sqlite")) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = OFF")
        yield database


def _outcome(decision: Decision) -> str:
    """What two decisions of a reviewer are compared by: verdict, names and note."""
    return "\0".join((*decision.outcome, "", decision.note))
