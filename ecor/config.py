"""Settings of models, training and scoring as frozen dataclasses, with units, defaults and range checks.

Nothing heavy is imported here, so that a command line built from these types answers `--help` at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

Precision = Literal["auto", "fp32", "bf16", "fp16"]
MethodName = Literal["joint", "inverted", "independent", "pairs", "pooled"]
ObjectiveName = Literal[
    "two_term", "in_batch_pairs", "in_batch_categories", "inverted", "independent", "pairs", "three_term"
]
Factor = Literal["rationale", "category_given_rationale", "category", "rationale_given_category", "pair"]
WorldName = Literal["demo", "other"]
SystemName = Literal["ecor", "eclip", "lico"]
PoolingName = Literal["masked_max", "max", "average", "attention"]
GuidanceName = Literal["class_attention", "rollout"]
Compat = Literal["reference"]
"""Follow a method's reference implementation where it differs from the formula of the paper."""
FACTORS: dict[MethodName, tuple[Factor, ...]] = {
    "joint": ("rationale", "category_given_rationale"),
    "inverted": ("category", "rationale_given_category"),
    "independent": ("rationale", "category"),
    "pairs": ("pair",),
    "pooled": ("rationale", "category_given_rationale", "category"),
}
"""The softmaxes that each decoding multiplies."""
STORES = ("file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Schemes of addresses that settings, records and tables may name."""
HUBS = ("hf-hub:", "local-dir:")
"""How names of backbones begin that lead to a folder with weights and settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressKind:
    """What a setting of an address may hold besides a path."""

    may_be_registered: bool = False
    """A model of MLflow's registry (`models:/…`) too."""
    only_local: bool = False
    """No store: only disks of this machine."""


StoreAddress = Annotated[str, AddressKind()]
"""A setting that is a path or the address of a store: `pipelines.config.addresses` checks all that have this type."""
ModelAddress = Annotated[str, AddressKind(may_be_registered=True)]
"""A `StoreAddress`, or a model of the registry."""
LocalPath = Annotated[str, AddressKind(only_local=True)]
"""A path on a disk of this machine."""


Kind = TypeVar("Kind")


def parse_record(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Build a dataclass from JSON values.

    Args:
        kind: the dataclass.
        values: one per field, by name; fields with a default may be left out.

    Raises:
        ValueError: when `values` is no object, lacks a field or has an unknown one (the message names the nearest), or
            when the dataclass refuses a value.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"expected an object with the fields of {kind.__name__}, got {values!r}")
    known = {each.name: each for each in fields(kind) if each.init}  # type: ignore[arg-type]
    for name in set(values) - set(known):
        near = get_close_matches(str(name), known, n=1)
        raise ValueError(f"unknown field {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    for name, each in known.items():
        is_required = each.default is MISSING and each.default_factory is MISSING
        require(name in values or not is_required, f"the field {name!r} is missing")
    return kind(**values)


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Args:
        condition: true where all is well.
        message: the value that was given, and what would do instead.

    Raises:
        ValueError: with `message`, when the condition is false.
    """
    if not condition:
        raise ValueError(message)


def name_some(names: Sequence[str], *, most: int) -> str:
    """The first names of a list, for a message: `a, b and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def require_at_least(name: str, value: float | int, lowest: float | int) -> None:
    """Check the lower limit of a setting.

    Args:
        name: of the setting, for the message.
        value: as given.
        lowest: the smallest value that is allowed.

    Raises:
        ValueError: when `value` is below `lowest`.
    """
    require(value >= lowest, f"{name} must be at least {lowest}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig:
    """Which CLIP to load, and how to run it."""

    name: StoreAddress = "ecor-demo"
    """An open_clip model name (`ViT-B-32`), a hub id (`hf-hub:org/name`), the path or address of an open_clip model
    config (`…/model.json`, also `s3://…`, `gs://…`), or an embedded model (`ecor-demo`)."""
    pretrained: StoreAddress | None = "embedded"
    """An open_clip pretrained tag, the path or address of a weights file, `embedded` for weights that come with this
    package, `random` for untrained weights (always the same: for tests and timing), or None where the name already says
    (hub ids)."""
    precision: Precision = "auto"
    """`auto` is fp32 on CPU and bf16 autocast on GPU; learned tokens and softmaxes stay fp32."""
    compile: bool = False
    """Run the image tower through torch.compile: slower to start, 3–25 % faster after."""
    preprocess_of: str | None = None
    """If `pretrained` is a file: the open_clip tag whose preprocessing and activation its weights have, or `none` for
    OpenAI's preprocessing and the activation that the name says. None: what `open_clip_config.json` beside the file
    says, else what all tags of the name have in common."""

    def __post_init__(self) -> None:
        for place in (self.name, self.pretrained or ""):  # records of checkpoints name places too
            scheme, marker, _ = place.partition("://")
            require(
                not marker or scheme.lower() in STORES,
                f"{scheme}:// is not read: name a backbone by a local path, or an address that begins with "
                f"{', '.join(f'{each}://' for each in STORES)}",
            )

    def with_absolute_paths(self) -> "BackboneConfig":
        """The same, with files and folders of this machine by absolute paths: records and workers keep them."""
        name, pretrained = self.name, self.pretrained
        if name.startswith("local-dir:"):
            name = f"local-dir:{Path(name.removeprefix('local-dir:')).expanduser().absolute()}"
        elif name.endswith(".json"):
            name = _absolute_if_file(name)
        if pretrained is not None and pretrained not in ("embedded", "random"):
            pretrained = _absolute_if_file(pretrained)
        return replace(self, name=name, pretrained=pretrained)

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests; `preprocess_of` only if set, because older records lack it."""
        return {name: value for name, value in asdict(self).items() if name != "preprocess_of" or value}


def _absolute_if_file(place: str) -> str:
    path = Path(place.removeprefix("file://")).expanduser()
    return str(path.absolute()) if path.is_file() else place


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """Numbers and places of the learned tokens. All zero is zero-shot CLIP.

    `ecor ablate` chose the default kind of tokens, their number and the learning rate on validation images of the
    drawn world.
    """

    rationale_tokens: int = 0
    """Learned text context tokens of Prompt_R (between the start token and the words)."""
    category_tokens: int = 0
    """Learned text context tokens of Prompt_{c|R}."""
    visual_tokens: int = 2
    """Learned visual prompt tokens per block (VPT). Without them an image is read once, not in each epoch."""
    visual_depth: int | None = None
    """Blocks with visual tokens of their own, from the first: 1 is shallow; None: all of them, deep."""
    visual_shared: bool = True
    """One set of visual tokens for both prompts (one image pass), or one for each (two passes)."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation."""
    init_words: str = ""
    """Words whose token embeddings initialise the text context, repeated to its length; empty: normal."""

    def __post_init__(self) -> None:
        for name in ("rationale_tokens", "category_tokens", "visual_tokens"):
            require_at_least(name, getattr(self, name), 0)
        if self.visual_depth is not None:
            require_at_least("visual_depth", self.visual_depth, 1)
        require(self.init_std > 0, f"init_std must be positive, got {self.init_std}")

    @property
    def is_zero_shot(self) -> bool:
        return self.rationale_tokens == self.category_tokens == self.visual_tokens == 0

    @property
    def tunes_text_only(self) -> bool:
        return self.visual_tokens == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateConfig:
    """Prompt templates; the default is DROR's wording."""

    rationale: str = "There is {rationale}."
    """Prompt_R."""
    category_given_rationale: str = "This is a photo of a {category} because there is {rationale}."
    """Prompt_{c|R}."""
    category: str = "This is a photo of a {category}."
    """Category alone: the `inverted` and `independent` rivals, `pooled`, and plain zero-shot classification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Where text features are stored."""

    table_budget_bytes: int = 256 * 1024**2
    """Up to this size the table of all sentences is held in memory (and computed at once)."""
    cache_dir: str | None = None
    """Folder of feature files, keyed by digest; None: no file, tables above the budget are kept in a temporary file."""
    fill: Literal["auto", "ahead", "on_demand"] = "auto"
    """Rows of a file: all encoded ahead, or each when first asked for; `auto` is ahead within the budget."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """Of stored features, in memory and in files. fp16 needs half the space and changes logits by a few thousandths."""

    def __post_init__(self) -> None:
        require_at_least("table_budget_bytes", self.table_budget_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """The training objective of prompt tuning."""

    name: ObjectiveName = "two_term"
    """`two_term` is ECOR's loss with full-vocabulary negatives; `in_batch_pairs` and `in_batch_categories` are its
    in-batch forms; `inverted`, `independent` and `pairs` (DROR's one softmax over all pairs) fit the rivals of those
    names; `three_term` is `two_term` and the category alone, for the decoding `pooled` (ours, not the paper's)."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EclipConfig:
    """ECLIP (arXiv:2209.07046): a projection of patch tokens, learned by masked max pooling.

    Recipe, mask and optimiser are ours: the paper's are not known to us.
    """

    pooling: PoolingName = "masked_max"
    """How patches become an image's feature while learning: the maximum per channel over guided patches; or the rivals:
    over all patches (`max`), the mean (`average`), the mean weighted by guidance (`attention`)."""
    guidance: GuidanceName = "class_attention"
    """Where the frozen tower itself looks: the class token's attention in its last block, or through all blocks."""
    mask_by: Literal["threshold", "mass"] = "threshold"
    """Guided patches: those of at least `threshold`, or the fewest that hold `keep_mass`."""
    threshold: float = 1.0
    """Least guidance of a patch, as a multiple of the image's mean."""
    keep_mass: float = 0.6
    """Share of the guidance that the kept patches hold, the strongest first (as DINO's pictures do)."""
    texts: Literal["both", "rationales", "categories", "captions"] = "both"
    """Sentences that images are compared with: Prompt_R of the rationale, the category alone, or each in turn; or each
    image's own caption (`.txt` of the shards), as where there are image-text pairs."""
    project_texts: bool = False
    """Learn a projection of the text features too."""
    cache: bool = True
    """Compute patch tokens once, into a file per node (4 bytes x images x patches x dimensions)."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(learning_rate=1e-3))

    def __post_init__(self) -> None:
        require(self.threshold >= 0, f"threshold must be at least 0, got {self.threshold}")
        require(0 < self.keep_mass <= 1, f"keep_mass is a share above 0 and at most 1, got {self.keep_mass}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LicoConfig:
    """LICO (arXiv:2310.09821): an image classifier, trained beside language that is dropped afterwards."""

    encoder: str = "clip"
    """What is trained: `clip`, the image tower of `backbone` from its weights; or `torchvision/<name>`, a CNN from
    random ones (`torchvision/resnet18`). The text tower is `backbone`'s, frozen."""
    image_size: int | None = None
    """Side in pixels, for encoders of torchvision; None: the backbone's."""
    alpha: float = 10.0
    """Weight of manifold matching. With both weights at 0 there is no language branch: plain cross-entropy."""
    beta: float = 1.0
    """Weight of optimal transport."""
    num_context: int = 12
    """Learned tokens of a prompt."""
    class_position: Literal["end", "front"] = "end"
    """Position of the category's name. In a causal text tower, context before the name does not depend on it."""
    shuffle: bool = True
    """The context tokens change places at every step."""
    dropout: float = 0.5
    """In the MLP."""
    temperature: float = 0.1
    """Of the manifolds' softmaxes, in distances of unit vectors; where it starts, if it is learned (ours)."""
    learn_temperature: bool = True
    """Learn the temperature too."""
    epsilon: float = 0.1
    """Weight of the entropy in optimal transport."""
    max_iterations: int = 100
    """Of Sinkhorn."""
    tolerance: float = 1e-3
    """Mean change of Sinkhorn's potentials at which it ends."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(learning_rate=5e-4, weight_decay=0.01))
    """Ours; the authors train from scratch with SGD."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("num_context", "max_iterations"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("temperature", "epsilon", "tolerance"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(0 <= self.dropout < 1, f"dropout is a share from 0 to below 1, got {self.dropout}")
        require(self.image_size is None or self.image_size >= 1, f"image_size must be positive, got {self.image_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """How P(c, R | I) is decoded."""

    method: MethodName = "joint"
    """`joint` (ECOR: rationale, then category given it), or a rival: `inverted`, `independent`, `pairs` (DROR); or
    `pooled`, the joint times P(c | I)^λ (ours, not the paper's)."""
    pooling_weight: float | None = None
    """λ of `pooled`; 0 is `joint`. None: the one fitted with the model's temperatures, or 1 where none was fitted."""
    top_k: int = 5
    """Ranked (category, rationale) pairs kept per image."""
    keep_rationales: int = 8
    """K, the rationales kept per image to begin with; K grows until the top pairs are exact."""
    max_keep_rationales: int = 64
    """Upper limit of K; rows that are not proven exact by then have pairs_exact = False."""
    ood_score: bool = False
    """Give each row an `ood_score`: how unlike all categories of the vocabulary its image is."""

    def __post_init__(self) -> None:
        if self.pooling_weight is not None:
            require_at_least("pooling_weight", self.pooling_weight, 0)
            require(self.method == "pooled", f"pooling_weight is a setting of the method pooled, not {self.method}")
        require_at_least("top_k", self.top_k, 1)
        require_at_least("keep_rationales", self.keep_rationales, 1)
        require(
            self.max_keep_rationales >= self.keep_rationales,
            f"max_keep_rationales ({self.max_keep_rationales}) must be at least keep_rationales "
            f"({self.keep_rationales})",
        )

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests; settings that older records lack only if they are set."""
        values = {name: value for name, value in asdict(self).items() if name != "ood_score" or value}
        return {name: value for name, value in values.items() if name != "pooling_weight" or value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperatures:
    """One per factor; log-probabilities are log_softmax(logits / temperature). 1 is uncalibrated.

    And the weight of pooled decoding, which is fitted with them.
    """

    rationale: float = 1.0
    """Of P(r | I): `joint`, `independent` and `pooled`."""
    category_given_rationale: float = 1.0
    """Of P(c | r, I): `joint` and `pooled`."""
    category: float | None = None
    """Of P(c | I): `inverted`, `independent`, `pooled`. None: not fitted, that of P(c | r, I) is used (our choice)."""
    rationale_given_category: float | None = None
    """Of P(r | c, I): `inverted`. None: not fitted, that of P(r | I) is used."""
    pair: float | None = None
    """Of P(c, r | I): `pairs`. None: not fitted, that of P(c | r, I) is used."""
    pooling_weight: float | None = None
    """No temperature, but fitted with them: λ of `pooled`. None: not fitted, 1 is used (our choice)."""

    def __post_init__(self) -> None:
        for name, value in self.to_record().items():
            if name != "pooling_weight":
                require(value > 0, f"{name} temperature must be positive, got {value}")
        if self.pooling_weight is not None:
            require_at_least("pooling_weight", self.pooling_weight, 0)

    def of(self, factor: Factor) -> float:
        """The factor's own temperature, or the one used in its place."""
        stand_in = self.rationale if factor == "rationale_given_category" else self.category_given_rationale
        return self.to_record().get(factor, stand_in)

    def to_record(self) -> dict[str, float]:
        """Fitted values by name, for records and digests (older records have the first two only)."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if value is not None}

    def cover(self, method: MethodName) -> bool:
        """Whether every factor of a decoding method has a fitted temperature, and `pooled` a fitted weight."""
        fitted = self.to_record()
        return all(factor in fitted for factor in FACTORS[method]) and (
            method != "pooled" or self.pooling_weight is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All that shapes a Recognizer except its vocabulary and its learned numbers."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    templates: TemplateConfig = field(default_factory=TemplateConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Image preprocessing: the parameters of open_clip's evaluation transform."""

    image_size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of RGB values in [0, 1]."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """`shortest` scales the shorter side and crops the centre, `longest` pads with `fill_color`, `squash` distorts."""
    fill_color: int = 0
