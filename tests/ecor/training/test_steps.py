"""Steps of tuning: the schedule by hand, accumulation as one larger batch, only tokens move, golden losses.

Covers: `ecor.training.evaluation_step`.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.scoring import MethodName, ScoringConfig
from ecor.config.training import FitConfig, ObjectiveConfig, ObjectiveName
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.model import Recognizer
from ecor.probability.joint import ranked_pairs
from ecor.training.evaluation_step import EvaluationSums, evaluation_step
from ecor.training.losses.objective import objective_of
from ecor.training.steps import ConstantSentences, LabelledBatch, PromptTuningModule, optimizer_of, training_step
from tests.support.tiny_models import NAMES, TINY_CLIP

VOCABULARY = vocabulary_from_mapping(NAMES)
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "five_steps.json"
REGENERATE = "ECOR_REGENERATE_GOLDEN"
"""Set this variable to 1 and run this file to write the golden losses anew, on purpose."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tmp_path_factory.mktemp("fitting") / "tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    return load_backbone(BackboneConfig(name=str(path), pretrained="random"))


def recognizer(backbone: Backbone, *, prompts: PromptConfig | None = None, seed: int = 0) -> Recognizer:
    config = prompts or PromptConfig(rationale_tokens=2, category_tokens=2, visual_tokens=2, visual_depth=1)
    learner = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(seed))
    return Recognizer(backbone=backbone, prompts=learner, vocabulary=VOCABULARY)


def tuning(model: Recognizer, *, objective: ObjectiveName = "two_term") -> PromptTuningModule:
    return PromptTuningModule(
        backbone=model.backbone,
        prompts=model.prompts,
        sentences=model.encoder,
        objective=objective_of(ObjectiveConfig(name=objective)),
    )


def batch(num: int, *, seed: int = 0) -> LabelledBatch:
    random = torch.Generator().manual_seed(seed)
    return LabelledBatch(
        pictures=torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=random),
        categories=torch.randint(0, len(VOCABULARY.categories), (num,), generator=random),
        rationales=torch.randint(0, len(VOCABULARY.rationales), (num,), generator=random),
    )


def part(whole: LabelledBatch, rows: slice) -> LabelledBatch:
    return LabelledBatch(
        pictures=whole.pictures[rows], categories=whole.categories[rows], rationales=whole.rationales[rows]
    )


