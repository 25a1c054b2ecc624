"""What each process of a job imports: seconds before its first image, which every worker and every command pays."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.order import LONGEST_FIRST, duration_rank

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torch._dynamo", "transformers", "timm", "mlflow", "ray", "pandas", "matplotlib")
"""Each takes between 0.3 and 4 seconds to import."""


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("pipelines.commands", set()),
        ("pipelines.scoring.decoder", set()),
        ("pipelines.scoring.unit_writer", set()),
        ("pipelines.scoring.scorer", {"torch", "pandas"}),
        ("pipelines.scoring.flows.cluster_flow", {"ray", "pandas"}),
        ("pipelines.scoring.flows.local_flow", set()),
        ("pipelines.tracking.model_cache", set()),
        ("pipelines.stages.score", set()),
        ("pipelines.stages.review", set()),
        ("pipelines.stages.shard", set()),
        ("pipelines.sharding.flows.cluster_flow", {"ray", "pandas"}),
        ("pipelines.stages.train", {"torch", "pandas"}),
        ("pipelines.stages.register", {"mlflow", "pandas"}),
    ],
)
def test_a_process_imports_what_it_needs_and_nothing_else_that_is_heavy(module: str, needed: set[str]) -> None:
    """A scorer loads the model and never talks to MLflow; a decoder and a writer do without torch; of the workers of
    a training run, only the first talks to MLflow."""
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(done.stdout.split()) == needed


def test_files_that_take_longest_come_first_and_exist() -> None:
    assert not [name for name in LONGEST_FIRST if not (ROOT / name).is_file()]
    first, *_, last = LONGEST_FIRST
    assert duration_rank(f"{first}::test_a") < duration_rank(f"{last}::test_b") < duration_rank("tests/test_else.py::c")
