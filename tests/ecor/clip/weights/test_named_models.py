"""What the name of a model stands for, before its weights are there."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer

from ecor.clip.weights.named_models import check_known, takes_visual_tokens
from ecor.config.model import BackboneConfig

FAMILIES = ("ViT-B-32", "coca_ViT-B-32", "roberta-ViT-B-32", "RN50", "convnext_base", "ViT-B-16-SigLIP",
            "ViT-B-16-SigLIP2", "PE-Core-B-16", "MobileCLIP2-S0", "EVA02-B-16", "ViTamin-S")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_settings_of_a_family_say_whether_its_tower_is_an_open_clip_vit(name: str) -> None:
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    with torch.device("meta"):
        tower = open_clip.model._build_vision_tower(config["embed_dim"], vision)
    assert takes_visual_tokens(BackboneConfig(name=name, pretrained="random")) == isinstance(tower, VisionTransformer)


def test_files_and_the_embedded_model_are_asked_too_and_a_hub_is_not_fetched(tmp_path: Path) -> None:
    place = tmp_path / "resnet.json"
    place.write_text(json.dumps(open_clip.get_model_config("RN50")))
    assert not takes_visual_tokens(BackboneConfig(name=str(place), pretrained="random"))
    assert takes_visual_tokens(BackboneConfig())
    assert takes_visual_tokens(BackboneConfig(name="hf-hub:nobody/nothing", pretrained=None))


def test_what_this_machine_lacks_is_left_to_who_loads_it() -> None:
    """Weights, and files of an architecture, may be on the workers' machines alone."""
    assert not takes_visual_tokens(BackboneConfig(name="RN50", pretrained="/on/a/worker/weights.safetensors"))
    assert takes_visual_tokens(BackboneConfig(name="/on/a/worker/model.json", pretrained="random"))
    unknown = BackboneConfig(name="RN5", pretrained="random")
    assert takes_visual_tokens(unknown)
    with pytest.raises(ValueError, match="unknown model 'RN5': nearest are RN50"):
        check_known(unknown)
