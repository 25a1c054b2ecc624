"""ECLIP (arXiv:2209.07046): train and load a linear projection of patch tokens.

While learning, patches are pooled into one feature per image; for maps the pooling is dropped, and each projected patch
is compared with the text (`ecor.explain.methods.similarity.Eclip`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import normalize

from ecor.config.checks import require
from ecor.config.systems import EclipConfig
from ecor.eclip.guidance import SYSTEM, pool_patches
from ecor.explain.methods.similarity import Eclip
from ecor.storage import filesystem
from ecor.storage.artifact import read_tensors, require_backbone
from ecor.storage.model_records import read_artifact, record_path
from ecor.training.distributed import gather_features, gather_ids
from ecor.training.losses.clip_loss import shared_text_loss
from ecor.training.negative_sampling import distinct_ids, positions_in


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFeatures:
    """Normalised features of the sentences that images are compared with."""

    rationales: Float[Tensor, "R D"]
    categories: Float[Tensor, "C D"]
    captions: Float[Tensor, "N D"] | None = None
    """Where images are compared with captions."""


class Projection(nn.Module):
    """ECLIP's learned linear map of patch tokens, optionally also of texts. It starts as the identity (ours).

    Args:
        dim: D of the space of the texts.
        has_text: learn a map of texts too.
    """

    def __init__(self, dim: int, *, has_text: bool) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.eye(dim))
        self.text_projection = nn.Parameter(torch.eye(dim)) if has_text else None

    def as_method(self) -> Eclip:
        """Return the method for maps, as `ecor.explain.attribute` takes it."""
        text = None if self.text_projection is None else self.text_projection.detach().clone()
        return Eclip(projection=self.projection.detach().clone(), text_projection=text)


class EclipModule(nn.Module):
    """Compute ECLIP's loss terms for guided patches with labels; the projection is its only parameter.

    Args:
        projection: to be learned.
        names: features of the sentences.
        logit_scale: s, not its logarithm.
        config: pooling, mask and kinds of sentences.
    """

    def __init__(
        self, projection: Projection, *, names: SentenceFeatures, logit_scale: float, config: EclipConfig
    ) -> None:
        super().__init__()
        self.learned = projection
        self._frozen = (names, logit_scale, config)  # a tuple, so that nothing in it is registered

    def forward(
        self,
        pictures: Float[Tensor, "B P E"],
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Symmetric InfoNCE of the images of all ranks and their distinct sentences (`clip_loss`).

        With both kinds of sentences, each has half of the weight (ours).

        Args:
            pictures: patches with guidance, as `guided_patches` gives them.
            categories: ids, −1 where unknown.
            rationales: ids, −1 where unknown; with captions, ids of captions.
            generator: not used; every trained module takes one.
        """
        features = gather_features(self.features(pictures))
        labels = {"rationales": rationales, "categories": categories, "captions": rationales}
        kinds, terms = self.kinds, {}
        for kind, texts in kinds.items():
            ids = gather_ids(labels[kind])
            present = distinct_ids(ids)
            logits = self.logits(features, texts[present])
            terms[kind] = shared_text_loss(logits, positions_in(present, ids)) / len(kinds)
        return terms

    @property
    def kinds(self) -> dict[str, Float[Tensor, "T D"]]:
        """The sentences that images are compared with, by kind: rationales, categories or captions."""
        names, _, config = self._frozen
        if config.texts == "captions":
            require(names.captions is not None, "captions are to be learned from, and there are none")
            assert names.captions is not None
            return {"captions": names.captions}
        both = {"rationales": names.rationales, "categories": names.categories}
        return both if config.texts == "both" else {config.texts: both[config.texts]}

    def features(self, pictures: Float[Tensor, "B P E"]) -> Float[Tensor, "B D"]:
        """Normalised pooled features of projected patches."""
        config = self._frozen[2]
        patches, guidance = pictures[..., :-1], pictures[..., -1]
        return normalize(pool_patches(patches @ self.learned.projection, guidance, config=config), dim=-1)

    def logits(self, features: Float[Tensor, "B D"], texts: Float[Tensor, "T D"]) -> Float[Tensor, "B T"]:
        """Scaled similarities of pooled features with sentences."""
        if self.learned.text_projection is not None:
            texts = normalize(texts @ self.learned.text_projection, dim=-1)
        return self._frozen[1] * features @ texts.T


def read_projection(path: str | Path, *, backbone_digest: str | None = None) -> dict[str, Float[Tensor, "D F"]]:
    """Read ECLIP's trained `projection`, and `text_projection` where there is one.

    Args:
        path: what `ecor train --system eclip` made (its run, or `checkpoint/`), or a safetensors file.
        backbone_digest: of the backbone whose patches it will be used on; None: not checked. Only a run names the
            backbone it was learned on.

    Raises:
        ValueError: when the place does not exist, was altered or holds something else, or the projection was learned on
            another backbone.
    """
    if record_path(path, SYSTEM) is not None:
        record = read_artifact(path, SYSTEM)
        if backbone_digest is not None:
            require_backbone(record, digest=backbone_digest)
        found = read_tensors(record)
    else:
        try:
            found = load(filesystem.read(path))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} holds no projection ({error}): name a folder of `ecor train --system eclip`, "
                "or a safetensors file"
            ) from error
    expected = {"projection", "text_projection"}
    require(
        "projection" in found and set(found) <= expected and all(each.ndim == 2 for each in found.values()),
        f"{path} should hold a matrix called projection, and perhaps text_projection; it holds {sorted(found)}",
    )
    return found
