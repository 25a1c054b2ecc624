"""The report stage: what is drawn, what is written, and what a browser makes of it.

Covers: `pipelines.reporting.comparison`, `pipelines.reporting.embedded_image`, `pipelines.reporting.gallery`,
`pipelines.reporting.html_page`, `pipelines.reporting.page_text`.
"""

import hashlib
import io
import itertools
import json
import math
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import decode_image
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, read_prediction_set, write_prediction_set
from ecor.data.predictions.parts import read_predictions, write_part
from ecor.data.predictions.records import (
    ExplainablePrediction,
    RankedCategory,
    RankedPair,
    RankedRationale,
    predictions_table,
)
from ecor.data.samples import Sample, sample_key
from ecor.data.shard_manifest import ShardManifest
from ecor.data.shard_manifest import write_shard_manifest as write_shard_manifest
from ecor.data.shards import ShardEntry, read_index, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.record import Evaluation
from ecor.evaluation.table_evaluation import evaluate
from pipelines.config.reporting import ReportConfig
from pipelines.reporting import gallery
from pipelines.reporting.embedded_image import make_thumbnail
from pipelines.runtime.console import percent
from pipelines.stages import report
from tests.support.browser import Tab, find_chromium, open_tab
from tests.support.processes import ctrl_c_at_file

CATEGORIES = {"red fox": ["pointed ears", "a bushy tail"], "owl": ["round eyes", "feathers"], "newt": ["wet skin"]}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onmouseover='alert(3)",
    "</title></style></script><svg onload=alert(4)>",
    "{{ 7 * 7 }} {% raw %} &amp; &lt;b&gt;",
    "javascript:alert(5)//`${alert(6)}`",
    "\u202egnp.exe \u0007 שלום 漢字 🦊 e\u0301",
    "]]> <!-- -->  a\u2028b \\u003cscript\\u003e",
]


