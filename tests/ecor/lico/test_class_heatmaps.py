"""Laws of a classifier's maps: other libraries' maps of its probabilities, each class its own; and `ecor explain`.

Covers: `ecor.lico.classifier`.
"""

from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from ecor.checkpoint import load
from ecor.config.systems import LicoConfig
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.explain.methods.perturbation import random_masks
from ecor.lico.class_heatmaps import class_heatmap
from ecor.lico.classifier import Classifier, load_classifier
from ecor.lico.training import LicoModule
from ecor.storage.artifact import save_artifact
from pipelines.__main__ import EXIT_DONE, EXIT_USER_ERROR, main
from pipelines.config.reporting import ExplainConfig
from pipelines.stages.explain import run
from tests.support.tiny_models import NAMES, TINY_CLIP, write_pictures
from tests.support.tiny_towers import backbone_of

CATEGORIES = tuple(NAMES)


def saved_classifier(folder: Path) -> Path:
    """The run folder of an untrained one, as `ecor train --system lico` leaves it."""
    backbone = backbone_of(folder, TINY_CLIP)
    module = LicoModule(backbone, categories=CATEGORIES, config=LicoConfig(num_context=3), seed=4)
    config = {name: getattr(module.config, name) for name in LicoConfig.__dataclass_fields__ if name != "fit"}
    save_artifact(
        "lico",
        module.classifier.state_dict(),
        folder / "run" / "checkpoint",
        settings={"lico": config, "categories": list(CATEGORIES)},
        backbone=backbone.config,
        backbone_digest=backbone.digest,
        vocabulary_digest="v" * 64,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_classifier(tmp_path_factory.mktemp("lico"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load_classifier(folder)


def images(num: int = 2) -> torch.Tensor:
    return torch.randint(256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


CLASSES = torch.tensor([[2, 0], [1, 2]])


def probabilities(classifier: Classifier) -> nn.Module:
    return nn.Sequential(classifier, nn.Softmax(dim=-1))


def test_grad_cam_is_captums(classifier: Classifier) -> None:
    """Of the class's logit, by a library that knows nothing of the linear head."""
    pixels = classifier.normalise(images()).requires_grad_()
    found = class_heatmap(classifier, images(), CLASSES).scores
    for rank in range(2):
        theirs = captum.attr.LayerGradCam(classifier, classifier.encoder).attribute(
            pixels, target=CLASSES[:, rank].tolist(), relu_attributions=True
        )
        assert_close(found[:, rank], theirs[:, 0].detach(), atol=1e-6, rtol=1e-3)
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_occlusion_is_captums(classifier: Classifier) -> None:
    """Where windows do not overlap, the two libraries say the same: the probability that a window takes away."""
    pixels = classifier.normalise(images())
    theirs = captum.attr.Occlusion(probabilities(classifier)).attribute(
        pixels, sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16), target=CLASSES[:, 0].tolist()
    )
    found = class_heatmap(classifier, images(), CLASSES, by="occlusion", window=16, stride=16)
    assert_close(found.scores[:, 0], theirs[:, 0].float(), atol=1e-5, rtol=0)


def test_rise_is_the_mean_of_masks_by_probability(classifier: Classifier) -> None:
    found = class_heatmap(classifier, images(1), CLASSES[:1], by="rise", num_masks=200).scores[0, 1]
    masks = random_masks(200, size=(32, 32), cells=7, keep=0.5, generator=torch.Generator().manual_seed(0))
    pixels = classifier.normalise(images(1))
    with torch.no_grad():
        probs = probabilities(classifier)(pixels * masks[:, None])[:, CLASSES[0, 1]]
    assert_close(found, (probs[:, None, None] * masks).mean(dim=0) / 0.5, atol=1e-5, rtol=1e-4)


def test_methods_that_ask_for_a_text_are_refused(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="itsm asks for a text, a classifier has none: choose from grad_cam, rise"):
        class_heatmap(classifier, images(), CLASSES, by="itsm")
    with pytest.raises(ValueError, match="has no settings"):
        class_heatmap(classifier, images(), CLASSES, signed=True)


def test_the_command_shows_the_most_probable_categories(
    folder: Path, classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "photos", num=3)
    done = run(
        ExplainConfig(model=str(folder), output=str(tmp_path / "out"), num_rationales=2),
        images=[str(tmp_path / "photos")],
    )
    assert len(done) == 3 and "by grad_cam" in capsys.readouterr().err
    for each in done:
        picture = decode_image(Path(each.shown.source).read_bytes())
        pixels = torch.from_numpy(image_to_pixels(picture, preprocess=classifier.preprocess))[None]
        probs = probabilities(classifier)(classifier.normalise(pixels))[0]
        order = probs.argsort(descending=True).tolist()
        ((second, prob),) = each.answer.others
        assert (each.answer.category, second) == (CATEGORIES[order[0]], CATEGORIES[order[1]])
        assert np.allclose([each.answer.category_prob, prob], probs[order[:2]].detach(), atol=1e-5)
        assert each.answer.rationales == () and Image.open(each.path).format == "PNG"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--method", "itsm"], "itsm asks for a text"),
        (["--text", "a tail"], "reads no --text"),
        (["--vocabulary", "names.json"], "whose categories are its own"),
        (["--setting", "window=4"], "is no setting of grad_cam"),
        (["--precision", "bf16"], "which runs in fp32"),
    ],
)
def test_what_a_classifier_does_not_do_is_told(
    args: list[str], told: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo,) = write_pictures(tmp_path, num=1)
    assert (
        main(["explain", "--model", str(folder), "--output", str(tmp_path / "out"), *args, str(photo)])
        == EXIT_USER_ERROR
    )
    shown = capsys.readouterr().err.strip()
    assert told in shown and len(shown.splitlines()) == 1


def test_a_classifier_is_no_model_for_the_benchmark(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain-benchmark", "--model", str(folder), "--output", str(tmp_path / "out")]) == EXIT_USER_ERROR
    assert "lico made it; it names categories alone" in capsys.readouterr().err
    with pytest.raises(ValueError, match="made by `ecor train --system lico` and labels no pictures"):
        load(folder)
    assert (
        main(["explain", "--model", str(folder), "--output", str(tmp_path), str(write_pictures(tmp_path, num=1)[0])])
        == EXIT_DONE
    )
