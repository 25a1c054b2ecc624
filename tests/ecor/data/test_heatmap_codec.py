"""Laws of maps kept in 8 bits: near what they were, found again on the picture, for the images that were asked for.

Covers: `pipelines.scoring.attributions`.
"""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecor.checkpoint import Checkpoint
from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.convis import ConVis, ListLexicon, encode_concepts
from ecor.data.heatmap_codec import Evidence, quantize
from ecor.data.predictions.parts import read_part, write_part
from ecor.data.predictions.records import predictions_table
from ecor.data.predictions.schema import PREDICTION_SCHEMA, check_schema, origins_table, schema_with
from ecor.explain import explain_joint
from ecor.explain.methods.perturbation import Rise
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.reporting.overlays import draw_overlays
from pipelines.scoring.attributions import (
    AttributionSettings,
    _reduce_maps,
    add_evidence,
    read_attribution_settings,
    select_rows,
)
from pipelines.scoring.decoder import Part
from pipelines.scoring.scored_part import ScoredPart
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.tracking import model_registry
from tests.pipelines.stages.test_report import prediction
from tests.support.tiny_models import tiny_checkpoint, tiny_recognizer

RULE = AttributionSettings(method="grad_eclip", top=2, images="all", share=1.0, seed=0)


@given(low=st.floats(-1e3, 1e3, allow_nan=False), span=st.just(0.0) | st.floats(1e-6, 1e3), seed=st.integers(0, 2**16))
def test_a_map_is_off_by_at_most_half_a_step(low: float, span: float, seed: int) -> None:
    scores = low + span * np.random.default_rng(seed).random((3, 5))
    kept = quantize(scores, rationale="a tail")
    step = (kept.high - kept.low) / 255
    assert np.abs(kept.scores - scores).max() <= step / 2 + 1e-6 * (abs(low) + span)
    assert len(kept.values) == 15 and kept.normalised.min() == 0
    assert kept.normalised.max() == (1 if kept.high > kept.low else 0)


def test_a_constant_map_is_nothing() -> None:
    kept = quantize(np.full((2, 2), -3.5), rationale=None)
    assert not kept.normalised.any() and (kept.scores == -3.5).all()


def rows_and_pixels(num: int) -> tuple[object, np.ndarray]:
    rows = predictions_table([prediction(number) for number in range(num)])
    return rows, np.random.default_rng(0).integers(0, 256, (num, 3, 32, 32), np.uint8)


