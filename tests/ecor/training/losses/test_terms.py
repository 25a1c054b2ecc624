"""Objectives: against naive loops, finite differences, the full sum they estimate, and one process with all images.

Covers: `ecor.training.chunked_logits`, `ecor.training.losses.in_batch`,
`ecor.training.losses.objective`, `ecor.training.losses.sampled_nll`, `ecor.training.negative_sampling`.
"""

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from ecor.clip.feature_types import ImageFeatures
from ecor.config.training import ObjectiveConfig
from ecor.training.chunked_logits import encode_pairs
from ecor.training.losses.objective import objective_of
from ecor.training.negative_sampling import draw_candidates

NAMES = ("two_term", "in_batch_pairs", "in_batch_categories", "inverted", "independent", "pairs", "three_term")
SCALE = 5.0
NUM_CATEGORIES, NUM_RATIONALES, DIM = 4, 6, 5
CATEGORIES = torch.tensor([0, 1, 0, 3, -1, 2, 1, -1])
RATIONALES = torch.tensor([2, 2, 2, 5, 1, -1, 0, -1])
"""Two images share a pair, three a rationale; some labels are unknown."""


class LearnedSentences(nn.Module):
    """Every sentence's feature from a small table, moved by two learned contexts; counts what it encodes."""

    def __init__(self, *, num_categories=NUM_CATEGORIES, num_rationales=NUM_RATIONALES, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.num_categories, self.num_rationales, self.num_encoded = num_categories, num_rationales, []
        self.alone = torch.randn(num_rationales, DIM, generator=generator, dtype=torch.float64)
        self.given = torch.randn(num_rationales, num_categories, DIM, generator=generator, dtype=torch.float64)
        self.rationale_context = nn.Parameter(torch.randn(DIM, generator=generator, dtype=torch.float64))
        self.category_context = nn.Parameter(torch.randn(DIM, generator=generator, dtype=torch.float64))
        self.plain = torch.randn(num_categories, DIM, generator=generator, dtype=torch.float64)

    def rationale_features(self, ids: Tensor | None = None) -> Tensor:
        ids = torch.arange(self.num_rationales) if ids is None else ids
        self.num_encoded.append(len(ids))
        return normalize(torch.tanh(self.alone[ids] * self.rationale_context), dim=-1)

    def categories(self, ids: Tensor | None = None) -> Tensor:
        ids = torch.arange(self.num_categories) if ids is None else ids
        self.num_encoded.append(len(ids))
        return normalize(torch.tanh(self.plain[ids] * self.category_context), dim=-1)

    def category_features(self, rationale_ids: Tensor, category_ids: Tensor | None = None) -> Tensor:
        category_ids = torch.arange(self.num_categories) if category_ids is None else category_ids
        self.num_encoded.append(len(rationale_ids) * len(category_ids))
        return normalize(torch.tanh(self.given[rationale_ids][:, category_ids] * self.category_context), dim=-1)


def images(num: int = 8, *, seed: int = 1) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(
        rationale=normalize(torch.randn(num, DIM, generator=generator, dtype=torch.float64), dim=-1),
        category=normalize(torch.randn(num, DIM, generator=generator, dtype=torch.float64), dim=-1),
    )


def objective(name: str, *, max_sentences: int = 10_000, chunk: int = 10_000):
    return objective_of(ObjectiveConfig(name=name, max_sentences_per_step=max_sentences, sentences_per_chunk=chunk))


def terms(name, sentences, image, *, categories=CATEGORIES, rationales=RATIONALES, seed=0, **kwargs):
    return objective(name, **kwargs)(
        image,
        categories=categories,
        rationales=rationales,
        sentences=sentences,
        logit_scale=SCALE,
        generator=torch.Generator().manual_seed(seed),
    )


def nll(logits: list[float], target: int) -> float:
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[target]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def naive_clip(logits: list[list[float]], true: list[int]) -> float:
    """`logits[image][text]`, a list of distinct texts, `true` the text of each image."""
    to_text = mean([nll(row, t) for row, t in zip(logits, true, strict=True)])
    by_text = []
    for text in range(len(logits[0])):
        column = [row[text] for row in logits]
        by_text.append(mean([nll(column, b) for b, t in enumerate(true) if t == text]))
    return (to_text + mean(by_text)) / 2


def naive(name: str, sentences: LearnedSentences, image: ImageFeatures) -> dict[str, float]:
    with torch.no_grad():
        alone = (SCALE * image.rationale @ sentences.rationale_features().T).tolist()
        everything = sentences.category_features(torch.arange(NUM_RATIONALES))
        given = (SCALE * torch.einsum("bd,rcd->brc", image.category, everything)).tolist()
        plain = (SCALE * image.category @ sentences.categories().T).tolist()
    labels = list(zip(CATEGORIES.tolist(), RATIONALES.tolist(), strict=True))
    with_rationale = [b for b, (_, r) in enumerate(labels) if r >= 0]
    with_both = [b for b in with_rationale if labels[b][0] >= 0]
    with_category = [b for b, (c, _) in enumerate(labels) if c >= 0]
    if name in ("two_term", "three_term"):
        two = {
            "rationale": mean([nll(alone[b], labels[b][1]) for b in with_rationale]),
            "category_given_rationale": mean([nll(given[b][labels[b][1]], labels[b][0]) for b in with_both]),
        }
        third = mean([nll(plain[b], labels[b][0]) for b in with_category])
        return two if name == "two_term" else {**two, "category": third}
    if name == "inverted":
        return {
            "category": mean([nll(plain[b], labels[b][0]) for b in with_category]),
            "rationale_given_category": mean(
                [nll([row[labels[b][0]] for row in given[b]], labels[b][1]) for b in with_both]
            ),
        }
    if name == "independent":
        return {
            "rationale": mean([nll(alone[b], labels[b][1]) for b in with_rationale]),
            "category": mean([nll(plain[b], labels[b][0]) for b in with_category]),
        }
    if name == "pairs":
        flat = [[logit for row in rows for logit in row] for rows in given]
        return {"pair": mean([nll(flat[b], labels[b][1] * NUM_CATEGORIES + labels[b][0]) for b in with_both])}
    texts = sorted({labels[b][1] for b in with_rationale})
    rationale = naive_clip(
        [[alone[b][r] for r in texts] for b in with_rationale], [texts.index(labels[b][1]) for b in with_rationale]
    )
    if name == "in_batch_pairs":
        pairs = sorted({labels[b] for b in with_both})
        logits = [[given[b][r][c] for c, r in pairs] for b in with_both]
        return {"rationale": rationale, "pair": naive_clip(logits, [pairs.index(labels[b]) for b in with_both])}
    columns = sorted({c for c, _ in labels if c >= 0})
    category = [nll([given[b][labels[b][1]][c] for c in columns], columns.index(labels[b][0])) for b in with_both]
    return {"rationale": rationale, "category_given_rationale": mean(category)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [1, 3, 7, 10_000])
def test_terms_equal_the_formulas_written_as_loops_whatever_the_chunks(name, chunk):
    sentences, image = LearnedSentences(), images()
    found = terms(name, sentences, image, chunk=chunk)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(naive(name, sentences, image))
    sum(found.values()).backward()
    whole = LearnedSentences()
    sum(terms(name, whole, image).values()).backward()
    for found_p, whole_p in zip(sentences.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found_p.grad, whole_p.grad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_sentences", [10_000, 18])
def test_gradients_equal_finite_differences(name, max_sentences):
    sentences = LearnedSentences()
    start = images(4)
    context_r, context_c = sentences.rationale_context.data, sentences.category_context.data

    def total(v_r: Tensor, v_c: Tensor, learned_r: Tensor, learned_c: Tensor) -> Tensor:
        del sentences.rationale_context, sentences.category_context
        sentences.rationale_context, sentences.category_context = learned_r, learned_c
        image = ImageFeatures(rationale=v_r, category=v_c)
        found = terms(
            name,
            sentences,
            image,
            categories=CATEGORIES[2:6],
            rationales=RATIONALES[2:6],
            max_sentences=max_sentences,
            chunk=5,
        )
        return sum(found.values())

    inputs = [t.clone().requires_grad_() for t in (start.rationale, start.category, context_r, context_c)]
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_twice_is_not_a_false_negative(name):
    """Repeating the batch leaves every image-to-text loss as it was; text to image has twice the images: log 2."""
    sentences, image = LearnedSentences(), images()
    twice = ImageFeatures(rationale=image.rationale.repeat(2, 1), category=image.category.repeat(2, 1))
    once = terms(name, sentences, image)
    both = terms(name, sentences, twice, categories=CATEGORIES.repeat(2), rationales=RATIONALES.repeat(2))
    for key, value in once.items():
        symmetric = name.startswith("in_batch") and key in ("rationale", "pair")
        assert both[key].item() == pytest.approx(value.item() + symmetric * math.log(2) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_labels_has_no_loss_but_a_graph(name):
    sentences, image = LearnedSentences(), images()
    nothing = torch.full((8,), -1)
    total = sum(terms(name, sentences, image, categories=nothing, rationales=nothing, chunk=3).values())
    assert total.item() == 0
    total.backward()
    for parameter in sentences.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize(
    ("name", "budget"), [("two_term", 200), ("inverted", 200), ("independent", 40), ("pairs", 200), ("three_term", 200)]
)
def test_sampling_keeps_to_the_budget_and_the_true_texts(name, budget):
    sentences = LearnedSentences(num_categories=30, num_rationales=50)
    generator = torch.Generator().manual_seed(0)
    categories = torch.randint(30, (16,), generator=generator)
    rationales = torch.randint(50, (16,), generator=generator)
    with torch.no_grad():
        found = terms(
            name, sentences, images(16), categories=categories, rationales=rationales, max_sentences=budget, chunk=64
        )
    assert sum(sentences.num_encoded) <= budget
    assert all(value > 0 for value in found.values())


def test_the_corrected_sum_over_drawn_candidates_is_unbiased():
    logits = torch.linspace(-2, 3, 12, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(1500):
        drawn = draw_candidates(torch.tensor([3, 7]), num=12, size=5, generator=generator)
        assert drawn.ids.tolist() == sorted(set(drawn.ids.tolist()))
        assert len(drawn.ids) == 5
        assert (drawn.positions(torch.tensor([3, 7])) >= 0).all()
        estimates.append((logits[drawn.ids] - drawn.log_q).exp().sum())
    estimate = torch.stack(estimates)
    error = estimate.std() / math.sqrt(len(estimate))
    assert abs(estimate.mean() - logits.exp().sum()) < 4 * error


@pytest.mark.parametrize("name", ["two_term", "inverted", "independent", "pairs", "three_term"])
def test_sampled_terms_estimate_the_full_ones(name):
    """exp of an image's corrected negative log-likelihood is Z/exp(logit): its mean over draws is the full one's."""
    sentences = LearnedSentences(num_categories=10, num_rationales=16)
    image = images(1)
    label = {"categories": torch.tensor([4]), "rationales": torch.tensor([9])}
    with torch.no_grad():
        full = {key: value.exp() for key, value in terms(name, sentences, image, **label).items()}
        draws = [
            {
                key: value.exp()
                for key, value in terms(name, sentences, image, **label, max_sentences=12, seed=seed).items()
            }
            for seed in range(200)
        ]
    for key, value in full.items():
        sampled = torch.stack([draw[key] for draw in draws])
        assert sampled.std() > 0
        assert abs(sampled.mean() - value) < 4 * sampled.std() / math.sqrt(len(sampled))


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("two_term", NUM_RATIONALES + 3 * NUM_CATEGORIES),
        ("inverted", NUM_CATEGORIES + 3 * NUM_RATIONALES),
        ("independent", NUM_RATIONALES + NUM_CATEGORIES),
        ("pairs", NUM_RATIONALES * NUM_CATEGORIES),
        ("three_term", NUM_RATIONALES + 4 * NUM_CATEGORIES),
    ],
)
def test_as_much_budget_as_sentences_samples_nothing(name, needed):
    """Beside them stands one sentence of Prompt_R where the loss has no part of it: it gets a gradient of zero."""
    sentences = LearnedSentences()
    found = terms(name, sentences, images(), max_sentences=needed)
    assert sum(sentences.num_encoded) == needed + (name in ("inverted", "pairs"))
    assert {key: value.item() for key, value in found.items()} == pytest.approx(naive(name, sentences, images()))


def test_the_third_term_is_weighed():
    found = {
        weight: objective_of(ObjectiveConfig(name="three_term", category_weight=weight))(
            images(), categories=CATEGORIES, rationales=RATIONALES, sentences=LearnedSentences(), logit_scale=SCALE
        )
        for weight in (0.0, 1.0, 2.5)
    }
    assert found[0.0]["category"] == 0
    assert found[2.5]["category"].item() == pytest.approx(2.5 * found[1.0]["category"].item())
    assert found[2.5]["rationale"] == found[1.0]["rationale"]
    with pytest.raises(ValueError, match="category_weight must be at least 0, got -1"):
        ObjectiveConfig(category_weight=-1.0)


def test_records_of_other_objectives_do_not_name_the_weight():
    assert "category_weight" not in ObjectiveConfig(name="two_term").to_record()
    assert ObjectiveConfig(name="three_term").to_record()["category_weight"] == 1.0


def test_an_unknown_objective_lists_the_known_ones():
    config = ObjectiveConfig()
    object.__setattr__(config, "name", "triplet")
    with pytest.raises(ValueError, match="'triplet': choose from two_term, in_batch_pairs"):
        objective_of(config)


class Tuned(nn.Module):
    """Learned sentences and an image-side prompt, with the objective as the forward pass, as DDP wants it."""

    def __init__(self, name: str):
        super().__init__()
        self.sentences, self.name = LearnedSentences(), name
        self.visual = nn.Parameter(torch.full((DIM,), 0.3, dtype=torch.float64))

    def forward(self, image: Tensor, categories: Tensor, rationales: Tensor) -> Tensor:
        moved = normalize(image + self.visual, dim=-1)
        features = ImageFeatures(rationale=moved, category=moved)
        found = terms(self.name, self.sentences, features, categories=categories, rationales=rationales, chunk=5)
        return sum(found.values())


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    mine = slice(4 * rank, 4 * rank + 4)
    found = {}
    for name in NAMES:
        model = DistributedDataParallel(Tuned(name))
        total = model(images().rationale[mine], CATEGORIES[mine], RATIONALES[mine])
        total.backward()
        model(images().rationale[mine], CATEGORIES[mine], RATIONALES[mine])  # refused if a parameter had no gradient
        gradients = [parameter.grad for parameter in model.module.parameters()]
        with torch.no_grad():
            alone = model.module(images().rationale[:4], CATEGORIES[:4], RATIONALES[:4]) if rank == 0 else None
        found[name] = (total.detach(), gradients, alone)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_averaged_equal_one_with_all_images(tmp_path):
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in NAMES:
        model = Tuned(name)
        total = model(images().rationale, CATEGORIES, RATIONALES)
        total.backward()
        torch.testing.assert_close((ranks[0][name][0] + ranks[1][name][0]) / 2, total.detach())
        for rank in range(2):
            for found, parameter in zip(ranks[rank][name][1], model.parameters(), strict=True):
                torch.testing.assert_close(found, parameter.grad)
        alone = model(images().rationale[:4], CATEGORIES[:4], RATIONALES[:4])
        torch.testing.assert_close(ranks[0][name][2], alone.detach())


def test_codes_of_pairs_come_back_in_their_order():
    sentences = LearnedSentences()
    for codes in (torch.tensor([23, 0, 5, 1, 22]), torch.tensor([20, 21, 22, 23]), torch.tensor([2, 10, 6])):
        found = encode_pairs(sentences, codes=codes)
        everything = sentences.category_features(torch.arange(NUM_RATIONALES)).flatten(0, 1)
        torch.testing.assert_close(found, everything[codes])
