"""The study asks fairly: equal effort, no test image in a choice, every cell once; its page says what its rows say.

Covers: `pipelines.studies.ablation.cell`, `pipelines.studies.ablation.factors`, `pipelines.studies.ablation.figures`,
`pipelines.studies.ablation.grid`, `pipelines.studies.ablation.results.claims`,
`pipelines.studies.ablation.results.arms`, `pipelines.studies.ablation.results.dependence`,
`pipelines.studies.ablation.results.page`,
`pipelines.studies.ablation.results.plots`, `pipelines.studies.ablation.results.questions`,
`pipelines.studies.ablation.results.tables`, `pipelines.studies.ablation.results.vocabulary_questions`,
`pipelines.studies.ablation.run`, `pipelines.studies.ablation.selection`, `pipelines.studies.ablation.study_cells`,
`pipelines.studies.drawn_splits`.
"""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from ecor.clip.feature_types import ImageFeatures
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import FitConfig
from ecor.demo.worlds.registry import WORLDS, all_sets
from ecor.evaluation.confidence_intervals import mean_over_repetitions
from ecor.model import Recognizer
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.studies import AblateConfig
from pipelines.config.training import PretrainConfig
from pipelines.runtime.cluster import connect
from pipelines.studies.ablation import run as ablate
from pipelines.studies.ablation.cell import prompt_config, run_cell
from pipelines.studies.ablation.factors import factor_metrics
from pipelines.studies.ablation.figures import FIGURES, LabelledImages, row_metrics, set_metrics
from pipelines.studies.ablation.grid import (
    DECODING_OF,
    FIRST_SEED,
    LOSS_OF_METHOD,
    QUESTIONS,
    SELECTION_SEED,
    Cell,
    Judgement,
    Study,
)
from pipelines.studies.ablation.results import page as results
from pipelines.studies.ablation.results.claims import MeasuredStudy, claims_table
from pipelines.studies.ablation.results.dependence import FACTOR_FIGURES
from pipelines.studies.ablation.selection import (
    ChosenSettings,
    best_settings,
    default_settings,
    one_standard_error_settings,
)
from pipelines.studies.ablation.study_cells import selection_cells, study_cells
from pipelines.studies.drawn_splits import Sizes, draw_world, locate_world
from tests.support.tiny_models import tiny_recognizer

ROOT = Path(__file__).resolve().parents[3]
TINY = Sizes(
    train_per_category=4,
    least_train=40,
    num_validation=30,
    num_test=40,
    num_epochs=1,
    batch_size=20,
    max_sentences_per_step=200,
)
ALL = tuple(question for question in QUESTIONS if question != "shipped")
CHOSEN = {method: ChosenSettings(learning_rate=0.004, num_tokens=2) for method in Study(questions=ALL).tunings}


GOLDEN = {
    "rr": [0.05, 0.15, 0.225, 0.075],
    "accuracy": [0.1, 0.15, 0.625, 0.2],
    "visible_rr": [0.075, 0.15, 0.45, 0.05],
}
"""Of the tiny cell below: joint and oracle on its own set, on another set, and with a long sentence of two."""


def known(num: int = 30, *, num_rationales: int = 5) -> LabelledImages:
    """Images of random features; each shows its labelled rationale and some others."""
    generator = torch.Generator().manual_seed(1)
    features = functional.normalize(torch.randn(num, 32, generator=generator), dim=1)
    rationales = torch.randint(num_rationales, (num,), generator=generator)
    visible = torch.rand(num, num_rationales, generator=generator) < 0.3
    visible[torch.arange(num), rationales] = True
    return LabelledImages(
        features=ImageFeatures(rationale=features, category=features),
        categories=torch.randint(3, (num,), generator=generator),
        rationales=rationales,
        visible=visible,
        num_things=1 + (torch.rand(num, generator=generator) < 0.5).long(),
    )


