"""Labels made from kept features are those of a full run, without a picture; features are there once, or made again.

Covers: `pipelines.storage.features_folder`, `pipelines.scoring.feature_units`.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.image_features import MANIFEST, feature_arrays, read_feature_set
from ecor.clip.prompts import PromptLearner
from ecor.config.model import PromptConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.predictions.parts import read_predictions
from ecor.model import Recognizer
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring import job
from pipelines.scoring.feature_units import EncodedPart, input_of_features, read_unit
from pipelines.stages import score
from pipelines.storage.features_folder import FeaturesFolder
from pipelines.storage.kept_features import iterate_features, read_kept_features
from tests.support.mlflow_databases import new_database
from tests.support.processes import ctrl_c_at_file
from tests.support.scoring_without_ray import score_without_ray
from tests.support.tiny_models import OTHER_NAMES, tiny_checkpoint, tiny_recognizer, write_pictures

NUM = 22
ONCE_MORE = r"--keep-features"
SCORING = ScoringConfig(top_k=3, ood_score=True)


@dataclass(frozen=True, kw_only=True)
class World:
    """Photos, a model, and finished labels with features."""

    folder: Path
    config: ScoreConfig
    tracking: TrackingConfig

    def scored(self, output: Path, **changes: object) -> ScoreConfig:
        """A job like that of the world with another output, done."""
        config = replace(self.config, output=str(output), **changes)
        score.run(config, tracking=self.tracking)
        return config

    def from_features(self, output: Path, **changes: object) -> ScoreConfig:
        """Labels from the kept features, done."""
        given = {"input": None, "features": self.config.output, "keep_features": False, "model": None}
        return self.scored(output, **{**given, **changes})


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        score_without_ray(patch)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, without_ray: None) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", num=NUM)
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "photos" / "empty.jpg").write_bytes(b"")
    (folder / "other.json").write_text(json.dumps(OTHER_NAMES))
    config = ScoreConfig(
        input=str(folder / "photos"),
        output=str(folder / "monday"),
        model=tiny_checkpoint(folder / "run").folder,
        keep_features=True,
        scoring=SCORING,
        unit_size=8,
        batch_size=3,
        precision="fp32",
        max_rejected=0.2,
    )
    made = World(folder=folder, config=config, tracking=new_database(folder))
    score.run(config, tracking=made.tracking)
    return made


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """The world's labels where a test may spoil them."""
    shutil.copytree(world.config.output, tmp_path / "monday")
    return replace(world, config=replace(world.config, output=str(tmp_path / "monday")))


def feature_files(config: ScoreConfig) -> list[Path]:
    return sorted((Path(config.output) / "features").glob("*.arrow"))


def summary_of(config: ScoreConfig) -> dict:
    return json.loads((Path(config.output) / "summary.json").read_text())


def assert_same_labels(found: ScoreConfig, expected: ScoreConfig) -> None:
    """To the rounding of fp16; all columns that are no numbers are equal."""
    ours, theirs = read_predictions(found.output), read_predictions(expected.output)
    assert ours.schema == theirs.schema and ours.num_rows == theirs.num_rows == NUM
    for name in ours.column_names:
        if pa.types.is_floating(ours.schema.field(name).type):
            found_N, expected_N = ours[name].to_numpy(), theirs[name].to_numpy()
            assert np.abs(found_N - expected_N).max() <= 0.1 * np.ptp(expected_N) + 1e-6, name
        elif name not in ("pairs", "categories", "rationales"):
            assert ours[name].equals(theirs[name]), name
    best = [[row["pairs"][0][name] for name in ("category", "rationale")] for row in ours.to_pylist()]
    assert best == [[row["category"], row["rationale"]] for row in theirs.to_pylist()]
    rejected = [pq.read_table(Path(each.output) / "quarantine.parquet").to_pylist() for each in (found, expected)]
    assert rejected[0] == rejected[1] and len(rejected[0]) == 2


# Keeping


def test_features_are_those_of_the_model_beside_the_labels_that_they_belong_to(world: World):
    kept, model = read_kept_features(world.config.output), load(world.config.model)
    assert kept.features.image_side == model.image_side
    assert (kept.features.num_rows, len(kept.features.parts), len(feature_files(world.config))) == (NUM, 3, 3)
    assert kept.features.labels_digest == kept.labels.digest
    for unit in iterate_features(kept, columns=["key", "source"]):
        sources = unit.labels["source"].to_pylist()
        pixels = [
            image_to_pixels(decode_image(Path(each).read_bytes()), preprocess=model.backbone.preprocess)
            for each in sources
        ]
        expected = model.image_features(torch.from_numpy(np.stack(pixels)))
        for found, feature in zip(feature_arrays(unit.features), (expected.rationale, expected.category), strict=True):
            np.testing.assert_allclose(found, feature.numpy(), rtol=1 / 2048, atol=1e-5)
    assert sum(part.num_rejected for part in kept.features.parts) == 2


