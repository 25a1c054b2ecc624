"""`ecor words` on drawn images with true and wrong parts; what it writes and refuses; the page `docs/words.md`.

Covers: `pipelines.stages.words.draft`, `pipelines.stages.words.caption_file`, `pipelines.stages.words.encoded_images`,
`pipelines.stages.words.measured_draft`, `pipelines.stages.words.candidate_table`, `pipelines.stages.words.words_page`.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ecor.data.vocabulary import read_vocabulary
from ecor.demo.dataset import labelled_drawings
from ecor.demo.worlds.registry import set_vocabulary
from pipelines.__main__ import main
from pipelines.config.learning import WordsConfig
from pipelines.runtime.balance import Balance
from pipelines.scoring.inputs import read_input
from pipelines.stages.words.candidate_table import CANDIDATE_SCHEMA
from pipelines.stages.words.caption_file import read_captions
from pipelines.stages.words.encoded_images import sample_units
from tests.support.small_wordnet import write_small_wordnet

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
CATEGORIES = ("cat", "fire engine", "taxi", "tiger", "zebra")
NUM_IMAGES = 100
NAMES = set_vocabulary("demo-small")
WRONG = {
    "cat": ["a blue siren", "a cat", "branching antlers"],
    "fire engine": ["black and white stripes", "a pink udder"],
    "taxi": ["long white whiskers", "curly white wool"],
    "tiger": ["a long ladder on top", "the black stripes on orange fur"],
    "zebra": ["a checkered band along the doors", "two big claws"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drawn pictures in a folder per category, a list of names, descriptors true and wrong, captions, a WordNet."""
    folder = tmp_path_factory.mktemp("world")
    drawn = labelled_drawings(
        set_name="demo-small", split="train", num_images=NUM_IMAGES, seed=3, categories=CATEGORIES
    )
    captions = []
    for each in drawn:
        place = folder / "photos" / each.category.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        each.drawing.image.save(place / f"{each.index:04d}.png")
        captions.append(f"a photo of a {each.category}, with {each.rationale}")
    (folder / "photos" / "zebra" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "names.txt").write_text("\n".join(CATEGORIES))
    mixed = {name: [*WRONG[name][:1], *NAMES[name], *WRONG[name][1:]] for name in CATEGORIES} | {"owl": ["large eyes"]}
    (folder / "descriptors.json").write_text(json.dumps(mixed))
    (folder / "captions.txt").write_text("\n".join(captions))
    write_small_wordnet(folder / "dict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WNSEARCHDIR", str(folder / "dict"))
        patch.chdir(folder)
        yield folder


def table_of(folder: str) -> list[dict]:
    table = pq.ParquetFile(f"{folder}/candidates.parquet").read()
    assert table.schema.equals(CANDIDATE_SCHEMA)
    return table.to_pylist()


MEASURE = ["words", "--categories", "names.txt", "--images", "photos", "--descriptors", "descriptors.json"]


