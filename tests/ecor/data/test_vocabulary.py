"""Names become ids in one way only, and files that could mean two things are refused.

Covers: `ecor.data.name_parsing`.
"""

import csv
import inspect
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecor.data.name_parsing import normalise_name
from ecor.data.vocabulary import Vocabulary, parse_vocabulary, read_vocabulary, vocabulary_from_mapping

ANIMALS = {"cat": ["whiskers", "a tail"], "stone": [], "dog": ["a wet nose", "a tail"]}
NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
WRITTEN = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12).filter(normalise_name)
PLAIN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="-_/|[({"), max_size=12
).filter(normalise_name)
"""Without signs, which may make two names meet, and without what is between the names of a list."""


def test_ids_count_first_appearances():
    vocabulary = vocabulary_from_mapping(ANIMALS)
    assert vocabulary.categories == ("cat", "stone", "dog")
    assert vocabulary.rationales == ("whiskers", "a tail", "a wet nose")
    assert vocabulary.rationales_of == ((0, 1), (), (2, 1))
    assert vocabulary.num_pairs == 4


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Great_White-Shark", "great white shark"),
        ("red/green", "red or green"),
        (" a / b ", "a or b"),
        ("cafe\u0301", "caf\u00e9"),
        ("T-shirt", "t shirt"),
    ],
)
def test_one_spelling(written, read):
    assert normalise_name(written) == read


@given(NAMES)
def test_normalising_twice_changes_nothing(name):
    once = normalise_name(name)
    assert normalise_name(once) == once
    assert not set(once) & set("_-/\n\t")


@given(st.dictionaries(WRITTEN, st.lists(PLAIN, max_size=4), min_size=1))
def test_the_json_form_says_everything(mapping):
    mapping = {normalise_name(category): rationales for category, rationales in mapping.items()}
    vocabulary = vocabulary_from_mapping(mapping)
    again = parse_vocabulary(vocabulary.to_json())
    assert again == vocabulary
    assert again.digest == vocabulary.digest
    for category, rationales in mapping.items():
        ids = vocabulary.rationales_of[vocabulary.category_id(category)]
        assert ids == tuple(dict.fromkeys(vocabulary.rationale_id(name) for name in rationales))


@given(mapping=st.dictionaries(WRITTEN, st.lists(PLAIN, max_size=3), min_size=1, max_size=4))
def test_every_reader_gives_the_same_vocabulary(mapping, tmp_path_factory):
    """Of any names that can be written: quotes, commas, line separators, emoji."""
    mapping = {normalise_name(category): rationales for category, rationales in mapping.items()}
    expected, folder = vocabulary_from_mapping(mapping), tmp_path_factory.mktemp("readers")
    pairs = [(category, rationale) for category, rationales in mapping.items() for rationale in rationales or [None]]
    (folder / "v.json").write_text(json.dumps(mapping), encoding="utf-8")
    with (folder / "v.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("category", "rationale"), *pairs])
    categories, rationales = zip(*pairs, strict=True)
    columns = {"category": pa.array(categories, pa.string()), "rationale": pa.array(rationales, pa.string())}
    pq.write_table(pa.table(columns), folder / "v.parquet")
    for suffix in ("json", "csv", "parquet"):
        assert read_vocabulary(folder / f"v.{suffix}") == expected, suffix


def test_order_is_part_of_the_digest():
    backwards = dict(reversed(ANIMALS.items()))
    assert vocabulary_from_mapping(ANIMALS).digest != vocabulary_from_mapping(backwards).digest


def test_names_are_found_in_any_spelling_and_unknown_ones_name_the_nearest():
    vocabulary = vocabulary_from_mapping(ANIMALS)
    assert vocabulary.category_id(" CAT ") == 0
    assert vocabulary.rationale_id("a_wet-nose") == 2
    with pytest.raises(ValueError, match="unknown category 'stones'; the nearest known one is 'stone'"):
        vocabulary.category_id("stones")
    with pytest.raises(ValueError, match=r"unknown rationale 'whisker'.*'whiskers'"):
        vocabulary.rationale_id("whisker")


def test_a_rationale_repeated_within_a_category_counts_once():
    assert vocabulary_from_mapping({"cat": ["A-tail", "a tail"]}).rationales_of == ((0,),)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "no category"),
        ({"cat": "whiskers"}, "needs a list"),
        ({"_-": []}, "category '_-' has an empty name"),
        ({"cat": [" "]}, "a rationale has an empty name"),
        ({"cat": [3]}, "must be a text, got 3"),
        (
            {"size": ["-1"], "number": ["1"]},
            "file.json: rationale '1' and rationale '-1' would both be '1': rename one",
        ),
        ({"mark": ["A-", "a"]}, "rationale 'a' and rationale 'A-' would both be 'a'"),
        ({"size": ["level -1", "level 1"]}, "would both be 'level 1'"),
        ({"T-shirt": [], "t shirt": []}, "'T-shirt' and 't shirt' are the same category"),
    ],
)
def test_mappings_that_are_refused(mapping, message):
    with pytest.raises(ValueError, match=message):
        parse_vocabulary(json.dumps(mapping), source="file.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"coyote": [], "cat": [], "coyote": []}', "the key 'coyote' is there twice"),
        ('{"cat": [{"a": [], "a": []}]}', "the key 'a' is there twice"),
        ('{"cat": ["a",\n]}', "line 2 column 1|line 1 column 13"),
        ("[]", "got a JSON list"),
        ('{"cat": [{"a": "b"}]}', "rationale 'a' needs a list"),
        ('{"cat": [{"a": [""]}]}', "rationale 'a': a rationale has an empty name"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": [' * 2_000 + "]}" * 2_000, "nested too deep"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_vocabulary(text, source="file.json")


