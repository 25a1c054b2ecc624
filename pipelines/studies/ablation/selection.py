"""Choose learning rate and number of tokens per method from the validation rows of the grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.studies.ablation.grid import SHIPPED_LEARNING_RATE, Study

Setting = TypeVar("Setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenSettings:
    """Settings chosen on validation images for one objective and kind of tokens."""

    learning_rate: float
    num_tokens: int


def best_settings(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], ChosenSettings]:
    """Choose the settings with the best mean RR over sets, per objective and kind of tokens.

    `rows` are those of `study_cells.selection_cells`. Among equals, the smaller learning rate wins, then fewer tokens.
    """
    return {
        method: min(scores, key=lambda each: (-scores[each], each.learning_rate, each.num_tokens))
        for method, scores in _mean_rr(rows).items()
    }


def chosen_settings(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], ChosenSettings]:
    """Choose the settings of every method of a study; a grid of one setting leaves no choice, and needs no rows.

    The question `shipped` keeps the shipped learning rate unless the best one is better by more than one standard
    error; the same rule holds for every method.

    Args:
        study: the study.
        rows: as for `best_settings`.
    """
    if study.has_choice:
        return _shipped_unless_better(rows) if study.name == "shipped" else best_settings(rows)
    only = ChosenSettings(learning_rate=study.learning_rates[0], num_tokens=study.num_tokens[0])
    return dict.fromkeys(study.tunings, only)


def one_standard_error_settings(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], ChosenSettings]:
    """Choose the smallest learning rate, then the fewest tokens, within one standard error of the best settings.

    This is the one-standard-error rule (Breiman et al., 1984), with the binomial error over the images of the best
    settings. A smaller rate is safer for a model that this study has not seen.
    """
    return {
        method: min(near, key=lambda each: (each.learning_rate, each.num_tokens))
        for method, near in _near_best(rows).items()
    }


def default_settings(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ChosenSettings]:
    """Choose the default kind of tokens and settings, by the one-standard-error rule for the two-term loss."""
    ours = [row for row in rows if row["objective"] == "two_term"]
    scores = {
        (tokens, settings): score for (_, tokens), found in _mean_rr(ours).items() for settings, score in found.items()
    }
    near = _within_standard_error(scores, num_images=sum(int(row["num_images"]) for row in ours) / len(scores))
    return min(near, key=lambda each: (each[1].learning_rate, each[1].num_tokens, each[0]))


def _shipped_unless_better(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], ChosenSettings]:
    best = best_settings(rows)
    shipped = {
        method: settings
        for method, near in _near_best(rows).items()
        for settings in near
        if settings.learning_rate == SHIPPED_LEARNING_RATE
    }
    return best | shipped


def _near_best(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[ChosenSettings]]:
    """The settings within one standard error of the best ones, by objective and kind of tokens."""
    found = {}
    for method, scores in _mean_rr(rows).items():
        judged = [row for row in rows if (row["objective"], row["tokens"]) == method]
        num_images = sum(int(row["num_images"]) for row in judged) / len(scores)
        found[method] = _within_standard_error(scores, num_images=num_images)
    return found


def _within_standard_error(scores: Mapping[Setting, float], *, num_images: float) -> list[Setting]:
    """The settings within one standard error of the best share, measured on `num_images` images."""
    best = max(scores.values())
    enough = best - math.sqrt(best * (1 - best) / num_images)
    return [setting for setting, score in scores.items() if score >= enough]


def _mean_rr(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[ChosenSettings, float]]:
    """Mean RR over sets of each setting, by objective and kind of tokens."""
    scores: dict[tuple[str, str], dict[ChosenSettings, list[float]]] = {}
    for row in rows:
        settings = ChosenSettings(learning_rate=float(row["learning_rate"]), num_tokens=int(row["num_tokens"]))
        of_method = scores.setdefault((row["objective"], row["tokens"]), {})
        of_method.setdefault(settings, []).append(float(row["rr"]))
    return {
        method: {settings: sum(values) / len(values) for settings, values in found.items()}
        for method, found in scores.items()
    }
