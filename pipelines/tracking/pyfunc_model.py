"""The MLflow pyfunc model: it labels images (bytes, paths or base64), with probabilities.

The file is copied into the model (models from code, no pickle) and runs where this project is not installed. So it may
import `ecor`, which is part of the model, and nothing of `pipelines`.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

import ecor
from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import ImageError, decode_picture
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.schema import origins_table
from ecor.data.vocabulary import parse_vocabulary
from ecor.model import NOT_FINITE, Recognizer

BATCH_SIZE = 64
MAX_VOCABULARIES = 4
MAX_PATH_LENGTH = 1024  # characters; an image file in base64 is longer
_IMAGE_COLUMNS = ("image", "img")
_RANKED = ("pairs", "categories", "rationales")
_CERTAINTY = ("kept_mass", "pairs_exact", "calibrated", "method")
_COLUMNS = ("category", "rationale", "confidence", *_RANKED, *_CERTAINTY, "model_digest", "vocabulary_digest")


class ServedRecognizer(PythonModel):  # type: ignore[misc]
    """`ecor.Recognizer` behind MLflow's pyfunc interface.

    The input is a table with one column, or with others beside `image` or `img`, or a list. An image is bytes, the path
    of a file on the machine that answers, or base64 (with or without a `data:` prefix). Parameters: `top_k` pairs,
    `method` (empty: the model's own), and `vocabulary`, a JSON text {category: [rationale, …]} to choose from instead
    of the model's own names.

    The output has a row per image, in order: `category`, `rationale`, `confidence` (of that pair), `pairs`,
    `categories`, `rationales` (best first, with probabilities), the columns on their certainty, digests, and `error`.
    For an image that cannot be read, only `error` is filled.
    """

    def load_context(self, context: PythonModelContext) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.recognizer = ecor.load(context.artifacts["checkpoint"], device=device)
        self.others: OrderedDict[str, Recognizer] = OrderedDict()

    # no type hints: MLflow would make a signature from them, but the model has one already
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        settings = dict(params or {})
        scoring = ScoringConfig(top_k=int(settings.get("top_k") or 5), method=settings.get("method") or None)
        recognizer = self._recognizer_for(settings.get("vocabulary") or "")
        images = _list_images(model_input)
        frames = [
            _label_images(images[start : start + BATCH_SIZE], recognizer=recognizer, scoring=scoring)
            for start in range(0, len(images), BATCH_SIZE)
        ]
        return (
            pd.concat(frames, ignore_index=True)
            if frames
            else _label_images([], recognizer=recognizer, scoring=scoring)
        )

    def _recognizer_for(self, vocabulary: str) -> Recognizer:
        """Return the model for other names; the last few are cached: encoding sentences costs more than an image."""
        if not vocabulary:
            return self.recognizer
        names = parse_vocabulary(vocabulary, source="the parameter vocabulary")
        recognizer = self.others.setdefault(names.digest, self.recognizer.with_vocabulary(names))
        self.others.move_to_end(names.digest)
        while len(self.others) > MAX_VOCABULARIES:
            self.others.popitem(last=False)
        return recognizer


def _list_images(model_input: Any) -> list[Any]:
    """List the images of a table, a mapping, nested lists, or one image: one per picture, in order.

    Raises:
        MlflowException: for a table or mapping of which no column or key says that it holds the images.
    """
    if isinstance(model_input, np.ndarray) and model_input.ndim == 0:
        model_input = model_input.item()  # MLflow wraps single values of a request
    if isinstance(model_input, pd.DataFrame):
        return _list_images(model_input[_image_column(list(model_input))] if len(model_input.columns) else [])
    if isinstance(model_input, Mapping):
        model_input = _from_mapping(model_input)
    if _is_image(model_input):
        return [model_input]
    return [image for cell in model_input for image in _list_cell(cell)]


def _list_cell(cell: Any) -> list[Any]:
    """The images of a cell or item. An object without image is one image, and gets a row with its error."""
    if isinstance(cell, np.ndarray) and cell.ndim == 0:
        cell = cell.item()
    if isinstance(cell, Mapping):
        return [_unwrap_object(cell)]
    return [cell] if _is_image(cell) else _list_images(cell)


def _unwrap_object(image: Mapping[str, Any]) -> Any:
    """`{"image": …}` without its key, and without the arrays that MLflow puts around single values."""
    values = {name: _unwrap_value(value) for name, value in image.items()}
    found = [name for name in values if str(name).strip().lower() in _IMAGE_COLUMNS]
    return values[found[0]] if len(found) == 1 and "b64" not in values else values


def _unwrap_value(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return _unwrap_object(value) if isinstance(value, Mapping) else value


def _from_mapping(columns: Mapping[str, Any]) -> Any:
    """The images of a mapping of columns; one of the form `{"b64": …}` is an image itself."""
    if not columns:
        return []
    if "b64" not in columns:
        return _unwrap_value(columns[_image_column(list(columns))])
    found = _unwrap_value(columns["b64"])
    return found if isinstance(found, list | tuple | np.ndarray) else {"b64": found}


def _image_column(names: Sequence[Any]) -> Any:
    """The column of the images: the only one, or the one called `image` or `img`."""
    if len(names) == 1:
        return names[0]
    if list(names).count("image") == 1:
        return "image"
    found = [name for name in names if str(name).strip().lower() in _IMAGE_COLUMNS]
    if len(found) == 1:
        return found[0]
    named = ", ".join(str(name)[:40] for name in names[:4]) + (", …" if len(names) > 4 else "")
    raise MlflowException.invalid_parameter_value(
        f"the input has {len(names)} columns ({named}), and the one with the images is not clear: send one column, or "
        "call it `image`; several images are several rows, or a list"
    )


def _is_image(value: Any) -> bool:
    """Whether a value stands for one image, readable or not; a list or an array of texts does not.

    Numbers in up to three nested lists are one image, as in an array: its row says that such pixels are not read.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "OSU" and value.ndim <= 3
    return _is_pixels(value) or not isinstance(value, list | tuple | pd.Series)


def _is_pixels(value: Any, *, most_deep: int = 3) -> bool:
    """Whether nested lists hold only numbers."""
    if not isinstance(value, list | tuple) or not value or not most_deep:
        return False
    return all(isinstance(each, int | float) or _is_pixels(each, most_deep=most_deep - 1) for each in value)


def _label_images(images: Sequence[Any], *, recognizer: Recognizer, scoring: ScoringConfig) -> pd.DataFrame:
    """Make a row per image; the readable ones are scored in one batch."""
    pixels, errors = {}, {}
    for number, image in enumerate(images):
        try:
            picture = image if isinstance(image, np.ndarray) else _read_bytes(image)
            pixels[number] = image_to_pixels(decode_picture(picture), preprocess=recognizer.backbone.preprocess)
        except (ImageError, OSError) as error:
            errors[number] = str(error)
    columns = [*_COLUMNS, "error"]
    rows: dict[int, dict[str, Any]] = {}
    if pixels:
        numbers = np.array(list(pixels))
        features = recognizer.image_features(torch.from_numpy(np.stack(list(pixels.values()))))
        finite = features.is_finite.cpu()
        errors |= dict.fromkeys(numbers[~finite.numpy()].tolist(), f"it {NOT_FINITE}")
        numbers = numbers[finite.numpy()]
        if len(numbers):
            kept = features.select(finite.nonzero()[:, 0].to(features.rationale.device))
            table = recognizer.label(kept, origins=origins_table([str(number) for number in numbers]), scoring=scoring)
            rows |= {number: _with_probabilities(row) for number, row in zip(numbers, table.to_pylist(), strict=True)}
    rows |= {number: dict.fromkeys(columns) | {"error": error} for number, error in errors.items()}
    return pd.DataFrame([rows[number] for number in range(len(images))], columns=columns, dtype=object)


def _with_probabilities(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the logarithms in a row of predictions by probabilities."""
    ranked = {name: [_with_probability(entry) for entry in row[name]] for name in _RANKED}
    return {**{name: row[name] for name in _COLUMNS}, **ranked, "error": None}


def _with_probability(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: value for name, value in entry.items() if name != "log_prob"}
    return {**names, "probability": float(np.exp(entry["log_prob"]))}


def _read_bytes(image: Any) -> bytes:
    """Read the bytes of an image file, given as bytes, path or base64.

    A text that names an existing file is a path, even if it is valid base64 (`photos/a` is). Base64 may use the
    URL-safe alphabet, have line breaks or no padding, and be in an object `{"b64": …}` as for TensorFlow Serving.

    Raises:
        ImageError: for a text that is neither a path nor base64, and for any other type.
    """
    if isinstance(image, Mapping) and isinstance(image.get("b64"), str):
        return _decode_base64(image["b64"])
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str):
        raise ImageError("not_an_image", f"an image is bytes, a path or base64, got {type(image).__name__}")
    prefix, marker, rest = image.partition(";base64,")
    is_data_uri = bool(marker) and prefix.startswith("data:")
    if not is_data_uri and len(image) <= MAX_PATH_LENGTH and _is_file(image):
        return Path(image).read_bytes()
    return _decode_base64(rest if is_data_uri else image)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # base64 is too long for a name, or holds characters that no name may have
        return False


def _decode_base64(text: str) -> bytes:
    standard = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("not_an_image", f"{text[:80]!r} is neither a file here nor base64") from error


set_model(ServedRecognizer())
