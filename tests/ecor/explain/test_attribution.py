"""Laws of explaining a tuned model: its own prompts, texts and distractors are used; the demo's evidence is found.

Covers: `ecor.explain.joint_heatmaps`, `ecor.explain.targets`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.demo.dataset import LabelledDrawing, labelled_drawings
from ecor.demo.worlds.registry import set_vocabulary
from ecor.explain import (
    Category,
    CategoryGivenRationale,
    FreeText,
    Rationale,
    attribute,
    build_method,
    explain,
    explain_joint,
)
from ecor.explain.metrics.localization import energy_inside, score_contrast
from ecor.model import Recognizer
from tests.support.tiny_models import NAMES, TINY_CLIP, tiny_recognizer

FOX, EARS, TAIL = Category(name="fox"), Rationale(name="pointed ears"), Rationale(name="a bushy tail")
FOX_EARS = CategoryGivenRationale(category="fox", rationale="pointed ears")


def pictures(num: int = 2, *, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, size, size), generator=generator, dtype=torch.uint8)


def recognizer_with_two_visual_prompts(folder: Path) -> Recognizer:
    path = folder / "clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    backbone = load_backbone(BackboneConfig(name=str(path), pretrained="random"))
    config = PromptConfig(visual_tokens=2, visual_depth=2, visual_shared=False, init_std=1.0)
    prompts = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(0))
    return Recognizer(backbone=backbone, prompts=prompts, vocabulary=vocabulary_from_mapping(NAMES))


def test_each_target_is_compared_as_the_model_compares_it(tmp_path: Path) -> None:
    """The cosine that a target's map is of is the one in the model's own logits."""
    model = recognizer_with_two_visual_prompts(tmp_path)
    images, features = pictures(), model.image_features(pictures())
    text, names = model.text, model.vocabulary
    sentence = FreeText(sentence="a red ball")
    cases = [
        (EARS, features.rationale, text.rationales[names.rationale_id("pointed ears")]),
        (FOX, features.category, text.categories[names.category_id("fox")]),
        (FOX_EARS, features.category, text.row(names.rationale_id("pointed ears"))[names.category_id("fox")]),
        (sentence, features.category, model.backbone.encode_text(["a red ball"])[0]),
    ]
    heatmap = explain(model, images, [case[0] for case in cases], by=WholeScore())
    assert heatmap.texts == ("pointed ears", "fox", "fox because of pointed ears", "a red ball")
    for column, (_, feature, wanted) in enumerate(cases):
        assert_close(heatmap.scores[:, column, 0, 0], feature @ wanted, atol=1e-5, rtol=0)


class WholeScore:
    """A method whose map is the score itself: any callable of this shape is a method."""

    requires = None
    needs: frozenset[str] = frozenset()

    def __call__(self, tower: ImageTower, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bd,btd->bt", tower.features(pixels), texts)[..., None, None]


def test_distractors_are_the_other_names_unless_given(tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path)
    tower = ImageTower(backbone=model.backbone, tokens=model.prompts.visual[0])
    found = explain(model, pictures(), [EARS, TAIL], by="clip_surgery").scores
    ids = [model.vocabulary.rationale_id(each.name) for each in (EARS, TAIL)]
    all_maps = attribute(tower, pictures(), model.text.rationales, method=build_method("clip_surgery")).scores
    assert_close(found, all_maps[:, ids], atol=1e-5, rtol=1e-3)
    given = explain(model, pictures(), [EARS], by="clip_surgery", distractors=model.text.categories).scores
    assert not torch.allclose(given, found[:, :1], atol=1e-4)
    free = explain(model, pictures(), [FreeText(sentence="a ball")], by="clip_surgery").scores
    assert free.abs().max() > 1e-4


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_the_joint_has_a_map_per_kept_rationale_and_one_for_the_category_given_them(
    tmp_path: Path, num_prompts: int
) -> None:
    """With one visual prompt for both, all maps are of one pass."""
    model = {1: tiny_recognizer, 2: recognizer_with_two_visual_prompts}[num_prompts](tmp_path)
    images, names = pictures(3), model.vocabulary
    found = explain_joint(model, images, by="grad_eclip", num_rationales=2)
    assert found.rationales.scores.shape[:2] == (3, 2) and found.category.scores.shape[:2] == (3, 1)
    single = explain_joint(model, images, by="grad_eclip", num_rationales=1)
    joint = model.joint(images)
    for b in range(3):
        category = names.categories[int(joint.category_log_prob[b].argmax())]
        kept = [names.rationales[int(each)] for each in joint.rationales[b, :2]]
        own = explain(model, images[b : b + 1], [Rationale(name=name) for name in kept], by="grad_eclip").scores
        assert_close(found.rationales.scores[b], own[0], atol=1e-6, rtol=1e-3)
        pair = CategoryGivenRationale(category=category, rationale=kept[0])
        given = explain(model, images[b : b + 1], [pair], by="grad_eclip").scores
        assert_close(single.category.scores[b], given[0], atol=1e-6, rtol=1e-3)


def test_in_the_joint_no_text_is_told_apart_from_itself(tmp_path: Path) -> None:
    """Of each image's own distractors, in passes of two images."""
    model = recognizer_with_two_visual_prompts(tmp_path)
    images, names = pictures(3), model.vocabulary
    found = explain_joint(model, images, by="clip_surgery", num_rationales=2, batch_size=2)
    single = explain_joint(model, images, by="clip_surgery", num_rationales=1)
    for b in range(3):
        image, kept = images[b : b + 1], found.rationale_ids[b].tolist()
        own = explain(model, image, [Rationale(name=names.rationales[each]) for each in kept], by="clip_surgery").scores
        assert_close(found.rationales.scores[b], own[0], atol=1e-6, rtol=1e-3)
        category = int(found.category_ids[b])
        others = [each for each in range(len(names.categories)) if each != category]
        rule = build_method("clip_surgery", distractors=model.text.categories[others])
        tower = ImageTower(backbone=model.backbone, tokens=model.prompts.visual[-1])
        text = model.text.row(kept[0])[category][None]
        given = attribute(tower, image, text, method=rule).scores
        assert_close(single.category.scores[b], given[0], atol=1e-6, rtol=1e-3)


