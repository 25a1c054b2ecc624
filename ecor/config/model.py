"""Settings of the model: backbone, prompts, templates, text features, preprocessing."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ecor.config.address_types import STORES, StoreAddress
from ecor.config.checks import require, require_at_least
from ecor.config.choices import Precision


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
    """`auto` is fp32 on CPU and bf16 autocast on GPU; learned tokens and softmaxes stay fp32. On a CPU, bf16 is of the
    image tower: its weights, where no gradient is asked for; else autocast."""
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
            name = f"local-dir:{expand_home(name.removeprefix('local-dir:')).absolute()}"
        elif name.endswith(".json"):
            name = _absolute_if_file(name)
        if pretrained is not None and pretrained not in ("embedded", "random"):
            pretrained = _absolute_if_file(pretrained)
        return replace(self, name=name, pretrained=pretrained)

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests; `preprocess_of` only if set, because older records lack it."""
        return {name: value for name, value in asdict(self).items() if name != "preprocess_of" or value}


def expand_home(place: str) -> Path:
    """A path with the home folder in place of a leading `~` or `~user`; `~name` of nobody is a name as any other.

    Raises:
        ValueError: for `~` where no home folder is known: nobody means a folder called `~`.
    """
    path = Path(place)
    try:
        return path.expanduser()
    except RuntimeError:
        require(path.parts[0] != "~", f"{place} is below the home folder, and none is known: set HOME, or write it out")
        return path


def _absolute_if_file(place: str) -> str:
    path = expand_home(place.removeprefix("file://"))
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
    """Learned visual prompt tokens per block (VPT). Without them an image is read once, not in each epoch. For an image
    tower that is no open_clip ViT, `ecor train` replaces the default prompts by six text tokens each."""
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
