"""`ecor pretrain`: whatever happens to a run, and on however many ranks, its model is that of one that went through.

Covers: `ecor.training.distributed`, `pipelines.training.caption_loader`, `pipelines.training.caption_source`,
`pipelines.training.pretrainer`.
"""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.data.images.decoding import decode_image
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage import filesystem
from ecor.training.caption_batches import BatchPart
from ecor.training.distributed import Rank
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.training import PretrainConfig
from pipelines.runtime.cluster import connect
from pipelines.stages import pretrain
from pipelines.training import caption_source
from pipelines.training.caption_loader import read_captioned
from pipelines.training.pretrainer import Pretraining, PretrainState
from tests.support.mlflow_databases import new_database

SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
VOCABULARY = vocabulary_from_mapping({"fox": ["pointed ears"], "owl": ["pointed ears", "round eyes"]})
NUM_SAMPLES, NUM_UNLABELLED = 9, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's config, and captioned shards of a split."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "small-clip.json").write_text(json.dumps(SMALL_CLIP))
    samples = [sample(number) for number in range(NUM_SAMPLES)]
    shards = [
        write_shard(
            [ShardEntry(sample=each) for each in samples[start : start + 4]],
            folder=folder / "shards" / "train",
            name=f"{start:06d}.tar",
            vocabulary=VOCABULARY,
        )
        for start in range(0, NUM_SAMPLES, 4)
    ]
    manifest = ShardManifest(
        split="train",
        shards=tuple(shards),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=NUM_SAMPLES,
        num_rejected=0,
        num_duplicates=0,
        config_digest="c" * 64,
        parents={},
    )
    write_shard_manifest(manifest, folder / "shards" / "train")
    return folder


def sample(number: int) -> Sample:
    """A picture of noise; the first two have no category, and so no caption."""
    colours = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((70, 66), Image.Resampling.NEAREST).save(file, "png")
    category = VOCABULARY.categories[number % 2]
    rationales = tuple(VOCABULARY.rationales[r] for r in VOCABULARY.rationales_of[number % 2])
    is_labelled = number >= NUM_UNLABELLED
    return Sample(
        key=f"{number:04d}",
        image=file.getvalue(),
        extension="png",
        category=category if is_labelled else None,
        rationales=rationales[number % len(rationales) :] if is_labelled else (),
        visible_rationales=None,
        source=f"{number}.png",
    )


def config_of(world: Path, output: Path, **changes: object) -> PretrainConfig:
    settings: dict = {
        "output": str(output),
        "model": str(world / "small-clip.json"),
        "num_samples": 96,
        "stop_after_samples": 80,
        "batch_size": 8,
        "num_images": 24,
        "precision": "fp32",
        "report_every_steps": 2,
        "checkpoint_every_steps": 3,
        "cache_dir": str(world / "cache"),
    }
    return PretrainConfig(**(settings | changes))


def pretraining_of(config: PretrainConfig) -> Pretraining:
    """One rank's run without Ray, in which nothing is judged."""
    backbone = caption_source.build_architecture(config)
    source = caption_source.open_captions(config, backbone=backbone, rank=Rank())
    source.evaluate = lambda clip: {}  # type: ignore[method-assign]
    return Pretraining(config, backbone=backbone, source=source, rank=Rank())


def weights_of(config: PretrainConfig, progress: PretrainState | None = None) -> dict[str, Tensor]:
    """What the whole run, or the rest of it, makes."""
    run = pretraining_of(config)
    for _ in run.reports(run.module(), progress=progress):
        pass
    return run.weights()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a worker has: sums of floats are bit for bit the same only on as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("stop_at", [3, 9])
