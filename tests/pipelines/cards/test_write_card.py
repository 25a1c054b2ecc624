"""Cards of models and datasets: their text from fixed records, hostile names, and what is refused.

Covers: `pipelines.cards.dataset_card`, `pipelines.cards.dataset_records`, `pipelines.cards.markdown_text`,
`pipelines.cards.model_card`, `pipelines.cards.model_records`, `pipelines.tracking.version_description`.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import markdown
from mlflow import MlflowClient

from ecor.config.model import BackboneConfig, ModelConfig
from ecor.config.scoring import Temperatures
from ecor.data.shard_manifest import ShardInfo, ShardManifest, write_shard_manifest, write_side_files
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.evaluation.confidence_intervals import Estimate, Resampling
from ecor.evaluation.record import Evaluation, Result
from ecor.storage.model_records import Checkpoint
from pipelines.__main__ import main
from pipelines.audit.certificate import Certificate, GroupCertificate
from pipelines.cards.dataset_card import DatasetFacts, dataset_card
from pipelines.cards.dataset_records import keep_dataset_card, read_dataset_facts
from pipelines.cards.markdown_text import escape, table
from pipelines.cards.model_card import ModelFacts, model_card
from pipelines.config.stages import RegisterConfig
from pipelines.stages import register
from pipelines.tracking import version_description
from pipelines.tracking.model_versions import Ancestor, VersionLineage
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import tiny_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = {"fox | wolf": ["a *bushy* tail", "pointed ears"], "<b>owl</b>": ["[feathers](http://evil.example)"]}
HOSTILE = [
    "<script>alert(1)</script>",
    "![x](javascript:alert(1))",
    "[click](https://evil.example)",
    "a | b\n# heading\n- item",
    "`code` **bold** ~~gone~~ $x$",
    "https://evil.example and www.evil.example and me@evil.example",
    "\u202egnp.exe\u0007 שלום",
    "</td></tr></table>",
    "&lt;b&gt; \\",
]


def checkpoint(**changes) -> Checkpoint:
    values = {
        "folder": "runs/ecor/checkpoint",
        "model": ModelConfig(backbone=BackboneConfig(name="ecor-demo", pretrained="embedded")),
        "temperatures": Temperatures(rationale=1.25, category_given_rationale=0.5),
        "calibrated_on": "v" * 64,
        "model_digest": "m" * 64,
        "backbone_digest": "b" * 64,
        "vocabulary_digest": "v" * 64,
        "tokens_sha256": "t" * 64,
        "has_backbone": False,
        "parents": {"train_manifest": "1" * 64, "validation_manifest": "2" * 64},
        "metrics": {"validation_rr": 0.3825, "train_s": 11.0, "validation_s": 2.0},
        "run_id": "r" * 32,
    }
    return Checkpoint(**{**values, **changes})


def evaluation(*, model_digest: str = "m" * 64, input_digest: str = "3" * 64) -> Evaluation:
    metrics = {
        "strict/rr": Estimate(value=0.41, low=0.36, high=0.46, num_images=400),
        "calibration/ece": Estimate(value=0.07, low=float("nan"), high=float("nan"), num_images=400),
    }
    result = Result(
        name="ecor", predictions="p" * 64, method="joint", num_rows=410, num_images=405, num_explained=400,
        num_visible=0, num_rejected=1, share_calibrated=1.0, share_exact=1.0, metrics=metrics, per_category=(),
        reliability=(), parents={"model_digest": model_digest, "input_digest": input_digest, "input": "shards/test"},
    )  # fmt: skip
    return Evaluation(results=(result,), comparisons=(), resampling=Resampling(), num_bins=15)


def certificate(**changes) -> Certificate:
    group = GroupCertificate(
        name="", categories=(), num_labels=1000, num_judged=100, num_wrong=2, threshold=0.8, num_accepted=700,
        p_value=0.01, num_needed=59,
    )  # fmt: skip
    values = {
        "labels": "labels/final", "labels_digest": "l" * 64, "input_digest": "i" * 64, "model_name": "ecor",
        "model_version": "3", "model_digest": "m" * 64, "vocabulary_digest": "v" * 64, "right": 0.95, "sure": 0.95,
        "reasons": False, "score": "confidence", "num_labels": 1000, "sample_size": 100, "seed": 0,
        "judged_by": ("Ada", "<Bob>"), "num_skipped": 0, "num_disputed": 0, "judgements_digest": "j" * 64,
        "groups": (group,),
    }  # fmt: skip
    return Certificate(**{**values, **changes})


def manifests(names=None) -> tuple[ShardManifest, ...]:
    digest = vocabulary_from_mapping(names or NAMES).digest
    shard = ShardInfo(name="0.tar", num_samples=40, num_bytes=2_500_000, sha256="a" * 64, index="0", index_sha256="b")
    return tuple(
        ShardManifest(
            split=split, shards=(shard,), vocabulary_digest=digest, num_samples=40, num_rejected=number,
            num_duplicates=number, config_digest="c" * 64, parents={"input": "d" * 64},
        )
        for number, split in enumerate(("test", "train"))
    )  # fmt: skip


def dataset_facts(**changes) -> DatasetFacts:
    values = {
        "name": "shards", "manifests": manifests(), "vocabulary": vocabulary_from_mapping(NAMES),
        "summary": {"input": "photos | 2026", "layout": "folders", "num_ignored": 3, "config": {"validate": "decode"}},
        "rejected": {"truncated": 1},
    }  # fmt: skip
    return DatasetFacts(**{**values, **changes})


def rendered(text: str) -> str:
    return markdown(text, extensions=["tables"])


@pytest.mark.parametrize(
    ("name", "card"),
    [
        (
            "model_card.md",
            lambda: model_card(
                ModelFacts(
                    name="ecor, version 3", checkpoint=checkpoint(), evaluations=(evaluation(),),
                    certificates=(certificate(),),
                )
            ),
        ),
        ("model_card_alone.md", lambda: model_card(ModelFacts(name="ecor", checkpoint=checkpoint(calibrated_on=None)))),
        ("dataset_card.md", lambda: dataset_card(dataset_facts())),
    ],
)  # fmt: skip
def test_cards_of_fixed_records_are_the_golden_ones(name, card):
    """Written anew only on purpose: delete the file, and run this test twice."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(card(), encoding="utf-8")
        pytest.fail(f"{path} was written: look at it, and run again")
    assert card() == path.read_text(encoding="utf-8")


