"""Which stages run on Ray, what hours cost, what a node needs, and which settings are advised."""

from dataclasses import replace

import pytest

from pipelines.config.infrastructure import ClusterConfig, PlanConfig, Prices
from pipelines.config.pipeline_file import PipelineConfig, parse_pipeline
from pipelines.scoring.decoder import PART_BYTES
from pipelines.stages.planning.estimates import Cost, Estimate, exact
from pipelines.stages.planning.machines import Machines, advise, fit_to_machine, node_memory_bytes, plan_machines
from pipelines.stages.planning.score_probe import ScoreProbe


def pipeline(**sections) -> PipelineConfig:
    return parse_pipeline({"output": "out", "shard": {"input": "photos"}, **sections}, source="test")


def machines(config: PipelineConfig, *, num_shard: int = 100, num_nodes: int = 1) -> Machines:
    plan = PlanConfig(num_nodes=num_nodes)
    return plan_machines(config, plan=plan, num_shard=num_shard, num_validation=10, num_score=num_shard // 2)


def probe(*, decode_s: float, score_s: float, images_per_s: dict[int, float]) -> ScoreProbe:
    return ScoreProbe(
        image=Cost(wall_s=exact(score_s), cpu_s=exact(score_s + decode_s)),
        decode_s=exact(decode_s),
        score_s=exact(score_s),
        num_probed=100,
        rejected={},
        images_per_s=images_per_s,
        model_bytes=0,
    )


def test_small_jobs_need_no_ray_and_large_ones_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    small = machines(pipeline(cluster={"num_cpus": 4}))
    assert not small.uses_ray and (small.num_cpus, small.num_gpus) == (4, small.num_gpus)
    large = machines(pipeline(cluster={"num_cpus": 4}), num_shard=10_001)
    assert (large.shards_on_ray, large.trains_on_ray, large.contests_on_ray, large.scores_on_ray) == (
        True,
        False,
        False,
        True,
    )
    many = machines(pipeline(cluster={"num_cpus": 4}), num_nodes=3)
    assert many.shards_on_ray and many.trains_on_ray and many.scores_on_ray and many.num_cpus == 12
    assert machines(pipeline(cluster={"num_cpus": 4, "local_images": 0})).trains_on_ray
    assert machines(pipeline(cluster={"num_cpus": 4}, train={"num_workers": 2})).trains_on_ray


def test_all_machines_are_paid_for_all_seconds():
    found = replace(machines(pipeline(cluster={"num_cpus": 4, "num_gpus": 2})), num_cpus=8, num_gpus=4)
    hours = Estimate(value=3600.0, low=1800.0, high=7200.0)
    money = found.money(hours, prices=Prices(cpu_hour=0.05, gpu_hour=2.10))
    assert (money.value, money.low, money.high) == pytest.approx((8.8, 4.4, 17.6))


def test_memory_of_a_node_is_that_of_its_processes():
    here = machines(pipeline(cluster={"num_cpus": 4}))
    assert node_memory_bytes(here, peak_bytes=1000, first_bytes=10) == 1000
    on_ray = machines(pipeline(cluster={"num_cpus": 4}), num_nodes=2)
    assert on_ray.reservation.num_scorers == 2 and on_ray.reservation.num_decoders == 2
    assert node_memory_bytes(on_ray, peak_bytes=1000, first_bytes=10) == 2 * 1000 + 10 + 3 * PART_BYTES


def test_advice_is_the_faster_batch_and_decoders_that_keep_up():
    config = pipeline(cluster={"num_cpus": 8})
    found = machines(config)
    slow = probe(decode_s=0.03, score_s=0.01, images_per_s={64: 100.0, 32: 90.0, 128: 120.0})
    assert advise(config.score, probe=slow, machines=found).lines() == [
        "batch_size = 128",
        "num_scorers = 1",
        "num_decoders = 4",
    ]
    alike = probe(decode_s=0.001, score_s=0.1, images_per_s={64: 100.0, 32: 104.0})
    advice = advise(config.score, probe=alike, machines=found)
    assert (advice.batch_size, advice.num_decoders) == (64, 1)


def test_gpus_that_this_machine_lacks_are_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.stages.planning.machines.num_gpus_here", lambda: 0)
    asked = pipeline(score={"use_gpu": True}, cluster={"num_cpus": 4})
    here, notes = fit_to_machine(asked)
    assert not here.score.use_gpu and "this machine has none" in notes[0]
    assert machines(asked).num_gpus == 1
    assert fit_to_machine(pipeline())[1] == []
    assert replace(here, cluster=ClusterConfig()).score == here.score
