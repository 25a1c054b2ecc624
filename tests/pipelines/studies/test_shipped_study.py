"""The question `shipped`: its grid, its rule on validation rows alone, its page, and cells in this process.

Covers: `pipelines.studies.ablation.results.shipped`, `pipelines.studies.ablation.study_rows`.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.training import FitConfig
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.studies import AblateConfig
from pipelines.studies.ablation import run as ablate
from pipelines.studies.ablation.cell import prompt_config
from pipelines.studies.ablation.grid import (
    ALL_METHODS,
    SELECTION_SEED,
    SHIPPED,
    SHIPPED_TOKENS,
    Cell,
    Study,
)
from pipelines.studies.ablation.results import page as results
from pipelines.studies.ablation.results.arms import ARMS, DEFAULT
from pipelines.studies.ablation.results.claims import MeasuredStudy, claims_table
from pipelines.studies.ablation.results.shipped import RULE, rule_table, validation_scores, winner
from pipelines.studies.ablation.selection import chosen_settings
from pipelines.studies.ablation.study_cells import selection_cells, study_cells
from pipelines.studies.drawn_splits import Sizes
from tests.support.shipped_rows import CHOSEN, SMALL, made_up_rows


def rows_with(**validation: tuple[float, ...]) -> pd.DataFrame:
    """Rows of the small study: figures of tuned arms on validation images, by decoding; reversed on test images."""
    figures = {}
    for decoding, values in validation.items():
        figures[ALL_METHODS[decoding], decoding, "validation"] = values
        figures[ALL_METHODS[decoding], decoding, "test"] = tuple(0.6 - value for value in values)
    return made_up_rows(study_cells(SMALL, chosen=CHOSEN), figures)


def test_every_method_is_tuned_with_the_shipped_tokens_and_equal_effort() -> None:
    per_loss: dict[str, set] = {}
    for cell in selection_cells(SHIPPED):
        assert cell.seed == SELECTION_SEED and {each.split for each in cell.judgements} == {"validation"}
        assert PromptConfig() == prompt_config(cell.tokens, num=cell.num_tokens, num_blocks=None)
        per_loss.setdefault(cell.objective, set()).add((cell.set_name, cell.learning_rate))
    assert set(per_loss) == set(ALL_METHODS.values()) and len({frozenset(each) for each in per_loss.values()}) == 1
    rates = {rate for _, rate in per_loss["two_term"]}
    assert FitConfig().learning_rate in rates and min(rates) < FitConfig().learning_rate, "the shipped rate, and below"


def test_cells_give_every_arm_a_row_per_split_on_images_of_their_own() -> None:
    cells = study_cells(SMALL, chosen=CHOSEN)
    rows = made_up_rows(cells, {})
    for split in ("validation", "test"):
        for arm in ARMS.values():
            assert len(arm.select(rows[rows["split"] == split], tokens=SHIPPED_TOKENS)) == SMALL.num_repetitions
    assert {cell.tokens for cell in cells if cell.objective} == {SHIPPED_TOKENS}
    seeds = {cell.seed for cell in cells}
    assert not seeds & {seed for _, seed in Study(num_repetitions=6).repetitions} | seeds & {SELECTION_SEED}
    names = [cell.digest_of(asdict(Sizes())) for cell in cells]
    assert len(set(names)) == len(names)


def test_one_learning_rate_leaves_no_choice(tmp_path: Path) -> None:
    study = replace(SMALL, learning_rates=(0.002,))
    assert selection_cells(study) == [] and selection_cells(SMALL)
    only = chosen_settings(study, [])
    assert set(only) == set(study.tunings)
    cells = [cell for cell in study_cells(study, chosen=only) if cell.objective]
    assert {(cell.learning_rate, cell.num_tokens) for cell in cells} == {(0.002, 2)}
    rows = made_up_rows(study_cells(study, chosen=only), {})
    page = results.write_results_page(rows, grid=pd.DataFrame(), folder=tmp_path, study=study)
    assert "Nothing was chosen: every method has the learning rate 0.002" in page.read_text(encoding="utf-8")


def test_methods_are_measured_one_after_the_other() -> None:
    cells = study_cells(SMALL, chosen=CHOSEN)
    decodings = [cell.decoding for cell in cells]
    assert list(dict.fromkeys(decodings)) == list(ALL_METHODS)
    assert decodings == sorted(decodings, key=list(ALL_METHODS).index), "a part of the study has whole methods"


def test_it_is_asked_alone() -> None:
    with pytest.raises(ValueError, match="the question shipped has its own grid, CSV and page: ask it alone"):
        Study(questions=("methods", "shipped"))


def test_a_role_and_a_rate_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no demo-huge in the world demo: choose among demo-small, demo-main"):
        ablate.run(AblateConfig(output=str(tmp_path / "study"), questions=("shipped",), roles=("huge",)))
    assert not (tmp_path / "study").exists()
    with pytest.raises(ValueError, match=r"learning_rates must be positive, got 0\.0"):
        AblateConfig(learning_rates=(0.001, 0.0))


def test_the_best_validation_rr_ships_whatever_the_test_rows_say() -> None:
    rows = rows_with(joint=(0.35, 0.5, 0.6), pooled=(0.36, 0.5, 0.6))
    assert winner(rows) == "pooled, tuned"
    test_rr = rows[rows["split"] == "test"].groupby("decoding_judged")["rr"].mean()
    assert test_rr["pooled"] < test_rr["pairs"], "though it is the worst there"
    assert next(iter(validation_scores(rows))) == "pooled, tuned"
    table = rule_table(rows)
    assert table is not None and table.title.endswith("By the rule: pooled, tuned")
    first, joint = table.rows[0], next(row for row in table.rows if row[0] == DEFAULT)
    assert first[:5] == ("pooled, tuned", "37.0", "51.0", "61.0", "+1.0 ± 0.0") and joint[4:] == ("", "", "")


@pytest.mark.parametrize("worse", [(0.36, 0.49, 0.6), (0.36, 0.5, 0.59)])
def test_an_arm_that_pays_with_accuracy_or_visible_rr_does_not_ship(worse: tuple[float, ...]) -> None:
    assert winner(rows_with(joint=(0.35, 0.5, 0.6), pooled=worse)) == DEFAULT
    next_one = rows_with(joint=(0.35, 0.5, 0.6), pooled=worse, pairs=(0.355, 0.5, 0.6))
    assert winner(next_one) == "pairs, tuned"


def test_a_loss_within_one_standard_error_is_allowed() -> None:
    rows = rows_with(joint=(0.35, 0.5, 0.6), pooled=(0.36, 0.5, 0.59))
    is_noisy = (rows["objective"] == "three_term") & (rows["decoding_judged"] == "pooled")
    is_first = rows["seed"] == SMALL.first_seed
    rows.loc[is_noisy & is_first, "accuracy"] += 0.05  # differences from joint of +4 and −6 points: −1 ± 5
    rows.loc[is_noisy & ~is_first, "accuracy"] -= 0.05
    assert validation_scores(rows)["pooled, tuned"].errors["accuracy"] == pytest.approx(0.05)
    assert winner(rows) == "pooled, tuned"


def test_arms_within_one_standard_error_of_the_best_rr_are_tied_and_accuracy_decides() -> None:
    rows = rows_with(joint=(0.3, 0.5, 0.6), pooled=(0.36, 0.5, 0.6), pairs=(0.355, 0.5, 0.62))
    assert winner(rows) == "pooled, tuned", "half a point without noise is a lead"
    is_pairs = (rows["objective"] == "pairs") & (rows["decoding_judged"] == "pairs")
    is_first = rows["seed"] == SMALL.first_seed
    rows.loc[is_pairs & is_first, "rr"] += 0.01
    rows.loc[is_pairs & ~is_first, "rr"] -= 0.01
    assert next(iter(validation_scores(rows))) == "pooled, tuned"
    assert winner(rows) == "pairs, tuned"
    rows.loc[is_pairs, "accuracy"] -= 0.03
    assert winner(rows) == "pooled, tuned"


def test_claims_are_of_test_rows_and_stand_beside_those_of_text_tokens() -> None:
    rows = rows_with(joint=(0.3, 0.3, 0.3), pooled=(0.2, 0.2, 0.35))  # on test images 0.3 and 0.4, 0.4, 0.25
    visual = MeasuredStudy(study=SMALL, rows=rows)
    table = claims_table([visual])
    assert table is not None
    verdicts = {row[0]: row[1:] for row in table.rows}
    pooled = verdicts["pooled beats joint, each tuned with its own loss"]
    assert pooled == ("+10.0 ± 0.0, yes", "+10.0 ± 0.0, yes", "-5.0 ± 0.0, no, the opposite")
    without = rows[(rows["objective"] != "three_term") & (rows["decoding_judged"] != "pooled")]
    text = without.assign(tokens=np.where(without["tokens"] == SHIPPED_TOKENS, "text", without["tokens"]))
    beside = claims_table([MeasuredStudy(study=Study(roles=("small",)), rows=text), visual])
    assert beside is not None and beside.header[1:3] == ("RR, points: text tokens", "RR, points: visual tokens")
    found = {row[0]: row[1:3] for row in beside.rows}
    assert found["joint beats the inverted order, each tuned with its own loss"] == ("+0.0 ± 0.0, not shown",) * 2
    assert found["pooled beats joint, each tuned with its own loss"] == ("not asked", "+10.0 ± 0.0, yes")


def test_the_page_says_the_rule_before_it_says_what_ships(tmp_path: Path) -> None:
    rows = rows_with(joint=(0.35, 0.5, 0.6), pooled=(0.36, 0.5, 0.6))
    grid = made_up_rows(selection_cells(SMALL), {})
    path = results.write_results_page(rows, grid=grid, folder=tmp_path, study=SMALL)
    page = path.read_text(encoding="utf-8")
    assert path.name == "shipped.md" and (tmp_path / "results-shipped.png").is_file()
    told = " ".join(page.split())
    assert told.index(RULE) < told.index("By the rule: pooled, tuned") < told.index("## 1. Every method")
    assert "at the shipped settings" in page and "`ecor ablate --questions shipped`" in page and "shipped.csv" in page


def test_one_cpu_measures_in_this_process_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def stand_in(cell: Cell, *, root: Path, clip: BackboneConfig, sizes: Sizes) -> list[dict]:
        measured.append(cell)
        rows = made_up_rows([cell], {}).to_dict("records")
        return [{**row, "cell": cell.digest_of(asdict(sizes))} for row in rows]

    monkeypatch.setattr(ablate, "run_cell", stand_in)
    monkeypatch.setattr(ablate, "connect", None)  # no cluster is started
    config = AblateConfig(output=str(tmp_path), questions=("shipped",), roles=("small",), num_pretrainings=1)
    one = ClusterConfig(num_cpus=1)
    ablate.run(replace(config, num_repetitions=1), cluster=one)
    first = len(measured)
    assert {cell.set_name for cell in measured if cell.seed != SELECTION_SEED} == {"demo-small"}
    assert first == len(selection_cells(SHIPPED)) + 2 * len(ALL_METHODS)
    page = ablate.run(replace(config, num_repetitions=2), cluster=one)
    assert len(measured) == first + 2 * len(ALL_METHODS), "the second repetition alone"
    rows = pd.read_csv(tmp_path / "shipped.csv")
    assert set(rows.loc[rows["seed"] != SELECTION_SEED, "set_name"]) == {"demo-small"}
    assert set(rows["seed"]) == {SELECTION_SEED, 7000, 7001}
    assert "not finished" not in page.read_text(encoding="utf-8")
    shorter = rows.iloc[:-1]
    shorter.to_csv(tmp_path / "shipped.csv", index=False)
    page = ablate.run(replace(config, num_repetitions=2, only_page=True), cluster=one)
    assert "1 of 48 rows are still to be measured" in page.read_text(encoding="utf-8")