def test_facts_that_no_record_holds_are_named_as_absent():
    card = model_card(ModelFacts(name="ecor", checkpoint=checkpoint(calibrated_on=None, metrics={}, run_id=None)))
    for told in (
        "| MLflow run of training | not recorded |",
        "Figures of the saved model on validation images: not recorded.",
        "No evaluation was given to this card",
        "No audit was given to this card: nothing is promised",
        "The temperatures were not fitted: confidences are an order, not frequencies.",
    ):
        assert told in card
    bare = dataset_card(dataset_facts(summary=None, rejected=None))
    assert "| input | not recorded |" in bare and "1 images were rejected; their reasons: not recorded" in bare


def test_images_that_made_the_model_are_named():
    card = model_card(ModelFacts(name="e", checkpoint=checkpoint(), evaluations=(evaluation(input_digest="2" * 64),)))
    assert "The model was made with these images (validation\\_manifest): the figures may be too good." in card


def test_what_a_model_was_tuned_from_and_what_decided_about_it_are_named():
    lineage = VersionLineage(
        ancestors=(Ancestor(digest="1" * 64, uri="models:/ecor/2"), Ancestor(digest="0" * 64, uri=None)),
        contests=("3" * 64,),
        promotions=("champion, promoted: strict RR less that of models:/ecor/2: +0.0100 | <b>",),
    )
    card = model_card(ModelFacts(name="e", checkpoint=checkpoint(), lineage=lineage, evaluations=(evaluation(),)))
    for told in (
        f"| step 1 | models:/ecor/2 | {'1' * 64} |",
        f"| step 2 | not recorded | {'0' * 64} |",
        "- promotion to champion, promoted: strict RR less that of models:/ecor/2: +0.0100 &#124; &lt;b&gt;",
        "- images that decided about its promotion: `333333333333`",
        "These images decided about its promotion: the figures may be too good.",
    ):
        assert told in card
    folder = model_card(ModelFacts(name="e", checkpoint=checkpoint(parents={"initial_model": "1" * 64})))
    assert f"| step 1 | not recorded | {'1' * 64} |" in folder


def test_records_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"an evaluation is of the models nnnn.*not of mmmm"):
        ModelFacts(name="e", checkpoint=checkpoint(), evaluations=(evaluation(model_digest="n" * 64),))
    with pytest.raises(ValueError, match=r"the audit of labels/final is of the model nnnn"):
        ModelFacts(name="e", checkpoint=checkpoint(), certificates=(certificate(model_digest="n" * 64),))
    with pytest.raises(ValueError, match=r"split test of shards has the vocabulary .*: shard again"):
        dataset_facts(vocabulary=vocabulary_from_mapping({"x": ["y"]}))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text_in_one_cell(text):
    html = rendered(table(("name", "value"), [(escape(text), "1")]))
    assert html.count("<td") == 2
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", html), html
    assert not re.search(r"(?<!&#58;)\bhttps?://|www\.\w", escape(text))
    assert "\n" not in escape(text) and "\u202e" not in escape(text)


@given(st.text())
def test_any_text_is_shown_as_it_is_but_for_spaces(text):
    html = rendered(f"x {escape(text)} x")
    shown = html.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in shown and "\n" not in shown


def test_a_whole_card_of_hostile_names_has_no_tags_of_theirs():
    names = {each.replace("\n", " ").replace("\u202e", "").replace("\u0007", ""): ["<i>x</i>"] for each in HOSTILE}
    card = dataset_card(
        dataset_facts(name=HOSTILE[0], manifests=manifests(names), vocabulary=vocabulary_from_mapping(names))
    )
    tags = set(re.findall(r"<(\w+)", rendered(card)))
    assert tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}


