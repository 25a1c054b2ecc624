"""A model's name in, the open model out: of the registry, of a folder, or the one that comes with the package."""

from ecor.checkpoint import load
from ecor.demo.atlas import vocabulary_of
from ecor.model import Names, Recognizer
from pipelines.places import TrackingConfig

DEMO_MODEL = "ecor-demo"


def opened(model: str, *, tracking: TrackingConfig, names: Names | None = None, demo_set: str) -> Recognizer:
    """The model, choosing from other `names` than its own where some are given.

    Args:
        model: `models:/…`, a checkpoint folder, or `ecor-demo`: plain CLIP with the weights of the package.
        tracking: where the registry is (`pipelines.places.resolved`).
        names: categories and rationales.
        demo_set: of the drawn world, whose names `ecor-demo` chooses from where no others are given.

    Raises:
        ValueError: for a model that is not there or damaged.
    """
    if model == DEMO_MODEL:
        return Recognizer.zero_shot(vocabulary_of(demo_set) if names is None else names)
    if model.startswith("models:"):
        from pipelines import pinned, registry  # MLflow takes seconds to import

        model = str(pinned.fetch(registry.resolve(model, tracking=tracking), tracking=tracking))
    found = load(model)
    return found if names is None else found.with_vocabulary(names)
