"""Laws of lexicons: what is kept is closed under "is a kind of", and WordNet is read as it is.

Covers: `ecor.convis.wordnet`.
"""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from ecor.convis.lexicon import Lexicon, ListLexicon, read_lexicon
from ecor.convis.wordnet import WordNetLexicon
from tests.support.programs import is_hidden

FOLDER = Path("/usr/share/wordnet")
TOYS = {"thing": "anything", "toy": "a thing to play with", "ball": "a round toy", "kite": "a toy that flies"}
PARENTS = {"toy": ["thing"], "ball": ["toy"], "kite": ["toy", "thing"]}


@pytest.fixture(scope="module")
def wordnet() -> WordNetLexicon:
    if is_hidden("wordnet") or not (FOLDER / "data.noun").is_file():
        pytest.skip("Debian's wordnet-base is not on this machine")
    return WordNetLexicon(FOLDER)


def small_wordnet(folder: Path) -> Path:
    """Five synsets in the format wndb(5WN), by hand: entity, animal, dog, mouse (two meanings), and one instance."""
    lines = {
        100: "03 n 01 entity 0 001 ~ 00000200 n 0000 | that which is",
        200: '05 n 02 animal 0 beast 1 002 @ 00000100 n 0000 ~ 00000300 n 0000 | a living being; "beasts roared"',
        300: '05 n 01 dog 0 001 @ 00000200 n 0000 | a "domestic" animal; that barks; "the dog barked"; "dogs"',
        400: "05 n 01 mouse 0 001 @ 00000200 n 0000 | a small animal",
        500: "06 n 01 mouse 1 002 @ 00000100 n 0000 @ 00000200 n 0000 | a device | with a wheel",
        600: "15 n 01 Laika 0 002 @i 00000300 n 0000 @ 00000100 n 0000 | a dog in orbit",
    }
    index = {"entity": [100], "animal": [200], "beast": [200], "dog": [300], "mouse": [500, 400], "laika": [600]}
    licence = "  1 This software and database is being provided to you\n  2 \n"
    folder.mkdir()
    data = "".join(f"{offset:08d} {line}  \n" for offset, line in lines.items())
    (folder / "data.noun").write_text(licence + data)
    rows = [
        f"{word} n {len(senses)} 1 @ {len(senses)} 0 " + " ".join(f"{sense:08d}" for sense in senses)
        for word, senses in sorted(index.items())
    ]
    (folder / "index.noun").write_text(licence + "".join(f"{row}  \n" for row in rows))
    (folder / "noun.exc").write_text("mice mouse\n")
    return folder


def test_a_small_database_by_hand(tmp_path: Path) -> None:
    lexicon = WordNetLexicon(small_wordnet(tmp_path / "dict"))
    assert isinstance(lexicon, Lexicon)
    assert lexicon.concepts == ("entity.n.01", "animal.n.01", "dog.n.01", "mouse.n.02", "mouse.n.01", "laika.n.01")
    assert lexicon.definition("animal.n.01") == "a living being"
    assert lexicon.definition("mouse.n.01") == "a device | with a wheel"
    assert lexicon.lemmas("animal.n.01") == ("animal", "beast")
    assert lexicon.parents("mouse.n.01") == ("entity.n.01", "animal.n.01")
    assert lexicon.synset("laika.n.01").instance_of == (300,)
    assert lexicon.descendants("dog.n.01") == ("dog.n.01",), "an instance is no kind"
    assert lexicon.descendants("animal.n.01") == ("animal.n.01", "dog.n.01", "mouse.n.02", "mouse.n.01")
    assert lexicon.synsets("mice") == lexicon.synsets("Mouse") == ("mouse.n.01", "mouse.n.02")
    assert lexicon.synsets("dogs") == ("dog.n.01",) and lexicon.synsets("cat") == ()
    taxonomy = lexicon.taxonomy(["dogs", "unheard-of"])
    assert taxonomy.concepts == ("entity.n.01", "animal.n.01", "dog.n.01") and taxonomy.leaves == ("dog.n.01",)
    with pytest.raises(ValueError, match="none of the words"):
        lexicon.taxonomy(["unheard-of"])
    with pytest.raises(ValueError, match=r"no noun synset 'dog': write them as dog\.n\.01"):
        lexicon.definition("dog")


