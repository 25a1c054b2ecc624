"""Laws of the learned tokens: none is zero-shot CLIP, only they are learned, and only they are saved."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig

TEXT = {"context_length": 40, "width": 48, "heads": 4, "layers": 2}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 3},
    "text_cfg": TEXT,
}
RESNET = TINY | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4}}
ALL = PromptConfig(rationale_tokens=2, category_tokens=3, visual_tokens=4, visual_depth=2, visual_shared=False)


def tiny(folder: Path, *, settings: dict = TINY) -> Backbone:
    path = folder / "tiny.json"
    path.write_text(json.dumps(settings))
    return load_backbone(BackboneConfig(name=str(path), pretrained="random"))


def learner(config: PromptConfig, backbone: Backbone, *, seed: int = 0) -> PromptLearner:
    return PromptLearner(config, backbone, generator=torch.Generator().manual_seed(seed))


def photos() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_no_tokens_are_zero_shot_clip(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    prompts = learner(PromptConfig(visual_tokens=0), backbone)
    features = prompts.image_features(backbone, photos())
    theirs = backbone.model.encode_image(backbone.normalise(photos()), normalize=True)
    assert torch.equal(features.rationale, theirs) and features.category is features.rationale
    assert not prompts.state_dict() and not list(prompts.parameters())


def test_the_state_holds_the_tokens_and_nothing_else(tmp_path: Path) -> None:
    state = learner(ALL, tiny(tmp_path)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == {"rationale_context": (2, 48), "category_context": (3, 48), "visual": (2, 2, 4, 64)}


def test_separate_tokens_make_two_passes_and_shared_ones_a_single(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    separate = learner(ALL, backbone)
    features = separate.image_features(backbone, photos())
    for index, ours in enumerate((features.rationale, features.category)):
        assert_close(ours, backbone.encode_image(photos(), tokens=separate.visual[index]))
    shared = learner(PromptConfig(visual_tokens=4), backbone).image_features(backbone, photos())
    assert shared.rationale is shared.category


def test_only_tokens_get_gradients(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    prompts = learner(ALL, backbone)
    features = prompts.image_features(backbone, photos())
    texts = [
        backbone.encode_text(["a dog"], context=each) for each in (prompts.rationale_context, prompts.category_context)
    ]
    (features.rationale @ texts[0].T + features.category @ texts[1].T).sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in prompts.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_same_seed_gives_the_same_tokens(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    first, same, other = (learner(ALL, backbone, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["visual"], other["visual"])


def test_words_can_be_the_beginning(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    prompts = learner(
        PromptConfig(rationale_tokens=3, category_tokens=5, visual_tokens=0, init_words="a photo of"), backbone
    )
    words = backbone.word_embeddings("a photo of")
    assert torch.equal(prompts.rationale_context, words)
    assert torch.equal(prompts.category_context, torch.cat([words, words[:2]]))
    assert_close(
        backbone.encode_text(["a dog"], context=prompts.rationale_context), backbone.encode_text(["a photo of a dog"])
    )


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        (RESNET, PromptConfig(visual_tokens=1), "needs an open_clip ViT"),
        (TINY, PromptConfig(visual_tokens=1, visual_depth=4), "visual_depth must be at most 3"),
        (TINY, PromptConfig(rationale_tokens=38, visual_tokens=0), "leave no room for words"),
        (TINY, PromptConfig(init_words="   "), "holds no word"),
    ],
)
def test_what_does_not_fit_the_tower_is_refused(
    tmp_path: Path, settings: dict, config: PromptConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learner(config, tiny(tmp_path, settings=settings))