def test_level_two_files_give_their_first_level_and_the_second_on_request():
    text = json.dumps({"cat": [{"a tail": ["fur", "long"]}, {"whiskers": []}], "dog": [{"a tail": ["fur"]}]})
    assert parse_vocabulary(text).rationales == ("a tail", "whiskers")
    with_sub = parse_vocabulary(text, sub_rationales=True)
    assert with_sub.rationales == ("a tail", "fur", "long", "whiskers")
    assert with_sub.rationales_of == ((0, 1, 2, 3), (0, 1))


def test_all_file_formats_read_alike(tmp_path):
    expected = vocabulary_from_mapping(ANIMALS)
    (tmp_path / "v.json").write_text("\ufeff" + json.dumps(ANIMALS), encoding="utf-8")
    pairs = [("cat", "whiskers"), ("cat", "a tail"), ("stone", None), ("dog", "a wet nose"), ("dog", "a tail")]
    rows = "".join(f"{category},{rationale or ''}\n" for category, rationale in pairs)
    (tmp_path / "v.csv").write_text(f"category,rationale\n{rows}")
    categories, rationales = zip(*pairs, strict=True)
    pq.write_table(pa.table({"rationale": rationales, "category": categories}), tmp_path / "v.parquet")
    for suffix in ("json", "csv", "parquet"):
        assert read_vocabulary(tmp_path / f"v.{suffix}") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "line 1 has no column category"),
        ("category,rationale\ncat,fur\ncat\n", "line 3 has 1 cells, the first line names 2"),
        ("category,rationale\ncat,fur\n,claws\n", "line 3: the category has an empty name"),
        ("category,rationale\ncat,fur\ncat,\n", "line 3: category 'cat' has an empty rationale"),
        ("category,rationale\ncat,fur\nCat,claws\n", "line 3: 'Cat' and 'cat' are the same category"),
        ("category,rationale\ncat,_\n", "line 2: the rationale has an empty name"),
        ("category,rationale\n", "no row"),
    ],
)
def test_csv_that_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_vocabulary(path)


def test_cells_that_list_several_rationales(tmp_path):
    cells = ["a brim|a crown", '"a brim\na crown"', "\"['a brim', 'a crown']\"", "['a brim' 'a crown']"]
    for cell in cells:
        (tmp_path / "v.csv").write_text(f"category,rationale\nhat,{cell}\nhat,a band\nstone,\n")
        assert read_vocabulary(tmp_path / "v.csv") == vocabulary_from_mapping(
            {"hat": ["a brim", "a crown", "a band"], "stone": []}
        )
    pq.write_table(pa.table({"category": ["hat", "stone"], "rationale": [["a brim"], []]}), tmp_path / "v.parquet")
    assert read_vocabulary(tmp_path / "v.parquet").to_json() == '{\n "hat": [\n  "a brim"\n ],\n "stone": []\n}'


def test_both_unicode_forms_of_a_category_are_one(tmp_path):
    (tmp_path / "v.csv").write_text("category,rationale\ncaf\u00e9,a cup\ncafe\u0301,a chair\n", encoding="utf-8")
    assert read_vocabulary(tmp_path / "v.csv") == vocabulary_from_mapping({"caf\u00e9": ["a cup", "a chair"]})


def test_files_that_are_refused(tmp_path):
    (tmp_path / "v.json").write_bytes(b'{"cat": [\n"caf\xe9"]}')
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        read_vocabulary(tmp_path / "v.json")
    (tmp_path / "v.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_vocabulary(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=r"\.json, \.csv or \.parquet"):
        read_vocabulary(tmp_path / "v.yaml")
    with pytest.raises(ValueError, match="no such vocabulary"):
        read_vocabulary(tmp_path / "none.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": ("cat", "cat")},
        {"categories": ("Cat", "dog")},
        {"categories": ()},
        {"rationales_of": ((0,),)},
        {"rationales_of": ((1,), (0,))},
        {"rationales_of": ((0, 0), (1,))},
        {"rationales_of": ((0,), (2,))},
    ],
)
def test_a_vocabulary_cannot_contradict_itself(changes):
    fields = {"categories": ("cat", "dog"), "rationales": ("a", "b"), "rationales_of": ((0,), (1,))}
    with pytest.raises(ValueError):
        Vocabulary(**(fields | changes))


def test_real_vocabularies_read(shared_data):
    num_categories = {
        path.stem: len(read_vocabulary(path).categories) for path in (shared_data / "descriptors").glob("*.json")
    }
    assert num_categories["imagenet"] == 1000
    assert num_categories["places365"] == 365


@pytest.mark.parametrize("value", [None, 5, True, "a brim", b"a brim", {"a brim": []}])
def test_rationales_that_are_no_list_are_refused_with_the_category(value):
    with pytest.raises(ValueError, match=r"mapping: category 'hat' needs a list of rationales, got .*may be empty"):
        inspect.unwrap(vocabulary_from_mapping)({"hat": value})  # users have no check of types at run time


def test_a_null_in_a_file_is_refused_with_the_category(tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"hat": null}')
    with pytest.raises(ValueError, match=r"vocabulary\.json: category 'hat' needs a list of rationales, got null"):
        read_vocabulary(tmp_path / "vocabulary.json")
