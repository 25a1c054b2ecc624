"""Captioned batches of a drawn corpus, for `ecor pretrain` without shards, and a zero-shot evaluation.

The shipped weights are those of `ecor pretrain --seed 0 --stop-after-samples 192000 --output small`.
"""

import random
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ecor.demo.corpus import CATEGORY_TEMPLATES, PAIR_TEMPLATES, RATIONALE_TEMPLATES, Corpus, write_captions
from ecor.demo.tiny_clip import normalise_pixels
from ecor.demo.zero_shot_eval import SplitImages, validation_images, zero_shot_table
from ecor.training.caption_batches import BatchPart, CaptionedImages

_VALIDATION_ROLES = ("small", "main")
_NUM_VALIDATION_IMAGES = 300
_SHIFT = 3


class DrawnSource:
    """Drawings with two true captions and a contradiction each, mirrored and shifted at random."""

    def __init__(
        self, corpus: Corpus, *, seed: int, batch_size: int, caption_noise: float, has_attributes: bool
    ) -> None:
        """Hold the corpus; batches are made step by step.

        Args:
            corpus: images with their truth.
            seed: of order, captions and shifts.
            batch_size: B.
            caption_noise: share of images whose captions describe another image of the batch.
            has_attributes: give the attributes of the auxiliary loss.
        """
        self._corpus = corpus
        self._seed, self._batch_size, self._noise = seed, batch_size, caption_noise
        world = corpus.world
        self.num_attributes = len(world.named) + len(world.rationales) if has_attributes else 0
        self._uses = torch.zeros(len(corpus.pixels), dtype=torch.uint8)

    def texts(self) -> list[str]:
        world = self._corpus.world
        parts = [t.format(c=c, r="") for t in CATEGORY_TEMPLATES + PAIR_TEMPLATES for c in world.categories]
        return parts + [t.format(c="", r=r) for t in RATIONALE_TEMPLATES + PAIR_TEMPLATES for r in world.rationales]

    def batch(self, step: int, *, part: BatchPart) -> CaptionedImages:
        corpus, size = self._corpus, self._batch_size
        epoch, place = divmod(step, len(corpus.pixels) // size)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(corpus.pixels))
        rows = order[place * size : (place + 1) * size]
        self._uses[rows] = 1
        made = write_captions(corpus, rows, rng=random.Random(f"{self._seed}/{step}"), noise=self._noise)
        pixels = _augment(corpus.pixels[rows], rng=np.random.default_rng((self._seed, 1, step)))[part.of(size)]
        return CaptionedImages(
            images=normalise_pixels(pixels),
            readable=torch.ones(len(pixels), dtype=torch.bool),
            captions=made.captions,
            own=torch.from_numpy(made.own),
            true=torch.from_numpy(made.true),
            attributes=torch.from_numpy(made.attributes[:, : self.num_attributes]),
        )

    def unreadable(self) -> dict[str, str]:
        return {}

    def uses(self) -> Tensor:
        return self._uses

    def evaluate(self, clip: Any) -> dict[str, float]:
        """Measure zero-shot accuracy, and the rationales found, on each validation set with its best hand-written
        template.
        """
        figures: dict[str, float] = {}
        for name, images in self._validation_sets.items():
            best = max(zero_shot_table(clip, images), key=lambda row: row.category_accuracy)
            figures |= {
                f"{name}/zero_shot": best.category_accuracy,
                f"{name}/labelled_rationale": best.rationale_accuracy,
                f"{name}/visible_rationale": best.visible_accuracy,
            }
        return figures

    @cached_property
    def _validation_sets(self) -> dict[str, SplitImages]:
        names = [f"{self._corpus.world.name}-{role}" for role in _VALIDATION_ROLES]
        return {name: validation_images(name, num_images=_NUM_VALIDATION_IMAGES) for name in names}


def _augment(pixels: UInt8[np.ndarray, "B H W 3"], *, rng: np.random.Generator) -> UInt8[np.ndarray, "B H W 3"]:
    """Mirror half of the images and shift each by up to three pixels."""
    pixels = np.where(rng.random((len(pixels), 1, 1, 1)) < 0.5, pixels[:, :, ::-1], pixels)
    padded = np.pad(pixels, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
    side = pixels.shape[1]
    shifts = rng.integers(0, 2 * _SHIFT + 1, (len(pixels), 2))
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, shifts, strict=True)])
