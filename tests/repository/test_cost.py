"""The cost model: the tables of docs/cost.md are the program's, and follow from figures of benchmarks/README.md."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost_model", ROOT / "benchmarks" / "cost.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_program(model):
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    assert model.measured_table() in page
    assert model.cost_table() in page


def test_every_measured_figure_is_in_its_section(model):
    sections = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", FIGURES, re.M | re.S))
    for each in model.MEASURED.values():
        numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", sections[each.section])
        assert each.value in {float(number.replace(",", "")) for number in numbers}, each


def test_a_million_photos_by_hand(model):
    value = {name: each.value for name, each in model.MEASURED.items()}
    found = model.cost(10**6)
    assert found.num_units == 1954
    assert found.b32_gpu_h == pytest.approx(10**6 / value["b32"] / 3600)
    assert found.score_core_h == pytest.approx(10**6 * (value["decode"] + value["score"]) / 1000 / 3600)
    assert found.score_driver_gb == pytest.approx(
        value["score_driver"] * 1024**2 / 1e9 + 1954 * value["score_driver_unit"] / 1e6
    )


def test_costs_grow_with_images_and_larger_units_spare_the_driver(model):
    small, large = model.cost(2 * 512 * 10**4), model.cost(20 * 512 * 10**4)
    for name in ("shard_core_h", "score_core_h", "l14_gpu_h", "num_files", "num_requests", "tars_gb", "record_gb"):
        assert getattr(large, name) == pytest.approx(10 * getattr(small, name)), name
    assert model.cost(10**9, unit=8192).score_driver_gb < model.cost(10**9).score_driver_gb / 10


def test_numbers_are_rounded_to_two_digits(model):
    given = (0.0389, 0.97, 4.31, 38.9, 431.0, 1953125.0)
    assert [model.rounded(each) for each in given] == ["0.039", "0.97", "4.3", "39", "430", "2,000,000"]
