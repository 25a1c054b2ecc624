"""The drawn world keeps its promises: same bytes, DROR's layout, truth as the pixels say, weights open_clip loads.

Covers: `ecor.demo.corpus`, `ecor.demo.dataset`, `ecor.demo.tiny_clip`, `ecor.demo.worlds.familiar`,
`ecor.demo.worlds.scenes`, `ecor.demo.zero_shot_eval`.
"""

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from ecor.demo.corpus import Claim, Corpus, claim_truth, draw_corpus, write_captions
from ecor.demo.dataset import labelled_drawings, write_dataset
from ecor.demo.tiny_clip import config_path, weights_path
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.demo.worlds.registry import set_vocabulary
from ecor.demo.worlds.scenes import MIN_VISIBLE_PIXELS, compose, draw_scene, without_part
from ecor.demo.zero_shot_eval import validation_images, zero_shot_table

KINDS, SETS = FAMILIAR.kinds, FAMILIAR.sets
# nothing missing, nothing in the way
PLAIN = replace(SETS["demo-small"], part_missing=0.0, size=(1.0, 1.0), num_occluders=0)
FIXED = {
    "demo-small": "d5e667c64e6a4e29",
    "demo-main": "763d0c61d2f52ff9",
    "demo-twins": "4c39f818e619fac2",
    "demo-new-names": "23477290f670ebf3",
    "demo-pencil": "e32a8ee2aaeb67c5",
    "demo-large": "f0cd8d29a5a62adf",
    "corpus": "22e5e1c010b91eb7",
    "captions": "c60011e91022cad8",
}
NUM_IMAGES = {"train": 24, "validation": 12, "test": 12}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_dataset(root, set_name="demo-small", num_images=NUM_IMAGES, seed=3)
    return root


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _truth(root: Path, split: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / split / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def test_same_seed_same_bytes_other_seed_other_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", set_name="demo-small", num_images=NUM_IMAGES, seed=3)
    write_dataset(tmp_path / "other", set_name="demo-small", num_images=NUM_IMAGES, seed=4)
    assert _digests(tmp_path / "again") == _digests(dataset)
    images = {d for name, d in _digests(dataset).items() if name.endswith(".png") and "masks" not in name}
    others = {d for name, d in _digests(tmp_path / "other").items() if name.endswith(".png") and "masks" not in name}
    assert not images & others


def test_the_first_world_is_the_one_that_its_weights_and_figures_are_of() -> None:
    """Pixels, truth and captions of the world as it was fixed: another digest voids every figure made of it."""
    found = {}
    for name in SETS:
        hasher = hashlib.sha256()
        for item in labelled_drawings(set_name=name, split="validation", num_images=12, seed=2000):
            hasher.update(item.drawing.image.tobytes() + item.drawing.labels.tobytes())
            hasher.update(repr((item.category, item.rationale, item.visible_rationales)).encode())
        found[name] = hasher.hexdigest()[:16]
    corpus = draw_corpus(FAMILIAR, num_images=60, seed=0, num_processes=1)
    arrays = (corpus.pixels, corpus.categories, corpus.visible)
    found["corpus"] = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
    batch = write_captions(corpus, np.arange(60), rng=random.Random(3), noise=0.02)
    told = (batch.own, batch.true, batch.attributes)
    captions = "\n".join(batch.captions).encode() + b"".join(array.tobytes() for array in told)
    found["captions"] = hashlib.sha256(captions).hexdigest()[:16]
    assert found == FIXED


def test_splits_share_no_image(dataset: Path) -> None:
    images = [d for name, d in _digests(dataset).items() if name.endswith(".png") and "-masks/" not in name]
    assert len(images) == sum(NUM_IMAGES.values()) == len(set(images))


def test_layout_is_dror_s(dataset: Path) -> None:
    vocabulary = json.loads((dataset / "vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary == set_vocabulary("demo-small")
    for split, count in NUM_IMAGES.items():
        paths = [path.relative_to(dataset / split).parts for path in (dataset / split).rglob("*.png")]
        assert len(paths) == count
        for category, rationale, query, _ in paths:
            assert rationale.replace("__", "/") in vocabulary[category]
            assert query.isdigit()


def test_truth_names_every_file_and_agrees_with_its_path(dataset: Path) -> None:
    for split in NUM_IMAGES:
        truth = _truth(dataset, split)
        files = {path.relative_to(dataset / split).as_posix() for path in (dataset / split).rglob("*.png")}
        assert {row["file"] for row in truth} == files
        for row in truth:
            assert str(row["file"]).startswith(f"{row['category']}/{row['rationale']}/")
            assert row["rationale"] in row["visible_rationales"]


def test_visible_rationales_are_those_with_pixels(dataset: Path) -> None:
    for row in _truth(dataset, "train"):
        counts = np.bincount(np.asarray(Image.open(dataset / str(row["masks"]))).ravel(), minlength=256)
        legend = row["mask_legend"]
        assert isinstance(legend, dict)
        assert set(np.flatnonzero(counts).tolist()) - {0} <= set(map(int, legend))
        own = set_vocabulary("demo-small")[str(row["category"])]
        shown = [text for label, text in legend.items() if text in own and counts[int(label)] >= MIN_VISIBLE_PIXELS]
        assert shown == row["visible_rationales"]


def test_visibility_varies_between_images_of_a_category() -> None:
    items = labelled_drawings(set_name="demo-main", split="train", num_images=300, seed=0)
    seen: dict[str, set[tuple[str, ...]]] = {}
    for item in items:
        seen.setdefault(item.category, set()).add(item.visible_rationales)
    assert min(map(len, seen.values())) >= 2


def test_longer_split_begins_with_the_shorter() -> None:
    short, long = (list(labelled_drawings(set_name="demo-small", split="test", num_images=n, seed=1)) for n in (5, 9))
    assert [item.scene for item in short] == [item.scene for item in long[:5]]


def test_a_part_left_out_changes_that_part_alone() -> None:
    """The image without a part equals the image with it wherever the part was not, up to the blur of one pixel."""
    for category, rationale in (
        ("elephant", "a long trunk"),
        ("bicycle", "a leather saddle"),
        ("owl", "huge round eyes"),
    ):
        scene = compose(PLAIN, seed=f"t/{category}", category=category)
        whole, lacking = draw_scene(scene), draw_scene(without_part(scene, rationale))
        label = next(key for key, value in whole.legend.items() if value == (0, rationale))
        part = np.asarray(whole.labels) == label
        near = np.pad(part, 2).astype(int)
        near = (
            sum(np.roll(near, (dy, dx), (0, 1)) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2))[2:-2, 2:-2] > 0
        )
        differs = (np.asarray(whole.image) != np.asarray(lacking.image)).any(-1)
        assert part.any() and differs[part].any()
        assert not differs[~near].any()
        assert rationale in whole.visible[0] and rationale not in lacking.visible[0]


def test_every_kind_draws_all_its_rationales() -> None:
    """The table of the world and the drawing agree: with nothing left out, each part has pixels somewhere."""
    for name, kind in KINDS.items():
        seen: set[str] = set()
        for k in range(3):
            scene = compose(PLAIN, seed=f"all/{k}", category=name)
            seen |= set(draw_scene(scene).visible[0])
        assert seen == set(kind.rationales), name


@pytest.mark.parametrize("set_name", SETS)
def test_most_rationales_belong_to_one_category(set_name: str) -> None:
    vocabulary = set_vocabulary(set_name)
    owners = Counter(text for texts in vocabulary.values() for text in texts)
    assert all(len(texts) == len(set(texts)) >= 2 for texts in vocabulary.values())
    assert sum(count == 1 for count in owners.values()) / len(owners) >= 0.85
    assert set(vocabulary) <= set(KINDS)


def test_new_names_are_in_no_other_set_and_in_no_caption() -> None:
    others = {c for name, world in SETS.items() if name != "demo-new-names" for c in world.categories}
    assert not others & set(FAMILIAR.unnamed)
    rows = np.arange(200)
    rng = np.random.default_rng(0)
    visible = rng.random((200, 2, len(FAMILIAR.rationales))) < 0.02
    corpus = Corpus(
        world=FAMILIAR,
        pixels=np.zeros((200, 64, 64, 3), np.uint8),
        categories=rng.integers(-1, len(FAMILIAR.categories), (200, 2)),
        visible=visible,
    )
    corpus.categories[:, 0] = rng.integers(0, len(FAMILIAR.categories), 200)
    batch = write_captions(corpus, rows, rng=random.Random(0), noise=0.0)
    said = re.compile(rf"\b(a|the) ({'|'.join(FAMILIAR.unnamed)})(\.|,|$| with | because )")
    assert not [caption for caption in batch.captions if said.search(caption)]
    assert (batch.own <= batch.true).all()
    assert not batch.true.any(0).all(), "some captions contradict every image"


def test_claims_hold_as_a_naive_loop_says() -> None:
    rng = np.random.default_rng(1)
    corpus = Corpus(
        world=FAMILIAR,
        pixels=np.zeros((20, 64, 64, 3), np.uint8),
        categories=rng.integers(-1, 4, (20, 2)),
        visible=rng.random((20, 2, len(FAMILIAR.rationales))) < 0.4,
    )
    claims = [Claim(int(c), int(r)) for c in range(-1, 4) for r in (-1, 0, 5)]
    expected = [
        [
            any(
                thing >= 0 and claim.category in (-1, thing) and (claim.rationale < 0 or seen[claim.rationale])
                for thing, seen in zip(corpus.categories[b], corpus.visible[b], strict=True)
            )
            for claim in claims
        ]
        for b in range(20)
    ]
    assert claim_truth(corpus, np.arange(20), claims).tolist() == expected


def test_unknown_names_are_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match="demo-small"):
        set_vocabulary("demo-big")
    with pytest.raises(ValueError, match="validation"):
        next(labelled_drawings(set_name="demo-small", split="val", num_images=1, seed=0))


@pytest.fixture(scope="module")
def shipped() -> torch.nn.Module:
    """The committed weights, as any tool that knows only open_clip would load them."""
    open_clip.add_model_config(config_path())
    model, _, _ = open_clip.create_model_and_transforms("ecor-demo", pretrained=str(weights_path()))
    return model.eval()


def test_plain_open_clip_encodes_as_our_own_helpers_do(shipped: torch.nn.Module) -> None:
    from ecor.demo.tiny_clip import encode_images, encode_texts

    _, _, preprocess = open_clip.create_model_and_transforms("ecor-demo", pretrained=str(weights_path()))
    images = validation_images("demo-small", num_images=4)
    tokens = open_clip.get_tokenizer("ecor-demo")(["a zebra", "There is a long trunk."])
    with torch.no_grad():
        pixels = torch.stack([preprocess(item.drawing.image) for item in images.drawings])
        plain_images = torch.nn.functional.normalize(shipped.encode_image(pixels), dim=-1)
        plain_texts = torch.nn.functional.normalize(shipped.encode_text(tokens), dim=-1)
    torch.testing.assert_close(encode_images(shipped, images.pixels), plain_images, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        encode_texts(shipped, ["a zebra", "There is a long trunk."]), plain_texts, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("set_name", "least"), [("demo-small", 0.4), ("demo-main", 0.3)])
def test_shipped_weights_know_the_world_without_tuning(shipped: torch.nn.Module, set_name: str, least: float) -> None:
    images = validation_images(set_name, num_images=200)
    rows = zero_shot_table(shipped, images)
    assert max(row.category_accuracy for row in rows) >= least
    assert rows[0].rationale_accuracy >= 4 / len(images.rationales)


def test_weights_are_small_enough_to_ship() -> None:
    import zlib

    stored = weights_path().read_bytes()
    assert len(stored) <= 16 * 2**20
    assert len(zlib.compress(stored)) <= 8 * 2**20
