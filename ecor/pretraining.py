"""Images, captions and which is true of which in; one step of contrastive pretraining of a small CLIP out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

# An open_clip CLIP: `visual`, and the parts of the text tower as attributes; open_clip carries no types.
Clip = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingBatch:
    """What one step sees; T captions are distinct texts, of which any number may belong to an image."""

    # normalised pixels
    images: Float[Tensor, "B 3 H W"]
    # token ids, 0 after a caption's end
    tokens: Int[Tensor, "T L"]
    # position of each caption's end token
    ends: Int[Tensor, " T"]
    # caption t was written for image b
    own: Bool[Tensor, "B T"]
    # caption t holds for image b, whoever it was written for; a caption true of no image is a contradiction
    true: Bool[Tensor, "B T"]
    # attribute a can be seen in image b; no columns when there is no auxiliary loss
    attributes: Bool[Tensor, "B A"]


def same_text(captions: Sequence[str]) -> tuple[list[str], Bool[Tensor, "B T"]]:
    """Distinct captions, and which image each was written for: `own`, and `true` where nothing else is known."""
    distinct = list(dict.fromkeys(captions))
    index = {caption: t for t, caption in enumerate(distinct)}
    own = torch.zeros(len(captions), len(distinct), dtype=torch.bool)
    own[torch.arange(len(captions)), torch.tensor([index[caption] for caption in captions])] = True
    return distinct, own


def contrastive_loss(
    logits: Float[Tensor, "B T"], *, own: Bool[Tensor, "B T"], true: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in which only false captions are negatives.

    An image's loss per own caption is its cross-entropy against the captions that do not hold for the image:
    duplicates and other true captions are neither rewarded nor punished. The same by columns for each own caption,
    against the images it does not hold for. Contradictions are negatives and have no column loss. With one distinct
    caption per image this is CLIP's loss (arXiv:2103.00020).
    """
    false_BT = ~(own | true)
    by_image_B = _logsumexp(logits, over=false_BT, dim=1)
    by_caption_T = _logsumexp(logits, over=false_BT, dim=0)
    positives_N = logits[own]
    image_N, caption_N = own.nonzero(as_tuple=True)
    image_loss = functional.softplus(by_image_B[image_N] - positives_N).mean()
    caption_loss = functional.softplus(by_caption_T[caption_N] - positives_N).mean()
    return (image_loss + caption_loss) / 2


def _logsumexp(logits: Tensor, *, over: Tensor, dim: int) -> Tensor:
    """Finite even where nothing is left to sum over."""
    return logits.masked_fill(~over, -1e4).logsumexp(dim)


def attribute_loss(logits: Float[Tensor, "B A"], *, present: Bool[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of what can be seen, summed over attributes: teaches while captions cannot."""
    loss_BA = functional.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none")
    return loss_BA.sum(1).mean()


def encode_captions(model: Clip, tokens: Int[Tensor, "T L"], *, ends: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """Text features of an open_clip CLIP, not normalised, without encoding padding.

    open_clip's own `encode_text` wants sequences of the full context; the tower is causal, so what stands after the end
    token changes nothing and the positional embedding and the mask may be cut to L.
    """
    num_tokens = tokens.shape[1]
    x_TLD = model.token_embedding(tokens) + model.positional_embedding[:num_tokens]
    x_TLD = model.transformer(x_TLD, attn_mask=model.attn_mask[:num_tokens, :num_tokens])
    last_TD = model.ln_final(x_TLD[torch.arange(len(ends), device=ends.device), ends])
    return last_TD @ model.text_projection


class Pretrainer(nn.Module):
    """A CLIP with a linear head on its image embedding that names the attributes in view; the head is thrown away."""

    def __init__(self, clip: Clip, *, embed_dim: int, num_attributes: int) -> None:
        super().__init__()
        self.clip: Clip = clip
        self.attribute_head = nn.Linear(embed_dim, num_attributes)
        nn.init.constant_(self.attribute_head.bias, -4.0)

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        """The loss terms of a batch: `contrastive` and `attributes`."""
        images_BD = self.clip.visual(batch.images).float()
        texts_TD = encode_captions(self.clip, batch.tokens, ends=batch.ends).float()
        similarity_BT = functional.normalize(images_BD, dim=-1) @ functional.normalize(texts_TD, dim=-1).T
        logits_BT = self.clip.logit_scale.float().exp() * similarity_BT
        terms = {"contrastive": contrastive_loss(logits_BT, own=batch.own, true=batch.true)}
        if batch.attributes.shape[1]:
            terms["attributes"] = attribute_loss(self.attribute_head(images_BD).float(), present=batch.attributes)
        return terms


def pretraining_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with CLIP's betas; only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)


def warmup_cosine(done: float, *, warmup: float) -> float:
    """The share of the full learning rate at the share `done` of training: linear from 0, then a cosine to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def pretraining_step(
    pretrainer: Pretrainer,
    optimizer: torch.optim.Optimizer,
    batch: PretrainingBatch,
    *,
    learning_rate: float,
    attribute_weight: float,
    max_logit_scale: float = 50.0,
    autocast: torch.dtype | None = None,
) -> dict[str, float]:
    """One update; returns its loss terms.

    `max_logit_scale` bounds exp(logit_scale), `autocast` is the dtype of the towers.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
        terms = pretrainer(batch)
    loss = terms["contrastive"] + attribute_weight * terms.get("attributes", torch.zeros(()))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(pretrainer.parameters(), max_norm=1.0)
    optimizer.step()
    with torch.no_grad():
        pretrainer.clip.logit_scale.clamp_(0.0, math.log(max_logit_scale))
    return {name: float(term.detach()) for name, term in terms.items()}
