"""Settings of the sister systems: ECLIP and LICO."""

from dataclasses import dataclass, field
from typing import Literal

from ecor.config.checks import require, require_at_least
from ecor.config.training import FitConfig

PoolingName = Literal["masked_max", "max", "average", "attention"]
GuidanceName = Literal["class_attention", "rollout"]


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
