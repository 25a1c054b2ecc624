"""Train ECLIP's projection of patch tokens: the module, inputs and validation of the system `eclip`."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.eclip.guidance import SYSTEM, Guidance, guidance_of, guided_patches
from ecor.eclip.projection import EclipModule, Projection, SentenceFeatures
from ecor.model import Recognizer
from ecor.storage.artifact import save_artifact
from ecor.training.evaluation_step import EvaluationSums
from pipelines.config.training import TrainConfig
from pipelines.training.caption_loader import captions_of
from pipelines.training.data_loader import Split, ahead
from pipelines.training.feature_cache import cached_rows
from pipelines.training.systems.train_state import Save, TrainState
from pipelines.training.systems.trainer import Trainer


class EclipTrainer(Trainer):
    """One rank's part of a run that trains a projection; its towers are frozen."""

    def __init__(self, config: TrainConfig, *, guidance: Guidance | None = None, **parts: Any) -> None:
        """Open the backbone and encode the sentences.

        Args:
            config: resolved settings.
            guidance: replaces the one that `config.eclip` names. Its patches are not cached, because no name identifies
                it.
            **parts: as `Trainer` takes them.

        Raises:
            ValueError: when the image tower gives no patch tokens, and as `Trainer`.
        """
        super().__init__(config, **parts)
        self._is_cached = config.eclip.cache and guidance is None
        self._guidance = guidance or guidance_of(config.eclip.guidance)
        self._tower = ImageTower(backbone=self.backbone)
        self._tower.require_capability("patch_tokens", asked_by=SYSTEM)
        projection = Projection(self.backbone.embed_dim, has_text=config.eclip.project_texts)
        self.learned = self.projection = projection.to(self.rank.device)

    def module(self) -> EclipModule:
        return EclipModule(
            self.projection, names=self.names, logit_scale=self.backbone.logit_scale, config=self.config.eclip
        )

    @cached_property
    def names(self) -> SentenceFeatures:
        """The vocabulary's sentences without learned tokens, and the captions if they are used, each encoded once."""
        backbone, templates = self.backbone, self.config.templates
        text = Recognizer.zero_shot(self.vocabulary, backbone=backbone, templates=templates).text
        captions = self._encoded_captions() if self._has_captions else None
        return SentenceFeatures(
            rationales=text.rationales.clone(), categories=text.categories.clone(), captions=captions
        )

    @property
    def _has_captions(self) -> bool:
        return self.config.eclip.texts == "captions"

    @cached_property
    def _captions(self) -> tuple[list[str], dict[str, Int[Tensor, " N"]]]:
        """The distinct captions of both splits; and the caption of each sample by folder, −1 for none."""
        splits = (self.train, self.validation)
        found = {each.folder: captions_of(each, rank=self.rank, cache_dir=self.cache_dir) for each in splits}
        different = list(dict.fromkeys(caption for captions in found.values() for caption in captions if caption))
        require(bool(different), f"{self.config.shards} holds no captions (`.txt`): choose other eclip.texts")
        ids = {caption: number for number, caption in enumerate(different)}
        return different, {
            folder: torch.tensor([ids.get(caption, -1) for caption in captions]) for folder, captions in found.items()
        }

    @torch.no_grad()
    def _encoded_captions(self) -> Float[Tensor, "N D"]:
        """Encode the distinct captions; each rank encodes a part of them."""
        different = self._captions[0]
        mine = different[self.rank.index :: self.rank.num_ranks]
        features = self.backbone.encode_text(mine, fp32=True) if mine else torch.zeros(0, self.backbone.embed_dim)
        found = torch.zeros(len(different), self.backbone.embed_dim)
        for number, part in enumerate(self.rank.all_gather(features.cpu())):
            found[number :: self.rank.num_ranks] = part
        return found.to(self.rank.device)

    def _sample_rationales(self, epoch: int) -> Int[Tensor, " N"]:
        return self._captions[1][self.train.folder] if self._has_captions else super()._sample_rationales(epoch)

    def _open(self) -> None:
        if self._is_cached:
            self._rows.keys()
        else:
            self._readers.keys()

    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Float[Tensor, "b P E"], Bool[Tensor, " b"]]]:
        if self._is_cached:
            rows_NW, readable_N = self._rows[split.folder]
            for wanted in positions:
                yield rows_NW[wanted].nan_to_num().unflatten(1, (-1, self.backbone.embed_dim + 1)), readable_N[wanted]
            return
        for pixels, readable in ahead(iter(positions), reader=self._readers[split.folder]):
            yield self._patches(pixels), readable

    def _patches(self, images: Tensor) -> Float[Tensor, "b P E"]:
        return guided_patches(self._tower, self._tower.pixels(images), guidance=self._guidance)

    @cached_property
    def _rows(self) -> dict[str, tuple[Float[Tensor, "N W"], Bool[Tensor, " N"]]]:
        """Guided patches of both splits by folder, a row per picture."""
        height, width = self.preprocess.image_size
        num_patches = self._patches(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1]
        return self._cache(
            partial(
                cached_rows,
                encode=lambda images: self._patches(images).flatten(1),
                width=num_patches * (self.backbone.embed_dim + 1),
                content=["guided patches", self.backbone.digest, self.config.eclip.guidance],
            )
        )

    @torch.no_grad()
    def _evaluate(self) -> Iterator[EvaluationSums]:
        """Compare pictures with all sentences of the vocabulary: the loss must not depend on other images (ours)."""
        module, names = self.module(), self.names
        for wanted, pictures, readable in self._read(self.validation, self._validation_parts()):
            assert isinstance(pictures, Tensor)
            kept = readable.nonzero()[:, 0]
            if not len(kept):
                continue
            positions = torch.from_numpy(wanted)[kept]
            categories = self.validation.categories[positions].to(self.rank.device)
            rationales = self.validation.rationales[positions].to(self.rank.device)
            seen = module.features(pictures[kept].to(self.rank.device))
            by_rationale, by_category = (module.logits(seen, each) for each in (names.rationales, names.categories))
            labels = {"rationales": rationales[:, 0], "categories": categories}
            if self._has_captions:
                labels["captions"] = self._captions[1][self.validation.folder][positions].to(self.rank.device)
            losses = {
                kind: cross_entropy(module.logits(seen, texts), labels[kind], ignore_index=-1, reduction="sum")
                for kind, texts in module.kinds.items()
            }
            right_category = by_category.argmax(dim=-1) == categories
            right_rationale = (by_rationale.argmax(dim=-1, keepdim=True) == rationales).any(dim=1)
            yield EvaluationSums(
                terms={name: float(loss) / len(losses) for name, loss in losses.items()},
                num_right=int((right_category & right_rationale).sum()),
                num_right_category=int(right_category.sum()),
                num_images=len(kept),
            )

    def prepare_save(self, progress: TrainState) -> Save:
        config = self.config
        return partial(
            save_artifact,
            SYSTEM,
            dict(progress.best_tokens),
            settings={"eclip": asdict(replace(config.eclip, cache=True)), "templates": asdict(config.templates)},
            backbone=config.backbone,
            backbone_digest=self.backbone.digest,
            vocabulary_digest=self.vocabulary.digest,
        )
