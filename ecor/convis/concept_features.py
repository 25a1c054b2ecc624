"""Encode all concepts of a lexicon with a text tower."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.config.checks import require
from ecor.convis.lexicon import Lexicon
from ecor.storage.digests import json_digest
from ecor.storage.feature_file import save_array_once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConceptFeatures:
    """Text features of all concepts of a lexicon; made by `encode_concepts`."""

    lexicon: Lexicon
    features: Float[Tensor, "S D"]
    """Normalised, fp32, in the order of `lexicon.concepts`."""
    num_cut: int = 0
    """Texts that are longer than the tower reads."""
    _places: dict[str, int] = field(init=False, repr=False)
    _has_kinds: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = self.lexicon.concepts
        require(len(names) == len(self.features), f"{len(self.features)} features for {len(names)} concepts")
        require(len(names) > 1, "a lexicon of one concept leaves nothing to rank it among")
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(names)})
        object.__setattr__(
            self, "_has_kinds", frozenset(above for name in names for above in self.lexicon.parents(name))
        )

    def of(self, names: Sequence[str]) -> Float[Tensor, "T D"]:
        """Return the features of some concepts.

        Raises:
            ValueError: when the lexicon lacks a name.
        """
        return self.features[self._ids(names)]

    def kinds(self, name: str) -> Int[Tensor, " K"]:
        """Return the ids of a concept and of all its descendants.

        Raises:
            ValueError: when the lexicon lacks the name.
        """
        self._ids([name])
        return self._ids(self.lexicon.descendants(name))

    def leaves(self, name: str) -> Int[Tensor, " K"]:
        """Return those of `kinds` that have no descendants.

        Raises:
            ValueError: when the lexicon lacks the name.
        """
        self._ids([name])
        return self._ids([kind for kind in self.lexicon.descendants(name) if kind not in self._has_kinds])

    def _ids(self, names: Sequence[str]) -> Int[Tensor, " K"]:
        unknown = [name for name in names if name not in self._places]
        require(not unknown, f"unknown concept {', '.join(map(repr, unknown[:3]))} among {len(self._places)}")
        return torch.tensor([self._places[name] for name in names], device=self.features.device)


@torch.no_grad()
def encode_concepts(
    backbone: Backbone,
    lexicon: Lexicon,
    *,
    read: Callable[[str], str] | None = None,
    cache_dir: str | Path | None = None,
) -> ConceptFeatures:
    """Encode the text of each concept, in fp32.

    Args:
        backbone: whose text tower reads.
        lexicon: of the concepts.
        read: the text of a concept; None: its definition alone, without its name (as ConVis, arXiv:2405.14563).
        cache_dir: folder that keeps the features, by a digest of tower and texts; None: nothing is kept.

    Raises:
        ValueError: when the lexicon has fewer than two concepts.
    """
    texts = [(read or lexicon.definition)(name) for name in lexicon.concepts]
    num_cut = sum(count > backbone.context_length for count in backbone.text_tokenizer.token_counts(texts))
    if cache_dir is None:
        features = backbone.encode_text(texts, fp32=True)
    else:
        features = _load_or_encode(backbone, texts, folder=Path(cache_dir)).to(backbone.device)
    return ConceptFeatures(lexicon=lexicon, features=features, num_cut=num_cut)


def _load_or_encode(backbone: Backbone, texts: Sequence[str], *, folder: Path) -> Float[Tensor, "S D"]:
    digest = json_digest([backbone.digest, list(texts)])
    path = folder / f"concepts-{digest[:32]}.npy"
    if not path.exists():
        features = backbone.encode_text(texts, fp32=True).cpu().numpy()
        save_array_once(path, features)
    return torch.from_numpy(np.load(path))
