"""The report shows where the evidence is, for pictures whose labels hold maps: overlays, their words and a scale."""

import io
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecor.config.scoring import ScoringConfig
from ecor.data.heatmap_codec import Evidence, quantize
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.records import ExplainablePrediction, predictions_table
from tests.pipelines.stages.test_report import HOSTILE, Outline, made, prediction, write_images
from tests.support.browser import find_chromium, open_tab


def evidence_of(row: ExplainablePrediction, *, number: int) -> Evidence:
    """A bright corner for the category, a bright cell for each rationale."""
    scores = np.zeros((3, 8, 8))
    scores[0, :4, :4], scores[1, number % 8, 2], scores[2, 5, number % 8] = 1, 1, 1
    names = [None, *(each.rationale for each in row.rationales[:2])]
    return Evidence(
        method="grad_eclip",
        category=row.category,
        input_height=64,
        input_width=64,
        resize_mode="shortest",
        maps=tuple(quantize(each, rationale=name) for each, name in zip(scores, names, strict=True)),
    )


def write_explained(folder: Path, rows: list[ExplainablePrediction]) -> None:
    """Labels of which every other row has maps."""
    explained = [replace(row, evidence=evidence_of(row, number=n)) if n % 2 == 0 else row for n, row in enumerate(rows)]
    part = write_part(str(folder), predictions_table(explained), name="0.parquet", unit="0")
    parents = PredictionParents(
        input="images", input_digest="a" * 64, model_uri="models:/fox@champion", model_name="fox", model_version="2",
        model_digest="d" * 64, vocabulary_digest="e" * 64,
    )  # fmt: skip
    write_prediction_set(str(folder), PredictionSet(parts=(part,), parents=parents, scoring=ScoringConfig()))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    rows = write_images(folder / "images", [prediction(number) for number in range(6)])
    write_explained(folder / "labels", rows)
    made(folder)
    return folder / "page" / "report.html"


def test_cards_with_maps_show_them_and_the_others_do_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    maps = [attrs for tag, attrs in outline.tags if tag == "img" and (attrs.get("alt") or "").startswith("Map of")]
    assert len(maps) == 3 * 3
    lists = [attrs for tag, attrs in outline.tags if tag == "ul" and attrs.get("class") == "evidence"]
    assert [attrs["aria-label"] for attrs in lists] == ["Where the evidence is, by grad_eclip"] * 3
    assert "Evidence by grad_eclip: least" in text and "3 of these pictures" in text
    first = maps[0]["src"] or ""
    picture = Image.open(io.BytesIO(b64decode(first.split(",")[1])))
    assert max(picture.size) <= 128 and len(first) < 8000


def test_names_in_maps_are_escaped(tmp_path: Path) -> None:
    names = {HOSTILE[0]: [HOSTILE[1], HOSTILE[3]], "owl": ["round eyes"]}
    rows = write_images(tmp_path / "images", [prediction(number, names=names) for number in range(4)])
    write_explained(tmp_path / "labels", rows)
    outline = Outline(made(tmp_path))
    assert not [attrs for _, attrs in outline.tags if any(name.startswith("on") for name in attrs)]
    assert len([tag for tag, _ in outline.tags if tag == "script"]) == 1


@pytest.mark.slow
def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_tab(tmp_path / "profile") as tab:
        tab.screen(width=1280, height=1000)
        tab.open(page)
        loaded = "[...document.querySelectorAll('.evidence img')].map(i => (i.loading = 'eager', i.decode()))"
        tab.run(f"Promise.all({loaded}).then(() => 1)")
        sizes = tab.run("[...document.querySelectorAll('.evidence img')].map(i => [i.naturalWidth, i.clientWidth])")
        assert len(sizes) == 9 and all(natural == 128 or natural == 90 for natural, _ in sizes)
        assert all(shown > 60 for _, shown in sizes)
        assert tab.run("document.querySelector('.scale span').clientWidth") > 60
        tab.screenshot(page.parent / "wide.png", whole=True)
        tab.screen(width=390, height=844, phone=True)
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert not tab.troubles() and not tab.requests()
