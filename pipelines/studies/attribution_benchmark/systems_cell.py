"""Train one arm of the ECLIP, LICO and prompt studies in process, and evaluate its heat maps.

The loop of `ecor train` trains each arm on shards of drawn scenes. The pixels of the parts judge its maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.loading import load_backbone
from ecor.config.choices import SystemName
from ecor.config.model import BackboneConfig
from ecor.config.systems import EclipConfig, LicoConfig, PoolingName
from ecor.config.training import ObjectiveConfig
from ecor.eclip.projection import Projection
from ecor.explain.attribution import attribute
from ecor.explain.methods.registry import Method, build_method
from ecor.explain.metrics.localization import mean_iou_oracle, pointing_hit, score_contrast
from ecor.explain.targets import Rationale, tower_of
from ecor.model import Recognizer
from pipelines.config.training import TrainConfig
from pipelines.studies.attribution_benchmark.cases import Cases, TargetKind, find_cases
from pipelines.studies.attribution_benchmark.classifier_figures import Figures, accuracy, classifier_maps, faithfulness
from pipelines.studies.drawn_splits import Sizes, WorldSplits, draw_world, locate_world
from pipelines.training.systems.lico_trainer import LicoTrainer
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.train_state import TrainState
from pipelines.training.systems.trainer import Trainer

_EMBEDDED = BackboneConfig(precision="fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Numbers of images, cases and masks; the same for all arms of a study."""

    set_name: str = "demo-main"
    sizes: Sizes
    num_cases: int
    """Pairs of an image and a name on which maps are judged."""
    num_pictures: int
    """Images for insertion and deletion."""
    num_masks: int
    """Masks of RISE."""


EFFORT = Effort(
    sizes=Sizes(least_train=640, num_validation=200, num_test=300, num_epochs=10),
    num_cases=200,
    num_pictures=60,
    num_masks=300,
)
QUICK = Effort(
    sizes=Sizes(train_per_category=4, least_train=96, num_validation=40, num_test=40, num_epochs=2),
    num_cases=20,
    num_pictures=6,
    num_masks=30,
)


def draw_effort_world(effort: Effort, *, seed: int, root: Path) -> WorldSplits:
    """Draw the world of a seed, unless it is drawn already."""
    world = locate_world(root, set_name=effort.set_name, num_categories=None, seed=seed, sizes=effort.sizes)
    draw_world(world)
    return world


def train_system(world: WorldSplits, *, system: SystemName, root: Path, **settings: Any) -> tuple[Trainer, TrainState]:
    """Train a system on a drawn world as `ecor train` does, on one rank and without Ray.

    Args:
        world: the world with the shards.
        system: name of the system.
        root: folder for features, shared by cells.
        **settings: other settings of `TrainConfig`.

    Returns:
        The trainer, whose `learned` holds the best epoch, and its final state.
    """
    sizes = world.sizes
    defaults: dict[str, Any] = {
        "backbone": _EMBEDDED,
        "num_epochs": sizes.num_epochs,
        "patience": sizes.num_epochs,
        "batch_size": sizes.batch_size,
    }
    config = TrainConfig(
        shards=str(world.folder / "shards"),
        output=str(root),
        system=system,
        seed=world.seed,
        cache_dir=str(root / "cache"),
        **(defaults | settings),
    )
    learning = build_local_trainer(config, vocabulary=world.vocabulary)
    progress = train_to_end(learning)
    learning.learned.load_state_dict(progress.best_tokens)
    return learning, progress


# ECLIP

_PLAIN: dict[str, Callable[[], Method]] = {
    "ITSM, plain CLIP": partial(build_method, "itsm"),
    "reversed ITSM": partial(build_method, "reversed_itsm"),
}
POOLINGS: dict[str, PoolingName] = {
    "attention pooling": "attention",
    "average pooling": "average",
    "max pooling": "max",
    "masked max pooling": "masked_max",
}
ECLIP_ARMS = (*_PLAIN, *POOLINGS)
_KINDS: tuple[TargetKind, ...] = ("rationale", "category")


def eclip_method(pooling: PoolingName, *, world: WorldSplits, root: Path) -> tuple[Method, Figures]:
    """Train the projection of the method `eclip` with a pooling; returns the method and its validation metrics."""
    learning, progress = train_system(world, system="eclip", root=root, eclip=EclipConfig(pooling=pooling))
    assert isinstance(learning.learned, Projection)
    best = progress.epochs[progress.best_epoch]
    figures = {name: best[f"validation_{name}"] for name in ("loss", "accuracy", "rr")}
    return learning.learned.as_method(), figures


