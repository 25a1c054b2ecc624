"""log P(c, {r} | I): against sums over orders and enumeration of all sets."""

import math
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.decoders import joint_probability
from ecor.probability.joint import Joint, ranked_pairs
from ecor.probability.rationale_sets import ranked_sets, sentence_conditional, set_log_prob
from tests.support.random_features import TableRows, world

SCALE = 20.0
TEMPERATURES = Temperatures(rationale=1.7, category_given_rationale=0.6)


def joint_of(features: ImageFeatures, text: TableRows, *, keep: int, top_k: int = 1) -> Joint:
    config = ScoringConfig(method="joint", keep_rationales=keep, max_keep_rationales=keep, top_k=top_k)
    return joint_probability(features, text, scoring=config, logit_scale=SCALE, temperatures=TEMPERATURES)


def doubled(features: ImageFeatures, text: TableRows) -> tuple[ImageFeatures, TableRows]:
    """The same values in double precision."""
    image = ImageFeatures(rationale=features.rationale.double(), category=features.category.double())
    return image, TableRows(text.table.double(), text.rationales.double(), text.categories.double())


def naive_set_prob(prob: list[float], members: tuple[int, ...]) -> float:
    total = 0.0
    for order in permutations(members):
        left, term = 1.0, 1.0
        for member in order:
            term *= prob[member] / left
            left -= prob[member]
        total += term
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_set_probability_sums_over_orders_and_to_one_over_sets(size):
    prob = torch.tensor([[0.3, 0.05, 0.25, 0.1, 0.2, 0.1]])
    sets = torch.tensor([list(combinations(range(6), size))])
    log_prob = set_log_prob(prob.log(), torch.tensor([-math.inf]), sets=sets)
    expected = [naive_set_prob(prob[0].tolist(), members) for members in combinations(range(6), size)]
    torch.testing.assert_close(log_prob.exp(), torch.tensor([expected]), atol=1e-6, rtol=1e-5)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_set_probability_survives_a_rationale_that_is_all_but_certain():
    log_prob = torch.tensor([[0.0, -40.0, -41.0]])
    found = set_log_prob(log_prob, torch.tensor([-math.inf]), sets=torch.tensor([[[0, 1], [0, 2], [1, 2]]]))
    expected = torch.tensor([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))])
    torch.testing.assert_close(found[0, :2], expected)
    assert found[0, 2] < -39


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("keep", [3, 7])
def test_ranked_sets_equal_enumeration(size, keep):
    features, text = doubled(*world())  # the naive formula divides by small remainders
    joint = joint_of(features, text, keep=keep)
    num_sets = math.comb(joint.rationales.shape[1], size)
    ranked = ranked_sets(joint, num_sets * 4, size=size, beam=10**4)
    # Every pair, from the same room whose own tests compare it with loops.
    everything = joint_of(features, text, keep=7, top_k=28)
    ids = everything.rationales.unsqueeze(-1).expand_as(everything.log_prob)
    full = torch.empty_like(everything.log_prob).scatter(1, ids, everything.log_prob).exp()
    for b in range(5):
        prob = full[b].sum(-1).tolist()
        kept = joint.rationales[b][joint.evaluated[b]].tolist()
        expected = {}
        for members in combinations(sorted(kept), size):
            weights = [prob[r] for r in members]
            for c in range(4):
                given_set = sum(float(full[b, r, c]) for r in members) / sum(weights)
                expected[c, members] = naive_set_prob(prob, members) * given_set
        found = {
            (c, tuple(sorted(ids))): math.exp(value)
            for c, ids, value in zip(
                ranked.categories[b].tolist(), ranked.rationales[b].tolist(), ranked.log_prob[b].tolist(), strict=True
            )
            if value > -math.inf
        }
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, abs=1e-9)
        if keep == 7:
            assert sum(found.values()) == pytest.approx(1, abs=1e-9)


def test_sets_of_one_are_the_joint_and_a_narrow_beam_finds_the_best():
    features, text = world(num_rationales=12)
    joint = joint_of(features, text, keep=12, top_k=3)
    pairs, sets = ranked_pairs(joint, 3), ranked_sets(joint, 3, size=1, beam=12)
    assert sets.rationales.squeeze(-1).tolist() == pairs.rationales.tolist()
    assert sets.categories.tolist() == pairs.categories.tolist()
    torch.testing.assert_close(sets.log_prob, pairs.log_prob)
    narrow, wide = ranked_sets(joint, 1, size=3, beam=8), ranked_sets(joint, 1, size=3, beam=500)
    torch.testing.assert_close(narrow.log_prob, wide.log_prob)


def test_the_long_sentence_of_a_set_replaces_the_mixture():
    features, text = world()
    joint = joint_of(features, text, keep=7, top_k=28)
    encoded = []

    def encode(rationales: tuple[int, ...]) -> Tensor:
        encoded.append(rationales)
        return torch.nn.functional.normalize(text.table[list(rationales)].sum(0), dim=-1)

    conditional = sentence_conditional(
        features, encode, logit_scale=SCALE, temperatures=Temperatures(category_given_rationale=0.6)
    )
    single = ranked_sets(joint, 5, size=1, beam=7, conditional=conditional)
    torch.testing.assert_close(single.log_prob, ranked_pairs(joint, 5).log_prob)
    encoded.clear()
    ranked = ranked_sets(joint, 21 * 4, size=2, beam=21, conditional=conditional)
    assert len(encoded) == len(set(encoded))
    torch.testing.assert_close(ranked.log_prob.logsumexp(-1), torch.zeros(5), atol=1e-4, rtol=0)
    best = ranked.rationales[0, 0]
    order = joint.rationales[0].tolist()
    assert order.index(int(best[0])) < order.index(int(best[1]))
    among = (joint.rationales[0].unsqueeze(1) == best).int().argmax(dim=0)
    chosen = set_log_prob(joint.rationale_log_prob[:1], joint.rest_log_prob[:1], sets=among[None, None])
    logits = SCALE / 0.6 * encode(tuple(best.tolist())) @ features.category[0]
    expected = chosen[0, 0] + logits.log_softmax(-1)[ranked.categories[0, 0]]
    assert ranked.log_prob[0, 0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_sets_that_cannot_be_drawn_are_refused():
    features, text = world()
    joint = joint_of(features, text, keep=2)
    for size, message in ((0, "1 to 6"), (7, "1 to 6"), (3, "keep more")):
        with pytest.raises(ValueError, match=message):
            ranked_sets(joint, 1, size=size)
