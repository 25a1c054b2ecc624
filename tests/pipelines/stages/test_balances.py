"""Nothing is dropped without a line: random folders, tables, splits and labels, counted by hand and by every stage.

The stages' parts run in this process, without a cluster. `test_shard.py`, `test_score.py`, `test_train.py` and
`test_pretrain.py` read the lines of whole runs.

Covers: `pipelines.training.sample_use`.
"""

import csv
import dataclasses
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ecor.config.model import Preprocess
from ecor.data.heatmap import Heatmap
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set, write_prediction_set
from ecor.data.predictions.records import predictions_table
from ecor.data.samples import Sample
from ecor.data.shards import write_shard
from ecor.training.caption_batches import BatchPart
from ecor.training.distributed import Rank
from pipelines.config.reporting import EvaluateConfig, ExplainConfig, ReportConfig
from pipelines.config.stages import ShardConfig
from pipelines.config.training import PretrainConfig
from pipelines.reporting.evaluation_folder import balance_sets
from pipelines.reporting.explained_pictures import ImageExplanation
from pipelines.reporting.gallery import make_cards, sample_gallery
from pipelines.runtime.balance import Balance
from pipelines.scoring.decoder import decode_unit
from pipelines.scoring.inputs import Input, read_input
from pipelines.scoring.job_stats import JobStats
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.predictors import BatchExplanation
from pipelines.scoring.scored_part import ScoredPart, StepTimings
from pipelines.scoring.unit_writer import UnitWriter
from pipelines.scoring.work_units import Unit
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.inspection import entries, inspect_images
from pipelines.sharding.listing import list_images
from pipelines.sharding.scan import balance_listing, merge_scans, scan_block
from pipelines.sharding.sources.source_places import Source
from pipelines.stages import evaluate, explain, report, shard
from pipelines.training import caption_source
from pipelines.training.caption_loader import CaptionedShards, read_captioned
from pipelines.training.data_loader import PictureReader, batch_positions, num_batches, order_of_epoch, read_split
from pipelines.training.sample_use import balance_splits, mark_samples, merge_uses
from pipelines.training.shard_files import fetch_shards
from tests.support.prediction_rows import row, write_labels
from tests.support.tiny_splits import VOCABULARY, sample, write_split

PREPROCESS = Preprocess(image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
JUNK = {"Thumbs.db": "system_files", "desktop.ini": "system_files", "__MACOSX": "resource_forks", "@eaDir": "nas_files"}
HIDDEN = ("Thumbs.db", ".e.png", "desktop.ini")
FILES = ("a.png", "b.JPG", "c.dng", "notes.txt", "d", "f.g.png", *HIDDEN)
IMAGES = ("a.png", "b.JPG", "f.g.png")
"""Those of `FILES` that `score` takes by their names."""
WITHOUT_SPLITS = ("", "hat", "shoe", "hat/deep", "hat/.cache", "__MACOSX/hat", "hat/@eaDir", "hat-masks")
WITH_SPLITS = (
    "",
    "train",
    "train/hat",
    "test/hat",
    "test/shoe/x",
    "train/.git",
    "unlabeled",
    "unlabeled/x",
    "test-masks",
)
BROKEN = {-1: b"", -2: b"no picture", -3: b"\x89PNG\r\n\x1a\n cut"}
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def content(number: int) -> bytes:
    """A picture, one for each number from 0; a broken one for each below."""
    if number < 0:
        return BROKEN[number]
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


contents = st.integers(-3, 4)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, int]:
    """Contents by path, of a folder that `shard` and `score` take."""
    has_splits = draw(st.booleans())
    folders = WITH_SPLITS if has_splits else WITHOUT_SPLITS
    paths = st.builds(
        lambda folder, name: f"{folder}/{name}".lstrip("/"), st.sampled_from(folders), st.sampled_from(FILES)
    )
    base = {"train/hat/z.png": 0, "test/hat/z.png": 1} if has_splits else {"hat/z.png": 0, "shoe/z.png": 0}
    return base | draw(st.dictionaries(paths, contents, max_size=14))


@contextmanager
def written(tree: Mapping[str, int]) -> Iterator[Path]:
    """The tree on disk, with an empty folder; beside it there is room for outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "in"
        (root / "train" / "empty" if "train/hat/z.png" in tree else root / "empty").mkdir(parents=True)
        for path, number in tree.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content(number))
        yield root


def is_hidden(path: str) -> bool:
    return junk_of(path) is not None


def junk_of(path: str) -> str | None:
    """Kind of a file that is left out by its name or a folder's; the first part decides."""
    kinds = [JUNK.get(part, "hidden" if part.startswith(".") else None) for part in path.split("/")]
    return next(filter(None, kinds), None)


