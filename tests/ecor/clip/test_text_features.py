"""Laws of the text features: three routes, the same numbers; rows are made once, by whoever comes first.

Covers: `ecor.clip.feature_types`, `ecor.clip.loading`, `ecor.storage.feature_file`.
"""

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import TextFeatureTable
from ecor.clip.loading import load_backbone
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.text_features import build_text_features, features_digest
from ecor.config.model import BackboneConfig, TemplateConfig, TextConfig
from ecor.data.templates import category_sentence, pair_sentence, rationale_sentence
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.storage.feature_file import FeatureFile

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 32, "layers": 1},
    "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 2},
}
NAMES = {
    "dog": ["a wet nose", "four legs", "its tail"],
    "new york taxi": ["wheels", "a yellow (or orange) body", "four legs"],
    "ox": ["horns!", "hooves, two of them"],
}
ROUTES = {
    "table": TextConfig(),
    "ahead": TextConfig(table_budget_bytes=0, fill="ahead"),
    "on demand": TextConfig(fill="on_demand"),
}


def tiny(folder: Path) -> Backbone:
    path = folder / "tiny.json"
    path.write_text(json.dumps(TINY))
    return load_backbone(BackboneConfig(name=str(path), pretrained="random"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny(tmp_path_factory.mktemp("backbone"))


def encoder_of(backbone: Backbone, *, names: dict | Vocabulary = NAMES, **options: object) -> SentenceEncoder:
    vocabulary = names if isinstance(names, Vocabulary) else vocabulary_from_mapping(names)
    # Passes of 7 sentences make blocks of 2 rationales, so that blocks and their borders are tested too.
    options = {
        "templates": TemplateConfig(),
        "sentences_per_pass": 7,
        "category_context": torch.ones(2, 32) / 9,
    } | options
    return SentenceEncoder(backbone, vocabulary=vocabulary, **options)


def filled(folder: Path) -> np.ndarray:
    [path] = folder.glob("*/rows.filled.npy")
    return np.flatnonzero(np.load(path))


@pytest.mark.parametrize("route", ROUTES)
def test_rows_and_columns_are_the_encoded_sentences(backbone: Backbone, route: str) -> None:
    encoder = encoder_of(backbone)
    text = build_text_features(encoder, config=ROUTES[route])
    assert isinstance(text, TextFeatureTable)
    names, templates = encoder.vocabulary, encoder.templates
    for r, rationale in enumerate(names.rationales):
        texts = [pair_sentence(templates, category, rationale) for category in names.categories]
        assert_close(text.row(r), backbone.encode_text(texts, context=encoder.category_context), rtol=0, atol=1e-5)
    table = torch.stack([text.row(r) for r in range(text.num_rationales)])
    assert torch.equal(text.rows([5, 0]), table[[5, 0]])
    assert all(torch.equal(text.column(c), table[:, c]) for c in range(text.num_categories))
    alone = [rationale_sentence(templates, rationale) for rationale in names.rationales]
    assert_close(text.rationales, backbone.encode_text(alone), rtol=0, atol=1e-5)
    alone = [category_sentence(templates, category) for category in names.categories]
    assert_close(text.categories, backbone.encode_text(alone, context=encoder.category_context), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_all_routes_give_the_same_numbers(backbone: Backbone, tmp_path: Path, dtype: str) -> None:
    def rows(config: TextConfig, *, order: list[int]) -> torch.Tensor:
        text = build_text_features(encoder_of(backbone), config=replace(config, dtype=dtype))
        made = {r: text.row(r) for r in order}
        return torch.stack([made[r] for r in sorted(made)])

    order = list(range(7))
    expected = rows(ROUTES["table"], order=order)
    assert expected.dtype == torch.float32
    assert torch.equal(rows(ROUTES["ahead"], order=order), expected)
    assert torch.equal(rows(ROUTES["on demand"], order=order[::-1]), expected)
    for config in (TextConfig(cache_dir=str(tmp_path)), TextConfig(cache_dir=str(tmp_path), fill="on_demand")):
        assert torch.equal(rows(config, order=order), expected)


def test_only_the_rows_asked_for_are_made_and_they_are_made_once(backbone: Backbone, tmp_path: Path) -> None:
    config = TextConfig(cache_dir=str(tmp_path), fill="on_demand")
    text = build_text_features(encoder_of(backbone), config=config)
    text.row(3)
    assert filled(tmp_path).tolist() == [2, 3]
    [path] = tmp_path.glob("*/rows.npy")
    mark = np.full((1, 3, 16), 0.5, dtype=np.float32)  # no encoder would give this
    FeatureFile(path, shape=(7, 3, 16), dtype=mark.dtype).write(3, mark)
    for each in (text, build_text_features(encoder_of(backbone), config=config)):
        assert np.array_equal(each.row(3), mark[0])
    assert filled(tmp_path).tolist() == [2, 3]


def test_a_column_does_not_make_the_rows(backbone: Backbone, tmp_path: Path) -> None:
    config = TextConfig(cache_dir=str(tmp_path), fill="on_demand")
    text = build_text_features(encoder_of(backbone), config=config)
    column = text.column(1)
    assert not filled(tmp_path).size
    assert_close(column, torch.stack([text.row(r)[1] for r in range(7)]), rtol=0, atol=1e-6)


def test_single_sentences_are_shared_through_the_folder(backbone: Backbone, tmp_path: Path) -> None:
    config = TextConfig(cache_dir=str(tmp_path))
    first = build_text_features(encoder_of(backbone), config=config)
    again = build_text_features(encoder_of(backbone), config=config)
    assert torch.equal(first.rationales, again.rationales) and torch.equal(first.categories, again.categories)
    assert sorted(path.name for path in (tmp_path / first.digest[:32]).iterdir()) == [
        "categories.npy", "rationales.npy", "rows.filled.npy", "rows.npy",
    ]  # fmt: skip


def test_features_are_of_the_contexts_as_they_were(backbone: Backbone) -> None:
    context = torch.randn(2, 32)
    text = build_text_features(encoder_of(backbone, category_context=context), config=ROUTES["on demand"])
    expected, digest = text.row(0), text.digest
    context += torch.randn(2, 32)
    assert torch.equal(text.row(1), text.rows([1])[0]) and text.digest == digest
    table = build_text_features(encoder_of(backbone, category_context=context), config=ROUTES["table"])
    assert not torch.allclose(table.row(0), expected, atol=1e-3) and table.digest != digest


def test_whatever_decides_the_numbers_is_in_the_digest(backbone: Backbone, tmp_path: Path) -> None:
    other = tiny(tmp_path)
    other.model_cfg = other.model_cfg | {"note": 1}
    variants = [
        (encoder_of(backbone), TextConfig()),
        (encoder_of(backbone), TextConfig(dtype="fp16")),
        (encoder_of(backbone, category_context=None), TextConfig()),
        (encoder_of(backbone, rationale_context=torch.ones(2, 32)), TextConfig()),
        (encoder_of(backbone, templates=TemplateConfig(rationale="{rationale}")), TextConfig()),
        (encoder_of(backbone, names=NAMES | {"cat": ["whiskers"]}), TextConfig()),
        (encoder_of(other), TextConfig()),
    ]
    digests = [features_digest(encoder, config=config) for encoder, config in variants]
    assert len(set(digests)) == len(digests)
    assert features_digest(encoder_of(tiny(tmp_path)), config=TextConfig(fill="ahead", cache_dir="x")) == digests[0]


def test_a_temporary_file_goes_with_its_features(backbone: Backbone) -> None:
    text = build_text_features(encoder_of(backbone), config=ROUTES["on demand"])
    text.row(0)
    folder = text._folder
    assert folder.is_dir()
    del text
    assert not folder.exists()


def write_rows(path: str, rows: list[int]) -> None:
    file = FeatureFile(Path(path), shape=(50, 3, 4), dtype=np.dtype(np.float32))
    for row in rows:
        file.write(row, np.full((1, 3, 4), row, dtype=np.float32))


def test_several_processes_may_write_the_same_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.npy")
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=write_rows, args=(path, rows))
        for rows in (list(range(50)), list(range(49, -1, -1)), list(range(10, 40)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    file = FeatureFile(Path(path), shape=(50, 3, 4), dtype=np.dtype(np.float32))
    assert file.missing() == [] and not list(tmp_path.glob(".*"))
    assert np.array_equal(np.load(path)[:, 0, 0], np.arange(50))
    assert np.array_equal(file.column(2)[:, 1], np.arange(50)) and (file.row(7) == 7).all()


def test_what_others_fill_meanwhile_is_left_to_them(backbone: Backbone, tmp_path: Path) -> None:
    config = TextConfig(cache_dir=str(tmp_path), fill="on_demand")
    text, other = (build_text_features(encoder_of(backbone), config=config) for _ in range(2))
    encoded = []

    def encode(rationales: range) -> torch.Tensor:
        encoded.append(rationales)
        other.prepare()
        return text._encode_rows(rationales)

    text._fill(text._rows, encode, wanted=range(7))
    assert len(encoded) == 1 and filled(tmp_path).size == 7


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_rows(str(tmp_path / "rows.npy"), [0])
    with pytest.raises(ValueError, match="use another cache_dir"):
        FeatureFile(tmp_path / "rows.npy", shape=(50, 3, 5), dtype=np.dtype(np.float32))


def test_a_full_disk_is_said_before_the_work(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    free = lambda path: type("usage", (), {"free": 10})  # noqa: E731
    monkeypatch.setattr("ecor.clip.text_features.shutil.disk_usage", free)
    with pytest.raises(ValueError, match="cache_dir with more room"):
        build_text_features(encoder_of(backbone), config=ROUTES["ahead"])


def test_a_long_fill_is_announced(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ecor.clip.encoding_blocks.LONG_S", 0.0)
    monkeypatch.setattr("ecor.clip.text_features.LONG_S", 0.0)
    build_text_features(encoder_of(backbone), config=ROUTES["table"])
    assert "encoding 15 sentences" in caplog.text
    build_text_features(encoder_of(backbone), config=ROUTES["on demand"]).row(6)
    assert "1 of 7 rows are there" in caplog.text


IMAGENET = """
import json, sys
from pathlib import Path

import torch

from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig, TemplateConfig, TextConfig
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.clip.feature_types import ImageFeatures
from ecor.probability.decoders import joint_probability
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.text_features import build_text_features
from ecor.data.vocabulary import read_vocabulary

backbone = load_backbone(BackboneConfig())
vocabulary = read_vocabulary(sys.argv[1])
encoder = SentenceEncoder(backbone, vocabulary=vocabulary, templates=TemplateConfig())
text = build_text_features(encoder, config=TextConfig(cache_dir=sys.argv[2]))
features = torch.nn.functional.normalize(torch.randn(2, backbone.embed_dim), dim=-1)
joint = joint_probability(
    ImageFeatures(rationale=features, category=features), text,
    scoring=ScoringConfig(max_keep_rationales=8), logit_scale=100.0, temperatures=Temperatures(),
)
assert joint.log_prob.shape[-1] == len(vocabulary.categories)
status = Path("/proc/self/status").read_text()  # getrusage would tell the peak of the process that started this one
peak_bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"peak_bytes": peak_bytes, "embed_dim": backbone.embed_dim}))
"""


@pytest.mark.slow
def test_imagenets_vocabulary_scores_without_its_table(shared_data: Path, tmp_path: Path) -> None:
    """4.2 million pairs; a process that held the table, or the sentences, would show it."""
    names, cache = shared_data / "descriptors" / "imagenet.json", tmp_path / "cache"
    command = [sys.executable, "-c", IMAGENET, str(names), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["peak_bytes"] < 2 * 1024**3
    [file] = cache.glob("*/rows.npy")
    row_bytes, num_filled = 1000 * facts["embed_dim"] * 4, len(filled(cache))
    assert 8 <= num_filled <= 16
    assert file.stat().st_size > 4000 * row_bytes
    assert file.stat().st_blocks * 512 < 1.1 * num_filled * row_bytes + 10**5