@pytest.mark.parametrize("decoding", ["joint", "inverted", "independent", "pairs", "pooled", "oracle", "random"])
def test_figures_are_shares_that_fit_together(tmp_path: Path, decoding: str) -> None:
    found = row_metrics(tiny_recognizer(tmp_path), known(), decoding=decoding)
    assert set(found) <= set(FIGURES.values())
    assert found["rr"] + found["rw"] + found["wr"] + found["ww"] == pytest.approx(1)
    assert found["rr"] + found["rw"] == pytest.approx(found["accuracy"])
    assert found["rr"] <= found["visible_rr"] <= min(found["accuracy"], found["visible"]) + 1e-9
    if decoding == "oracle":
        assert (found["rr"], found["wr"]) == (pytest.approx(found["accuracy"]), pytest.approx(1 - found["accuracy"]))


def test_sets_of_one_are_the_joint(tmp_path: Path) -> None:
    recognizer, images = tiny_recognizer(tmp_path), known()
    one = set_metrics(recognizer, images, size=1, rule="mixture")
    joint = row_metrics(recognizer, images, decoding="joint")
    assert one == pytest.approx({name: joint[name] for name in one})
    assert one == pytest.approx(set_metrics(recognizer, images, size=1, rule="sentence"))
    larger = set_metrics(recognizer, images, size=2, rule="sentence")
    assert larger["visible_rr"] <= larger["accuracy"]


