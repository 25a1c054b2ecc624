"""Package a checkpoint as a self-contained MLflow model: code, tokens, signature, pinned requirements.

The model is a pyfunc model from code (`pyfunc_model.py`); what it needs of `ecor` travels inside, so that plain
`mlflow.pyfunc` loads it where this project is not installed.
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
from mlflow.types.schema import AnyType, Array, ColSpec, Object, Property
from PIL import Image

import ecor
from ecor.checkpoint import Checkpoint, load, read_checkpoint, save_checkpoint
from ecor.config import ScoringConfig
from ecor.storage import filesystem
from ecor.storage.artifact import ArtifactRecord

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
"""What `ecor` imports on the way from an image to a row."""
CODE_PACKAGES = ("storage", "data", "clip", "probability")
"""Packages of `ecor` that a model answers with, beside the modules of its top."""


def write_model(checkpoint: Checkpoint, target: Path, *, model: Model, with_backbone: bool) -> None:
    """Write an MLflow model folder to `target`.

    Args:
        checkpoint: what `ecor.checkpoint.read_checkpoint` found.
        target: a folder that does not exist yet.
        model: MLflow's record, with the ids of the run and the logged model.
        with_backbone: put the backbone's weights inside, where the checkpoint has not done so.
    """
    # Recorded warnings are dropped: MLflow asks for type hints, in spite of filters, where a signature says more
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
    """Write an MLflow model folder with the flavor `ecor`: what was learned as it is, which no server serves (ours)."""
    shutil.copytree(record.folder, target / "artifacts" / ARTIFACT)
    model.add_flavor("ecor", system=record.system, data=f"artifacts/{ARTIFACT}", ecor_version=ecor.__version__)
    model.save(str(target / "MLmodel"))


def pinned_requirements() -> list[str]:
    """The versions installed here; builds of a version (`2.13.0+cpu`) are one to other machines."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature() -> ModelSignature:
    """Any form of image in; see `pipelines.tracking.pyfunc_model.ServedRecognizer`.

    The input column has no name, because MLflow would then refuse a plain list. A vocabulary is a JSON text, because it
    would freeze the keys of a mapping into the signature.
    """
    defaults = default_params()
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType())]),
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
    """Defaults of the parameters; an empty vocabulary is the model's own."""
    scoring = ScoringConfig()
    return {"top_k": scoring.top_k, "method": scoring.method, "vocabulary": ""}


def example_input() -> pd.DataFrame:
    """One grey picture in base64: an input that any model answers."""
    png = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(png, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(png.getvalue()).decode()]})


def _pack_checkpoint(checkpoint: Checkpoint, target: Path, *, with_backbone: bool) -> Checkpoint:
    """A copy of the checkpoint, with the backbone inside where that is asked for."""
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
    """A copy of what `ecor` answers with: a server of MLflow's is asked for each file, one after the other.

    Explanations and the drawn world stay behind; the embedded weights go along only where the model stands on them.
    """
    assert ecor.__file__ is not None
    package = Path(ecor.__file__).parent
    target.mkdir()
    for path in package.glob("*.py*"):  # the stub too: it says where the names of the package are
        shutil.copy(path, target)
    for name in CODE_PACKAGES:
        shutil.copytree(package / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    if with_weights:
        shutil.copytree(package / "demo" / "weights", target / "demo" / "weights")
    return target


def _ranked_type(*names: str) -> Array:
    properties = [Property(name, DataType.string) for name in names]
    return Array(Object([*properties, Property("probability", DataType.double)]))