def files_below(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))


# shard


def sharded(source: Source, config: ShardConfig) -> tuple[Balance, list[dict]]:
    """The balance of a whole job on one table, and the rows that it rejects."""
    listing = pa.concat_tables([t for place in (*source.places, *source.left_out_places) for t in list_images(place)])
    scan = merge_scans(
        [found for start in range(0, listing.num_rows, 5) for found in scan_block(listing.slice(start, 5)).to_pylist()],
        num_rows=listing.num_rows,
        source=source,
    )
    job = shard.plan_shards(config, source=source, vocabulary=None, scan=scan)
    found = inspect_images(listing, job=job)
    bad = found.filter(pc.is_valid(found["reason"])).to_pylist()
    marked = mark_duplicate_rows(found.filter(pc.is_null(found["reason"])))
    is_unique = pc.is_null(marked["duplicate_of"])
    unique, copies = marked.filter(is_unique).sort_by("key"), marked.filter(pc.invert(is_unique))
    shards = {}
    for split in job.splits:
        rows = unique.filter(pc.equal(unique["split"], split))
        shards[split] = [
            write_shard(
                entries(rows.slice(start, 3), job=job),
                folder=f"{job.output}/{split}",
                name=f"{start}.tar",
                vocabulary=job.vocabulary,
            )
            for start in range(0, rows.num_rows, 3)
        ]
    manifests = shard.make_manifests(
        job,
        shards=shards,
        rejected=Counter((each["split"], each["reason"]) for each in bad),
        dropped=Counter((split,) for split in copies["split"].to_pylist()),
    )
    rejected = Counter(each["reason"] for each in bad)
    return balance_listing(scan, manifests=manifests, rejected=rejected), bad


@few
@given(trees())
def test_shard_accounts_for_every_file_of_a_folder(tree: dict[str, int]):
    with written(tree) as root:
        config = ShardConfig(input=str(root), output=str(root.parent / "out"))
        balance, bad = sharded(find_source(config), config)
        assert balance.num_listed == files_below(root) == len(tree)
    depth = 2 if "train/hat/z.png" in tree else 1
    within = {path: path.split("/") for path in tree if not is_hidden(path)}
    listed = [
        path
        for path, parts in within.items()
        if len(parts) > depth and parts[0] not in ("unlabeled", "test-masks", "hat-masks")
    ]
    assert sorted(each["source"] for each in bad) == sorted(path for path in listed if tree[path] < 0)
    good = {path: tree[path] for path in listed if tree[path] >= 0}
    in_test = Counter(number for path, number in good.items() if path.startswith("test/"))
    elsewhere = {number for path, number in good.items() if number not in in_test}
    assert balance.num_taken == sum(in_test.values()) + len(elsewhere), "a test split keeps all its pictures"
    assert balance.left_out == Counter(
        junk_of(path) if is_hidden(path)
        else {"unlabeled": "unlabelled_folder", "test-masks": "masks", "hat-masks": "masks"}[path.split("/")[0]]
        if len(path.split("/")) > 1 and path.split("/")[0] in ("unlabeled", "test-masks", "hat-masks")
        else "beside_folders"
        for path in tree
        if path not in listed
    )  # fmt: skip


rows_of_tables = st.lists(
    st.tuples(st.sampled_from(["a.png", "b.png", "c.png", "gone.png"]), st.sampled_from(["hat", "shoe", ""])),
    min_size=1,
    max_size=12,
)


def table_of(root: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with (root / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "category"), *rows])
    return root / "images.csv"


@few
@given(rows_of_tables, contents, contents)
def test_shard_accounts_for_every_row_of_a_table(rows: list[tuple[str, str]], first: int, second: int):
    tree = {"a.png": first, "b.png": second, "c.png": first}
    with written(tree) as root:
        (root / "vocabulary.json").write_text(json.dumps({"hat": ["a brim"], "shoe": ["laces"]}))
        config = ShardConfig(input=str(table_of(root, rows)), output=str(root.parent / "out"))
        source = find_source(config)
        balance, _ = sharded(source, config) if any(category for _, category in rows) else (None, None)
    if balance is None:
        return  # nothing names a category: refused
    found = [tree[path] for path, _ in rows if tree.get(path, -1) >= 0]
    assert balance.num_listed == len(rows)
    assert (balance.num_taken, balance.num_copies) == (len(set(found)), len(found) - len(set(found)))
    assert balance.num_rejected == len(rows) - len(found) and not balance.left_out


