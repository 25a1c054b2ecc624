"""Load a model by URI, by checkpoint folder, or by the name of the embedded demo model."""

from typing import cast, get_args

import torch
from torch import Tensor

from ecor.checkpoint import load
from ecor.clip.loading import load_backbone
from ecor.config.checks import require
from ecor.config.choices import Precision, SystemName
from ecor.config.model import BackboneConfig
from ecor.demo.worlds.registry import set_vocabulary
from ecor.eclip.projection import read_projection
from ecor.model import Names, Recognizer
from ecor.storage.model_records import record_path
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import DeviceName

DEMO_MODEL = "ecor-demo"


def resolve_device(device: DeviceName) -> str:
    """Return `cpu` or `cuda`; `auto` is `cuda` where this machine has a GPU that torch can use.

    Raises:
        ValueError: for `cuda` on a machine without such a GPU.
    """
    has_gpu = torch.cuda.is_available()
    require(
        device != "cuda" or has_gpu,
        "device is cuda, but this machine has no GPU that torch can use: choose cpu or auto, or install a torch for "
        "its GPU",
    )
    return ("cuda" if has_gpu else "cpu") if device == "auto" else device


def open_model(
    model: str,
    *,
    tracking: TrackingConfig,
    names: Names | None = None,
    demo_set: str,
    device: str = "cpu",
    precision: Precision | None = None,
) -> Recognizer:
    """Load a model that names categories and rationales.

    Args:
        model: `models:/…`, a checkpoint folder, or `ecor-demo`: plain CLIP with the weights of the package.
        tracking: the registry's server (`pipelines.config.infrastructure.resolve_tracking`).
        names: categories and rationales to use instead of the model's own.
        demo_set: set of the drawn world with the names of `ecor-demo`.
        device: where it runs, from `resolve_device`.
        precision: of the towers; None: the model's own.

    Raises:
        ValueError: for a missing or damaged model, and for an artifact of another system than ECOR.
    """
    if model == DEMO_MODEL:
        backbone = load_backbone(BackboneConfig(precision=precision or "auto"), device=device)
        return Recognizer.zero_shot(set_vocabulary(demo_set) if names is None else names, backbone=backbone)
    folder = model_folder(model, tracking=tracking)
    remedies = {
        "eclip": f"it belongs to a method: add `--method eclip --projection {model}` to a model with names",
        "lico": "it names categories alone: `ecor explain` shows where it finds them",
    }
    system = detect_system(folder)
    if system in remedies:
        raise ValueError(
            f"{model} is no model that names categories and rationales, {system} made it; {remedies[system]}"
        )
    found = load(folder, device=device, precision=precision)
    return found if names is None else found.with_vocabulary(names)


def model_folder(model: str, *, tracking: TrackingConfig) -> str:
    """Return the folder of a model; a version of the registry is downloaded first.

    Args:
        model: `models:/…`, or a folder, which is returned as it is.
        tracking: the registry's server.

    Raises:
        ValueError: when the model is not in the registry, or the download does not have its digests.
        OSError: when the server fails.
    """
    if not model.startswith("models:"):
        return model
    from pipelines.tracking import (
        model_cache,
        model_registry,  # MLflow takes seconds to import
    )

    return str(model_cache.fetch_model(model_registry.resolve_model(model, tracking=tracking), tracking=tracking))


def detect_system(folder: str) -> SystemName:
    """Find the system that trained the artifact in a folder; `ecor` without a record of another one."""
    others = (name for name in get_args(SystemName) if name != "ecor" and record_path(folder, name) is not None)
    return cast(SystemName, next(others, "ecor"))


def load_projection(place: str, *, tracking: TrackingConfig, backbone_digest: str) -> dict[str, Tensor]:
    """Load the projection for the method `eclip`.

    Args:
        place: `models:/…`, a folder of `ecor train --system eclip`, or a safetensors file.
        tracking: the registry's server.
        backbone_digest: digest of the backbone that will use the projection.

    Raises:
        ValueError: as `model_folder`; for a place without a projection, and for a projection of another backbone.
        OSError: when the server fails.
    """
    return read_projection(model_folder(place, tracking=tracking), backbone_digest=backbone_digest)
