"""What identifies a run for resuming: every setting that shapes the output, a new one too, and no other.

The digests are frozen: with another one, no run that was begun before is resumed. Change them on purpose only.

Covers: `pipelines.config.stages`, `pipelines.config.training`.
"""

from dataclasses import dataclass, field, fields, replace

import pytest

from ecor.config.model import BackboneConfig, TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import ObjectiveConfig
from ecor.storage.digests import json_digest
from pipelines.config.identity import NOT_IN_OUTPUT, describe_changes, output_settings, shapes_output_of
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.config.training import PretrainConfig, TrainConfig

FROZEN = [
    (
        ShardConfig(input="a", output="b"),
        "c62236988214576297f68fd54213060b28bf49f3719e12e6f7ab81fed9562107",
    ),
    (
        PretrainConfig(output="b"),
        "046b425ef0c1fbd84a82f0e673d06d3b456b0938c090c7eb6b51ca33c02174a3",
    ),
    (
        TrainConfig(shards="a", output="b", objective=ObjectiveConfig(name="two_term")),
        "48df346dba77e2f56d9484a4dc9fe3ec0bd329d7d77fcdc86212dec50c515b79",
    ),
    (
        TrainConfig(shards="a", output="b", system="eclip"),
        "fefc296e4ff94eda8de288e9f0fa1b55ca13b750cb2c73614c16c31bb9a8efe0",
    ),
    (
        TrainConfig(shards="a", output="b", system="lico"),
        "2094f9369c0fe953838591d6a07160a8cd830e863a2dd6090eab09d64c067866",
    ),
    (
        ScoreConfig(input="a", output="b", scoring=ScoringConfig(method="joint", calibrated_confidence=False)),
        "ed051df42aa21381eaab3f72ccf14a096febf56ded8f8712ba2be006b0c11167",
    ),
]
STAGES = [ShardConfig(input="a", output="b"), PretrainConfig(output="b"), *[config for config, _ in FROZEN[2:]]]


@pytest.mark.parametrize(("config", "digest"), FROZEN)
def test_identity_of_default_settings_is_the_one_of_earlier_runs(config, digest):
    """Where a default has changed since, the earlier one is named."""
    assert json_digest(output_settings(config)) == digest


@pytest.mark.parametrize("config", STAGES)
def test_a_new_setting_changes_the_identity_unless_it_says_that_it_does_not(config):
    kind = type(config)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Grown(kind):
        shaping: int = 0
        placing: int = field(default=0, metadata=NOT_IN_OUTPUT)

    values = {each.name: getattr(config, each.name) for each in fields(config)}
    grown = Grown(**values)
    assert output_settings(grown) == {**output_settings(config), "shaping": 0}
    assert output_settings(replace(grown, placing=1)) == output_settings(grown)
    assert output_settings(replace(grown, shaping=1)) != output_settings(grown)


@pytest.mark.parametrize("config", STAGES)
def test_places_are_no_part_of_the_identity(config):
    assert not {"input", "output", "shards", "model", "cache_dir", "fresh"} & output_settings(config).keys()
    assert output_settings(replace(config, output="elsewhere", fresh=True)) == output_settings(config)


def test_a_setting_of_other_systems_is_no_part_of_the_identity():
    @dataclass(frozen=True, kw_only=True)
    class Config:
        system: str = field(default="ecor", metadata=shapes_output_of("eclip", "lico"))
        shared: int = field(default=1, metadata=shapes_output_of("ecor", "lico"))
        all_of_them: int = 2

    assert output_settings(Config()) == {"shared": 1, "all_of_them": 2}
    assert output_settings(Config(system="eclip")) == {"system": "eclip", "all_of_them": 2}
    assert output_settings(Config(system="lico")) == {"system": "lico", "shared": 1, "all_of_them": 2}


def test_settings_within_settings_count():
    train, score = TrainConfig(shards="a", output="b"), ScoreConfig(input="a", output="b")
    compiled = replace(train, backbone=BackboneConfig(compile=True))
    assert output_settings(compiled) != output_settings(train)
    assert output_settings(replace(train, text=TextConfig(dtype="fp16"))) == output_settings(train)
    scoring = ScoringConfig(top_k=7)
    assert output_settings(replace(score, scoring=scoring))["scoring"] == scoring.to_record()


def test_changes_of_settings_are_named_on_both_sides():
    assert describe_changes({"a": 1, "b": [2]}, {"b": [2], "a": 1}) == ""
    found = describe_changes({"a": 1, "old": "x"}, {"a": 3, "new": 0})
    assert found == "a was 1, is 3; old was x, is None; new was None, is 0"
