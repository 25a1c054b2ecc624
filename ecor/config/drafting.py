"""Settings of a first vocabulary: how rationales are drafted from texts, and which of them images keep."""

from dataclasses import dataclass

from ecor.config.checks import require, require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """How rationales are drafted. All numbers are our choice."""

    depth: int = 3
    """Levels of hypernyms in WordNet whose parts and definitions a category inherits; 0: its own alone."""
    max_words: int = 12
    """Most words of a drafted rationale; longer ones are left out."""
    min_captions: int = 2
    """Captions of a category in which a phrase must stand."""

    def __post_init__(self) -> None:
        require_at_least("depth", self.depth, 0)
        require_at_least("max_words", self.max_words, 1)
        require_at_least("min_captions", self.min_captions, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningConfig:
    """Which drafted rationales are kept. All numbers are our choice; those of images from the drawn worlds."""

    top_k: int = 5
    """A rationale speaks in an image where it is among this many most similar ones."""
    min_speaks: float = 0.15
    """Share of the images of its category in which a rationale has to speak, and more often than by chance (`top_k` of
    all rationales)."""
    min_auc: float = 0.7
    """Least probability (0.5 to 1) that an image of the category is more similar to the rationale than another one."""
    false_alarms: float = 0.05
    """Largest share of rationales that are kept though they do not separate (Benjamini and Hochberg)."""
    max_name_similarity: float = 0.985
    """Cosine (0 to 1) with the sentence of the category's name from which a rationale only names it."""
    max_rationale_similarity: float = 0.985
    """Cosine (0 to 1) of two rationales of a category from which the one that separates less is dropped."""
    min_images: int = 5
    """Images that a category needs; the rationales of one with fewer are not measured."""
    min_rationales: int = 1
    """Rationales that a category keeps, the best of those that images would drop, if it has so many."""
    max_rationales: int = 10
    """Most rationales of a category, those that separate best."""

    def __post_init__(self) -> None:
        for name in ("top_k", "min_images", "max_rationales"):
            require_at_least(name, getattr(self, name), 1)
        require(0 <= self.min_speaks < 1, f"min_speaks is a share from 0 to below 1, got {self.min_speaks}")
        require_at_least("min_rationales", self.min_rationales, 0)
        require(0.5 <= self.min_auc < 1, f"min_auc lies between 0.5 and 1, got {self.min_auc}")
        require(0 < self.false_alarms <= 1, f"false_alarms is a share above 0 and up to 1, got {self.false_alarms}")
        for name in ("max_name_similarity", "max_rationale_similarity"):
            value = getattr(self, name)
            require(0 < value <= 1, f"{name} is a cosine above 0 and up to 1, got {value}")
        require(
            self.min_rationales <= self.max_rationales,
            f"min_rationales ({self.min_rationales}) is more than max_rationales ({self.max_rationales}): lower one",
        )
