"""Contrastive pretraining of a small CLIP: batches, model, optimizer and training step.

Several ranks cut each batch; what they learn is what one rank learns with the whole of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ecor.clip.backbone import Backbone
from ecor.clip.towers.text_forward import encode_captions
from ecor.config import require
from ecor.training.clip_loss import clip_loss
from ecor.training.distributed import gather_features, gather_ids

# An open_clip CLIP: `visual`, and the parts of the text tower as attributes; open_clip carries no types.
Clip = Any
# Texts to rows of token ids, each ended by the greatest id and filled up with 0: CLIP's own tokenizer.
Tokenizer = Callable[[list[str]], Tensor]
_TEXTS_PER_PASS = 4096
_TEXTS_KEPT = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """Which of `num` equal parts of every batch a rank sees."""

    index: int = 0
    num: int = 1

    def of(self, count: int) -> slice:
        """This rank's places among `count`, of which the last part may lack some."""
        size = -(-count // self.num)
        return slice(self.index * size, (self.index + 1) * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedImages:
    """A batch as its source makes it: some of the images, all captions; T distinct texts, any number per image."""

    # normalised pixels of the rank's part
    images: Float[Tensor, "b 3 H W"]
    # those that could be read; the others teach nothing
    readable: Bool[Tensor, " b"]
    captions: tuple[str, ...]
    # caption t was written for image b
    own: Bool[Tensor, "B T"]
    # caption t holds for image b, whoever it was written for; a caption true of no image is a contradiction
    true: Bool[Tensor, "B T"]
    # attribute a can be seen in image b; no columns when there is no auxiliary loss
    attributes: Bool[Tensor, "B A"]


class CaptionSource(Protocol):
    """Captioned images: a batch is a function of the source and the step alone, so that any rank makes the same."""

    num_attributes: int

    def texts(self) -> Sequence[str]:
        """Texts that hold, together, every token of every caption."""
        ...

    def batch(self, step: int, *, part: BatchPart) -> CaptionedImages:
        """The batch of a step, with the images of a part of it."""
        ...

    def unreadable(self) -> Mapping[str, str]:
        """Why images could not be read so far, by their sources: of the first few."""
        ...

    def evaluate(self, clip: Clip) -> dict[str, float]:
        """Figures of a model with the full token table on images held back; empty where nothing is known of them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingBatch:
    """What one rank sees of a step: its part of the images and captions, and what is true of all."""

    images: Float[Tensor, "b 3 H W"]
    readable: Bool[Tensor, " b"]
    # token ids, 0 after a caption's end; the last caption is repeated where it takes one to make parts equal
    tokens: Int[Tensor, "t L"]
    # position of each caption's end token
    ends: Int[Tensor, " t"]
    own: Bool[Tensor, "B T"]
    true: Bool[Tensor, "B T"]
    attributes: Bool[Tensor, "B A"]

    def to(self, device: torch.device | str) -> "PretrainingBatch":
        return PretrainingBatch(
            images=self.images.to(device),
            readable=self.readable.to(device),
            tokens=self.tokens.to(device),
            ends=self.ends.to(device),
            own=self.own.to(device),
            true=self.true.to(device),
            attributes=self.attributes.to(device),
        )


class TokenTable:
    """Captions to ids over a small table, which holds only the tokens that occur: few rows to learn and to move."""

    def __init__(self, tokenizer: Tokenizer, *, texts: Sequence[str]) -> None:
        """`texts` hold, together, every token of the captions that will come."""
        self._tokenizer = tokenizer
        distinct = list(dict.fromkeys(texts))
        passes = [distinct[k : k + _TEXTS_PER_PASS] for k in range(0, len(distinct), _TEXTS_PER_PASS)]
        found = [torch.unique(tokenizer(part)) for part in passes]
        # the tokenizer's id of each row; 0 fills up, and must be row 0
        self.rows: Int[Tensor, " U"] = torch.unique(torch.cat([torch.zeros(1, dtype=torch.long), *found]))
        self._known: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> tuple[Int[Tensor, "t L"], Int[Tensor, " t"]]:
        """Rows of the table, cut after the longest caption, and where each caption ends.

        ValueError for a caption with a token that is not in the table.
        """
        if len(self._known) > _TEXTS_KEPT:
            self._known.clear()
        if new := [caption for caption in dict.fromkeys(captions) if caption not in self._known]:
            self._known |= dict(zip(new, self._read(new), strict=True))
        rows_t = [self._known[caption] for caption in captions]
        longest = max(map(len, rows_t))
        tokens_tL = torch.tensor([row + [0] * (longest - len(row)) for row in rows_t])
        return tokens_tL, torch.tensor([len(row) - 1 for row in rows_t])

    def _read(self, captions: list[str]) -> list[list[int]]:
        tokens = self._tokenizer(captions)
        rows = torch.searchsorted(self.rows, tokens.contiguous()).clamp(max=len(self.rows) - 1)
        strange = (self.rows[rows] != tokens).any(dim=1).nonzero()
        require(not len(strange), f"{captions[int(strange[0])] if len(strange) else ''!r} holds an unlisted token")
        ends = tokens.argmax(dim=-1).tolist()
        return [row[: end + 1] for row, end in zip(rows.tolist(), ends, strict=True)]


def tokenize_batch(images: CaptionedImages, *, table: TokenTable, part: BatchPart) -> PretrainingBatch:
    """The batch with the rank's part of its captions as rows of the table."""
    size = -(-len(images.captions) // part.num)
    mine = images.captions[part.of(len(images.captions))]
    tokens, ends = table((*mine, *images.captions[-1:] * (size - len(mine))))
    return PretrainingBatch(
        images=images.images,
        readable=images.readable,
        tokens=tokens,
        ends=ends,
        own=images.own,
        true=images.true,
        attributes=images.attributes,
    )


def match_captions(captions: Sequence[str]) -> tuple[list[str], Bool[Tensor, "B T"]]:
    """Distinct captions, and which image each was written for: `own`, and `true` where nothing else is known."""
    distinct = list(dict.fromkeys(captions))
    index = {caption: t for t, caption in enumerate(distinct)}
    own = torch.zeros(len(captions), len(distinct), dtype=torch.bool)
    own[torch.arange(len(captions)), torch.tensor([index[caption] for caption in captions])] = True
    return distinct, own


def attribute_loss(logits: Float[Tensor, "B A"], *, present: Bool[Tensor, "B A"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of what can be seen, summed over attributes: teaches while captions cannot."""
    loss_BA = functional.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none")
    return loss_BA.sum(1).mean()


class Pretrainer(nn.Module):
    """A CLIP with a linear head on its image embedding that names the attributes in view; the head is thrown away."""

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

    Stands where open_clip's PatchDropout would. The draws are of the whole batch, of which a rank takes its part, and
    come from a generator whose state can be kept: so neither ranks nor interruptions change what is dropped.
    """

    def __init__(self, generator: torch.Generator, *, part: BatchPart) -> None:
        super().__init__()
        self.share = 0.0
        self._generator, self._part = generator, part

    def forward(self, tokens: Float[Tensor, "b P D"]) -> Float[Tensor, "b K D"]:
        """What is left; the class token, which comes first, always stays."""
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
    """An untrained model of the backbone's architecture with a token table of `num_rows`; what drops its image tokens
    (None for towers that are no ViT), and the generator of those draws, all from the seed.

    ValueError when the text tower is not CLIP's own.
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
    """AdamW with CLIP's betas; only matrices decay."""
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
    """One update; returns its loss terms, detached.

    `max_logit_scale` bounds exp(logit_scale), `autocast` is the dtype of the towers.
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
    """open_clip's state of the model: fp16, with a token table of `num_rows`.

    `rows` are the ids of the small table's tokens. Tokens that never occurred share the mean row, which packs well.
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
    """Write a safetensors file in one step, readable by all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.chmod(0o644)
    partial.replace(path)