def test_images_keep_true_parts_and_drop_wrong_ones(world: Path, capsys) -> None:
    assert main([*MEASURE, "--no-wordnet", "--output", "words"]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    found = read_vocabulary("words/vocabulary.json")
    assert found.categories == CATEGORIES
    rows = table_of("words")
    kept = {(row["category"], row["rationale"]) for row in rows if row["kept"]}
    assert kept == {
        (category, found.rationales[each])
        for category, ids in zip(found.categories, found.rationales_of, strict=True)
        for each in ids
    }
    auc = {(row["category"], row["rationale"]): row["auc"] for row in rows}
    for category, ids in zip(found.categories, found.rationales_of, strict=True):
        ordered = [auc[category, found.rationales[each]] for each in ids]
        assert ordered == sorted(ordered, reverse=True), "the best first"
    true = {(category, part) for category in CATEGORIES for part in NAMES[category]}
    assert len(kept & true) >= 0.7 * len(true) and len(kept & true) >= 0.8 * len(kept)
    reasons = {(row["category"], row["rationale"]): row["reason"] for row in rows}
    assert reasons["cat", "a cat"] == "names_category"
    assert reasons["tiger", "the black stripes on orange fur"] == "same_text"
    assert {row["category"] for row in rows} == set(CATEGORIES), "owl is not on the list"
    assert all(row["num_images"] == NUM_IMAGES / 5 for row in rows if row["auc"] is not None)
    assert "100 images measured with ecor-demo: 100 are labelled as a category of the list" in told.out
    assert f"kept {len(kept)} of {len(rows)} rationales" in told.out
    balance = Balance.from_record(json.loads(Path("words/words.json").read_text())["balance"])
    assert (balance.num_listed, balance.num_taken, balance.num_rejected) == (NUM_IMAGES + 1, NUM_IMAGES, 1)
    assert balance.line() in told.err
    quarantine = pq.ParquetFile("words/quarantine.parquet").read().to_pylist()
    assert [row["source"].rsplit("/", 1)[1] for row in quarantine] == ["broken.png"]
    page = Path("words/index.html").read_text()
    assert page.count('<img src="data:image/webp') == 10 * len(kept) and "<script" not in page


def test_the_same_command_returns_the_result_and_another_one_is_refused(world: Path, capsys) -> None:
    command = [*MEASURE, "--no-wordnet", "--output", "twice"]
    assert main(command) == 0
    first, before = capsys.readouterr().out, Path("twice/index.html").stat().st_mtime_ns
    assert main(command) == 0
    assert Path("twice/index.html").stat().st_mtime_ns == before and capsys.readouterr().out == first
    assert main([*command, "--pruning.min-auc", "0.9"]) == 2
    assert "twice holds another result" in capsys.readouterr().err
    again = [*command[:-1], "again"]
    assert main(again) == 0
    names = ("vocabulary.json", "candidates.parquet", "index.html")
    assert all((world / "twice" / name).read_bytes() == (world / "again" / name).read_bytes() for name in names)


def test_without_labels_the_model_says_the_categories(world: Path, capsys) -> None:
    shutil.rmtree("flat", ignore_errors=True)
    Path("flat").mkdir()
    for number, path in enumerate(sorted(Path("photos").rglob("[0-9]*.png"))):
        shutil.copyfile(path, f"flat/{number}.png")
    command = [*MEASURE[:4], "flat", *MEASURE[5:], "--no-wordnet", "--output", "unlabelled"]
    assert main(command) == 0, capsys.readouterr().err
    assert "none is labelled, so the model says what each is" in capsys.readouterr().out
    rows = table_of("unlabelled")
    kept = [row for row in rows if row["kept"]]
    true = [row for row in kept if row["rationale"] in NAMES[row["category"]]]
    assert len(true) >= 0.75 * len(kept) > 0


def test_without_images_texts_decide_and_no_model_is_opened(world: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.stages.words.words.load_backbone", None)
    assert main(["words", "--categories", "names.txt", "--captions", "captions.txt", "--output", "drafted"]) == 0
    told = capsys.readouterr().out
    assert "no --images: nothing was measured" in told
    assert "not in WordNet: fire engine, taxi, zebra" in told
    assert "several meanings in WordNet, of which one was taken: tiger (tiger.n.02 of 2)" in told
    rows = {(row["category"], row["rationale"]): row for row in table_of("drafted")}
    assert rows["tiger", "a tawny coat with black stripes"]["sources"] == ["definition of tiger.n.02"]
    assert rows["cat", "a tail"]["sources"] == ["part of cat.n.01"] and rows["cat", "a tail"]["auc"] is None
    said = [row for row in rows.values() if row["sources"][0].startswith("captions")]
    assert said and all(row["rationale"] in NAMES[row["category"]] for row in said)
    names = json.loads(Path("drafted/vocabulary.json").read_text())
    assert "a tail" in names["tiger"] and len(names["fire engine"]) >= 2
    page = Path("drafted/index.html").read_text()
    assert "<img" not in page and "tiger.n.02" in page


def test_an_interrupted_command_leaves_nothing_and_runs_again(world: Path, capsys, monkeypatch) -> None:
    command = ["words", "--categories", "names.txt", "--output", "interrupted"]

    def interrupt(*args: object, **settings: object) -> str:
        raise KeyboardInterrupt

    before = sorted(world.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.stages.words.words.draw_words_page", interrupt)
        assert main(command) == 130
    assert sorted(world.iterdir()) == before and "run the same command again" in capsys.readouterr().err
    assert main(command) == 0 and Path("interrupted/vocabulary.json").is_file()


def test_a_hostile_descriptor_is_text_on_the_page(world: Path) -> None:
    Path("hostile.json").write_text(json.dumps({"cat": ["<script>x</script>", "a tail"]}))
    command = ["words", "--categories", "names.txt", "--no-wordnet", "--descriptors", "hostile.json"]
    assert main([*command, "--output", "hostile"]) == 0
    page = Path("hostile/index.html").read_text()
    assert "&lt;script&gt;x" in page and "<script" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required|categories"),
        (["--categories", "nowhere.txt"], "nowhere.txt: there is no such file of categories"),
        (["--categories", "photos"], "photos is a folder: name a file of categories"),
        (["--categories", "photos/zebra/broken.png"], "is not UTF-8"),
        (["--categories", "empty.txt"], "no category in it: write one name a line"),
        (["--categories", "names.txt", "--no-wordnet"], "there is nothing to draft from: give --captions"),
        (["--categories", "names.txt", "--wordnet-folder", "photos"], "no WordNet in photos"),
        (["--categories", "synset.txt"], "WordNet has no noun synset 'tiger.n.07'; it has tiger.n.01, tiger.n.02"),
        (["--categories", "unknown.txt"], "no rationale was drafted for any of the 1 categories in unknown.txt"),
        (["--categories", "names.txt", "--captions", "nowhere.csv"], "nowhere.csv: there is no such table"),
        (["--categories", "names.txt", "--captions", "photos"], "captions are a .txt, .json"),
        (["--categories", "names.txt", "--captions", "bad.json"], "bad.json is not JSON"),
        (["--categories", "names.txt", "--captions", "table.csv"], "table.csv: line 1 has no column caption"),
        (["--categories", "names.txt", "--descriptors", "names.txt"], "a vocabulary is a .json, .csv or .parquet"),
        (["--categories", "names.txt", "--images", "nowhere"], "nowhere is neither a folder nor a table"),
        (["--categories", "names.txt", "--images", "dict"], "dict holds no image"),
        (["--categories", "names.txt", "--images", "owls.csv"], "is labelled as one of the categories in names.txt"),
        (["--categories", "names.txt", "--images", "photos", "--model", "nowhere"], "nowhere"),
        (["--categories", "names.txt", "--model", "x", "--backbone.name", "ViT-B-32"], "name one, a model has"),
        (["--categories", "names.txt", "--pruning.min-auc", "0.3"], "min_auc lies between 0.5 and 1, got 0.3"),
        (["--categories", "names.txt", "--max-images", "1"], "max_images must be at least 2, got 1"),
        (["--categories", "names.txt", "--output", "names.txt"], "names.txt is a file: --output names a folder"),
        (["--categories", "names.txt", "--output", "photos"], "photos holds other files: name another --output"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy_and_nothing_is_written(world: Path, words, said, capsys) -> None:
    Path("empty.txt").write_text("\n# nothing\n")
    Path("synset.txt").write_text("tiger: tiger.n.07\n")
    Path("unknown.txt").write_text("quagga\n")
    Path("bad.json").write_text("[1,")
    Path("table.csv").write_text("sentence\na cat with a tail\n")
    pictures = list(map(str, sorted(Path("photos/taxi").glob("*.png"))[:2]))
    pd.DataFrame({"path": pictures, "category": ["owl", "owl"]}).to_csv("owls.csv", index=False)
    output = [] if "--output" in words else ["--output", "refused"]
    before = sorted(path.name for path in world.iterdir())
    try:
        code = main(["words", *words, *output])
    except SystemExit as error:  # tyro's own, for arguments
        code = error.code
    error = capsys.readouterr().err.strip()
    error = error if error.startswith("ecor: ") else " ".join(error.split())  # tyro folds lines
    assert code == 2 and re.search(said if "|" in said else re.escape(said), error), error
    assert "Traceback" not in error and sorted(path.name for path in world.iterdir()) == before
    assert len(error.splitlines()) == 1


# Captions and samples


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "one\n\n two \n"),
        ("a.csv", "path,caption\nx.jpg,one\ny.jpg,\nz.jpg, two \n"),
        ("a.jsonl", '{"caption": "one"}\n{"caption": " two "}\n'),
        ("a.json", '["one", "", " two "]'),
        ("a.json", '[{"caption": "one"}, {"caption": " two ", "id": 3}]'),
        ("a.json", '{"x.jpg": "one", "y.jpg": [" two "]}'),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "one"}, {"caption": " two "}]}'),
    ],
)
def test_captions_of_every_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [each.strip() for each in read_captions(str(tmp_path / name), column="caption")] == ["one", "two"]


