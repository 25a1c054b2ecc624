"""ECOR's loss over the texts of the batch only: CLIP's own loss, over the images of all ranks.

`max_sentences` does not bind: there are few texts per image.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.probability.pair_logits import scaled_similarity
from ecor.training.chunked_logits import (
    LossBatch,
    category_given_rationale_logits,
    encode_pairs,
    map_chunks,
    negative_log_likelihood,
    rationale_logits,
)
from ecor.training.distributed import gather_features, gather_ids, mean_over_ranks
from ecor.training.losses.clip_loss import shared_text_loss
from ecor.training.negative_sampling import distinct_ids, positions_in


def in_batch_pairs_loss(batch: LossBatch) -> dict[str, Tensor]:
    """ECOR's L_CLIP(I, Prompt_R) + L_CLIP(I, Prompt_{c|R}), over the distinct texts of the images of all ranks.

    The second loss compares images with the batch's distinct (category, rationale) pairs.
    """
    categories, rationales = gather_ids(batch.categories), gather_ids(batch.rationales)
    known = (categories >= 0) & (rationales >= 0)
    codes = (rationales * batch.sentences.num_categories + categories).where(known, -1)
    texts = distinct_ids(codes)
    features = gather_features(batch.image.category)

    def logits(part: Tensor) -> Tensor:
        return scaled_similarity(features, encode_pairs(batch.sentences, codes=part), scale=batch.logit_scale)

    logits_BN = torch.cat(map_chunks(logits, texts.split(batch.sentences_per_chunk)), dim=1)
    return {
        "rationale": in_batch_rationales_loss(batch),
        "pair": shared_text_loss(logits_BN, positions_in(texts, codes)),
    }


def in_batch_categories_loss(batch: LossBatch) -> dict[str, Tensor]:
    """L_CLIP(I, Prompt_R), and −log P(c* | r*, I) over the batch's distinct categories, each image's r* held fixed.

    The second term has one direction only, image to text: it is a conditional.
    """
    held = batch.rationales.where(batch.known, -1)
    rows, columns = distinct_ids(held), distinct_ids(gather_ids(batch.categories))
    logits = category_given_rationale_logits(
        batch.image.category, batch, rows=positions_in(rows, held).clamp(min=0), held=rows, ids=columns
    )
    nll = negative_log_likelihood(logits, positions_in(columns, batch.categories.where(batch.known, -1)))
    return {
        "rationale": in_batch_rationales_loss(batch),
        "category_given_rationale": mean_over_ranks(nll, batch.known),
    }


def in_batch_rationales_loss(batch: LossBatch) -> Float[Tensor, ""]:
    """L_CLIP(I, Prompt_R) over the distinct rationales of all ranks' images."""
    rationales = gather_ids(batch.rationales)
    texts = distinct_ids(rationales)
    logits = rationale_logits(gather_features(batch.image.rationale), batch, ids=texts)
    return shared_text_loss(logits, positions_in(texts, rationales))
