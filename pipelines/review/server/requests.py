"""Read what the page asks for: query strings and JSON bodies as checked records. A wrong one is a ValueError."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ecor.config.checks import require
from pipelines.config.review import LONGEST_NAME
from pipelines.review.decision import VERDICTS, Verdict
from pipelines.review.group_pages import Seen
from pipelines.review.label_groups import ORDERS, LabelFilter, Order
from pipelines.review.review_session import LONGEST_TEXT, MOST_NAMES

MOST_ON_PAGE = 200
_SEEN = ("", "open", "done", "disputed", *(each for each in VERDICTS if each != "undo"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which groups or labels, and which page of them."""

    reviewer: str
    chosen: LabelFilter
    seen: Seen
    order: Order
    start: int
    limit: int

    @classmethod
    def from_query(cls, values: Mapping[str, str]) -> "ListQuery":
        """Read a query string; unknown parts of it are ignored."""
        seen, order = values.get("seen", ""), values.get("order", "size")
        require(seen in _SEEN, f"seen must be one of {', '.join(_SEEN[1:])}, got {seen!r}")
        require(order in ORDERS, f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        limit = _number(values, "limit", 48)
        require(1 <= limit <= MOST_ON_PAGE, f"limit must be 1 to {MOST_ON_PAGE}, got {limit}")
        return cls(
            reviewer=read_reviewer(values.get("reviewer")),
            chosen=read_filter(values),
            seen=cast(Seen, seen),
            order=cast(Order, order),
            start=max(0, _number(values, "start", 0)),
            limit=limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """A decision about some labels, or the acceptance of a group."""

    reviewer: str
    action: str
    """Made by the page: identifies the request, so that it counts once however often it is sent."""
    verdict: Verdict
    numbers: tuple[int, ...]
    """Labels; empty for a group."""
    group: int | None
    chosen: LabelFilter
    num_expected: int
    """Open labels of the group, as the reviewer saw them."""
    category: str
    """For `correct`."""
    rationales: tuple[str, ...]
    note: str

    @classmethod
    def from_json(cls, data: bytes) -> "DecisionRequest":
        """Read a body."""
        values = read_json(data)
        verdict, numbers, group = values.get("verdict"), values.get("numbers", []), values.get("group")
        require(verdict in VERDICTS and verdict != "undo", f"there is no verdict {verdict!r}")
        is_list = isinstance(numbers, list) and all(map(_is_whole, numbers))
        require(is_list and len(numbers) <= MOST_ON_PAGE, f"numbers must be at most {MOST_ON_PAGE} whole numbers")
        require(group is None or _is_whole(group), f"group must be a whole number, got {group!r}")
        require((group is None) == bool(numbers), "a decision is about some labels or about a group")
        require(group is None or verdict == "accept", f"a group is accepted, or decided image by image; got {verdict}")
        rationales, filters = values.get("rationales", []), values.get("filter", {})
        require(isinstance(filters, dict), "filter must be a JSON object")
        require(
            isinstance(rationales, list) and len(rationales) <= MOST_NAMES,
            f"rationales must be a list of at most {MOST_NAMES} names",
        )
        return cls(
            reviewer=read_reviewer(values.get("reviewer")),
            action=read_text(values, "action"),
            verdict=cast(Verdict, verdict),
            numbers=tuple(dict.fromkeys(numbers)),
            group=group,
            chosen=read_filter({name: str(value) for name, value in filters.items()}),
            num_expected=values["num_expected"] if type(values.get("num_expected")) is int else -1,
            category=read_text(values, "category", default=""),
            rationales=tuple(read_text({"rationale": each}, "rationale") for each in rationales),
            note=read_text(values, "note", default="").strip(),
        )


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    require(isinstance(values, dict), "the body must be a JSON object")
    return cast(dict[str, Any], values)


def read_filter(values: Mapping[str, str]) -> LabelFilter:
    """The filters of a page."""
    low, high = (_share(values, name, default) for name, default in (("from", 0.0), ("to", 1.0)))
    return LabelFilter(name=values.get("name", ""), low=low, high=high, text=values.get("q", ""))


def read_reviewer(value: Any) -> str:
    """A reviewer's name, without spaces at its ends."""
    name = read_text({"reviewer": value}, "reviewer").strip()
    require(0 < len(name) <= LONGEST_NAME, f"a reviewer has a name of 1 to {LONGEST_NAME} characters")
    require(name.isprintable(), "the name of a reviewer has characters that cannot be seen")
    return name


def read_text(values: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """A text of limited length that can be written as UTF-8."""
    value = values.get(name, default)
    require(isinstance(value, str) and len(value) <= LONGEST_TEXT, f"{name} must be at most {LONGEST_TEXT} characters")
    try:
        cast(str, value).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has characters that no text can have: {value!a}") from error
    return cast(str, value)


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number that an array of numbers can hold."""
    return type(value) is int and abs(value) < 2**63


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, str(default))
    require(text.isascii() and text.isdigit() and len(text) < 10, f"{name} must be a whole number, got {text!r}")
    return int(text)


def _share(values: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(values.get(name, default))
    except ValueError as error:
        raise ValueError(f"{name} must be a number, got {values.get(name)!r}") from error
