"""Print a plan for people: one table of stages, and a line for each other thing."""

from rich.console import Console
from rich.table import Table

from pipelines.stages.planning.estimates import Estimate
from pipelines.stages.planning.plan_record import Plan, Refusal, StagePlan

_GIB, _MIB, _MINUTE, _HOUR = 1024**3, 1024**2, 60, 3600


def print_plan(plan: Plan) -> None:
    """Print to stdout."""
    console = Console()
    for line in head_lines(plan):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(stages_table(plan))
    for line in tail_lines(plan):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def head_lines(plan: Plan) -> list[str]:
    """Images, bytes, and refusals to come."""
    images = plan.images
    splits = ", ".join(f"{split} {number:,}" for split, number in images.by_split.items())
    size = "" if images.num_bytes is None else f", {images.num_bytes / _MIB:,.1f} MiB"
    lines = [
        f"images    {images.num_shard:,} to shard ({splits}){size}; {images.num_score:,} to label",
        f"shards    {_bytes(images.tar_bytes)}",
    ]
    return lines + [_refusal_line(each) for each in plan.refusals] + _limit_lines(plan)


def stages_table(plan: Plan) -> Table:
    """A row per stage, and the sum; where it is too wide, figures wrap, and no name is cut."""
    table = Table(title=f"{plan.pipeline}: estimates, with intervals")
    table.add_column("stage", no_wrap=True)
    for title in ("time", "CPU time", *(["money"] if plan.money else [])):
        table.add_column(title, justify="right", overflow="fold")
    for stage in plan.stages:
        table.add_row(*_cells(stage))
    whole = ["total", _seconds(plan.cost.wall_s), _seconds(plan.cost.cpu_s)]
    table.add_section()
    table.add_row(*whole, *([_money(plan.money)] if plan.money else []))
    return table


def tail_lines(plan: Plan) -> list[str]:
    """Memory, settings, and what to know about the figures."""
    machines, memory = plan.machines, plan.memory
    gpus = f", {machines.num_gpus} GPUs" if machines.num_gpus else ""
    nodes = f"{machines.num_nodes} nodes, " if machines.num_nodes > 1 else ""
    gpu = "" if memory.gpu_bytes is None else f"; {memory.gpu_bytes / _GIB:.1f} GiB of a GPU"
    is_begun = any(stage.is_there for stage in plan.stages)
    rates = ", ".join(f"{rate:.0f} at {size}" for size, rate in sorted(plan.images_per_s.items()))
    return [
        f"machines  {nodes}{machines.num_cpus} CPUs{gpus}",
        f"memory    {memory.node_bytes / _GIB:.1f} GiB per node{gpu}; model {memory.model_bytes / _MIB:.0f} MiB",
        f"score     {', '.join(plan.advice.lines())}   (images/s of a scorer by batch size: {rates})",
        *(["*         its output is there: ecor run checks it, and redoes nothing that fits"] if is_begun else []),
        *(f"note      {note}" for note in plan.notes),
        f"planned in {plan.planning_s:.0f} s from {plan.images.num_probed} images, seed {plan.seed}, on {plan.machine}",
    ]


def _cells(stage: StagePlan) -> list[str]:
    name = f"{stage.name}{' (Ray)' if stage.on_ray else ''}{'*' if stage.is_there else ''}"
    money = [] if stage.money is None else [_money(stage.money)]
    return [name, _seconds(stage.cost.wall_s), _seconds(stage.cost.cpu_s), *money]


def _refusal_line(refusal: Refusal) -> str:
    low, value, high = (
        round(each) for each in (refusal.num_images.low, refusal.num_images.value, refusal.num_images.high)
    )
    return (
        f"refusals  {refusal.stage}: {value:,} images ({low:,}–{high:,}) {refusal.reason} "
        f"({refusal.num_in_sample} in the sample)"
    )


def _limit_lines(plan: Plan) -> list[str]:
    """A warning where the stage is likely to stop at its limit."""
    shares = [each.num_images.high / plan.images.num_shard for each in plan.refusals if each.stage == "shard"]
    worst = max(shares, default=0.0)
    if worst <= plan.max_rejected:
        return []
    return [f"warning   up to {worst:.0%} of the images may be rejected, and shard stops above {plan.max_rejected:.0%}"]


def _bytes(size: Estimate) -> str:
    return f"{size.value / _MIB:,.1f} MiB" + _ends(size, divisor=_MIB)


def _seconds(time: Estimate) -> str:
    unit, divisor = next(
        ((unit, size) for unit, size in (("h", _HOUR), ("min", _MINUTE)) if time.value >= 2 * size), ("s", 1)
    )
    return f"{time.value / divisor:,.1f} {unit}" + _ends(time, divisor=divisor)


def _money(money: Estimate) -> str:
    digits = 2 if money.value >= 1 else 4
    return f"{money.value:,.{digits}f} ({money.low:,.{digits}f}–{money.high:,.{digits}f})"


def _ends(number: Estimate, *, divisor: float) -> str:
    if number.low == number.high:
        return ""
    return f" ({number.low / divisor:,.1f}–{number.high / divisor:,.1f})"