def encoded(number: int, *, size: tuple[int, int] = (90, 60), kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(sink, kind, **options)
    return sink.getvalue()


def prediction(
    number: int, *, names: dict[str, list[str]] | None = None, truth: str = "both", **changes: Any
) -> ExplainablePrediction:
    """A label made up of `number`: right and wrong ones of every kind, all probabilities between 0 and 1."""
    rng = random.Random(number)
    names = names or CATEGORIES
    categories = list(names)
    rationales = [name for group in names.values() for name in group]
    rng.shuffle(categories)
    rng.shuffle(rationales)
    prob = rng.random()
    category_true = categories[0] if number % 3 else categories[1]
    rationale_true = rationales[0] if number % 2 else rationales[1]
    pairs = [
        RankedPair(category=categories[0], rationale=name, log_prob=math.log(prob / 2**rank))
        for rank, name in enumerate(rationales[:3])
    ]
    values: dict[str, Any] = {
        "key": f"key-{number:03}",
        "source": f"images/{number:03}.png",
        "category_true": category_true if truth != "none" else None,
        "rationales_true": (rationale_true,) if truth == "both" else None,
        "visible_rationales": (rationale_true, rationales[2]) if truth == "both" and number % 5 else None,
        "category": categories[0],
        "rationale": rationales[0],
        "confidence": prob,
        "category_log_prob": math.log(prob) / 2,
        "pairs": tuple(pairs),
        "categories": tuple(RankedCategory(category=name, log_prob=math.log(prob) / 2) for name in categories[:2]),
        "rationales": tuple(RankedRationale(rationale=name, log_prob=math.log(prob)) for name in rationales[:3]),
        "two_stage_category": categories[0],
        "two_stage_rationale": rationales[0],
        "kept_mass": 0.99,
        "pairs_exact": number % 4 > 0,
        "calibrated": number % 7 > 0,
        "method": "joint",
        "model_name": "fox",
        "model_version": "2",
        "model_digest": "d" * 64,
        "vocabulary_digest": "e" * 64,
    }
    return ExplainablePrediction(**{**values, **changes})


def write_labels(
    folder: Path, rows: Sequence[ExplainablePrediction], *, num_parts: int = 2, **parents: Any
) -> PredictionSet:
    """A finished folder of labels."""
    parts = []
    for number in range(num_parts):
        table = predictions_table(rows[number::num_parts])
        parts.append(write_part(str(folder), table, name=f"part-{number}.parquet", unit=str(number)))
    values = {
        "input": "images",
        "input_digest": "a" * 64,
        "model_uri": "models:/fox@champion",
        "model_name": "fox",
        "model_version": "2",
        "model_digest": "d" * 64,
        "vocabulary_digest": "e" * 64,
    }
    record = PredictionSet(
        parts=tuple(parts), parents=PredictionParents(**{**values, **parents}), scoring=ScoringConfig(), num_rejected=3
    )
    write_prediction_set(str(folder), record)
    return record


def write_images(folder: Path, rows: Sequence[ExplainablePrediction]) -> list[ExplainablePrediction]:
    """The same rows, each with a file of its own."""
    folder.mkdir()
    moved = []
    for number, row in enumerate(rows):
        path = folder / f"{number}.png"
        path.write_bytes(encoded(number))
        moved.append(replace(row, source=str(path)))
    return moved


def made(folder: Path, **settings: Any) -> str:
    """The page of the labels in `folder`/labels."""
    config = ReportConfig(predictions=str(folder / "labels"), output=str(folder / "page" / "report.html"), **settings)
    return Path(report.run(config)).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind of tag."""

    VOID = frozenset({"meta", "link", "img", "input", "path", "use", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def cards(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "li" and attrs.get("class") == "card"]


# --------------------------------------------------------------------------------------------------------- drawing


@given(
    num_of=st.dictionaries(st.sampled_from(["rr", "rw", "wr", "ww", "r?", "??"]), st.integers(1, 60), min_size=1),
    total=st.integers(1, 100),
)
def test_equal_parts_fill_the_gallery_and_no_outcome_is_favoured(num_of: dict[str, int], total: int) -> None:
    parts = gallery.equal_shares(num_of, total=total)
    assert sum(parts.values()) == min(total, sum(num_of.values()))
    assert all(0 <= parts[name] <= num_of[name] for name in num_of)
    for one, other in itertools.permutations(num_of, 2):
        if parts[one] < num_of[one]:  # something was left out: then no other has more, but for the odd one
            assert parts[other] <= parts[one] + 1


def test_what_is_drawn_depends_on_seed_and_keys_alone(tmp_path: Path) -> None:
    rows = [prediction(number) for number in range(60)]
    shuffled = random.Random(1).sample(rows, len(rows))
    drawn = [
        gallery.sample_gallery(
            str(tmp_path / name), write_labels(tmp_path / name, some, num_parts=num_parts), num_rows=16, seed=seed
        )
        for name, some, num_parts, seed in [("a", rows, 1, 0), ("b", shuffled, 7, 0), ("c", rows, 1, 1)]
    ]
    keys = [[label.row.key for label in each.labels] for each in drawn]
    assert keys[0] == keys[1]
    assert set(keys[0]) != set(keys[2])
    outcomes = Counter(
        ("r" if row.category == row.category_true else "w") + ("r" if row.rationale in row.rationales_true else "w")
        for row in rows
    )
    assert drawn[0].num_of == outcomes and len(outcomes) == 4
    assert drawn[0].num_exact == sum(row.pairs_exact for row in rows)
    assert drawn[0].num_calibrated == sum(row.calibrated for row in rows)


def test_every_row_of_an_outcome_is_drawn_about_as_often(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", [prediction(number, truth="none") for number in range(20)])
    counts = Counter(
        label.row.key
        for seed in range(40)
        for label in gallery.sample_gallery(str(tmp_path / "labels"), labels, num_rows=5, seed=seed).labels
    )
    # 40 draws of 5 of 20: 10 expected each, standard deviation 2.7
    assert len(counts) == 20 and all(0 < number < 22 for number in counts.values())


# ------------------------------------------------------------------------------------------------------- the page


def test_same_labels_and_settings_give_the_same_bytes(tmp_path: Path) -> None:
    rows = write_images(tmp_path / "images", [prediction(number) for number in range(12)])
    write_labels(tmp_path / "labels", rows)
    assert made(tmp_path) == made(tmp_path)
    assert made(tmp_path) != made(tmp_path, max_images=5)
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"report.html", "report.summary.json"}
    balance = json.loads((tmp_path / "page" / "report.summary.json").read_text())["balance"]
    assert (balance["listed"], balance["taken"], balance["left_out"]) == (15, 5, {"beyond_max_images": 7})


def test_after_ctrl_c_there_is_the_whole_page_or_none(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", write_images(tmp_path / "images", [prediction(number) for number in range(12)]))
    with ctrl_c_at_file(0):
        made(tmp_path)
    assert list((tmp_path / "page").iterdir()) == []
    with ctrl_c_at_file(1):
        made(tmp_path)
    (page,) = (tmp_path / "page").iterdir()
    assert page.read_text(encoding="utf-8") == made(tmp_path)


def test_page_loads_nothing_and_its_policy_names_its_own_style_and_script(tmp_path: Path) -> None:
    rows = write_images(tmp_path / "images", [prediction(number) for number in range(8)])
    write_labels(tmp_path / "labels", rows)
    outline = Outline(made(tmp_path))
    addresses = [
        value
        for _, attrs in outline.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    ]
    assert addresses and all((value or "").startswith(("data:", "#")) for value in addresses)
    assert not [name for _, attrs in outline.tags for name in attrs if name.startswith("on") or name == "style"]
    policy = next(attrs["content"] for _, attrs in outline.tags if "http-equiv" in attrs) or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (content,) = outline.texts[tag]
        digest = hashlib.sha256(content.encode()).digest()
        assert f"{tag}-src 'sha256-{b64encode(digest).decode()}'" in policy
        assert "url(" not in content and "@import" not in content


@pytest.mark.parametrize(
    ("truth", "factors"), [("both", {"category", "rationale"}), ("category", {"category"}), ("none", set())]
)
def test_filters_are_those_that_truth_allows(tmp_path: Path, truth: str, factors: set[str]) -> None:
    rows = write_images(tmp_path / "images", [prediction(number, truth=truth) for number in range(12)])
    write_labels(tmp_path / "labels", rows)
    text = made(tmp_path)
    outline = Outline(text)
    radios = {attrs["name"] for tag, attrs in outline.tags if tag == "input" and attrs["type"] == "radio"}
    assert radios == factors
    assert len(outline.cards()) == 12
    assert ("Right, and for the right reason?" in text) == (truth == "both")
    assert ("Category is right" in text) == (truth == "category")
    right = [attrs.get("data-category-right") for attrs in outline.cards()]
    expected = Counter(None if truth == "none" else row.category == row.category_true for row in rows)
    assert Counter({"right": True, "wrong": False, None: None}[value] for value in right) == expected


def test_outcome_table_counts_all_rows_not_those_drawn(tmp_path: Path) -> None:
    rows = [prediction(number) for number in range(40)]
    write_labels(tmp_path / "labels", rows)
    outline = Outline(made(tmp_path, max_images=4))
    right = sum(row.category == row.category_true and row.rationale in row.rationales_true for row in rows)
    assert f"{100 * right / 40:.1f}%" in outline.texts["span"]
    assert f"{right} pictures" in outline.texts["span"]
    assert len(outline.cards()) == 4


def test_lineage_is_told_in_full(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", [prediction(0)])
    text = made(tmp_path)
    parents = labels.parents
    for value in (labels.digest, parents.input_digest, parents.model_digest, parents.vocabulary_digest):
        assert value in text
    assert "models:/fox@champion" in text and "fox version 2" in text and "3 more could not be read" in text


def test_unfinished_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        made(tmp_path)


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0, 0, "0%"), (1, 0, "100%"), (0.004, 0, "<1%"), (0.996, 0, ">99%"), (0.874, 0, "87%"), (0.5, 1, "50.0%"),
     (0.0004, 1, "<0.1%"), (0.99999, 1, ">99.9%"), (0.005, 0, "<1%"), (0.995, 0, ">99%")],
)  # fmt: skip
def test_shares_close_to_nothing_and_to_all_are_not_rounded_away(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


# ------------------------------------------------------------------------------------------------------- figures


def evaluated(folder: Path, *names: str, **options: Any) -> Evaluation:
    """The evaluation of folders of labels, as `ecor evaluate` leaves it, with a plot."""
    settings = {"resampling": Resampling(num_resamples=200), "num_bins": 5}
    results = tuple(
        evaluate(
            read_predictions(str(folder / name)),
            name=options.get(name, name),
            predictions=read_prediction_set(str(folder / name)).digest,
            parents=asdict(read_prediction_set(str(folder / name)).parents),
            **settings,
        )
        for name in names
    )
    record = Evaluation(results=results, comparisons=(), **settings)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "evaluation.json").write_text(record.to_json())
    (folder / "evaluation" / "reliability-labels.png").write_bytes(encoded(5))
    return record


def test_figures_are_those_of_the_evaluation(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", [prediction(number) for number in range(40)])
    record = evaluated(tmp_path, "labels")
    outline = Outline(made(tmp_path, evaluation=str(tmp_path / "evaluation")))
    metrics = record.results[0].metrics
    values, intervals = outline.texts["span"], set(outline.texts["span"])
    for rule in ("strict", "dror_vote", "two_stage"):
        for name in ("rr", "rw", "wr", "ww", "accuracy"):
            estimate = metrics[f"{rule}/{name}"]
            assert percent(estimate.value, 1) in values
            assert f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}" in intervals
    for name in ("strict/visible_rr", "calibration/ece", "rationales/recall@3"):
        assert percent(metrics[name].value, 1) in values
    assert record.digest in outline.texts["code"]
    (plot,) = [attrs for tag, attrs in outline.tags if tag == "img"]
    assert plot["src"] == "data:image/png;base64," + b64encode(encoded(5)).decode()
    assert (plot["width"], plot["height"]) == ("90", "60")


def test_a_card_says_how_probable_it_is_that_the_rationale_is_visible(tmp_path: Path) -> None:
    rows = [prediction(0, rationale_visible_probability=0.625), prediction(1)]
    write_labels(tmp_path / "labels", rows)
    assert [text.strip() for text in Outline(made(tmp_path)).texts["span"] if "visible: 6" in text] == ["visible: 62%"]


def test_methods_are_compared_and_the_pages_own_is_marked(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", [prediction(number) for number in range(20)])
    write_labels(tmp_path / "other", [prediction(number, truth="both") for number in range(20, 40)])
    evaluated(tmp_path, "other", "labels", other=HOSTILE[0])
    text = made(tmp_path, evaluation=str(tmp_path / "evaluation"))
    assert "Methods compared" in text
    outline = Outline(text)
    assert outline.texts["th"].count(HOSTILE[0] + " ") == 1 and outline.texts["th"].count("labels ") == 1
    assert sum(tag == "script" for tag, _ in outline.tags) == 1
    marked = text[text.index('<tr role="row" class="marked">') :]
    assert marked.index(">labels ") < marked.index("</tr>")


def test_evaluation_of_other_labels_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", [prediction(number) for number in range(10)])
    write_labels(tmp_path / "other", [prediction(number) for number in range(10, 20)])
    evaluated(tmp_path, "other")
    with pytest.raises(ValueError, match="this evaluation is not of predictions"):
        made(tmp_path, evaluation=str(tmp_path / "evaluation"))


def test_what_other_labels_say_stands_on_every_card_and_disputes_are_drawn_too(tmp_path: Path) -> None:
    rows = [prediction(number) for number in range(60)]
    write_labels(tmp_path / "labels", rows)
    write_labels(tmp_path / "rival", [otherwise(row) if row is rows[20] else row for row in reversed(rows)][:50])
    text = made(tmp_path, beside=(str(tmp_path / "rival"),), beside_names=("a rival",), max_images=10)
    states = [card.get("data-others") for card in Outline(text).cards()]
    assert len(states) == 10 and states.count("differ") == 1
    said = otherwise(rows[20])
    assert f'<b dir="auto">{said.category}</b>' in text and f"<bdi>{said.rationale}</bdi>" in text
    assert text.count("<bdi>a rival</bdi>") == sum(state is not None for state in states)


def test_other_labels_must_be_of_the_same_pictures(tmp_path: Path) -> None:
    rows = [prediction(number) for number in range(4)]
    write_labels(tmp_path / "labels", rows)
    write_labels(tmp_path / "other", rows, input_digest="b" * 64)
    with pytest.raises(ValueError, match="score the same input with both"):
        made(tmp_path, beside=(str(tmp_path / "other"),))
    pq.write_table(predictions_table([prediction(9)]), tmp_path / "ninth.parquet")
    with pytest.raises(ValueError, match="labels of ninth are of other pictures than this page"):
        made(tmp_path, beside=(str(tmp_path / "ninth.parquet"),))
    with pytest.raises(ValueError, match="2 names for 1 folders"):
        made(tmp_path, beside=(str(tmp_path / "labels"),), beside_names=("one", "two"))


# ------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_found_again_in_shards_and_altered_shards_are_told(tmp_path: Path) -> None:
    rows = [prediction(number) for number in range(6)]
    shards, plain = _sharded(tmp_path, rows)
    write_labels(tmp_path / "labels", shards.rows, input=str(tmp_path / "shards"), input_digest=shards.digest)
    pictures = [attrs["src"] for tag, attrs in Outline(made(tmp_path)).tags if tag == "img"]
    expected = {make_thumbnail(decode_image(data), size_px=192).uri for data in plain}
    assert set(pictures) == expected and len(pictures) == 6

    tar = tmp_path / "shards" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[shards.rows[0].member_offset + 40] ^= 1  # type: ignore[operator]
    tar.write_bytes(bytes(data))
    text = made(tmp_path)
    assert sum(tag == "img" for tag, _ in Outline(text).tags) == 5
    assert "no longer holds" in text and "1 of these 6 could not be found again" in text

    write_labels(tmp_path / "labels", shards.rows, input=str(tmp_path / "shards"), input_digest="0" * 64)
    text = made(tmp_path)
    assert "are not those that were labelled" in text and "6 of these 6 could not be found again" in text


class _Sharded:
    def __init__(self, rows: list[ExplainablePrediction], digest: str) -> None:
        self.rows = rows
        self.digest = digest


def _sharded(folder: Path, rows: Sequence[ExplainablePrediction]) -> tuple[_Sharded, list[bytes]]:
    vocabulary = vocabulary_from_mapping(CATEGORIES)
    plain = [encoded(number) for number in range(len(rows))]
    entries = []
    for row, data in zip(rows, plain, strict=True):
        key = sample_key(row.source, sha256=hashlib.sha256(data).hexdigest())
        sample = Sample(
            key=key, image=data, extension="png", category=row.category_true, rationales=(), visible_rationales=None,
            source=row.source,
        )  # fmt: skip
        entries.append((ShardEntry(sample=sample), row))
    entries.sort(key=lambda item: item[0].sample.key)
    info = write_shard(
        [entry for entry, _ in entries], folder=folder / "shards", name="000000.tar", vocabulary=vocabulary
    )
    manifest = ShardManifest(
        split="test", shards=(info,), vocabulary_digest=vocabulary.digest, num_samples=len(rows), num_rejected=0,
        num_duplicates=0, config_digest="c", parents={},
    )  # fmt: skip
    write_shard_manifest(manifest, folder / "shards")
    index = read_index(folder / "shards", info).to_pylist()
    found = [
        replace(row, key=each["key"], shard=info.name, member_offset=each["member_offset"],
                member_num_bytes=each["member_num_bytes"])
        for each, (_, row) in zip(index, entries, strict=True)
    ]  # fmt: skip
    return _Sharded(found, manifest.digest), plain


def test_a_file_that_changed_since_it_was_labelled_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "fox.png"
    path.write_bytes(encoded(1))
    key = sample_key(str(path), sha256=hashlib.sha256(encoded(1)).hexdigest())
    write_labels(tmp_path / "labels", [prediction(0, source=str(path), key=key)], num_parts=1)
    assert "changed since" not in made(tmp_path)
    path.write_bytes(encoded(2))
    assert "has changed since it was labelled" in made(tmp_path)


def test_a_picture_that_is_gone_or_damaged_leaves_a_card_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(b"not a picture at all")
    (tmp_path / "short.png").write_bytes(encoded(1)[:90])
    sources = [str(tmp_path / name) for name in ("gone.png", "noise.png", "short.png")] + ["nosuch://place/a.png"]
    write_labels(tmp_path / "labels", [prediction(n, source=source) for n, source in enumerate(sources)])
    text = made(tmp_path)
    assert len(Outline(text).cards()) == 4
    for reason in ("not found: ", "not_an_image", "truncated", "nosuch:// is not read"):
        assert reason in text
    assert "4 of these 4 could not be found again" in text


def test_thumbnails_stand_upright_and_are_never_enlarged() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = make_thumbnail(decode_image(encoded(1, size=(400, 200), kind="JPEG", exif=exif)), size_px=100)
    assert (turned.width, turned.height) == (50, 100)
    small = make_thumbnail(decode_image(encoded(1, size=(30, 20))), size_px=100)
    assert (small.width, small.height) == (30, 20) and small.small
    with Image.open(io.BytesIO(turned.data)) as image:
        assert image.size == (50, 100) and image.format == "WEBP"


# ---------------------------------------------------------------------------------------------------- hostile names


def hostile_rows() -> list[ExplainablePrediction]:
    names = {name: [f"{name} {n}" for n in range(2)] for name in HOSTILE}
    return [
        prediction(number, names=names, key=f"{HOSTILE[number % len(HOSTILE)]}-{number}", source=f"/gone/{name}",
                   model_name=HOSTILE[1])
        for number, name in enumerate(HOSTILE * 2)
    ]  # fmt: skip


def write_hostile(folder: Path) -> None:
    uri = f"models:/{HOSTILE[3]}"
    write_labels(folder / "labels", hostile_rows(), model_name=HOSTILE[1], model_version=HOSTILE[0], model_uri=uri)


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    write_hostile(tmp_path)
    rows = hostile_rows()
    plain = Outline(made(tmp_path, title=HOSTILE[0]))
    assert plain.texts["h1"] == [HOSTILE[0]] and plain.texts["title"] == [HOSTILE[0]]
    assert Counter(plain.texts["h3"]) == Counter(row.category for row in rows)
    assert Counter(str(attrs["data-category"]) for attrs in plain.cards()) == Counter(row.category for row in rows)
    assert sum(tag == "script" for tag, _ in plain.tags) == 1
    assert not [attrs for tag, attrs in plain.tags if tag in ("img", "iframe") or "onerror" in attrs]


# ------------------------------------------------------------------------------------------------------- in Chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ExplainablePrediction]]:
    folder = tmp_path_factory.mktemp("gallery")
    rows = write_images(folder / "images", [prediction(number) for number in range(40)])
    write_labels(folder / "labels", rows)
    write_labels(folder / "rival", [otherwise(row) if is_disputed(row) else row for row in rows], num_parts=3)
    evaluated(folder, "labels")
    made(folder, evaluation=str(folder / "evaluation"), beside=(str(folder / "rival"),))
    return folder / "page" / "report.html", rows


def is_disputed(row: ExplainablePrediction) -> bool:
    return int(row.key.removeprefix("key-")) % 3 == 0


def otherwise(row: ExplainablePrediction) -> ExplainablePrediction:
    return replace(row, rationale=row.rationales[1].rationale, confidence=row.confidence / 2)


SHOWN = (
    "[...document.querySelectorAll('.card')].filter(card => card.checkVisibility())"
    ".map(card => card.querySelector('.source').textContent)"
)


def fitting(rows: Sequence[ExplainablePrediction], **state: str) -> set[str]:
    """The naive filter, written once more from what the page promises."""

    def fits(row: ExplainablePrediction) -> bool:
        assert row.rationales_true is not None and row.category_true is not None
        right = {"category": row.category == row.category_true, "rationale": row.rationale in row.rationales_true}
        names = (row.category, row.category_true)
        everything = " ".join([*names, row.key, row.source, *(each.rationale for each in row.rationales),
                               *row.rationales_true, *(row.visible_rationales or ())]).lower()  # fmt: skip
        return (
            all(right[factor] == (state[factor] == "right") for factor in right if factor in state)
            and ("others" not in state or is_disputed(row) == (state["others"] == "differ"))
            and any(state.get("name", "") in name for name in names)
            and float(state.get("from", 0)) <= 100 * row.confidence <= float(state.get("to", 100))
            and all(word in everything for word in state.get("q", "").lower().split())
        )

    return {row.key for row in rows if fits(row)}


@pytest.mark.slow
def test_hostile_names_do_not_run_in_chromium(tab: Tab, tmp_path: Path) -> None:
    write_hostile(tmp_path)
    write_labels(tmp_path / "rival", [replace(row, category=HOSTILE[1]) for row in hostile_rows()])
    made(tmp_path, title=HOSTILE[3], beside=(str(tmp_path / "rival"),), beside_names=(HOSTILE[0],))
    tab.open(tmp_path / "page" / "report.html")
    assert tab.run("document.title") == HOSTILE[3]
    headings = tab.run("[...document.querySelectorAll('.card h3')].map(h => h.textContent)")
    assert Counter(headings) == Counter(row.category for row in hostile_rows())
    tab.open(tmp_path / "page" / "report.html", fragment="#name=%3Cscript%3Ealert(9)%3C%2Fscript%3E&q=%22%3E%3Cimg")
    assert tab.run("document.querySelectorAll('script').length + document.querySelectorAll('img').length") == 1
    assert tab.troubles() == [] and tab.requests() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "state",
    [{}, *({"category": one, "rationale": two} for one in ("right", "wrong") for two in ("right", "wrong")),
     {"category": "wrong"}, {"name": "owl"}, {"name": "e"}, {"from": "30", "to": "60"}, {"q": "ROUND  eyes"},
     {"q": "key-01"}, {"rationale": "right", "name": "red fox", "from": "20", "q": "tail"}, {"q": "nosuchthing"},
     {"others": "differ"}, {"others": "agree", "category": "right"}],
    ids=lambda state: "&".join(f"{name}={value}" for name, value in state.items()) or "all",
)  # fmt: skip
def test_filters_show_what_they_say(tab: Tab, shown: tuple[Path, list[ExplainablePrediction]], state: Any) -> None:
    page, rows = shown
    expected = fitting(rows, **state)
    fill = "".join(
        f"set('{name}', {json.dumps(value)});"
        for name, value in sorted(state.items(), key=lambda item: item[0] != "to")
    )
    setter = (
        "const form = document.getElementById('filters');"
        "const set = (name, value) => { const field = form.elements[name]; field.value = value;"
        "(field.dispatchEvent ? field : field[0]).dispatchEvent(new Event('input', {bubbles: true})); };"
    )
    tab.open(page)
    tab.run("{" + setter + fill + "}")
    assert set(tab.run(SHOWN)) == expected
    assert tab.run("document.getElementById('count').value") == f"{len(expected)} of 40 pictures"
    assert tab.run("document.getElementById('nothing').hidden") == bool(expected)
    shared = tab.run("location.hash")
    assert bool(shared) == bool(state)
    tab.open(page, fragment=shared)  # the view is shared: another reader sees the same
    assert set(tab.run(SHOWN)) == expected and tab.run("location.hash") == shared
    tab.run("document.querySelector('button[type=reset]').click()")
    tab.run("new Promise(done => setTimeout(done, 20))")
    assert len(tab.run(SHOWN)) == 40 and tab.run("location.hash") == ""
    assert tab.troubles() == [] and tab.requests() == []


@pytest.mark.slow
def test_order_and_keyboard(tab: Tab, shown: tuple[Path, list[ExplainablePrediction]]) -> None:
    page, rows = shown
    by_confidence = [row.key for row in sorted(rows, key=lambda row: row.confidence)]
    tab.open(page, fragment="#order=unsure")
    assert tab.run(SHOWN) == by_confidence
    tab.run("location.hash = '#order=sure'")
    tab.run("new Promise(done => setTimeout(done, 50))")
    assert tab.run(SHOWN) == by_confidence[::-1]
    tab.open(page)
    tab.run("document.querySelector('input[name=category]').focus()")
    tab.press("ArrowRight", code=39)
    assert tab.run("location.hash") == "#category=right"
    tab.run("document.querySelector('a.outcome.wr').focus()")
    tab.press("Enter", code=13, text="\r")
    tab.run("new Promise(done => setTimeout(done, 50))")
    assert set(tab.run(SHOWN)) == fitting(rows, category="wrong", rationale="right")
    assert tab.run("document.activeElement.id") == "gallery"
    tab.run("document.querySelector('.card:not([hidden]) summary').focus()")
    tab.press("Enter", code=13, text="\r")
    assert tab.run("document.querySelector('.card:not([hidden]) details').open") is True


CONTRAST = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor); if (colour.length < 4 || colour[3] > 0) return colour; }
    return [255, 255, 255]; };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const texts = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!texts || !node.checkVisibility()) continue;
    const pair = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    if (ratio < 4.5) low.push(`${node.className || node.tagName} ${ratio.toFixed(2)}`);
  }
  return [...new Set(low)];
})()
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_legible(tab: Tab, shown: tuple[Path, list[ExplainablePrediction]], dark: bool) -> None:
    """WCAG 2.2 AA, 1.4.3: contrast of at least 4.5 to 1."""
    tab.screen(width=1280, height=900, dark=dark)
    tab.open(shown[0])
    assert tab.run(CONTRAST) == []


@pytest.mark.slow
def test_nothing_runs_over_the_edge_of_a_phone(
    tab: Tab, shown: tuple[Path, list[ExplainablePrediction]], tmp_path: Path
) -> None:
    write_hostile(tmp_path)
    made(tmp_path, title="W" * 60)
    tab.screen(width=360, height=740, phone=True)
    for page in (tmp_path / "page" / "report.html", shown[0]):
        tab.open(page)
        tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert tab.run("document.documentElement.scrollWidth") == 360
        beyond = (
            "[...document.querySelectorAll('main *, header *')].filter(node => node.checkVisibility() && "
            "!node.closest('.unseen, .source, svg') && node.getBoundingClientRect().right > 360.5)"
            ".map(node => node.className)"
        )
        assert tab.run(beyond) == []


@pytest.mark.slow
def test_in_print_filters_are_gone_and_every_card_is_whole(
    tab: Tab, shown: tuple[Path, list[ExplainablePrediction]], tmp_path: Path
) -> None:
    tab.open(shown[0])
    tab.call("Emulation.setEmulatedMedia", media="print")
    style = "getComputedStyle(document.querySelector('{}'))"
    assert tab.run(style.format(".filters") + ".display") == "none"
    assert tab.run(style.format(".card") + ".breakInside") == "avoid"
    assert tab.run(style.format(".card") + ".contentVisibility") == "visible"
    tab.call("Emulation.setEmulatedMedia", media="")
    tab.print_to(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_layout_does_not_jump(tab: Tab, shown: tuple[Path, list[ExplainablePrediction]]) -> None:
    tab.screen(width=1280, height=900)
    tab.open(shown[0])
    shift = (
        "new Promise(done => { let sum = 0; const add = list => list.getEntries().forEach(each => sum += each.value);"
        "new PerformanceObserver(add).observe({type: 'layout-shift', buffered: true});"
        "scrollTo(0, 2500); setTimeout(() => done(sum), 400); })"
    )
    assert tab.run(shift) < 0.01


@pytest.mark.slow
def test_filtering_many_cards_takes_no_time_by_the_square_of_their_number(tab: Tab, tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", [prediction(number, source="/gone") for number in range(1000)])
    made(tmp_path, max_images=1000)
    tab.screen(width=1280, height=900)
    tab.open(tmp_path / "page" / "report.html")
    hide_all = (
        "(() => { const search = document.getElementById('filters').elements.q; const began = performance.now();"
        "search.value = 'nosuchthing'; search.dispatchEvent(new Event('input', {bubbles: true}));"
        "document.body.offsetHeight; return performance.now() - began; })()"
    )
    assert tab.run(hide_all) < 2000  # milliseconds: some 50 here, and many seconds while cards were list items
    assert tab.run(SHOWN) == []


def test_manifest_of_the_labels_is_left_as_it_was(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", [prediction(0)])
    made(tmp_path)
    assert read_prediction_set(str(tmp_path / "labels")) == labels
