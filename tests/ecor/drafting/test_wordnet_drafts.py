"""Which meaning of a name is taken, and what WordNet drafts for it: parts and phrases, its own before inherited ones.

Covers: `ecor.drafting.category_names`, `ecor.drafting.candidates`.
"""

from pathlib import Path

import pytest

from ecor.convis.wordnet import WordNetLexicon
from ecor.drafting.candidates import Candidate, merge_candidates
from ecor.drafting.category_names import CategoryName, parse_category_names
from ecor.drafting.wordnet_drafts import (
    choose_synset,
    hypernym_levels,
    kinds_of,
    meanings_of,
    synonyms_of,
    wordnet_drafts,
)
from tests.support.programs import is_hidden
from tests.support.small_wordnet import write_small_wordnet

FOLDER = Path("/usr/share/wordnet")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WordNetLexicon:
    return WordNetLexicon(write_small_wordnet(tmp_path_factory.mktemp("wordnet") / "dict"))


@pytest.fixture(scope="module")
def wordnet() -> WordNetLexicon:
    if is_hidden("wordnet") or not (FOLDER / "data.noun").is_file():
        pytest.skip("Debian's wordnet-base is not on this machine")
    return WordNetLexicon(FOLDER)


def named(name: str, synset: str | None = None) -> CategoryName:
    return CategoryName(name=name, written=name, synset=synset)


def test_the_list_is_read_line_by_line() -> None:
    found = parse_category_names("# toys\nT-shirt\n\n  crane : crane.n.04\npolice_car\n", source="names.txt")
    assert [(each.name, each.synset) for each in found] == [
        ("t shirt", None),
        ("crane", "crane.n.04"),
        ("police car", None),
    ]
    assert found[0].written == "T-shirt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names.txt: no category in it: write one name a line"),
        ("# only words\n", "no category in it"),
        ("cat\ndog\nCat\n", "names.txt: line 3: 'cat' is named on line 1 too"),
        ("crane: a bird\n", "line 1: after a colon stands a noun synset of WordNet, as in `crane: crane.n.04`"),
        (": crane.n.04\n", "line 1: the category has an empty name"),
        ("--\n", "line 1: the category has an empty name"),
        ("a\tb\x07\n", "control character"),
    ],
)
def test_a_list_with_an_error_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_category_names(text, source="names.txt")
    assert said in str(error.value)


def test_the_animal_is_meant_and_not_the_person(small: WordNetLexicon) -> None:
    assert meanings_of(small, named("tiger")) == ("tiger.n.01", "tiger.n.02")
    assert choose_synset(small, named("tiger")) == "tiger.n.02"
    assert choose_synset(small, named("tiger", "tiger.n.01")) == "tiger.n.01"
    assert choose_synset(small, named("tigers")) == "tiger.n.02"
    assert choose_synset(small, named("person")) == "person.n.01", "where there is no other meaning"
    assert choose_synset(small, named("idea")) == "idea.n.01"
    assert choose_synset(small, named("quagga")) is None
    with pytest.raises(ValueError, match=r"no noun synset 'tiger\.n\.09'; it has tiger\.n\.01, tiger\.n\.02"):
        choose_synset(small, named("tiger", "tiger.n.09"))


def test_hypernyms_come_nearest_first(small: WordNetLexicon) -> None:
    assert list(hypernym_levels(small, "tiger.n.02")) == [
        ("tiger.n.02", 0),
        ("cat.n.01", 1),
        ("animal.n.01", 2),
        ("whole.n.02", 3),
        ("physical_entity.n.01", 4),
        ("entity.n.01", 5),
    ]
    assert synonyms_of(small, "tiger.n.02") == ("big cat",), "a tiger is more often the person"
    assert synonyms_of(small, "cat.n.01") == ("cat", "feline")
    assert kinds_of(small, "tiger.n.02")[:3] == ("cat", "feline", "animal")


@pytest.mark.parametrize(
    ("depth", "rationales"),
    [
        (0, ["a tawny coat with black stripes", "a stripe"]),
        (1, ["a tawny coat with black stripes", "whiskers", "a stripe", "a tail"]),
        (2, ["a tawny coat with black stripes", "whiskers", "a stripe", "a tail", "a head"]),
    ],
)
def test_definitions_then_parts_own_then_inherited(small: WordNetLexicon, depth: int, rationales: list[str]) -> None:
    found = list(wordnet_drafts(small, named("tiger"), synset="tiger.n.02", depth=depth, max_words=12))
    assert [each.rationale for each in found] == rationales
    sources = {each.rationale: each.sources for each in found}
    assert sources["a stripe"] == ("part of tiger.n.02",)
    assert sources["a tawny coat with black stripes"] == ("definition of tiger.n.02",)
    short = wordnet_drafts(small, named("tiger"), synset="tiger.n.02", depth=0, max_words=3)
    assert [each.rationale for each in short] == ["a tawny coat", "black stripes", "a stripe"]


def test_candidates_of_one_text_are_merged_with_all_sources() -> None:
    found = merge_candidates(
        [
            Candidate(category="Cat", rationale="a long-tail", sources=("captions (3)",)),
            Candidate(category="cat", rationale="A long tail", sources=("part of cat.n.01", "captions (3)")),
            Candidate(category="dog", rationale="a long tail", sources=("descriptors",)),
            Candidate(category="dog", rationale=" - ", sources=("descriptors",)),
        ]
    )
    assert [(each.category, each.rationale, each.sources) for each in found] == [
        ("cat", "a long tail", ("captions (3)", "part of cat.n.01")),
        ("dog", "a long tail", ("descriptors",)),
    ]


def test_wordnet_itself_knows_hats_and_giraffes(wordnet: WordNetLexicon) -> None:
    for name, synset in (("tiger", "tiger.n.02"), ("shoes", "shoe.n.01"), ("octopus", "octopus.n.02")):
        assert choose_synset(wordnet, named(name)) == synset
    hat = [each.rationale for each in wordnet_drafts(wordnet, named("hat"), synset="hat.n.01", depth=0, max_words=12)]
    assert hat == ["shaped crown", "a brim", "a brim", "a crown", "a hatband"]
    found = wordnet_drafts(wordnet, named("giraffe"), synset="giraffe.n.01", depth=3, max_words=12)
    assert {"a spotted coat", "small horns", "very long neck", "a hoof"} <= {each.rationale for each in found}
    assert wordnet.parts("hat.n.01") == ("brim.n.01", "crown.n.10", "hatband.n.01") or wordnet.parts("hat.n.01")