def test_keeping_features_changes_no_row_and_no_identity(world: World, tmp_path: Path):
    plain = world.scored(tmp_path / "labels", keep_features=False)
    assert not (tmp_path / "labels" / "features").exists()
    assert read_prediction_set(plain.output).digest == read_prediction_set(world.config.output).digest
    identities = [Path(each.output, "_commits/job/identity.json").read_text() for each in (plain, world.config)]
    assert identities[0] == identities[1]


def test_the_record_says_which_features_were_kept(world: World):
    summary, kept = summary_of(world.config), read_feature_set(world.config.output)
    assert kept is not None
    assert summary["kept_features"] == {"digest": kept.digest, "image_side": asdict(kept.image_side)}
    assert summary["num_feature_bytes"] == sum(path.stat().st_size for path in feature_files(world.config))
    run = MlflowClient(world.tracking.uri).get_run(summary["run_id"]).data
    assert run.params["keep_features"] == "True" and run.metrics["num_feature_bytes"] == summary["num_feature_bytes"]


def test_finished_labels_without_features_are_done_again_for_them_and_stay_the_same(world: World, tmp_path: Path):
    plain = world.scored(tmp_path / "labels", keep_features=False)
    before = read_prediction_set(plain.output).digest
    again = world.scored(tmp_path / "labels")
    assert (summary_of(again)["num_units_kept"], summary_of(again)["num_units_done"]) == (0, 3)
    assert read_prediction_set(again.output).digest == before
    assert read_kept_features(again.output).features.digest == read_kept_features(world.config.output).features.digest
    assert len(feature_files(again)) == 3 and len(list(Path(again.output).glob("0*.parquet"))) == 3


def test_a_folder_with_features_keeps_them_complete_until_it_is_made_afresh(copied: World, capsys):
    feature_files(copied.config)[0].unlink()
    config = replace(copied.config, keep_features=False)
    score.run(config, tracking=copied.tracking)
    assert (summary_of(config)["num_units_kept"], summary_of(config)["num_units_done"]) == (2, 1)
    assert len(feature_files(config)) == 3
    read_kept_features(config.output)
    capsys.readouterr()
    score.run(config, tracking=copied.tracking)
    assert "units: 3 kept, 0 done" in capsys.readouterr().out
    score.run(replace(config, fresh=True), tracking=copied.tracking)
    assert not (Path(config.output) / "features").exists()


@pytest.mark.parametrize("damage", ["altered", "missing", "record altered", "record missing"])
def test_what_is_damaged_is_refused_with_the_remedy_and_the_same_command_mends_it(
    copied: World, tmp_path: Path, damage: str
):
    before = read_feature_set(copied.config.output)
    assert before is not None
    victim = Path(copied.config.output) / MANIFEST if "record" in damage else feature_files(copied.config)[1]
    victim.unlink() if "missing" in damage else victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(ValueError, match=ONCE_MORE):
        copied.from_features(tmp_path / "tuesday")
    score.run(copied.config, tracking=copied.tracking)
    after = read_feature_set(copied.config.output)
    assert after is not None and after.digest == before.digest
    copied.from_features(tmp_path / "tuesday")


def test_a_job_that_is_stopped_at_any_file_goes_on_with_every_row_and_feature_once(world: World, tmp_path: Path):
    """Each run is stopped at a later file than the one before, until one gets through."""
    config, stops = replace(world.config, output=str(tmp_path / "labels")), 0
    for number in range(0, 60, 3):
        try:
            with ctrl_c_at_file(number):
                score.run(config, tracking=world.tracking)
        except BaseException as error:  # noqa: BLE001 - pytest's own, where no file was left to stop at
            assert "DID NOT RAISE" in str(error)
            break
        stops += 1
    assert stops >= 3
    score.run(config, tracking=world.tracking)
    assert read_prediction_set(config.output).digest == read_prediction_set(world.config.output).digest
    assert read_kept_features(config.output).features.digest == read_kept_features(world.config.output).features.digest
    assert len(feature_files(config)) == 3


def test_a_manifest_that_names_files_that_count_no_more_is_written_again(copied: World):
    """As a job leaves it that ends after it has removed the files of older attempts."""
    path = Path(copied.config.output) / "manifest.json"
    stale = path.read_bytes()
    next(Path(copied.config.output).glob("0*.parquet")).write_bytes(b"damaged")
    score.run(copied.config, tracking=copied.tracking)
    path.write_bytes(stale)
    score.run(copied.config, tracking=copied.tracking)
    assert read_predictions(copied.config.output).num_rows == NUM


