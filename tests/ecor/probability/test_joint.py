"""log P(c, r | I) and its rivals: against naive loops, sums to one, exactness of the kept rationales, sets.

Covers: `ecor.probability.decoders`, `ecor.probability.exact_top_k`.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import category_given_rationale_log_prob, random_rationales
from ecor.probability.joint import ranked_pairs
from tests.support.random_features import TableRows, world

METHODS = ("joint", "inverted", "independent", "pairs")
SCALE = 20.0
TEMPERATURES = Temperatures(rationale=1.7, category_given_rationale=0.6)


def scoring(method: str = "joint", **kwargs) -> ScoringConfig:
    keep = kwargs.pop("keep_rationales", 2)
    return ScoringConfig(
        method=method, keep_rationales=keep, max_keep_rationales=kwargs.pop("max_keep_rationales", 64), **kwargs
    )


def score(features, text, config, *, scale=SCALE):
    return joint_probability(features, text, scoring=config, logit_scale=scale, temperatures=TEMPERATURES)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def naive(features: ImageFeatures, text: TableRows, method: str) -> Tensor:
    """P(c, r | I) [B R C], number by number as the formulas are written."""
    num_rationales, num_categories = text.table.shape[:2]
    rationales, categories = range(num_rationales), range(num_categories)
    hot, cold = SCALE / TEMPERATURES.rationale, SCALE / TEMPERATURES.category_given_rationale
    out = torch.zeros(len(features), num_rationales, num_categories, dtype=torch.float64)
    for b in range(len(features)):
        v_r, v_c = features.rationale[b].double(), features.category[b].double()
        table = text.table.double()
        alone_r = softmax([hot * float(v_r @ text.rationales[r].double()) for r in rationales])
        alone_c = softmax([cold * float(v_c @ text.categories[c].double()) for c in categories])
        all_pairs = softmax([cold * float(v_c @ table[r, c]) for r in rationales for c in categories])
        for r in rationales:
            for c in categories:
                c_given_r = softmax([cold * float(v_c @ table[r, other]) for other in categories])[c]
                r_given_c = softmax([hot * float(v_c @ table[other, c]) for other in rationales])[r]
                out[b, r, c] = {
                    "joint": alone_r[r] * c_given_r,
                    "inverted": alone_c[c] * r_given_c,
                    "independent": alone_c[c] * alone_r[r],
                    "pairs": all_pairs[r * num_categories + c],
                }[method]
    return out


def dense(joint) -> Tensor:
    """[B R C] of a Joint that keeps all rationales."""
    ids = joint.rationales.unsqueeze(-1).expand_as(joint.log_prob)
    return torch.empty_like(joint.log_prob).scatter(1, ids, joint.log_prob)


@pytest.mark.parametrize("method", METHODS)
def test_all_rationales_kept_equals_the_formulas_written_as_loops(method):
    features, text = world()
    joint = score(features, text, scoring(method, keep_rationales=7, top_k=28))
    expected = naive(features, text, method)
    torch.testing.assert_close(dense(joint).double().exp(), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(joint.kept_mass, torch.ones(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(joint.category_log_prob.double().exp(), expected.sum(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        joint.rationale_log_prob.double().exp(), expected.sum(2).gather(1, joint.rationales), atol=1e-6, rtol=1e-4
    )
    assert joint.pairs_exact.all()
    assert joint.category_certain.all()


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 10_000),
    num_categories=st.integers(1, 6),
    num_rationales=st.integers(1, 20),
    top_k=st.integers(1, 8),
    keep=st.integers(1, 6),
    limit=st.integers(6, 20),
    scale=st.sampled_from([0.5, 10.0, 100.0]),
)
@settings(max_examples=40, deadline=None)
def test_rows_called_exact_hold_the_best_pairs(method, seed, num_categories, num_rationales, top_k, keep, limit, scale):
    features, text = world(seed=seed, num_images=3, num_categories=num_categories, num_rationales=num_rationales)
    config = scoring(method, top_k=top_k, keep_rationales=keep, max_keep_rationales=limit)
    joint = score(features, text, config, scale=scale)
    everything = score(
        features, text, scoring(method, top_k=10**6, keep_rationales=10**6, max_keep_rationales=10**6), scale=scale
    )
    exact = joint.pairs_exact
    found, truth = ranked_pairs(joint, top_k), ranked_pairs(everything, top_k)
    rounding = max(1e-5, 5e-7 * scale)  # of fp32 logits as large as the scale
    torch.testing.assert_close(found.log_prob[exact], truth.log_prob[exact], atol=rounding, rtol=1e-5)
    assert ((joint.kept_mass >= 0) & (joint.kept_mass <= 1)).all()
    held = joint.log_prob.flatten(1).logsumexp(1).exp()
    torch.testing.assert_close(joint.kept_mass, held, atol=rounding, rtol=0)
    chosen = everything.category_log_prob.gather(1, joint.category_log_prob.argmax(-1, keepdim=True)).squeeze(1)
    behind = everything.category_log_prob.amax(-1) - chosen  # two categories may differ by less than rounding
    assert (behind <= rounding)[joint.category_certain].all()
    torch.testing.assert_close(joint.category_log_prob.logsumexp(-1), torch.zeros(3), atol=rounding, rtol=0)


def test_images_that_need_fewer_rationales_look_at_fewer():
    features, text = world(num_images=40, num_rationales=30, seed=3)
    joint = score(features, text, scoring(top_k=5, keep_rationales=2))
    evaluated = joint.evaluated.sum(-1)
    assert joint.pairs_exact.all()
    assert evaluated.min() < evaluated.max() == joint.rationales.shape[1]
    assert set(evaluated.tolist()) <= {2, 4, 8, 16, 30}
    one_by_one = [score(features.select(torch.tensor([b])), text, scoring(top_k=5)) for b in range(40)]
    assert evaluated.tolist() == [single.rationales.shape[1] for single in one_by_one]
    together = ranked_pairs(joint, 5)
    for b, single in enumerate(one_by_one):
        assert together.rationales[b].tolist() == ranked_pairs(single, 5).rationales[0].tolist()


def test_a_limit_that_is_too_low_is_told():
    features, text = world(num_rationales=50)
    joint = score(features, text, scoring(keep_rationales=2, max_keep_rationales=4), scale=0.1)
    assert joint.rationales.shape[1] == 4
    assert not joint.pairs_exact.any()
    assert not joint.category_certain.any()
    assert (joint.kept_mass < 0.2).all()


@pytest.mark.parametrize("method", METHODS)
def test_permuting_categories_permutes_columns(method):
    features, text = world()
    order = torch.tensor([2, 0, 3, 1])
    permuted = TableRows(text.table[:, order], text.rationales, text.categories[order])
    config = scoring(method, keep_rationales=7, top_k=28)
    torch.testing.assert_close(
        dense(score(features, permuted, config)), dense(score(features, text, config))[..., order]
    )


def test_labelled_and_random_rationales_condition_the_category():
    features, text = world()
    labelled = torch.tensor([[3], [3], [0], [6], [-1]])
    given_log_prob = category_given_rationale_log_prob(
        features, text, rationales=labelled, logit_scale=SCALE, temperatures=Temperatures()
    )
    for b, rationale in enumerate([3, 3, 0, 6]):
        logits = SCALE * text.table[rationale] @ features.category[b]
        torch.testing.assert_close(given_log_prob[b, 0], logits.log_softmax(-1))
    assert given_log_prob[4].isnan().all()
    drawn = random_rationales(2000, num_rationales=7, generator=torch.Generator().manual_seed(0))
    counts = drawn.flatten().bincount(minlength=7)
    assert counts.min() > 200
    assert len(counts) == 7


def test_half_precision_text_and_autocast_leave_the_softmax_in_fp32():
    features, text = world()
    half = TableRows(text.table.half(), text.rationales.half(), text.categories.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joint = score(features, half, scoring(keep_rationales=7, top_k=28))
    assert joint.log_prob.dtype == torch.float32
    exact = score(features, text, scoring(keep_rationales=7, top_k=28))
    torch.testing.assert_close(dense(joint), dense(exact), atol=0.05, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_the_image(method):
    features, text = world(num_images=2)
    image = torch.nn.Parameter(features.rationale.double())
    double = TableRows(text.table.double(), text.rationales.double(), text.categories.double())

    def best_pair(v: Tensor) -> Tensor:
        both = ImageFeatures(rationale=v, category=v)
        return ranked_pairs(score(both, double, scoring(method, top_k=3)), 1).log_prob

    assert torch.autograd.gradcheck(best_pair, (image,))


def test_an_unknown_method_lists_the_known_ones():
    features, text = world()
    config = scoring()
    object.__setattr__(config, "method", "backwards")
    with pytest.raises(ValueError, match="'backwards': choose from joint, inverted, independent, pairs"):
        score(features, text, config)
