"""Refuse truth that chose the model: images it was trained on, or that chose its epoch, temperatures or promotion."""

from collections.abc import Mapping

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from pipelines.config.infrastructure import TrackingConfig
from pipelines.tracking.model_registry import read_lineage
from pipelines.tracking.model_versions import read_model_record

_USES = {
    "train_manifest": "the model was trained on them",
    "validation_manifest": "they chose the model's epoch and temperatures",
}


def check_truth_is_independent(predictions: PredictionSet, *, tracking: TrackingConfig) -> None:
    """Raise ValueError when the labels' images took part in the choice of their model, or nobody knows whether.

    Splits are compared by the digest of their manifest, so the same images in other shards are not recognised.
    """
    parents = predictions.parents
    for name, digest in _lineage(predictions, tracking=tracking).items():
        require(
            digest != parents.input_digest,
            f"--truth must not use the images of {parents.input}: {_describe_use(name)}. "
            f"Score a split that chose nothing (test), or have people judge the sample (--judged)",
        )


def _describe_use(name: str) -> str:
    """What images with this name in the lineage did; those of a model that tuning started from have a longer name."""
    while name.startswith("initial_"):
        name = name.removeprefix("initial_")
    return _USES.get(name, "they decided its promotion")


def _lineage(predictions: PredictionSet, *, tracking: TrackingConfig) -> Mapping[str, str]:
    """Digests of the splits that a model was made from and chosen by."""
    parents = predictions.parents
    try:
        if parents.model_version is None:
            record = read_model_record(parents.model_name)
            digest, lineage = record.model_digest, record.parents
        else:
            digest, lineage = read_lineage(parents.model_name, parents.model_version, tracking=tracking)
    except ValueError as error:
        raise ValueError(
            f"--truth needs the record of the model that made the labels, to know what it was chosen by: {error}"
        ) from error
    require(
        digest == parents.model_digest,
        f"--truth needs the record of the model that made the labels ({parents.model_digest[:12]}…), but "
        f"{parents.model_name} is now {digest[:12]}…: name its registry with --tracking.uri",
    )
    return lineage
