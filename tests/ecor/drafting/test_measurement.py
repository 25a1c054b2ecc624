"""Numbers of images against naive loops, and the choice that follows from them.

Covers: `ecor.drafting.selection`, `ecor.drafting.evidence`, `ecor.config.drafting`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecor.config.drafting import DraftConfig, PruningConfig
from ecor.drafting.candidates import Candidate
from ecor.drafting.evidence import draft_vocabulary, gather_evidence, most_probable_categories
from ecor.drafting.measurement import Measurement, measure_pairs, near_duplicates
from ecor.drafting.selection import Evidence, select_candidates
from ecor.model import Recognizer
from tests.support.tiny_models import tiny_recognizer


def random_images(*, num: int, num_rationales: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    similarity = random.normal(size=(num, num_rationales)).round(1).astype(np.float32)  # with ties
    return similarity, random.integers(-1, 3, size=num)


def test_speaking_and_auc_equal_naive_loops() -> None:
    similarity, of = random_images(num=40, num_rationales=9)
    categories, rationales = np.array([0, 0, 1, 2, 2]), np.array([0, 3, 3, 8, 1])
    similarity = similarity + 1e-4 * np.arange(9, dtype=np.float32)  # ties within an image have no order
    found = measure_pairs(
        similarity, image_categories=of, categories=categories, rationales=rationales, top_k=3, min_images=2
    )
    assert found.chance == pytest.approx(3 / 9)
    for pair, (category, rationale) in enumerate(zip(categories, rationales, strict=True)):
        own = [image for image in range(40) if of[image] == category]
        speaks = [rationale in sorted(range(9), key=lambda r: -similarity[image][r])[:3] for image in own]
        assert found.num_images[pair] == len(own)
        assert found.speaks[pair] == pytest.approx(np.mean(speaks))
        wins = [
            (similarity[a, rationale] > similarity[b, rationale])
            + 0.5 * (similarity[a, rationale] == similarity[b, rationale])
            for a in own
            for b in range(40)
            if of[b] != category
        ]
        assert found.auc[pair] == pytest.approx(np.mean(wins))
    assert np.all((found.q_value >= 0) & (found.q_value <= 1))


def test_a_category_with_few_images_is_not_measured_and_equal_values_separate_nothing() -> None:
    similarity, of = np.ones((6, 2), dtype=np.float32), np.array([0, 0, 0, 1, -1, -1])
    found = measure_pairs(
        similarity, image_categories=of, categories=np.array([0, 1]), rationales=np.array([0, 1]), top_k=1, min_images=3
    )
    assert found.auc[0] == 0.5 and found.q_value[0] == 1.0
    assert np.isnan([found.auc[1], found.speaks[1], found.q_value[1]]).all()


def test_a_near_duplicate_repeats_the_better_one_of_its_category() -> None:
    features = np.array([[1, 0], [0.999, 0.0447], [0, 1], [1, 0]], dtype=np.float32)
    repeats = near_duplicates(features, categories=np.array([0, 0, 0, 1]), order=[1, 0, 2, 3], max_similarity=0.99)
    assert repeats.tolist() == [1, -1, -1, -1]


def candidates(number: int, *, category: str = "cat") -> list[Candidate]:
    return [Candidate(category=category, rationale=f"part {n}", sources=("x",)) for n in range(number)]


def evidence(auc: list[float], *, speaks: float = 1.0, q_value: float = 0.0) -> Evidence:
    number = len(auc)
    measurement = Measurement(
        num_images=np.full(number, 9),
        speaks=np.full(number, speaks),
        chance=0.1,
        auc=np.array(auc),
        q_value=np.full(number, q_value),
    )
    return Evidence(
        measurement=measurement, name_similarity=np.zeros(number), repeats=np.full(number, -1, dtype=np.int64)
    )


LIMITS = PruningConfig(min_auc=0.6, min_rationales=0, max_rationales=10)


def reasons(found: Evidence, *, verdicts: list[str] | None = None, pruning: PruningConfig = LIMITS) -> list[str]:
    number = len(found.name_similarity)
    decided = select_candidates(candidates(number), verdicts or [""] * number, evidence=found, pruning=pruning)
    return [each.reason for each in decided]


def test_each_limit_drops_for_its_own_reason() -> None:
    assert reasons(evidence([0.9, 0.5, float("nan")])) == ["", "does_not_separate", ""]
    assert reasons(evidence([0.9], speaks=0.1)) == ["never_speaks"]
    assert reasons(evidence([0.9], q_value=0.2)) == ["does_not_separate"]
    alike = replace(evidence([0.9, 0.9]), name_similarity=np.array([0.99, 0.5]))
    assert reasons(alike) == ["like_the_name", ""]
    repeated = replace(evidence([0.8, 0.9]), repeats=np.array([1, -1]))
    assert reasons(repeated) == ["near_duplicate", ""]
    assert reasons(evidence([0.9, 0.9]), verdicts=["names_category", ""]) == ["names_category", ""]


def test_a_category_keeps_its_best_and_no_more_than_the_most() -> None:
    few = replace(LIMITS, min_rationales=2)
    assert reasons(evidence([0.5, 0.55, 0.9, 0.4]), pruning=few) == ["does_not_separate", "", "", "does_not_separate"]
    named = reasons(evidence([0.5, 0.55]), verdicts=["names_category", ""], pruning=few)
    assert named == ["names_category", ""], "what names the category is never restored"
    most = replace(LIMITS, max_rationales=2)
    assert reasons(evidence([0.7, 0.9, 0.8]), pruning=most) == ["beyond_most", "", ""]


def test_without_images_texts_and_the_most_decide() -> None:
    decided = select_candidates(
        candidates(4), ["", "same_text", "", ""], evidence=None, pruning=replace(LIMITS, max_rationales=2)
    )
    assert [each.reason for each in decided] == ["", "same_text", "", "beyond_most"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"min_auc": 0.4}, "min_auc lies between 0.5 and 1, got 0.4"),
        ({"false_alarms": 0.0}, "false_alarms is a share above 0"),
        ({"max_name_similarity": 1.5}, "max_name_similarity is a cosine"),
        ({"min_rationales": 11}, "min_rationales (11) is more than max_rationales (10)"),
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError) as error:
        PruningConfig(**wrong)
    assert said in str(error.value)
    with pytest.raises(ValueError, match="depth must be at least 0"):
        DraftConfig(depth=-1)


def test_evidence_of_a_model_is_that_of_its_features(tmp_path) -> None:
    plain = tiny_recognizer(tmp_path)
    found = [
        Candidate(category="fox", rationale="pointed ears", sources=("x",)),
        Candidate(category="fox", rationale="a fox", sources=("x",)),
        Candidate(category="owl", rationale="pointed ears", sources=("x",)),
        Candidate(category="owl", rationale="large round eyes", sources=("x",)),
    ]
    verdicts = ["", "names_category", "", ""]
    names = draft_vocabulary(("fox", "whale", "owl"), found, keep=[not each for each in verdicts])
    assert names.rationales_of == ((0,), (), (0, 1))
    model = plain.with_vocabulary(names)
    assert isinstance(model, Recognizer)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (12, 3, 32, 32), np.uint8))
    images = model.image_features(pixels)
    by_model = most_probable_categories(model, images)
    with torch.no_grad():
        expected = (images.category @ model.text.categories.T).argmax(dim=1)
        similarity = images.rationale @ model.text.rationales.T
    assert by_model.tolist() == expected.tolist()
    shown = gather_evidence(
        model,
        images,
        image_categories=np.array([0, 2] * 6),
        candidates=found,
        verdicts=verdicts,
        pruning=PruningConfig(min_images=3),
    )
    np.testing.assert_allclose(shown.similarity, similarity.numpy(), atol=1e-5)
    assert shown.rationale_ids.tolist() == [0, -1, 0, 1]
    auc = shown.evidence.measurement.auc
    assert np.isnan(auc[1]) and auc[0] == pytest.approx(1 - auc[2])
    assert shown.evidence.repeats.tolist()[1] == -1
