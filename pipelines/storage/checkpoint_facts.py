"""What a scoring job knows of a model before it is loaded; torch is imported for records of earlier versions only."""

from pathlib import Path

from ecor.clip.image_features import ImageSide
from ecor.config.choices import Precision
from ecor.config.model import Preprocess
from ecor.storage.model_records import read_checkpoint


def read_preprocess(folder: Path) -> Preprocess:
    """As `ecor.checkpoint.read_preprocess`, mostly without torch."""
    found = read_checkpoint(folder).preprocess
    if found is not None:
        return found
    from ecor.checkpoint import read_preprocess as compute_preprocess

    return compute_preprocess(folder)


def read_image_side(folder: Path, *, precision: Precision, use_gpu: bool) -> ImageSide:
    """Image side of a model in the precision of a job.

    Args:
        folder: the model's checkpoint.
        precision: `auto` is that of the towers (`ecor.config.model.BackboneConfig`).
        use_gpu: whether they are on GPUs.
    """
    found = read_checkpoint(folder).image_side_digest
    if found is None:
        from ecor.checkpoint import read_image_side as compute_image_side

        found = compute_image_side(folder)
    usual = "bf16" if use_gpu else "fp32"
    return ImageSide(model_digest=found, precision=usual if precision == "auto" else precision)
