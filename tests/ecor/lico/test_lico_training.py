"""LICO: Sinkhorn against a linear programme, gradients against differences, maps against grad-cam, and exact no-ops.

Covers: `ecor.lico.sinkhorn`, `ecor.lico.training`, `ecor.training.losses.manifold_matching`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.optimize import linprog
from torch.nn.functional import normalize

from ecor.config.systems import LicoConfig
from ecor.config.training import ObjectiveConfig
from ecor.lico.classifier import load_classifier, torchvision_maps
from ecor.lico.sinkhorn import sinkhorn_plan, transport_cost
from ecor.lico.training import LicoModule
from ecor.storage.artifact import save_artifact
from ecor.training.losses.manifold_matching import log_manifold, manifold_matching
from ecor.training.losses.objective import objective_of
from ecor.training.steps import ConstantSentences
from tests.support.random_features import world
from tests.support.tiny_models import NAMES, TINY_CLIP
from tests.support.tiny_towers import COCA, RESNET, TIMM, backbone_of

CATEGORIES = tuple(NAMES)
SMALL = {"num_context": 3, "dropout": 0.0}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def module_of(folder: Path, **changes: object) -> LicoModule:
    return LicoModule(backbone_of(folder, TINY_CLIP), categories=CATEGORIES, config=LicoConfig(**(SMALL | changes)))


def images(num: int = 4) -> torch.Tensor:
    return torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def cheapest(cost: np.ndarray) -> float:
    """The optimal transport of uniform marginals as a linear programme."""
    rows, columns = cost.shape
    sums = [np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))]
    marginals = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    found = linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=marginals, bounds=(0, None))
    assert found.success
    return float(found.fun)


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 6), columns=st.integers(2, 5))
def test_sinkhorn_nears_the_linear_programme_from_above_and_keeps_its_marginals(seed: int, rows: int, columns: int):
    cost = random(1, rows, columns, seed=seed)
    least = cheapest(cost[0].numpy())
    before = np.inf
    for epsilon in (0.3, 0.05, 0.01):
        plan = sinkhorn_plan(cost, epsilon=epsilon, max_iterations=5000, tolerance=1e-10)
        torch.testing.assert_close(plan.sum(dim=2), torch.full((1, rows), 1 / rows).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(plan.sum(dim=1), torch.full((1, columns), 1 / columns).double())
        found = float((plan * cost).sum())
        assert least - 1e-4 <= found <= before + 1e-7
        before = found
    assert found - least < 0.01 * np.log(rows * columns) + 1e-4, "the entropy is all that keeps it from the optimum"


def test_sinkhorn_stops_where_it_is_told_to():
    cost = random(2, 5, 4)
    one = sinkhorn_plan(cost, epsilon=0.1, max_iterations=1)
    assert torch.equal(one, sinkhorn_plan(cost, epsilon=0.1, max_iterations=100, tolerance=1e9))
    assert not torch.allclose(one, sinkhorn_plan(cost, epsilon=0.1, max_iterations=100, tolerance=1e-9))
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        sinkhorn_plan(cost, epsilon=0.0)


def test_huge_costs_and_small_epsilons_stay_finite():
    plan = sinkhorn_plan(1e4 * random(1, 4, 3).float(), epsilon=1e-3, max_iterations=50)
    assert torch.isfinite(plan).all()


def test_gradients_pass_through_the_cost_and_not_through_the_plan():
    image, language = random(2, 5, 3), random(2, 4, 3, seed=1)
    given = {"epsilon": 0.1, "max_iterations": 200, "tolerance": 1e-9}

    def cost_of(sides: list[torch.Tensor]) -> torch.Tensor:
        rows, columns = (normalize(side, dim=-1) for side in sides)
        return (rows[:, :, None] - columns[:, None]).square().sum(dim=-1)

    plan = sinkhorn_plan(cost_of([image, language]), **given)
    leaves = [side.clone().requires_grad_() for side in (image, language)]
    transport_cost(*leaves, **given).sum().backward()
    for side, places in enumerate([[(0, 0, 0), (0, 3, 2), (1, 4, 1)], [(0, 0, 0), (0, 2, 1), (1, 3, 2)]]):
        for place in places:
            costs = []
            for size in (1e-6, -1e-6):
                moved = [image.clone(), language.clone()]
                moved[side][place] += size
                costs.append(float((plan * cost_of(moved)).sum()))
            assert float(leaves[side].grad[place]) == pytest.approx((costs[0] - costs[1]) / 2e-6, abs=1e-6)


def test_manifold_matching_is_the_divergence_written_out():
    image, language, temperature = random(4, 6), random(4, 3, seed=1), 0.3
    found = manifold_matching(image, language, temperature=temperature)
    total = 0.0
    for i in range(4):
        near = []
        for rows in (image, language):
            unit = [row / row.norm() for row in rows]
            weights = [np.exp(-float((unit[i] - unit[j]).norm()) / temperature) for j in range(4)]
            near.append(np.array(weights) / sum(weights))
        total += float((near[1] * np.log(near[1] / near[0])).sum())
    assert float(found) == pytest.approx(total / 4, rel=1e-9)
    assert float(manifold_matching(image, 3 * image, temperature=0.1)) == pytest.approx(0.0, abs=1e-9)


def test_gradients_of_manifold_matching_are_its_differences():
    image, language = random(4, 6).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    known = torch.tensor([True, True, False, True])
    assert torch.autograd.gradcheck(
        lambda f, g, t: manifold_matching(f, g, temperature=t, known=known), (image, language, temperature)
    )


def test_equal_rows_and_unlabelled_images_break_nothing():
    image, known = random(5, 6), torch.tensor([True, False, True, True, False])
    language = random(5, 3, seed=1)
    language[2] = language[0]
    leaf = language.clone().requires_grad_()
    whole = manifold_matching(image, leaf, temperature=0.1, known=known)
    torch.testing.assert_close(whole, manifold_matching(image[known], language[known], temperature=0.1))
    whole.backward()
    assert torch.isfinite(leaf.grad).all() and not leaf.grad[~known].any()
    assert float(manifold_matching(image, language, temperature=0.1, known=~known.logical_or(~known))) == 0.0
    assert log_manifold(image, temperature=0.1).exp().sum(dim=1).tolist() == pytest.approx([1.0] * 5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_the_terms_are_those_with_a_weight_and_every_parameter_has_a_gradient(tmp_path: Path, alpha, beta):
    module = module_of(tmp_path, alpha=alpha, beta=beta)
    labels = torch.tensor([0, 1, 2, 1])
    terms = module(images(), categories=labels, rationales=labels, generator=torch.Generator().manual_seed(0))
    assert set(terms) == {"classification"} | ({"manifold"} if alpha else set()) | ({"transport"} if beta else set())
    sum(terms.values()).backward()
    missing = [name for name, each in module.named_parameters() if each.requires_grad and each.grad is None]
    assert not missing, "DDP would wait for them"
    assert (module.language is None) == (alpha == beta == 0)
    plain = module_of(tmp_path, alpha=0.0, beta=0.0)
    for (name, one), other in zip(plain.classifier.state_dict().items(), module.classifier.state_dict().values()):  # noqa: B905
        assert torch.equal(one, other), f"language changes how {name} starts"
    alone = plain(images(), categories=labels, rationales=labels)
    torch.testing.assert_close(alone["classification"], terms["classification"])


def test_the_towers_of_the_backbone_stay_as_they_are(tmp_path: Path):
    backbone = backbone_of(tmp_path, TINY_CLIP)
    before = backbone.digest
    state = torch.random.get_rng_state()
    module = LicoModule(backbone, categories=CATEGORIES, config=LicoConfig(**SMALL))
    assert torch.equal(torch.random.get_rng_state(), state)
    labels = torch.tensor([0, 1, 2, 1])
    sum(module(images(), categories=labels, rationales=labels).values()).backward()
    assert all(each.grad is None for each in backbone.parameters())
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    del backbone.__dict__["digest"]  # computed once
    assert backbone.digest == before


@pytest.mark.parametrize("position", ["end", "front"])
def test_prompts_are_read_as_the_text_tower_reads_them(tmp_path: Path, position: str):
    """The end token's row is the sentence's feature; padding, order and company of other names do not matter."""
    backbone = backbone_of(tmp_path, TINY_CLIP)
    names = ("fox", "a very long name of an owl")
    module = LicoModule(backbone, categories=names, config=LicoConfig(num_context=3, class_position=position))
    language = module.language
    seen = []
    language.inner.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    both = language(torch.tensor([0, 1]))
    assert both.shape == (2, 4, 16)
    torch.testing.assert_close(language(torch.tensor([0]))[0], both[0])
    if position == "end":
        expected = backbone.encode_text(names, context=language.context)
        torch.testing.assert_close(normalize(seen[0][:, -1], dim=-1), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both[0, :3], both[1, :3], msg="context before the name cannot know it")
    else:
        assert not torch.allclose(both[0, :3], both[1, :3])


def test_draws_of_the_language_branch_are_the_generators(tmp_path: Path):
    language = module_of(tmp_path, dropout=0.5).language
    ids = torch.tensor([0, 2])

    def drawn(seed: int) -> torch.Tensor:
        return language(ids, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(language(ids), language(ids))


@pytest.mark.parametrize("encoder", ["clip", "torchvision/resnet18"])
def test_maps_of_the_classifier_are_grad_cams(tmp_path: Path, encoder: str):
    """Against an independent implementation, which knows nothing of the linear head."""
    side = None if encoder == "clip" else 96
    classifier = module_of(tmp_path, encoder=encoder, alpha=0.0, beta=0.0, image_size=side).classifier.eval().double()
    size = classifier.preprocess.image_size
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    classes = torch.tensor([2, 0])
    with GradCAM(classifier, [classifier.encoder]) as cam:
        expected = cam(pixels, [ClassifierOutputTarget(int(each)) for each in classes])
    ours = classifier.grad_cam(pixels, classes).detach()
    highest = ours.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    lowest = ours.amin(dim=(1, 2), keepdim=True)
    enlarged = torch.nn.functional.interpolate(
        ((ours - lowest) / (highest - lowest).clamp(min=1e-12))[:, None], size=size, mode="bilinear"
    )[:, 0]
    for index in range(2):
        at = np.corrcoef(enlarged[index].flatten(), expected[index].flatten())[0, 1] if ours[index].any() else 1.0
        assert at > 0.97, "resized by another library, but the same map"


def test_cnns_without_a_fourth_layer_have_features():
    assert torchvision_maps("mobilenet_v3_small")(torch.zeros(1, 3, 64, 64)).shape == (1, 576, 2, 2)


@pytest.mark.parametrize("encoder", ["clip", "torchvision/resnet18"])
def test_a_classifier_is_loaded_as_it_was_saved(tmp_path: Path, encoder: str):
    module = module_of(tmp_path, encoder=encoder, image_size=None if encoder == "clip" else 64)
    config = {name: getattr(module.config, name) for name in LicoConfig.__dataclass_fields__ if name != "fit"}
    backbone = backbone_of(tmp_path, TINY_CLIP)
    save_artifact(
        "lico",
        module.classifier.state_dict(),
        tmp_path / "run" / "checkpoint",
        settings={"lico": config, "categories": list(CATEGORIES)},
        backbone=backbone.config,
        backbone_digest=backbone.digest,
        vocabulary_digest="v" * 64,
    )
    loaded, side = load_classifier(tmp_path / "run"), 32 if encoder == "clip" else 64
    pixels = torch.rand(2, 3, side, side)
    torch.testing.assert_close(loaded(pixels), module.classifier.eval()(pixels))
    assert loaded.categories == CATEGORIES and loaded.preprocess.image_size == (side, side)


def test_encoders_that_do_not_fit_are_refused(tmp_path: Path):
    for changes, message in (
        ({"encoder": "resnet18"}, "unknown encoder 'resnet18': choose clip, or torchvision/"),
        ({"encoder": "torchvision/resnet19"}, "torchvision has no model 'resnet19'"),
        ({"encoder": "torchvision/vit_b_16"}, "vit_b_16 has no feature maps at its end"),
        ({"image_size": 64}, "a tower has its own size"),
        ({"num_context": 39}, "39 context tokens and a name of .* do not fit into 40"),
    ):
        with pytest.raises(ValueError, match=message):
            module_of(tmp_path, **changes)
    with pytest.raises(ValueError, match="plain causal text tower"):
        LicoModule(backbone_of(tmp_path / "coca", COCA), categories=CATEGORIES, config=LicoConfig())
    with pytest.raises(ValueError, match=r"neither a ViT nor a ResNet of open_clip: set lico\.encoder to torchvision/"):
        LicoModule(backbone_of(tmp_path / "timm", TIMM), categories=CATEGORIES, config=LicoConfig())
    resnet = LicoModule(backbone_of(tmp_path / "resnet", RESNET), categories=CATEGORIES, config=LicoConfig(**SMALL))
    assert resnet.classifier(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("name", ["alpha", "beta", "temperature", "epsilon", "tolerance", "num_context", "dropout"])
def test_settings_out_of_range_are_refused(name: str):
    with pytest.raises(ValueError, match=name):
        LicoConfig(**{name: -1 if name == "num_context" else -1.0})


def test_manifold_matching_of_prompts_is_a_term_of_its_own_and_nothing_at_zero():
    features, text = world(num_images=4)
    text.table.requires_grad_()
    given = {
        "categories": torch.tensor([0, 1, 2, 3]),
        "rationales": torch.tensor([0, 2, -1, 2]),
        "sentences": ConstantSentences(text),
        "logit_scale": 10.0,
    }
    plain = objective_of(ObjectiveConfig(name="two_term"))
    assert objective_of(ObjectiveConfig(name="two_term", manifold_weight=0.0)).terms is plain.terms
    terms = objective_of(ObjectiveConfig(name="two_term", manifold_weight=2.5, manifold_temperature=0.2))(
        features, **given
    )
    manifold = terms.pop("manifold")
    torch.testing.assert_close(terms, plain(features, **given))
    known = torch.tensor([0, 1, 3])
    own = text.rationales[given["rationales"][known]]
    torch.testing.assert_close(manifold, 2.5 * manifold_matching(features.rationale[known], own, temperature=0.2))
