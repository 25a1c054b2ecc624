"""CLIP's symmetric contrastive loss, for batches in which images share texts (arXiv:2103.00020)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus


def clip_loss(
    logits: Float[Tensor, "B T"],
    *,
    own: Bool[Tensor, "B T"],
    ignored: Bool[Tensor, "B T"],
    sharing_images_compete: bool = False,
) -> Float[Tensor, ""]:
    """Half image to text, half text to image; 0, with a graph, when no image has a text.

    Image to text is the mean over (image, own text) of the cross-entropy against the texts that are neither own nor
    ignored. Text to image is the same over images, or, with `sharing_images_compete`, L_out of supervised contrastive
    learning (arXiv:2004.11362): the softmax runs over all images that are not ignored, and each text has the mean over
    its images. Both are CLIP's loss when each image has one text of its own.

    Args:
        logits: scaled similarities of images and distinct texts.
        own: pairs that are pulled together.
        ignored: pairs that are no negatives: true by chance, or of an image without a label. An own pair counts as own.
        sharing_images_compete: whether images of one text are negatives of each other in the text's softmax.
    """
    negatives_BT = ~(own | ignored)
    positives_N = logits[own]
    if not len(positives_N):
        return 0 * logits.sum()
    image_N, text_N = own.nonzero(as_tuple=True)
    image_loss = softplus(_logsumexp(logits, over=negatives_BT, dim=1)[image_N] - positives_N).mean()
    if sharing_images_compete:
        nll_N = _logsumexp(logits, over=negatives_BT | own, dim=0)[text_N] - positives_N
        text_loss = _mean_of_means(nll_N, groups=text_N, num_groups=logits.shape[1])
    else:
        text_loss = softplus(_logsumexp(logits, over=negatives_BT, dim=0)[text_N] - positives_N).mean()
    return (image_loss + text_loss) / 2


def shared_text_loss(logits: Float[Tensor, "B T"], targets: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """`clip_loss` of images that have one text each, in which images of one text compete.

    Args:
        logits: scaled similarities of images and distinct texts.
        targets: position of each image's text; an image with −1 is in neither direction.
    """
    own = targets[:, None] == torch.arange(logits.shape[1], device=targets.device)
    unlabelled = (targets < 0)[:, None].expand_as(own)
    return clip_loss(logits, own=own, ignored=unlabelled, sharing_images_compete=True)


def _logsumexp(logits: Tensor, *, over: Tensor, dim: int) -> Tensor:
    """Log-sum-exp over a mask; finite for an empty mask."""
    return logits.masked_fill(~over, -1e4).logsumexp(dim)


def _mean_of_means(values: Float[Tensor, " N"], *, groups: Int[Tensor, " N"], num_groups: int) -> Float[Tensor, ""]:
    """Mean over all groups of each group's mean; an empty group has 0."""
    counts = torch.bincount(groups, minlength=num_groups).clamp(min=1)
    return values.new_zeros(num_groups).index_add(0, groups, values).div(counts).mean()
