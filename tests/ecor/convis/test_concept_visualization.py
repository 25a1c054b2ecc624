"""Laws of Concept Visualization: the formula by hand and patch by patch; ranks of all concepts from one fit.

Covers: `ecor.convis.concept_features`, `ecor.convis.concept_ranks`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from torch.testing import assert_close

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.choices import Compat
from ecor.convis import ConVis, ListLexicon, encode_concepts
from ecor.convis.concept_features import ConceptFeatures
from ecor.convis.concept_ranks import ConceptRanks, Windows, ranks_among
from ecor.convis.concept_visualization import windows_of
from ecor.explain import Concept, attribute, build_method, explain
from tests.support.tiny_models import tiny_recognizer
from tests.support.tiny_towers import TEXT_TOWERS, VITS, pixels_for, tower_of

DEFINITIONS = {
    "thing": "that which is",
    "animal": "a being that moves",
    "fox": "a red beast with pointed ears",
    "toy": "made to play with",
    "ball": "a round toy",
    "toy fox": "a soft beast for a child",
}
PARENTS = {"animal": ["thing"], "fox": ["animal"], "toy": ["thing"], "ball": ["toy"], "toy fox": ["toy", "fox"]}
LEXICON = ListLexicon(DEFINITIONS, parents=PARENTS)
QUICK = {"patches": (0.7, 0.5), "steps": 4}
READING = TEXT_TOWERS["clip"]


def is_kind_of(name: str, above: str) -> bool:
    return name == above or any(is_kind_of(parent, above) for parent in PARENTS.get(name, ()))


def one_hot_concepts() -> ConceptFeatures:
    lexicon = ListLexicon({"a": "a", "b": "b", "c": "c"}, parents={"b": ["a"]})
    return ConceptFeatures(lexicon=lexicon, features=torch.eye(3))


def test_ranks_count_what_is_more_similar() -> None:
    every = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert ranks_among(every, every).tolist() == [[3, 0, 1, 1], [0, 0, 0, 0]]
    assert ranks_among(torch.tensor([[0.7, 2.0], [-1.0, 0.0]]), every).tolist() == [[1, 0], [4, 0]]


def test_the_grid_at_224_pixels_is_the_papers() -> None:
    large, small = (windows_of((224, 224), share=share, steps=14) for share in (4 / 7, 2 / 7))
    assert (large.size, small.size) == ((128, 128), (64, 64))
    in_papers_range = [origin - 128 for origin in range(0, 480, 16)]
    assert list(large.tops) == [origin for origin in in_papers_range if -128 < origin < 224]
    assert list(small.lefts) == [origin for origin in in_papers_range if -64 < origin < 224]
    for grid, count in ((large, 64), (small, 16)):
        assert grid.spread(torch.ones(len(grid)), over=(224, 224)).unique().tolist() == [count]


def test_a_map_by_hand() -> None:
    """A picture of 1 x 3 pixels, patches of 2 and of 1 pixels; three concepts, b a kind of a."""
    grids = (Windows(tops=(0,), lefts=(-1, 0, 1), size=(1, 2)), Windows(tops=(0,), lefts=(0, 1, 2), size=(1, 1)))
    likeness = torch.tensor(
        [
            [[0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.3, 0.1, 0.2], [0.1, 0.3, 0.2], [0.1, 0.2, 0.3]],
        ]
    )
    # ranks of a: 0 2 1 0 2 2; of b: 1 1 2 2 0 1; the better: 0 1 1 0 0 1; as shares 1 - rank / 3
    fitted = ConceptRanks(
        concepts=one_hot_concepts(), features=likeness, grids=grids, input_size=(1, 3), weigh_patches=False
    )
    assert fitted.ranks[0, :, 0].tolist() == [0, 2, 1, 0, 2, 2] and fitted.ranks[0, :, 1].tolist() == [1, 1, 2, 2, 0, 1]
    large, small = [(0 + 1) / 2, (1 + 1) / 2, 1], [0, 0, 1]
    wanted = [1 - (one + other) / 2 / 3 for one, other in zip(large, small, strict=True)]
    assert_close(fitted.map("a"), torch.tensor([[wanted]]))
    patchwise = ConceptRanks(
        concepts=one_hot_concepts(), features=likeness, grids=grids, input_size=(1, 3), weigh_patches=True
    )
    wanted = [1 - (0 + 1 + 0) / 3 / 3, 1 - (1 + 1 + 0) / 3 / 3, 1 - (1 + 1) / 2 / 3]
    assert_close(patchwise.map("a"), torch.tensor([[wanted]]))
    assert_close(patchwise.text_maps(torch.eye(3)[2:]), patchwise.maps(["c"]))


def varied_concepts(tower: ImageTower) -> ConceptFeatures:
    """An untrained tower finds all patches much alike: concepts lie where pictures differ."""
    features = tower.features(pixels_for(tower, num=len(DEFINITIONS), seed=7))
    return ConceptFeatures(lexicon=LEXICON, features=normalize(features - features.mean(dim=0), dim=-1))


def naive_map(
    tower: ImageTower, image: Tensor, concept: str, *, compat: Compat | None, patches: tuple, steps: int
) -> Tensor:
    """Patch by patch and text by text; patches outside the picture are not left out."""
    height, width = image.shape[-2:]
    stats = tower.backbone.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (stats.mean, stats.std))
    large = [round(patches[0] * length) for length in (height, width)]
    canvas = torch.rand(3, height + 2 * large[0], width + 2 * large[1], generator=torch.Generator().manual_seed(0))
    canvas[:, large[0] : large[0] + height, large[1] : large[1] + width] = image * std + mean
    texts = dict(zip(DEFINITIONS, varied_concepts(tower).features, strict=True))
    scales = []
    for share in patches:
        sides = [round(share * length) for length in (height, width)]
        total, count = torch.zeros(height, width), torch.zeros(height, width)
        for row in range(-steps, steps + 1):
            for column in range(-steps, steps + 1):
                top, left = int(row * height / steps + 100.5) - 100, int(column * width / steps + 100.5) - 100
                if not (-large[0] <= top <= height and -large[1] <= left <= width):
                    continue
                y, x, trimmed = top + large[0], left + large[1], int(compat is not None)
                patch = canvas[:, y : y + sides[0] - trimmed, x : x + sides[1] - trimmed]
                resized = interpolate(patch[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
                feature = tower.backbone.encode_image(((resized - mean) / std)[None], tokens=tower.tokens)[0]
                cosines = {name: float(feature @ text) for name, text in texts.items()}
                ranks = {name: sum(other > own for other in cosines.values()) for name, own in cosines.items()}
                best = min(rank for name, rank in ranks.items() if is_kind_of(name, concept))
                shown = slice(max(0, top), max(0, top + sides[0])), slice(max(0, left), max(0, left + sides[1]))
                total[shown] += 1 - best / len(texts)
                count[shown] += 1
        scales.append((total, count))
    if compat:
        return sum(total for total, _ in scales) / sum(count for _, count in scales)
    return sum(total / count for total, count in scales) / len(scales)


@pytest.mark.parametrize("compat", [None, "reference"])
def test_maps_are_those_of_a_loop_over_patches(tmp_path: Path, compat: Compat | None) -> None:
    tower = tower_of(tmp_path, VITS["wide"], prompted=True)
    image = pixels_for(tower, num=1)[0].clamp(-1.5, 1.5)
    concepts = varied_concepts(tower)
    fitted = ConVis(concepts=concepts, compat=compat, batch_size=7, **QUICK).fit(tower, image[None])
    for name in ("fox", "toy"):
        wanted = naive_map(tower, image, name, compat=compat, **QUICK)
        assert_close(fitted.map(name)[0], wanted, atol=1e-5, rtol=0)
        assert wanted.std() > 0.01


def test_patches_are_enlarged_as_pillow_does(tmp_path: Path) -> None:
    """Up to rounding to 8 bits: CLIP's preprocessing of a patch."""
    tower = tower_of(tmp_path, READING)
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = torch.from_numpy(np.array(source.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    chosen = ConVis(concepts=None, patches=(0.5,), steps=4)
    pixels = tower.pixels(picture[None])[0]
    grid = windows_of((32, 32), share=0.5, steps=4)
    patches = torch.cat(list(chosen._batches(tower, pixels, [grid], trimmed=0)))
    inside = [n for n in range(len(grid)) if grid.tops[n // 5] >= 0 and grid.lefts[n % 5] >= 0]
    assert len(grid) == 25 and len(inside) == 16
    for n in (inside[0], inside[5]):
        top, left = grid.tops[n // 5], grid.lefts[n % 5]
        crop = Image.fromarray(picture[:, top : top + 16, left : left + 16].permute(1, 2, 0).numpy())
        theirs = tower.pixels(
            torch.from_numpy(np.array(crop.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None]
        )
        levels = (patches[n] - theirs[0]).abs() * torch.tensor(tower.backbone.preprocess.std).view(3, 1, 1) * 255
        assert levels.max() < 2.1 and levels.mean() < 0.4, "Pillow rounds to 8 bits twice"


def test_one_fit_serves_every_concept(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, READING)
    concepts = encode_concepts(tower.backbone, LEXICON)
    passes = []
    hook = tower.backbone.model.visual.register_forward_hook(lambda *_: passes.append(1))
    fitted = ConVis(concepts=concepts, batch_size=50, **QUICK).fit(tower, pixels_for(tower))
    num_passes = len(passes)
    maps = {name: fitted.map(name) for name in LEXICON.concepts}
    hook.remove()
    assert 0 < num_passes == len(passes)
    assert (maps["thing"] == 1).all(), "every concept is a kind of the root, so one of its kinds is always the best"
    for child, above in PARENTS.items():
        for parent in above:
            assert (maps[child] <= maps[parent] + 1e-6).all()
    assert fitted.heatmap(["fox", "toy"]).scores.shape == (2, 2, 32, 32)


def test_a_text_ranks_as_a_concept_without_kinds(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, concepts = pixels_for(tower), varied_concepts(tower)
    chosen = build_method("convis", concepts=concepts, **QUICK)
    leaves = ["ball", "toy fox"]
    found = attribute(tower, pixels, concepts.of(leaves), method=chosen)
    assert_close(found.scores, chosen.fit(tower, pixels).maps(leaves))
    fox = attribute(tower, pixels, concepts.of(["fox"]), method=chosen).scores[:, 0]
    assert not torch.equal(fox, chosen.fit(tower, pixels).map("fox")), "a toy fox is a fox, its text alone is not"


def test_concepts_are_targets_of_every_method(tmp_path: Path) -> None:
    """Of a model that was tuned on other names; `convis` gets the lexicon with them."""
    model = tiny_recognizer(tmp_path)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    concepts = encode_concepts(model.backbone, LEXICON)
    targets = [Concept(name="toy", among=concepts), Concept(name="animal", among=concepts)]
    tower = ImageTower(backbone=model.backbone, tokens=model.prompts.visual[-1].detach())
    found = explain(model, images, targets, by="convis", **QUICK)
    assert found.texts == ("toy", "animal") and found.method == "convis"
    assert_close(found.scores, ConVis(concepts=concepts, **QUICK).fit(tower, images).maps(["toy", "animal"]))
    texts = model.backbone.encode_text([DEFINITIONS["toy"], DEFINITIONS["animal"]])
    wanted = attribute(tower, images, texts, method=build_method("itsm")).scores
    assert_close(explain(model, images, targets, by="itsm").scores, wanted)
    surgery = explain(model, images, targets[1:], by="clip_surgery").scores
    others = concepts.of(["thing", "toy", "ball"])
    wanted = attribute(tower, images, texts[1:], method=build_method("clip_surgery", distractors=others)).scores
    assert_close(surgery, wanted, atol=1e-5, rtol=1e-3)


def test_definitions_are_encoded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tower_of(tmp_path, READING).backbone
    plain = encode_concepts(backbone, LEXICON)
    assert_close(plain.features, backbone.encode_text(list(DEFINITIONS.values())))
    first = encode_concepts(backbone, LEXICON, cache_dir=tmp_path / "kept")
    encoded: list[Callable] = []
    monkeypatch.setattr(backbone, "encode_text", lambda *args, **kwargs: encoded.append(args))
    again = encode_concepts(backbone, LEXICON, cache_dir=tmp_path / "kept")
    assert torch.equal(first.features, plain.features) and torch.equal(again.features, plain.features)
    assert not encoded and plain.num_cut == 0
    monkeypatch.undo()
    named = encode_concepts(backbone, LEXICON, read=lambda name: f"{name} " * 20, cache_dir=tmp_path / "kept")
    assert named.num_cut == len(DEFINITIONS) and not torch.allclose(named.features, plain.features)


def test_places_of_kinds_and_leaves() -> None:
    features = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    concepts = ConceptFeatures(lexicon=LEXICON, features=features)
    names = list(DEFINITIONS)
    for name in names:
        kinds = [each for each in names if is_kind_of(each, name)]
        assert [names[place] for place in concepts.kinds(name)] == kinds
        bottom = [each for each in kinds if not any(each in above for above in PARENTS.values())]
        assert [names[place] for place in concepts.leaves(name)] == bottom
    assert torch.equal(concepts.of(["toy", "thing"]), features[[3, 0]])


def test_what_convis_cannot_do_is_refused(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, READING)
    pixels = pixels_for(tower)
    concepts = encode_concepts(tower.backbone, LEXICON)
    with pytest.raises(ValueError, match=r"give it concepts=encode_concepts\(backbone, lexicon\)"):
        ConVis().fit(tower, pixels)
    with pytest.raises(ValueError, match="concepts have 3 features, the tower 24"):
        ConVis(concepts=one_hot_concepts()).fit(tower, pixels)
    with pytest.raises(ValueError, match=r"unknown concept 'dragon' among 6"):
        ConVis(concepts=concepts, **QUICK).fit(tower, pixels[:1]).map("dragon")
    with pytest.raises(ValueError, match="patches must be shares from two steps"):
        ConVis(patches=(0.5, 0.1))
    with pytest.raises(ValueError, match="2 concepts for 1 texts"):
        attribute(tower, pixels, concepts.of(["fox"]), method=ConVis(concepts=concepts, explained=("fox", "toy")))
    with pytest.raises(ValueError, match="5 features for 6 concepts"):
        ConceptFeatures(lexicon=LEXICON, features=torch.eye(5))
    with pytest.raises(ValueError, match="nothing to rank it among"):
        ConceptFeatures(lexicon=ListLexicon({"a": "a"}, parents={}), features=torch.eye(1))


def test_noise_and_picture_alone_decide(tmp_path: Path) -> None:
    """The same picture has the same map, alone or among others; another seed of the noise gives another at its edge."""
    tower = tower_of(tmp_path)
    pixels, concepts = pixels_for(tower), varied_concepts(tower)
    first = ConVis(concepts=concepts, **QUICK).fit(tower, pixels).map("fox")
    assert_close(first[1:], ConVis(concepts=concepts, **QUICK).fit(tower, pixels[1:]).map("fox"))
    other = ConVis(concepts=concepts, seed=1, **QUICK).fit(tower, pixels).map("fox")
    assert not torch.equal(first, other)
