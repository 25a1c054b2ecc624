"""ECLIP: pooling and masks against naive loops, maps that begin as ITSM's, a loss that is CLIP's, records that hold.

Covers: `ecor.eclip.guidance`, `ecor.storage.artifact`.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.model import BackboneConfig
from ecor.config.systems import EclipConfig
from ecor.eclip.guidance import (
    GUIDANCE,
    average_pool,
    class_attention,
    guidance_of,
    guided_patches,
    mask_by_mass,
    mask_by_threshold,
    max_pool,
    pool_patches,
    rollout_attention,
)
from ecor.eclip.projection import EclipModule, Projection, SentenceFeatures, read_projection
from ecor.explain import attribute, build_method
from ecor.explain.methods.similarity import Eclip
from ecor.storage.artifact import save_artifact
from ecor.storage.model_records import read_artifact
from tests.support.tiny_towers import RESNET, TIMM, VITS, backbone_of, pixels_for, texts_for, tower_of

NUM_IMAGES, NUM_PATCHES, DIM = 5, 9, 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def names_of(*, num: int, dim: int = DIM) -> SentenceFeatures:
    features = normalize(torch.randn(2 * num, dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    return SentenceFeatures(rationales=features[:num], categories=features[num:])


@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.5, 1.0, 1.5, 99.0]))
def test_masked_max_pooling_is_the_maximum_over_patches_at_or_above_the_threshold(seed: int, threshold: float):
    patches, guidance = random(2, NUM_PATCHES, DIM, seed=seed) - 0.5, random(2, NUM_PATCHES, seed=seed + 1)
    found = pool_patches(patches, guidance, config=EclipConfig(threshold=threshold))
    for image in range(2):
        least = threshold * float(guidance[image].mean())
        kept = [p for p in range(NUM_PATCHES) if float(guidance[image, p]) >= least] or [int(guidance[image].argmax())]
        for channel in range(DIM):
            assert found[image, channel] == max(patches[image, p, channel] for p in kept)


@given(seed=st.integers(0, 10_000), keep_mass=st.floats(0.05, 1.0))
def test_mass_keeps_the_fewest_patches_that_hold_it(seed: int, keep_mass: float):
    guidance = random(3, NUM_PATCHES, seed=seed).double()
    mask = mask_by_mass(guidance, keep_mass=keep_mass)
    for weights, kept in zip(guidance, mask, strict=True):
        share = weights[kept].sum() / weights.sum()
        assert share >= keep_mass - 1e-9
        assert (weights[kept].sum() - weights[kept].min()) / weights.sum() < keep_mass + 1e-9
        if not kept.all():
            assert weights[kept].min() >= weights[~kept].max()


def test_a_guidance_that_is_all_zero_keeps_something():
    nothing = torch.zeros(2, NUM_PATCHES)
    assert mask_by_threshold(nothing, threshold=1.0).all()
    assert mask_by_mass(nothing, keep_mass=0.5).sum(dim=1).tolist() == [1, 1]
    patches = random(2, NUM_PATCHES, DIM)
    torch.testing.assert_close(average_pool(patches, weights=nothing), patches.mean(dim=1))


def test_the_rivals_pool_what_their_names_say():
    patches, guidance = random(2, NUM_PATCHES, DIM), random(2, NUM_PATCHES, seed=1)
    of = {
        name: pool_patches(patches, guidance, config=EclipConfig(pooling=name))
        for name in ("max", "average", "attention")
    }
    assert torch.equal(of["max"], torch.stack([image.max(dim=0).values for image in patches]))
    torch.testing.assert_close(of["average"], patches.mean(dim=1))
    for image in range(2):
        weighted = sum(w * patch for w, patch in zip(guidance[image], patches[image], strict=True))
        torch.testing.assert_close(of["attention"][image], weighted / guidance[image].sum())
    assert torch.equal(pool_patches(patches, guidance, config=EclipConfig(threshold=0.0)), of["max"])


def test_only_the_winning_patch_of_a_channel_gets_its_gradient():
    patches = torch.tensor([[[1.0, 5.0], [2.0, 3.0], [9.0, 9.0]]], requires_grad=True)
    max_pool(patches, mask=torch.tensor([[True, True, False]])).sum().backward()
    assert torch.equal(patches.grad, torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]))


@pytest.mark.parametrize("name", ["class_token", "wide", "layer_scale"])
def test_guidance_is_the_last_blocks_attention_as_torch_computes_it(tmp_path: Path, name: str):
    tower = tower_of(tmp_path, VITS[name])
    pixels = pixels_for(tower)
    trace = tower.trace(pixels)
    block, module = trace.blocks[-1], tower.backbone.vit.transformer.resblocks[-1].attn
    _, attention = module(block.normed, block.normed, block.normed, need_weights=True, average_attn_weights=True)
    torch.testing.assert_close(class_attention(tower, pixels), attention[:, 0, 1:], atol=1e-6, rtol=1e-5)


def test_every_guidance_fits_every_tower_that_has_attention(tmp_path: Path):
    for number, settings in enumerate((*VITS.values(), RESNET)):
        tower = tower_of(tmp_path / str(number), settings)
        for guidance in GUIDANCE.values():
            patches = guided_patches(tower, pixels_for(tower), guidance=guidance)
            assert patches.shape[2] == tower.backbone.embed_dim + 1
    with pytest.raises(ValueError, match="unknown guidance 'dino': choose from class_attention, rollout"):
        guidance_of("dino")
    tower = tower_of(tmp_path / "timm", TIMM)
    with pytest.raises(ValueError, match="eclip needs patch tokens"):
        guided_patches(tower, pixels_for(tower), guidance=class_attention)


def test_guidance_that_does_not_fit_is_refused(tmp_path: Path):
    tower = tower_of(tmp_path)
    with pytest.raises(ValueError, match=r"guidance is \(2, 5\), patches are \(2, 16\)"):
        guided_patches(tower, pixels_for(tower), guidance=lambda _, pixels: torch.ones(len(pixels), 5))
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        guided_patches(tower, pixels_for(tower), guidance=lambda _, pixels: -torch.ones(len(pixels), 16))
    own = guided_patches(tower, pixels_for(tower), guidance=lambda _, pixels: torch.ones(len(pixels), 16))
    assert torch.equal(own[..., -1], torch.ones(2, 16))
    assert rollout_attention(tower, pixels_for(tower)).shape == (2, 16)


def test_an_untrained_projection_gives_the_maps_of_itsm(tmp_path: Path):
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    untrained = Projection(tower.backbone.embed_dim, has_text=True).as_method()
    plain = attribute(tower, pixels, texts, method=build_method("itsm"))
    assert torch.equal(attribute(tower, pixels, texts, method=untrained).scores, plain.scores)


def test_with_a_text_per_image_the_loss_is_clips(tmp_path: Path):
    patches = torch.cat([random(NUM_IMAGES, NUM_PATCHES, DIM), random(NUM_IMAGES, NUM_PATCHES, 1, seed=1)], dim=-1)
    names, ids = names_of(num=NUM_IMAGES), torch.arange(NUM_IMAGES)
    module = EclipModule(Projection(DIM, has_text=False), names=names, logit_scale=7.0, config=EclipConfig())
    terms = module(patches, categories=ids.flip(0), rationales=ids)
    features = module.features(patches)
    for kind, texts, labels in (("rationales", names.rationales, ids), ("categories", names.categories, ids.flip(0))):
        logits = 7.0 * features @ texts[labels].T
        clip = (cross_entropy(logits, ids) + cross_entropy(logits.T, ids)) / 2
        torch.testing.assert_close(terms[kind], clip / 2)
    only = EclipModule(
        Projection(DIM, has_text=False), names=names, logit_scale=7.0, config=EclipConfig(texts="rationales")
    )
    alone = only(patches, categories=ids, rationales=ids)
    torch.testing.assert_close(alone, {"rationales": 2 * terms["rationales"]})


@pytest.mark.parametrize("has_text", [False, True])
def test_learning_moves_the_projection_and_nothing_of_the_backbone(tmp_path: Path, has_text: bool):
    tower = tower_of(tmp_path)
    backbone, dim = tower.backbone, tower.backbone.embed_dim
    before = backbone.digest
    projection = Projection(dim, has_text=has_text)
    given = {"names": names_of(num=4, dim=dim), "logit_scale": backbone.logit_scale}
    module = EclipModule(projection, config=EclipConfig(), **given)
    learned = {"learned.projection", *(["learned.text_projection"] if has_text else [])}
    assert {name for name, _ in module.named_parameters()} == learned and not list(module.buffers())
    patches, labels = guided_patches(tower, pixels_for(tower, num=4), guidance=class_attention), torch.arange(4)
    sum(module(patches, categories=labels, rationales=labels).values()).backward()
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    assert all(not torch.equal(each, torch.eye(dim)) for each in module.parameters())
    assert all(each.grad is None for each in backbone.parameters())
    del backbone.digest  # kept since it was first asked for
    assert backbone.digest == before


def test_captions_take_the_place_of_the_names():
    """The loss is that of rationales whose sentences they are; without any it is refused."""
    patches = torch.cat([random(NUM_IMAGES, NUM_PATCHES, DIM), random(NUM_IMAGES, NUM_PATCHES, 1, seed=1)], dim=-1)
    names, labels = names_of(num=NUM_IMAGES), torch.tensor([0, 3, 3, -1, 1])
    nothing = torch.full((NUM_IMAGES,), -1)
    given = {"logit_scale": 7.0, "names": names}
    by_name = EclipModule(Projection(DIM, has_text=False), config=EclipConfig(texts="rationales"), **given)
    captioned = replace(names, rationales=names.categories, captions=names.rationales)
    config = EclipConfig(texts="captions")
    module = EclipModule(Projection(DIM, has_text=False), config=config, **(given | {"names": captioned}))
    found = module(patches, categories=nothing, rationales=labels)
    torch.testing.assert_close(found["captions"], by_name(patches, categories=nothing, rationales=labels)["rationales"])
    assert set(found) == {"captions"}
    with pytest.raises(ValueError, match="there are none"):
        EclipModule(Projection(DIM, has_text=False), config=config, **given)(
            patches, categories=labels, rationales=labels
        )


def test_pictures_without_labels_teach_nothing():
    patches = torch.cat([random(NUM_IMAGES, NUM_PATCHES, DIM), random(NUM_IMAGES, NUM_PATCHES, 1, seed=1)], dim=-1)
    labels = torch.tensor([0, 1, -1, 2, -1])
    module = EclipModule(Projection(DIM, has_text=True), names=names_of(num=4), logit_scale=7.0, config=EclipConfig())
    whole = module(patches, categories=labels, rationales=labels)
    known = labels >= 0
    some = module(patches[known], categories=labels[known], rationales=labels[known])
    torch.testing.assert_close(whole, some)


def test_a_record_gives_the_method_again_and_what_was_altered_is_refused(tmp_path: Path):
    backbone = backbone_of(tmp_path / "tower", VITS["class_token"])
    projection = Projection(backbone.embed_dim, has_text=True)
    with torch.no_grad():
        projection.projection.add_(random(backbone.embed_dim, backbone.embed_dim))
    folder = tmp_path / "run" / "checkpoint"
    record = save_artifact(
        "eclip",
        projection.state_dict(),
        folder,
        settings={"pooling": "max", "sizes": (1, 2)},
        backbone=BackboneConfig(),
        backbone_digest=backbone.digest,
        vocabulary_digest="v" * 64,
        metrics={"validation_loss": 1.0},
    )
    assert read_artifact(tmp_path / "run", "eclip") == record
    tower = ImageTower(backbone=backbone)
    loaded = Eclip(**read_projection(tmp_path / "run", backbone_digest=backbone.digest))
    expected = attribute(tower, pixels_for(tower), texts_for(tower), method=projection.as_method())
    found = attribute(tower, pixels_for(tower), texts_for(tower), method=loaded)
    assert torch.equal(found.scores, expected.scores) and found.method == "eclip"

    other = backbone_of(tmp_path / "other", VITS["layer_scale"])
    with pytest.raises(ValueError, match=f"learned on backbone {backbone.digest} .* not on {other.digest}"):
        Eclip(**read_projection(folder, backbone_digest=other.digest))
    with pytest.raises(ValueError, match="name a folder of `ecor train --system eclip`"):
        Eclip(**read_projection(tmp_path, backbone_digest=backbone.digest))
    data = bytearray((folder / "eclip.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "eclip.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=rf"eclip\.safetensors is .*, its record says {record.tensors_sha256}"):
        Eclip(**read_projection(folder, backbone_digest=backbone.digest))
    (folder / "eclip.json").write_text((folder / "eclip.json").read_text().replace('"max"', '"average"'))
    with pytest.raises(ValueError, match="was altered"):
        Eclip(**read_projection(folder, backbone_digest=backbone.digest))


@pytest.mark.parametrize("changes", [{"threshold": -0.1}, {"keep_mass": 0.0}, {"keep_mass": 1.1}])
def test_settings_out_of_range_are_refused(changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        EclipConfig(**changes)
