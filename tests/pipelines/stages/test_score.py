"""Laws of scoring: the recognizer's own rows, every image once, whatever was interrupted, damaged or tried before.

Covers: `pipelines.scoring.flows.cluster_flow`, `pipelines.scoring.flows.flow_settings`, `pipelines.scoring.flows.flow`,
`pipelines.scoring.decoder`, `pipelines.scoring.inputs`, `pipelines.scoring.job`,
`pipelines.scoring.predictions_folder`, `pipelines.runtime.actor_resources`, `pipelines.scoring.scored_part`,
`pipelines.storage.unit_pieces`,
`pipelines.scoring.scorer`, `pipelines.scoring.unit_writer`, `pipelines.scoring.work_units`.
"""

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from ecor.checkpoint import load
from ecor.config.model import Preprocess, TextConfig
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.data.heatmap_codec import Evidence
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.predictions.parts import read_part, read_predictions
from ecor.data.predictions.records import predictions_table
from ecor.data.samples import Sample, sample_key
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files, write_text
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import RegisterConfig, ScoreConfig
from pipelines.runtime import cluster
from pipelines.runtime.actor_resources import reserve_resources
from pipelines.runtime.balance import Balance
from pipelines.scoring.decoder import Decoder, Part, decode_unit, images_per_part
from pipelines.scoring.flows import cluster_flow
from pipelines.scoring.inputs import read_input
from pipelines.scoring.job import ScoreJob, plan_job
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import ScoredPart, StepTimings
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.scoring.unit_writer import PartReport, UnitWriter
from pipelines.scoring.work_units import ImageItem, ListingUnit, ShardUnit, unit_from_json, unit_to_json
from pipelines.stages import score
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion
from tests.support.image_forms import FORMS
from tests.support.image_forms import pictures as form_pictures
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table
from tests.support.processes import cpus_held, hit, kill_one
from tests.support.tiny_models import NAMES, OTHER_NAMES, tiny_checkpoint, tiny_recognizer, write_pictures

