"""What a user searches for as features: sentences by the text tower as they are, pictures as labelled images are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32

from ecor.clip.backbone import Backbone
from ecor.config.checks import require
from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.model import NOT_FINITE, Recognizer
from pipelines.config.reporting import FeatureName
from pipelines.storage.image_bytes import read_image_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One search."""

    name: str
    """The sentence, or the address of the picture."""
    kind: str
    """`text` or `image`."""
    feature: Float32[np.ndarray, " D"] = field(repr=False, compare=False)
    """L2-normalised."""


@torch.no_grad()
def encode_queries(
    model: Recognizer, *, texts: Sequence[str], images: Sequence[str], feature: FeatureName
) -> tuple[Query, ...]:
    """Encode all searches: sentences first, then pictures, in the order given.

    Not in the paper: a sentence is read as it is, without template and learned text tokens, as `ecor explain --text`
    reads it. A picture is prepared as the labelled images were, and has the same one of the two features as they.

    Args:
        model: that encoded the labelled images, or one with the same image side.
        texts: sentences.
        images: addresses of pictures.
        feature: which feature of a picture to take.

    Raises:
        ValueError: naming a sentence that the text tower cannot hold, or a picture that cannot be read or encoded.
        OSError: when a disk or a store fails.
    """
    found = [("text", text, _text_feature(model.backbone, text)) for text in texts]
    found += [("image", place, _image_feature(model, place, feature=feature)) for place in images]
    return tuple(Query(name=name, kind=kind, feature=vector) for kind, name, vector in found)


def _text_feature(backbone: Backbone, text: str) -> Float32[np.ndarray, " D"]:
    num_tokens, room = backbone.text_tokenizer.token_counts([text])[0], backbone.context_length
    require(
        num_tokens <= room,
        f"--text {_shorten(text)!r} has {num_tokens} tokens, the model reads {room}: shorten it",
    )
    vector_D = backbone.encode_text([text])[0].float().cpu().numpy()
    require(bool(np.isfinite(vector_D).all()), f"--text {_shorten(text)!r} {NOT_FINITE}")
    return vector_D / np.linalg.norm(vector_D)


def _image_feature(model: Recognizer, place: str, *, feature: FeatureName) -> Float32[np.ndarray, " D"]:
    try:
        picture = decode_image(read_image_bytes(place))
    except (ImageError, OSError) as error:
        raise ValueError(f"--image {place} cannot be read: {error}") from error
    pixels = image_to_pixels(picture, preprocess=model.backbone.preprocess)
    features = model.image_features(torch.from_numpy(pixels[None]))
    require(bool(features.is_finite[0]), f"--image {place} {NOT_FINITE}")
    chosen = features.category if feature == "category" else features.rationale
    vector_D = chosen[0].float().cpu().numpy()
    return vector_D / np.linalg.norm(vector_D)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
