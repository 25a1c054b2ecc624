"""Learned prompt tokens for both towers (CoOp, arXiv:2109.01134; VPT, arXiv:2203.12119)."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.config.model import PromptConfig


class PromptLearner(nn.Module):
    """The learned tokens of Prompt_R and Prompt_{c|R}, all that its state_dict holds; without tokens, zero-shot CLIP.

    Args:
        config: numbers and places of the tokens.
        backbone: the CLIP that they are made for.
        generator: draws the normal initialisation, on the CPU, so that every device starts alike.

    Raises:
        ValueError: when visual tokens are asked of an image tower that is no open_clip ViT, or of more blocks than it
            has; when the context tokens leave no room for words; when `init_words` holds no word.
    """

    rationale_context: nn.Parameter | None
    """[M W], between the start token and the words of Prompt_R."""
    category_context: nn.Parameter | None
    """[M W], the same of Prompt_{c|R}."""
    visual: nn.Parameter | None
    """[S depth M W]: depth blocks have tokens of their own; S is 1 where both prompts share them, else 2 (rationale,
    category)."""

    def __init__(self, config: PromptConfig, backbone: Backbone, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        _check_fits(config, backbone)
        self.config = config
        words = backbone.word_embeddings(config.init_words).cpu() if config.init_words else None
        for name, num in (("rationale_context", config.rationale_tokens), ("category_context", config.category_tokens)):
            self.register_parameter(name, _context(num, backbone, config=config, words=words, generator=generator))
        self.register_parameter("visual", _visual(backbone, config=config, generator=generator))
        self.to(backbone.device)

    @property
    def has_two_features(self) -> bool:
        """Whether each prompt has an image feature of its own."""
        return self.visual is not None and len(self.visual) > 1

    def image_features(
        self, backbone: Backbone, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]
    ) -> ImageFeatures:
        """Features for both prompts: one pass where they share their visual tokens, else two."""
        tokens = [None] if self.visual is None else list(self.visual)
        features = [backbone.encode_image(images, tokens=each) for each in tokens]
        return ImageFeatures(rationale=features[0], category=features[-1])


def _check_fits(config: PromptConfig, backbone: Backbone) -> None:
    longest = max(config.rationale_tokens, config.category_tokens)
    require(
        longest + 3 <= backbone.context_length,
        f"{longest} text tokens leave no room for words: the tower takes {backbone.context_length} with start and end",
    )
    if not config.visual_tokens:
        return
    require(
        backbone.vit is not None,
        f"visual_tokens needs an open_clip ViT, which the image tower of {backbone.config.name!r} is not: set it to 0, "
        "and rationale_tokens and category_tokens to 6, say",
    )
    blocks = backbone.num_visual_blocks
    assert blocks is not None
    require(
        config.visual_depth is None or config.visual_depth <= blocks,
        f"visual_depth must be at most {blocks}, the blocks of {backbone.config.name!r}, got {config.visual_depth}",
    )


def _context(
    num_tokens: int,
    backbone: Backbone,
    *,
    config: PromptConfig,
    words: Tensor | None,
    generator: torch.Generator | None,
) -> nn.Parameter | None:
    """Normal, or the embeddings of `words` repeated to the length asked for."""
    if not num_tokens:
        return None
    if words is not None:
        return nn.Parameter(words[torch.arange(num_tokens) % len(words)].clone())
    return nn.Parameter(config.init_std * torch.randn(num_tokens, backbone.text_width, generator=generator))


def _visual(backbone: Backbone, *, config: PromptConfig, generator: torch.Generator | None) -> nn.Parameter | None:
    if not config.visual_tokens:
        return None
    assert backbone.visual_width is not None
    assert backbone.num_visual_blocks is not None
    num_sets = 1 if config.visual_shared else 2
    depth = backbone.num_visual_blocks if config.visual_depth is None else config.visual_depth
    shape = (num_sets, depth, config.visual_tokens, backbone.visual_width)
    return nn.Parameter(config.init_std * torch.randn(shape, generator=generator))
