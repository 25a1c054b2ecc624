"""The concept study: tables of detection and localization by definitions of concepts (ConVis)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecor.clip.loading import load_backbone
from ecor.convis.concept_features import encode_concepts
from ecor.demo.lexicon import demo_lexicon
from ecor.evaluation.confidence_intervals import Estimate, Resampling, mean_over_repetitions
from ecor.explain.metrics.boxes import CONVIS, WSOL, BoxRule
from pipelines.config.studies import ConceptsConfig
from pipelines.studies.concept_experiments import DetectionRow, LocalisationRow, detection_rows, localisation_rows
from pipelines.studies.markdown import read_introduction, table_row, write_parts
from pipelines.studies.result_rows import write_rows

_RULES: dict[str, BoxRule] = {"wsol": WSOL, "convis": CONVIS}
RULE_NOTES = {
    "wsol": "as arXiv:2007.04178 (map above the threshold, corners touch, an overlap of just δ counts)",
    "convis": "as ConVis (map at or above the threshold, corners do not touch, more than δ counts)",
}
DETECTION_HEADER = ("known / unknown", "score", "AUROC", "FPR95, unknown positive", "FPR95, known positive")
LOCALISATION_HEADER = ("pictures of", "explained", "method", "MaxBoxAcc", "MaxBoxAccV2")
"""Header of the table of localization."""
CSV_HEADER = ("table", "case", "method", "figure", "value", "low", "high", "num_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptFigure:
    """One number of a table."""

    table: str
    case: str
    method: str
    figure: str
    estimate: Estimate


def run(config: ConceptsConfig) -> Path:
    """Print both tables, row by row, and write them; returns the path of the page.

    Raises:
        ValueError: as `ecor.clip.loading.load_backbone`.
    """
    steps = 14
    if config.quick:
        config, steps = replace(config, num_train=60, num_images=40, num_found=3, num_resamples=200), 7
    torch.set_num_threads(config.num_threads)
    backbone = load_backbone(config.backbone)
    concepts = encode_concepts(backbone, demo_lexicon())
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    rows = detection_rows(
        backbone,
        concepts,
        num_train=config.num_train,
        num_images=config.num_images,
        seed=config.seed,
        resampling=resampling,
    )
    telling = list(_print_rows(DETECTION_HEADER, _detection_figures(rows)))
    found = localisation_rows(
        backbone,
        concepts,
        num_images=config.num_found,
        seed=config.seed,
        rule=_RULES[config.box_rule],
        steps=steps,
        resampling=resampling,
    )
    finding = list(_print_rows(LOCALISATION_HEADER, map(_localisation_figures, found)))
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "concepts.csv", [each for row in (*telling, *finding) for each in row])
    page = folder / "concepts.md"
    return write_parts(page, _page(config, telling=telling, finding=finding, words=read_introduction(page)))


def _detection_figures(rows: Iterable[DetectionRow]) -> Iterator[list[ConceptFigure]]:
    """Yield the figures of each row, then the means over pairs."""
    by_score: dict[str, list[list[ConceptFigure]]] = {}
    for row in rows:
        measures = row.detection.auroc, row.detection.fpr95_unknown, row.detection.fpr95_known
        case = f"{row.known} ({row.num_known}) / {row.unknown} ({row.num_unknown})"
        figures = [
            ConceptFigure(table="telling", case=case, method=row.score, figure=name, estimate=each)
            for name, each in zip(DETECTION_HEADER[2:], measures, strict=True)
        ]
        by_score.setdefault(row.score, []).append(figures)
        yield figures
    for score, pairs in by_score.items():
        yield [
            ConceptFigure(
                table="telling", case="mean over pairs", method=score, figure=column[0].figure, estimate=_mean(column)
            )
            for column in zip(*pairs, strict=True)
        ]


def _mean(figures: Sequence[ConceptFigure]) -> Estimate:
    """Mean over pairs, with the interval of Student's t."""
    mean = mean_over_repetitions(np.array([each.estimate.value for each in figures]))
    return Estimate(
        value=mean.value,
        low=mean.value - mean.half_width,
        high=mean.value + mean.half_width,
        num_images=sum(each.estimate.num_images for each in figures),
    )


