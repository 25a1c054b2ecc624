"""Train LICO's image classifier: the module, inputs and validation of the system `lico`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from ecor.config.model import Preprocess
from ecor.lico.classifier import SYSTEM, Classifier
from ecor.lico.training import LicoModule
from ecor.storage.artifact import save_artifact
from ecor.training.evaluation_step import EvaluationSums
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import Split, ahead
from pipelines.training.systems.train_state import Save, TrainState
from pipelines.training.systems.trainer import Trainer, make_generator

_CLASSIFIER = "classifier."


class LicoTrainer(Trainer):
    """One rank's part of a run that trains a classifier; the text tower is frozen."""

    def __init__(self, config: TrainConfig, **parts: Any) -> None:
        """Open the backbone, and draw the new weights from the seed; `parts` as `Trainer` takes them."""
        super().__init__(config, **parts)
        module = LicoModule(self.backbone, categories=self.vocabulary.categories, config=config.lico, seed=config.seed)
        self.learned = self._module = module.to(self.rank.device)

    @property
    def classifier(self) -> Classifier:
        """The classifier with its present weights."""
        return self._module.classifier

    @property
    def preprocess(self) -> Preprocess:
        return self.classifier.preprocess

    def module(self) -> LicoModule:
        return self._module

    def describe_metrics(self, metrics: Mapping[str, float]) -> str:
        return f"loss {metrics['validation_loss']:.3f}  accuracy {metrics['validation_accuracy']:.1%}"

    def _open(self) -> None:
        self._readers.keys()

    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[UInt8[Tensor, "b 3 H W"], Bool[Tensor, " b"]]]:
        yield from ahead(iter(positions), reader=self._readers[split.folder])

    def _generator(self, step: int) -> torch.Generator:
        """Make the step's generator, the same on all ranks: each rank encodes the prompts of the whole batch."""
        return make_generator(self.config.seed, step)

    @torch.no_grad()
    def _evaluate(self) -> Iterator[EvaluationSums]:
        classifier = self.classifier
        classifier.eval()
        for wanted, pictures, readable in self._read(self.validation, self._validation_parts()):
            assert isinstance(pictures, Tensor)
            kept = readable.nonzero()[:, 0]
            if not len(kept):
                continue
            categories = self.validation.categories[torch.from_numpy(wanted)[kept]].to(self.rank.device)
            logits = classifier(classifier.normalise(pictures[kept]))
            num_right = int((logits.argmax(dim=-1) == categories).sum())
            yield EvaluationSums(
                terms={"classification": float(cross_entropy(logits, categories, reduction="sum"))},
                num_right=num_right,
                num_right_category=num_right,
                num_images=len(kept),
            )
        classifier.train()

    def prepare_save(self, progress: TrainState) -> Save:
        tensors = {
            name.removeprefix(_CLASSIFIER): value
            for name, value in progress.best_tokens.items()
            if name.startswith(_CLASSIFIER)
        }
        settings = {name: value for name, value in asdict(self.config.lico).items() if name != "fit"}
        return partial(
            save_artifact,
            SYSTEM,
            tensors,
            settings={"lico": settings, "categories": list(self.vocabulary.categories)},
            backbone=self.config.backbone,
            backbone_digest=self.backbone.digest,
            vocabulary_digest=self.vocabulary.digest,
        )
