"""What has changed between two sets of labels: label by label, and how often each change occurs.

In memory per label: two ids of names, the confidence and the OOD score, 16 bytes. The names and keys of changed labels
go to a Parquet file, a division of the join at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from ecor.data.predictions.schema import OOD_COLUMN
from pipelines.reporting.drift.label_join import JoinedDivision

_COMPARED = ("category", "rationale", "confidence", OOD_COLUMN.name)
CHANGED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        *(
            pa.field(f"{name}_{side}", pa.string() if name in ("category", "rationale") else pa.float32())
            for name in _COMPARED
            for side in ("before", "after")
        ),
    ],
    metadata={"ecor.schema": "changed_labels", "ecor.schema_version": "1"},
)
"""One row per changed label; `change` is category, rationale (same category), confidence (same category and rationale),
only_before or only_after."""
CHANGES_SCHEMA = pa.schema(
    [
        pa.field("change", pa.string(), nullable=False),
        pa.field("category_before", pa.string(), nullable=False),
        pa.field("rationale_before", pa.string()),
        pa.field("category_after", pa.string(), nullable=False),
        pa.field("rationale_after", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ],
    metadata={"ecor.schema": "changes", "ecor.schema_version": "1"},
)
"""One row per kind of change, the most frequent first; `rationale_before` is null where the category changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """What is compared of one side's labels: those of images in both sets first."""

    category: Int[np.ndarray, " N"]
    """Ids of names that both sides share."""
    rationale: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    ood_score: Float[np.ndarray, " N"]
    """NaN where a label has none."""

    def __len__(self) -> int:
        return len(self.category)

    def first(self, number: int) -> "LabelColumns":
        """The first labels."""
        return LabelColumns(**{name: getattr(self, name)[:number] for name in _COMPARED})


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedLabels:
    """All labels of both sets as arrays; row i of both sides is of the same image for the first `num_common` rows."""

    before: LabelColumns
    after: LabelColumns
    num_common: int
    categories: tuple[str, ...]
    rationales: tuple[str, ...]


@dataclass(slots=True)
class LabelCollector:
    """Collects the divisions of a join as arrays."""

    _names: dict[str, dict[str, int]] = field(default_factory=lambda: {"category": {}, "rationale": {}})
    _columns: dict[str, list[LabelColumns]] = field(default_factory=dict)

    def add(self, division: JoinedDivision) -> None:
        """Add one division."""
        for name in ("common_before", "common_after", "only_before", "only_after"):
            self._columns.setdefault(name, []).append(self._encode(getattr(division, name)))

    def labels(self) -> JoinedLabels:
        """Everything that was added."""
        before, after = (
            _concatenate([*self._columns.get(f"common_{side}", []), *self._columns.get(f"only_{side}", [])])
            for side in ("before", "after")
        )
        return JoinedLabels(
            before=before,
            after=after,
            num_common=sum(map(len, self._columns.get("common_before", []))),
            categories=tuple(self._names["category"]),
            rationales=tuple(self._names["rationale"]),
        )

    def _encode(self, table: pa.Table) -> LabelColumns:
        ids = {name: _name_ids(table[name], names=self._names[name]) for name in ("category", "rationale")}
        values = {
            name: pc.fill_null(table[name], float("nan")).to_numpy().astype(np.float32)
            for name in ("confidence", OOD_COLUMN.name)
        }
        return LabelColumns(**ids, **values)


def changed_rows(division: JoinedDivision, *, confidence_step: float) -> pa.Table:
    """The changed labels of a division, with `CHANGED_SCHEMA`, sorted by key.

    Args:
        division: of a join.
        confidence_step: change of the confidence from which a label of the same pair counts as changed.
    """
    before, after = division.common_before, division.common_after
    differs = {name: pc.not_equal(before[name], after[name]).to_numpy() for name in ("category", "rationale")}
    moved = np.abs(after["confidence"].to_numpy() - before["confidence"].to_numpy()) >= confidence_step
    kinds = np.select(
        [differs["category"], differs["rationale"], moved], ["category", "rationale", "confidence"], default=""
    )
    chosen = pa.array(kinds != "")
    tables = [
        _changed_table(before.filter(chosen), after.filter(chosen), kinds=kinds[kinds != ""].tolist()),
        _changed_table(division.only_before, None, kinds=["only_before"] * division.only_before.num_rows),
        _changed_table(None, division.only_after, kinds=["only_after"] * division.only_after.num_rows),
    ]
    return pa.concat_tables(tables).sort_by("key")


