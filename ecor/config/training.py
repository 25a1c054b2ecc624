"""Settings of the training objective, the optimiser and its schedule."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ecor.config.checks import require, require_at_least

ObjectiveName = Literal[
    "two_term", "in_batch_pairs", "in_batch_categories", "inverted", "independent", "pairs", "three_term"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """The training objective of prompt tuning."""

    name: ObjectiveName = "three_term"
    """`two_term` is ECOR's loss with full-vocabulary negatives, for the decoding `joint`; `three_term` adds the term of
    P(c | I), for `pooled` (ours, not the paper's); `in_batch_pairs` and `in_batch_categories` are in-batch forms of
    `two_term`; `inverted`, `independent` and `pairs` (DROR's one softmax over all pairs) fit the rivals of those names.
    The model decodes by what it was tuned for, where `scoring.method` is not set."""
    category_weight: float = 1.0
    """Weight of the third term of `three_term`, −log P(c* | I)."""
    max_sentences_per_step: int = 20_000
    """Sentences encoded with gradient per step; above it negatives are sampled with log-Q correction."""
    sentences_per_chunk: int = 512
    """Sentences whose activations are held at once; the rest is recomputed in the backward pass."""
    manifold_weight: float = 0.0
    """Weight of LICO's manifold matching between images and their Prompt_R, added to any objective; 0: none. LICO's
    other term, optimal transport, is not offered: it moves mass between feature maps and tokens, and prompts are tuned
    on pooled features (ours)."""
    manifold_temperature: float = 0.1
    """Of its softmaxes, in distances of unit vectors."""

    def __post_init__(self) -> None:
        require_at_least("category_weight", self.category_weight, 0)
        require_at_least("manifold_weight", self.manifold_weight, 0)
        require(self.manifold_temperature > 0, f"manifold_temperature must be positive: {self.manifold_temperature}")
        require_at_least("max_sentences_per_step", self.max_sentences_per_step, 4)
        require_at_least("sentences_per_chunk", self.sentences_per_chunk, 1)

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests; `category_weight` only where it counts: older records lack it."""
        record = asdict(self)
        if self.name != "three_term":
            del record["category_weight"]
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Optimiser and schedule."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with momentum."""
    learning_rate: float = 1e-3
    """At its peak, after the warm-up."""
    weight_decay: float = 0.0
    """Of the optimiser; 0: none."""
    momentum: float = 0.9
    """SGD only."""
    warmup_steps: int = 20
    """Linear warm-up, then cosine to zero at the last step."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient over all tokens; None: not clipped."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        require_at_least("weight_decay", self.weight_decay, 0)
        require_at_least("warmup_steps", self.warmup_steps, 0)
        require_at_least("accumulate", self.accumulate, 1)
        require(self.clip_norm is None or self.clip_norm > 0, f"clip_norm must be positive, got {self.clip_norm}")

    @classmethod
    def dror(cls, *, learning_rate: float = 40.0) -> "FitConfig":
        """DROR's recipe (arXiv:2212.06202): SGD with momentum 0.9, lr 40 or 10, 1000 warm-up steps, cosine to 0."""
        return cls(optimizer="sgd", learning_rate=learning_rate, warmup_steps=1000, clip_norm=None)
