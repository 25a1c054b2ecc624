"""Decode samples and stack them into one batch of pixels and label ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ecor.config.model import Preprocess
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.samples import Sample, label_ids
from ecor.data.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples as the model takes them, by id."""

    keys: tuple[str, ...]
    images: UInt8[Tensor, "B 3 H W"]
    categories: Int[Tensor, " B"]
    """-1 where unknown."""
    rationales: Int[Tensor, " B"]
    """The labelled rationale of this epoch; -1 where there is none."""


def collate(samples: Sequence[Sample], *, vocabulary: Vocabulary, preprocess: Preprocess, epoch: int = 0) -> Batch:
    """Decode samples and convert their names to ids.

    Args:
        samples: B of them; none gives an empty batch.
        vocabulary: gives the ids.
        preprocess: of the model that takes the batch.
        epoch: counted from 0; it selects one of each sample's rationales (`label_ids`).

    Raises:
        ImageError: when an image cannot be used.
        ValueError: when the vocabulary lacks a name.
    """
    pixels = [image_to_pixels(decode_image(sample.image), preprocess=preprocess) for sample in samples]
    labels = [label_ids(sample, vocabulary=vocabulary, epoch=epoch) for sample in samples]
    height, width = preprocess.image_size
    return Batch(
        keys=tuple(sample.key for sample in samples),
        images=torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, 3, height, width, dtype=torch.uint8),
        categories=torch.tensor([category for category, _ in labels], dtype=torch.int64),
        rationales=torch.tensor([rationale for _, rationale in labels], dtype=torch.int64),
    )