# score


def scored(images: Input, folder: PredictionsFolder, *, units: Sequence[Unit]) -> None:
    """Decode and commit units, as actors do; all images are a hat."""
    attempts = folder.claim_units([unit.name for unit in units])
    writer = UnitWriter(folder, parents={})
    for unit in units:
        for part in decode_unit(unit, attempt=attempts[unit.name], preprocess=PREPROCESS, num_images=2):
            labels = [row(key, ("hat", "a brim")) for key in part.origins["key"].to_pylist()]
            writer.add(
                ScoredPart(
                    unit=part.unit,
                    attempt=part.attempt,
                    index=part.index,
                    num_parts=part.num_parts,
                    rows=predictions_table(labels),
                    rejected=part.rejected,
                    seconds=StepTimings(),
                )
            )


def balance_of_resumed(images: Input, output: Path, *, stop_at: int) -> Balance:
    """The balance where one job has scored the units up to `stop_at`, and another one all others."""
    for units in (images.units[:stop_at], images.units[stop_at:]):
        folder = PredictionsFolder(str(output), identity={"input": images.digest})
        with folder.hold_lease():
            scored(images, folder, units=units)
            committed = folder.read_commits()
    return JobStats(committed=committed).balance(images)


@few
@given(trees(), st.integers(0, 3))
def test_score_accounts_for_every_file_of_a_folder_also_when_resumed(tree: dict[str, int], stop_at: int):
    with written(tree) as root:
        old = root / "labels"
        old.mkdir()
        (old / "a.png").write_bytes(content(1))
        images = read_input(str(root), unit_size=3, without=str(old))
        balance = balance_of_resumed(images, root.parent / "whole", stop_at=0)
        assert balance == balance_of_resumed(images, root.parent / "resumed", stop_at=stop_at)
        assert balance.num_listed == files_below(root) == len(tree) + 1
    listed = [path for path in tree if not is_hidden(path) and Path(path).name in (*IMAGES, "z.png")]
    assert balance.num_taken == sum(tree[path] >= 0 for path in listed)
    assert balance.num_rejected == sum(tree[path] < 0 for path in listed)
    assert (
        balance.left_out["output"] == 1
        and Counter(filter(None, map(junk_of, tree))).items() <= balance.left_out.items()
    )


def test_a_unit_that_lost_a_row_is_an_error():
    """The rows of the Parquet files are what is counted: one row less, and nothing is published."""
    with written({"hat/a.png": 0, "hat/b.png": 1}) as root:
        images = read_input(str(root), unit_size=9)
        folder = PredictionsFolder(str(root.parent / "out"), identity={"input": images.digest})
        with folder.hold_lease():
            (attempt,) = folder.claim_units([unit.name for unit in images.units]).values()
            folder.save(attempt, rows=predictions_table([row("k", ("hat", "a brim"))]), rejected=(), parents={})
            stats = JobStats(committed=folder.read_commits())
    with pytest.raises(ValueError, match=r"score: 2 listed is not 1 taken \+ 0 copies \+ 0 rejected \+ 0 left out"):
        stats.balance(images)


# explain


class OnePixel:
    """A predictor that sees the same in every picture."""

    preprocess, method = PREPROCESS, "none"

    def __call__(self, pixels: torch.Tensor) -> BatchExplanation:
        scores = torch.zeros(len(pixels), 1, 2, 2)
        each = ImageExplanation(category="hat", category_prob=0.5)
        heatmap = Heatmap(texts=("hat",), scores=scores, method="none", input_size=(8, 8))
        return BatchExplanation(each=(each,) * len(pixels), heatmaps=(heatmap,))


@settings(few, max_examples=3)
@given(trees())
def test_explain_accounts_for_every_file_and_no_overlay_replaces_another(tree: dict[str, int]):
    tree = tree | {"hat/n.png": 0, "hat/n.jpg": 0, "hat/n-2.png": 2}  # names that meet
    with written(tree) as root:
        config = ExplainConfig(output=str(root / "explained"), batch_size=3)
        place = explain._place(str(root), output=config.output)
        done, rejected = explain._explain_place(place, config=config, model=OnePixel(), names=set())
        overlays = list((root / "explained").glob("*.png"))
        balance = place.images.balance("explain", num_taken=len(overlays), rejected=rejected)
        assert balance.num_listed == len(tree)
    assert (
        balance.num_taken
        == len(done)
        == sum(
            tree[path] >= 0 for path in tree if not is_hidden(path) and Path(path).suffix.lower() in (".png", ".jpg")
        )
    )


