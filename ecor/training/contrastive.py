"""Contrastive pretraining of a small CLIP: model, optimizer, training step and weights.

Ranks share each batch. The result equals that of one rank with the whole batch.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ecor.clip.backbone import Backbone
from ecor.clip.towers.text_forward import encode_captions
from ecor.config.checks import require
from ecor.training.caption_batches import BatchPart, Clip, PretrainingBatch
from ecor.training.distributed import gather_features, gather_ids
from ecor.training.losses.clip_loss import clip_loss


def attribute_loss(logits: Float[Tensor, "B A"], *, present: Bool[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the visible attributes, summed over attributes: an auxiliary loss for early training.

    Args:
        logits: of B images.
        present: whether each image shows each attribute.
    """
    loss_BA = functional.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none")
    return loss_BA.sum(1).mean()


class Pretrainer(nn.Module):
    """A CLIP with an auxiliary linear head that predicts visible attributes; the head is dropped after training."""

    def __init__(self, clip: Clip, *, embed_dim: int, num_attributes: int) -> None:
        super().__init__()
        self.clip: Clip = clip
        self.attribute_head = nn.Linear(embed_dim, num_attributes) if num_attributes else None
        if self.attribute_head is not None:
            nn.init.constant_(self.attribute_head.bias, -4.0)

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        """The loss terms of the whole batch, the same on every rank: `contrastive` and `attributes`."""
        images_BD = gather_features(self.clip.visual(batch.images).float())
        texts_tD = encode_captions(self.clip, batch.tokens, ends=batch.ends).float()
        texts_TD = gather_features(texts_tD)[: batch.own.shape[1]]
        similarity_BT = functional.normalize(images_BD, dim=-1) @ functional.normalize(texts_TD, dim=-1).T
        logits_BT = self.clip.logit_scale.float().exp() * similarity_BT
        readable_B = gather_ids(batch.readable.long()).bool()
        own, true = batch.own & readable_B[:, None], batch.true | ~readable_B[:, None]
        terms = {"contrastive": clip_loss(logits_BT, own=own, ignored=true)}
        if self.attribute_head is not None:
            logits_BA = self.attribute_head(images_BD[readable_B]).float()
            terms["attributes"] = attribute_loss(logits_BA, present=batch.attributes[readable_B])
        return terms


class TokenDropout(nn.Module):
    """Drops a share of the image tokens, others for each image, as FLIP does (arXiv:2212.00794).

    Replaces open_clip's PatchDropout. Tokens are drawn for the whole batch, and a rank uses its part. The draws come
    from a generator whose state can be saved, so the result depends neither on ranks nor on interruptions.
    """

    def __init__(self, generator: torch.Generator, *, part: BatchPart) -> None:
        super().__init__()
        self.share = 0.0
        self._generator, self._part = generator, part

    def forward(self, tokens: Float[Tensor, "b P D"]) -> Float[Tensor, "b K D"]:
        """The kept tokens; the class token, at position 0, is always kept."""
        if not self.training or self.share == 0:
            return tokens
        num_images, num_patches = tokens.shape[0], tokens.shape[1] - 1
        order = torch.randn(num_images * self._part.num, num_patches, generator=self._generator)
        mine = order[self._part.of(len(order))]
        kept = mine.topk(max(1, int(num_patches * (1 - self.share))), dim=-1).indices.to(tokens.device)
        images = torch.arange(num_images, device=tokens.device)[:, None]
        return torch.cat([tokens[:, :1], tokens[:, 1:][images, kept]], dim=1)


def build_pretrainer(
    backbone: Backbone, *, num_rows: int, num_attributes: int, seed: int, part: BatchPart
) -> tuple[Pretrainer, TokenDropout | None, torch.Generator]:
    """Build an untrained model of the backbone's architecture; all random numbers come from the seed.

    Args:
        backbone: gives the architecture; its weights are not used.
        num_rows: of the token table.
        num_attributes: of the auxiliary loss; 0: none.
        seed: of the weights and of the token dropout.
        part: of the batch that this rank processes.

    Returns:
        The model; the module that drops its image tokens (None for towers that are no ViT); the generator of those
            draws.

    Raises:
        ValueError: when the text tower is not CLIP's own.
    """
    require(
        backbone.causal_text is not None and backbone.text is backbone.model,
        f"{backbone.config.name} has another text tower than CLIP's own: choose a model like ViT-B-32 or ecor-demo",
    )
    generator = torch.Generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = backbone.build_untrained().train()
        clip.token_embedding = nn.Embedding(num_rows, clip.token_embedding.embedding_dim)
        nn.init.normal_(clip.token_embedding.weight, std=0.02)
        pretrainer = Pretrainer(clip, embed_dim=backbone.embed_dim, num_attributes=num_attributes)
        generator.set_state(torch.get_rng_state())
    dropout = None
    if backbone.vit is not None:
        dropout = clip.visual.patch_dropout = TokenDropout(generator, part=part)
    return pretrainer, dropout, generator


def pretraining_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Build AdamW with CLIP's betas; only matrices decay.

    Args:
        model: whose parameters with a gradient are trained.
        learning_rate: to begin with; `pretraining_step` sets it anew.
        weight_decay: of matrices.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)


def pretraining_step(
    module: Pretrainer | DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    batch: PretrainingBatch,
    *,
    learning_rate: float,
    attribute_weight: float,
    max_logit_scale: float = 50.0,
    autocast: torch.dtype | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Update the model once, and return the loss terms of the batch, detached.

    Args:
        module: from `build_pretrainer`, wrapped or not.
        optimizer: from `pretraining_optimizer`.
        batch: this rank's part.
        learning_rate: of this step.
        attribute_weight: of the auxiliary loss.
        max_logit_scale: bounds exp(logit_scale).
        autocast: dtype of the towers; None: no autocast.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
        terms = module(batch)
    loss = terms["contrastive"] + attribute_weight * terms.get("attributes", torch.zeros(()))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), max_norm=1.0)
    optimizer.step()
    pretrainer = module.module if isinstance(module, DistributedDataParallel) else module
    with torch.no_grad():
        pretrainer.clip.logit_scale.clamp_(0.0, math.log(max_logit_scale))
    return {name: term.detach() for name, term in terms.items()}


def full_weights(clip: Clip, *, rows: Int[Tensor, " U"], num_rows: int) -> dict[str, Tensor]:
    """Build a state dict for open_clip, in fp16 and with a full token table.

    Args:
        clip: trained with a small token table.
        rows: ids of the small table's tokens. All other tokens share the mean row, which compresses well.
        num_rows: of the full table.
    """
    state = {
        name: (value.detach().half() if value.is_floating_point() else value.detach()).cpu().contiguous()
        for name, value in clip.state_dict().items()
    }
    small = state["token_embedding.weight"]
    table = small.float().mean(0).half().expand(num_rows, -1).clone()
    table[rows] = small
    return state | {"token_embedding.weight": table, "logit_scale": clip.logit_scale.detach().cpu().clone()}


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file in one step, readable by all.

    Args:
        weights: by name.
        path: of the file; a missing folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.chmod(0o644)
    partial.replace(path)
