"""Run the ablation study: measure the missing cells, append to the CSV, write the page.

Each cell is one task of Ray, or runs in this process where it has one CPU. Rows are appended when a cell ends, so that
the same command resumes. The page is made from the CSV alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from ecor.config.checks import require
from ecor.config.model import BackboneConfig
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.studies import AblateConfig
from pipelines.config.training import PretrainConfig
from pipelines.runtime.cluster import connect
from pipelines.runtime.console import progress_bar, say
from pipelines.runtime.local_run import num_local_cpus, restore_torch_threads, runs_in_process
from pipelines.runtime.ray_data import raise_causes
from pipelines.stages import pretrain
from pipelines.studies.ablation.cell import run_cell
from pipelines.studies.ablation.grid import (
    DEFAULT_QUESTIONS,
    SHIPPED,
    SHIPPED_LEARNING_RATE,
    WITH_SHIPPED,
    Cell,
    Study,
)
from pipelines.studies.ablation.results import page as results
from pipelines.studies.ablation.results.claims import MeasuredStudy
from pipelines.studies.ablation.selection import chosen_settings
from pipelines.studies.ablation.study_cells import selection_cells, study_cells
from pipelines.studies.ablation.study_rows import append_cell_rows, grid_rows, missing_cells, row_keys, select_rows
from pipelines.studies.drawn_splits import Sizes

QUICK_SIZES = Sizes(
    train_per_category=10, least_train=128, num_validation=100, num_test=100, num_epochs=2, max_sentences_per_step=500
)
NUM_TEST = {"results": 600, "shipped": 1000}
"""Test images by name of the study."""
QUICK = Study(
    first_seed=500,  # images that the study itself does not use
    num_repetitions=2,
    num_pretrainings=1,
    roles=("small", "new-names"),
    two_roles=("small", "new-names"),
    selection_roles=("small",),
    learning_rates=(4e-3,),
    num_tokens=(2,),
    vocabulary_sizes=(5, 10),
)
QUICK_PRETRAINING = 6_400
"""Samples of a quick pretraining, for worlds without embedded weights."""


def run(config: AblateConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None) -> Path:
    """Measure all cells that are not in the CSV yet, and write the page; returns its path.

    Raises:
        ValueError: for an unknown question, and for a page without rows.
    """
    root = Path(config.output).absolute()
    study, sizes = _make_study(config)
    path = root / f"{study.name}.csv"
    if not config.only_page:
        root.mkdir(parents=True, exist_ok=True)
        _measure_study(study, path=path, sizes=sizes, config=config, cluster=cluster, tracking=tracking)
    grid = grid_rows(study, path=path, sizes=sizes)
    require(
        grid is not None,
        f"{path} does not hold this study's choice of settings yet: run the same command without --only-page",
    )
    assert grid is not None
    cells = study_cells(study, chosen=chosen_settings(study, grid))
    rows = select_rows(cells, path=path, sizes=sizes)
    num_missing = len(row_keys(cells, sizes=sizes)) - len(rows)
    page = results.write_results_page(
        pd.DataFrame(rows),
        grid=pd.DataFrame(grid),
        folder=root,
        study=study,
        num_missing=num_missing,
        is_quick=config.quick,
        beside=_study_beside(study, config=config, root=root),
    )
    missing = f", {num_missing} still to be measured" if num_missing else ""
    say(f"{len(rows)} rows{missing}: {page}", to_stdout=True)
    return page


def _measure_study(
    study: Study,
    *,
    path: Path,
    sizes: Sizes,
    config: AblateConfig,
    cluster: ClusterConfig | None,
    tracking: TrackingConfig | None,
) -> None:
    """Measure the cells that choose settings, then all others."""
    work = Path(config.work).absolute() if config.work else path.parent / "work"
    placement = cluster or ClusterConfig()
    is_local = num_local_cpus(placement) == 1 and runs_in_process(placement, num_images=1)
    measure = partial(
        _measure,
        path=path,
        work=work,
        clip_of=partial(_make_clip, work=work, config=config, cluster=cluster, tracking=tracking),
        sizes=sizes,
        is_local=is_local,
    )
    with restore_torch_threads() if is_local else connect(placement), nullcontext() if is_local else raise_causes():
        measure(selection_cells(study), title="choosing settings")
        grid = grid_rows(study, path=path, sizes=sizes)
        assert grid is not None, "every cell of the choice has its row now"
        measure(study_cells(study, chosen=chosen_settings(study, grid)), title="measuring")


def _study_beside(study: Study, *, config: AblateConfig, root: Path) -> MeasuredStudy | None:
    """The study with the other kind of tokens in the same folder, if it is there."""
    questions = DEFAULT_QUESTIONS if study.name == "shipped" else ("shipped", *WITH_SHIPPED)
    other, sizes = _published_study(questions, config=config)
    path = root / f"{other.name}.csv"
    one_rate = replace(other, learning_rates=(SHIPPED_LEARNING_RATE,))
    for each in (other, one_rate) if other.name == "shipped" else (other,):
        grid = grid_rows(each, path=path, sizes=sizes)
        if grid is None:
            continue
        found = select_rows(study_cells(each, chosen=chosen_settings(each, grid)), path=path, sizes=sizes)
        if found:
            return MeasuredStudy(study=each, rows=pd.DataFrame(found))
    return None


def _make_study(config: AblateConfig) -> tuple[Study, Sizes]:
    study, sizes = _published_study(config.questions or DEFAULT_QUESTIONS, config=config)
    if not config.quick:
        study = replace(study, num_repetitions=config.num_repetitions, num_pretrainings=config.num_pretrainings)
    if config.roles:
        study = replace(study, roles=config.roles)
    if config.learning_rates:
        study = replace(study, learning_rates=config.learning_rates)
    return study, sizes


def _published_study(questions: tuple[str, ...], *, config: AblateConfig) -> tuple[Study, Sizes]:
    """The study as its page has it, in the world of the configuration; or its test run."""
    base = QUICK if config.quick else SHIPPED if "shipped" in questions else Study()
    study = replace(base, world=config.world, questions=questions)
    return study, QUICK_SIZES if config.quick else Sizes(num_test=NUM_TEST[study.name])


def _make_clip(
    seed: int, *, work: Path, config: AblateConfig, cluster: ClusterConfig | None, tracking: TrackingConfig | None
) -> BackboneConfig:
    """Return the CLIP of a pretraining seed; it is pretrained here unless the package contains it."""
    settings = pretraining_config(seed, work=work, config=config)
    if settings is None:
        return BackboneConfig(precision="fp32")
    made = pretrain.run(settings, cluster=cluster, tracking=tracking)
    return BackboneConfig(name=made.model, pretrained=made.weights, precision="fp32")


def pretraining_config(seed: int, *, work: Path, config: AblateConfig) -> PretrainConfig | None:
    """Settings to pretrain the CLIP of a seed; None for seed 0 of the world `demo`, whose weights are embedded."""
    if config.world == "demo" and seed == 0:
        return None
    name = str(seed) if config.world == "demo" else f"{config.world}-{seed}"
    output = work / "clips" / (f"{name}-quick" if config.quick else name)
    settings = PretrainConfig(
        output=str(output),
        seed=seed,
        world=config.world,
        num_samples=config.pretraining_samples,
        num_images=config.pretraining_images,
        precision=config.pretraining_precision,
    )
    if config.quick:
        return replace(settings, num_samples=QUICK_PRETRAINING, num_images=QUICK_PRETRAINING)
    return settings


@ray.remote(num_cpus=1, max_retries=2)
def _cell_rows(cell: Cell, work: Path, clip: BackboneConfig, sizes: Sizes) -> list[dict[str, Any]]:
    return run_cell(cell, root=work, clip=clip, sizes=sizes)


def _measure(
    cells: Sequence[Cell],
    *,
    path: Path,
    work: Path,
    clip_of: Callable[[int], BackboneConfig],
    sizes: Sizes,
    is_local: bool,
    title: str,
) -> None:
    """Measure the missing rows; those of a cell are appended as soon as it ends.

    `clip_of` is called only for pretraining seeds of missing rows.
    """
    missing = missing_cells(cells, path=path, sizes=sizes)
    clips = {seed: clip_of(seed) for seed in sorted({cell.pretraining_seed for cell in missing})}
    run_all = _run_here if is_local else _run_on_cluster
    with progress_bar(title, total=len(missing), unit="cells", say_every=10) as advance:
        for rows in run_all(missing, work=work, clips=clips, sizes=sizes):
            append_cell_rows(rows, path=path)
            advance()


def _run_here(
    cells: Sequence[Cell], *, work: Path, clips: Mapping[int, BackboneConfig], sizes: Sizes
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each cell, in order."""
    for cell in cells:
        yield run_cell(cell, root=work, clip=clips[cell.pretraining_seed], sizes=sizes)


def _run_on_cluster(
    cells: Sequence[Cell], *, work: Path, clips: Mapping[int, BackboneConfig], sizes: Sizes
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each cell as its task ends."""
    running = [_cell_rows.remote(cell, work, clips[cell.pretraining_seed], sizes) for cell in cells]
    while running:
        (ready,), running = ray.wait(running, num_returns=1)
        yield ray.get(ready)