def test_drors_recipe_is_sgd_with_momentum(backbone: Backbone) -> None:
    optimizer = optimizer_of(FitConfig.dror(), recognizer(backbone).prompts.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (40.0, 0.9)
    assert isinstance(optimizer_of(FitConfig(), recognizer(backbone).prompts.parameters()), torch.optim.AdamW)


def test_nothing_to_tune_is_said(backbone: Backbone) -> None:
    none = recognizer(backbone, prompts=PromptConfig(rationale_tokens=0, category_tokens=0, visual_tokens=0))
    with pytest.raises(ValueError, match="no token to tune"):
        optimizer_of(FitConfig(), none.prompts.parameters())


def test_only_tokens_are_parameters_and_only_tokens_move(backbone: Backbone) -> None:
    model = recognizer(backbone)
    module = tuning(model)
    assert {name for name, _ in module.named_parameters()} == {
        "prompts.rationale_context",
        "prompts.category_context",
        "prompts.visual",
    }
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    tokens = model.tokens()
    config = FitConfig(warmup_steps=0)
    optimizer = optimizer_of(config, module.parameters())
    training_step(module, [batch(4)], optimizer=optimizer, config=config, step=0, num_steps=2)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(not torch.equal(tokens[name], value) for name, value in model.tokens().items())


@pytest.mark.parametrize("objective", ["two_term", "inverted", "independent", "pairs", "three_term"])
def test_accumulated_batches_are_one_larger_batch(backbone: Backbone, objective: ObjectiveName) -> None:
    whole = batch(6)
    tokens = []
    for batches in ([whole], [part(whole, slice(0, 3)), part(whole, slice(3, 6))]):
        model = recognizer(backbone)
        module = tuning(model, objective=objective)
        config = FitConfig(optimizer="sgd", learning_rate=0.1, warmup_steps=0)
        optimizer = optimizer_of(config, module.parameters())
        outcome = training_step(module, batches, optimizer=optimizer, config=config, step=0, num_steps=9)
        tokens.append({**model.tokens(), **outcome.terms, "norm": outcome.gradient_norm})
    assert_close(tokens[0], tokens[1], rtol=1e-5, atol=1e-6)


def test_cached_features_give_the_loss_of_pixels(backbone: Backbone) -> None:
    model = recognizer(backbone, prompts=PromptConfig(rationale_tokens=2, category_tokens=2, visual_tokens=0))
    module, data = tuning(model), batch(4)
    labels = {"categories": data.categories, "rationales": data.rationales}
    features = model.image_features(data.pictures)
    assert_close(module(features, **labels), module(data.pictures, **labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["two_term", "inverted", "independent", "pairs"])
def test_constant_sentences_give_the_loss_of_encoded_ones(backbone: Backbone, objective: ObjectiveName) -> None:
    model = recognizer(backbone)
    features, data = model.image_features(batch(4).pictures), batch(4)
    by_rows, by_columns = (ConstantSentences(model.text, by_columns=each) for each in (False, True))
    losses = [
        objective_of(ObjectiveConfig(name=objective, sentences_per_chunk=3))(
            features,
            categories=data.categories,
            rationales=data.rationales,
            sentences=sentences,
            logit_scale=backbone.logit_scale,
        )
        for sentences in (model.encoder, by_rows, by_columns)
    ]
    assert_close(losses[0], losses[1], rtol=0, atol=1e-4)
    assert_close(losses[1], losses[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "method"),
    [("two_term", "joint"), ("inverted", "inverted"), ("independent", "independent"), ("pairs", "pairs")],
)
@pytest.mark.parametrize("num_tokens", [0, 2])
def test_a_loss_is_what_its_decoding_says_of_the_true_pairs(
    backbone: Backbone, objective: ObjectiveName, method: MethodName, num_tokens: int
) -> None:
    prompts = PromptConfig(rationale_tokens=num_tokens, category_tokens=num_tokens, visual_tokens=num_tokens)
    model, data = recognizer(backbone, prompts=prompts), batch(6)
    features, num_rationales = model.image_features(data.pictures), len(VOCABULARY.rationales)
    terms = objective_of(ObjectiveConfig(name=objective))(
        features,
        categories=data.categories,
        rationales=data.rationales,
        sentences=model.encoder,
        logit_scale=backbone.logit_scale,
    )
    scoring = ScoringConfig(method=method, keep_rationales=num_rationales)
    joint = model.joint(features, scoring=scoring)
    place = (joint.rationales == data.rationales[:, None]).float().argmax(dim=1)
    true = joint.log_prob[torch.arange(6), place, data.categories]
    assert sum(terms.values()).item() == pytest.approx(-true.mean().item(), abs=1e-5)


def test_gradients_are_clipped_to_the_norm(backbone: Backbone) -> None:
    model = recognizer(backbone)
    module = tuning(model)
    config = FitConfig(optimizer="sgd", momentum=0.0, learning_rate=1.0, warmup_steps=0, clip_norm=1e-3)
    optimizer = optimizer_of(config, module.parameters())
    before = model.tokens()
    outcome = training_step(module, [batch(4)], optimizer=optimizer, config=config, step=0, num_steps=9)
    moved = torch.cat([(value - before[name]).flatten() for name, value in model.tokens().items()])
    assert float(outcome.gradient_norm) > 1e-3
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_is_an_error(backbone: Backbone) -> None:
    model = recognizer(backbone)
    with torch.no_grad():
        model.prompts.category_context.fill_(torch.inf)
    module, config = tuning(model), FitConfig()
    optimizer = optimizer_of(config, module.parameters())
    with pytest.raises(ValueError, match="lower the learning rate"):
        training_step(module, [batch(2)], optimizer=optimizer, config=config, step=3, num_steps=9)


def test_evaluation_counts_as_a_loop_does(backbone: Backbone) -> None:
    model, data = recognizer(backbone), batch(7)
    features = model.image_features(data.pictures)
    scoring, objective = ScoringConfig(top_k=1), objective_of(ObjectiveConfig())
    best = ranked_pairs(model.joint(features, scoring=scoring), 1)
    # the second label of every image is what the model says, so that there is something to be right about
    labelled = torch.stack([data.rationales, best.rationales[:, 0]], dim=1)
    labelled[3:, 1] = -1
    categories = best.categories[:, 0].clone()
    categories[0] = (categories[0] + 1) % len(VOCABULARY.categories)
    sums = [
        evaluation_step(
            model,
            features.select(rows),
            categories=categories[rows],
            rationales=labelled[rows],
            objective=objective,
            scoring=scoring,
        )
        for rows in (torch.arange(0, 4), torch.arange(4, 7))
    ]
    means = (sums[0] + sums[1]).means()
    right = [categories[i] == best.categories[i, 0] and best.rationales[i, 0] in labelled[i].tolist() for i in range(7)]
    assert means["rr"] == pytest.approx(sum(map(bool, right)) / 7)
    assert means["accuracy"] == pytest.approx(6 / 7)
    whole = objective(
        features,
        categories=categories,
        rationales=labelled[:, 0].contiguous(),
        sentences=ConstantSentences(model.text),
        logit_scale=backbone.logit_scale,
    )
    assert means["loss"] == pytest.approx(float(sum(whole.values())), rel=1e-5)
    assert means["loss_rationale"] == pytest.approx(float(whole["rationale"]), rel=1e-5)


def test_sums_of_no_order_are_equal() -> None:
    one = EvaluationSums(terms={"a": 1.0}, num_right=1, num_right_category=2, num_images=4)
    two = EvaluationSums(terms={"a": 3.0}, num_right=0, num_right_category=1, num_images=1)
    assert one + two == two + one
    assert (one + two).means() == {"loss": 0.8, "loss_a": 0.8, "rr": 0.2, "accuracy": 0.6}


@pytest.mark.parametrize(
    "objective", ["two_term", "pairs", "in_batch_pairs", "in_batch_categories", "inverted", "independent"]
)
def test_losses_of_five_steps_are_the_golden_ones(backbone: Backbone, objective: ObjectiveName) -> None:
    model = recognizer(backbone)
    module, config = tuning(model, objective=objective), FitConfig(learning_rate=0.05, warmup_steps=2)
    optimizer = optimizer_of(config, module.parameters())
    losses = []
    for step in range(5):
        outcome = training_step(
            module, [batch(4, seed=step)], optimizer=optimizer, config=config, step=step, num_steps=5
        )
        losses.append({name: float(value) for name, value in outcome.terms.items()})
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get(REGENERATE) == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({**golden, objective: losses}, indent=1, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for ours, theirs in zip(losses, golden[objective], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_cached_features_move_between_devices_as_one_tensor() -> None:
    features = torch.randn(3, 4)
    same = LabelledBatch(
        pictures=ImageFeatures(rationale=features, category=features),
        categories=torch.zeros(3, dtype=torch.int64),
        rationales=torch.zeros(3, dtype=torch.int64),
    ).to(torch.device("cpu"))
    assert isinstance(same.pictures, ImageFeatures)
    assert same.pictures.rationale is same.pictures.category
