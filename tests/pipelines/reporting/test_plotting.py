"""Plots take any name: dollar signs are no formulas, and characters without a glyph make no flood of warnings."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.reporting.plotting import MAX_NAME_LENGTH, new_figure, save_figure, shorten_name


def draw(path: Path, names: list[str]) -> np.ndarray:
    """A bar per name, with the names at the ticks and in the title."""
    figure = new_figure(width=4, height=2)
    axes = figure.add_subplot()
    axes.barh(names, [1.0] * len(names))
    axes.set_title(names[0])
    save_figure(figure, path, dpi=50)
    return np.asarray(Image.open(path))


def test_dollar_signs_and_markup_are_text(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, names in enumerate((["$$", "a"], ["$1 or $2", "b"], ["$\\frac{$", "c"], ["x^{", "_y"])):
            assert draw(tmp_path / f"{number}.png", names).std() > 0


def test_what_stands_between_dollars_is_drawn_as_it_is(tmp_path: Path):
    plain = draw(tmp_path / "plain.png", ["a_1b", "z"])
    priced = draw(tmp_path / "priced.png", ["$a_1$b", "z"])
    assert plain.shape == priced.shape and (plain != priced).any()
    assert (draw(tmp_path / "again.png", ["$a_1$b", "z"]) == priced).all()


def test_characters_without_a_glyph_make_no_warning(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "han.png", ["\u732b", "\u72ac"])


def test_long_names_are_cut(tmp_path: Path):
    assert shorten_name("a" * 100) == "a" * (MAX_NAME_LENGTH - 1) + "\u2026" and shorten_name("short") == "short"
