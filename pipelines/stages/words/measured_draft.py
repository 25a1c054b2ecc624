"""Measure a draft on images: encode them, find their categories, and ask what they say of each rationale."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from ecor.config.checks import require
from ecor.drafting.evidence import ImageEvidence, gather_evidence, most_probable_categories
from ecor.model import Recognizer
from pipelines.config.infrastructure import absolute_address
from pipelines.config.learning import WordsConfig
from pipelines.runtime.balance import Balance
from pipelines.runtime.console import say
from pipelines.scoring.inputs import ImageInput
from pipelines.stages.words.draft import Draft
from pipelines.stages.words.encoded_images import EncodedImages, encode_images, sample_units


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredDraft:
    """What images say of a draft."""

    encoded: EncodedImages
    found: ImageEvidence
    balance: Balance
    lines: tuple[str, ...]
    """What to print."""


def measure_draft(config: WordsConfig, draft: Draft, *, listed: ImageInput, model: Recognizer) -> MeasuredDraft:
    """Encode the images, or a sample of them, and measure the candidates that their texts have not dropped.

    Not in the paper: where no image has a label, each counts as of its most probable category. Where some have one,
    images without are of no category.

    Args:
        config: of the command, with images.
        draft: to measure.
        listed: the images.
        model: with the vocabulary of the draft (`ecor.drafting.evidence.draft_vocabulary`).

    Raises:
        ValueError: when no image can be encoded, or images are labelled, and none as a category of the list.
    """
    assert config.images is not None
    if (line := listed.describe_left_out()) is not None:
        say(line)
    sampled = replace(listed, units=sample_units(listed.units, max_images=config.max_images))
    encoded = encode_images(
        model,
        sampled,
        root=absolute_address(config.images),
        categories=draft.categories,
        batch_size=config.batch_size,
    )
    ids, said = _image_categories(config, draft, encoded=encoded, model=model)
    found = gather_evidence(
        model,
        encoded.features,
        image_categories=ids,
        candidates=draft.candidates,
        verdicts=draft.verdicts,
        pruning=config.pruning,
    )
    left = {"not_sampled": listed.num_images - sampled.num_images}
    balanced = replace(listed, passed_over={**listed.passed_over, **left})
    return MeasuredDraft(
        encoded=encoded,
        found=found,
        balance=balanced.balance("words", num_taken=len(ids), rejected=encoded.rejected),
        lines=(f"{len(ids):,} images measured with {config.model_name}: {said}",),
    )


def _image_categories(
    config: WordsConfig, draft: Draft, *, encoded: EncodedImages, model: Recognizer
) -> tuple[Int[np.ndarray, " N"], str]:
    """Id of each image's category, -1 for one of none, and who says so."""
    if not encoded.has_labels:
        ids = most_probable_categories(model, encoded.features)
        return ids, "none is labelled, so the model says what each is"
    ids = encoded.category_ids(draft.categories)
    own = int((ids >= 0).sum())
    require(
        own > 0,
        f"none of the {len(ids)} images of {config.images} is labelled as one of the categories in "
        f"{config.categories}: give both the same names",
    )
    return ids, f"{own:,} are labelled as a category of the list"
