"""List the cells of a study: every tuning that its questions need, each once, with all its judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from pipelines.studies.ablation.grid import (
    ALL_METHODS,
    DECODING_OF,
    DECODINGS,
    LOSS_OF_METHOD,
    SET_RULES,
    SHIPPED_TOKENS,
    TOKENS,
    Cell,
    Judgement,
    Study,
)
from pipelines.studies.ablation.selection import ChosenSettings

TRANSFER_METHODS: tuple[MethodName, ...] = ("joint", "pooled")
"""Methods whose visual tokens are judged on other sets."""


def selection_cells(study: Study) -> list[Cell]:
    """List every setting of the grid for every objective and kind of tokens, judged on validation images.

    None if there is one setting alone.
    """
    if not study.has_choice:
        return []
    return [
        Cell(
            pretraining_seed=0,
            seed=seed,
            set_name=set_name,
            objective=objective,
            tokens=tokens,
            num_tokens=num_tokens,
            learning_rate=learning_rate,
            decoding=DECODING_OF[objective],
            judgements=(Judgement(decoding=DECODING_OF[objective], test_set=set_name, split="validation"),),
        )
        for objective, tokens in study.tunings
        for set_name in study.selection_sets
        for seed in study.selection_seeds
        for learning_rate in study.learning_rates
        for num_tokens in study.num_tokens
    ]


def study_cells(study: Study, *, chosen: Mapping[tuple[str, str], ChosenSettings]) -> list[Cell]:
    """List all cells of the study; a cell that serves several questions occurs once, with all their judgements."""
    if study.name == "shipped":
        return _shipped_cells(study, chosen=chosen)
    asked = set(study.questions)
    cells: list[Cell] = []
    for pretraining_seed, seed in study.repetitions:
        start = _Repetition(pretraining_seed=pretraining_seed, seed=seed, chosen=chosen)
        for set_name in study.sets:
            cells += [start.untuned_cell(set_name, decoding=method) for method in LOSS_OF_METHOD]
            cells += [start.tuned_cell(set_name, objective=objective) for objective in LOSS_OF_METHOD.values()]
        if "pooled" in asked:
            for set_name in study.sets:
                cells.append(start.untuned_cell(set_name, decoding="pooled"))
                cells.append(start.tuned_cell(set_name, objective="three_term"))
        if "negatives" in asked:
            cells += [
                start.tuned_cell(set_name, objective=objective)
                for set_name in study.two_sets
                for objective in ("in_batch_pairs", "in_batch_categories")
            ]
        if "tokens" in asked:
            cells += [
                start.tuned_cell(set_name, objective="two_term", tokens=tokens)
                for set_name in study.two_sets
                for tokens in TOKENS[1:]
            ]
        if "wording" in asked:
            for set_name in study.two_sets:
                for wording in range(4):
                    cells.append(replace(start.untuned_cell(set_name, decoding="joint"), wording=wording))
                    cells.append(replace(start.tuned_cell(set_name, objective="two_term"), wording=wording))
        if "growth" in asked:
            cells += _growth_cells(study, starts=[start])
    return [_add_judgements(cell, study=study) for cell in cells]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repetition:
    """Settings that the cells of a repetition share."""

    pretraining_seed: int
    seed: int
    chosen: Mapping[tuple[str, str], ChosenSettings] = field(default_factory=dict)

    def untuned_cell(self, set_name: str, *, decoding: MethodName) -> Cell:
        return Cell(
            pretraining_seed=self.pretraining_seed,
            seed=self.seed,
            set_name=set_name,
            objective=None,
            tokens="none",
            decoding=decoding,
            judgements=(Judgement(decoding=decoding, test_set=set_name),),
        )

    def tuned_cell(self, set_name: str, *, objective: ObjectiveName, tokens: str = "text") -> Cell:
        settings = self.chosen[objective, tokens]
        decoding = DECODING_OF[objective]
        return Cell(
            pretraining_seed=self.pretraining_seed,
            seed=self.seed,
            set_name=set_name,
            objective=objective,
            tokens=tokens,
            num_tokens=settings.num_tokens,
            learning_rate=settings.learning_rate,
            decoding=decoding,
            judgements=(Judgement(decoding=decoding, test_set=set_name),),
        )


def _shipped_cells(study: Study, *, chosen: Mapping[tuple[str, str], ChosenSettings]) -> list[Cell]:
    """Every method tuned with its own loss, and untuned; method by method, so that a part of the study has whole arms.

    They are judged on test images and, for the rule, on validation images. Tokens of the losses with two and three
    terms are decoded with and without the category alone. Cells of transfer and growth alone follow.
    """
    starts = _starts(study.repetitions, chosen=chosen)
    places = [(start, set_name) for start in starts for set_name in study.sets]
    cells: list[Cell] = []
    for method, objective in ALL_METHODS.items():
        cells += [start.tuned_cell(name, objective=objective, tokens=SHIPPED_TOKENS) for start, name in places]
        cells += [start.untuned_cell(name, decoding=method) for start, name in places]
    cells = [_add_shipped_judgements(cell, study=study) for cell in cells]
    wide = _starts(study.wide_repetitions, chosen=chosen)
    if "transfer" in study.questions:
        strange = [name for name in study.target_sets if name not in study.sets]
        cells += [
            start.untuned_cell(name, decoding=method)
            for start in wide
            for name in strange
            for method in TRANSFER_METHODS
        ]
    if "growth" in study.questions:
        cells += _growth_cells(study, starts=wide)
    return cells


def _growth_cells(study: Study, *, starts: Sequence[_Repetition]) -> list[Cell]:
    """The methods on some of the categories of the growing set, tuned and untuned, method by method."""
    return [
        replace(cell, num_categories=size)
        for method in study.methods
        for start in starts
        for size in study.vocabulary_sizes
        for cell in (
            start.tuned_cell(study.growing_set, objective=study.methods[method], tokens=study.tokens),
            start.untuned_cell(study.growing_set, decoding=method),
        )
    ]


def _starts(
    repetitions: Sequence[tuple[int, int]], *, chosen: Mapping[tuple[str, str], ChosenSettings]
) -> list[_Repetition]:
    return [_Repetition(pretraining_seed=clip, seed=seed, chosen=chosen) for clip, seed in repetitions]


def _add_shipped_judgements(cell: Cell, *, study: Study) -> Cell:
    both: tuple[MethodName, ...] = ("joint", "pooled")
    decodings = both if cell.objective in ("two_term", "three_term") else (cell.decoding,)
    found = [
        Judgement(decoding=decoding, test_set=cell.set_name, split=split)
        for split in ("validation", "test")
        for decoding in decodings
    ]
    if cell.objective and "crossed" in study.questions:
        known = {each.decoding for each in found}
        found += [Judgement(decoding=each, test_set=cell.set_name) for each in study.methods if each not in known]
    is_wide = (cell.pretraining_seed, cell.seed) in study.wide_repetitions
    if "transfer" in study.questions and is_wide and cell.objective and cell.decoding in TRANSFER_METHODS:
        others = [name for name in study.target_sets if name != cell.set_name]
        found += [Judgement(decoding=cell.decoding, test_set=name) for name in others]
    return replace(cell, judgements=tuple(found))


def _add_judgements(cell: Cell, *, study: Study) -> Cell:
    """Add the judgements that the questions ask for; they cost little compared with the tuning."""
    asked, found = set(study.questions), list(cell.judgements)
    is_plain = cell.wording is None and cell.num_categories is None and cell.tokens in ("text", "none")
    is_ours = is_plain and cell.decoding == "joint" and cell.objective in ("two_term", None)
    if is_ours and "methods" in asked:
        found += [Judgement(decoding=decoding, test_set=cell.set_name) for decoding in DECODINGS[4:]]
    if is_plain and cell.objective in LOSS_OF_METHOD.values() and "crossed" in asked:
        found += [Judgement(decoding=decoding, test_set=cell.set_name) for decoding in DECODINGS[:4]]
    if is_plain and cell.objective in (*LOSS_OF_METHOD.values(), "three_term") and "pooled" in asked:
        found += [Judgement(decoding=decoding, test_set=cell.set_name) for decoding in ("joint", "pooled")]
    if is_ours and cell.objective and cell.set_name in study.two_sets and "sets" in asked:
        found += [
            Judgement(test_set=cell.set_name, set_size=size, set_rule=rule) for size in (2, 3) for rule in SET_RULES
        ]
    if is_ours and cell.objective and "transfer" in asked:
        found += [Judgement(test_set=name) for name in study.sets]
    return replace(cell, judgements=tuple(dict.fromkeys(found)))