def test_units_in_several_parts_keep_their_features_in_order(world: World, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipelines.scoring.flows.flow_settings.images_per_part", lambda *args, **kwargs: 3)
    found = world.scored(tmp_path / "labels")
    units = (iterate_features(read_kept_features(each.output)) for each in (found, world.config))
    for ours, theirs in zip(*units, strict=True):
        assert ours.features["key"].equals(theirs.features["key"]) and ours.rejected == theirs.rejected
        for pair in zip(feature_arrays(ours.features), feature_arrays(theirs.features), strict=True):
            np.testing.assert_allclose(*pair, rtol=1 / 1024, atol=1e-5)  # other batches, other last digits


# Labelling


def test_a_second_vocabulary_needs_no_picture_and_labels_as_a_full_run(world: World, tmp_path: Path, capsys):
    other = str(world.folder / "other.json")
    full = world.scored(tmp_path / "full", keep_features=False, vocabulary=other)
    shutil.move(world.config.input, tmp_path / "away")
    try:
        capsys.readouterr()
        found = world.from_features(tmp_path / "tuesday", vocabulary=other)
    finally:
        shutil.move(tmp_path / "away", world.config.input)
    told = capsys.readouterr()
    assert "scored 24 images, 2 rejected" in told.out
    assert "score: 24 listed = 22 taken + 0 copies + 2 rejected" in told.err
    assert_same_labels(found, full)
    assert set(read_predictions(found.output)["category"].to_pylist()) <= set(OTHER_NAMES)
    kept, labels = read_kept_features(world.config.output), read_prediction_set(found.output)
    assert (labels.parents.features, labels.parents.features_digest) == (world.config.output, kept.features.digest)
    theirs = read_prediction_set(full.output).parents.to_record()
    ours = {name: value for name, value in labels.parents.to_record().items() if not name.startswith("features")}
    assert ours == theirs
    summary = summary_of(found)
    assert summary["from_features"]["digest"] == kept.features.digest and summary["seconds_of"]["encode"] < 1
    tags = MlflowClient(world.tracking.uri).get_run(summary["run_id"]).data.tags
    assert tags["ecor.features_digest"] == kept.features.digest and tags["ecor.input"] == world.config.input


def test_the_same_names_give_the_same_labels_in_parts_of_any_size(world: World, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipelines.scoring.feature_units._PART_BYTES", 1)
    found = world.from_features(tmp_path / "tuesday", batch_size=3)
    assert_same_labels(found, world.config)


def test_text_tokens_tuned_anew_are_a_model_of_the_same_image_side(world: World, tmp_path: Path):
    model = tiny_recognizer(tmp_path)
    with torch.no_grad():
        model.prompts.rationale_context.normal_(std=3, generator=torch.Generator().manual_seed(1))
    tuned = save_checkpoint(model, tmp_path / "tuned" / "checkpoint").folder
    full = world.scored(tmp_path / "full", keep_features=False, model=tuned)
    found = world.from_features(tmp_path / "tuesday", model=tuned)
    assert_same_labels(found, full)
    ours, theirs, before = (
        read_predictions(each.output)["confidence"].to_numpy() for each in (found, full, world.config)
    )
    assert np.abs(ours - before).max() > 10 * np.abs(ours - theirs).max()


def test_an_older_checkpoint_is_loaded_to_know_its_image_side(world: World, tmp_path: Path):
    shutil.copytree(Path(world.config.model), tmp_path / "checkpoint")
    record = tmp_path / "checkpoint" / "checkpoint.json"
    values = json.loads(record.read_text())
    del values["image_side_digest"]
    record.write_text(json.dumps(values))
    found = world.from_features(tmp_path / "tuesday", model=str(tmp_path / "checkpoint"))
    assert read_prediction_set(found.output).num_rows == NUM


def test_prompts_with_visual_tokens_of_their_own_keep_two_features(world: World, tmp_path: Path):
    model = tiny_recognizer(tmp_path)
    prompts = PromptLearner(
        PromptConfig(visual_tokens=2, visual_shared=False, init_std=1.0),
        model.backbone,
        generator=torch.Generator().manual_seed(0),
    )
    two = Recognizer(backbone=model.backbone, prompts=prompts, vocabulary=model.vocabulary)
    folder = save_checkpoint(two, tmp_path / "two" / "checkpoint").folder
    full = world.scored(tmp_path / "monday", model=folder)
    (first, *_) = iterate_features(read_kept_features(full.output))
    assert first.features.column_names == ["key", "rationale", "category"]
    rationale, category = feature_arrays(first.features)
    assert np.abs(rationale - category).max() > 0.01
    assert_same_labels(world.from_features(tmp_path / "tuesday", features=full.output), full)


def test_parts_travel_as_rows(world: World):
    unit = input_of_features(read_kept_features(world.config.output)).units[0]
    parts = [EncodedPart.from_row(part.to_row()) for part in read_unit(unit, batch_size=4)]
    assert [part.origins["key"].to_pylist() for part in parts] == [part.features["key"].to_pylist() for part in parts]
    assert sum(part.num_images + len(part.rejected) for part in parts) == unit.num_images == 8


# Refusing


@pytest.mark.parametrize("changed", ["visual tokens", "precision"])
def test_features_of_another_image_side_are_refused_with_both_digests(world: World, tmp_path: Path, changed: str):
    asked = (
        {"precision": "bf16"} if changed == "precision" else {"model": tiny_checkpoint(tmp_path / "m", seed=1).folder}
    )
    theirs = load(asked.get("model", world.config.model), precision=asked.get("precision")).image_side.digest
    ours = load(world.config.model).image_side.digest
    reason = "fp32, not in bf16" if changed == "precision" else "other visual tokens"
    with pytest.raises(ValueError, match=rf"image side {ours}, .* has {theirs} \(.*{reason}.*--input") as raised:
        world.from_features(tmp_path / "tuesday", **asked)
    assert len(str(raised.value)) < 500 and not (tmp_path / "tuesday").exists()


def test_a_record_that_names_another_image_side_than_the_model_has_is_found_by_the_scorer(
    copied: World, tmp_path: Path
):
    shutil.copytree(Path(copied.config.model), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_side_digest": "f" * 64}))
    with pytest.raises(ValueError, match=r"its record says .*save the model again"):
        copied.scored(tmp_path / "labels", model=str(tmp_path / "checkpoint"))


def test_labels_without_features_or_with_those_of_other_labels_are_refused(copied: World, tmp_path: Path):
    plain = copied.scored(tmp_path / "plain", keep_features=False)
    with pytest.raises(ValueError, match=r"holds labels without features.*--keep-features.*--input"):
        copied.from_features(tmp_path / "tuesday", features=plain.output)
    shutil.copytree(Path(copied.config.output) / "features", Path(plain.output) / "features")
    other = copied.scored(tmp_path / "other", keep_features=False, vocabulary=str(copied.folder / "other.json"))
    shutil.copytree(Path(copied.config.output) / "features", Path(other.output) / "features")
    digests = [read_prediction_set(each.output).digest for each in (plain, other)]
    with pytest.raises(ValueError, match=rf"belongs to labels {digests[0]}, .* holds {digests[1]}.*--keep-features"):
        copied.from_features(tmp_path / "tuesday", features=other.output)
    (Path(plain.output) / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not a folder of labels, or not finished"):
        copied.from_features(tmp_path / "tuesday", features=plain.output)
    assert not (tmp_path / "tuesday").exists()


def test_new_labels_never_replace_those_of_the_features(copied: World, tmp_path: Path):
    """Also where a link leads to them, or the output lies within them."""
    monday = Path(copied.config.output)
    (tmp_path / "latest").symlink_to(monday)
    for place, fresh in itertools.product((monday, tmp_path / "latest", monday / "features"), (False, True)):
        with pytest.raises(ValueError, match="is in the folder of the features: name another"):
            copied.from_features(place, fresh=fresh)
    assert len(feature_files(copied.config)) == 3


def test_a_model_that_is_another_one_by_now_must_be_named(copied: World, tmp_path: Path, monkeypatch):
    real = job.model_cache.pin_model

    def retrained(uri: str, **kwargs):
        return replace(real(uri, **kwargs), digest="f" * 64)

    monkeypatch.setattr(job.model_cache, "pin_model", retrained)
    with pytest.raises(ValueError, match=r"and is f{64} now: name the model to label with by --model"):
        copied.from_features(tmp_path / "tuesday")


def test_other_files_beside_features_stay(copied: World):
    folder = Path(copied.config.output) / "features"
    (folder / "mine.arrow").touch()
    FeaturesFolder(copied.config.output).clear()
    assert [path.name for path in folder.iterdir()] == ["mine.arrow"]


def test_other_features_are_another_job(copied: World, tmp_path: Path):
    copied.from_features(tmp_path / "tuesday")
    other = copied.scored(tmp_path / "other", scoring=replace(SCORING, top_k=2))
    with pytest.raises(ValueError, match=r"features_digest was \w{64}, is \w{64}"):
        copied.from_features(tmp_path / "tuesday", features=other.output)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--input, or --features"),
        ({"input": "i", "features": "f"}, "--input i and --features f: name one"),
        ({"features": "f", "explain": "grad_eclip"}, "need the pictures.*leave --explain out"),
        ({"features": "f", "explain_settings": ("num_masks=5",)}, "need the pictures"),
        ({"features": "f", "keep_features": True}, "lie beside f already"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_when_they_are_made(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ScoreConfig(output="o", **settings)
