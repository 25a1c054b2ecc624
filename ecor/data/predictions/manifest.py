"""Record what a folder of labels holds, and from what it was made; written last, so a folder with it is complete."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ecor.config.checks import parse_record
from ecor.config.scoring import MethodName, ScoringConfig
from ecor.data.predictions.schema import SCHEMA_VERSION
from ecor.storage import filesystem
from ecor.storage.digests import json_digest

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionPart:
    """One Parquet file: the rows of one unit of work."""

    name: str
    """File name within the folder."""
    unit: str
    """The unit of work it holds: an input shard's name, or a slice of a listing."""
    num_rows: int
    num_labelled: int
    """Rows whose category and rationale are known, so that they can be evaluated."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionParents:
    """Inputs of the rows, each by digest."""

    input: str
    """Folder or table of images."""
    input_digest: str
    """Of the shard manifest, or of the listing."""
    model_uri: str
    """Model address as given by the user (`models:/ecor@champion`)."""
    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str
    features: str | None = None
    """Folder of labels whose kept features were labelled; None: images were encoded."""
    features_digest: str | None = None
    """Of these features (`ecor.clip.image_features.FeatureSet.digest`)."""
    since: str | None = None
    """Folder of earlier labels whose rows were reused; None: all images were labelled."""
    since_digest: str | None = None
    """Of these labels (`PredictionSet.digest`)."""

    @property
    def pinned_model(self) -> str:
        """Address of the very model: of its version, or of its folder."""
        return self.model_name if self.model_version is None else f"models:/{self.model_name}/{self.model_version}"

    def to_record(self) -> dict[str, Any]:
        """Values by name for records; those of features and earlier labels only if set: older records lack them."""
        found, added = asdict(self), ("features", "features_digest", "since", "since_digest")
        return {name: value for name, value in found.items() if value is not None or name not in added}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSet:
    """Manifest of a folder of predictions. It is written last, so a folder with a manifest is complete."""

    parts: tuple[PredictionPart, ...]
    parents: PredictionParents
    scoring: ScoringConfig
    num_rejected: int = 0
    """Images in the quarantine table: without a row here."""
    run_id: str | None = None
    """MLflow run that wrote it."""
    schema_version: str = SCHEMA_VERSION
    num_rows: int = field(init=False)
    num_bytes: int = field(init=False)

    @property
    def method(self) -> MethodName:
        """The decoding of its rows."""
        return self.scoring.method or "joint"

    @property
    def has_truth(self) -> bool:
        """Whether there is a row that can be evaluated."""
        return any(part.num_labelled for part in self.parts)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_rows", sum(part.num_rows for part in self.parts))
        object.__setattr__(self, "num_bytes", sum(part.num_bytes for part in self.parts))

    @property
    def digest(self) -> str:
        """sha256 of rows, parents and settings; independent of file names, which carry an attempt, and of the run."""
        content = {
            "parts": sorted((part.unit, part.num_rows, part.sha256) for part in self.parts),
            "parents": {
                name: value
                for name, value in self.parents.to_record().items()
                if name not in ("input", "model_uri", "features", "since")
            },
            "scoring": self.scoring.to_record(),
            "num_rejected": self.num_rejected,
            "schema_version": self.schema_version,
        }
        return json_digest(content)

    def to_json(self) -> str:
        beside = {"parents": self.parents.to_record(), "scoring": self.scoring.to_record(), "digest": self.digest}
        record = {**asdict(self), **beside}
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "manifest") -> "PredictionSet":
        """Read a manifest.

        Args:
            text: JSON, as `to_json` gives it.
            source: name of the manifest in errors.

        Raises:
            ValueError: when the text is not such a manifest, or was altered by hand.
        """
        try:
            values = json.loads(text)
            digest = values.pop("digest")
            totals = {name: values.pop(name) for name in ("num_rows", "num_bytes")}
            records = {
                "parts": tuple(parse_record(PredictionPart, part) for part in values.pop("parts")),
                "parents": parse_record(PredictionParents, values.pop("parents")),
                "scoring": parse_record(ScoringConfig, {"calibrated_confidence": False, **values.pop("scoring")}),
            }
            record = parse_record(cls, {**values, **records})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{source} is not a manifest of labels ({error}): name a folder of labels, or score again"
            ) from error
        if record.digest != digest or totals != {"num_rows": record.num_rows, "num_bytes": record.num_bytes}:
            raise ValueError(f"{source} was altered: its digest says {digest}, its content {record.digest}")
        return record


def write_prediction_set(folder: str, predictions: PredictionSet) -> None:
    """Write `folder`/manifest.json, the last step of a scoring job.

    Args:
        folder: that holds the parts.
        predictions: names every part.
    """
    filesystem.write(filesystem.join(folder, MANIFEST_NAME), predictions.to_json().encode())


def read_prediction_set(folder: str) -> PredictionSet:
    """Read the manifest of a finished folder of labels.

    Raises:
        ValueError: when there is none (scoring has not finished there), or it was altered.
    """
    path = filesystem.join(folder, MANIFEST_NAME)
    try:
        text = filesystem.read(path).decode()
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {MANIFEST_NAME}: not a folder of labels, or not finished") from error
    return PredictionSet.from_json(text, source=path)
