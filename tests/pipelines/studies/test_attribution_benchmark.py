"""Laws of `ecor explain-benchmark`: what is asked about can be seen and known; honest rows; rows are measured once.

Covers: `pipelines.studies.attribution_benchmark.benchmark`, `pipelines.studies.attribution_benchmark.benchmark_page`,
`pipelines.studies.attribution_benchmark.cases`, `pipelines.studies.attribution_benchmark.mosaics`,
`pipelines.studies.attribution_benchmark.protocol`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ecor.clip.towers.image_tower import ImageTower
from ecor.demo.worlds.registry import set_vocabulary
from ecor.evaluation.confidence_intervals import Resampling
from ecor.explain import METHODS, build_method
from ecor.model import Recognizer
from pipelines.__main__ import EXIT_USER_ERROR, main
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.studies import ExplainBenchmarkConfig
from pipelines.studies.attribution_benchmark import benchmark as explain_benchmark
from pipelines.studies.attribution_benchmark.cases import Cases, find_cases
from pipelines.studies.attribution_benchmark.mosaics import make_mosaics
from pipelines.studies.attribution_benchmark.protocol import (
    PRIORS,
    EvaluationSettings,
    evaluate_method,
    evaluate_prior,
    peak_memory,
)

SET = "demo-small"
TRIAL = EvaluationSettings(resampling=Resampling(num_resamples=100), num_checked=2, step=0.25)


@pytest.fixture(scope="module")
def model() -> Recognizer:
    return Recognizer.zero_shot(set_vocabulary(SET))


@pytest.fixture(scope="module", params=["rationale", "category"])
def cases(request: pytest.FixtureRequest, model: Recognizer) -> Cases:
    return find_cases(model, set_name=SET, kind=request.param, num_cases=8, seed=5)


def test_the_model_ranks_the_names_right_and_the_pictures_show_them(cases: Cases, model: Recognizer) -> None:
    known = model.vocabulary.rationales if cases.kind == "rationale" else model.vocabulary.categories
    assert [known[number] for number in cases.ids.tolist()] == list(cases.names)
    assert cases.num_looked_at >= 8
    if cases.kind == "category":
        features = model.image_features(cases.pixels).category @ model.text.categories.T
        assert features.argmax(dim=1).tolist() == cases.ids.tolist()
    changed = (cases.pixels != cases.lacking).any(dim=1)
    for mask, change in zip(cases.masks, changed, strict=True):
        assert mask.any() and not mask.all()
        assert change[mask].float().mean() > 0.5, "what is not drawn is not there"


def test_probabilities_are_the_models_own(cases: Cases, model: Recognizer) -> None:
    prob = cases.prob(cases.tower.pixels(cases.pixels))
    features = model.image_features(cases.pixels)
    own = features.rationale if cases.kind == "rationale" else features.category
    expected = (model.backbone.logit_scale * own @ cases.vocabulary.T).softmax(dim=1)
    torch.testing.assert_close(prob, expected[torch.arange(8), cases.ids], atol=1e-5, rtol=1e-4)


def test_rows_that_make_it_honest_are_in_order(cases: Cases) -> None:
    found = {name: evaluate_prior(prior, cases, trial=TRIAL) for name, prior in PRIORS.items()}
    oracle, inverse = found["oracle on the grid"], found["inverse"]
    assert all(oracle[name].value >= found["random"][name].value for name in ("iou", "contrast", "pxap", "energy"))
    assert oracle["contrast"].value > 20 and abs(oracle["contrast"].value + inverse["contrast"].value) < 1e-3
    assert (oracle["recognised"].value, inverse["recognised"].value) == (1.0, 0.0)
    assert found["centre"]["recognised"].value == pytest.approx(0.25)
    assert oracle["pointing"].value > 0.5 and inverse["pointing"].value < 0.2
    assert found["centre"]["contrast"].value > found["inverse"]["contrast"].value
    assert oracle["insertion"].value > inverse["insertion"].value + 0.1, "what shows it raises its probability"
    assert oracle["deletion"].value < inverse["deletion"].value - 0.05
    assert inverse["drop"].value > 0 and 0 <= oracle["increase"].value <= 1
    assert "moved" not in oracle and "flip" not in oracle


def test_a_map_that_leaves_the_place_with_what_is_named_has_moved_all_of_it(cases: Cases) -> None:
    found = evaluate_method(Knows(cases), cases, trial=TRIAL)
    assert found["moved"].value == pytest.approx(100, abs=1e-3)
    assert found["iou"].value == pytest.approx(1) and found["pointing"].value == 1


class Knows:
    """A method that maps what is there, and all the rest where it is not; nothing in pictures that it does not know."""

    requires = None
    needs: frozenset[str] = frozenset()

    def __init__(self, cases: Cases) -> None:
        known, lacking = (cases.tower.pixels(each) for each in (cases.pixels, cases.lacking))
        self._pictures, self._maps = torch.cat([known, lacking]), torch.cat([cases.masks, ~cases.masks]).float()

    def __call__(self, tower: ImageTower, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        same = (pixels[:, None] == self._pictures).flatten(2).all(dim=2).float()
        return (same @ self._maps.flatten(1)).view(-1, 1, *self._maps.shape[1:]).expand(-1, texts.shape[1], -1, -1)


def test_of_four_pictures_in_one_none_shows_what_another_is_asked_about(cases: Cases) -> None:
    mosaics = make_mosaics(cases)
    assert mosaics is not None
    assert mosaics.tiles.sum(dim=0).eq(1).all()
    for pixels, members in zip(mosaics.pixels, mosaics.members, strict=True):
        for tile, number in zip(mosaics.tiles, members.tolist(), strict=True):
            half = torch.nn.functional.avg_pool2d(cases.pixels[number].float(), 2)
            assert (pixels[:, tile].reshape(half.shape) - half).abs().max() <= 0.5
            others = set(members.tolist()) - {number}
            assert not any(cases.names[number] in cases.present[other] for other in others)


def test_a_map_finds_its_own_picture_among_four_or_does_not(cases: Cases) -> None:
    mosaics = make_mosaics(cases)
    assert mosaics is not None
    own = mosaics.tiles.float().expand(len(mosaics.members), -1, -1, -1)
    for maps, expected in ((own, 1.0), (1 - own, 0.0), (torch.zeros_like(own), 0.25)):
        found = mosaics.hits(maps, num_cases=len(cases.names))
        inside = torch.isin(torch.arange(len(found)), mosaics.members)
        assert found[inside].eq(expected).all() and found[~inside].isnan().all()
    alike = replace(cases, names=("a",) * 8, present=(frozenset("a"),) * 8)
    assert make_mosaics(alike) is None, "no two that show the same go into one picture"


@pytest.mark.slow
def test_a_method_has_every_measure(cases: Cases) -> None:
    found = evaluate_method(build_method("occlusion", window=32, stride=32), cases, trial=TRIAL)
    assert set(found) == set(explain_benchmark.MEASURES)
    assert found["seconds"].value > 0 and np.isnan(found["seconds"].low)
    assert 0.6 < found["flip"].value <= 1 + 1e-6, "windows lie the same in the mirrored picture"
    itsm, reverse = (evaluate_method(build_method(name), cases, trial=TRIAL) for name in ("itsm", "reversed_itsm"))
    assert itsm["contrast"].value == pytest.approx(-reverse["contrast"].value, abs=1e-3)


def test_memory_is_told_of_the_block_alone() -> None:
    with peak_memory() as peak:
        held = np.ones(40 * 1024**2 // 8)
    assert np.isnan(peak.bytes) or 35 * 1024**2 < peak.bytes < 120 * 1024**2
    assert held.sum() > 0


@pytest.mark.slow
def test_rows_are_measured_once_and_the_page_comes_from_them_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_benchmark, "PRIORS", {"centre": PRIORS["centre"]})
    config = ExplainBenchmarkConfig(
        output=str(tmp_path),
        set_name=SET,
        methods=("itsm", "eclip"),
        num_cases=4,
        num_checked=1,
        num_resamples=100,
        num_threads=1,
    )
    text = explain_benchmark.run(config).read_text()
    printed = capsys.readouterr().out
    assert printed.count("itsm") == 6, "three tables for each of two kinds of targets"
    rows = pd.read_csv(tmp_path / "explanations.csv")
    assert set(rows["method"]) == {"the model", "centre", "itsm"}
    assert "eclip needs something trained beforehand" in text and "| itsm |" in text
    hits = rows[(rows["measure"] == "pointing") & (rows["method"] == "itsm")]["value"]
    assert all(f"{value:.3f}" in printed for value in hits)
    counted = rows.groupby(["target", "method", "measure"]).size()
    assert (counted == 1).all()
    capsys.readouterr()
    explain_benchmark.run(config)
    assert "mIoU" not in capsys.readouterr().err, "nothing was measured again"
    save_file({"projection": torch.eye(128)}, tmp_path / "p.safetensors")
    explain_benchmark.run(replace(config, projection=str(tmp_path / "p.safetensors")))
    more = pd.read_csv(tmp_path / "explanations.csv")
    pd.testing.assert_frame_equal(more.iloc[: len(rows)], rows)
    same = more[(more["measure"] == "contrast") & more["method"].isin(["itsm", "eclip"])]
    assert same.groupby("target")["value"].agg(np.ptp).max() < 1e-3, "ECLIP with the identity is ITSM"
    monkeypatch.setattr(explain_benchmark, "open_model", None)
    (tmp_path / "explanations-words.md").write_text("Said by a reader.")
    page = explain_benchmark.run(replace(config, only_page=True)).read_text()
    assert "Said by a reader." in page and "| eclip |" in page


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, told in (
        (["--only-page"], "has no rows"),
        (["--methods", "eyes"], "choose from itsm"),
        (["--set-name", "zoo"], "no set 'zoo'"),
        (["--model", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert (
            main(["explain-benchmark", "--num-threads", "1", "--output", str(tmp_path / "out"), *args])
            == EXIT_USER_ERROR
        )
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_method_is_tried_or_left_out_with_a_reason() -> None:
    chosen, left_out = explain_benchmark._available_methods(
        ExplainBenchmarkConfig(lexicon=None), tracking=TrackingConfig()
    )
    assert set(chosen) | {line.split()[0] for line in left_out} == set(METHODS)
