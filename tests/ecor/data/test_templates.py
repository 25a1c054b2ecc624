"""Templates hold exactly their placeholders, and names go in as they are."""

import pytest

from ecor.config.model import TemplateConfig
from ecor.data.templates import category_sentence, check_templates, pair_sentence, rationale_sentence


def test_the_default_words():
    templates = TemplateConfig()
    check_templates(templates)
    assert rationale_sentence(templates, "a tail") == "There is a tail."
    assert category_sentence(templates, "cat") == "This is a photo of a cat."
    assert pair_sentence(templates, "cat", "a tail") == "This is a photo of a cat because there is a tail."


def test_braces_in_names_stay():
    assert pair_sentence(TemplateConfig(), "{category}", "{0}") == (
        "This is a photo of a {category} because there is {0}."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rationale": "There is."}, "template rationale must hold {rationale} once"),
        ({"rationale": "{rationale} {rationale}"}, "once"),
        ({"category": "A {category} with {rationale}."}, "template category must hold"),
        ({"category_given_rationale": "A {category}."}, "{category} and {rationale} once"),
        ({"category": "A {} here."}, "must hold"),
        ({"category": "A {category:>9}."}, "without a format"),
        ({"category": "A {category!r}."}, "without a format"),
        ({"category": "A {category."}, "not a format string"),
    ],
)
def test_other_templates_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_templates(TemplateConfig(**changes))
