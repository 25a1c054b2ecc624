"""The studies of ECLIP and LICO go on from the rows that are there, and their page says what the rows say.

Covers: `pipelines.studies.attribution_benchmark.classifier_figures`,
`pipelines.studies.attribution_benchmark.systems_cell`, `pipelines.studies.attribution_benchmark.systems_study`.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from ecor.evaluation.confidence_intervals import mean_over_repetitions
from ecor.storage.digests import json_digest
from pipelines.config.studies import StudiesConfig
from pipelines.studies.attribution_benchmark import systems_study
from pipelines.studies.attribution_benchmark.systems_cell import (
    ECLIP_ARMS,
    LICO_ARMS,
    QUICK,
    eclip_figures,
    lico_figures,
)
from pipelines.studies.attribution_benchmark.systems_study import QUICK_SEED, RESULTS

TINY = replace(
    QUICK,
    set_name="demo-small",
    sizes=replace(QUICK.sizes, least_train=64, num_validation=20, num_test=20, num_epochs=1),
    num_cases=6,
    num_pictures=2,
    num_masks=8,
)


def rows_of(folder: Path, *, arms: tuple[str, ...] = ECLIP_ARMS) -> pd.DataFrame:
    """Made-up rows of the quick study, as it writes them."""
    cell = json_digest(asdict(QUICK))[:16]
    rows = [
        {"cell": cell, "study": "eclip", "arm": arm, "seed": seed, "seconds": 1.0, "kind": kind}
        | {"miou": 0.1 + 0.01 * number, "msc": 2.0 * number + seed - QUICK_SEED, "pointing": 0.5}
        for seed in (QUICK_SEED, QUICK_SEED + 1)
        for number, arm in enumerate(arms)
        for kind in ("rationale", "category")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(folder / RESULTS, index=False)
    return table


def test_what_is_there_is_not_measured_again_and_the_page_tells_it(tmp_path: Path):
    rows = rows_of(tmp_path)
    page = systems_study.run(StudiesConfig(output=str(tmp_path), studies=("eclip",), quick=True)).read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / RESULTS), rows)
    assert "its figures mean nothing" in page
    (told,) = [line for line in page.splitlines() if line.startswith("| max pooling")][:1]
    expected = mean_over_repetitions(
        rows[(rows["arm"] == "max pooling") & (rows["kind"] == "rationale")]["msc"].to_numpy()
    )
    assert f"{expected.value:.1f} ± {expected.half_width:.1f}" in told
    differences = page.splitlines()[page.splitlines().index(told) + 1]
    assert differences.startswith("| … difference |  | +4.0 ± 0.0 | +8.0 ± 0.0 |"), (
        "within seeds, what they share cancels"
    )


def test_a_page_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no rows of this study"):
        systems_study.run(StudiesConfig(output=str(tmp_path), only_page=True))


@pytest.mark.slow
def test_only_missing_arms_are_measured(tmp_path: Path):
    rows_of(tmp_path, arms=tuple(arm for arm in ECLIP_ARMS if arm != "reversed ITSM"))
    systems_study.run(StudiesConfig(output=str(tmp_path), studies=("eclip",), quick=True))
    rows = pd.read_csv(tmp_path / RESULTS)
    assert len(rows) == 2 * 2 * len(ECLIP_ARMS)
    assert (rows["seconds"] != 1.0).sum() == 4 and set(rows[rows["seconds"] != 1.0]["arm"]) == {"reversed ITSM"}


@pytest.mark.slow
def test_arms_differ_where_they_should(tmp_path: Path):
    found = {
        arm: eclip_figures(arm, seed=3, effort=TINY, root=tmp_path)
        for arm in ("ITSM, plain CLIP", "reversed ITSM", "masked max pooling")
    }
    for kind in ("rationale", "category"):
        plain, reverse, trained = (found[arm][kind] for arm in found)
        assert reverse["msc"] == pytest.approx(-plain["msc"], abs=1e-4)
        assert trained["msc"] != plain["msc"] and 0 <= trained["miou"] <= 1
    again = eclip_figures("masked max pooling", seed=3, effort=TINY, root=tmp_path)
    assert again == found["masked max pooling"], "a seed decides all"
    for arm in LICO_ARMS:
        figures = lico_figures(arm, seed=3, effort=TINY, root=tmp_path)["category"]
        for name in ("grad_cam", "rise"):
            gap = figures[f"{name}_insertion"] - figures[f"{name}_deletion"]
            assert figures[f"{name}_difference"] == pytest.approx(gap)
        assert ("temperature" in figures) == (LICO_ARMS[arm].alpha > 0)
