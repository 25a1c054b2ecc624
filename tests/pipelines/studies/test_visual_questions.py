"""Questions on names and images with visual tokens: their cells, the choice of the learning rate, their page.

Covers: `pipelines.studies.ablation.results.settings`.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.studies.ablation.grid import SHIPPED, WITH_SHIPPED
from pipelines.studies.ablation.results import page as results
from pipelines.studies.ablation.results.settings import describe_settings
from pipelines.studies.ablation.selection import chosen_settings
from pipelines.studies.ablation.study_cells import selection_cells, study_cells
from pipelines.studies.drawn_splits import Sizes
from tests.support.shipped_rows import CHOSEN, SMALL, made_up_rows

WIDE = replace(SMALL, questions=("shipped", *WITH_SHIPPED), num_wide_repetitions=1)


def test_transfer_adds_judgements_to_tunings_and_growth_adds_cells() -> None:
    base, wide = study_cells(SMALL, chosen=CHOSEN), study_cells(WIDE, chosen=CHOSEN)
    names = [cell.digest_of(asdict(Sizes())) for cell in wide]
    assert len(set(names)) == len(names)
    assert {cell.digest_of(asdict(Sizes())) for cell in base} <= set(names), "rows of the question alone stay valid"
    elsewhere = [cell for cell in wide if any(each.test_set != cell.set_name for each in cell.judgements)]
    assert {(cell.seed, cell.objective) for cell in elsewhere} == {(7000, "two_term"), (7000, "three_term")}
    for cell in elsewhere:
        judged = {each.test_set: each.decoding for each in cell.judgements if each.test_set != cell.set_name}
        assert judged == dict.fromkeys(set(WIDE.target_sets) - {cell.set_name}, cell.decoding)
    growing = [cell for cell in wide if cell.num_categories]
    assert {(cell.num_categories, cell.decoding) for cell in growing if cell.objective} == {
        (size, method) for size in (5, 10, 20, 40) for method in WIDE.methods
    }
    assert {cell.set_name for cell in growing} == {"demo-large"} and {cell.seed for cell in growing} == {7000}


def test_crossed_decodes_the_tokens_of_each_loss_in_every_way_once() -> None:
    cells = study_cells(replace(SMALL, questions=("shipped", "crossed")), chosen=CHOSEN)
    for cell in cells:
        on_test = [each.decoding for each in cell.judgements if each.split == "test"]
        assert sorted(on_test) == (sorted(SMALL.methods) if cell.objective else [cell.decoding])
    assert len(cells) == len(study_cells(SMALL, chosen=CHOSEN))


@pytest.mark.parametrize(("rr_below", "chosen"), [(0.325, 0.001), (0.334, 0.0005)])
def test_the_shipped_rate_stays_unless_another_is_clearly_better(rr_below: float, chosen: float) -> None:
    grid = made_up_rows(selection_cells(SHIPPED), {})  # one standard error of 0.32 on 1,200 images: 0.013
    grid = grid.assign(rr=np.where(grid["learning_rate"] == 0.0005, rr_below, 0.315))
    assert {each.learning_rate for each in chosen_settings(SHIPPED, grid.to_dict("records")).values()} == {chosen}
    words = describe_settings(grid, study=SHIPPED)
    assert f"| two_term | RR | 31.5 | {100 * rr_below:.1f} | 31.5 | {chosen:g} |" in words


@pytest.mark.slow
def test_the_page_answers_transfer_growth_and_objects_beside_the_text_study(tmp_path: Path) -> None:
    study = replace(WIDE, num_wide_repetitions=2)
    rows = made_up_rows(study_cells(study, chosen=CHOSEN), {("two_term", "joint", "test"): (0.4, 0.4, 0.4)})
    grid = made_up_rows(selection_cells(study), {})
    (tmp_path / "results-growth.png").write_text("of the study with text tokens")
    page = results.write_results_page(rows, grid=grid, folder=tmp_path, study=study).read_text(encoding="utf-8")
    for question in WITH_SHIPPED:
        assert f"results-shipped-{question}.png" in page and (tmp_path / f"results-shipped-{question}.png").is_file()
    assert (tmp_path / "results-growth.png").read_text() == "of the study with text tokens"
    assert "`ecor ablate --questions shipped crossed transfer growth objects`" in page
    gain = "prompts tuned on one set help on another (zero-shot transfer), joint | +10.0 ± 0.0, yes"
    assert gain in page and "transfer), pooled | +0.0 ± 0.0, not shown" in page
    assert "the lead of joint over independent factors grows with the vocabulary | +0.0 ± 0.0, not shown" in page
    assert page.count("| joint, tuned on demo-small |") == 3 and "| pooled, zero-shot |" in page
