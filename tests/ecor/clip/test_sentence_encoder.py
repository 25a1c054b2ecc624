"""Laws of the exact encoder: the features and gradients of open_clip's padded forward, whatever is shared or cut.

Covers: `ecor.clip.encoding_blocks`, `ecor.clip.sentence_pairs`.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.sentence_pairs import split_pairs
from ecor.config.model import BackboneConfig, TemplateConfig
from ecor.data.name_parsing import normalise_name
from ecor.data.templates import category_sentence, pair_sentence, rationale_sentence
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping

TEXT = {"context_length": 40, "width": 48, "heads": 4, "layers": 3}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 1},
    "text_cfg": TEXT,
}
BIDIRECTIONAL = TINY | {"custom_text": True, "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last"}}
CUSTOM = TINY | {
    "custom_text": True,
    "quick_gelu": True,
    "text_cfg": TEXT | {"proj_bias": True, "ls_init_value": 0.1, "pool_type": "eos", "eos_id": 49407},
}
NAMES = {
    "dog": ["a wet nose", "four legs", "its tail"],
    "new york taxi": ["wheels", "a yellow (or orange) body", "four legs"],
    "jalapeño 'n' cheese": ["a caf\u00e9 nearby", "it's green &amp; hot"],
    "ox": ["horns!", "hooves, two of them.", "x " * 40],
    "an unreasonably long name of a category that goes on and on and on, far beyond what any tower reads, to the end": [
        "its tail"
    ],
}
TEMPLATES = {
    "usual": TemplateConfig(),
    "rationale first": TemplateConfig(category_given_rationale="There is {rationale}, so it is a {category}."),
    "names at the ends": TemplateConfig(rationale="{rationale}", category_given_rationale="{category} has {rationale}"),
    "no white space": TemplateConfig(category_given_rationale="{category}/{rationale} in a photo"),
    "brackets": TemplateConfig(category_given_rationale="A photo ({category}), as seen ({rationale})"),
}


def tiny(folder: Path, *, settings: dict = TINY) -> Backbone:
    path = folder / "tiny.json"
    path.write_text(json.dumps(settings))
    return load_backbone(BackboneConfig(name=str(path), pretrained="random"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_from_mapping(NAMES)


def encoder_of(backbone: Backbone, vocabulary: Vocabulary, **options: object) -> SentenceEncoder:
    return SentenceEncoder(backbone, vocabulary=vocabulary, **({"templates": TemplateConfig()} | options))


def contexts(seed: int = 0, *, num: tuple[int, int] = (2, 3)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("rationale_context", "category_context")
    return {
        name: (0.1 * torch.randn(each, 48, generator=generator)).requires_grad_()
        for name, each in zip(names, num, strict=True)
    }


def naive_pairs(encoder: SentenceEncoder) -> torch.Tensor:
    vocabulary, templates = encoder.vocabulary, encoder.templates
    texts = [pair_sentence(templates, c, r) for r in vocabulary.rationales for c in vocabulary.categories]
    features = encoder.backbone.encode_text(texts, context=encoder.category_context)
    return features.unflatten(0, (len(vocabulary.rationales), -1))


def everything(encoder: SentenceEncoder) -> torch.Tensor:
    return torch.arange(encoder.num_rationales)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_features_are_those_of_the_padded_forward(
    backbone: Backbone, vocabulary: Vocabulary, name: str, learned: bool
) -> None:
    options = contexts() if learned else {}
    encoder = encoder_of(backbone, vocabulary, templates=TEMPLATES[name], sentences_per_pass=7, **options)
    assert_close(encoder.category_features(everything(encoder)), naive_pairs(encoder), rtol=0, atol=1e-5)
    alone = [category_sentence(encoder.templates, c) for c in vocabulary.categories]
    assert_close(encoder.categories(), backbone.encode_text(alone, context=encoder.category_context), rtol=0, atol=1e-5)
    texts = [rationale_sentence(encoder.templates, r) for r in vocabulary.rationales]
    expected = backbone.encode_text(texts, context=encoder.rationale_context)
    assert_close(encoder.rationale_features(), expected, rtol=0, atol=1e-5)
    assert_close(encoder.rationale_features(torch.tensor([4, 1, 4])), expected[[4, 1, 4]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [CUSTOM, BIDIRECTIONAL])
def test_other_towers_are_read_rightly(tmp_path: Path, vocabulary: Vocabulary, settings: dict) -> None:
    encoder = encoder_of(tiny(tmp_path, settings=settings), vocabulary, **contexts())
    assert (encoder.backbone.causal_text is None) == (settings is BIDIRECTIONAL)
    with torch.no_grad():
        assert_close(encoder.category_features(everything(encoder)), naive_pairs(encoder), rtol=0, atol=1e-5)


def test_a_part_of_the_pairs_is_that_part_of_all(backbone: Backbone, vocabulary: Vocabulary) -> None:
    encoder = encoder_of(backbone, vocabulary)
    rationales, categories = torch.tensor([5, 0, 5]), torch.tensor([3, 1])
    for each in (encoder, encoder.with_frozen_contexts()):
        all_pairs = each.category_features(everything(each))
        expected = all_pairs[rationales][:, categories]
        assert_close(each.category_features(rationales, categories), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["usual", "rationale first", "no white space"])
def test_gradients_of_the_contexts_are_those_of_the_padded_forward(
    backbone: Backbone, vocabulary: Vocabulary, name: str
) -> None:
    encoder = encoder_of(backbone, vocabulary, templates=TEMPLATES[name], **contexts())
    weights = torch.randn(
        encoder.num_rationales, encoder.num_categories, 32, generator=torch.Generator().manual_seed(1)
    )

    def gradient(features: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((features * weights).sum(), encoder.category_context)[0]

    expected = gradient(naive_pairs(encoder))
    close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    assert_close(gradient(encoder.category_features(everything(encoder))), expected, **close)
    parts = [checkpoint(encoder.category_features, part, use_reentrant=False) for part in everything(encoder).split(4)]
    assert_close(gradient(torch.cat(parts)), expected, **close)


def test_the_rationale_context_gets_its_gradient(backbone: Backbone, vocabulary: Vocabulary) -> None:
    encoder = encoder_of(backbone, vocabulary, **contexts())
    texts = [rationale_sentence(encoder.templates, r) for r in vocabulary.rationales]
    naive = backbone.encode_text(texts, context=encoder.rationale_context)
    ours, expected = (
        torch.autograd.grad(each[:, 0].sum(), encoder.rationale_context)[0]
        for each in (encoder.rationale_features(), naive)
    )
    assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_detached_encoder_keeps_the_contexts_of_its_making(backbone: Backbone, vocabulary: Vocabulary) -> None:
    learned = contexts()
    encoder = encoder_of(backbone, vocabulary, **learned)
    before = encoder.with_frozen_contexts()
    expected = before.category_features(torch.tensor([0]))
    with torch.no_grad():
        learned["category_context"] += torch.randn(3, 48)
    assert torch.equal(before.category_features(torch.tensor([0])), expected) and not expected.requires_grad
    assert not torch.allclose(encoder.category_features(torch.tensor([0])), expected, atol=1e-3)
    without_bank = SentenceEncoder(
        backbone,
        vocabulary=vocabulary,
        templates=TemplateConfig(),
        category_context=before.category_context,
        cache_bytes=0,
    ).with_frozen_contexts()
    assert_close(without_bank.category_features(torch.tensor([0])), expected, rtol=0, atol=1e-6)


def test_cut_sentences_are_counted(backbone: Backbone, vocabulary: Vocabulary) -> None:
    encoder = encoder_of(backbone, vocabulary, **contexts(num=(6, 8)))
    names, templates = encoder.vocabulary, encoder.templates
    count = lambda texts, learned: sum(n + learned > 40 for n in backbone.text_tokenizer.token_counts(texts))  # noqa: E731
    expected = count([rationale_sentence(templates, r) for r in names.rationales], 6)
    expected += count([category_sentence(templates, c) for c in names.categories], 8)
    expected += count([pair_sentence(templates, c, r) for c in names.categories for r in names.rationales], 8)
    assert encoder.num_truncated == expected > 0


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    category=words,
    rationale=words,
    template=st.sampled_from([each.category_given_rationale for each in TEMPLATES.values()]),
)
def test_sentences_split_as_they_are_tokenised_or_are_compared(
    backbone: Backbone, category: str, rationale: str, template: str
) -> None:
    """Where names are taken for plain, beginning and ending are the tokens of the whole sentence."""
    names = normalise_name(category), normalise_name(rationale)
    assume(all(names) and names[0] != "b" and names[1] != "d")
    vocabulary = vocabulary_from_mapping({names[0]: [names[1]], "b": ["d"]})
    pairs = split_pairs(backbone, vocabulary=vocabulary, template=template, longest_start=30)
    if pairs is None or pairs.suspect_categories or pairs.suspect_rationales:
        return
    text = template.format(category=vocabulary.categories[0], rationale=vocabulary.rationales[0])
    assert pairs.is_tokenised_alike(backbone, text, category=0, rationale=0)


def test_what_cannot_be_read_is_refused(backbone: Backbone, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="leave no room for words"):
        encoder_of(backbone, vocabulary, category_context=torch.zeros(38, 48))
    with pytest.raises(ValueError, match="must hold"):
        encoder_of(backbone, vocabulary, templates=TemplateConfig(rationale="nothing"))
