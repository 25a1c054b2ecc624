"""Encode all sentences of a vocabulary with a KV cache for shared prefixes and no padding.

A plain causal tower reads a sentence's feature at its last token, and no token sees what follows it. So the keys and
values of a beginning that sentences share ("This is a photo of a …", then "… dog because there is …") are computed once
and attended to by every ending. Learned context tokens are a part of the beginning, with gradient. All of it is exact:
features equal open_clip's `encode_text` up to rounding.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.sentence_pairs import SentencePairs, common_start, equal_length_batches, inverse_order, split_pairs
from ecor.clip.towers.causal_text import CausalText, KVCache, Tokens, cache_continuations, cache_prefix, last_features
from ecor.config.checks import require
from ecor.config.model import TemplateConfig
from ecor.data.templates import category_sentence, check_templates, pair_sentence, rationale_sentence
from ecor.data.vocabulary import Vocabulary


class SentenceEncoder:
    """Text features of a vocabulary's sentences, differentiable with respect to the learned contexts.

    The sentence of a category alone takes the category context. Not in the paper: it is Prompt_{c|R} without its
    reason. Sentences that do not fit the tower are cut, their end token kept, and counted in `num_truncated`. Towers
    that are not plain causal ones are read whole and padded, by open_clip's own forward: right, but slow.

    Args:
        backbone: whose text tower is used.
        vocabulary: names that go into the sentences.
        templates: of the sentences.
        rationale_context: learned embeddings of Prompt_R.
        category_context: learned embeddings of Prompt_{c|R}.
        sentences_per_pass: most sentences encoded at once; None: what suits the device.
        cache_bytes: most bytes of the categories' beginnings that an encoder with frozen contexts keeps between calls.

    Raises:
        ValueError: when a template is malformed, or a context leaves no room for words.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        vocabulary: Vocabulary,
        templates: TemplateConfig,
        rationale_context: Float[Tensor, "M W"] | None = None,
        category_context: Float[Tensor, "N W"] | None = None,
        sentences_per_pass: int | None = None,
        cache_bytes: int = 2**30,
    ) -> None:
        check_templates(templates)
        self.backbone, self.vocabulary, self.templates = backbone, vocabulary, templates
        self.rationale_context, self.category_context = rationale_context, category_context
        self.sentences_per_pass = sentences_per_pass or (1024 if backbone.device.type == "cpu" else 8192)
        self.cache_bytes = cache_bytes
        self._cache: dict[int, KVCache] | None = None
        longest = max(_length(rationale_context), _length(category_context))
        require(
            longest + 3 <= backbone.context_length,
            f"{longest} context tokens leave no room for words: the tower takes {backbone.context_length}",
        )

    @property
    def num_categories(self) -> int:
        return len(self.vocabulary.categories)

    @property
    def num_rationales(self) -> int:
        return len(self.vocabulary.rationales)

    @property
    def embed_dim(self) -> int:
        return self.backbone.embed_dim

    def with_frozen_contexts(self) -> "SentenceEncoder":
        """The same encoder with copies of the current contexts: without gradient, so that it may cache prefixes."""
        copies = {
            name: None if (context := getattr(self, name)) is None else context.detach().clone()
            for name in ("rationale_context", "category_context")
        }
        encoder = SentenceEncoder(
            self.backbone,
            vocabulary=self.vocabulary,
            templates=self.templates,
            sentences_per_pass=self.sentences_per_pass,
            cache_bytes=self.cache_bytes,
            **copies,
        )
        encoder._cache = {}
        return encoder

    def rationale_features(self, ids: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N D"]:
        """Prompt_R of some rationales, or of all."""
        chosen = range(self.num_rationales) if ids is None else ids.tolist()
        return self._encode_texts([self._rationale_texts[r] for r in chosen], context=self.rationale_context)

    def categories(self, ids: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N D"]:
        """Some categories alone, or all."""
        chosen = range(self.num_categories) if ids is None else ids.tolist()
        return self._encode_texts([self._category_texts[c] for c in chosen], context=self.category_context)

    def category_features(
        self, rationale_ids: Int[Tensor, " G"], category_ids: Int[Tensor, " C"] | None = None
    ) -> Float[Tensor, "G C D"]:
        """Prompt_{c|R} of some rationales with some categories, or with all.

        One call with many rationales is cheaper than many calls: a category's beginning is read once per call.

        Args:
            rationale_ids: G of them.
            category_ids: C of them; None: all.
        """
        rationales = rationale_ids.tolist()
        categories = list(range(self.num_categories)) if category_ids is None else category_ids.tolist()
        if not rationales or not categories:
            return torch.zeros(len(rationales), len(categories), self.embed_dim, device=self.backbone.device)
        tower, pairs = self.backbone.causal_text, self._pairs
        if tower is None or pairs is None:
            texts = [self._pair_text(c, r) for r in rationales for c in categories]
            return self._encode_texts(texts, context=self.category_context).unflatten(0, (len(rationales), -1))
        with self.backbone.autocast():
            if pairs.category_first:
                features = self._encode_product(tower, pairs, categories, rationales).transpose(0, 1)
            else:
                features = self._encode_product(tower, pairs, rationales, categories)
        return self._replace_suspects(features, rationales=rationales, categories=categories)

    @cached_property
    def num_truncated(self) -> int:
        """Sentences of the whole vocabulary (both prompts, and categories alone) that do not fit the tower."""
        room = self.backbone.context_length
        counts = self.backbone.text_tokenizer.token_counts
        alone = sum(n + _length(self.rationale_context) > room for n in counts(self._rationale_texts))
        alone += sum(n + _length(self.category_context) > room for n in counts(self._category_texts))
        # The length of a pair is a sum of lengths, so two histograms are enough for millions of sentences.
        sentence = pair_sentence(self.templates, "", "")
        rest = counts([sentence])[0] - 2 * counts([""])[0]
        words = [Counter(counts(names)) for names in (self.vocabulary.categories, self.vocabulary.rationales)]
        fixed = rest + _length(self.category_context)
        return alone + sum(n * m for a, n in words[0].items() for b, m in words[1].items() if a + b + fixed > room)

    @cached_property
    def _rationale_texts(self) -> list[str]:
        return [rationale_sentence(self.templates, name) for name in self.vocabulary.rationales]

    @cached_property
    def _category_texts(self) -> list[str]:
        return [category_sentence(self.templates, name) for name in self.vocabulary.categories]

    def _pair_text(self, category: int, rationale: int) -> str:
        names = self.vocabulary
        return pair_sentence(self.templates, names.categories[category], names.rationales[rationale])

    def _encode_texts(self, texts: Sequence[str], *, context: Tensor | None) -> Tensor:
        """Features of arbitrary sentences."""
        if not texts:
            return torch.zeros(0, self.embed_dim, device=self.backbone.device)
        tower = self.backbone.causal_text
        if tower is None:
            return self.backbone.encode_text(texts, context=context)
        sentences = [tuple(ids) for ids in self.backbone.text_tokenizer.tokenize(texts)]
        with self.backbone.autocast():
            start = common_start(sentences, longest=len(tower.positional_embedding) - _length(context) - 1)
            first = cache_prefix(tower, start, context=context)
            return self._encode_endings(
                tower, [each[len(start) :] for each in sentences], before=(first,), num_heads=1
            )[0]

    def _encode_product(self, tower: CausalText, pairs: SentencePairs, heads: list[int], tails: list[int]) -> Tensor:
        """Features [heads, tails, D] of every beginning with every ending."""
        start = cache_prefix(tower, pairs.start, context=self.category_context)
        features, order = [], []
        for part in equal_length_batches([pairs.heads[head] for head in heads], size=self.sentences_per_pass):
            chosen = [heads[place] for place in part]
            order.extend(part)
            if start.num_tokens + len(pairs.heads[chosen[0]]) >= len(tower.positional_embedding):
                features.append(self._encode_whole(pairs, chosen, tails))
                continue
            head = self._cache_heads(tower, pairs, chosen, start=start)
            endings = [pairs.tails[tail] for tail in tails]
            features.append(self._encode_endings(tower, endings, before=(start, head), num_heads=len(part)))
        return torch.cat(features)[inverse_order(order, device=self.backbone.device)]

    def _cache_heads(self, tower: CausalText, pairs: SentencePairs, heads: list[int], *, start: KVCache) -> KVCache:
        """Keys and values of beginnings of one length; from the cache if this encoder has one."""
        if self._cache is None or not pairs.category_first:
            return cache_continuations(tower, [pairs.heads[head] for head in heads], before=(start,))
        length = len(pairs.heads[heads[0]])
        members = [head for head, tokens in enumerate(pairs.heads) if len(tokens) == length]
        if length not in self._cache:
            size = sum(map(len, pairs.heads)) * 2 * sum(each[:, :, :1].nbytes for each in start.keys)
            if size > self.cache_bytes:
                return cache_continuations(tower, [pairs.heads[head] for head in heads], before=(start,))
            self._cache[length] = cache_continuations(tower, [pairs.heads[head] for head in members], before=(start,))
        if heads == members:
            return self._cache[length]
        where = {head: row for row, head in enumerate(members)}
        return self._cache[length].select(torch.tensor([where[head] for head in heads], device=self.backbone.device))

    def _encode_endings(
        self, tower: CausalText, endings: list[Tokens], *, before: tuple[KVCache, ...], num_heads: int
    ) -> Tensor:
        """Features [num_heads, N, D] of endings (all read after each of the beginnings), cut to the tower's length."""
        room = len(tower.positional_embedding) - sum(each.num_tokens for each in before)
        cut = [each if len(each) <= room else (*each[: room - 1], tower.end_token) for each in endings]
        features, order = [], []
        for part in equal_length_batches(cut, size=max(1, self.sentences_per_pass // num_heads)):
            order.extend(part)
            tokens = [cut[place] for place in part]
            features.append(last_features(tower, tokens, before=before, num_heads=num_heads))
        return torch.cat(features, dim=1)[:, inverse_order(order, device=self.backbone.device)]

    def _encode_whole(self, pairs: SentencePairs, heads: list[int], tails: list[int]) -> Tensor:
        """Features of pairs whose prefix alone exceeds the tower's length."""
        ids = [(h, t) if pairs.category_first else (t, h) for h in heads for t in tails]
        texts = [self._pair_text(category, rationale) for category, rationale in ids]
        return self._encode_texts(texts, context=self.category_context).unflatten(0, (len(heads), len(tails)))

    @cached_property
    def _pairs(self) -> SentencePairs | None:
        if self.backbone.causal_text is None:
            return None
        return split_pairs(
            self.backbone,
            vocabulary=self.vocabulary,
            template=self.templates.category_given_rationale,
            longest_start=self.backbone.context_length - _length(self.category_context) - 1,
        )

    def _replace_suspects(self, features: Tensor, *, rationales: list[int], categories: list[int]) -> Tensor:
        """Pairs whose sentence is not tokenised as beginning and ending are replaced by the sentence read whole."""
        pairs = self._pairs
        assert pairs is not None
        odd = pairs.odd_places(self.backbone, self._pair_text, rationales=rationales, categories=categories)
        if not odd:
            return features
        texts = [self._pair_text(categories[k], rationales[g]) for g, k in odd]
        rows, columns = torch.tensor(odd, device=features.device).unbind(1)
        return features.index_put((rows, columns), self._encode_texts(texts, context=self.category_context))


def _length(context: Tensor | None) -> int:
    return 0 if context is None else len(context)