def write_shards(folder: Path) -> str:
    """What shards have besides their tars."""
    for each in manifests():
        Path(folder, "shards", each.split).mkdir(parents=True)
        write_shard_manifest(each, folder / "shards" / each.split)
        Path(folder, "shards", each.split, "nshards.txt").write_text("1\n")
    write_side_files(folder / "shards", vocabulary=vocabulary_from_mapping(NAMES))
    return str(folder / "shards")


def test_the_command_writes_the_card_beside_the_shards(tmp_path, capsys):
    write_shards(tmp_path)
    digests = {each.split: each.digest for each in manifests()}
    summary = {"input": "photos", "num_ignored": 0, "config": {}, "manifest_digests": digests}
    Path(tmp_path, "shards", "summary.json").write_text(json.dumps(summary))
    assert main(["card", f"{tmp_path}/shards"]) == 0
    path = Path(tmp_path, "shards", "dataset_card.md")
    first = path.read_text()
    assert "| input | photos |" in first and "| test | 40 | 1 | 2.5 | 0 | 0 |" in first
    assert main(["card", f"{tmp_path}/shards/train"]) == 0
    assert path.read_text() == first
    Path(tmp_path, "shards", "summary.json").write_text(json.dumps(summary | {"manifest_digests": {}}))
    assert main(["card", f"{tmp_path}/shards"]) == 0
    assert "| input | not recorded |" in path.read_text(), "a summary of other shards says nothing of these"
    capsys.readouterr()
    assert main(["card", f"{tmp_path}/shards", "--evaluation", "x"]) == 2
    assert "are for the card of a model" in capsys.readouterr().err
    assert main(["card", f"{tmp_path}/nowhere"]) == 2
    assert "is no model" in capsys.readouterr().err


def test_shards_keep_the_card_of_exactly_these_shards(tmp_path, capsys):
    folder, path = write_shards(tmp_path), tmp_path / "shards" / "dataset_card.md"
    keep_dataset_card(folder)
    first = path.read_text()
    assert first == dataset_card(read_dataset_facts(folder))
    path.write_text(first + "Licence: ours.\n")
    keep_dataset_card(folder)
    assert path.read_text().endswith("Licence: ours.\n"), "somebody has completed it"
    for stale in (first.replace(manifests()[0].digest[:12], "0" * 12), "my notes\n"):
        path.write_text(stale)
        keep_dataset_card(folder)
        assert path.read_text() == first
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("harm", ["no vocabulary", "the card is a folder", "a damaged quarantine table"])
def test_a_dataset_card_that_cannot_be_written_is_one_line(tmp_path, capsys, harm):
    folder = Path(write_shards(tmp_path))
    if harm == "no vocabulary":
        (folder / "vocabulary.json").unlink()
    elif harm == "the card is a folder":
        (folder / "dataset_card.md").mkdir()
    else:
        (folder / "quarantine.parquet").write_bytes(b"PAR1")
    keep_dataset_card(str(folder))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("there is no new dataset card (") and line.endswith(f"write it with `ecor card {folder}`")


@pytest.mark.slow
def test_the_card_of_a_registered_model_is_its_description(tmp_path, capsys):
    tracking = new_database(tmp_path)
    saved = tiny_checkpoint(tmp_path / "run")
    version = register.run(RegisterConfig(checkpoint=saved.folder, name="tiny"), tracking=tracking)
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    # the version holds the backbone, the checkpoint does not
    card = model_card(ModelFacts(name=f"tiny, version {version.version}", checkpoint=replace(saved, has_backbone=True)))
    described = client.get_model_version("tiny", version.version).description
    assert described.startswith("# Model card: tiny, version 1") and "not recorded" in described
    assert described == card if len(card) <= 5000 else len(described) <= 5000
    assert "model_card.md" in [each.path for each in client.list_artifacts(version.run_id)]
    again = version_description.describe_version(version, card, tracking=tracking)
    assert again == "its description is this card already"
    long = card + "\n## More\n\n" + "x" * 6000 + "\n"
    assert "in part" in version_description.describe_version(version, long, tracking=tracking)
    cut = client.get_model_version("tiny", version.version).description
    assert len(cut) <= 5000 and cut.endswith("goes on in the artifact `model_card.md` of the training run.\n")
    client.update_model_version("tiny", version.version, description="written by Ada")
    args = ["card", f"models:/tiny/{version.version}", "--tracking.uri", tracking.uri]
    assert main([*args, "--output", f"{tmp_path}/card.md"]) == 0
    assert "has a description of another kind, which stays" in capsys.readouterr().out
    assert Path(tmp_path, "card.md").read_text() == card
    register.run(RegisterConfig(checkpoint=saved.folder, name="tiny"), tracking=tracking)
    assert client.get_model_version("tiny", version.version).description == "written by Ada"
