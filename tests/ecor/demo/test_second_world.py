"""The second world keeps the first one's promises and shares nothing else with it: other things, names and look.

Covers: `ecor.demo.pretraining_source`, `ecor.demo.worlds.invented`, `ecor.demo.worlds.registry`,
`ecor.demo.worlds.schema`, `ecor.demo.worlds.styles`, `pipelines.studies.validity`.
"""

import hashlib
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ecor.demo.art.growths import GROWTHS
from ecor.demo.art.markings import MARKINGS
from ecor.demo.corpus import DRAWING_VERSION, corpus_digest, draw_corpus
from ecor.demo.dataset import labelled_drawings
from ecor.demo.pretraining_source import DrawnSource
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.demo.worlds.invented import COLOURS, FAMILY_SIZE, MOST_OWNERS, Assembly, invented_world
from ecor.demo.worlds.registry import WORLDS, all_sets, get_world, set_vocabulary
from ecor.demo.worlds.scenes import MIN_VISIBLE_PIXELS, compose, draw_scene, without_part
from ecor.demo.worlds.schema import DrawnWorld
from ecor.training.caption_batches import BatchPart
from pipelines.config.studies import ValidityConfig
from pipelines.studies import validity
from pipelines.studies.ablation.grid import Study
from pipelines.studies.ablation.selection import ChosenSettings
from pipelines.studies.ablation.study_cells import selection_cells, study_cells

OTHER = get_world("other")
# nothing missing, nothing in the way
BARE = replace(OTHER.sets["other-large"], part_missing=0.0, size=(1.0, 1.0), num_occluders=0, two_things=0.0)


def told(world: DrawnWorld) -> dict[str, tuple[str, ...]]:
    return {name: kind.rationales for name, kind in world.kinds.items()}


def test_same_structure_seed_same_world_other_seed_other_world() -> None:
    again, other = (invented_world(name="other", structure_seed=seed) for seed in (1, 2))
    assert told(again) == told(OTHER)
    assert {name: each.categories for name, each in again.sets.items()} == {
        name: each.categories for name, each in OTHER.sets.items()
    }
    assert told(other) != told(OTHER)
    assert len(set(other.categories) & set(OTHER.categories)) <= 3
    first, second = (draw_scene(compose(world.sets["other-small"], seed="s")) for world in (OTHER, again))
    assert first.image.tobytes() == second.image.tobytes()


def test_a_world_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(OTHER))
    first, second = (draw_scene(compose(world.sets["other-chalk"], seed="s")) for world in (OTHER, sent))
    assert first.image.tobytes() == second.image.tobytes()


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    def images(seed: int) -> list[bytes]:
        items = labelled_drawings(set_name="other-twins", split="train", num_images=12, seed=seed)
        return [item.drawing.image.tobytes() + item.drawing.labels.tobytes() for item in items]

    assert images(3) == images(3)
    assert not set(images(3)) & set(images(4))


def test_sets_have_the_roles_and_sizes_of_the_first_world_s() -> None:
    for ours, theirs in zip(OTHER.sets.items(), FAMILIAR.sets.items(), strict=True):
        assert ours[0].startswith("other-") and theirs[0].startswith("demo-")
        assert ours[1].role.split(":")[0] == theirs[1].role.split(":")[0]
        assert len(ours[1].categories) == len(set(ours[1].categories)) == len(theirs[1].categories)
        assert set(ours[1].categories) <= set(OTHER.categories)
    others = {c for name, each in OTHER.sets.items() if name != "other-new-names" for c in each.categories}
    assert not others & set(OTHER.unnamed)
    assert OTHER.sets["other-new-names"].categories == OTHER.unnamed
    assert set(OTHER.sets["other-large"].categories) == set(OTHER.categories) - set(OTHER.unnamed)
    looks = [each.look for each in OTHER.sets.values()]
    assert [look == OTHER.look for look in looks] == [True, True, True, True, False, True]
    assert not set(looks) & {each.look for each in FAMILIAR.sets.values()}


def test_the_worlds_share_no_category_and_no_rationale() -> None:
    assert not set(OTHER.categories) & set(FAMILIAR.categories)
    assert not set(OTHER.rationales) & set(FAMILIAR.rationales)
    assert len(all_sets()) == sum(len(get_world(name).sets) for name in WORLDS)


@pytest.mark.parametrize("structure_seed", [1, 2, 3])
def test_most_rationales_belong_to_one_category_and_some_to_a_few(structure_seed: int) -> None:
    world = invented_world(name="other", structure_seed=structure_seed)
    owners = Counter(text for kind in world.kinds.values() for text in kind.rationales)
    share = sum(count == 1 for count in owners.values()) / len(owners)
    assert 0.85 <= share <= 0.97
    assert max(owners.values()) <= MOST_OWNERS
    for kind in world.kinds.values():
        assert 2 <= len(set(kind.rationales)) == len(kind.rationales) <= 4


def test_neighbours_share_a_body_and_no_two_have_the_same_parts() -> None:
    families: dict[int, list[str]] = {}
    for name, kind in OTHER.kinds.items():
        assert isinstance(kind.draw, Assembly)
        families.setdefault(id(kind.draw.family), []).append(name)
    assert {len(family) for family in families.values()} == {FAMILY_SIZE, len(OTHER.kinds) % FAMILY_SIZE}
    assert len({frozenset(kind.rationales) for kind in OTHER.kinds.values()}) == len(OTHER.kinds)
    twins = set(OTHER.sets["other-twins"].categories)
    assert all(len(twins & set(family)) in (0, 2) for family in families.values())