# train and pretrain

kinds = st.lists(st.sampled_from(["whole", "whole", "broken", "no category", "no rationale"]), max_size=14)


def samples_of(kinds: Sequence[str]) -> list[Sample]:
    """A sample of each kind, after one that is whole."""
    found = []
    for number, kind in enumerate(["whole", *kinds]):
        each = sample(number)
        changes = {
            "whole": {},
            "broken": {"image": each.image[:40]},
            "no category": {"category": None, "rationales": ()},
            "no rationale": {"rationales": ()},
        }[kind]
        found.append(dataclasses.replace(each, **changes))
    return found


@few
@given(kinds, kinds, st.integers(1, 5), st.integers(0, 2), st.integers(1, 3))
def test_train_accounts_for_every_sample_of_both_splits(
    train: list[str], validation: list[str], batch_size: int, num_epochs: int, num_ranks: int
):
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        uses = {}
        splits = []
        for name, each in (("train", train), ("validation", validation)):
            write_split(place, samples_of(each), split=name)
            split = read_split(str(place / name), vocabulary=VOCABULARY)
            paths = fetch_shards(split, rank=Rank(), cache_dir=place)
            reader = PictureReader(split, paths=paths, preprocess=PREPROCESS, num_threads=1)
            whole = np.arange(len(split))
            orders = [order_of_epoch(len(split), seed=1, epoch=epoch) for epoch in range(num_epochs)]
            batches = [(order, n) for order in orders for n in range(num_batches(len(split), batch_size=batch_size))]
            found = None
            for index in range(num_ranks):  # one rank after the other, as if each resumed where the last one stopped
                rank = Rank(index=index, num_ranks=num_ranks)
                own = torch.zeros(len(split), dtype=torch.uint8)
                parts = [batch_positions(order, batch=n, batch_size=batch_size, rank=rank) for order, n in batches]
                for wanted in parts if name == "train" else [whole[index::num_ranks]]:
                    mark_samples(own, wanted, readable=reader.pixels(wanted)[1])
                found = merge_uses(own, rank=Rank(), before=found)
            splits.append(split)
            uses[split.folder] = found
        balance = balance_splits(*splits, uses=uses)
    assert balance.num_listed == len(train) + len(validation) + 2
    assert balance.left_out.get("no_category", 0) == [*train, *validation].count("no category")
    assert balance.left_out.get("no_rationale", 0) == [*train, *validation].count("no rationale")
    usable = [kind for kind in ["whole", *train] if kind in ("whole", "broken")]
    drawn = {int(p) for order in orders_of(len(usable), num_epochs, batch_size) for p in order}
    read = [usable[position] for position in drawn] + ["whole", *validation]
    assert (balance.num_taken, balance.num_rejected) == (read.count("whole"), read.count("broken"))
    assert balance.left_out.get("not_drawn", 0) == len(usable) - len(drawn)


def orders_of(num_samples: int, num_epochs: int, batch_size: int) -> Iterator[Iterator[int]]:
    """The samples of each epoch's whole batches, or all where there is no whole batch."""
    for epoch in range(num_epochs):
        order = np.random.default_rng([1, epoch]).permutation(num_samples)
        whole = num_samples // batch_size * batch_size
        yield iter(order[:whole] if whole else order)


@few
@given(kinds, st.integers(1, 6), st.integers(1, 3))
def test_pretrain_accounts_for_every_sample(kinds: list[str], num_steps: int, num_ranks: int):
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_split(place, samples_of(kinds), split="train")
        split = read_captioned(str(place / "train"), rank=Rank(), cache_dir=place)
        backbone = SimpleNamespace(preprocess=PREPROCESS, normalise=lambda pixels: pixels.float())
        sources = [
            CaptionedShards(split, backbone=backbone, seed=0, batch_size=3, num_threads=1) for _ in range(num_ranks)
        ]
        shown: Counter[bool] = Counter()
        for index, source in enumerate(sources):
            for step in range(num_steps):
                batch = source.batch(step, part=BatchPart(index=index, num=num_ranks))
                shown.update(batch.readable.tolist())
        uses = merge_uses(torch.stack([source.uses() for source in sources]).amax(dim=0), rank=Rank())
        progress = SimpleNamespace(uses=uses)
        balance = caption_source.balance_samples(sources[0], progress=progress, config=PretrainConfig(output="out"))
    captioned = [kind for kind in ["whole", *kinds] if kind != "no category"]
    assert balance.num_listed == len(kinds) + 1
    assert balance.left_out.get("no_caption", 0) == kinds.count("no category")
    assert bool(balance.num_rejected) == bool(shown[False]) and bool(balance.num_taken) == bool(shown[True])
    num_broken = captioned.count("broken")
    assert balance.num_taken <= len(captioned) - num_broken and balance.num_rejected <= num_broken
    if len(captioned) % 3 == 0 and num_steps * 3 >= len(captioned):  # every sample has had its turn
        assert (balance.num_taken, balance.num_rejected) == (len(captioned) - num_broken, num_broken)


