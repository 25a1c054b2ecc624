"""The vocabulary: names of categories and their rationales, their ids, and readers of its files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from ecor.data.name_parsing import (
    check_spelling,
    checked_name,
    decode_utf8,
    flatten_rationales,
    group_rationales,
    normalise_name,
    unique_keys,
)
from ecor.data.table_row import show_value
from ecor.data.tables import read_rows
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The names of categories and rationales, and their ids; the only translator between both.

    A rationale that several categories share is one id. Rationales are numbered by first appearance, so that the flat
    JSON of `to_json` says everything.

    Raises:
        ValueError: when names are empty, repeated or not normalised, or ids point nowhere or are not numbered by first
            appearance.
    """

    categories: tuple[str, ...]
    """Normalised, unique; the position is the id."""
    rationales: tuple[str, ...]
    """Normalised, unique; the position is the id."""
    rationales_of: tuple[tuple[int, ...], ...]
    """Rationale ids per category; empty for a category that only distracts."""
    _category_ids: dict[str, int] = field(init=False, repr=False, compare=False)
    _rationale_ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_category_ids", _ids(self.categories, kind="category"))
        object.__setattr__(self, "_rationale_ids", _ids(self.rationales, kind="rationale"))
        if not self.categories:
            raise ValueError("a vocabulary needs at least one category, got none")
        if len(self.rationales_of) != len(self.categories):
            raise ValueError(f"{len(self.categories)} categories but {len(self.rationales_of)} lists of rationales")
        seen = list(dict.fromkeys(rationale for ids in self.rationales_of for rationale in ids))
        if seen != list(range(len(self.rationales))):
            raise ValueError(
                "rationale ids must be numbered by first appearance with none left over: "
                "make a Vocabulary with vocabulary_from_mapping"
            )
        for category, ids in zip(self.categories, self.rationales_of, strict=True):
            if len(set(ids)) != len(ids):
                raise ValueError(f"category {category!r} lists a rationale twice")

    @property
    def num_pairs(self) -> int:
        """(category, rationale) pairs that belong together."""
        return sum(len(ids) for ids in self.rationales_of)

    @property
    def digest(self) -> str:
        """sha256, in hex, of `to_json`: order counts, because it decides the ids."""
        return text_sha256(self.to_json())

    def to_json(self) -> str:
        """DROR's flat form {category: [rationale, …]}; `parse_vocabulary` gives this vocabulary back."""
        names = {
            category: [self.rationales[rationale] for rationale in ids]
            for category, ids in zip(self.categories, self.rationales_of, strict=True)
        }
        return json.dumps(names, ensure_ascii=False, indent=1)

    def category_id(self, name: str) -> int:
        """Id of a category, in any spelling.

        Raises:
            ValueError: when it is unknown; the message names the nearest one.
        """
        return _find(name, ids=self._category_ids, kind="category")

    def rationale_id(self, name: str) -> int:
        """Id of a rationale, in any spelling.

        Raises:
            ValueError: when it is unknown; the message names the nearest one.
        """
        return _find(name, ids=self._rationale_ids, kind="rationale")

    def has_rationale(self, name: str) -> bool:
        """Whether `rationale_id` would find it."""
        return normalise_name(name) in self._rationale_ids


def vocabulary_from_mapping(mapping: Mapping[str, Sequence[str]], *, source: str = "mapping") -> Vocabulary:
    """Build a vocabulary of {category: [rationale, …]}, in the mapping's order.

    Names are normalised; a rationale repeated within a category counts once (real files do it).

    Args:
        mapping: lists of rationales by category; a list may be empty.
        source: name of the mapping in errors.

    Raises:
        ValueError: naming the source and the key, when there is no category, a name is empty or no text, two
            categories normalise to the same name, or two rationales do that differ by more than their spelling.
    """
    categories: dict[str, str] = {}
    ids: dict[str, int] = {}
    spelled: dict[str, str] = {}
    rationales_of = []
    for raw, rationales in mapping.items():
        category = checked_name(raw, where=f"{source}: category {raw!r}")
        if category in categories:
            raise ValueError(f"{source}: {categories[category]!r} and {raw!r} are the same category {category!r}")
        categories[category] = raw
        if isinstance(rationales, str | bytes | Mapping) or not isinstance(rationales, Iterable):
            raise ValueError(
                f"{source}: category {raw!r} needs a list of rationales, got {show_value(rationales)}; a list may be "
                "empty"
            )
        names = [checked_name(name, where=f"{source}: a rationale of {raw!r}") for name in rationales]
        for name in rationales:
            check_spelling(name, spelled=spelled, where=source, kind="rationale")
        rationales_of.append(tuple(ids.setdefault(name, len(ids)) for name in dict.fromkeys(names)))
    if not categories:
        raise ValueError(f"{source}: no category in it")
    return Vocabulary(categories=tuple(categories), rationales=tuple(ids), rationales_of=tuple(rationales_of))


