"""Claim, record, resume and publish the output folder of a stage that learns.

The folder holds the products and `summary.json`, which is written last. Until then it also holds `run.json` (digest and
MLflow run) and `ray/` (the states from which the same command resumes).
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import ecor
from ecor.config.checks import require
from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import say
from pipelines.storage.work_ledger import WorkLedger
from pipelines.training.runs.job import Job, Settings
from pipelines.training.runs.runner import Work, open_runner
from pipelines.training.runs.saved_states import STATES, has_states

SUMMARY, RUN = "summary.json", "run.json"
_LEDGER, _RUN = "_ledger", "run"
_NAME_LENGTH = 16
"""Characters of the digest that Ray Train uses as the name of a run."""


def make_once(
    config: Settings,
    *,
    name: str,
    parents: dict[str, str],
    made_of: str,
    products: Sequence[str],
    work: Work,
    publish: Callable[[Path, str], None],
    cluster: ClusterConfig | None,
    tracking: TrackingConfig,
    is_short: bool = False,
) -> None:
    """Fill the output of a stage that learns, unless a run with the same parents has filled it.

    The same command resumes from the last saved state, in the same MLflow run. If another job works on the output, the
    call waits for it.

    Args:
        config: settings of the stage, a dataclass.
        name: name of the stage, and of the MLflow run.
        parents: digests of the inputs of the run; `config` is the digest of the settings and of all the others.
        made_of: names in errors what this digest is made from.
        products: files and folders in the output that the run makes.
        work: function that each worker runs; its settings are the fields of a `Job`.
        publish: takes the folder of the last state and the MLflow run, moves the products to their places, and writes
            the summary last.
        cluster: where the workers run.
        tracking: where the run is recorded.
        is_short: whether a single worker may run in this process (`open_runner`).

    Raises:
        ValueError: when the output holds another run (naming both digests), and what a worker raises.
        OSError: when another job has taken over the run, or a worker died.
    """
    output, digest = absolute_address(config.output), parents["config"]
    if not config.fresh and is_finished(output, digest=digest, made_of=made_of):
        say(f"{name}: finished before, nothing to do: {config.output}")
        return
    cluster = cluster or ClusterConfig()
    with hold_output(output, lease_s=cluster.lease_s) as fence:
        if config.fresh:
            clear_run_folder(output, products=products)
        if is_finished(output, digest=digest, made_of=made_of):
            say(f"{name}: finished by another job, nothing to do: {config.output}")
            return
        params: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
        record = record_run(
            output, name=name, digest=digest, params=params, parents=parents, tracking=tracking, products=products
        )
        workers = open_runner(config, name=name, run=digest[:_NAME_LENGTH], cluster=cluster, is_short=is_short)
        with workers as runner, record as run_id:
            job = Job(
                config=config,
                parents=parents,
                tracking=tracking,
                run_id=run_id,
                states=runner.states,
                messages=runner.messages,
            )
            with runner.fit(work, {each.name: getattr(job, each.name) for each in fields(job)}) as state:
                fence()
                publish(state, run_id)
            filesystem.remove(filesystem.join(output, STATES))


@contextmanager
def record_run(
    output: str,
    *,
    name: str,
    digest: str,
    params: Mapping[str, Any],
    parents: Mapping[str, str],
    tracking: TrackingConfig,
    products: Sequence[str],
) -> Iterator[str]:
    """Open the MLflow run, or reopen the one of an interrupted run; close it with the outcome."""
    from pipelines.tracking import model_registry  # MLflow, which most workers do without

    path = filesystem.join(output, RUN)
    run_id = json.loads(filesystem.read(path))["run_id"] if filesystem.exists(path) else None
    run_id = model_registry.start_training_run(
        tracking, name=name, params=params, tags={**_environment(), **parents}, run_id=run_id
    )
    filesystem.write_json(path, {"digest": digest, "run_id": run_id})
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
        filesystem.remove(path)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except ValueError:
        if not has_states(output):
            clear_run_folder(output, products=products)  # nothing was learned: a corrected command may use the folder
        raise
    finally:
        model_registry.finish_run(tracking, run_id=run_id, status=status)


@contextmanager
def hold_output(output: str, *, lease_s: float) -> Iterator[Callable[[], None]]:
    """Wait until no other job works on this output, and keep other jobs away until the block ends.

    Yields a function to call before anything is published. It raises OSError if another job has taken over the run,
    because this job did not renew its lease for `lease_s`.
    """
    ledger = WorkLedger(filesystem.join(output, _LEDGER), lease_s=lease_s)
    with ledger.hold_lease():
        while (attempt := ledger.claim(_RUN)) is None:
            ledger.wait([_RUN], tell=say)

        def fence() -> None:
            if ledger.claim(_RUN) != attempt:
                raise OSError(f"{output}: another job has gone on with this run meanwhile, and will publish it")

        yield fence
    if filesystem.exists(filesystem.join(output, SUMMARY)):
        ledger.clear()  # a job that waits for this run finds it finished


def clear_run_folder(output: str, *, products: Sequence[str]) -> None:
    """Remove what a run wrote: its records, states and products (files or folders in `output`)."""
    for name in (SUMMARY, RUN, STATES, *products):
        filesystem.remove(filesystem.join(output, name))


def is_finished(output: str, *, digest: str, made_of: str) -> bool:
    """Whether the run of this digest is finished in this output.

    Args:
        output: folder of the run.
        digest: digest of the run.
        made_of: names in the error what the digest is made from.

    Raises:
        ValueError: when the output holds another run.
    """
    for name in (SUMMARY, RUN):
        if filesystem.exists(filesystem.join(output, name)):
            found = json.loads(filesystem.read(filesystem.join(output, name))).get("digest")
            require(
                found == digest,
                f"{output} holds run {found}, the {made_of} given make run {digest}: "
                f"choose another output, or start over with --fresh",
            )
    return filesystem.exists(filesystem.join(output, SUMMARY))


def say_recorded_balance(output: str) -> None:
    """Print what became of all samples, as the summary of a finished run has it."""
    summary = json.loads(filesystem.read(filesystem.join(absolute_address(output), SUMMARY)))
    if (balance := recorded_balance(summary)) is not None:
        say_balance(balance)


def recorded_balance(summary: Mapping[str, Any]) -> Balance | None:
    """What became of all samples; None in a summary of an earlier version."""
    return Balance.from_record(summary["balance"]) if "balance" in summary else None


def _environment() -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "ray")}
    return {"ecor": ecor.__version__, "python": platform.python_version(), "platform": platform.platform(), **versions}
