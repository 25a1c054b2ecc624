"""Tiny random towers of every kind that explanations open, and of the kinds that they cannot."""

import json
from pathlib import Path

import torch

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.model import BackboneConfig

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 2}
PLAIN = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"vocab_size": 64}}


def _vision(**changes: object) -> dict:
    return PLAIN | {"vision_cfg": VISION | changes}


def _text(**changes: object) -> dict:
    return PLAIN | {"custom_text": True, "text_cfg": TEXT | changes}


VITS = {
    "class_token": PLAIN,
    "wide": _vision(image_size=[24, 40]),
    "average": _vision(pool_type="avg"),
    "average_normed_after": _vision(pool_type="avg", final_ln_after_pool=True),
    "class_token_normed_after": _vision(final_ln_after_pool=True, no_ln_pre=True),
    "layer_scale": _vision(ls_init_value=0.5),
    "custom_blocks": _vision(
        block_type="custom", qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True
    ),
    "quick_gelu": PLAIN | {"quick_gelu": True},
}
RESNET = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4},
    "text_cfg": TEXT | {"vocab_size": 64},
}
COCA = {
    "embed_dim": 24,
    "custom_text": True,
    "vision_cfg": VISION
    | {"output_tokens": True, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4},
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
TIMM = PLAIN | {
    "vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
}
CONVNEXT = PLAIN | {
    "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
}
SIGLIP = {
    "embed_dim": 192,
    "custom_text": True,
    "init_logit_bias": -10,
    "vision_cfg": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 224,
    },
    "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
}
TEXT_TOWERS = {
    "clip": PLAIN | {"text_cfg": TEXT},
    "custom": _text(),
    "bidirectional": _text(no_causal_mask=True, pool_type="last"),
    "first": _text(pool_type="first"),
    "end_token": _text(pool_type="eos", eos_id=49407),
    "no_projection": _text(proj_type="none", width=24, heads=2),
    "biased_projection": _text(proj_bias=True),
    "quick_gelu": PLAIN | {"quick_gelu": True, "text_cfg": TEXT},
    "layer_scale": _text(ls_init_value=0.5),
    "custom_blocks": _text(block_type="custom", qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True),
    "siglip": SIGLIP,
    "coca": COCA,
}


def backbone_of(folder: Path, settings: dict) -> Backbone:
    """An untrained model whose numbers are the same each time, none of them a special case such as zero or one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tower.json"
    path.write_text(json.dumps(settings))
    backbone = load_backbone(BackboneConfig(name=str(path), pretrained="random"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone


def prompts_for(backbone: Backbone, *, depth: int = 2, num: int = 3) -> torch.Tensor:
    assert backbone.visual_width is not None
    return torch.randn(depth, num, backbone.visual_width, generator=torch.Generator().manual_seed(2))


def tower_of(folder: Path, settings: dict = PLAIN, *, prompted: bool = False) -> ImageTower:
    backbone = backbone_of(folder, settings)
    return ImageTower(backbone=backbone, tokens=prompts_for(backbone) if prompted else None)


def pixels_for(tower: ImageTower, *, num: int = 2, seed: int = 0) -> torch.Tensor:
    """Normalised pixels."""
    size = tower.backbone.preprocess.image_size
    return torch.randn(num, 3, *size, generator=torch.Generator().manual_seed(seed))


def texts_for(tower: ImageTower, *, num: int = 3, seed: int = 0) -> torch.Tensor:
    """Normalised text features [T D]."""
    features = torch.randn(num, tower.backbone.embed_dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=-1)
