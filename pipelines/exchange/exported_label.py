"""One label as it is handed on: the prediction, the audit's decision, reviewers' decisions and its image."""

import math
from dataclasses import dataclass
from typing import Any

from ecor.data.predictions.records import ExplainablePrediction
from pipelines.review.decision import Decision, format_time


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedImage:
    """Where an exported image lies."""

    address: str
    """Path or URI that a tool opens; of an image within the export, its path relative to the export's folder."""
    is_within: bool = False
    """Whether the export holds it."""
    data: bytes | None = None
    """Encoded bytes, where the format holds them itself."""
    extension: str = ""
    """Of the image's format, without a dot; empty where it was not read."""
    height: int | None = None
    """Pixels of the upright picture, as tools show it; None where the image was not read."""
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedLabel:
    """One label with all that is known of it."""

    prediction: ExplainablePrediction
    image: PlacedImage
    decision: str | None = None
    """Of the audit: accept, review or reject."""
    reviews: tuple[Decision, ...] = ()
    """The decision of each reviewer that counts."""

    @property
    def key(self) -> str:
        return self.prediction.key

    @property
    def category_confidence(self) -> float:
        """P(category | image), a probability."""
        return math.exp(self.prediction.category_log_prob)

    @property
    def review(self) -> Decision | None:
        """What all reviewers who did not skip agree on; None where there is none, or they differ."""
        firm = [each for each in self.reviews if each.verdict != "skip"]
        return firm[0] if len({each.outcome for each in firm}) == 1 else None

    @property
    def final(self) -> tuple[str | None, tuple[str, ...]]:
        """Category and rationales after the reviews: the label's own where no review changes them.

        The category is None where reviewers say that it is wrong, and not what is right.
        """
        row, review = self.prediction, self.review
        if review is None or review.verdict == "accept":
            return row.category, (row.rationale,)
        if review.after is not None:
            return review.after.category, review.after.rationales
        return (row.category, ()) if review.verdict == "rationale_not_visible" else (None, ())


def label_record(label: ExportedLabel) -> dict[str, Any]:
    """All columns of a label but its maps, as JSON values: what `csv`, `jsonl`, datasets and WebDataset hold."""
    row, (final_category, final_rationales) = label.prediction, label.final
    return {
        "key": row.key,
        "image": label.image.address,
        "source": row.source,
        "category": row.category,
        "rationale": row.rationale,
        "confidence": _shortest(row.confidence),
        "category_confidence": label.category_confidence,
        "decision": label.decision,
        "ranked_categories": [each.category for each in row.categories],
        "category_probs": [math.exp(each.log_prob) for each in row.categories],
        "ranked_rationales": [each.rationale for each in row.rationales],
        "rationale_probs": [math.exp(each.log_prob) for each in row.rationales],
        "ood_score": None if row.ood_score is None else _shortest(row.ood_score),
        "category_true": row.category_true,
        "rationales_true": None if row.rationales_true is None else list(row.rationales_true),
        "visible_rationales": None if row.visible_rationales is None else list(row.visible_rationales),
        "final_category": final_category,
        "final_rationales": list(final_rationales),
        "reviews": [review_record(each) for each in label.reviews],
        "model": model_text(row),
    }


def review_record(review: Decision) -> dict[str, Any]:
    """A reviewer's decision as JSON values, without the label before it."""
    return {
        "reviewer": review.reviewer,
        "time": format_time(review.time),
        "verdict": review.verdict,
        "category_after": None if review.after is None else review.after.category,
        "rationales_after": None if review.after is None else list(review.after.rationales),
        "note": review.note,
    }


def review_text(review: Decision) -> str:
    """A reviewer's decision in one line: `Ada: correct (horse because of a flowing mane)`."""
    after = ""
    if review.after is not None:
        reasons = " and ".join(review.after.rationales)
        after = f" ({review.after.category}{f' because of {reasons}' if reasons else ''})"
    return f"{review.reviewer}: {review.verdict}{after}"


def model_text(row: ExplainablePrediction) -> str:
    """Name and version of the model: `ecor-demo 3`."""
    return f"{row.model_name} {row.model_version or row.model_digest[:12]}"


def _shortest(value: float) -> float:
    """A number of the labels' 32 bits, written with as few digits as name it: 0.7, not 0.699999988079071."""
    return float(f"{value:.9g}")