def test_factors_depend_on_each_other_only_where_the_reason_changes_the_category(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, images = tiny_recognizer(tmp_path), known()
    found = factor_metrics(recognizer, images)
    assert found["dependence"] == pytest.approx(found["entropy"] - found["entropy_given"], abs=1e-5)
    assert found["dependence"] > 1e-6
    joint = recognizer.joint(images.features, scoring=ScoringConfig(keep_rationales=5))
    pair = joint.log_prob.double()
    product = pair.logsumexp(dim=2, keepdim=True) + pair.logsumexp(dim=1, keepdim=True)
    information = (pair.exp() * (pair - product)).sum(dim=(1, 2)).mean()
    assert found["dependence"] == pytest.approx(float(information), abs=1e-5)
    same = recognizer.text.row(0)
    deaf = SimpleNamespace(
        rationales=recognizer.text.rationales,
        categories=recognizer.text.categories,
        row=lambda rationale: same,
        column=lambda category: same,
    )
    monkeypatch.setattr(Recognizer, "text", deaf)
    ignoring = factor_metrics(recognizer, images)
    assert ignoring["dependence"] == pytest.approx(0, abs=1e-5)
    assert ignoring["true_given_visible"] == pytest.approx(ignoring["true_given_hidden"], abs=1e-5)


def test_every_method_is_chosen_with_equal_effort_and_never_on_test_images() -> None:
    study = Study(questions=ALL)
    cells = selection_cells(study)
    per_method: dict[tuple, list] = {}
    for cell in cells:
        assert cell.seed == SELECTION_SEED
        assert {judgement.split for judgement in cell.judgements} == {"validation"}
        assert {judgement.decoding for judgement in cell.judgements} == {DECODING_OF[cell.objective]}
        tried = (cell.set_name, cell.learning_rate, cell.num_tokens)
        per_method.setdefault((cell.objective, cell.tokens), []).append(tried)
    assert set(per_method) == set(study.tunings)
    assert len({tuple(sorted(tried)) for tried in per_method.values()}) == 1


def test_cells_use_fresh_seeds_and_are_there_once() -> None:
    study = Study()
    cells = study_cells(study, chosen=CHOSEN)
    names = [cell.digest_of(asdict(Sizes())) for cell in cells]
    assert len(set(names)) == len(names)
    assert min(cell.seed for cell in cells) == FIRST_SEED
    repetitions = {(cell.pretraining_seed, cell.seed) for cell in cells}
    assert repetitions == set(study.repetitions) and len(repetitions) >= 5
    assert len({pretraining for pretraining, _ in repetitions}) >= 3
    per_repetition = {
        repetition: sorted(
            str(replace(cell, pretraining_seed=0, seed=0))
            for cell in cells
            if (cell.pretraining_seed, cell.seed) == repetition
        )
        for repetition in repetitions
    }
    assert len({tuple(found) for found in per_repetition.values()}) == 1


def test_settings_with_the_best_mean_over_sets_win_and_ties_go_to_less() -> None:
    grid = {(0.1, 2): (0.5, 0.25), (0.2, 2): (0.375, 0.375), (0.05, 4): (0.25, 0.5), (0.05, 2): (0.25, 0.5)}
    rows = [
        {"objective": "pairs", "tokens": "text", "learning_rate": rate, "num_tokens": num, "rr": rr}
        for (rate, num), scores in grid.items()
        for rr in scores
    ]
    assert best_settings(rows) == {("pairs", "text"): ChosenSettings(learning_rate=0.05, num_tokens=2)}


def test_the_careful_choice_is_the_smallest_rate_that_is_not_clearly_worse() -> None:
    scores = {(0.1, 6): 0.30, (0.2, 6): 0.34, (0.2, 2): 0.35, (0.4, 6): 0.36, (0.8, 6): 0.33}
    rows = [
        {"objective": "pairs", "tokens": "text", "learning_rate": rate, "num_tokens": num, "rr": rr, "num_images": 300}
        for (rate, num), rr in scores.items()
        for _ in range(2)
    ]  # one standard error of 0.36 on 600 images: 0.0196
    assert one_standard_error_settings(rows) == {("pairs", "text"): ChosenSettings(learning_rate=0.2, num_tokens=2)}


def test_the_shipped_defaults_are_the_studys_careful_choice() -> None:
    rows = pd.read_csv(ROOT / "docs" / "results.csv")
    tokens, chosen = default_settings(rows[rows["seed"] == SELECTION_SEED].to_dict("records"))
    assert PromptConfig() == prompt_config(tokens, num=chosen.num_tokens, num_blocks=None)
    assert FitConfig().learning_rate == chosen.learning_rate


def test_an_unknown_question_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no question color: choose among methods, crossed"):
        Study(questions=("color",))


def test_a_world_is_the_same_for_all_and_its_shards_hold_its_truth(tmp_path: Path) -> None:
    world = locate_world(tmp_path, set_name="demo-large", num_categories=4, seed=3, sizes=TINY)
    draw_world(world)
    before = {path: path.stat().st_mtime_ns for path in world.folder.rglob("*") if path.suffix in (".npz", ".tar")}
    draw_world(world)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with np.load(world.truth("test")) as truth:
        assert truth["pixels"].shape == (40, 3, 64, 64)
        assert truth["visible"][np.arange(40), truth["rationales"]].all()
        assert set(truth["categories"]) == set(range(4))
    larger = locate_world(tmp_path, set_name="demo-large", num_categories=9, seed=3, sizes=TINY)
    assert set(world.categories) < set(larger.categories)


@pytest.mark.slow
def test_a_cell_gives_a_row_per_judgement_and_the_same_figures_again(tmp_path: Path) -> None:
    judgements = (
        Judgement(decoding="joint", test_set="demo-new-names"),
        Judgement(decoding="oracle", test_set="demo-new-names"),
        Judgement(test_set="demo-small"),
        Judgement(test_set="demo-new-names", set_size=2, set_rule="sentence"),
    )
    cell = Cell(
        pretraining_seed=0,
        seed=5,
        set_name="demo-new-names",
        objective="two_term",
        num_tokens=1,
        learning_rate=0.01,
        judgements=judgements,
    )
    threads = torch.get_num_threads()
    try:
        rows = run_cell(cell, root=tmp_path, clip=BackboneConfig(), sizes=TINY)
        again = run_cell(cell, root=tmp_path, clip=BackboneConfig(), sizes=TINY)
    finally:
        torch.set_num_threads(threads)
    timed = ("tuning_s", "seconds_per_epoch")
    assert [{k: v for k, v in row.items() if k not in timed} for row in rows] == [
        {k: v for k, v in row.items() if k not in timed} for row in again
    ]
    assert [(row["test_set"], row["decoding_judged"], row["set_size"]) for row in rows] == [
        (each.test_set, each.decoding, each.set_size) for each in judgements
    ]
    assert all(row["num_images"] == 40 and row["num_categories"] == 10 for row in rows)
    assert rows[0]["num_steps"] == 2
    shares = {name: [row.get(name) for row in rows] for name in GOLDEN}
    for name, golden in GOLDEN.items():
        assert shares[name] == pytest.approx(golden, abs=1.5 / 40), name  # another machine may see one image otherwise
    assert rows[0]["dependence"] == pytest.approx(0.020989, rel=0.05)


def made_up_rows(cells: list[Cell]) -> pd.DataFrame:
    """Figures that tell their arm: joint decoding is better by ten points, tuning by five."""
    rows = []
    for cell in cells:
        for judgement in cell.judgements:
            base = 0.3 + 0.1 * (judgement.decoding == "joint") + 0.05 * (cell.objective is not None)
            rr = base + (0.01 if cell.seed == FIRST_SEED else -0.01)
            told = {name: value for name, value in asdict(cell).items() if name != "judgements"}
            judged = {name: value for name, value in asdict(judgement).items() if name != "decoding"}
            figures_ = dict.fromkeys(["rr", "visible_rr", "accuracy"], rr)
            parts = {f"{name}_{number}": rr for name in figures_ for number in ("one", "two")}
            why = dict.fromkeys(FACTOR_FIGURES, 0.1) if judgement.decoding == "joint" else {}
            size = cell.num_categories or len(all_sets()[cell.set_name].categories)
            rows.append(
                {**told, **judged, **figures_, **parts, **why}
                | {"cell": cell.digest_of(asdict(Sizes())), "judgement": judgement.name}
                | {"decoding_judged": judgement.decoding, "num_images": 600, "tuning_s": 3.0, "num_categories": size}
                | {"wording": cell.wording or 0, "wording_is_chosen": cell.wording is None}
            )
    return pd.DataFrame(rows)


def two_repetitions(world: str = "demo") -> tuple[Study, pd.DataFrame, pd.DataFrame]:
    study = Study(world=world, questions=ALL, num_repetitions=2, num_pretrainings=1)
    return study, made_up_rows(study_cells(study, chosen=CHOSEN)), made_up_rows(selection_cells(study))


@pytest.mark.slow
def test_the_page_answers_every_question_from_the_rows_alone(tmp_path: Path) -> None:
    study, rows, grid = two_repetitions()
    (tmp_path / "results-words.md").write_text("What a reader thought.")
    page = results.write_results_page(rows, grid=grid, folder=tmp_path, study=study).read_text(encoding="utf-8")
    assert QUESTIONS["shipped"][1:] not in page, "it has a page of its own"
    for question, title in QUESTIONS.items() - {("shipped", QUESTIONS["shipped"])}:
        assert title[1:] in page
        assert (tmp_path / f"results-{question}.png").stat().st_size > 5_000
    line = next(line for line in page.splitlines() if line.startswith("| joint, tuned"))
    assert line.count("45.0 ± 12.7") == len(study.sets) + 1  # t(1, 0.975) · 0.01
    other = next(line for line in page.splitlines() if line.startswith("| pairs, tuned"))
    assert other.endswith("| -10.0 ± 0.0 |")  # within repetitions the difference never varies
    assert "What a reader thought." in page and "not finished" not in page


@pytest.mark.parametrize("world", WORLDS)
def test_claims_are_judged_by_their_intervals(world: str) -> None:
    study, rows, _ = two_repetitions(world)
    table = claims_table([MeasuredStudy(study=study, rows=rows)])
    assert table is not None
    verdicts = {claim: rr for claim, rr, _, _ in table.rows}
    assert verdicts["joint beats the inverted order, each tuned with its own loss"] == "+10.0 ± 0.0, yes"
    assert verdicts["tuned prompts beat the best hand-written wording"] == "+5.0 ± 0.0, yes"
    growth = verdicts["the lead of joint over independent factors grows with the vocabulary"]
    assert growth == "+0.0 ± 0.0, not shown"
    worse = rows.assign(rr=np.where(rows["decoding_judged"] == "joint", rows["rr"] - 0.3, rows["rr"]))
    reversed_ = claims_table([MeasuredStudy(study=study, rows=worse)])
    assert reversed_ is not None and reversed_.rows[0][1] == "-20.0 ± 0.0, no, the opposite"


def test_transfer_is_compared_with_the_whole_set_without_tuning() -> None:
    study, rows, _ = two_repetitions()
    is_part = rows["num_categories"] < rows["set_name"].map(lambda name: len(all_sets()[name].categories))
    easy = rows.assign(rr=np.where(is_part, 0.9, rows["rr"]))  # fewer categories are easier
    table = claims_table([MeasuredStudy(study=study, rows=easy)])
    assert table is not None and is_part.any()
    verdicts = {claim: rr for claim, rr, _, _ in table.rows}
    assert verdicts["prompts tuned on one set help on another (zero-shot transfer), joint"] == "+5.0 ± 0.0, yes"


@pytest.mark.slow
def test_a_page_shows_the_rows_that_are_asked_for_and_no_others(tmp_path: Path) -> None:
    study, _, grid = two_repetitions()
    chosen = best_settings(grid.to_dict("records"))
    asked = made_up_rows(study_cells(study, chosen=chosen))
    other = asked.assign(cell="of other sizes", rr=0.99, visible_rr=0.99, accuracy=0.99)
    config = AblateConfig(output=str(tmp_path), only_page=True, num_repetitions=2, num_pretrainings=1, questions=ALL)
    with pytest.raises(ValueError, match="does not hold this study's choice of settings yet: run the same command"):
        ablate.run(config)
    pd.concat([grid, other, asked.iloc[:-7]]).to_csv(tmp_path / "results.csv", index=False)
    page = ablate.run(config).read_text(encoding="utf-8")
    assert "99.0" not in page
    assert f"7 of {len(asked)} rows are still to be measured" in page


def test_only_the_first_world_s_first_clip_comes_with_the_package(tmp_path: Path) -> None:
    def made(seed: int, **settings) -> PretrainConfig | None:
        return ablate.pretraining_config(
            seed, work=tmp_path, config=AblateConfig(pretraining_samples=7_000, **settings)
        )

    assert made(0) is None
    first, others = made(1), [made(seed, world="other") for seed in (0, 1)]
    assert (first.world, first.seed, first.output) == ("demo", 1, str(tmp_path / "clips" / "1"))
    assert [(each.world, each.seed, each.num_samples) for each in others] == [("other", 0, 7_000), ("other", 1, 7_000)]
    quick = made(0, world="other", quick=True)
    assert len({each.output for each in (first, quick, *others)}) == 4
    assert quick.num_samples < 7_000


def test_intervals_are_students() -> None:
    found = mean_over_repetitions(np.array([1.0, 2.0, 4.0]))
    assert (found.value, found.num_repetitions) == (pytest.approx(7 / 3), 3)
    assert found.half_width == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / 3**0.5, rel=1e-6)
    assert np.isnan(mean_over_repetitions(np.array([1.0])).half_width)
    with pytest.raises(ValueError, match="number of repetitions must be at least 1"):
        mean_over_repetitions(np.array([]))