def test_the_texts_of_parts_are_distinct() -> None:
    texts = [text.format(colour) for kind in GROWTHS + MARKINGS for text in kind.texts for colour in COLOURS]
    assert len(texts) == len(set(texts))
    assert all(text.count("{}") == 1 for kind in GROWTHS + MARKINGS for text in kind.texts)


def test_every_category_shows_all_its_rationales_somewhere() -> None:
    for name, kind in OTHER.kinds.items():
        seen: set[str] = set()
        for k in range(3):
            seen |= set(draw_scene(compose(BARE, seed=f"all/{k}", category=name)).visible[0])
        assert seen == set(kind.rationales), name


def test_visible_rationales_are_those_with_pixels() -> None:
    for item in labelled_drawings(set_name="other-main", split="test", num_images=30, seed=1):
        counts = np.bincount(np.asarray(item.drawing.labels).ravel(), minlength=256)
        own = {text: label for label, (owner, text) in item.drawing.legend.items() if owner == 0 and text}
        assert set(own) == set(OTHER.kinds[item.category].rationales)
        shown = [text for text, label in own.items() if counts[label] >= MIN_VISIBLE_PIXELS]
        assert tuple(shown) == item.visible_rationales
        assert item.rationale in shown
        assert not set(shown) & item.scene.things[0].left_out
        assert set(np.flatnonzero(counts)) - {0} <= set(item.drawing.legend)


def test_a_part_left_out_changes_that_part_and_its_shadow_alone() -> None:
    for category in OTHER.categories[:12]:
        scene = compose(BARE, seed=f"t/{category}", category=category)
        whole = draw_scene(scene)
        for rationale in whole.visible[0]:
            lacking = draw_scene(without_part(scene, rationale))
            label = next(key for key, value in whole.legend.items() if value == (0, rationale))
            near = np.pad(np.asarray(whole.labels) == label, 4)
            near = sum(
                np.roll(near, (dy, dx), (0, 1)).astype(int) for dy in range(-3, 4) for dx in range(-3, 4)
            )[4:-4, 4:-4].astype(bool)  # fmt: skip
            differs = (np.asarray(whole.image) != np.asarray(lacking.image)).any(-1)
            assert differs.any() and not differs[~near].any()
            assert rationale not in lacking.visible[0]


def test_pretraining_never_says_the_new_names() -> None:
    corpus = draw_corpus(OTHER, num_images=200, seed=0, num_processes=1)
    source = DrawnSource(corpus, seed=0, batch_size=100, caption_noise=0.0, has_attributes=True)
    said = {
        word for step in (0, 1) for caption in source.batch(step, part=BatchPart()).captions for word in caption.split()
    }
    said = {word.strip(".") for word in said}
    assert said & set(OTHER.categories)
    assert not said & set(OTHER.unnamed)
    assert set(corpus.categories[:, 0]) & {OTHER.categories.index(name) for name in OTHER.unnamed}
    assert source.num_attributes == len(OTHER.categories) - len(OTHER.unnamed) + len(OTHER.rationales)
    worlds = (OTHER, FAMILIAR, invented_world(name="other", structure_seed=2))
    assert len({corpus_digest(world, num_images=9, seed=0) for world in worlds}) == 3


def test_drawings_are_those_of_the_drawing_version() -> None:
    """A corpus is found by `DRAWING_VERSION`, so no pixel and no truth may change under the same version."""
    hasher = hashlib.sha256()
    for world in (FAMILIAR, OTHER):
        corpus = draw_corpus(world, num_images=40, seed=7, num_processes=1)
        for array in (corpus.pixels, corpus.categories.astype(np.int64), corpus.visible):
            hasher.update(np.ascontiguousarray(array).tobytes())
    assert (DRAWING_VERSION, hasher.hexdigest()[:16]) == (1, "d52a08b9e98fb9d9")


def test_the_study_of_the_other_world_asks_the_same_of_its_own_sets() -> None:
    def cells(study: Study) -> list[str]:
        chosen = {method: ChosenSettings(learning_rate=0.004, num_tokens=2) for method in study.tunings}
        found = selection_cells(study) + study_cells(study, chosen=chosen)
        return [repr(cell) for cell in found]

    roles = dict(zip(OTHER.sets, FAMILIAR.sets, strict=True))
    ours = cells(Study(world="other"))
    assert not any("demo-" in cell for cell in ours)
    for name, theirs in roles.items():
        ours = [cell.replace(name, theirs) for cell in ours]
    assert ours == cells(Study())


def test_unknown_worlds_roles_and_missing_weights_are_told() -> None:
    with pytest.raises(ValueError, match="no drawn world 'third': choose one of demo, other"):
        get_world("third")
    with pytest.raises(ValueError, match="no other-pencil in the world other: choose among other-small"):
        Study(world="other", roles=("pencil",))
    with pytest.raises(ValueError, match="no weights come with the world other: make some"):
        validity.run(ValidityConfig(world="other"))
    with pytest.raises(ValueError, match="no demo-small in the world other: choose among other-small"):
        validity.run(ValidityConfig(world="other", sets=("demo-small",), weights="some"))
    assert set(set_vocabulary("other-small")) == set(OTHER.sets["other-small"].categories)
