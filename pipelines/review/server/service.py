"""Everything that the page's server needs for its answers, in one record."""

from dataclasses import dataclass, field

from pipelines.review.review_session import ReviewSession
from pipelines.review.server.label_details import LabelDetails
from pipelines.review.server.model_maps import ModelMaps
from pipelines.review.server.name_completion import NameCompletion
from pipelines.review.server.picture_cache import PictureCache


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewService:
    """One run of `ecor review`."""

    session: ReviewSession
    pictures: PictureCache
    details: LabelDetails
    names: NameCompletion
    model_maps: ModelMaps | None = None
    """Makes maps where the labels hold none; None: no model was given."""
    title: str
    """Address of the labels."""
    reviewer: str
    """Name of the first reviewer."""
    next_steps: tuple[str, ...] = field(default=())
    """Commands to run when all is reviewed."""
