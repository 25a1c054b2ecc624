"""Evaluate a table of predictions, and write and read the record of the evaluation."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.evaluation.calibration import ReliabilityBin
from ecor.evaluation.confidence_intervals import Estimate, Resampling
from ecor.evaluation.metrics import HEADLINE, CategoryResult, differences
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256

SCHEMA_VERSION = "1"
EVALUATION_NAME = "evaluation.json"
OBSERVATIONS_NAME = "observations.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The evaluation of one set of predictions."""

    name: str
    """Name in tables and plots."""
    predictions: str
    """Digest of the predictions' manifest."""
    parents: Mapping[str, Any]
    """Inputs of the predictions, from their manifest."""
    method: str
    num_rows: int
    num_images: int
    """Rows whose category is known."""
    num_explained: int
    """Rows whose category and rationale are known: those of rr, rw, wr, ww."""
    num_visible: int
    """Rows of which all visible rationales are known."""
    num_rejected: int
    """Images that were not scored because they could not be read."""
    share_calibrated: float
    """Rows scored with temperatures that were fitted on their vocabulary."""
    share_exact: float
    """Rows whose ranked pairs are proven to be the best."""
    metrics: Mapping[str, Estimate]
    """By the names that `ecor.evaluation.metrics` lists; a metric without images is absent."""
    per_category: tuple[CategoryResult, ...]
    """True categories with a known rationale, in order of name; distractors have none and are left out."""
    reliability: tuple[ReliabilityBin, ...]
    """Of the best pair."""
    visible_reliability: tuple[ReliabilityBin, ...] = ()
    """Of `rationale_visible_probability`; none where the rows state none, as in older records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sets of predictions of the same images."""

    first: str
    second: str
    differences: Mapping[str, Estimate]
    """First less second, over the images in both; an interval above zero: the first is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The record of `ecor evaluate`."""

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    """The first set with each other one."""
    resampling: Resampling
    num_bins: int
    run_id: str | None = None
    """MLflow run that it was logged to."""
    schema_version: str = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """sha256 of the record without the run."""
        return text_sha256(replace(self, run_id=None)._content())

    def of(self, predictions: str) -> Result:
        """Return the result for the predictions with that digest.

        Raises:
            ValueError: when there is none; the message names those there are.
        """
        for result in self.results:
            if result.predictions == predictions:
                return result
        known = ", ".join(f"{result.name} ({result.predictions[:12]}…)" for result in self.results)
        raise ValueError(f"this evaluation is not of predictions {predictions[:12]}… but of {known}: evaluate those")

    def to_json(self) -> str:
        return json.dumps({**json.loads(self._content()), "digest": self.digest}, indent=1, sort_keys=True) + "\n"

    def _content(self) -> str:
        values = asdict(self)
        for result in values["results"]:
            if not result["visible_reliability"]:
                del result["visible_reliability"]
        return json.dumps(_replace_nan(values), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, source: str = "evaluation") -> "Evaluation":
        """Read a record.

        Args:
            text: JSON, as `to_json` gives it.
            source: name of the record in errors.

        Raises:
            ValueError: when the text is not such a record, or was altered by hand.
        """
        try:
            values = json.loads(text)
            digest = values.pop("digest")
            record = cls(
                results=tuple(_parse_result(each) for each in values.pop("results")),
                comparisons=tuple(
                    Comparison(**{**each, "differences": _parse_estimates(each["differences"])})
                    for each in values.pop("comparisons")
                ),
                resampling=Resampling(**values.pop("resampling")),
                **values,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source} is not an evaluation ({error}): evaluate again") from error
        if record.digest != digest:
            raise ValueError(f"{source} was altered: its digest says {digest}, its content {record.digest}")
        return record


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "predictions"


def read_evaluation(folder: str) -> Evaluation:
    """Read the record in a folder written by `ecor evaluate`.

    Raises:
        ValueError: when there is none, or it was altered.
    """
    path = filesystem.join(folder, EVALUATION_NAME)
    try:
        return Evaluation.from_json(filesystem.read(path).decode(), source=path)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {EVALUATION_NAME}: not a folder written by `ecor evaluate`") from error


def read_observations(folder: str, *, name: str) -> pa.Table:
    """Read the metrics of one set of predictions, image by image, from a folder written by `ecor evaluate`.

    Args:
        folder: of the evaluation.
        name: of the set; of another name there are no rows.
    """
    with filesystem.open_file(filesystem.join(folder, OBSERVATIONS_NAME)) as file:
        table = pq.ParquetFile(file).read(use_threads=False)
    return table.filter(pa.compute.equal(table["name"], name)).drop_columns(["name"])


def difference_of_folders(first: str, second: str, *, metric: str = HEADLINE) -> Estimate:
    """One metric of the first set in `first` less that in `second`, paired by image; promotion decides by it.

    Level, number and seed of the bootstrap are those of the evaluation in `first`.

    Args:
        first: folder of an evaluation.
        second: folder of another one.
        metric: by the names of `ecor.evaluation.metrics`.

    Raises:
        ValueError: when a folder is no evaluation, or the two have no image or not that metric in common.
    """
    records = [read_evaluation(folder) for folder in (first, second)]
    tables = [
        read_observations(folder, name=record.results[0].name)
        for folder, record in zip((first, second), records, strict=True)
    ]
    found = differences(*tables, names=(first, second), metrics=[metric], resampling=records[0].resampling)
    require(metric in found, f"{first} and {second} have no image in common for which {metric} is known")
    return found[metric]


def _replace_nan(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _replace_nan(each) for name, each in value.items()}
    return [_replace_nan(each) for each in value] if isinstance(value, list | tuple) else value


def _parse_estimate(values: Mapping[str, Any]) -> Estimate:
    filled: dict[str, Any] = {name: math.nan if each is None else each for name, each in values.items()}
    return Estimate(**filled)


def _parse_estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: _parse_estimate(each) for name, each in values.items()}


def _parse_result(values: Mapping[str, Any]) -> Result:
    made = {
        "metrics": _parse_estimates(values["metrics"]),
        "per_category": tuple(CategoryResult(**{**e, "rr": _parse_estimate(e["rr"])}) for e in values["per_category"]),
        "reliability": tuple(ReliabilityBin(**each) for each in values["reliability"]),
        "visible_reliability": tuple(ReliabilityBin(**each) for each in values.get("visible_reliability", ())),
    }
    return Result(**{**values, **made})
