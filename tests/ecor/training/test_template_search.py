"""Choosing hand-written templates: the candidate that labels best wins, ties go to the first."""

import torch

from ecor.config.model import TemplateConfig
from ecor.model import Recognizer
from ecor.training.template_search import HAND_TEMPLATES, best_templates
from tests.support.tiny_models import NAMES, tiny_recognizer


def test_the_wording_that_made_the_labels_wins(tmp_path):
    backbone = tiny_recognizer(tmp_path).backbone
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for teacher in HAND_TEMPLATES[1:]:
        recognizer = Recognizer.zero_shot(NAMES, backbone=backbone, templates=teacher)
        features = recognizer.image_features(images)
        rows = recognizer.joint(features)
        best = rows.log_prob.flatten(1).argmax(dim=1)
        num_categories = rows.log_prob.shape[-1]
        rationales = rows.rationales.gather(1, (best // num_categories)[:, None])
        chosen, right = best_templates(
            features,
            backbone=backbone,
            vocabulary=NAMES,
            categories=best % num_categories,
            rationales=rationales,
        )
        assert right[teacher] == 1.0
        assert right[chosen] == 1.0


def test_ties_go_to_the_first(tmp_path):
    backbone = tiny_recognizer(tmp_path).backbone
    features = Recognizer.zero_shot(NAMES, backbone=backbone).image_features(
        torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    )
    unlabelled = torch.full((2,), -1)
    same = (TemplateConfig(), TemplateConfig(category="a {category}"))
    chosen, _ = best_templates(
        features,
        backbone=backbone,
        vocabulary=NAMES,
        categories=unlabelled,
        rationales=unlabelled[:, None],
        candidates=same,
    )
    assert chosen is same[0]
