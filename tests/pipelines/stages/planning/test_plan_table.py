"""The table of a plan: nothing of it is cut, however narrow the terminal."""

import io
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from pipelines.stages.planning.estimates import Cost, Estimate
from pipelines.stages.planning.plan_record import Plan, StagePlan
from pipelines.stages.planning.plan_table import stages_table

NAMES = ("start", "mlflow", "shard", "train", "register", "contest", "score", "evaluate", "report")


@pytest.mark.parametrize("width", [50, 80, 200])
def test_names_and_figures_are_whole(width: int) -> None:
    time = Estimate(value=234.5 * 3600, low=112.3 * 3600, high=1234.5 * 3600)
    cost, money = Cost(wall_s=time, cpu_s=time), Estimate(value=469.12, low=224.64, high=2469.12)
    stages = tuple(StagePlan(name=name, on_ray=True, is_there=True, cost=cost, money=money) for name in NAMES)
    plan = cast("Plan", SimpleNamespace(pipeline="pipeline.toml", stages=stages, cost=cost, money=money))
    console = Console(width=width, file=io.StringIO())
    console.print(stages_table(plan))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "…" not in printed and all(f"{name} (Ray)*" in printed for name in NAMES)
    if width >= 80:
        for figure in ("234.5 h", "(112.3–1,234.5)", "469.12", "(224.64–2,469.12)"):
            assert printed.count(figure) >= len(NAMES), figure
