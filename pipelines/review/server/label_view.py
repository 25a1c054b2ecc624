"""Describe an image of the review to the page: its label, and what each reviewer said of it."""

from dataclasses import asdict
from typing import Any

from pipelines.review.review_state import LabelState
from pipelines.review.server.service import ReviewService


def describe_image(service: ReviewService, number: int, *, reviewer: str) -> dict[str, Any]:
    """The label of an image, with the decision of this reviewer and those of the others, as JSON values."""
    index, said = service.session.index, service.session.label_states(number)
    return {
        "number": number,
        "key": index.keys([number])[0],
        "category": index.category(number),
        "rationale": index.rationale(number),
        "confidence": float(index.confidences[number]),
        "mine": _state(said.get(reviewer)),
        "others": [{"reviewer": name, **(_state(state) or {})} for name, state in said.items() if name != reviewer],
    }


def _state(state: LabelState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    after = None if state.after is None else asdict(state.after)
    return {"verdict": state.verdict, "after": after, "note": state.note}
