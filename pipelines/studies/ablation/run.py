"""Run the ablation study on Ray: measure the missing cells, append to the CSV, write the page.

Each cell is one task. Rows are appended when a cell ends, so that the same command resumes. The page is made from the
CSV alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
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
from pipelines.runtime.ray_data import raise_causes
from pipelines.stages import pretrain
from pipelines.studies.ablation.cell import run_cell
from pipelines.studies.ablation.grid import DEFAULT_QUESTIONS, Cell, Judgement, Study
from pipelines.studies.ablation.results import page as results
from pipelines.studies.ablation.selection import best_settings
from pipelines.studies.ablation.study_cells import selection_cells, study_cells
from pipelines.studies.drawn_splits import Sizes
from pipelines.studies.result_rows import append_rows, read_result_rows

RESULTS = "results.csv"
QUICK_SIZES = Sizes(
    train_per_category=10, least_train=128, num_validation=100, num_test=100, num_epochs=2, max_sentences_per_step=500
)
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
    work = Path(config.work).absolute() if config.work else root / "work"
    study, sizes = _make_study(config)
    selection = selection_cells(study)
    if not config.only_page:
        root.mkdir(parents=True, exist_ok=True)
        with connect(cluster or ClusterConfig()), raise_causes():
            clip_of = partial(_make_clip, work=work, config=config, cluster=cluster, tracking=tracking)
            _measure(selection, root=root, work=work, clip_of=clip_of, sizes=sizes, title="choosing settings")
            cells = study_cells(study, chosen=best_settings(_select_rows(selection, root=root, sizes=sizes)))
            _measure(cells, root=root, work=work, clip_of=clip_of, sizes=sizes, title="measuring")
    grid = _select_rows(selection, root=root, sizes=sizes)
    require(
        len(grid) == len(_row_keys(selection, sizes=sizes)),
        f"{root / RESULTS} does not hold this study's choice of settings yet: run the same command without --only-page",
    )
    cells = study_cells(study, chosen=best_settings(grid))
    rows = _select_rows(cells, root=root, sizes=sizes)
    num_missing = len(_row_keys(cells, sizes=sizes)) - len(rows)
    page = results.write_results_page(
        pd.DataFrame(rows),
        grid=pd.DataFrame(grid),
        folder=root,
        study=study,
        num_missing=num_missing,
        is_quick=config.quick,
    )
    missing = f", {num_missing} still to be measured" if num_missing else ""
    say(f"{len(rows)} rows{missing}: {page}", to_stdout=True)
    return page


def _make_study(config: AblateConfig) -> tuple[Study, Sizes]:
    questions = config.questions or DEFAULT_QUESTIONS
    if config.quick:
        return replace(QUICK, world=config.world, questions=questions), QUICK_SIZES
    study = Study(
        world=config.world,
        questions=questions,
        num_repetitions=config.num_repetitions,
        num_pretrainings=config.num_pretrainings,
    )
    return study, Sizes()


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
    settings = PretrainConfig(output=str(output), seed=seed, world=config.world, num_samples=config.pretraining_samples)
    if config.quick:
        return replace(settings, num_samples=QUICK_PRETRAINING, num_images=QUICK_PRETRAINING)
    return settings


@ray.remote(num_cpus=1, max_retries=2)
def _cell_rows(cell: Cell, work: Path, clip: BackboneConfig, sizes: Sizes) -> list[dict[str, Any]]:
    return run_cell(cell, root=work, clip=clip, sizes=sizes)


def _measure(
    cells: Sequence[Cell],
    *,
    root: Path,
    work: Path,
    clip_of: Callable[[int], BackboneConfig],
    sizes: Sizes,
    title: str,
) -> None:
    """Measure the missing rows; those of a cell are appended as soon as it ends.

    `clip_of` is called only for pretraining seeds of missing rows.
    """
    done = {(row["cell"], row["judgement"]) for row in _read_records(root)}
    missing = [each for cell in cells if (each := _remaining(cell, done=done, sizes=sizes)).judgements]
    clips = {seed: clip_of(seed) for seed in sorted({cell.pretraining_seed for cell in missing})}
    running = {_cell_rows.remote(cell, work, clips[cell.pretraining_seed], sizes): cell for cell in missing}
    with progress_bar(title, total=len(running), unit="cells", say_every=10) as advance:
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            del running[ready]
            _append_rows(ray.get(ready), root=root)
            advance()


def _remaining(cell: Cell, *, done: Collection[tuple[str, str]], sizes: Sizes) -> Cell:
    """Return the cell with only those judgements that are not done."""
    name = cell.digest_of(asdict(sizes))
    return replace(cell, judgements=tuple(each for each in cell.judgements if (name, each.name) not in done))


def _row_keys(cells: Sequence[Cell], *, sizes: Sizes) -> set[tuple[str, str]]:
    """Cell and judgement of every row that the cells give."""
    return {(cell.digest_of(asdict(sizes)), each.name) for cell in cells for each in cell.judgements}


def _select_rows(cells: Sequence[Cell], *, root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Read the rows of these cells from the CSV, which may also hold rows of other sizes and settings."""
    wanted = _row_keys(cells, sizes=sizes)
    return [row for row in _read_records(root) if (row["cell"], row["judgement"]) in wanted]


def _read_records(root: Path) -> list[dict[str, Any]]:
    """Read all rows, and add the name of the judgement, which the file holds in several columns."""
    rows = [
        {str(name): value for name, value in row.items()} for row in read_result_rows(root / RESULTS).to_dict("records")
    ]
    return [{**row, "judgement": _judgement(row).name} for row in rows]


def _judgement(row: Mapping[str, Any]) -> Judgement:
    return Judgement(
        decoding=row["decoding_judged"],
        test_set=row["test_set"],
        split=row["split"],
        set_size=int(row["set_size"]),
        set_rule=row["set_rule"],
    )


def _append_rows(rows: list[dict[str, Any]], *, root: Path) -> None:
    """Append rows to the CSV; no reader sees a partial file."""
    table = pd.DataFrame(rows).drop(columns="judgement", errors="ignore")
    append_rows(table, root / RESULTS, float_format="%.4g")