@st.composite
def hierarchies(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Of each synset its hypernyms and what it is an instance of, among those before it."""
    found = []
    for number in range(draw(st.integers(1, 9))):
        above = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        cut = draw(st.integers(0, len(above)))
        found.append((above[:cut], above[cut:]))
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=hierarchies(), picked=st.sets(st.integers(0, 8), min_size=1))
def test_the_closure_of_words_is_closed_and_follows_no_instance(
    tmp_path: Path, tree: list[tuple[list[int], list[int]]], picked: set[int]
) -> None:
    """Of any hierarchy: what is kept is what can be reached upwards, its kinds are those that reach it."""
    data, index = "", ""
    for number, (kinds, instances) in enumerate(tree):
        pointers = [f"@ {place + 1:08d} n 0000" for place in kinds] + [
            f"@i {place + 1:08d} n 0000" for place in instances
        ]
        links = " ".join([f"{len(pointers):03d}", *pointers])
        data += f"{number + 1:08d} 03 n 01 w{number} 0 {links} | the thing {number}  \n"
        index += f"w{number} n 1 0 1 0 {number + 1:08d}  \n"
    for name, text in (("data.noun", data), ("index.noun", index), ("noun.exc", "")):
        (tmp_path / name).write_text(text)
    lexicon = WordNetLexicon(tmp_path)

    def reached(number: int) -> set[int]:
        return {number}.union(*(reached(above) for above in tree[number][0]))

    seeds = [number for number in picked if number < len(tree)] or [0]
    kept = set().union(*(reached(number) for number in seeds))
    taxonomy = lexicon.taxonomy(f"w{number}" for number in seeds)
    assert set(taxonomy.concepts) == {f"w{number}.n.01" for number in kept}
    for number in kept:
        name = f"w{number}.n.01"
        assert set(taxonomy.parents(name)) == {f"w{above}.n.01" for above in tree[number][0]} <= set(taxonomy.concepts)
        assert set(taxonomy.descendants(name)) == {f"w{each}.n.01" for each in kept if number in reached(each)}
        every = {f"w{each}.n.01" for each in range(len(tree)) if number in reached(each)}
        assert set(lexicon.descendants(name)) == every
    again = lexicon.taxonomy(name.split(".")[0] for name in taxonomy.concepts)
    assert again.concepts == taxonomy.concepts


def test_quotes_within_a_definition_stay(tmp_path: Path) -> None:
    """An example begins with a quote after a semicolon."""
    lexicon = WordNetLexicon(small_wordnet(tmp_path / "dict"))
    assert lexicon.definition("dog.n.01") == 'a "domestic" animal; that barks'


def test_absent_files_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"data\.noun, index\.noun, noun\.exc missing.*wordnet-base.*WNSEARCHDIR"):
        WordNetLexicon(tmp_path)
    folder = small_wordnet(tmp_path / "dict")
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    assert WordNetLexicon().folder == folder
    monkeypatch.delenv("WNSEARCHDIR")
    monkeypatch.setenv("WNHOME", str(tmp_path))
    assert WordNetLexicon().folder == folder


def test_a_taxonomy_of_ones_own() -> None:
    toys = ListLexicon(TOYS, parents=PARENTS)
    assert isinstance(toys, Lexicon)
    assert toys.concepts == tuple(TOYS) and toys.leaves == ("ball", "kite")
    assert toys.descendants("toy") == ("toy", "ball", "kite") and toys.parents("thing") == ()
    assert toys.definition("kite") == TOYS["kite"]
    with pytest.raises(ValueError, match="concepts without a definition: doll"):
        ListLexicon(TOYS, parents={"doll": ["toy"]})
    with pytest.raises(ValueError, match="kinds of themselves: ball, kite, toy"):
        ListLexicon(TOYS, parents=PARENTS | {"toy": ["ball"]})
    with pytest.raises(ValueError, match="unknown concept 'doll' among 4"):
        toys.descendants("doll")


def test_a_taxonomy_from_a_file(tmp_path: Path) -> None:
    entries = {name: {"definition": text, "kind_of": PARENTS.get(name, [])} for name, text in TOYS.items()}
    del entries["thing"]["kind_of"]
    path = tmp_path / "toys.json"
    path.write_text(json.dumps(entries))
    read, wanted = read_lexicon(path), ListLexicon(TOYS, parents=PARENTS)
    assert read.concepts == wanted.concepts
    for name in TOYS:
        assert (read.definition(name), read.parents(name)) == (wanted.definition(name), wanted.parents(name))
    wrong = (
        "[]",
        '{"a": 1}',
        '{"a": {}}',
        '{"a": {"definition": 1}}',
        '{"a": {"definition": "a", "kind_of": "b"}}',
        "{",
    )
    for text in wrong:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"toys\.json is no lexicon"):
            read_lexicon(path)
    with pytest.raises(ValueError, match=r"none\.json is no lexicon"):
        read_lexicon(tmp_path / "none.json")


def test_debians_wordnet_has_its_known_counts(wordnet: WordNetLexicon) -> None:
    synsets = [wordnet.synset(name) for name in wordnet.concepts]
    assert len(synsets) == 82_115 and len(set(wordnet.concepts)) == 82_115
    assert len(wordnet._senses) == 117_798
    assert sum(len(each.hypernyms) for each in synsets) == 75_850
    assert sum(len(each.instance_of) for each in synsets) == 8_577
    assert sum(len(each.hypernyms) > 1 for each in synsets) == 1_422
    assert len(wordnet.descendants("entity.n.01")) == 74_374
    assert len(wordnet.descendants("physical_entity.n.01")) == 39_556
    assert len(wordnet.descendants("artifact.n.01")) == 10_505
    assert len(wordnet.descendants("animal.n.01")) == 3_999
    assert len(wordnet.descendants("bird.n.01")) == 872
    assert wordnet.synset("dog.n.01").offset == 2_084_071
    assert wordnet.synset("tench.n.01").offset == 1_440_764
    assert wordnet.definition("bird.n.01") == (
        "warm-blooded egg-laying vertebrates characterized by feathers and forelimbs modified as wings"
    )
    definitions = [wordnet.definition(name) for name in wordnet.concepts]
    assert all(definitions)
    assert len(definitions) - len(set(definitions)) == 631, "explain.md counts 630"
    tokenizer = SimpleTokenizer()
    tokens = [len(tokenizer.encode(text)) + 2 for text in definitions if len(text) > 220]
    assert sum(number > 77 for number in tokens) == 19 and max(tokens) == 137


@pytest.mark.parametrize(
    ("word", "meaning"), [("geese", "goose.n.01"), ("wolves", "wolf.n.01"), ("fire engines", "fire_engine.n.01")]
)
def test_forms_of_a_word_lead_to_it(wordnet: WordNetLexicon, word: str, meaning: str) -> None:
    assert meaning in wordnet.synsets(word)


def test_the_closure_of_any_word_list_is_closed(wordnet: WordNetLexicon) -> None:
    words = [wordnet.lemmas(name)[0] for name in wordnet.concepts]
    for seed in range(5):
        taxonomy = wordnet.taxonomy(random.Random(seed).sample(words, 40))
        kept = set(taxonomy.concepts)
        for name in taxonomy.concepts:
            assert set(taxonomy.parents(name)) == set(wordnet.parents(name)) <= kept
        again = wordnet.taxonomy({lemma for name in kept for lemma in wordnet.lemmas(name)})
        assert kept <= set(again.concepts)