# evaluate and report

truths = st.lists(st.sampled_from(["hat", "shoe", None]), min_size=1, max_size=12)


@few
@given(truths, truths, st.integers(0, 3))
def test_evaluate_accounts_for_every_image_of_all_sets(first: list, second: list, num_rejected: int):
    with tempfile.TemporaryDirectory() as scratch:
        folders, expected = [], Counter()
        for name, truth in (("a", ["hat", *first]), ("b", ["hat", *second])):
            rows = [
                row(f"k{n:02d}", ("hat", "a brim"), category=category, rationales=("a brim",) if category else None)
                for n, category in enumerate(truth)
            ]
            folder = f"{scratch}/{name}"
            record = write_labels(folder, predictions_table(rows), rows_per_part=5)
            write_prediction_set(folder, dataclasses.replace(record, num_rejected=num_rejected))
            folders.append(folder)
            expected.update("taken" if category else "left out" for category in truth)
        config = EvaluateConfig(predictions=tuple(folders), output=f"{scratch}/out", num_resamples=100)
        sources = [evaluate.open_source(path, name=Path(path).name) for path in folders]
        record = evaluate.record_of(config, sets=[evaluate.read_set(each) for each in sources])
        balances = balance_sets(record, sources=sources).values()
        assert sum(each.num_taken for each in balances) == expected["taken"]
        assert sum(each.num_left_out for each in balances) == expected["left out"]
        assert [each.num_rejected for each in balances] == [num_rejected] * 2
        table = next(Path(folders[0]).glob("*.parquet"))
        (alone,) = balance_sets(
            dataclasses.replace(record, results=record.results[:1]),
            sources=[dataclasses.replace(sources[0], num_rejected=num_rejected)],
        ).values()
        assert alone.num_listed == len(first) + 1 + num_rejected
        assert evaluate.open_source(str(table), name="t").num_rows <= 5, "of a file: what its own header says"


@few
@given(st.lists(contents | st.just(-9), min_size=1, max_size=9), st.integers(1, 10), st.integers(0, 3))
def test_report_accounts_for_every_image(pictures: list[int], max_images: int, num_rejected: int):
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for number, each in enumerate(pictures):
            path = Path(scratch) / f"{number}.png"
            if each != -9:  # else the file is gone
                path.write_bytes(content(each))
            known = row(f"k{number}", ("hat", "a brim"), category=("hat", "shoe", None)[number % 3])
            rows.append(dataclasses.replace(known, source=str(path)))
        folder = f"{scratch}/labels"
        record = write_labels(folder, predictions_table(rows), rows_per_part=4)
        write_prediction_set(folder, dataclasses.replace(record, num_rejected=num_rejected))
        predictions: PredictionSet = read_prediction_set(folder)
        config = ReportConfig(predictions=folder, output=f"{scratch}/report.html", max_images=max_images)
        drawn = sample_gallery(folder, predictions, num_rows=config.max_images, seed=config.seed)
        cards = tuple(make_cards(drawn.labels, parents=predictions.parents, size_px=16))
        balance = report.balance_page(predictions, drawn=drawn, cards=cards)
        is_there = {str(Path(scratch) / f"{n}.png"): each >= 0 for n, each in enumerate(pictures)}
    assert balance.num_listed == len(pictures) + num_rejected and balance.num_rejected == num_rejected
    assert balance.num_taken == sum(is_there[card.prediction.source] for card in cards)
    assert balance.left_out.get("beyond_max_images", 0) == max(0, len(pictures) - max_images)


def test_a_link_to_a_folder_is_told_as_one(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("photos/a.png", "photos/notes", "elsewhere/b.png"):
        (tmp_path / name).write_bytes(b"bytes")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    found = read_input(str(tmp_path / "photos"), unit_size=8)
    assert (found.left_out, found.passed_over) == ({"": 1}, {"linked_folder": 1})
    assert (found.num_listed, found.num_images) == (3, 1)
    followed = read_input(str(tmp_path / "photos"), unit_size=8, follow_links=True)
    assert (followed.passed_over, followed.num_images) == ({}, 2)
