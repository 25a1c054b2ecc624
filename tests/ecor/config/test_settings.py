"""Settings of the library: what is out of range is refused with its value, and records leave out what older ones lack.

Covers: `ecor.config.address_types`, `ecor.config.checks`, `ecor.config.choices`, `ecor.config.model`,
`ecor.config.scoring`, `ecor.config.systems`, `ecor.config.training`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Any, get_args

import pytest

from ecor.config.address_types import HUBS, STORES
from ecor.config.checks import name_some, parse_record, require, require_at_least
from ecor.config.choices import SystemName
from ecor.config.model import BackboneConfig, PromptConfig, TextConfig
from ecor.config.scoring import FACTORS, Factor, MethodName, ScoringConfig, Temperatures
from ecor.config.systems import EclipConfig, LicoConfig
from ecor.config.training import FitConfig, ObjectiveConfig, ObjectiveName


@dataclass(frozen=True)
class Point:
    across: int
    down: int = 0


@pytest.mark.parametrize(
    "values, message",
    [
        ([1], "an object with the fields of Point, got \\[1\\]"),
        ({"acros": 1}, "unknown field 'acros' \\(did you mean 'across'\\?\\)"),
        ({"down": 1}, "the field 'across' is missing"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_record(Point, values)


def test_a_record_gives_its_dataclass_with_defaults() -> None:
    assert parse_record(Point, {"across": 3}) == Point(3, 0)


def test_checks_say_what_they_are_told() -> None:
    require(True, "never said")
    require_at_least("size", 1, 1)
    with pytest.raises(ValueError, match=r"^size must be at least 1, got 0$"):
        require_at_least("size", 0, 1)


@pytest.mark.parametrize(
    "names, text", [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c", "d"], "a, b and 2 more")]
)
def test_a_few_of_many_are_named(names: list[str], text: str) -> None:
    assert name_some(names, most=2) == text


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        (BackboneConfig, {"pretrained": "ftp://host/weights.pt"}, "ftp:// is not read.*s3://"),
        (PromptConfig, {"visual_tokens": -1}, "visual_tokens must be at least 0, got -1"),
        (PromptConfig, {"visual_depth": 0}, "visual_depth must be at least 1, got 0"),
        (PromptConfig, {"init_std": 0.0}, "init_std must be positive, got 0.0"),
        (TextConfig, {"table_budget_bytes": -1}, "table_budget_bytes must be at least 0, got -1"),
        (ObjectiveConfig, {"category_weight": -1.0}, "category_weight must be at least 0, got -1.0"),
        (ObjectiveConfig, {"manifold_temperature": 0.0}, "manifold_temperature must be positive"),
        (ObjectiveConfig, {"sentences_per_chunk": 0}, "sentences_per_chunk must be at least 1, got 0"),
        (FitConfig, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        (FitConfig, {"clip_norm": 0.0}, "clip_norm must be positive, got 0.0"),
        (FitConfig, {"accumulate": 0}, "accumulate must be at least 1, got 0"),
        (EclipConfig, {"keep_mass": 1.5}, "keep_mass is a share above 0 and at most 1, got 1.5"),
        (LicoConfig, {"dropout": 1.0}, "dropout is a share from 0 to below 1, got 1.0"),
        (ScoringConfig, {"top_k": 0}, "top_k must be at least 1, got 0"),
        (ScoringConfig, {"keep_rationales": 9, "max_keep_rationales": 8}, "max_keep_rationales \\(8\\).*\\(9\\)"),
        (ScoringConfig, {"method": "joint", "pooling_weight": 1.0}, "a setting of the method pooled, not joint"),
        (Temperatures, {"pair": 0.0}, "pair temperature must be positive, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_records_leave_out_what_older_ones_lack() -> None:
    assert "preprocess_of" not in BackboneConfig().to_record()
    assert "category_weight" not in ObjectiveConfig(name="two_term").to_record()
    assert ObjectiveConfig().to_record()["category_weight"] == 1.0
    assert {"ood_score", "visible_probability", "pooling_weight"}.isdisjoint(ScoringConfig().to_record())
    assert Temperatures().to_record() == {"rationale": 1.0, "category_given_rationale": 1.0}


def test_local_files_of_a_backbone_become_absolute_and_names_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").touch()
    assert BackboneConfig(name="ViT-B-32", pretrained="weights.pt").with_absolute_paths() == BackboneConfig(
        name="ViT-B-32", pretrained=str(tmp_path / "weights.pt")
    )
    assert BackboneConfig(pretrained="laion2b_s34b_b79k").with_absolute_paths().pretrained == "laion2b_s34b_b79k"
    assert BackboneConfig(name="local-dir:own").with_absolute_paths().name == f"local-dir:{tmp_path / 'own'}"


def test_every_decoding_has_factors_and_every_factor_a_temperature() -> None:
    assert set(FACTORS) == set(get_args(MethodName))
    assert {factor for factors in FACTORS.values() for factor in factors} == set(get_args(Factor))
    assert set(get_args(Factor)) <= set(Temperatures.__dataclass_fields__)
    assert set(FACTORS) - {"joint", "pooled"} <= set(get_args(ObjectiveName))


def test_the_mission_names_three_systems_and_stores_are_no_hubs() -> None:
    assert get_args(SystemName) == ("ecor", "eclip", "lico")
    assert not {hub.removesuffix(":") for hub in HUBS} & set(STORES)


def test_settings_import_nothing_heavy() -> None:
    code = (
        "import sys, ecor.config.model, ecor.config.scoring, ecor.config.systems, ecor.config.training; "
        "print(*sorted({'torch', 'numpy', 'pyarrow', 'ray', 'mlflow', 'open_clip'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
