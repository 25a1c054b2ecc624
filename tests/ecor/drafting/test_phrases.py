"""Phrases of sentences by plain rules, checked by hand; what captions say of a category; what texts alone drop.

Covers: `ecor.drafting.caption_drafts`, `ecor.drafting.text_rules`.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecor.demo.worlds.familiar import FAMILIAR
from ecor.drafting.candidates import Candidate
from ecor.drafting.caption_drafts import count_phrases
from ecor.drafting.phrases import part_phrases, with_article
from ecor.drafting.text_rules import CategoryWords, text_verdicts


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        (
            "tallest living quadruped; having a spotted coat and small horns and very long neck and legs; of savannahs",
            ["a spotted coat", "small horns", "very long neck", "legs"],
        ),
        (
            "nocturnal bird of prey with hawk-like beak and claws and large head with front-facing eyes",
            ["hawk-like beak", "claws", "large head with front-facing eyes"],
        ),
        (
            "hoofed mammals having slender legs and a flat coat with a narrow mane along the back of the neck",
            ["slender legs", "a flat coat", "a narrow mane along the back of the neck"],
        ),
        ("headdress that protects the head; has shaped crown and usually a brim", ["shaped crown", "a brim"]),
        ("a wheeled vehicle that has two wheels and is moved by foot pedals", ["two wheels"]),
        ("a zebra with black and white stripes", ["black and white stripes"]),
        ("a red, white and blue flag with red, white and blue bands", ["red, white and blue bands"]),
        ("This is a photo of a cow because there is a pink udder.", ["a pink udder"]),
        ("a dog, with floppy ears and a tag, next to a cat with whiskers", ["floppy ears", "a tag"]),
        ("a tower with a light that gives warning to passing ships", ["a light"]),
        ("pot for tea; has a spout and handle", ["a spout", "handle"]),
        ("animals having a bony or cartilaginous skeleton", ["a bony or cartilaginous skeleton"]),
        ("a plain sentence", []),
        ("with", []),
        ("", []),
    ],
)
def test_phrases_that_follow_a_marker(sentence: str, phrases: list[str]) -> None:
    assert list(part_phrases(sentence, max_words=9)) == phrases


@given(st.text(max_size=200), st.integers(1, 12))
def test_any_text_gives_short_phrases_of_its_own_words(text: str, max_words: int) -> None:
    for phrase in part_phrases(f"a thing with {text}", max_words=max_words):
        assert 0 < len(phrase.split()) <= max_words and phrase == phrase.strip()


def test_articles() -> None:
    nouns = ("wheel", "antler", "scissors", "claws", "glass", "octopus")
    assert list(map(with_article, nouns)) == ["a wheel", "an antler", "scissors", "claws", "a glass", "an octopus"]


def test_captions_give_a_phrase_to_the_category_before_it_and_count_captions() -> None:
    captions = [
        "A cat with whiskers and a cat with whiskers",
        "two cats with whiskers, a dog with floppy ears.",
        "a puppy with floppy ears",
        "a man with a hat",
        "a catalogue with pages",
    ]
    counts = count_phrases(captions, words={"cat": ("cat",), "dog": ("dog", "puppy", "cat")}, max_words=8)
    assert (counts.num_captions, counts.num_mentioning) == (5, 3)
    found = [(each.category, each.rationale, each.sources) for each in counts.drafts(min_captions=2)]
    assert found == [("cat", "whiskers", ("captions (2)",)), ("dog", "floppy ears", ("captions (2)",))]


def test_every_part_of_the_drawn_world_is_found_in_a_caption_that_says_it() -> None:
    missed = [
        part
        for category, kind in FAMILIAR.kinds.items()
        for part in kind.rationales
        if list(part_phrases(f"a photo of a {category}, with {part}", max_words=12)) != [part]
    ]
    assert len(missed) <= 0.06 * len(FAMILIAR.rationales), missed


def verdicts(*rationales: str) -> list[str]:
    words = {"owl": CategoryWords(names=("owl", "bird of night"), kinds=("bird of prey", "bird", "animal"))}
    found = [Candidate(category="owl", rationale=text, sources=("x",)) for text in rationales]
    return list(text_verdicts(found, words))


def test_names_kinds_and_repeated_texts_are_dropped() -> None:
    assert verdicts("an owl's face", "two owls", "a bird of night in flight", "bowls") == [*["names_category"] * 3, ""]
    assert verdicts("a large bird", "birds", "a bird nest", "some birds of prey") == [
        "names_kind",
        "names_kind",
        "",
        "names_kind",
    ]
    assert verdicts("a bird with round eyes", "a head larger than that of a bird") == ["", ""]
    assert verdicts("a round eye", "round eyes", "the round eye", "a round eyelid") == [
        "",
        "same_text",
        "same_text",
        "",
    ]


def test_a_repeated_text_of_another_category_stays() -> None:
    words = {name: CategoryWords(names=(name,)) for name in ("cat", "dog")}
    found = [Candidate(category=name, rationale="a tail", sources=("x",)) for name in words]
    assert text_verdicts(found, words) == ("", "")
