"""Token ids of texts by a tower's own tokenizer: CLIP's, or one of Hugging Face."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ecor.clip.open_clip_api import SimpleTokenizer
from ecor.config.checks import require

_TEXTS_KEPT = 2**16


class TextTokenizer:
    """What the text route asks of open_clip's tokenizers.

    Args:
        tokenizer: of open_clip: `SimpleTokenizer` (CLIP's own) or `HFTokenizer`.
        model_name: for errors.
    """

    def __init__(self, tokenizer: Any, *, model_name: str) -> None:
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._is_own = isinstance(tokenizer, SimpleTokenizer)

    @property
    def context_length(self) -> int:
        """Tokens per text at most, start and end token included."""
        return int(self._tokenizer.context_length)

    @cached_property
    def num_start_tokens(self) -> int:
        """Tokens that the tokenizer puts before the words."""
        first, second = self._tokenizer(["a", "b"])[:, 0].tolist()
        return int(first == second)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with start and end token, neither padded nor truncated.

        Args:
            texts: one per list of ids.

        Raises:
            ValueError: when the tokenizer is not CLIP's own; no unpadded route exists for others.
        """
        tokenizer = self._tokenizer
        if not self._is_own:
            raise ValueError(
                f"{self._model_name!r} has its own tokenizer ({type(tokenizer).__name__}): use encode_text"
            )
        return [[tokenizer.sot_token_id, *self._words(text), tokenizer.eot_token_id] for text in texts]

    @cached_property
    def _words(self) -> Callable[[str], list[int]]:
        """CLIP's own tokenizer with a cache: training tokenizes the same texts in each step."""
        return lru_cache(maxsize=_TEXTS_KEPT)(self._tokenizer.encode)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text before truncation, with all tokens that the tokenizer adds."""
        if self._is_own:
            return [len(ids) for ids in self.tokenize(texts)]
        return [len(self._tokenizer.tokenizer(text).input_ids) for text in texts]

    def word_ids(self, words: str) -> list[int]:
        """Token ids of some words without start and end token.

        Raises:
            ValueError: when there is no word.
        """
        own = self._tokenizer
        ids = own.encode(words) if self._is_own else own.tokenizer(words, add_special_tokens=False).input_ids
        require(len(ids) > 0, f"{words!r} holds no word to start from (start tokens: {self.num_start_tokens})")
        return list(ids)

    def padded_ids(self, texts: Sequence[str], *, num_learned: int = 0) -> Int[Tensor, "N L"]:
        """Token ids of each text, padded or truncated, with places after the start token for learned embeddings.

        The start token fills these places: it is neither padding nor end token, so masks and pooling stay correct.

        Args:
            texts: one per row.
            num_learned: places for learned embeddings.

        Raises:
            ValueError: when these places leave no room for words.
        """
        room = self.context_length - num_learned
        require(
            room >= 3, f"{num_learned} context tokens leave no room for words: the tower takes {self.context_length}"
        )
        ids = self._tokenizer(list(texts), context_length=room)
        start = self.num_start_tokens
        return torch.cat([ids[:, :start], ids[:, :1].expand(-1, num_learned), ids[:, start:]], dim=1)
