"""The Recognizer is CLIP with two prompts: the same numbers as open_clip, rows that say what the probabilities said.

Covers: `ecor.data.images.picture_list`, `ecor.data.predictions.prediction_list`, `ecor.joint_model`,
`ecor.probability.prediction_rows`.
"""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import ecor
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.config.scoring import MethodName, ScoringConfig, Temperatures
from ecor.data.predictions.prediction_list import Predictions
from ecor.data.predictions.records import ExplainablePrediction
from ecor.data.predictions.schema import PREDICTION_SCHEMA, origins_table
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.model import Recognizer
from ecor.probability.joint import Joint
from ecor.probability.prediction_rows import Provenance, rows_from_joint
from tests.support.tiny_models import NAMES, OTHER_NAMES, tiny_recognizer, write_pictures

VOCABULARY = vocabulary_from_mapping(NAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return tiny_recognizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), num=5)


def test_five_lines_label_pictures(pictures: list[Path]) -> None:
    """With the embedded weights, as in the README."""
    weights = Path(str(ecor.__file__)).parent / "demo" / "weights" / "ecor-demo.safetensors"
    if not weights.is_file():
        pytest.skip("no embedded weights yet")
    model = ecor.Recognizer.zero_shot(NAMES)
    result = model.predict([str(path) for path in pictures])
    assert list(result.to_pandas()["category"].isin(NAMES)) == [True] * len(pictures)


@pytest.mark.parametrize("embedded", [False, True])
def test_zero_tokens_are_open_clips_zero_shot_logits(tmp_path: Path, model: Recognizer, embedded: bool) -> None:
    config = BackboneConfig() if embedded else model.config.backbone
    if embedded and not (Path(str(ecor.__file__)).parent / "demo" / "weights" / "ecor-demo.safetensors").is_file():
        pytest.skip("no embedded weights yet")
    backbone = load_backbone(config)
    recognizer = Recognizer.zero_shot(NAMES, backbone=backbone)
    size = backbone.preprocess.image_size
    images = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    # open_clip's own modules, its own classifier builder, its own way to logits
    architecture, weights = backbone.save(tmp_path)
    theirs = load_backbone(BackboneConfig(name=str(architecture), pretrained=str(weights))).model
    tokenizer = open_clip.SimpleTokenizer(context_length=theirs.context_length)
    classifier = open_clip.build_zero_shot_classifier(
        theirs, tokenizer, VOCABULARY.categories, [lambda name: f"This is a photo of a {name}."]
    )
    pixels = (images / 255 - torch.tensor(backbone.preprocess.mean)[:, None, None]) / torch.tensor(
        backbone.preprocess.std
    )[:, None, None]
    with torch.no_grad():
        logits = theirs.logit_scale.exp() * theirs.encode_image(pixels, normalize=True) @ classifier
    features = recognizer.image_features(images)
    ours = backbone.logit_scale * features.category @ recognizer.text.categories.T
    assert_close(ours, logits, rtol=0, atol=1e-5 * backbone.logit_scale)
    assert features.category is features.rationale
    independent = recognizer.joint(images, scoring=ScoringConfig(method="independent"))
    assert_close(independent.category_log_prob, logits.log_softmax(dim=-1), rtol=0, atol=1e-5 * backbone.logit_scale)


def test_every_form_of_a_picture_gives_the_same_row(model: Recognizer, pictures: list[Path]) -> None:
    path = pictures[0]
    image = Image.open(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image.convert("RGB"))]
    rows = [model.predict([form])[0] for form in forms]
    assert {row.pairs for row in rows} == {rows[0].pairs}
    assert [row.source for row in rows[:3]] == [str(path), str(path), "picture 0"]


def test_batches_do_not_change_the_rows(model: Recognizer, pictures: list[Path]) -> None:
    whole = model.predict(pictures)
    parts = model.predict(pictures, batch_size=2)
    assert whole.to_arrow()["pairs"].type == parts.to_arrow()["pairs"].type
    assert [row.category for row in whole] == [row.category for row in parts]
    np.testing.assert_allclose(whole.to_pandas()["confidence"], parts.to_pandas()["confidence"], atol=1e-5)


def test_predictions_are_a_list_and_a_table(model: Recognizer, pictures: list[Path]) -> None:
    result = model.predict(pictures)
    assert (len(result), len(result[1:3]), len(model.predict([]))) == (5, 2, 0)
    assert isinstance(result[1:3], Predictions)
    assert isinstance(result[-1], ExplainablePrediction)
    assert list(result)[-1] == result[-1]
    assert result.to_arrow().schema.equals(PREDICTION_SCHEMA, check_metadata=True)
    assert result.to_pandas().shape == (5, len(PREDICTION_SCHEMA))
    assert str(pictures[0]) in repr(result) or "picture" in result._repr_html_()
    with pytest.raises(IndexError):
        result[5]


def test_other_names_are_scored_and_marked_uncalibrated(
    model: Recognizer, pictures: list[Path], tmp_path: Path
) -> None:
    own = model.predict(pictures[:1])[0]
    other = model.predict(pictures[:1], vocabulary=OTHER_NAMES)[0]
    assert own.calibrated and not other.calibrated
    assert other.category in OTHER_NAMES and own.category in NAMES
    assert other.model_digest == own.model_digest
    assert other.vocabulary_digest != own.vocabulary_digest
    path = tmp_path / "names.json"
    path.write_text(json.dumps(OTHER_NAMES))
    assert model.predict(pictures[:1], vocabulary=path)[0].pairs == other.pairs
    assert model.with_vocabulary(OTHER_NAMES).with_vocabulary(NAMES).calibrated


