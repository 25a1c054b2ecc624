"""`ecor plan` on a small pipeline: what it says and writes, what it refuses, and that nothing stays behind.

Covers: `pipelines.stages.planning.plan`, `pipelines.stages.planning.plan_record`,
`pipelines.stages.planning.rehearsal`,
`pipelines.stages.planning.score_probe`, `pipelines.stages.planning.shard_probe`,
`pipelines.stages.planning.stage_costs`, `pipelines.stages.planning.train_probe`,
`pipelines.stages.planning.workspace`.
"""

import contextlib
import io
import json
import os
import re
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.__main__ import main
from pipelines.config.training import TrainConfig
from pipelines.runtime.actor_resources import Reservation
from pipelines.stages.planning import plan as planning
from pipelines.stages.planning.estimates import NOTHING, Cost, Estimate, Spent, exact
from pipelines.stages.planning.plan_record import refusals_of
from pipelines.stages.planning.score_probe import ScoreProbe
from pipelines.stages.planning.stage_costs import ray_pace
from pipelines.stages.planning.train_probe import TrainProbe, _Run, read_probe, train_cost
from tests.support.tiny_models import NAMES, TINY_CLIP

PAGE = (Path(__file__).parents[4] / "docs" / "plan.md").read_text(encoding="utf-8")
NUM, BROKEN = 20, 4
"""Images per category; files of all that are no images."""


@dataclass(frozen=True)
class Planned:
    """What the command of the page has printed and written."""

    folder: Path
    record: dict[str, Any]
    printed: str
    said: str


