"""`ecor concepts`: what its tables say is what the measures say of its pictures; the same command gives the same.

Covers: `pipelines.studies.concept_experiments`, `pipelines.studies.concept_maps`,
`pipelines.studies.concept_pictures`.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.model import BackboneConfig
from ecor.convis import ConVis, encode_concepts
from ecor.demo.lexicon import demo_lexicon
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.evaluation.confidence_intervals import Resampling
from ecor.explain.metrics.boxes import CONVIS, WSOL, max_box_acc, max_box_acc_v2
from ecor.explain.metrics.localization import pointing_hit, score_contrast
from pipelines.__main__ import EXIT_DONE, main
from pipelines.studies.concept_experiments import PAIRS, box_estimates, detection_rows
from pipelines.studies.concept_pictures import draw_pictures
from pipelines.studies.concepts import CSV_HEADER


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig())


def test_what_is_drawn_is_where_its_box_says(backbone: Backbone) -> None:
    alone = draw_pictures(("zebra", "key"), split="test", num_images=6, seed=1, backbone=backbone, alone=True)
    assert alone.categories == ("zebra", "key") * 3 and alone.pixels.shape == (6, 3, 64, 64)
    top, left, bottom, right = alone.boxes.T
    assert (top <= bottom).all() and (left <= right).all() and alone.boxes.min() >= 0 and alone.boxes.max() <= 63
    middles = torch.stack([top + bottom, left + right], dim=1) / 2
    centred = draw_pictures(("zebra", "key"), split="test", num_images=6, seed=1, backbone=backbone).boxes
    centred_middles = torch.stack([centred[:, 0] + centred[:, 2], centred[:, 1] + centred[:, 3]], dim=1) / 2
    assert (middles - 31.5).abs().mean() > (centred_middles - 31.5).abs().mean()
    again = draw_pictures(("zebra", "key"), split="test", num_images=6, seed=1, backbone=backbone, alone=True)
    assert torch.equal(alone.pixels, again.pixels) and torch.equal(alone.boxes, again.boxes)
    other = draw_pictures(("zebra", "key"), split="validation", num_images=6, seed=1, backbone=backbone, alone=True)
    assert not torch.equal(alone.pixels, other.pixels)


@pytest.mark.parametrize("rule", [WSOL, CONVIS])
def test_box_estimates_are_the_measures_with_intervals(rule: object) -> None:
    coarse = replace(rule, thresholds=rule.thresholds[::10])
    maps = torch.rand(9, 12, 12, generator=torch.Generator().manual_seed(0)).cumsum(1).sin()
    boxes = torch.tensor([[2, 3, 8, 9]]).expand(9, -1)
    acc, v2 = box_estimates(maps, boxes, rule=coarse, resampling=Resampling(num_resamples=50))
    assert acc.value == pytest.approx(max_box_acc(maps, boxes, rule=coarse).value)
    assert v2.value == pytest.approx(max_box_acc_v2(maps, boxes, rule=coarse))
    perfect = torch.zeros(9, 12, 12)
    perfect[:, 2:9, 3:10] = 1
    for each in box_estimates(perfect, boxes, rule=coarse, resampling=Resampling(num_resamples=50)):
        assert (each.value, each.low, each.high) == pytest.approx((1, 1, 1))


def test_a_category_on_both_sides_is_refused(backbone: Backbone) -> None:
    concepts = encode_concepts(backbone, demo_lexicon(), read=lambda name: name)
    with pytest.raises(ValueError, match="whale is both mammal and sea animal"):
        next(detection_rows(backbone, concepts, num_train=1, num_images=1, seed=0, pairs=[("mammal", "sea animal")]))


@pytest.mark.slow
def test_things_are_found_that_nothing_was_tuned_on(backbone: Backbone) -> None:
    """By a definition of their parts, whether or not pretraining ever said their names."""
    concepts, tower = encode_concepts(backbone, demo_lexicon()), ImageTower(backbone=backbone)
    for categories in (FAMILIAR.unnamed, FAMILIAR.categories[:20:2]):
        pictures = draw_pictures(categories, split="validation", num_images=10, seed=970, backbone=backbone, alone=True)
        fitted = ConVis(concepts=concepts, steps=7).fit(tower, pictures.pixels)
        maps = torch.stack([fitted.map(name)[n] for n, name in enumerate(pictures.categories)])
        boxes = torch.zeros(10, 64, 64, dtype=torch.bool)
        for box, (top, left, bottom, right) in zip(boxes, pictures.boxes.tolist(), strict=True):
            box[top : bottom + 1, left : right + 1] = True
        assert float(score_contrast(maps, boxes).mean()) > 10
        assert float(pointing_hit(maps, boxes).mean()) > float(boxes.float().mean()) + 0.2


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "concepts-words.md").write_text("What I think of it.\n")
    assert main(["concepts", "--quick", "--output", str(tmp_path), "--num-threads", "1"]) == EXIT_DONE
    shown, page = capsys.readouterr().out.splitlines(), (tmp_path / "concepts.md").read_text()
    assert shown[-1] == str(tmp_path / "concepts.md")
    assert [line for line in page.splitlines() if line.startswith("|")] == shown[:-1]
    with (tmp_path / "concepts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_HEADER and "these figures mean nothing" in page and "What I think of it." in page
    telling = [row for row in rows if row["table"] == "telling"]
    scores = {row["method"] for row in telling}
    assert len(scores) == 4 and len(telling) == (len(PAIRS) + 1) * 4 * 3
    for row in rows:
        if row["case"] != "mean over pairs":
            assert (
                0 <= float(row["low"]) <= float(row["value"]) + 1e-9
                and float(row["value"]) <= float(row["high"]) + 1e-9 <= 1.1
            )
    for score in scores:
        figures = [row for row in telling if row["method"] == score and row["figure"] == "AUROC"]
        assert float(figures[-1]["value"]) == pytest.approx(np.mean([float(row["value"]) for row in figures[:-1]]))
    finding = {(row["case"], row["method"]) for row in rows if row["table"] == "finding"}
    assert len(finding) == 2 * (2 * 4 + 2)
    assert any(row["case"] == "hoofed animal (9) / beast of prey (6)" for row in telling)
