"""The grid of the ablation study: what each cell tunes, on which images, and how it is judged.

A cell is one tuning (or none) with every judgement of its result. Rules for all cells:

- each repetition has its own images and initial tokens; repetitions take the pretraining seeds in turn;
- learning rate and number of tokens are chosen per method by strict RR on validation images of two sets, with a seed
  that no other cell uses, and from one grid for all methods;
- the wording is the hand-written one with the best untuned labels on validation images, by the method's own decoding.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ecor.config.checks import require
from ecor.config.choices import WorldName
from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from ecor.demo.worlds.registry import get_world
from ecor.storage.digests import json_digest
from pipelines.studies.ablation.figures import Decoding, SetRule

LOSS_OF_METHOD: Mapping[MethodName, ObjectiveName] = {
    "joint": "two_term",
    "inverted": "inverted",
    "independent": "independent",
    "pairs": "pairs",
}
"""The loss that belongs to each decoding."""
DECODING_OF: Mapping[ObjectiveName, MethodName] = {
    "two_term": "joint",
    "in_batch_pairs": "joint",
    "in_batch_categories": "joint",
    "inverted": "inverted",
    "independent": "independent",
    "pairs": "pairs",
    "three_term": "pooled",
}
"""The decoding that validates each loss."""
DECODINGS: tuple[Decoding, ...] = ("joint", "inverted", "independent", "pairs", "oracle", "random")
SET_RULES: tuple[SetRule, ...] = ("mixture", "sentence")
TOKENS = ("text", "visual-shallow", "visual-deep", "both", "separate")
"""Kinds of learned tokens: in the text tower; in the image tower's first block, or in all its blocks; in both towers,
shared by both prompts or with separate visual tokens for each."""
SELECTION_SEED = 900
FIRST_SEED = 2000
"""Seed of the images of the first repetition; these images had no influence on the design of the world or the study."""
FIRST_SHIPPED_SEED = 7000
"""The same for the question `shipped`; the weight λ of `pooled` was chosen with the images of 5000 to 5004."""
LEARNING_RATES = (1e-3, 4e-3, 1.6e-2, 6.4e-2, 0.256)
SHIPPED_LEARNING_RATE = 1e-3
SHIPPED_LEARNING_RATES = (2.5e-4, 5e-4, SHIPPED_LEARNING_RATE)
"""Of the question `shipped`: the shipped rate, which is the smallest of the others, and smaller ones."""
NUM_TOKENS = (2, 6)
VOCABULARY_SIZES = (5, 10, 20, 40)
QUESTIONS = {
    "methods": "joint, inverted, independent, pairs, zero-shot, oracle and random rationale",
    "crossed": "loss by decoding",
    "tokens": "which tokens to tune",
    "negatives": "negatives of the vocabulary or of the batch",
    "wording": "wording of the two prompts",
    "sets": "one, two or three rationales, by mixture or by one long sentence",
    "transfer": "zero-shot transfer from each set to each other",
    "growth": "growth of the vocabulary",
    "objects": "scenes with one object against two",
    "why": "why joint wins or loses: dependence, sharpness and calibration of the factors",
    "pooled": "pooled decoding, and the loss with a category term",
    "shipped": "every method at the shipped settings, with visual tokens in every block",
}
DEFAULT_QUESTIONS = tuple(question for question in QUESTIONS if question not in ("pooled", "shipped"))
"""The questions of the first study; `pooled`, not in the paper, and `shipped`, with its own grid, are asked by name."""
WITH_SHIPPED = ("crossed", "transfer", "growth", "objects")
"""Questions that can be asked with `shipped`, of its tokens and methods, on its page."""
SHIPPED_TOKENS = "visual-deep"
ALL_METHODS: Mapping[MethodName, ObjectiveName] = {
    "joint": "two_term",
    "pooled": "three_term",
    "pairs": "pairs",
    "independent": "independent",
    "inverted": "inverted",
}
"""The loss of each decoding in the question `shipped`, in the order in which they are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One evaluation of a tuned model: decoding, test set and size of rationale sets."""

    decoding: Decoding = "joint"
    test_set: str
    split: str = "test"
    set_size: int = 1
    set_rule: SetRule = "mixture"

    @property
    def name(self) -> str:
        """Identifies the judgement among those of a cell."""
        rule = f" {self.set_rule} of {self.set_size}" if self.set_size > 1 else ""
        return f"{self.decoding}{rule} on {self.test_set}/{self.split}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One tuning and its judgements."""

    pretraining_seed: int
    seed: int
    """Seed of the images, the initial tokens and the training order."""
    set_name: str
    num_categories: int | None = None
    """Number of categories of the set, sampled by the seed; None: all."""
    objective: ObjectiveName | None
    """Loss of the tuning; None: only temperatures are fitted."""
    tokens: str = "text"
    num_tokens: int = 0
    learning_rate: float = 0.0
    wording: int | None = None
    """Index of a hand-written template; None: the best one on validation images without tuning."""
    decoding: MethodName = "joint"
    """Decoding for validation and for the choice of the wording."""
    judgements: tuple[Judgement, ...]

    def digest_of(self, sizes: Mapping[str, Any]) -> str:
        """Return the digest of the tuning: the same settings with the same numbers of images are not tuned twice."""
        settings = {name: value for name, value in asdict(self).items() if name != "judgements"}
        return json_digest({**settings, **sizes})[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Questions, world and number of repetitions of a study; the role of a set gives its name, `<world>-<role>`."""

    world: WorldName = "demo"
    questions: tuple[str, ...] = DEFAULT_QUESTIONS
    num_repetitions: int = 6
    num_pretrainings: int = 3
    first_seed: int = FIRST_SEED
    roles: tuple[str, ...] = ()
    """Roles of the sets to tune on; none: all sets of the world."""
    two_roles: tuple[str, ...] = ("main", "twins")
    """Roles of the sets for all questions but the first."""
    selection_roles: tuple[str, ...] = ("small", "main")
    """Roles of the sets on which settings are chosen."""
    growing_role: str = "large"
    """Role of the set with a growing vocabulary."""
    learning_rates: tuple[float, ...] = LEARNING_RATES
    num_tokens: tuple[int, ...] = NUM_TOKENS
    vocabulary_sizes: tuple[int, ...] = VOCABULARY_SIZES
    selection_seeds: tuple[int, ...] = (SELECTION_SEED,)
    """Seeds of the images on which settings are chosen."""
    num_wide_repetitions: int | None = None
    """Repetitions of transfer and growth with the tokens of `shipped`, the first ones; None: all."""

    def __post_init__(self) -> None:
        unknown = set(self.questions) - set(QUESTIONS)
        require(not unknown, f"no question {', '.join(sorted(unknown))}: choose among {', '.join(QUESTIONS)}")
        require(
            self.name != "shipped" or set(self.questions) <= {"shipped", *WITH_SHIPPED},
            f"the question shipped has its own grid, CSV and page: ask it alone, or with {', '.join(WITH_SHIPPED)}",
        )
        known = get_world(self.world).sets
        unknown = {*self.sets, *self.two_sets, *self.selection_sets, self.growing_set} - set(known)
        require(
            not unknown, f"no {', '.join(sorted(unknown))} in the world {self.world}: choose among {', '.join(known)}"
        )

    @property
    def name(self) -> str:
        """Stem of its CSV and page."""
        return "shipped" if "shipped" in self.questions else "results"

    @property
    def tokens(self) -> str:
        """Kind of tokens of all questions but `tokens`."""
        return SHIPPED_TOKENS if self.name == "shipped" else "text"

    @property
    def methods(self) -> Mapping[MethodName, ObjectiveName]:
        """Decodings that are compared, and the loss of each."""
        return ALL_METHODS if self.name == "shipped" else LOSS_OF_METHOD

    @property
    def sets(self) -> tuple[str, ...]:
        """Sets to tune on."""
        return self._set_names(self.roles) or tuple(get_world(self.world).sets)

    @property
    def two_sets(self) -> tuple[str, ...]:
        """Sets for all questions but the first."""
        return self._set_names(self.two_roles)

    @property
    def selection_sets(self) -> tuple[str, ...]:
        """Sets on which settings are chosen."""
        return self._set_names(self.selection_roles)

    @property
    def growing_set(self) -> str:
        """The set with a growing vocabulary."""
        return f"{self.world}-{self.growing_role}"

    @property
    def target_sets(self) -> tuple[str, ...]:
        """Sets on which tokens of another set are judged."""
        return tuple(get_world(self.world).sets) if self.name == "shipped" else self.sets

    def _set_names(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{self.world}-{role}" for role in roles)

    @property
    def repetitions(self) -> tuple[tuple[int, int], ...]:
        """Pretraining seed and seed of each repetition."""
        return tuple((k % self.num_pretrainings, self.first_seed + k) for k in range(self.num_repetitions))

    @property
    def wide_repetitions(self) -> tuple[tuple[int, int], ...]:
        """Pretraining seed and seed of each repetition of transfer and growth with the tokens of `shipped`."""
        return self.repetitions[: self.num_wide_repetitions]

    @property
    def has_choice(self) -> bool:
        """Whether the grid has more than one setting per method, so that one must be chosen."""
        return len(self.learning_rates) * len(self.num_tokens) > 1

    @property
    def tunings(self) -> tuple[tuple[ObjectiveName, str], ...]:
        """Objective and kind of tokens of each tuning whose settings must be chosen."""
        found: list[tuple[ObjectiveName, str]] = [(objective, self.tokens) for objective in self.methods.values()]
        if "negatives" in self.questions:
            found += [("in_batch_pairs", "text"), ("in_batch_categories", "text")]
        if "tokens" in self.questions:
            found += [("two_term", tokens) for tokens in TOKENS[1:]]
        if "pooled" in self.questions:
            found.append(("three_term", "text"))
        return tuple(found)


SHIPPED = Study(
    questions=("shipped",),
    num_repetitions=10,
    num_pretrainings=1,
    first_seed=FIRST_SHIPPED_SEED,
    roles=("small", "main"),
    selection_roles=("small", "main"),
    learning_rates=SHIPPED_LEARNING_RATES,
    num_tokens=(2,),
    num_wide_repetitions=5,
)
"""The study of the question `shipped`: fewer sets, smaller learning rates, the shipped number and kind of tokens."""
