"""Tell how learning rate and number of tokens were chosen on validation images."""

from collections.abc import Sequence

import pandas as pd

from pipelines.studies.ablation.grid import SHIPPED_LEARNING_RATE, Study
from pipelines.studies.ablation.results.tables import RR
from pipelines.studies.ablation.selection import best_settings, chosen_settings, one_standard_error_settings
from pipelines.studies.markdown import MarkdownTable

_SHIPPED_RULE = (
    f"The rule, the same for every method: the shipped learning rate, {SHIPPED_LEARNING_RATE:g}, stays unless the best "
    "one has a higher RR on validation images by more than one standard error (binomial)."
)


def describe_settings(grid: pd.DataFrame, *, study: Study) -> str:
    """Describe the choice in Markdown: its rule, and the results of the whole grid.

    Args:
        grid: rows of the cells that settings were chosen from; none if there was no choice.
        study: the study.
    """
    if not study.has_choice:
        return (
            f"Nothing was chosen: every method has the learning rate {study.learning_rates[0]:g} and "
            f"{study.num_tokens[0]} tokens."
        )
    if study.name == "shipped":
        return f"{_SHIPPED_RULE}\n\n{_rates_table(grid, study=study).markdown}"
    return _settings_table(grid).markdown


def _rates_table(grid: pd.DataFrame, *, study: Study) -> MarkdownTable:
    """Tabulate the figures of every learning rate and loss, and the rate that the rule chooses."""
    chosen = chosen_settings(study, _records(grid))
    means = grid.groupby(["objective", "learning_rate"])[list(RR)].mean()
    rates = sorted(grid["learning_rate"].unique())
    body = tuple(
        (
            objective,
            words,
            *(f"{100 * means.loc[(objective, rate), figure]:.1f}" for rate in rates),
            f"{chosen[objective, tokens].learning_rate:g}",
        )
        for objective, tokens in study.tunings
        for figure, words in RR.items()
    )
    judged = grid.groupby(["set_name", "seed"])["num_images"].first().sum()
    title = f"{judged} validation images of {', '.join(study.selection_sets)}, % by learning rate"
    return MarkdownTable(title=title, header=("loss", "", *(f"{rate:g}" for rate in rates), "chosen"), rows=body)


def _settings_table(grid: pd.DataFrame) -> MarkdownTable:
    """Tabulate the settings chosen on validation images, and the results of the whole grid."""
    means = grid.groupby(["objective", "tokens", "learning_rate", "num_tokens"])["rr"].mean()
    careful = one_standard_error_settings(_records(grid))
    body = tuple(
        (
            *method,
            f"{settings.learning_rate:g}",
            str(settings.num_tokens),
            f"{100 * means[method].min():.1f} to {100 * means[method].max():.1f}",
            f"{careful[method].learning_rate:g}, {careful[method].num_tokens}",
        )
        for method, settings in best_settings(_records(grid)).items()
    )
    header = (
        "loss",
        "tokens",
        "learning rate",
        "tokens each",
        "validation RR over the grid, %",
        "smallest rate and tokens within one standard error",
    )
    return MarkdownTable(title="Settings chosen on validation images", header=header, rows=body)


def _records(grid: pd.DataFrame) -> Sequence[dict[str, object]]:
    return grid.to_dict("records")  # type: ignore[return-value]