def test_captions_of_other_forms_are_refused(tmp_path: Path) -> None:
    for text, said in (
        ("3", "holds 3, no list of captions"),
        ("[3]", "item 0 must be a text, got 3"),
        ('[{"text": "one"}]', "item 0 has no 'caption', it has ['text']: set --caption-column"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError) as error:
            list(read_captions(str(tmp_path / "a.json"), column="caption"))
        assert said in str(error.value)


def test_a_sample_is_evenly_spaced_and_the_same_each_time(world: Path) -> None:
    units = read_input("photos", unit_size=30).units
    for number in (2, 40, 101, 500):
        sampled = sample_units(units, max_images=number)
        assert sum(unit.num_images for unit in sampled) == min(number, NUM_IMAGES + 1)
        assert sampled == sample_units(units, max_images=number)
    folders = {Path(file.path).parent.name for unit in sample_units(units, max_images=10) for file in unit.files}
    assert len(folders) == len(CATEGORIES)


def test_a_sample_is_measured_and_the_rest_is_counted(world: Path, capsys) -> None:
    command = [*MEASURE, "--no-wordnet", "--max-images", "60", "--output", "sampled"]
    assert main(command) == 0, capsys.readouterr().err
    balance = Balance.from_record(json.loads(Path("sampled/words.json").read_text())["balance"])
    assert balance.left_out == {"not_sampled": NUM_IMAGES + 1 - 60}


# The page of the documentation


def test_the_commands_of_the_page_run(world: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    shutil.copytree(world / "photos", tmp_path / "photos")
    for name in ("captions.txt", "descriptors.json"):
        shutil.copyfile(world / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in re.split(r"^(?=ecor )", block, flags=re.MULTILINE):
            if not line.startswith("ecor "):
                subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True)
                continue
            words = shlex.split(line, comments=True)[1:]
            if "--backbone.name" in words:
                place = words.index("--backbone.name")
                del words[place : place + 4]  # weights that are downloaded
            assert main(words) == 0, (line, capsys.readouterr().err)
            ran.append(words[0])
    assert set(ran) >= {"words"}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/words.md", "exec"), {})


def test_the_page_names_options_and_defaults_as_they_are(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["words", "--help"])
    helped = capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z.-]+)", PAGE)) - {"--vocabulary"}:
        assert option in helped, option
    defaults = WordsConfig(categories="x").pruning
    limits = ("min_auc", "min_speaks", "top_k", "max_name_similarity", "max_rationale_similarity", "min_images")
    for name in (*limits, "min_rationales", "max_rationales"):
        assert f"`--pruning.{name.replace('_', '-')}` ({getattr(defaults, name)})" in PAGE, name