def test_a_vocabulary_of_one_name_is_told_apart_from_the_empty_sentence(tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path)
    one = model.with_vocabulary(vocabulary_from_mapping({"fox": ["a tail"]}))
    found = explain_joint(one, pictures(2), by="clip_surgery", num_rationales=3)
    free = explain(one, pictures(2), [Rationale(name="a tail")], by="clip_surgery").scores
    assert_close(found.rationales.scores, free, atol=1e-6, rtol=1e-3)
    assert found.category.scores.abs().max() > 1e-4


class AskedWith(WholeScore):
    """What it was called with is kept."""

    def __init__(self) -> None:
        self.texts: list[torch.Tensor] = []

    def __call__(self, tower: ImageTower, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        self.texts.append(texts)
        return super().__call__(tower, pixels, texts)


@pytest.mark.parametrize("num_prompts", [1, 2])
@pytest.mark.parametrize("num_rationales", [2, 3])
def test_the_joints_category_is_asked_by_the_mixture_of_its_kept_rationales(
    tmp_path: Path, num_prompts: int, num_rationales: int
) -> None:
    """The prompts of the category because of each, by P(r | c, I) among them: their probabilities are the joint's."""
    model = {1: tiny_recognizer, 2: recognizer_with_two_visual_prompts}[num_prompts](tmp_path)
    images, asked = pictures(3), AskedWith()
    found = explain_joint(model, images, by=asked, num_rationales=num_rationales)
    assert len(asked.texts) == num_prompts, "one visual prompt for both: one pass"
    joint, text = model.joint(images), model.text
    for b in range(3):
        c = int(joint.category_log_prob[b].argmax())
        prob = joint.log_prob[b, :num_rationales, c].exp()
        prob = prob / prob.sum()
        assert prob.min() > 1e-3, "a mixture, not its best alone"
        prompts = [text.row(int(r))[c] for r in joint.rationales[b, :num_rationales]]
        wanted = sum(p * prompt for p, prompt in zip(prob, prompts, strict=True))
        wanted = wanted / wanted.norm()
        assert_close(asked.texts[-1][b, -1], wanted, atol=1e-6, rtol=1e-5)
        feature = model.image_features(images[b : b + 1]).category[0]
        assert_close(found.category.scores[b, 0, 0, 0], feature @ wanted, atol=1e-5, rtol=0)


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path)
    with pytest.raises(ValueError, match="a wing"):
        explain(model, pictures(), [Rationale(name="a wing")])
    with pytest.raises(ValueError, match="no target"):
        explain(model, pictures(), [])
    with pytest.raises(ValueError, match="unknown method"):
        explain(model, pictures(), [FOX], by="eyes")
    with pytest.raises(ValueError, match="no image"):
        explain(model, pictures(0), [FOX])
    with pytest.raises(ValueError, match="give settings to the method itself"):
        explain(model, pictures(), [FOX], by=build_method("itsm"), compat=True)


@pytest.fixture(scope="module")
def drawings() -> list[LabelledDrawing]:
    return list(labelled_drawings(set_name="demo-small", split="test", num_images=60, seed=7))


@pytest.mark.slow
def test_occlusion_finds_the_thing_in_drawn_scenes(drawings: list[LabelledDrawing]) -> None:
    """On scenes that the embedded model labels right, evidence for the category lies on the thing more than chance."""
    model = Recognizer.zero_shot(set_vocabulary("demo-small"))
    pixels = torch.from_numpy(np.stack([np.asarray(each.drawing.image) for each in drawings])).permute(0, 3, 1, 2)
    labels = model.joint(pixels).category_log_prob.argmax(dim=-1).tolist()
    right = [n for n, each in enumerate(drawings) if model.vocabulary.categories[labels[n]] == each.category][:20]
    assert len(right) >= 15
    maps, masks = [], []
    for n in right:
        target = Category(name=drawings[n].category)
        maps.append(explain(model, pixels[n : n + 1], [target], by="occlusion").on_input()[0, 0])
        things = [label for label, (owner, _) in drawings[n].drawing.legend.items() if owner == 0]
        masks.append(torch.from_numpy(np.isin(np.asarray(drawings[n].drawing.labels), things)))
    found, truth = torch.stack(maps), torch.stack(masks)
    assert float(score_contrast(found, truth).mean()) > 5
    assert float(energy_inside(found, truth).mean()) > float(truth.float().mean()) + 0.03