def eclip_figures(arm: str, *, seed: int, effort: Effort, root: Path) -> dict[str, Figures]:
    """Train and evaluate one arm of the ECLIP study, for both kinds of names."""
    world = draw_effort_world(effort, seed=seed, root=root)
    figures: Figures = {}
    if arm in _PLAIN:
        chosen = _PLAIN[arm]()
    else:
        chosen, figures = eclip_method(POOLINGS[arm], world=world, root=root)
    model = Recognizer.zero_shot(world.vocabulary, backbone=load_backbone(_EMBEDDED))
    found: dict[str, Figures] = {}
    for kind in _KINDS:
        cases = find_cases(model, set_name=effort.set_name, kind=kind, num_cases=effort.num_cases, seed=seed)
        found[kind] = {**map_figures(chosen, cases), **figures}
    return found


def map_figures(chosen: Method, cases: Cases, *, texts: Float[Tensor, "N 1 D"] | None = None) -> Figures:
    """Measure the localization of a method's maps; `texts` replace the text features of the cases."""
    heatmap = attribute(cases.tower, cases.pixels, cases.texts if texts is None else texts, method=chosen)
    maps = heatmap.on_input()[:, 0]
    oracle = mean_iou_oracle(maps, cases.masks)
    return {
        "miou": oracle.value,
        "threshold": oracle.threshold,
        "msc": float(score_contrast(maps, cases.masks).mean()),
        "pointing": float(pointing_hit(maps, cases.masks).mean()),
    }


# LICO

LICO_ARMS: dict[str, LicoConfig] = {
    "cross-entropy": LicoConfig(alpha=0.0, beta=0.0),
    "LICO": LicoConfig(),
    "LICO, a hundredth of its weights": LicoConfig(alpha=0.1, beta=0.01),
    "manifold matching only": LicoConfig(beta=0.0),
    "optimal transport only": LicoConfig(alpha=0.0),
}


def lico_figures(arm: str, *, seed: int, effort: Effort, root: Path) -> dict[str, Figures]:
    """Train and evaluate one arm of the LICO study.

    It measures accuracy on test images, and insertion and deletion of the true class's probability, by Grad-CAM and
    RISE.
    """
    world = draw_effort_world(effort, seed=seed, root=root)
    learning, progress = train_system(world, system="lico", root=root, lico=LICO_ARMS[arm])
    assert isinstance(learning, LicoTrainer)
    classifier = learning.classifier.eval()
    with np.load(world.truth("test")) as truth:
        images, categories = torch.from_numpy(truth["pixels"]), torch.from_numpy(truth["categories"])
    figures = {"accuracy": accuracy(classifier, images, categories), "best_epoch": float(progress.best_epoch)}
    some, classes = images[: effort.num_pictures], categories[: effort.num_pictures]
    for name, maps in classifier_maps(classifier, some, classes, num_masks=effort.num_masks).items():
        figures |= {
            f"{name}_{figure}": value for figure, value in faithfulness(classifier, some, classes, maps).items()
        }
    module = learning.module()
    if module.log_temperature is not None:
        figures["temperature"] = float(module.log_temperature.detach().exp())
    return {"category": figures}


# Prompts, tuned with and without matching manifolds

PROMPT_ARMS: dict[str, float] = {"prompts alone": 0.0, "with manifold matching": 1.0}
PROMPT_METHODS = ("itsm", "grad_eclip")


def prompt_figures(arm: str, *, seed: int, effort: Effort, root: Path) -> dict[str, Figures]:
    """Train and evaluate one arm of the prompt study.

    Maps of rationales are made by the tuned model, with its own visual tokens, on cases that the untuned model ranks
    right.
    """
    world = draw_effort_world(effort, seed=seed, root=root)
    objective = ObjectiveConfig(
        manifold_weight=PROMPT_ARMS[arm], max_sentences_per_step=effort.sizes.max_sentences_per_step
    )
    learning, progress = train_system(
        world, system="ecor", root=root, objective=objective, calibrate=False, num_epochs=effort.sizes.num_epochs // 2
    )
    assert isinstance(learning, PromptTrainer)
    tuned = learning.best_recognizer(progress)
    plain = Recognizer.zero_shot(world.vocabulary, backbone=learning.backbone)
    cases = find_cases(plain, set_name=effort.set_name, kind="rationale", num_cases=effort.num_cases, seed=seed)
    best = progress.epochs[progress.best_epoch]
    figures = {name: best[f"validation_{name}"] for name in ("loss", "accuracy", "rr")}
    texts = tuned.text.rationales[cases.ids][:, None]
    seen = replace(cases, tower=tower_of(tuned, Rationale(name="")))
    for name in PROMPT_METHODS:
        found = map_figures(build_method(name), seen, texts=texts)
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return {"rationale": figures}