def count_changes(labels: JoinedLabels) -> pa.Table:
    """How often each change of category, or of the rationale of the same category, occurs (`CHANGES_SCHEMA`)."""
    before, after = labels.before.first(labels.num_common), labels.after.first(labels.num_common)
    category = before.category != after.category
    rationale = ~category & (before.rationale != after.rationale)
    rows = _counted(labels, [before.category, after.category, after.rationale], among=category)
    kinds = [
        _changes_table("category", labels, rows, names=("category_before", "category_after", "rationale_after")),
    ]
    rows = _counted(labels, [before.category, before.rationale, after.rationale], among=rationale)
    kinds.append(
        _changes_table("rationale", labels, rows, names=("category_before", "rationale_before", "rationale_after"))
    )
    order = [("count", "descending"), *((name, "ascending") for name in CHANGES_SCHEMA.names[:-1])]
    return pa.concat_tables(kinds).sort_by(order).combine_chunks()


def _counted(labels: JoinedLabels, ids: Sequence[np.ndarray], *, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of ids, [K, 3], and the number of each."""
    sizes = (len(labels.categories) or 1, max(len(labels.categories), len(labels.rationales), 1))
    code = ids[0][among].astype(np.int64)
    for column in ids[1:]:
        code = code * sizes[1] + column[among]
    codes, counts = np.unique(code, return_counts=True)
    rows = np.stack([codes // sizes[1] ** 2, codes // sizes[1] % sizes[1], codes % sizes[1]], axis=1)
    return rows, counts


def _changes_table(
    change: str, labels: JoinedLabels, counted: tuple[np.ndarray, np.ndarray], *, names: Sequence[str]
) -> pa.Table:
    rows, counts = counted
    of = {"category": pa.array(labels.categories, pa.string()), "rationale": pa.array(labels.rationales, pa.string())}
    found = {
        name: of[name.partition("_")[0]].take(pa.array(rows[:, place].astype(np.int64)))
        for place, name in enumerate(names)
    }
    found.setdefault("category_after", found["category_before"])
    found.setdefault("rationale_before", pa.nulls(len(rows), pa.string()))
    columns = {**found, "change": pa.array([change] * len(rows), pa.string()), "count": pa.array(counts, pa.int64())}
    return pa.Table.from_arrays([columns[name] for name in CHANGES_SCHEMA.names], schema=CHANGES_SCHEMA)


def _changed_table(before: pa.Table | None, after: pa.Table | None, *, kinds: Sequence[str]) -> pa.Table:
    side = after if after is not None else before
    assert side is not None
    columns = {"key": side["key"], "source": side["source"], "change": pa.array(kinds, pa.string())}
    for suffix, table in (("before", before), ("after", after)):
        for name in _COMPARED:
            kind = CHANGED_SCHEMA.field(f"{name}_{suffix}").type
            columns[f"{name}_{suffix}"] = pa.nulls(len(kinds), kind) if table is None else table[name]
    return pa.Table.from_arrays([columns[name] for name in CHANGED_SCHEMA.names], schema=CHANGED_SCHEMA)


def _name_ids(column: pa.ChunkedArray, *, names: dict[str, int]) -> np.ndarray:
    """Id of each name; `names` grows by those that are new."""
    encoded = column.combine_chunks().dictionary_encode()
    ids = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.array(ids, dtype=np.int32)[encoded.indices.to_numpy()] if ids else np.zeros(0, dtype=np.int32)


def _concatenate(columns: Sequence[LabelColumns]) -> LabelColumns:
    kinds = {"category": np.int32, "rationale": np.int32, "confidence": np.float32, OOD_COLUMN.name: np.float32}
    return LabelColumns(
        **{
            name: np.concatenate([np.zeros(0, dtype=kind), *(getattr(each, name) for each in columns)])
            for name, kind in kinds.items()
        }
    )