def test_rows_hold_the_maps_of_the_joint_and_come_back(tmp_path: Path) -> None:
    model = tiny_recognizer(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    rows = model.label(torch.from_numpy(pixels), origins=origins_table([f"k{n}" for n in range(5)]))
    table = add_evidence(
        rows, pixels, recognizer=model, rule=RULE, method=RULE.method_for(model), scoring=ScoringConfig()
    )
    assert table.schema.equals(schema_with(["evidence"])) and table.select(PREDICTION_SCHEMA.names).equals(rows)
    part = write_part(str(tmp_path), table, name="0.parquet", unit="0")
    back = read_part(str(tmp_path), part).to_pylist()
    joint = explain_joint(model, torch.from_numpy(pixels), by="grad_eclip", num_rationales=2)
    for index, row in enumerate(back):
        evidence = Evidence.from_row(row)
        assert evidence is not None and evidence.method == "grad_eclip"
        assert evidence.category == row["categories"][0]["category"]
        assert [each.rationale for each in evidence.maps] == [None, *(r["rationale"] for r in row["rationales"][:2])]
        maps = torch.cat([joint.category.scores[index], joint.rationales.scores[index]]).numpy()
        for each, scores in zip(evidence.maps, maps, strict=True):
            assert np.abs(each.scores - scores).max() <= (each.high - each.low) / 509 + 1e-7


def test_without_evidence_the_schema_is_what_it_was(tmp_path: Path) -> None:
    rows, _ = rows_and_pixels(3)
    assert check_schema(rows, source="x").schema.equals(PREDICTION_SCHEMA)
    assert Evidence.from_row(rows.to_pylist()[0]) is None
    assert read_attribution_settings(ScoreConfig(input="i", output="o"), num_images=3) is None


def test_which_images_are_explained() -> None:
    rows, _ = rows_and_pixels(300)
    everyone = select_rows(rows, rule=RULE)
    assert everyone == list(range(300))
    sample = read_attribution_settings(
        ScoreConfig(input="i", output="o", explain="itsm", explain_images="sample", explain_sample=60), num_images=300
    )
    assert sample is not None
    drawn = select_rows(rows, rule=sample)
    assert 35 < len(drawn) < 90
    keys = {rows["key"][index].as_py() for index in drawn}
    backwards = rows.take(list(reversed(range(300))))
    assert {backwards["key"][index].as_py() for index in select_rows(backwards, rule=sample)} == keys
    doubtful = read_attribution_settings(
        ScoreConfig(input="i", output="o", explain="itsm", explain_images="uncertain", explain_share=0.1),
        num_images=300,
    )
    assert doubtful is not None
    least = select_rows(rows, rule=doubtful)
    confidence = rows["confidence"].to_numpy()
    assert len(least) == 30 and confidence[least].max() <= np.delete(confidence, least).min()


def test_mistakes_are_told_before_any_work() -> None:
    with pytest.raises(ValueError, match="choose from itsm"):
        read_attribution_settings(ScoreConfig(input="i", output="o", explain="eyes"), num_images=1)
    with pytest.raises(ValueError, match="give it a projection"):
        read_attribution_settings(ScoreConfig(input="i", output="o", explain="eclip"), num_images=1)
    with pytest.raises(ValueError, match=r"convis needs a taxonomy of concepts: give it a lexicon .*--explain-lexicon"):
        read_attribution_settings(ScoreConfig(input="i", output="o", explain="convis"), num_images=1)
    with pytest.raises(ValueError, match="nowhere is no lexicon"):
        read_attribution_settings(
            ScoreConfig(input="i", output="o", explain="convis", explain_lexicon="nowhere"), num_images=1
        )
    with pytest.raises(ValueError, match="explain_lexicon is of a method"):
        read_attribution_settings(ScoreConfig(input="i", output="o", explain_lexicon="demo"), num_images=1)
    with pytest.raises(ValueError, match="explain_share"):
        ScoreConfig(input="i", output="o", explain_share=0.0)


def test_another_lexicon_or_setting_is_another_job(tmp_path: Path) -> None:
    """The same names with other definitions too; without one, the identity is what it was."""
    path = tmp_path / "own.json"

    def identity(definition: str) -> dict:
        path.write_text(
            json.dumps({"toy": {"definition": definition}, "ball": {"definition": "b", "kind_of": ["toy"]}})
        )
        config = ScoreConfig(input="i", output="o", explain="convis", explain_lexicon=str(path))
        rule = read_attribution_settings(config, num_images=1)
        assert rule is not None
        return rule.identity

    base = ScoreConfig(input="i", output="o", explain="rise")
    masked = replace(base, explain_settings=("num_masks=5", "compat=None"))
    plain, other = (read_attribution_settings(each, num_images=1) for each in (base, masked))
    assert plain is not None and other is not None and plain.identity != other.identity
    assert other.identity["options"] == {"num_masks": 5, "compat": None} and "options" not in plain.identity
    assert other.method_for(tiny_recognizer(tmp_path)) == Rise(num_masks=5)
    assert identity("a") == identity("a") != identity("c")
    assert (
        set(RULE.identity)
        == {"method", "top", "images", "share", "seed", "trained"}
        == set(identity("a")) - {"lexicon"}
    )


def test_an_overlay_is_bright_where_the_map_is() -> None:
    """A map whose right half is high, on a wide grey picture of which the tower saw the middle."""
    scores = np.zeros((4, 4))
    scores[:, 2:] = 1
    evidence = Evidence(
        method="itsm", category="fox", input_height=32, input_width=32, resize_mode="shortest",
        maps=(quantize(scores, rationale=None), quantize(scores, rationale="a tail")),
    )  # fmt: skip
    found = draw_overlays(Image.new("RGB", (120, 60), (128, 128, 128)), evidence)
    assert [each.words for each in found] == ["fox", "a tail"]
    pixels = np.asarray(Image.open(io.BytesIO(found[0].picture.data)).convert("L")).astype(float)
    assert pixels.shape == (60, 120)
    low, high, unseen = pixels[:, 35:50].mean(), pixels[:, 70:85].mean(), pixels[:, :25].mean()
    assert high > low + 60 and unseen < 45


def scored_by(checkpoint: Checkpoint, pixels: np.ndarray, *, rule: AttributionSettings, folder: Path) -> ScoredPart:
    """What an actor that gets its settings through Ray, pickled, makes of a part."""
    tracking = TrackingConfig(uri=f"sqlite:///{folder}/runs.db")
    settings = ScorerSettings(
        model=model_registry.resolve_model(checkpoint.folder, tracking=tracking), tracking=tracking, vocabulary=None,
        scoring=ScoringConfig(), text=TextConfig(cache_dir=str(folder / "text")), batch_size=2, precision="auto",
        use_gpu=False, num_threads=1, evidence=rule,
    )  # fmt: skip
    origins = origins_table([f"k{n}" for n in range(len(pixels))])
    part = Part(unit="0", attempt=None, index=0, num_parts=1, pixels=pixels, origins=origins, rejected=(), decode_s=0.0)
    (scored,) = ScoredPart.from_rows(Scorer(pickle.loads(pickle.dumps(settings)))(part.to_row()))
    return scored


def test_a_scoring_actor_ranks_the_concepts_of_a_lexicon(tmp_path: Path) -> None:
    """Maps are those of `explain_joint` with the lexicon; the definitions' features are kept for other actors."""
    checkpoint, model = tiny_checkpoint(tmp_path), tiny_recognizer(tmp_path)
    lexicon = ListLexicon({"toy": "made to play with", "ball": "round", "cup": "hollow"}, parents={"ball": ["toy"]})
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    rule = AttributionSettings(method="convis", top=1, images="all", share=1.0, seed=0, lexicon=lexicon)
    scored = scored_by(checkpoint, pixels, rule=rule, folder=tmp_path)
    assert list((tmp_path / "text").glob("concepts-*.npy"))
    method = ConVis(concepts=encode_concepts(model.backbone, lexicon))
    joint = explain_joint(model, torch.from_numpy(pixels), by=method, num_rationales=1)
    for index, row in enumerate(scored.rows.to_pylist()):
        evidence = Evidence.from_row(row)
        assert evidence is not None and evidence.method == "convis"
        maps = torch.cat([joint.category.scores[index], joint.rationales.scores[index]]).numpy()
        for each, scores in zip(evidence.maps, maps, strict=True):
            assert np.abs(each.scores - scores).max() <= (each.high - each.low) / 509 + 1e-5


def test_maps_with_a_value_for_each_pixel_are_kept_small(tmp_path: Path) -> None:
    """64 x 96 pixels become means of cells, 2 down and 3 across."""
    scores = torch.rand(1, 2, 64, 96, generator=torch.Generator().manual_seed(0))
    kept = _reduce_maps(scores)
    assert kept.shape == (1, 2, 32, 32)
    assert kept[0, 1, 5, 7] == pytest.approx(float(scores[0, 1, 10:12, 21:24].mean()), abs=1e-6)
    small = torch.rand(1, 2, 7, 32)
    assert (_reduce_maps(small) == small.numpy()).all()


def test_a_scoring_actor_passes_maps_on(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    scored = scored_by(tiny_checkpoint(tmp_path), pixels, rule=RULE, folder=tmp_path)
    evidence = [Evidence.from_row(row) for row in scored.rows.to_pylist()]
    assert len(evidence) == 5 and all(len(each.maps) == 3 for each in evidence if each is not None)
    assert None not in evidence and scored.seconds.explain > 0