@pytest.mark.slow
def test_the_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "QUICK_SIZES", TINY)
    small = replace(ablate.QUICK, roles=("new-names",), num_repetitions=1, selection_roles=("new-names",))
    monkeypatch.setattr(ablate, "QUICK", small)
    config = AblateConfig(output=str(tmp_path), quick=True, questions=("methods",))
    with connect(ClusterConfig(num_cpus=2)):
        page = ablate.run(config)
        rows = pd.read_csv(tmp_path / "results.csv")
        assert set(rows.loc[rows["objective"].notna(), "objective"]) == set(LOSS_OF_METHOD.values())
        kept = rows.drop(rows[rows["cell"] == rows["cell"].iloc[-1]].index[-1:])  # a judgement, and a cell
        kept = kept[kept["cell"] != kept["cell"].iloc[0]]
        kept.to_csv(tmp_path / "results.csv", index=False)
        page.unlink()
        ablate.run(config)
    again = pd.read_csv(tmp_path / "results.csv")
    timed = ["tuning_s", "seconds_per_epoch"]
    by = ["cell", "decoding_judged"]  # rows stand in the order in which their cells ended
    again, rows = (each.drop(columns=timed).sort_values(by, ignore_index=True) for each in (again, rows))
    pd.testing.assert_frame_equal(again, rows)
    assert page.is_file()