def _localisation_figures(row: LocalisationRow) -> list[ConceptFigure]:
    case = f"{row.pictures} | {row.explained}"
    return [
        ConceptFigure(table="finding", case=case, method=row.method, figure=name, estimate=each)
        for name, each in zip(LOCALISATION_HEADER[3:], (row.max_box_acc, row.max_box_acc_v2), strict=True)
    ]


def _print_rows(header: Sequence[str], rows: Iterable[list[ConceptFigure]]) -> Iterator[list[ConceptFigure]]:
    """Print each row, and pass it on."""
    for line in _heading(header):
        print(line, flush=True)  # noqa: T201
    for row in rows:
        print(_line(row), flush=True)  # noqa: T201
        yield row


def _heading(header: Sequence[str]) -> tuple[str, str]:
    return table_row(header), table_row(["---"] * len(header))


def _line(row: Sequence[ConceptFigure]) -> str:
    return table_row([row[0].case, row[0].method, *(_format_estimate(each.estimate) for each in row)])


def _format_estimate(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _write_csv(path: Path, figures: Sequence[ConceptFigure]) -> None:
    rows = []
    for each in figures:
        found = each.estimate
        numbers = (found.value, found.low, found.high, found.num_images)
        rows.append((each.table, each.case, each.method, each.figure, *numbers))
    write_rows(pd.DataFrame(rows, columns=list(CSV_HEADER)), path, missing="nan")


def _page(
    config: ConceptsConfig,
    *,
    telling: Sequence[Sequence[ConceptFigure]],
    finding: Sequence[Sequence[ConceptFigure]],
    words: str,
) -> str:
    lines = [
        "# What concepts tell, and what they find",
        "",
        *(["Made with --quick: these figures mean nothing.", ""] if config.quick else []),
        *([words, ""] if words else []),
        f"Made by `ecor concepts --seed {config.seed}` with {config.backbone.name} ({config.backbone.pretrained}), "
        "which was tuned on nothing. Drawn scenes; definitions of the demo's own lexicon. In percent, with 95 % "
        "intervals.",
        "",
        *_detection_section(config, telling),
        "",
        *_localisation_section(config, finding),
        "",
    ]
    return "\n".join(lines)


def _detection_section(config: ConceptsConfig, rows: Sequence[Sequence[ConceptFigure]]) -> list[str]:
    return [
        "## Telling the unknown",
        "",
        f"{config.num_images} pictures of the kinds of a known concept, and as many of the kinds of an unknown one; in "
        "brackets how many categories each has. Intervals: bootstrap over pictures; of the means, Student's t over "
        "pairs. AUROC: a known picture scores higher than an unknown one, ties counted half (chance 50). FPR95 with "
        "the unknown positive (ConVis): known pictures rejected where 95 % of unknown ones are; with the known "
        f"positive: unknown pictures accepted where 95 % of known ones are. The probe learned from {config.num_train} "
        "pictures of the known categories.",
        "",
        *_heading(DETECTION_HEADER),
        *map(_line, rows),
    ]


def _localisation_section(config: ConceptsConfig, rows: Sequence[Sequence[ConceptFigure]]) -> list[str]:
    return [
        "## Finding things",
        "",
        f"{config.num_found} pictures of one thing each, away from the middle, of categories that pretraining named, "
        "and as many of those that it never named. Maps of the category's definition, and of the definition of what "
        "it is a kind of. MaxBoxAcc: the box around the largest region overlaps the true one by 0.5, at the threshold "
        f"that is best for all pictures; V2: any region, mean over 0.3, 0.5 and 0.7. Boxes "
        f"{RULE_NOTES[config.box_rule]}. The threshold is chosen anew in each resample.",
        "",
        *_heading(LOCALISATION_HEADER),
        *map(_line, rows),
    ]
