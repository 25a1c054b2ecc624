"""Laws of the demo's own lexicon: all that its sets name is in it, each with a definition, under one root.

Covers: `ecor.demo.lexicon`, `ecor.demo.worlds.concept_kinds`.
"""

from ecor.convis.lexicon import Lexicon
from ecor.demo.lexicon import ROOT, categories_under, demo_lexicon
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.demo.worlds.registry import get_world, set_vocabulary

LEXICON = demo_lexicon()


def test_every_category_and_part_of_every_set_is_a_leaf() -> None:
    assert isinstance(LEXICON, Lexicon)
    for set_name in get_world("demo").sets:
        for category, rationales in set_vocabulary(set_name).items():
            assert {category, *rationales} <= set(LEXICON.leaves)
    assert set(LEXICON.leaves) == {*FAMILIAR.categories, *FAMILIAR.rationales}, "and nothing else is one"


def test_all_are_kinds_of_one_root_and_the_list_is_closed() -> None:
    assert [name for name in LEXICON.concepts if not LEXICON.parents(name)] == [ROOT]
    assert LEXICON.descendants(ROOT) == LEXICON.concepts
    for name in LEXICON.concepts:
        assert set(LEXICON.parents(name)) <= set(LEXICON.concepts)
    assert set(categories_under(ROOT, lexicon=LEXICON)) == set(FAMILIAR.categories)
    assert not categories_under("part", lexicon=LEXICON)
    assert set(categories_under("vessel", lexicon=LEXICON)) == {"sailboat", "submarine"}


def test_definitions_are_distinct_and_no_category_is_defined_by_its_name() -> None:
    definitions = [LEXICON.definition(name) for name in LEXICON.concepts]
    assert all(definitions) and len(set(definitions)) == len(definitions)
    for category in FAMILIAR.categories:
        words = LEXICON.definition(category).replace(",", "").split()
        assert category not in words and all(
            part in LEXICON.definition(category) for part in FAMILIAR.kinds[category].rationales
        )