def test_an_unreadable_picture_is_named(model: Recognizer, pictures: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        model.predict([pictures[0], broken])
    with pytest.raises(ValueError, match=r"missing\.jpg cannot be read"):
        model.predict([tmp_path / "missing.jpg"])
    with pytest.raises(ValueError, match=r"picture 0 cannot be read: .*8-bit"):
        model.predict([np.zeros((4, 4), np.float32)])
    with pytest.raises(ValueError, match="write \\[picture\\]"):
        model.predict(str(pictures[0]))


@pytest.mark.parametrize("method", ["joint", "inverted", "independent", "pairs", "pooled"])
def test_rows_say_what_the_probabilities_say(model: Recognizer, method: MethodName) -> None:
    """Every column against a loop over the Joint."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    scoring = ScoringConfig(method=method, top_k=3, keep_rationales=5)
    joint = model.joint(images, scoring=scoring)
    rows = rows_from_joint(
        joint,
        vocabulary=VOCABULARY,
        scoring=scoring,
        origins=origins_table(["a", "b", "c"], category_true=["fox", None, "owl"]),
        provenance=model.provenance,
    ).to_pylist()
    for image, row in enumerate(rows):
        pairs = sorted(
            (
                (float(joint.log_prob[image, k, c]), VOCABULARY.categories[c], VOCABULARY.rationales[r])
                for k, r in enumerate(joint.rationales[image].tolist())
                for c in range(len(VOCABULARY.categories))
            ),
            reverse=True,
        )[:3]
        assert [(p["log_prob"], p["category"], p["rationale"]) for p in row["pairs"]] == pairs
        assert (row["category"], row["rationale"]) == pairs[0][1:]
        assert row["confidence"] == pytest.approx(np.exp(pairs[0][0]))
        marginal = dict(zip(VOCABULARY.categories, joint.category_log_prob[image].tolist(), strict=True))
        assert {p["category"]: p["log_prob"] for p in row["categories"]} == pytest.approx(marginal)
        assert row["category_log_prob"] == pytest.approx(marginal[row["category"]])
        best = int(joint.rationale_log_prob[image].argmax())
        assert row["two_stage_rationale"] == VOCABULARY.rationales[int(joint.rationales[image, best])]
        assert row["two_stage_category"] == VOCABULARY.categories[int(joint.log_prob[image, best].argmax())]
        assert row["rationales"][0]["rationale"] == row["two_stage_rationale"]
        assert row["kept_mass"] == pytest.approx(float(joint.kept_mass[image]))
        assert row["method"] == method
    assert [row["category_true"] for row in rows] == ["fox", None, "owl"]


def test_pairs_that_were_not_looked_at_are_left_out() -> None:
    log_prob = torch.tensor([[[-1.0, -torch.inf, -torch.inf]], [[-1.0, -0.5, -2.0]]])
    joint = Joint(
        method="inverted",
        rationales=torch.tensor([[2], [0]]),
        rationale_log_prob=torch.tensor([[-1.0], [-0.1]]),
        log_prob=log_prob,
        category_log_prob=torch.tensor([[-0.5, -1.0, -2.0], [-0.5, -1.0, -2.0]]),
        rest_log_prob=torch.tensor([-1.0, -1.0]),
        pairs_exact=torch.tensor([True, False]),
        category_certain=torch.tensor([True, True]),
    )
    provenance = Provenance(
        model_name="m", model_version=None, model_digest="d", vocabulary_digest="v", calibrated=False
    )
    table = rows_from_joint(
        joint,
        vocabulary=VOCABULARY,
        scoring=ScoringConfig(top_k=5),
        origins=origins_table(["a", "b"]),
        provenance=provenance,
    )
    first, second = table.to_pylist()
    assert [pair["category"] for pair in first["pairs"]] == ["fox"]
    assert [pair["category"] for pair in second["pairs"]] == ["whale", "fox", "owl"]
    assert (first["pairs_exact"], second["pairs_exact"], first["model_version"]) == (True, False, None)


def test_digest_follows_what_decides_the_numbers(model: Recognizer) -> None:
    assert model.with_name("x", version="2").digest == model.digest
    assert model.with_vocabulary(OTHER_NAMES).digest == model.digest
    hotter = model.with_temperatures(Temperatures(rationale=2.0))
    assert hotter.digest != model.digest
    assert hotter.calibrated


def test_the_model_is_left_as_it_was(model: Recognizer, pictures: list[Path]) -> None:
    before = {name: value.clone() for name, value in model.prompts.state_dict().items()}
    model.predict(pictures)
    assert all(torch.equal(before[name], value) for name, value in model.prompts.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.prompts.parameters())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


@pytest.mark.parametrize("method", ["joint", "inverted", "independent", "pairs"])
def test_a_vocabulary_without_any_rationale_is_refused(model: Recognizer, method: MethodName) -> None:
    """One rationale is enough; a category without one only distracts."""
    with pytest.raises(ValueError, match=r"the vocabulary has 2 categories and no rationale.*add rationales"):
        model.with_vocabulary({"cup": [], "plate": []})
    few = model.with_vocabulary({"cup": ["a handle"], "plate": []})
    assert len(few.predict([Image.new("RGB", (9, 9))], scoring=ScoringConfig(method=method))) == 1