def parse_vocabulary(text: str, *, source: str = "text", sub_rationales: bool = False) -> Vocabulary:
    """Build a vocabulary of a JSON text: DROR's flat form {category: [rationale, …]}, or its level-2 form.

    The level-2 form is {category: [{rationale: [sub-rationale, …]}, …]}.

    Args:
        text: of the file.
        source: name of the text in errors.
        sub_rationales: append the sub-rationales to their category, each behind its rationale. Not in the paper:
            without it, the default, only the first level is read.

    Raises:
        ValueError: naming the source and the line or key, when the text is not such JSON, keys are repeated, names are
            empty, or two categories normalise to the same name.
    """
    try:
        loaded = json.loads(text, object_pairs_hook=lambda pairs: unique_keys(pairs, source=source))
        if not isinstance(loaded, dict):
            raise ValueError(f"{source}: expected {{category: [rationale, …]}}, got a JSON {type(loaded).__name__}")
        flat = {
            category: flatten_rationales(
                entries, where=f"{source}: category {category!r}", sub_rationales=sub_rationales
            )
            for category, entries in loaded.items()
        }
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: not JSON at line {error.lineno} column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{source}: lists nested too deep: expected {{category: [rationale, …]}}") from error
    return vocabulary_from_mapping(flat, source=source)


def read_vocabulary(path: str | Path, *, sub_rationales: bool = False) -> Vocabulary:
    """Read a vocabulary from a file: JSON (see `parse_vocabulary`), or a table with a row per pair.

    A table has the columns `category` and `rationale`; categories are numbered by first appearance. Not in the paper: a
    cell may list several rationales (`TableRow.names`), and a category without rationales is its only row, with an
    empty cell (CSV) or a null (Parquet).

    Args:
        path: any address fsspec opens; its suffix is `.json`, `.csv` or `.parquet`.
        sub_rationales: of a JSON file of level 2, see `parse_vocabulary`.

    Raises:
        ValueError: naming the file and the line, row or key, when there is no such file, or it does not hold a
            vocabulary.
    """
    name, suffix = str(path), PurePosixPath(str(path)).suffix.lower()
    if suffix not in (".json", ".csv", ".parquet"):
        raise ValueError(f"{name}: a vocabulary is a .json, .csv or .parquet file, got {suffix or 'no suffix'}")
    if suffix != ".json":
        rows = read_rows(name, required=("category", "rationale"))
        return vocabulary_from_mapping(group_rationales(rows, source=name), source=name)
    try:
        data = filesystem.read(name)
    except FileNotFoundError as error:
        raise ValueError(f"{name}: there is no such vocabulary file") from error
    return parse_vocabulary(decode_utf8(data, source=name), source=name, sub_rationales=sub_rationales)


def _ids(names: tuple[str, ...], *, kind: str) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name or normalise_name(name) != name:
            raise ValueError(f"{kind} {index} is {name!r}, which is empty or not normalised")
        if ids.setdefault(name, index) != index:
            raise ValueError(f"{kind} {name!r} is there twice, as {ids[name]} and {index}")
    return ids


def _find(name: str, *, ids: Mapping[str, int], kind: str) -> int:
    found = ids.get(normalise_name(name))
    if found is None:
        nearest = get_close_matches(normalise_name(name), ids, n=1, cutoff=0.0)
        hint = f"; the nearest known one is {nearest[0]!r}" if nearest else ""
        raise ValueError(f"unknown {kind} {name!r}{hint}")
    return found