def test_going_on_equals_never_stopping_bit_for_bit(world: Path, tmp_path: Path, stop_at: int) -> None:
    """Stopped before and after the images are seen whole."""
    config = config_of(world, tmp_path)
    expected = weights_of(config)
    stopped = pretraining_of(config)
    for report in stopped.reports(stopped.module()):
        if report.progress is not None and report.step == stop_at:
            state = {each.name: getattr(report.progress, each.name) for each in dataclasses.fields(report.progress)}
            file = io.BytesIO()
            torch.save(state, file)
            break
    found = weights_of(config, PretrainState(**torch.load(io.BytesIO(file.getvalue()), weights_only=True)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_learns_and_its_seed_decides_what(world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, num_samples=640, stop_after_samples=None, learning_rate=3e-3)
    run = pretraining_of(config)
    losses = [report.metrics["contrastive"] for report in run.reports(run.module())]
    assert len(losses) == 53, "every second step, every third, and the last"
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    short = config_of(world, tmp_path, stop_after_samples=8)
    one, other = (weights_of(dataclasses.replace(short, seed=seed))["visual.proj"] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_pictures_come_with_their_own_captions(world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, shards=str(world / "shards"), batch_size=4)
    backbone = caption_source.build_architecture(config)
    split = read_captioned(f"{config.shards}/train", rank=Rank(), cache_dir=tmp_path)
    assert (len(split), split.num_without) == (NUM_SAMPLES - NUM_UNLABELLED, NUM_UNLABELLED)
    source = caption_source.open_captions(config, backbone=backbone, rank=Rank())
    preprocess = open_clip.image_transform(64, is_train=False)
    known = {}
    for number in range(NUM_UNLABELLED, NUM_SAMPLES):
        told = sample(number)
        rationale = f" because there is {told.rationales[0]}" if told.rationales else ""
        pixels = preprocess(decode_image(told.image))
        known[pixels.sum().item()] = f"This is a photo of a {told.category}{rationale}."
    for step in range(3):
        batch = source.batch(step, part=BatchPart())
        assert batch.readable.all() and torch.equal(batch.own, batch.true)
        for image, own in zip(batch.images, batch.own, strict=True):
            (caption,) = own.nonzero()[0].tolist()
            nearest = min(known, key=lambda total: abs(total - image.sum().item()))
            assert batch.captions[caption] == known[nearest]
            assert nearest == pytest.approx(image.sum().item(), abs=0.5)


def test_shards_without_captions_are_refused(world: Path, tmp_path: Path) -> None:
    info = write_shard([ShardEntry(sample=sample(0))], folder=tmp_path, name="0.tar", vocabulary=VOCABULARY)
    manifest = ShardManifest(
        split="train",
        shards=(info,),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=1,
        num_rejected=0,
        num_duplicates=0,
        config_digest="c" * 64,
        parents={},
    )
    write_shard_manifest(manifest, tmp_path)
    with pytest.raises(ValueError, match="holds 1 samples, none with a caption"):
        read_captioned(str(tmp_path), rank=Rank(), cache_dir=tmp_path)


def test_pictures_that_cannot_be_read_are_named_with_their_reason(tmp_path: Path, world: Path) -> None:
    broken = dataclasses.replace(sample(8), image=sample(8).image[:40])
    samples = [*(sample(number) for number in range(2, 8)), broken]
    folder = tmp_path / "shards" / "train"
    info = write_shard(
        [ShardEntry(sample=each) for each in samples], folder=folder, name="0.tar", vocabulary=VOCABULARY
    )
    manifest = ShardManifest(
        split="train",
        shards=(info,),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=len(samples),
        num_rejected=0,
        num_duplicates=0,
        config_digest="c" * 64,
        parents={},
    )
    write_shard_manifest(manifest, folder)
    config = config_of(
        world,
        tmp_path,
        shards=str(tmp_path / "shards"),
        batch_size=7,
        num_samples=14,
        stop_after_samples=None,
        max_rejected=0.2,
    )
    run = pretraining_of(config)
    *_, last = run.reports(run.module())
    assert last.unreadable == {"8.png": next(iter(last.unreadable.values()))}
    assert last.unreadable["8.png"].startswith("not_an_image: 40 bytes")
    assert last.progress is not None and last.progress.unreadable == last.unreadable
    refused = pretraining_of(dataclasses.replace(config, max_rejected=0.1))
    with pytest.raises(ValueError, match=r"of \d+ images cannot be read \(8\.png\), more than"):
        list(refused.reports(refused.module()))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_samples": 4}, "num_samples must be at least 8, got 4"),
        ({"num_images": 5}, "num_images must be at least 8, got 5"),
        ({"patch_dropout": 1.0}, "patch_dropout is a share from 0 to below 1, got 1.0"),
        ({"num_workers": 3}, r"batch_size \(8\) must be a multiple of num_workers \(3\)"),
    ],
)
def test_settings_are_checked(world: Path, tmp_path: Path, changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config_of(world, tmp_path, **changes)


def test_an_architecture_that_does_not_fit_is_refused(world: Path, tmp_path: Path) -> None:
    def config(name: str, **tower: object) -> PretrainConfig:
        (tmp_path / name).write_text(json.dumps({**SMALL_CLIP, **tower}))
        return config_of(world, tmp_path / "run", model=str(tmp_path / name))

    wide = config("wide.json", vision_cfg={**SMALL_CLIP["vision_cfg"], "image_size": 32})
    with pytest.raises(ValueError, match=r"drawings are 64 px, .*wide\.json takes \(32, 32\)"):
        pretraining_of(wide)
    other = config("other.json", text_cfg={**SMALL_CLIP["text_cfg"], "no_causal_mask": True})
    with pytest.raises(ValueError, match="another text tower than CLIP's own"):
        pretraining_of(other)
    with pytest.raises(ValueError, match="unknown model 'ViT-B-33'"):
        pretrain.run(dataclasses.replace(wide, model="ViT-B-33"))
    assert not (tmp_path / "run").exists()


def test_an_architecture_in_a_store_is_the_one_on_a_disk(world: Path, tmp_path: Path) -> None:
    config, place = config_of(world, tmp_path / "run"), f"memory://{tmp_path.name}"
    filesystem.write(f"{place}/clip.json", json.dumps(SMALL_CLIP).encode())
    filesystem.write(f"{place}/own.json", json.dumps({"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}).encode())
    there = pretrain.resolve_pretrain_config(dataclasses.replace(config, model=f"{place}/clip.json"))
    assert there.model == f"{place}/clip.json"
    assert pretrain._parents(there) == pretrain._parents(pretrain.resolve_pretrain_config(config)), (
        "made of the same, wherever it lies"
    )
    with pytest.raises(ValueError, match=f"{place}/own.json has a preprocess_cfg"):
        caption_source.build_architecture(dataclasses.replace(config, model=f"{place}/own.json"))


# With Ray: the stage as a cluster runs it


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterConfig]:
    with connect(ClusterConfig(num_cpus=2)):
        yield ClusterConfig()


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.mark.slow
def test_the_stage_makes_the_model_that_plain_open_clip_loads(
    world: Path,
    tmp_path: Path,
    cluster: ClusterConfig,
    tracking: TrackingConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    often = {"report_every_steps": 5, "checkpoint_every_steps": 10}
    config = config_of(world, tmp_path / "run", num_samples=1200, stop_after_samples=960, **often)
    record = pretrain.run(config, cluster=cluster, tracking=tracking)
    told = capsys.readouterr().err
    assert "step 120/120" in told and "demo-small/zero_shot" in told
    line = "pretrain: 24 listed = 24 taken + 0 copies + 0 rejected + 0 left out\n"
    assert told.endswith(line)
    expected = weights_of(config)
    found = load_file(record.weights)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "model.json",
        "summary.json",
        "weights.safetensors",
    ]
    client = MlflowClient(tracking_uri=tracking.uri)
    run = client.get_run(record.run_id)
    assert (run.info.status, run.data.params["learning_rate"]) == ("FINISHED", "0.001")
    assert {"contrastive", "attributes", "images_per_s", "demo-main/zero_shot"} <= set(run.data.metrics)
    assert {point.step for point in client.get_metric_history(record.run_id, "contrastive")} == set(range(5, 121, 5))
    assert record.metrics["demo-main/zero_shot"] == run.data.metrics["demo-main/zero_shot"]

    open_clip.add_model_config(tmp_path / "run")
    plain = open_clip.create_model("model", pretrained=record.weights).eval()
    ours = load_backbone(BackboneConfig(name=record.model, pretrained=record.weights))
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        images = plain.encode_image(ours.normalise(pixels), normalize=True)
        texts = plain.encode_text(open_clip.get_tokenizer("model")(["a zebra", "a fox with a tail"]), normalize=True)
    torch.testing.assert_close(ours.encode_image(pixels), images)
    torch.testing.assert_close(ours.encode_text(["a zebra", "a fox with a tail"]), texts)

    assert pretrain.run(config, cluster=cluster, tracking=tracking) == record
    assert f"pretrain: finished before, nothing to do: {config.output}\n{line}" in capsys.readouterr().err
    assert run.data.metrics["balance/taken"] == 24
    with pytest.raises(ValueError, match=f"holds run {record.digest}, .* make run .*--fresh"):
        pretrain.run(dataclasses.replace(config, seed=1), cluster=cluster, tracking=tracking)
    Path(record.weights).write_bytes(b"altered")
    with pytest.raises(ValueError, match=rf"its run wrote {record.weights_sha256}: start over"):
        pretrain.run(config, cluster=cluster, tracking=tracking)


@pytest.mark.slow
def test_two_workers_on_captioned_shards_learn_what_one_learns(
    world: Path, tmp_path: Path, cluster: ClusterConfig, tracking: TrackingConfig
) -> None:
    from mlflow import MlflowClient

    config = config_of(
        world,
        tmp_path / "run",
        shards=str(world / "shards"),
        batch_size=4,
        num_samples=40,
        stop_after_samples=None,
        report_every_steps=1,
        num_workers=2,
        cpus_per_worker=0.5,
    )
    record = pretrain.run(config, cluster=cluster, tracking=tracking)
    alone = pretraining_of(config)
    expected = [report.metrics["contrastive"] for report in alone.reports(alone.module())]
    curve = MlflowClient(tracking_uri=tracking.uri).get_metric_history(record.run_id, "contrastive")
    assert [point.value for point in curve] == pytest.approx(expected, abs=1e-5)
    found = load_file(record.weights)
    for name, value in alone.weights().items():
        torch.testing.assert_close(found[name].float(), value.float(), rtol=1e-3, atol=1e-5)  # fp16
    load_backbone(BackboneConfig(name=record.model, pretrained=record.weights))