PREPROCESS = Preprocess(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return new_database(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, num=22)
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Three shards of 9, 9 and 4 pictures with labels."""
    folder = tmp_path_factory.mktemp("shards") / "test"
    samples = sorted((labelled(path, number=n) for n, path in enumerate(sorted(pictures.rglob("*.png")))), key=key_of)
    names = vocabulary_from_mapping(NAMES)
    shards = [
        write_shard(
            [ShardEntry(sample=sample) for sample in samples[start : start + 9]],
            folder=folder,
            name=f"{start // 9}.tar",
            vocabulary=names,
        )
        for start in range(0, len(samples), 9)
    ]
    manifest = ShardManifest(
        split="test",
        shards=tuple(shards),
        vocabulary_digest=names.digest,
        num_samples=len(samples),
        num_rejected=0,
        num_duplicates=0,
        config_digest="0" * 64,
        parents={},
    )
    write_shard_manifest(manifest, folder)
    write_side_files(folder.parent, vocabulary=names)
    write_text(f"{len(shards)}\n", folder=folder, name="nshards.txt")
    return folder


ON_RAY = ClusterConfig(local_images=0)


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """The smallest cluster: decoding and scoring must share one CPU without starving each other."""
    with cluster.connect(ClusterConfig(num_cpus=1)):
        yield


def labelled(path: Path, *, number: int) -> Sample:
    category = list(NAMES)[number % len(NAMES)]
    data = path.read_bytes()
    return Sample(
        key=sample_key(str(path), sha256=f"{number:064x}"),
        image=data,
        extension="png",
        category=category,
        rationales=(NAMES[category][number % 2],),
        visible_rationales=tuple(NAMES[category]) if number % 2 else None,
        source=str(path),
    )


def key_of(sample: Sample) -> str:
    return sample.key


def config_of(input_: Path, output: Path, *, model: str, **settings: object) -> ScoreConfig:
    given = {"batch_size": 4, "precision": "fp32", **settings}
    return ScoreConfig(input=str(input_), output=str(output), model=model, **given)


# --- units and parts, without Ray


def test_a_folder_is_cut_into_units_in_sorted_order(pictures: Path) -> None:
    found = read_input(str(pictures), unit_size=5)
    assert [unit.num_images for unit in found.units] == [5, 5, 5, 5, 2]
    read = [each for unit in found.units for each in unit.read()]
    expected = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    assert [str(Path(each.source).relative_to(pictures)) for each in read] == expected
    assert len({each.key for each in read if isinstance(each, ImageItem)}) == 22
    assert all("." not in each.key for each in read if isinstance(each, ImageItem))
    assert read_input(str(pictures), unit_size=7).digest == found.digest


def test_suffixes_in_capitals_are_pictures_and_tables_too(pictures: Path, tmp_path: Path) -> None:
    path = next(pictures.rglob("*.png"))
    names = ("A.JPG", "b.Jpeg", "C.PNG", "d.v1.WebP")
    for name in names:
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "NOTES.TXT").write_bytes(b"no picture")
    read = [each for unit in read_input(str(tmp_path / "photos"), unit_size=9).units for each in unit.read()]
    assert sorted(Path(each.source).name for each in read if isinstance(each, ImageItem)) == sorted(names)
    (tmp_path / "TABLE.CSV").write_text("path\n" + "".join(f"photos/{name}\n" for name in names))
    table = [each for unit in read_input(str(tmp_path / "TABLE.CSV"), unit_size=9).units for each in unit.read()]
    assert len(table) == len(names) and all(isinstance(each, ImageItem) for each in table)


def test_the_digest_of_a_listing_follows_its_files_and_not_its_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_pictures(tmp_path / place, num=4)
    here = read_input(str(tmp_path / "here"), unit_size=8)
    assert read_input(str(tmp_path / "there"), unit_size=8).digest == here.digest
    next((tmp_path / "there").rglob("*.png")).write_bytes(b"else")
    assert read_input(str(tmp_path / "there"), unit_size=8).digest != here.digest


def test_what_to_do_with_mended_pictures_is_told_as_the_digest_has_it(tmp_path: Path, split: Path) -> None:
    (first, *_) = paths = write_pictures(tmp_path, num=2)
    (tmp_path / "in.csv").write_text("\n".join(["path", *map(str, paths)]) + "\n")
    before = [read_input(str(place), unit_size=8) for place in (tmp_path / "in.csv", tmp_path)]
    first.write_bytes(first.read_bytes() + b"mended")
    table, folder = (read_input(str(place), unit_size=8) for place in (tmp_path / "in.csv", tmp_path))
    assert (table.digest == before[0].digest, folder.digest == before[1].digest) == (True, False)
    assert table.once_mended == "run the same command again"
    assert folder.once_mended == "run again, with --fresh where a name or a size has changed"
    assert read_input(str(split), unit_size=8).once_mended == "shard them and run again, both with --fresh"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_gives_paths_and_truth(pictures: Path, tmp_path: Path, suffix: str) -> None:
    paths = [str(path) for path in sorted(pictures.rglob("*.png"))[:3]]
    columns = {"path": paths, "category": ["Fox", "Fox", None], "rationales": ["pointed_ears|A bushy tail", None, None]}
    frame, table = pd.DataFrame(columns), tmp_path / f"list{suffix}"
    if suffix == ".csv":
        frame.to_csv(table, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(table)
    else:
        frame.to_json(table, orient="records", lines=True)
    read = [each for unit in read_input(str(table), unit_size=2).units for each in unit.read()]
    assert [each.source for each in read] == paths
    assert [each.category_true for each in read if isinstance(each, ImageItem)] == ["fox", "fox", None]
    truths = [each.rationales_true for each in read if isinstance(each, ImageItem)]
    assert truths == [("pointed ears", "a bushy tail"), None, None]


def test_files_that_are_no_images_by_their_names_are_counted_and_an_output_folder_is_not_listed(tmp_path):
    names = ["a.png", "b.JPG", "c.jfif", "d.mpo", "e.dng", "f.DNG", "notes", "Thumbs.db", ".hidden.png"]
    for name in (*names, "Icon\r", "#snapshot/monday/a.png", "@eaDir/a.png", "out/old.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = read_input(str(tmp_path), unit_size=100, without=str(tmp_path / "out"))
    assert found.num_images == 4 and found.left_out == {".dng": 2, "": 1}
    assert found.num_listed == 13 and found.passed_over == {"hidden": 1, "system_files": 2, "nas_files": 2, "output": 1}
    assert found.describe_left_out() == (
        "left out 3 files that are no images by their names: 2 .dng, 1 without a suffix"
    )
    assert read_input(str(tmp_path), unit_size=100).num_images == 5


def test_input_that_is_none_is_told_what_would_do(tmp_path: Path, split: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a table"):
        read_input(str(tmp_path / "nowhere"), unit_size=2)
    with pytest.raises(ValueError, match="holds no image"):
        read_input(str(tmp_path), unit_size=2)
    with pytest.raises(ValueError, match="holds the splits test: name one"):
        read_input(str(split.parent), unit_size=2)
    (tmp_path / "twice.csv").write_text("path\na.png\nb.png\na.png\n")
    with pytest.raises(ValueError, match=r"line 4: line 2 lists a\.png too"):
        read_input(str(tmp_path / "twice.csv"), unit_size=2)


def test_columns_of_a_table_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,split,rationales,notes\na.png,test,a tail,x\n")
    found = read_input(str(tmp_path / "list.csv"), unit_size=2)
    assert found.describe_left_out() == "columns that are not read: split, notes"


@pytest.mark.parametrize("num_images", [1, 4, 9, 100])
def test_parts_put_together_are_the_unit(split: Path, num_images: int) -> None:
    unit = read_input(str(split), unit_size=1).units[0]
    assert isinstance(unit, ShardUnit)
    parts = [part_through_arrow(part) for part in decode_unit(unit, preprocess=PREPROCESS, num_images=num_images)]
    assert [part.index for part in parts] == list(range(parts[0].num_parts))
    expected = [image_to_pixels(decode_image(each.data), preprocess=PREPROCESS) for each in unit.read()]
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), np.stack(expected))
    keys = [key for part in parts for key in part.origins["key"].to_pylist()]
    assert keys == [each.key for each in unit.read() if isinstance(each, ImageItem)]


def test_offsets_lead_back_to_the_picture(split: Path) -> None:
    for unit in read_input(str(split), unit_size=1).units:
        for part in decode_unit(unit, preprocess=PREPROCESS, num_images=100):
            for row in part.origins.to_pylist():
                with (split / row["shard"]).open("rb") as tar:
                    tar.seek(row["member_offset"])
                    assert tar.read(row["member_num_bytes"]) == Path(row["source"]).read_bytes()


def test_bad_pictures_are_recorded_and_an_unreadable_unit_still_ends(tmp_path: Path) -> None:
    good = write_pictures(tmp_path, num=2)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "short.png").write_bytes(good[0].read_bytes()[:70])
    (tmp_path / "words.jpeg").write_text("not an image")
    units = read_input(str(tmp_path), unit_size=100).units
    good[1].unlink()
    [part] = [part_through_arrow(part) for part in decode_unit(units[0], preprocess=PREPROCESS, num_images=9)]
    reasons = {Path(each.source).name: (each.stage, each.reason) for each in part.rejected}
    assert reasons["empty.jpg"] == ("decode", "empty")
    assert reasons["words.jpeg"] == ("decode", "not_an_image")
    assert reasons["short.png"][0] == "decode"
    assert reasons[good[1].name] == ("read", "missing")
    assert part.origins["source"].to_pylist() == [str(good[0])]
    none = ListingUnit(name="none", files=units[0].files[-1:]) if isinstance(units[0], ListingUnit) else None
    assert none is not None
    [empty] = [part_through_arrow(part) for part in decode_unit(none, preprocess=PREPROCESS, num_images=9)]
    assert empty.pixels.shape == (0, 3, 32, 32)


def part_through_arrow(part: Part) -> Part:
    return Part.from_row(part.to_row())


def test_the_decoder_actor_gives_a_row_per_part(split: Path) -> None:
    unit = read_input(str(split), unit_size=1).units[0]
    assert unit_from_json(unit_to_json(unit)) == unit
    rows = list(
        Decoder(preprocess=PREPROCESS, num_images=4)(pa.table({"unit": [unit_to_json(unit)], "attempt": [None]}))
    )
    assert [row.num_rows for row in rows] == [1, 1, 1]


@given(st.integers(1, 700), st.sampled_from([32, 64, 224, 336, 1024]))
def test_a_part_is_whole_batches_within_its_budget(batch_size: int, size: int) -> None:
    preprocess = replace(PREPROCESS, image_size=(size, size))
    num_images = images_per_part(preprocess, batch_size=batch_size)
    assert num_images % batch_size == 0
    assert num_images == batch_size or (num_images <= 512 and num_images * 3 * size * size <= 32 * 1024**2)


def scored_parts(num_parts: dict[str, int]) -> dict[str, list[ScoredPart]]:
    """Parts of units, two rows each."""
    return {
        unit: [
            ScoredPart(
                unit=unit,
                attempt=None,
                index=index,
                num_parts=num,
                rows=random_table(2, seed=index),
                rejected=(),
                seconds=StepTimings(),
            )
            for index in range(num)
        ]
        for unit, num in num_parts.items()
    }


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 4), min_size=1), st.integers())
@settings(max_examples=25)
def test_units_are_whole_in_whatever_order_their_parts_come(num_parts: dict[str, int], seed: int) -> None:
    """Parts are dealt to two workers, some of them twice; each unit is told of, its rows are there once, in order."""
    place, units, deal = "memory://whole/labels", scored_parts(num_parts), random.Random(seed)
    filesystem.remove(place)
    folder = PredictionsFolder(place, identity={})
    with folder.hold_lease():
        attempts = folder.claim_units(units)
        workers = [pickle.loads(pickle.dumps(UnitWriter(folder, parents={}))) for _ in range(2)]
        parts = [replace(part, attempt=attempts[part.unit]) for parts in units.values() for part in parts]
        parts += deal.sample(parts, k=len(parts) // 2)
        deal.shuffle(parts)
        reports = [report for part in parts for report in PartReport.from_rows(deal.choice(workers)(part.to_row()))]
        saved = {report.unit: report.saved for report in reports if report.saved is not None}
        committed = folder.read_commits()
        assert {unit: each.committed for unit, each in saved.items()} == committed
        assert committed.keys() == units.keys() and all(each.counts for each in saved.values())
        for unit, each in units.items():
            assert read_part(place, committed[unit].part).equals(pa.concat_tables([part.rows for part in each]))
        folder.remove_uncommitted(committed)
        assert filesystem.names_in(place) == sorted(["_commits", *(each.part.name for each in committed.values())])


def test_a_unit_that_was_taken_over_is_told_of_as_what_counts() -> None:
    place, [first, second] = "memory://over/labels", scored_parts({"a": 2})["a"]
    filesystem.remove(place)
    slow, fast = (PredictionsFolder(place, identity={}) for _ in range(2))
    with slow.hold_lease():
        [claimed] = slow.claim_units("a").values()
        first, second = replace(first, attempt=claimed), replace(second, attempt=claimed)
        writer = UnitWriter(slow, parents={})
        assert writer.add(first).saved is None
    with fast.hold_lease():
        [attempt] = fast.claim_units("a").values()
        assert attempt.took_over
        late = writer.add(second).saved
        assert late is not None and late.committed is None
        counting = fast.save(attempt, rows=first.rows, rejected=(), parents={})
        late = writer.add(second).saved
        assert late is not None and late.committed == counting and not late.counts


def test_a_job_is_planned_without_opening_its_model(
    pictures: Path, checkpoint: str, tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecor.checkpoint.load_backbone", lambda *args, **kwargs: pytest.fail("the model was opened"))
    config = config_of(pictures, tmp_path, model=checkpoint)
    assert plan_job(config, cluster=ClusterConfig(), tracking=tracking).preprocess.image_size == (32, 32)


@given(
    machines=st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6),
    num_decoders=st.none() | st.integers(1, 64),
    num_scorers=st.none() | st.integers(1, 64),
)
def test_both_kinds_of_actor_always_get_a_share(
    machines: list[tuple[int, int]], num_decoders: int | None, num_scorers: int | None
) -> None:
    num_gpus = sum(gpus for _, gpus in machines)
    config = ScoreConfig(input="", output="", use_gpu=num_gpus > 0, num_decoders=num_decoders, num_scorers=num_scorers)
    found = reserve_resources(config, machines=[{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in machines])
    assert found.cpus_per_decoder > 0
    assert found.cpus_per_scorer > 0
    num_at_once = min(found.num_scorers, num_gpus) if num_gpus else found.num_scorers
    taken = found.num_decoders * found.cpus_per_decoder + num_at_once * found.cpus_per_scorer
    assert taken <= sum(cpus for cpus, _ in machines) + 1e-9
    assert (found.gpus_per_scorer > 0) == (num_gpus > 0)
    assert found.num_threads >= found.cpus_per_scorer
    on_any = [cpus for cpus, gpus in machines if gpus >= found.gpus_per_scorer]
    assert max(on_any) >= found.cpus_per_scorer, "an actor is on one machine"
    assert max(cpus for cpus, _ in machines) >= found.cpus_per_decoder


@given(
    num_machines=st.integers(1, 6),
    num_cpus=st.integers(1, 64),
    num_decoders=st.none() | st.integers(1, 64),
    scorers_each=st.none() | st.integers(1, 4),
    draw=st.randoms(use_true_random=False),
)
def test_actors_of_one_kind_never_keep_out_all_of_the_other(
    num_machines: int, num_cpus: int, num_decoders: int | None, scorers_each: int | None, draw: random.Random
) -> None:
    """On machines that are alike, wherever Ray puts them."""
    num_scorers = scorers_each and scorers_each * num_machines
    config = ScoreConfig(input="", output="", num_decoders=num_decoders, num_scorers=num_scorers)
    found = reserve_resources(config, machines=[{"CPU": float(num_cpus)}] * num_machines)
    shares = [found.cpus_per_decoder] * found.num_decoders, [found.cpus_per_scorer] * found.num_scorers
    for first, then in (shares, shares[::-1]):
        free = [float(num_cpus)] * num_machines
        for share in first:
            places = [place for place, left in enumerate(free) if left >= share]
            if places:
                free[draw.choice(places)] -= share
        assert max(free) >= then[0] - 1e-6


def test_two_cpus_give_both_to_torch_and_a_gpu_must_be_there() -> None:
    config = ScoreConfig(input="", output="")
    assert reserve_resources(config, machines=[{"CPU": 2.0}]).num_threads == 2
    with pytest.raises(ValueError, match="the cluster has no GPU"):
        reserve_resources(replace(config, use_gpu=True), machines=[{"CPU": 2.0}])


def test_a_scorer_has_the_threads_that_it_reserves_and_fp32_on_a_cpu(tmp_path: Path) -> None:
    """Ray leaves one thread (OMP_NUM_THREADS); without AVX-512 bf16 is many times slower there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = ScorerSettings(
        model=model_registry.resolve_model(str(tiny_checkpoint(tmp_path).folder), tracking=TrackingConfig()),
        tracking=TrackingConfig(),
        vocabulary=None,
        scoring=ScoringConfig(),
        text=TextConfig(),
        batch_size=4,
        precision="auto",
        use_gpu=False,
        num_threads=2,
    )
    try:
        scorer = Scorer(settings)
        assert torch.get_num_threads() == 2
        assert scorer.recognizer.backbone.precision == "fp32"
    finally:
        torch.set_num_threads(before)


def test_every_machine_has_a_scorer_but_a_small_head() -> None:
    found = reserve_resources(
        ScoreConfig(input="", output=""), machines=[{"CPU": 2.0}, {"CPU": 16.0}, {"CPU": 16.0}, {}]
    )
    assert (found.num_scorers, found.cpus_per_scorer, found.num_decoders) == (2, 12.0, 10)


def test_without_tokens_the_logits_are_those_of_clip_benchmark(split: Path, tmp_path: Path) -> None:
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
    from open_clip.transform import PreprocessCfg, image_transform_v2

    recognizer = tiny_recognizer(tmp_path, num_tokens=0).with_temperatures(Temperatures())
    clip, facts = recognizer.backbone.model, recognizer.backbone.model.visual.preprocess_cfg
    transform = image_transform_v2(PreprocessCfg(**facts), is_train=False)
    theirs = build_dataset("wds/ours", root=str(split.parent), split="test", transform=transform)
    weights = zero_shot_classifier(
        clip, recognizer.backbone.tokenizer, theirs.classes, theirs.templates, device="cpu", amp=False
    )
    loader = torch.utils.data.DataLoader(theirs, batch_size=8)
    logits_BC, targets_B = run_classification(clip, weights, loader, device="cpu", amp=False)

    units = read_input(str(split), unit_size=1).units
    preprocess = recognizer.backbone.preprocess
    parts = [part for unit in units for part in decode_unit(unit, preprocess=preprocess, num_images=5)]
    features = recognizer.image_features(torch.from_numpy(np.concatenate([part.pixels for part in parts])))
    torch.testing.assert_close(100 * features.category @ recognizer.text.categories.T, logits_BC, rtol=0, atol=1e-4)

    joint = recognizer.joint(features, scoring=ScoringConfig(method="independent"))
    scaled_BC = logits_BC / 100 * recognizer.backbone.logit_scale
    torch.testing.assert_close(joint.category_log_prob, scaled_BC.log_softmax(dim=-1), rtol=0, atol=1e-4)
    truth = [name for part in parts for name in part.origins["category_true"].to_pylist()]
    assert [theirs.classes[target] for target in targets_B.tolist()] == truth


def test_a_folder_is_left_to_the_mended_job_but_not_when_something_is_done(tmp_path: Path) -> None:
    wrong, mended, third = (
        PredictionsFolder(str(tmp_path), identity={"use_gpu": value}) for value in (True, False, None)
    )
    wrong.claim_folder()
    with pytest.raises(ValueError, match="use_gpu was True, is False"):
        mended.claim_folder()
    wrong.release_folder()
    mended.claim_folder()
    wrong.release_folder()  # it is no longer its own
    with pytest.raises(ValueError, match="use_gpu was False, is None"):
        third.claim_folder()
    with mended.hold_lease():
        attempt = mended.claim_units(["0"])["0"]
        rows = predictions_table([])
        assert mended.save(attempt, rows=rows, rejected=(), parents={}) is not None
    mended.release_folder()
    with pytest.raises(ValueError, match="use_gpu was False, is None"):
        third.claim_folder()


@pytest.mark.parametrize("changed", ["input", "model", "vocabulary", "version", "name", "registered"])
def test_what_another_job_would_add_to_a_folder_is_refused_with_both_digests(
    pictures: Path, split: Path, checkpoint: str, tracking: TrackingConfig, tmp_path: Path, changed: str
) -> None:
    """Also where the numbers would be the same: every row names its model, and a folder names one."""

    def job_of(images: Path, model: str, **settings: object) -> ScoreJob:
        config = config_of(images, tmp_path / "labels", model=model, **settings)
        return plan_job(config, cluster=ClusterConfig(), tracking=tracking)

    job = job_of(pictures, checkpoint)
    if changed in ("version", "name"):
        job = replace(job, model=replace(job.model, name="tiny", version="1"))
    (tmp_path / "names.json").write_text(json.dumps(OTHER_NAMES))
    others = {
        "input": lambda: job_of(split, checkpoint),
        "model": lambda: job_of(pictures, tiny_checkpoint(tmp_path, seed=1).folder),
        "vocabulary": lambda: job_of(pictures, checkpoint, vocabulary=str(tmp_path / "names.json")),
        "version": lambda: replace(job, model=replace(job.model, version="2")),
        "name": lambda: replace(job, model=replace(job.model, name="other")),
        "registered": lambda: replace(job, model=replace(job.model, name="tiny", version="1")),
    }
    kept, other = job.identity, others[changed]().identity
    names = {"version": "model_version", "name": "model_name", "registered": "model_version"}
    name = names.get(changed, f"{changed}_digest")
    PredictionsFolder(str(tmp_path / "labels"), identity=kept).claim_folder()
    with pytest.raises(ValueError, match=f"{name} was {kept[name]}, is {other[name]}.*--fresh"):
        PredictionsFolder(str(tmp_path / "labels"), identity=other).claim_folder()
    PredictionsFolder(str(tmp_path / "labels"), identity=kept).claim_folder()


# --- the stage, on Ray


@pytest.fixture(scope="module")
def version(checkpoint: str, tracking: TrackingConfig) -> ModelVersion:
    return model_registry.register_model(RegisterConfig(checkpoint=checkpoint, name="tiny"), tracking=tracking)


@pytest.fixture(scope="module")
def done(
    one_cpu: None,
    split: Path,
    version: ModelVersion,
    tracking: TrackingConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> ScoreConfig:
    """A job that is finished."""
    output = tmp_path_factory.mktemp("labels")
    config = config_of(split, output, model="models:/tiny@candidate", scoring=ScoringConfig(top_k=3))
    score.run(config, cluster=ON_RAY, tracking=tracking)
    return config


@pytest.fixture
def copied(done: ScoreConfig, tmp_path: Path) -> ScoreConfig:
    """A finished job that a test may spoil."""
    shutil.copytree(done.output, tmp_path / "labels")
    return replace(done, output=str(tmp_path / "labels"))


@pytest.mark.slow
def test_rows_are_the_recognizers_own(
    done: ScoreConfig, version: ModelVersion, checkpoint: str, tracking: TrackingConfig
) -> None:
    rows = read_predictions(done.output).to_pandas()
    assert len(rows) == 22
    assert rows["key"].is_unique
    assert (rows["model_version"] == "1").all()
    assert (rows["model_digest"] == version.digest).all()
    assert set(rows["category_true"]) == set(NAMES)
    check_rows(rows, checkpoint=checkpoint, scoring=done.scoring)
    predictions = read_prediction_set(done.output)
    assert predictions.parents.model_uri == "models:/tiny@candidate"
    assert predictions.parents.model_version == "1"
    run = MlflowClient(tracking_uri=tracking.uri).get_run(str(predictions.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["num_rows"] == 22
    assert run.data.tags["ecor.input_digest"] == predictions.parents.input_digest
    assert run.data.tags["ecor.predictions_digest"] == predictions.digest


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "zip"])
def test_images_within_files_are_labelled_by_actors_too(
    one_cpu: None, checkpoint: str, tracking: TrackingConfig, tmp_path: Path, form: str
) -> None:
    place = FORMS[form](form_pictures(), tmp_path)
    found = {}
    for name, on in (("ray", ON_RAY), ("here", ClusterConfig(num_cpus=1))):
        config = config_of(place, tmp_path / name, model=checkpoint, unit_size=4)
        score.run(config, cluster=on, tracking=tracking)
        rows = read_predictions(config.output).to_pandas().sort_values("source")
        found[name] = list(zip(rows["source"], rows["category"], rows["confidence"].round(5), strict=True))
    assert len(found["ray"]) == len(form_pictures()) and found["ray"] == found["here"]


def check_rows(rows: pd.DataFrame, *, checkpoint: str, scoring: ScoringConfig) -> None:
    """All pictures in one batch of the recognizer: batches differ, and with them the last digits."""
    expected = load(checkpoint).predict(list(rows["source"]), scoring=scoring, batch_size=22).to_pandas()
    assert list(rows["category"]) == list(expected["category"])
    assert list(rows["rationale"]) == list(expected["rationale"])
    np.testing.assert_allclose(rows["confidence"], expected["confidence"], atol=1e-5)


@pytest.mark.slow
def test_what_is_finished_is_returned_and_what_is_damaged_is_redone(
    copied: ScoreConfig, tracking: TrackingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, first = Path(copied.output), read_prediction_set(copied.output)
    assert score.run(copied, tracking=tracking) == first
    num_units = len(first.parts)
    told = f"22 images were scored before, 0 rejected; units: {num_units} kept, 0 done: {copied.output}"
    assert told in capsys.readouterr().out
    damaged, kept = folder / first.parts[1].name, folder / first.parts[0].name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    stray = folder / "0-7-deadbeef.parquet"
    stray.write_bytes(b"an attempt that was killed before its commit")
    before = kept.stat().st_mtime_ns
    second = score.run(copied, cluster=ClusterConfig(num_cpus=1), tracking=tracking)  # as many threads: the same digits
    assert f"units: {num_units - 1} kept, 1 done: " in capsys.readouterr().out
    assert second.digest == first.digest
    assert second.run_id == first.run_id
    assert kept.stat().st_mtime_ns == before
    assert not stray.exists()
    keys = read_predictions(copied.output)["key"].to_pylist()
    assert keys == keys_of(Path(copied.input))


@pytest.mark.slow
def test_a_finished_job_imports_neither_ray_nor_torch(done: ScoreConfig, tracking: TrackingConfig) -> None:
    """What its records say is all that it needs, and the registry, which alone knows what an alias means."""
    words = ["score", "--input", done.input, "--output", done.output, "--model", done.model, "--batch-size", "4"]
    words += ["--scoring.top-k", "3", "--tracking.uri", str(tracking.uri)]
    code = f"""
import sys
from pipelines.__main__ import main
print(main({words}), *(name for name in ("ray", "torch", "open_clip") if name in sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, told, last = run.stdout.splitlines()
    assert told.startswith("22 images were scored before")
    assert last == "0", run.stdout


def keys_of(split: Path) -> list[str]:
    units = read_input(str(split), unit_size=1).units
    return [each.key for unit in units for each in unit.read() if isinstance(each, ImageItem)]


@pytest.mark.slow
def test_another_job_is_refused_with_both_values_unless_fresh(
    copied: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    (tmp_path / "others.json").write_text(json.dumps(OTHER_NAMES))
    first = read_prediction_set(copied.output)
    other = replace(copied, vocabulary=str(tmp_path / "others.json"))
    digest = vocabulary_from_mapping(OTHER_NAMES).digest
    with pytest.raises(ValueError, match=f"vocabulary_digest was {first.parents.vocabulary_digest}, is {digest}"):
        score.run(other, tracking=tracking)
    assert read_prediction_set(copied.output) == first
    score.run(replace(other, fresh=True), tracking=tracking)
    rows = read_predictions(copied.output).to_pandas()
    assert set(rows["category"]) <= set(OTHER_NAMES)
    assert not rows["calibrated"].any()
    assert len(rows) == 22


@pytest.mark.slow
def test_a_job_that_could_not_begin_leaves_its_folder_to_the_mended_one(
    one_cpu: None, done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    config = replace(done, output=str(tmp_path / "labels"))
    with pytest.raises(ValueError, match="the cluster has no GPU"):
        score.run(replace(config, use_gpu=True), tracking=tracking)
    assert len(read_predictions(done.output)) == score.run(config, tracking=tracking).num_rows


@pytest.mark.slow
def test_bad_pictures_are_quarantined_and_too_many_stop_the_job_until_they_are_mended(
    one_cpu: None,
    checkpoint: str,
    tracking: TrackingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = write_pictures(tmp_path, num=6)
    broken, worse = tmp_path / "broken.png", tmp_path / "worse.png"
    for path in (broken, worse):
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    sources = [*map(str, good), str(broken), str(worse)]
    (tmp_path / "in.csv").write_text("\n".join(["path", *sources]) + "\n")
    config = config_of(tmp_path / "in.csv", tmp_path / "labels", model=checkpoint, unit_size=3, max_rejected=0.2)
    told = (
        r"2 of 8 images are rejected, more than max_rejected \(0\.2\).* Mend the images and run the same command again"
    )
    with pytest.raises(ValueError, match=told):
        score.run(config, tracking=tracking)
    quarantine = pq.read_table(tmp_path / "labels" / "quarantine.parquet").to_pylist()
    assert [(row["source"], row["stage"]) for row in quarantine] == [(str(broken), "decode"), (str(worse), "decode")]
    shutil.copyfile(good[0], broken)
    predictions = score.run(config, tracking=tracking)
    assert (predictions.num_rows, predictions.num_rejected) == (7, 1)
    assert read_predictions(config.output)["source"].to_pylist() == sources[:-1]
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert (summary["num_units_kept"], summary["num_units_done"]) == (2, 1), "only what is mended is done again"
    balance = Balance.from_record(summary["balance"])
    assert (balance.num_listed, balance.num_taken, balance.num_rejected) == (8, 7, 1)
    capsys.readouterr()
    score.run(config, tracking=tracking)
    assert capsys.readouterr().err.endswith(f"{balance.line()}\n"), "the same line where nothing is left to do"
    metrics = MlflowClient(tracking.uri).get_run(summary["run_id"]).data.metrics
    assert {name: metrics[name] for name in balance.metrics()} == balance.metrics()


@pytest.mark.slow
def test_an_altered_shard_is_an_error_that_names_it(
    one_cpu: None, split: Path, checkpoint: str, tracking: TrackingConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "test"
    shutil.copytree(split, copy)
    tar = copy / "1.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"/1\.tar .* its manifest says"):
        score.run(config_of(copy, tmp_path / "labels", model=checkpoint), cluster=ON_RAY, tracking=tracking)


@pytest.mark.slow
def test_a_killed_job_goes_on_with_every_row_once(
    one_cpu: None,
    pictures: Path,
    checkpoint: str,
    tracking: TrackingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ScoreConfig(
        input=str(pictures), output=str(tmp_path / "labels"), model=checkpoint, unit_size=1, precision="fp32"
    )
    words = ["score", "--input", config.input, "--output", config.output, "--model", checkpoint, "--unit-size", "1"]
    words += [
        "--precision",
        "fp32",
        "--tracking.uri",
        str(tracking.uri),
        "--cluster.address",
        ray.get_runtime_context().gcs_address,
    ]
    commits = tmp_path / "labels" / "_commits"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    hit(
        words,
        blow=signal.SIGKILL,
        when=lambda: any(commits.glob("*/*~1.json")),
        log=tmp_path / "log",
        environment=environment,
    )
    assert "core_worker" not in (tmp_path / "log").read_text(), "Ray complains of actors that it could not restart"
    score.run(config, tracking=tracking)
    told, line = capsys.readouterr()
    assert "scored 22 images (" in told  # some before
    assert line.endswith("score: 22 listed = 22 taken + 0 copies + 0 rejected + 0 left out\n")
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert f"units: {summary['num_units_kept']} kept, {summary['num_units_done']} done (" in told
    assert summary["num_units_kept"] >= 1
    assert summary["num_units_taken_over"] == summary["num_units_done"] == 22 - summary["num_units_kept"]
    rows = read_predictions(config.output).to_pandas()
    expected = [each.key for unit in read_input(str(pictures), unit_size=9).units for each in unit.read()]
    assert list(rows["key"]) == expected
    check_rows(rows, checkpoint=checkpoint, scoring=ScoringConfig())


@pytest.mark.slow
def test_only_new_images_are_labelled_on_a_cluster_and_a_killed_job_goes_on(
    one_cpu: None, checkpoint: str, tracking: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while rows are taken over, and again while new images are labelled."""
    photos, long_ago = tmp_path / "photos", time.time() - 10_000
    for path in write_pictures(photos, num=12):
        os.utime(path, (long_ago, long_ago))
    monday = ScoreConfig(
        input=str(photos), output=str(tmp_path / "monday"), model=checkpoint, unit_size=1, precision="fp32"
    )
    score.run(monday, cluster=ON_RAY, tracking=tracking)
    gone, touched = sorted(photos.glob("*.png"))[:2]
    gone.unlink()
    os.utime(touched, (long_ago + 5, long_ago + 5))
    write_pictures(photos / "new", num=8, seed=1)
    tuesday = replace(monday, output=str(tmp_path / "tuesday"), since=monday.output)
    words = ["score", "--input", str(photos), "--output", tuesday.output, "--since", monday.output, "--unit-size", "1"]
    words += ["--model", checkpoint, "--tracking.uri", str(tracking.uri)]
    words += ["--cluster.address", ray.get_runtime_context().gcs_address]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def num_committed() -> int:
        records = [path.read_text() for path in Path(tuesday.output).glob("_commits/*/*~*.json")]
        return sum('"commit"' in record for record in records)

    for least in (1, 12):
        is_so_far = partial(lambda least: num_committed() >= least, least)
        hit(words, blow=signal.SIGKILL, when=is_so_far, log=tmp_path / "log", environment=environment)
        assert not (Path(tuesday.output) / "manifest.json").exists()
    score.run(tuesday, cluster=ON_RAY, tracking=tracking)
    summary = json.loads((Path(tuesday.output) / "summary.json").read_text())
    assert not summary["in_process"] and 12 <= summary["num_units_kept"] < 19
    line = "19 images = 11 reused + 0 changed + 8 new; 12 labels before = 11 reused + 0 changed + 1 vanished"
    assert f"since {monday.output}: {line}; 1 compared by content" in capsys.readouterr().err
    full = replace(monday, output=str(tmp_path / "full"))
    score.run(full, cluster=ON_RAY, tracking=tracking)
    ours, theirs = (read_predictions(each.output).to_pandas().set_index("key") for each in (tuesday, full))
    assert ours.index.is_unique and sorted(ours.index) == sorted(theirs.index)
    assert ours["source"].equals(theirs["source"].loc[ours.index])
    check_rows(ours.reset_index(), checkpoint=checkpoint, scoring=ScoringConfig())
    assert list(pq.read_table(Path(tuesday.output) / "vanished.parquet")["source"].to_pylist()) == [str(gone)]


@pytest.mark.slow
def test_a_cluster_that_gives_no_cpu_ends_in_an_error(
    done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    holder = cpus_held(1)
    with pytest.raises(TimeoutError, match="nothing moved for 4 s: the cluster has 0 of 1 CPUs free"):
        score.run(
            replace(done, output=str(tmp_path / "labels")),
            tracking=tracking,
            cluster=replace(ON_RAY, no_progress_timeout_s=4),
        )
    ray.kill(holder)


@pytest.mark.slow
def test_a_dead_actor_is_replaced_and_the_rows_are_the_same(
    done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where units share a block."""
    monkeypatch.setattr(cluster_flow, "_NUM_BLOCKS", 1)
    monkeypatch.setattr(cluster_flow, "_BLOCKS_PER_DECODER", 1)
    assert len(read_prediction_set(done.output).parts) > 1
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_one, "Scorer")
        config = replace(done, output=str(tmp_path / "labels"))
        predictions = score.run(config, cluster=ON_RAY, tracking=tracking)
        assert killed.result() > 0
    assert predictions.digest == read_prediction_set(done.output).digest


@pytest.mark.slow
def test_what_goes_wrong_while_a_model_is_opened_is_told_as_what_it_is(
    done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    """On a node that cannot write here, or not reach the registry."""
    (tmp_path / "file").touch()
    text = replace(done.text, cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"Not a directory|File exists") as raised:
        config = replace(done, output=str(tmp_path / "labels"), text=text)
        score.run(config, cluster=ON_RAY, tracking=tracking)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_in_an_error(
    done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    """As a picture would have it that kills its process whenever it is decoded: Ray replaces actors without end."""
    ended = threading.Event()

    def kill_all() -> int:
        num = 0
        while not ended.is_set():
            with contextlib.suppress(AssertionError):
                kill_one("Scorer", patience_s=0.1)
                num += 1
        return num

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_all)
        try:
            with pytest.raises(TimeoutError, match="nothing moved for 5 s"):
                score.run(
                    replace(done, output=str(tmp_path / "labels")),
                    tracking=tracking,
                    cluster=replace(ON_RAY, no_progress_timeout_s=5),
                )
        finally:
            ended.set()
        assert killed.result() > 0


@pytest.mark.slow
def test_jobs_on_one_output_share_the_work_and_a_late_one_changes_nothing(
    done: ScoreConfig,
    tracking: TrackingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of three units one is held by a job that has stopped, one by a job that is at work."""
    first, output = read_prediction_set(done.output), tmp_path / "labels"
    identity = json.loads((Path(done.output) / "_commits/job/identity.json").read_text())
    stopped, at_work = (PredictionsFolder(str(output), identity=identity, lease_s=2) for _ in range(2))
    stopped.claim_folder()
    stopped.units.renew()
    late = stopped.claim_units(["0"])["0"]
    rows = {part.unit: read_part(done.output, part) for part in first.parts}

    def work() -> None:
        with at_work.hold_lease():
            attempt = at_work.claim_units(["1"])["1"]
            begun.set()
            while at_work.read_commits().keys() != {"0", "2"}:
                time.sleep(0.2)
            assert at_work.save(attempt, rows=rows["1"], rejected=(), parents={}) is not None

    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert begun.wait(10)
        predictions = score.run(
            replace(done, output=str(output)), tracking=tracking, cluster=ClusterConfig(num_cpus=1, lease_s=2)
        )
        working.result(timeout=30)
    assert predictions.digest == first.digest
    summary = json.loads((output / "summary.json").read_text())
    told = [summary[f"num_units_{name}"] for name in ("kept", "done", "taken_over", "by_others")]
    assert told == [0, 2, 1, 1]
    assert "units: 0 kept, 2 done (1 taken over), 1 by another job" in capsys.readouterr().out
    counting = stopped.save(late, rows=rows["0"].slice(0, 1), rejected=(), parents={})
    assert counting is not None and counting.part == predictions.parts[0]
    assert read_predictions(str(output)).equals(read_predictions(done.output))


@pytest.mark.slow
def test_maps_are_added_to_the_rows_that_were_asked_for_and_change_nothing_else(
    one_cpu: None, pictures: Path, checkpoint: str, tracking: TrackingConfig, tmp_path: Path
) -> None:
    asked = {"explain": "grad_eclip", "explain_top": 2, "explain_images": "uncertain", "explain_share": 0.2}
    scoring = ScoringConfig(ood_score=True)
    config = config_of(pictures, tmp_path / "labels", model=checkpoint, unit_size=11, scoring=scoring, **asked)
    score.run(config, tracking=tracking)
    table = read_predictions(config.output)
    assert all(np.isfinite(table["ood_score"].to_numpy()))
    check_rows(
        table.drop_columns(["evidence", "ood_score"]).to_pandas(), checkpoint=checkpoint, scoring=ScoringConfig()
    )
    evidence = [Evidence.from_row(row) for row in table.to_pylist()]
    assert sum(each is not None for each in evidence) == 2 * 3, "a fifth of eleven, of each of two units"
    assert all(len(each.maps) == 3 for each in evidence if each is not None)
    with pytest.raises(ValueError, match="evidence was"):
        score.run(replace(config, explain_top=1), tracking=tracking)
    with pytest.raises(ValueError, match="evidence was"):
        score.run(replace(config, explain=None), tracking=tracking)
    summary = json.loads((tmp_path / "labels" / "summary.json").read_text())
    assert summary["seconds_of"]["explain"] > 0


@pytest.mark.slow
def test_kept_features_are_labelled_by_the_same_actors_without_a_picture(
    done: ScoreConfig, tracking: TrackingConfig, tmp_path: Path
) -> None:
    monday = replace(done, output=str(tmp_path / "monday"), keep_features=True)
    assert score.run(monday, cluster=ON_RAY, tracking=tracking).digest == read_prediction_set(done.output).digest
    tuesday = replace(
        monday, input=None, features=monday.output, keep_features=False, model=None, output=str(tmp_path / "tuesday")
    )
    found = score.run(tuesday, cluster=ON_RAY, tracking=tracking)
    assert (found.parents.input, found.parents.features) == (done.input, monday.output)
    assert found.parents.model_version == "1", "the model of the features"
    ours, theirs = (read_predictions(each.output).to_pandas() for each in (tuesday, done))
    assert list(ours["key"]) == list(theirs["key"])
    assert np.abs(ours["confidence"] - theirs["confidence"]).max() <= 0.1 * np.ptp(theirs["confidence"])