def write_pipeline(folder: Path) -> Path:
    """Photos of noise, some of them broken, and a pipeline with a tiny CLIP."""
    random = np.random.default_rng(0)
    for name in NAMES:
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(NUM):
            pixels = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    for path in sorted((folder / "photos").rglob("1*.png"))[:BROKEN]:
        path.write_bytes(b"no image")
    (folder / "photos" / "vocabulary.json").write_text(json.dumps(NAMES))
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    text = f"""
output = "{folder}/out"
[shard]
input = "{folder}/photos"
max_rejected = 0.1
[train]
num_epochs = 4
batch_size = 8
patience = 1
[train.backbone]
name = "{folder}/tiny-clip.json"
pretrained = "random"
[score]
batch_size = 8
[cluster]
num_cpus = 2
"""
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """The command of the page, run once."""
    folder = tmp_path_factory.mktemp("planned")
    write_pipeline(folder)
    (command,) = [line for line in PAGE.splitlines() if line.startswith("ecor plan ")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("pipelines.runtime.cluster.connect", None)
        (folder / "temporary").mkdir()
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(shlex.split(command)[1:])
        assert code == 0, err.getvalue()
    record = json.loads((folder / "plan.json").read_text())
    return Planned(folder=folder, record=record, printed=out.getvalue(), said=err.getvalue())


def test_it_counts_what_is_there(planned: Planned):
    images = planned.record["images"]
    assert images["num_shard"] == images["num_probed"] == 3 * NUM
    assert images["num_bytes"] == sum(path.stat().st_size for path in (planned.folder / "photos").rglob("*.png"))
    assert images["by_split"] == {"test": 6, "train": 48, "validation": 6} and images["num_score"] == 6
    assert "images    60 to shard (test 6, train 48, validation 6), " in planned.printed


def test_a_sample_of_all_images_says_exactly_which_are_rejected(planned: Planned):
    (refusal,) = planned.record["refusals"]
    assert refusal["num_in_sample"] == BROKEN
    assert refusal["num_images"]["value"] == pytest.approx(refusal["num_images"]["high"]) == pytest.approx(BROKEN)
    assert re.search(r"refusals  shard: 4 images \(4–4\) \w+ \(4 in the sample\)", planned.printed)
    assert "warning" not in planned.printed


def test_every_stage_has_its_time_and_price_and_they_add_up(planned: Planned):
    stages = planned.record["stages"]
    names = ["start", "mlflow", "shard", "train", "register", "contest", "score", "evaluate", "report"]
    assert [each["name"] for each in stages] == names
    for kind in ("wall_s", "cpu_s"):
        for end in ("value", "low", "high"):
            whole = sum(each["cost"][kind][end] for each in stages)
            assert planned.record["total"][kind][end] == pytest.approx(whole) and whole > 0
        assert all(
            each["cost"][kind]["low"] <= each["cost"][kind]["value"] <= each["cost"][kind]["high"] for each in stages
        )
    machines = planned.record["machines"]
    hour = 2.10 * machines["num_gpus"] + 0.05 * machines["num_cpus"]
    for each in stages:
        assert each["money"]["value"] == pytest.approx(each["cost"]["wall_s"]["value"] * hour / 3600)
        assert not each["on_ray"] and not each["is_there"] and each["name"] in planned.printed


def test_memory_and_advice_are_there(planned: Planned):
    memory, advice = planned.record["memory"], planned.record["advice"]
    assert memory["node_bytes"] > 100 * 1024**2 and 0 < memory["model_bytes"] < memory["node_bytes"]
    assert advice["batch_size"] in (4, 8, 16) and advice["num_scorers"] == 1
    assert set(planned.record["images_per_s"]) <= {"4", "8", "16"}
    assert any("4 epochs; the low end is that of 2" in note for note in planned.record["notes"])


def test_nothing_is_written_but_the_plan(planned: Planned):
    assert sorted(path.name for path in planned.folder.iterdir()) == [
        "photos",
        "pipeline.toml",
        "plan.json",
        "temporary",
        "tiny-clip.json",
    ]
    assert not list((planned.folder / "temporary").glob("ecor-plan-*"))


def test_stages_print_nothing_of_their_own(planned: Planned):
    assert all(line.startswith("plan: ") for line in planned.said.splitlines() if line), planned.said


def test_labels_of_other_names_are_planned_and_no_cache_of_texts_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, no_cluster: None
):
    path = write_pipeline(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps({"apple": ["a stem"], "pear": ["a green peel"]}))
    score = f'input = "{tmp_path}/photos/{next(iter(NAMES))}"\nvocabulary = "{tmp_path}/other.json"\n'
    text = path.read_text().replace("[score]\n", f"[score]\n{score}")
    path.write_text(f'{text}[score.text]\ncache_dir = "{tmp_path}/texts"\n')
    assert main(["plan", str(path), "--output", str(tmp_path / "plan.json")]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "plan.json").read_text())["images"]["num_score"] == NUM
    assert not (tmp_path / "texts").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_plan_leaves_nothing(
    stop: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, no_cluster: None
):
    path = write_pipeline(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.delenv("ECOR_CACHE", raising=False)
    seen: list[str] = []

    def interrupted(*args: Any, workspace: Any, **more: Any) -> None:
        seen.append(workspace.folder)
        Path(workspace.path("some")).mkdir()
        raise stop("stopped here")

    monkeypatch.setattr(planning, "make_databases", interrupted)
    monkeypatch.setattr(planning, "probe_shard", interrupted)
    assert main(["plan", str(path)]) == (130 if stop is KeyboardInterrupt else 2)
    assert seen and not Path(seen[0]).exists() and not (tmp_path / "out").exists()
    assert "ECOR_CACHE" not in os.environ and os.environ["RAY_ADDRESS"] == ""
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nowhere.toml"], "no pipeline file nowhere.toml"),
        (
            ["pipeline.toml", "--price", "2.10"],
            "price must be a number and /gpu-hour or /cpu-hour, as 2.10/gpu-hour, got '2.10'",
        ),
        (["pipeline.toml", "--price", "1/gpu-hour", "--price", "2/gpu-hour"], "two prices per gpu-hour, give one"),
        (["pipeline.toml"], "no-photos"),
        (["lico.toml"], "a pipeline needs train.system ecor, got lico"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], told: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = 'output = "out"\n[shard]\ninput = "no-photos"\n'
    Path("pipeline.toml").write_text(text)
    Path("lico.toml").write_text(f'{text}[train]\nsystem = "lico"\n')
    assert main(["plan", *args]) == 2
    found = capsys.readouterr().err
    assert told in found and "Traceback" not in found
    assert len([line for line in found.splitlines() if not line.startswith("plan: ")]) == 1


def test_settings_are_checked(capsys):
    for option, value in (("--num-probes", "3"), ("--num-nodes", "0"), ("--seed", "-1"), ("--probe-s", "0")):
        with pytest.raises((SystemExit, ValueError)):
            if main(["plan", "pipeline.toml", option, value]) == 2:
                raise ValueError


# What is computed from measurements


def run_of(
    *, wall_s: float, num_train: int, num_validation: int, epochs: list[tuple[float, float]], steps: int
) -> _Run:
    summary = {
        "num_train": num_train,
        "num_validation": num_validation,
        "num_steps": steps * len(epochs),
        "num_epochs": len(epochs),
        "opening_s": 0.01 * (num_train + num_validation),
        "tuning_s": sum(map(sum, epochs)),
        "epochs": [{"train_s": train_s, "validation_s": validation_s} for train_s, validation_s in epochs],
    }
    return _Run(spent=Spent(wall_s=wall_s, cpu_s=2 * wall_s), summary=summary)


def test_two_runs_give_the_costs_they_were_made_of():
    """Steps of 0.5 s, 0.2 s per epoch for texts, 0.02 s per validation image and once more, 3 s for the rest."""
    short = run_of(
        wall_s=3 + 0.3 + 0.5 + 0.4 + 0.2, num_train=20, num_validation=10, epochs=[(0.5, 0.2 + 10 * 0.02)], steps=1
    )
    long = run_of(
        wall_s=3 + 1.5 + 3 * (1.0 + 1.2) + 1.0, num_train=100, num_validation=50, epochs=[(1.0, 1.2)] * 3, steps=2
    )
    probe = read_probe(short, long, checkpoint="run")
    found = [each.wall_s.value for each in (probe.opening, probe.step, probe.epoch, probe.validation, probe.fixed)]
    assert found == pytest.approx([0.01, 0.5, 0.2, 0.02, 3.0])
    config = TrainConfig(shards="s", output="o", num_epochs=6, patience=2, batch_size=64)
    cost = train_cost(probe, config, num_train=exact(300.0), num_validation=exact(40.0)).wall_s
    assert cost.value == pytest.approx(3 + 3.4 + 6 * (4 * 0.5 + 0.2 + 40 * 0.02) + 40 * 0.02)
    assert cost.low < 3 + 3.4 + 3 * (4 * 0.5 + 0.2 + 0.8) + 0.8 < cost.value
    many = replace(config, num_workers=4)
    divided = train_cost(probe, many, num_train=exact(300.0), num_validation=exact(40.0)).wall_s.value
    assert cost.value - divided == pytest.approx(6 * 4 * 0.5 * 3 / 4)


def test_without_steps_there_is_one_epoch():
    probe = TrainProbe(
        fixed=NOTHING,
        opening=NOTHING,
        step=NOTHING,
        epoch=Cost(wall_s=exact(7.0), cpu_s=exact(7.0)),
        validation=NOTHING,
        checkpoint="run",
        num_validation=1,
    )
    config = TrainConfig(shards="s", output="o", num_epochs=6)
    assert train_cost(probe, config, num_train=exact(9.0), num_validation=exact(9.0)).wall_s == exact(7.0)


@pytest.mark.parametrize(
    ("num_decoders", "num_scorers", "num_cpus", "expected"), [(1, 4, 64, 0.02), (8, 1, 64, 0.1), (8, 8, 2, 0.07)]
)
def test_the_slowest_sets_the_pace(num_decoders: int, num_scorers: int, num_cpus: int, expected: float):
    probe = ScoreProbe(
        image=Cost(wall_s=exact(0.1), cpu_s=exact(0.14)),
        decode_s=exact(0.02),
        score_s=exact(0.1 if num_scorers == 1 else 0.04),
        num_probed=1,
        rejected={},
        images_per_s={},
        model_bytes=0,
    )
    reservation = Reservation(
        num_decoders=num_decoders, cpus_per_decoder=1, num_scorers=num_scorers, cpus_per_scorer=1, gpus_per_scorer=0
    )
    assert ray_pace(probe, reservation=reservation, num_cpus=num_cpus).value == pytest.approx(expected)


def test_refusals_are_by_reason_and_in_all():
    found = refusals_of("shard", {"truncated": 4, "empty": 6}, num_probed=200, num_images=10_000)
    assert [(each.reason, each.num_in_sample) for each in found] == [("empty", 6), ("truncated", 4), ("in all", 10)]
    assert found[-1].num_images.value == 500.0
    assert 200 < found[-1].num_images.low < 300 and 850 < found[-1].num_images.high < 950
    none = refusals_of("shard", {}, num_probed=200, num_images=10_000)
    assert [(each.reason, each.num_images.low) for each in none] == [("in all", 0.0)]
    known = refusals_of("shard", {"empty": 1}, num_probed=50, num_images=50)
    assert [each.num_images for each in known] == [Estimate(value=1.0, low=1.0, high=1.0)]
