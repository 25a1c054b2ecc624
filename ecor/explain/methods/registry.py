"""Registry of attribution methods by name, and what each of them needs."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ecor.clip.towers.image_tower import Capability, ImageTower
from ecor.config.checks import require
from ecor.config.choices import Compat
from ecor.convis.concept_visualization import ConVis
from ecor.explain.methods.attention import AttentionRollout, ContrastiveAttribution, TransformerAttribution
from ecor.explain.methods.gradients import GradCam, GradEclip, LeGrad
from ecor.explain.methods.perturbation import Occlusion, Rise
from ecor.explain.methods.similarity import ClipSurgery, Eclip, Itsm, ReversedItsm

NEEDS = {
    "gradients": "a backward pass per text",
    "perturbation": "many forward passes per image",
    "training": "something trained beforehand",
    "distractors": "other texts to compare with",
    "lexicon": "a taxonomy of concepts",
}
"""What a method may need beside the tower, in words."""


@runtime_checkable
class Method(Protocol):
    """An attribution method: a frozen dataclass of settings that is called with one batch. The tower is read only."""

    requires: ClassVar[Capability | None]
    """What the tower must be able to give."""
    needs: ClassVar[frozenset[str]]
    """Keys of `NEEDS`."""

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        """Make raw maps, high where the evidence for the text is.

        Args:
            tower: read only.
            pixels: normalised.
            texts: normalised text features, T of each image.
        """


METHODS: dict[str, type[Method]] = {
    "itsm": Itsm,
    "reversed_itsm": ReversedItsm,
    "eclip": Eclip,
    "clip_surgery": ClipSurgery,
    "grad_eclip": GradEclip,
    "legrad": LeGrad,
    "grad_cam": GradCam,
    "attention_rollout": AttentionRollout,
    "transformer_attribution": TransformerAttribution,
    "contrastive_attribution": ContrastiveAttribution,
    "rise": Rise,
    "occlusion": Occlusion,
    "convis": ConVis,
}
"""Every method, by name."""


def build_method(name: str, **settings: Any) -> Method:
    """Build the method of a name.

    Args:
        name: a key of `METHODS`.
        settings: fields of its class.

    Raises:
        ValueError: when the name or a setting does not exist (the message names those that do), or a value is out of
            range.
    """
    require(name in METHODS, f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    known = {field.name for field in fields(METHODS[name])}  # type: ignore[arg-type]
    unknown = sorted(set(settings) - known)
    require(not unknown, f"{name} has no setting {', '.join(unknown)}; it has: {', '.join(sorted(known)) or 'none'}")
    compat = settings.get("compat")
    require(compat in (None, *get_args(Compat)), f"compat is 'reference' or None, got {compat!r}")
    return METHODS[name](**settings)


def method_name(chosen: Method) -> str:
    """The name that a method has in `METHODS`; of a method from elsewhere, that of its class."""
    return next((name for name, kind in METHODS.items() if type(chosen) is kind), type(chosen).__name__)


PREPARED = {"training": ("projection", "projection"), "lexicon": ("concepts", "lexicon")}
"""Needs that the user must prepare: for each, the setting that holds it and its name in messages."""


def missing_requirement(name: str, settings: Mapping[str, Any]) -> str | None:
    """Say in words what a method still needs; None when it can be used.

    Args:
        name: a key of `METHODS`.
        settings: that the method shall have.

    Raises:
        ValueError: when the name is unknown.
    """
    require(name in METHODS, f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    kind = METHODS[name]
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for need, (setting, named) in PREPARED.items():
        if need in kind.needs and settings.get(setting, defaults.get(setting)) is None:
            return f"{name} needs {NEEDS[need]}: give it a {named}"
    return None


def build_prepared_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Build the method of a name, when it lacks nothing.

    Args:
        name: a key of `METHODS`.
        settings: fields of its class.

    Raises:
        ValueError: when the method lacks something (`missing_requirement`), or `build_method` refuses it.
    """
    missing = missing_requirement(name, settings)
    require(missing is None, str(missing))
    return build_method(name, **settings)
