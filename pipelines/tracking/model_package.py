"""Package a checkpoint as a self-contained MLflow model: code, tokens, signature, pinned requirements.

The model is a pyfunc model from code (`pyfunc_model.py`). It contains the packages of `ecor` that it needs, so that
plain `mlflow.pyfunc` loads it where this project is not installed.
"""

import base64
import io
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, ColSpec, Object, Property
from PIL import Image

import ecor
from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import ScoringConfig
from ecor.storage import filesystem
from ecor.storage.model_records import ArtifactRecord, Checkpoint, read_checkpoint

ARTIFACT = "checkpoint"
SERVED_MODEL = Path(__file__).with_name("pyfunc_model.py")
REQUIREMENTS = (
    "fsspec",
    "jaxtyping",
    "lazy-loader",
    "mlflow",
    "numpy",
    "open_clip_torch",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "scipy",
    "torch",
    "torchvision",
)
"""Packages that `ecor` imports to score an image."""
CODE_PACKAGES = ("config", "storage", "data", "clip", "probability")
"""Packages of `ecor` that a served model needs, besides the top-level modules."""


def write_model(checkpoint: Checkpoint, target: Path, *, model: Model, with_backbone: bool) -> None:
    """Write an MLflow model folder to `target`.

    Args:
        checkpoint: result of `ecor.checkpoint.read_checkpoint`.
        target: a folder that does not exist yet.
        model: MLflow's record, with the ids of the run and the logged model.
        with_backbone: include the backbone's weights if the checkpoint does not.
    """
    # Recorded warnings are dropped: despite filters, MLflow asks for type hints, which say less than the signature
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(record=True):
        packed = _pack_checkpoint(checkpoint, Path(scratch) / ARTIFACT, with_backbone=with_backbone)
        mlflow.pyfunc.save_model(
            path=str(target),
            mlflow_model=model,
            python_model=str(SERVED_MODEL),
            artifacts={ARTIFACT: packed.folder},
            code_paths=[str(_copy_code(Path(scratch) / "ecor", with_weights=_needs_embedded(packed)))],
            signature=signature(),
            input_example=(example_input(), default_params()),
            pip_requirements=pinned_requirements(),
        )


def write_artifact(record: ArtifactRecord, target: Path, *, model: Model) -> None:
    """Write an artifact of another system as an MLflow model folder. It has the flavor `ecor`, and cannot be served.

    Args:
        record: record of the artifact.
        target: a folder that does not exist yet.
        model: MLflow's record, with the ids of the run and the logged model.
    """
    shutil.copytree(record.folder, target / "artifacts" / ARTIFACT)
    model.add_flavor("ecor", system=record.system, data=f"artifacts/{ARTIFACT}", ecor_version=ecor.__version__)
    model.save(str(target / "MLmodel"))


def pinned_requirements() -> list[str]:
    """Pin the installed versions, without build tags (`2.13.0+cpu`), which other package indexes do not have."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature() -> ModelSignature:
    """Make the signature of a served model; see `pipelines.tracking.pyfunc_model.ServedRecognizer`.

    It says nothing of the input. With a named column MLflow would refuse a plain list; with one that has no name it
    would drop all columns but the first, and so pictures, before the model sees them. The vocabulary is a JSON text,
    because a mapping would fix its keys in the signature.
    """
    defaults = default_params()
    return ModelSignature(
        outputs=Schema(
            [
                ColSpec(DataType.string, "category"),
                ColSpec(DataType.string, "rationale"),
                ColSpec(DataType.double, "confidence"),
                ColSpec(_ranked_type("category", "rationale"), "pairs"),
                ColSpec(_ranked_type("category"), "categories"),
                ColSpec(_ranked_type("rationale"), "rationales"),
                ColSpec(DataType.double, "kept_mass"),
                ColSpec(DataType.boolean, "pairs_exact"),
                ColSpec(DataType.boolean, "calibrated"),
                ColSpec(DataType.string, "method"),
                ColSpec(DataType.string, "model_digest"),
                ColSpec(DataType.string, "vocabulary_digest"),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("top_k", DataType.long, defaults["top_k"]),
                ParamSpec("method", DataType.string, defaults["method"]),
                ParamSpec("vocabulary", DataType.string, defaults["vocabulary"]),
            ]
        ),
    )


def default_params() -> dict[str, str | int]:
    """Return the defaults of the parameters; an empty vocabulary means the model's own."""
    return {"top_k": ScoringConfig().top_k, "method": "", "vocabulary": ""}


def example_input() -> pd.DataFrame:
    """Make one grey image in base64, a valid input of every model."""
    png = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(png, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(png.getvalue()).decode()]})


def _pack_checkpoint(checkpoint: Checkpoint, target: Path, *, with_backbone: bool) -> Checkpoint:
    """Copy the checkpoint, with the backbone's weights if asked for."""
    if checkpoint.has_backbone or not with_backbone:
        with filesystem.local_folder(checkpoint.folder) as folder:
            shutil.copytree(folder, target)
        return read_checkpoint(target)
    return save_checkpoint(
        load(checkpoint.folder),
        target,
        parents=checkpoint.parents,
        metrics=checkpoint.metrics,
        run_id=checkpoint.run_id,
        with_backbone=True,
    )


def _needs_embedded(checkpoint: Checkpoint) -> bool:
    return not checkpoint.has_backbone and checkpoint.model.backbone.pretrained == "embedded"


def _copy_code(target: Path, *, with_weights: bool) -> Path:
    """Copy the packages of `ecor` that a served model needs.

    MLflow servers send files one by one, so there are few: no `explain`, no `demo`, and the embedded weights only if
    the model uses them.
    """
    assert ecor.__file__ is not None
    package = Path(ecor.__file__).parent
    target.mkdir()
    for path in package.glob("*.py*"):  # also the stub, from which `ecor` loads its public names
        shutil.copy(path, target)
    for name in CODE_PACKAGES:
        shutil.copytree(package / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    if with_weights:
        shutil.copytree(package / "demo" / "weights", target / "demo" / "weights")
    return target


def _ranked_type(*names: str) -> Array:
    properties = [Property(name, DataType.string) for name in names]
    return Array(Object([*properties, Property("probability", DataType.double)]))
