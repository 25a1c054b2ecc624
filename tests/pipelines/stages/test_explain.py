"""Laws of `ecor explain`: an overlay per photo that shows the map, the model's own numbers, one line for a mistake.

Covers: `ecor.explain.methods.registry`, `ecor.explain.methods.settings`, `ecor.explain.overlay`,
`pipelines.reporting.explained_pictures`, `pipelines.scoring.predictors`, `pipelines.tracking.model_loading`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from ecor.checkpoint import load, save_checkpoint
from ecor.config.model import Preprocess
from ecor.data.heatmap import frame_of, visible_mask
from ecor.data.images.preprocessing import image_to_pixels
from ecor.eclip.projection import read_projection
from ecor.explain.methods.perturbation import Rise
from ecor.explain.methods.registry import build_method, build_prepared_method, missing_requirement
from ecor.explain.methods.settings import read_settings
from ecor.explain.overlay import Panel, overlay, panels_png
from ecor.storage.artifact import save_artifact
from pipelines.__main__ import EXIT_DONE, EXIT_USER_ERROR, main
from pipelines.config.reporting import ExplainConfig
from pipelines.scoring.inputs import read_input
from pipelines.stages.explain import run
from tests.support.overflowing_model import overflowing_recognizer, white_and_grey
from tests.support.tiny_models import tiny_checkpoint, write_pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, num=4)
    return folder


def test_brighter_is_more_and_what_was_not_seen_has_no_colour() -> None:
    """On a grey picture the luminance of an overlay rises with the map: the colour map is perceptually uniform."""
    grey = np.full((1, 101, 3), 120, np.uint8)
    mixed = overlay(grey, np.linspace(0, 1, 101, dtype=np.float32)[None])
    luminance = mixed.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance[0]) > -0.6).all() and luminance[0, -1] > luminance[0, 0] + 100
    unseen = np.zeros((1, 101), bool)
    dimmed = overlay(grey, np.ones((1, 101), np.float32), seen=unseen)
    assert (dimmed == 30).all()


def test_maps_of_another_range_are_refused() -> None:
    grey = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="from 0 to 1"):
        overlay(grey, np.full((4, 5), 2.0, np.float32))


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (32, 32)])
def test_seen_is_the_crop(size: tuple[int, int]) -> None:
    preprocess = Preprocess(image_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    shown = visible_mask(frame_of(size, preprocess=preprocess))
    side = min(size)
    sides = [int(shown.any(dim=0).sum()), int(shown.any(dim=1).sum())]
    assert shown.shape == size and all(abs(each - side) <= 1 for each in sides)


def test_same_panels_same_bytes_and_dollars_are_no_formula() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    panels = [Panel(title="a $5 bill and a $\\frac{1}"), Panel(title="why", note="5%", map=np.eye(20, 30, dtype="f4"))]
    assert panels_png(picture, panels) == panels_png(picture, panels)


def test_an_overlay_per_photo_and_the_models_own_numbers(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    model = load(checkpoint)
    config = ExplainConfig(model=checkpoint, output=str(tmp_path / "out"), num_rationales=2, batch_size=3)
    done = run(config, images=[str(photos)], texts=["a red ball"])
    assert len(done) == 4
    assert sorted(each.path for each in done) == sorted((tmp_path / "out").glob("*.png"))
    balance = json.loads((tmp_path / "out" / "explain.summary.json").read_text())["balance"]
    assert (balance["listed"], balance["taken"]) == (4, 4)
    labels = model.predict([each.shown.source for each in done])
    for each, label in zip(done, labels, strict=True):
        answer = each.answer
        assert answer.category == label.categories[0].category
        assert_close(answer.category_prob, np.exp(label.categories[0].log_prob), atol=1e-5, rtol=0)
        assert [name for name, _ in answer.rationales] == [ranked.rationale for ranked in label.rationales[:2]]
        for (_, prob), ranked in zip(answer.rationales, label.rationales[:2], strict=True):
            assert_close(prob, np.exp(ranked.log_prob), atol=1e-5, rtol=0)
        assert answer.texts[0][0] == "a red ball" and -1 <= answer.texts[0][1] <= 1
        assert Image.open(each.path).format == "PNG"


def test_one_photo_by_the_command_and_names_that_collide(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(sorted(photos.rglob("*.png"))[0])
    args = ["explain", "--model", checkpoint, "--text", "a red ball", "--text", "snow", photo, photo]
    assert main([*args, "--output", str(tmp_path)]) == EXIT_DONE
    stem = Path(photo).stem
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.png", f"{stem}-2.png", "explain.summary.json"}
    told, lines = capsys.readouterr()
    assert lines.endswith("explain: 2 listed = 2 taken + 0 copies + 0 rejected + 0 left out\n")
    assert "“a red ball”" in told and "“snow”" in told and "%" in told
    (label,) = load(checkpoint).predict([photo])
    for name in (label.categories[0].category, *(each.rationale for each in label.rationales[:3])):
        assert told.count(name) >= 2, "of each of the two photos"
    assert not ray.is_initialized()


def test_an_overlay_replaces_an_overlay_and_nothing_else(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "a.png"
    shutil.copy(sorted(photos.rglob("*.png"))[0], photo)
    before = photo.read_bytes()
    args = ["explain", "--model", checkpoint, str(photo), "--output"]
    assert main([*args, str(tmp_path)]) == EXIT_USER_ERROR
    assert "would replace" in capsys.readouterr().err and photo.read_bytes() == before
    for _ in range(2):
        assert main([*args, str(tmp_path / "out")]) == EXIT_DONE
    found = read_input(str(tmp_path), unit_size=10)
    assert found.num_images == 1 and found.passed_over == {"overlays": 1}
    capsys.readouterr()
    assert main(["explain", "--model", checkpoint, str(tmp_path), "--output", str(tmp_path)]) == EXIT_USER_ERROR
    assert "is the folder of photos" in capsys.readouterr().err


def test_people_get_the_mean_of_three_grids_unless_they_choose(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    photo = str(sorted(photos.rglob("*.png"))[0])
    found = {}
    for name, settings in {
        "default": [],
        "named": ["largest_grid=24", "all_grids=True"],
        "as score": ["largest_grid=16", "all_grids=False"],
        "one grid": ["all_grids=False"],
    }.items():
        config = ExplainConfig(model=checkpoint, output=str(tmp_path / name))
        found[name] = run(config, images=[photo], settings=settings)[0].path.read_bytes()
    assert found["default"] == found["named"]
    assert len(set(found.values())) == 3


def test_precision_is_that_of_score_and_auto_is_fp32_on_a_cpu(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    """The numbers of a precision are those of the model loaded with it: what `ecor score` does."""
    photo = str(sorted(photos.rglob("*.png"))[0])
    prob, files = {}, {}
    for precision in ("auto", "fp32", "bf16"):
        config = ExplainConfig(model=checkpoint, output=str(tmp_path / precision), device="auto", precision=precision)
        (done,) = run(config, images=[photo])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        (label,) = load(checkpoint, device=device, precision=precision).predict([photo])
        prob[precision], files[precision] = done.answer.category_prob, done.path.read_bytes()
        assert prob[precision] == pytest.approx(np.exp(label.categories[0].log_prob), abs=1e-5)
    if not torch.cuda.is_available():
        assert files["auto"] == files["fp32"] and prob["auto"] == prob["fp32"]
    assert prob["bf16"] != prob["fp32"] and prob["bf16"] == pytest.approx(prob["fp32"], abs=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_line(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    assert main(["explain", "--model", checkpoint, "--device", "cuda", "--output", output, str(photos)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "device is cuda" in line and "choose cpu or auto" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["no-such.jpg"], "no such photo"),
        (["empty.png"], "empty"),
        (["notes.txt"], "is no photo"),
        (["folder"], "holds no image"),
        (["good.png", "--method", "eyes"], "choose from itsm"),
        (["good.png", "--method", "eclip"], "give it a projection"),
        (["good.png", "--method", "eclip", "--projection", "notes.txt"], "a safetensors file"),
        (["good.png", "--text", " "], "is empty"),
        (["good.png", "--method", "rise", "--setting", "masks=5"], "with num_masks, cells, keep"),
        (["good.png", "--method", "rise", "--setting", "num_masks=5.5"], "num_masks of rise is int"),
        (["good.png", "--method", "rise", "--setting", "keep=2"], "keep must lie between 0 and 1"),
        (["good.png", "--method", "itsm", "--setting", "compat=reference"], "nothing: it has none"),
        (["good.png", "--model", "nowhere"], "nowhere"),
        ([], "name at least one photo"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    args: list[str],
    told: str,
    checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (40, 40)).save("good.png")
    model = [] if "--model" in args else ["--model", checkpoint]
    assert main(["explain", *model, *args]) == EXIT_USER_ERROR
    shown = capsys.readouterr().err.strip()
    assert told in shown and len(shown.splitlines()) == 1
    assert not (tmp_path / "explained").exists()


def test_a_bad_picture_of_a_folder_is_told_and_left_out(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "photos", num=2)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    config = ExplainConfig(model=checkpoint, output=str(tmp_path / "out"), method="itsm")
    assert len(run(config, images=[str(tmp_path / "photos")])) == 2
    assert "left out" in capsys.readouterr().err


def test_settings_are_read_as_the_method_has_them() -> None:
    given = ["compat=reference", "num_masks=5", "keep=0.25"]
    assert build_method("rise", **read_settings("rise", given)) == Rise(compat="reference", num_masks=5, keep=0.25)
    assert read_settings("legrad", ["num_blocks=None"]) == {"num_blocks": None}
    assert read_settings("convis", ["patches=(0.5, 1)", "steps=6"]) == {"patches": (0.5, 1), "steps": 6}
    for words, told in (
        ("concepts=1", "with patches, steps, seed"),
        ("steps=True", "steps of convis is int"),
        ("patches=(True,)", r"patches of convis is tuple\[float"),
        ("steps=lots", "steps of convis is int"),
        ("compat=True", "compat of convis is reference or None"),
        ("steps", "write name=value"),
    ):
        with pytest.raises(ValueError, match=told):
            read_settings("convis", [words])


def test_a_method_that_lacks_something_says_what(tmp_path: Path) -> None:
    assert missing_requirement("itsm", {}) is None and "projection" in str(missing_requirement("eclip", {}))
    projection = torch.eye(32)
    save_file({"projection": projection}, tmp_path / "p.safetensors")
    found = build_prepared_method("eclip", read_projection(tmp_path / "p.safetensors"))
    assert_close(found.projection, projection)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="unknown method"):
        missing_requirement("eyes", {})
    save_file({"weights": projection}, tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match="'weights'"):
        read_projection(tmp_path / "q.safetensors")


def test_eclip_with_the_identity_is_itsm_on_the_command_too(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    """The same picture but for the method: bytes agree, for nothing else is drawn."""
    save_file({"projection": torch.eye(32)}, tmp_path / "p.safetensors")
    photo = str(sorted(photos.rglob("*.png"))[0])
    drawn = []
    for name in ("itsm", "eclip"):
        config = ExplainConfig(
            model=checkpoint, output=str(tmp_path / name), method=name, projection=str(tmp_path / "p.safetensors")
        )
        if name == "itsm":
            config = ExplainConfig(model=checkpoint, output=str(tmp_path / name), method=name)
        drawn.append(np.asarray(Image.open(run(config, images=[photo])[0].path)).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 2


def test_eclip_of_a_run_is_that_of_its_file_and_of_its_own_backbone(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A projection makes `eclip` the method; the run of another backbone is refused, and is no model itself."""
    backbone, photo = load(checkpoint).backbone, str(sorted(photos.rglob("*.png"))[0])
    projection = {"projection": torch.randn(32, 32, generator=torch.Generator().manual_seed(2))}
    given = {"settings": {}, "backbone": backbone.config, "vocabulary_digest": "v" * 64}
    save_artifact("eclip", projection, tmp_path / "run" / "checkpoint", backbone_digest=backbone.digest, **given)
    drawn = []
    for name in ("run", "run/checkpoint/eclip.safetensors"):
        config = ExplainConfig(model=checkpoint, output=str(tmp_path / "out"), projection=str(tmp_path / name))
        drawn.append(Path(run(config, images=[photo])[0].path).read_bytes())
    assert drawn[0] == drawn[1] and "by eclip" in capsys.readouterr().err
    save_artifact("eclip", projection, tmp_path / "other", backbone_digest="b" * 64, **given)
    for args, told in (
        (["--model", checkpoint, "--projection", str(tmp_path / "other")], f"learned on backbone {'b' * 64}"),
        (["--model", checkpoint, "--projection", str(tmp_path / "run"), "--method", "itsm"], "itsm has no setting"),
        (["--model", str(tmp_path / "run")], f"add `--method eclip --projection {tmp_path / 'run'}`"),
    ):
        assert main(["explain", *args, "--output", str(tmp_path / "no"), photo]) == EXIT_USER_ERROR
        assert told in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_concepts_of_a_lexicon_are_found_by_every_method(
    checkpoint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the model was never tuned on; an unknown one is told before any picture is looked at."""
    own = tmp_path / "own.json"
    own.write_text('{"toy": {"definition": "made to play with"}, "ball": {"definition": "round", "kind_of": ["toy"]}}')
    photo, model = str(sorted(photos.rglob("*.png"))[0]), load(checkpoint)
    for name in ("convis", "itsm"):
        config = ExplainConfig(model=checkpoint, output=str(tmp_path / name), method=name, lexicon=str(own))
        (found,) = run(config, images=[photo], texts=["a ball"], concepts=["toy"])
        assert found.path.is_file() and "concept toy" in capsys.readouterr().out
        ((concept, cosine),) = found.answer.concepts
        pixels = torch.from_numpy(image_to_pixels(found.shown.picture, preprocess=model.backbone.preprocess))[None]
        text = model.backbone.encode_text(["made to play with"])
        assert_close(cosine, float(model.image_features(pixels).category @ text.T), atol=1e-5, rtol=0)
        assert concept == "toy" and len(found.answer.titles) == 1 + len(found.answer.rationales) + 2
    args = [
        "explain",
        "--model",
        checkpoint,
        "--lexicon",
        str(own),
        "--concept",
        "dragon",
        "--output",
        str(tmp_path / "no"),
    ]
    assert main([*args, photo]) == EXIT_USER_ERROR
    assert "unknown concept 'dragon'" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_pictures_without_a_finite_feature_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """White pictures overflow in this model: in a folder they are left out with a line, named alone refused."""
    save_checkpoint(overflowing_recognizer(tmp_path), tmp_path / "checkpoint", with_backbone=True)
    for name, pixels in zip(("white", "grey"), white_and_grey(), strict=True):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "photos" / f"{name}.png")
    config = ExplainConfig(model=str(tmp_path / "checkpoint"), output=str(tmp_path / "out"))
    done = run(config, images=[str(tmp_path / "photos")])
    assert [each.path.name for each in done] == ["grey.png"] == [each.name for each in (tmp_path / "out").glob("*.png")]
    assert "white.png: not_finite" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "explain.summary.json").read_text())
    assert summary["balance"]["rejected"] == {"not_finite": 1}
    with pytest.raises(ValueError, match=r"white\.png cannot be explained: not_finite, it has a feature of NaN"):
        run(config, images=[str(tmp_path / "photos" / "white.png")])
