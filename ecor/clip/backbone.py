"""Frozen CLIP towers that encode images and texts, with learned prompt tokens on request."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ecor.clip.construction import ClipParts, build_clip, image_architecture, model_digest, model_preprocess, write_clip
from ecor.clip.feature_types import unit_features
from ecor.clip.open_clip_api import ModifiedResNet, VisionTransformer, set_model_preprocess_cfg
from ecor.clip.towers.causal_text import CausalText, causal_text_of
from ecor.clip.towers.image_forward import check_prompts, encode_pixels
from ecor.clip.towers.image_groups import encode_in_groups
from ecor.clip.towers.reduced_tower import with_reduced_image_tower
from ecor.clip.towers.text_forward import replace_embeddings
from ecor.clip.towers.text_tokenizer import TextTokenizer
from ecor.config.checks import require
from ecor.config.model import BackboneConfig

_TEXTS_PER_PASS = 256
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(nn.Module):
    """Frozen CLIP towers, always in evaluation mode; made by `load_backbone`.

    A SigLIP-like bias on the logits is the same for all texts, so it has no part in any softmax and is left out.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, parts: ClipParts, *, config: BackboneConfig, device: str | torch.device) -> None:
        super().__init__()
        self.config = config
        self.model: Any = parts.model.to(device).requires_grad_(False).eval()
        self.model_cfg = parts.model_cfg
        self.tokenizer = parts.tokenizer
        self.text_tokenizer = TextTokenizer(parts.tokenizer, model_name=config.name)
        self.preprocess = model_preprocess(self.model)
        self.embed_dim = int(parts.model_cfg["embed_dim"])
        self.logit_scale = float(self.model.logit_scale.detach().float().exp())
        for name, values in (("_mean", self.preprocess.mean), ("_std", self.preprocess.std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, 3, 1, 1), persistent=False)
        self._encode: Callable[..., Tensor] = torch.compile(encode_pixels) if config.compile else encode_pixels

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: dropout and batch statistics of a frozen tower must not change."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def text(self) -> Any:
        """The module of the text tower; CLIP itself where the tower is not a module of its own."""
        return getattr(self.model, "text", self.model)

    @property
    def vit(self) -> Any | None:
        """The image tower, if it is an open_clip ViT (the kind that takes visual prompt tokens)."""
        return self.model.visual if isinstance(self.model.visual, VisionTransformer) else None

    @property
    def resnet(self) -> Any | None:
        """The image tower, if it is an open_clip ModifiedResNet (the kind with an attention pool)."""
        return self.model.visual if isinstance(self.model.visual, ModifiedResNet) else None

    @property
    def visual_width(self) -> int | None:
        return self.vit.transformer.width if self.vit else None

    @property
    def visual_blocks(self) -> tuple[nn.Module, ...]:
        """The transformer blocks of the image tower, none if it is no open_clip ViT."""
        return tuple(self.vit.transformer.resblocks) if self.vit else ()

    @property
    def num_visual_blocks(self) -> int | None:
        return len(self.visual_blocks) or None

    @property
    def token_embedding(self) -> nn.Embedding:
        if hasattr(self.text, "token_embedding"):
            return self.text.token_embedding
        return self.text.transformer.get_input_embeddings()

    @property
    def text_width(self) -> int:
        return self.token_embedding.embedding_dim

    @property
    def context_length(self) -> int:
        """Text tokens per sentence at most, start and end token included."""
        return self.text_tokenizer.context_length

    @cached_property
    def causal_text(self) -> CausalText | None:
        """The text tower's parts where it is plain: causal, read at the end token, words from CLIP's own tokenizer."""
        return causal_text_of(self.text, self.tokenizer)

    @cached_property
    def digest(self) -> str:
        """sha256 of architecture, preprocessing and weights, independent of paths and names."""
        return model_digest(self.model.state_dict(), architecture=self.architecture)

    @cached_property
    def image_tower_digest(self) -> str:
        """sha256 of the image tower's architecture, preprocessing and weights: equal where another text tower is."""
        return model_digest(self.model.visual.state_dict(), architecture=image_architecture(self.architecture))

    @property
    def architecture(self) -> dict[str, Any]:
        """Architecture and preprocessing settings, in the form of open_clip's `open_clip_config.json`."""
        preprocess = dict(self.model.visual.preprocess_cfg)
        return json.loads(json.dumps({"model_cfg": self.model_cfg, "preprocess_cfg": preprocess}))

    def build_untrained(self) -> Any:
        """Build a new CLIP of this architecture on the CPU, with weights drawn by torch's global generator."""
        model = build_clip(self.model_cfg)
        set_model_preprocess_cfg(model, dict(self.model.visual.preprocess_cfg))
        return model

    def save(self, folder: str | Path, *, stem: str = "backbone") -> tuple[Path, Path]:
        """Write `<stem>.json` and `<stem>.safetensors`, which `load_backbone` accepts as name and pretrained.

        Args:
            folder: local.
            stem: name of both files, without the extension.
        """
        return write_clip(self.model.state_dict(), Path(folder), architecture=self.architecture, stem=stem)

    @property
    def precision(self) -> str:
        """The precision in use: `auto` resolved for this device."""
        if self.config.precision != "auto":
            return self.config.precision
        return "bf16" if self.device.type == "cuda" else "fp32"

    @property
    def text_precision(self) -> str:
        """Of sentences that are encoded without gradients: on a CPU they stay in fp32 beside a bf16 image tower."""
        return "fp32" if self._reduces_weights else self.precision

    @property
    def _reduces_weights(self) -> bool:
        """Whether features without gradients come from an image tower whose weights are held in bf16 (not autocast)."""
        return self.precision == "bf16" and self.device.type == "cpu"

    def autocast(self) -> AbstractContextManager[None]:
        """Lower precision for the frozen towers, as configured; softmaxes and learned tokens stay outside, in fp32.

        On a CPU, bf16 counts where there are gradients; else see `encode_image` and `text_precision`.
        """
        precision = self.precision if torch.is_grad_enabled() else self.text_precision
        return torch.autocast(self.device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")

    @cached_property
    def _reduced_model(self) -> Any:
        return with_reduced_image_tower(self.model, dtype=torch.bfloat16)

    def normalise(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Convert 8-bit pixels to the normalised values that the tower was trained on."""
        return (images.to(self.device).float() / 255).sub_(self._mean).div_(self._std)

    def encode_image(
        self,
        images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
        *,
        tokens: Float[Tensor, "depth M width"] | None = None,
        fp32: bool = False,
    ) -> Float[Tensor, "B D"]:
        """Compute normalised fp32 features of images.

        In bf16 on a CPU, without gradients, the tower's weights are held in bf16 too: a copy of them, made once. Not in
        the paper.

        Args:
            images: 8-bit pixels, normalised here; or floating-point values that are already normalised.
            tokens: visual prompts (VPT, arXiv:2203.12119). `tokens[0]` stands between the class token and the patches
                from the first block on; each further `tokens[i]` replaces them at block i. Not in the paper: they join
                after the tower's first layer norm, as a block's input, and leave before pooling, so that no pool counts
                them as patches.
            fp32: leave the configured precision out of account.

        Raises:
            ValueError: when there are tokens, and the image tower is no open_clip ViT, has fewer blocks than `tokens`,
                or has another width.
        """
        self.check_tokens(tokens)
        if torch.is_grad_enabled() or self.device.type != "cpu":
            return self._encode_group(images, tokens=tokens, fp32=fp32)
        precision = "bf16" if self._reduces_weights and not fp32 else "fp32"
        return encode_in_groups(partial(self._encode_group, tokens=tokens, fp32=fp32), images, precision=precision)

    def _encode_group(self, images: Tensor, *, tokens: Tensor | None, fp32: bool) -> Tensor:
        pixels = images.to(self.device) if images.is_floating_point() else self.normalise(images)
        if self._reduces_weights and not fp32 and not torch.is_grad_enabled():
            return unit_features(self._encode(self._reduced_model, pixels.to(torch.bfloat16), tokens))
        with nullcontext() if fp32 else self.autocast():
            return unit_features(self._encode(self.model, pixels, tokens))

    def check_tokens(self, tokens: Float[Tensor, "depth M W"] | None) -> None:
        """Check that the image tower accepts visual prompt tokens; ValueError says why it does not."""
        check_prompts(self.model.visual, tokens, model_name=self.config.name)

    def encode_text(
        self, texts: Sequence[str], *, context: Float[Tensor, "M W"] | None = None, fp32: bool = False
    ) -> Float[Tensor, "N D"]:
        """Compute normalised fp32 features of texts by open_clip's own padded forward: the reference, for any tower.

        Sentences that do not fit the context length are truncated; their end token is kept.

        Args:
            texts: at least one.
            context: learned embeddings between the start token and the words (CoOp, arXiv:2109.01134).
            fp32: leave the configured autocast off.

        Raises:
            ValueError: when there is no text, or the context leaves no room for words.
        """
        require(len(texts) > 0, "no text to encode")
        passes = [texts[i : i + _TEXTS_PER_PASS] for i in range(0, len(texts), _TEXTS_PER_PASS)]
        return torch.cat([self._encode_padded(list(part), context=context, fp32=fp32) for part in passes])

    def _encode_padded(self, texts: list[str], *, context: Tensor | None, fp32: bool) -> Tensor:
        num_learned = 0 if context is None else len(context)
        ids = self.text_tokenizer.padded_ids(texts, num_learned=num_learned).to(self.device)
        inserted: AbstractContextManager[Any] = nullcontext()
        if context is not None and len(context):
            start = self.text_tokenizer.num_start_tokens
            inserted = replace_embeddings(self.token_embedding, context, start=start)
        with nullcontext() if fp32 else self.autocast(), inserted:
            return unit_features(self.model.encode_text(ids))

    def word_embeddings(self, words: str) -> Float[Tensor, "L W"]:
        """The token embeddings of some words, without start and end token (fp32, detached).

        Raises:
            ValueError: when there is no word in it.
        """
        ids = self.text_tokenizer.word_ids(words)
        return self.token_embedding(torch.tensor(ids, device=self.device)).detach().float()
