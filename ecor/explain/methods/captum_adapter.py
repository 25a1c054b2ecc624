"""A cosine forward pass that captum, pytorch-grad-cam and the perturbation methods can call."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ecor.clip.towers import image_forward
from ecor.clip.towers.image_tower import ImageTower


class CosineForward(nn.Module):
    """A differentiable [B 3 H W] -> [B T] in fp32, through the tower's own forward, so that its hooks fire.

    `captum.attr.Occlusion(CosineForward(tower, texts))` and `pytorch_grad_cam.GradCAM(CosineForward(tower, texts),
    layers)` work unchanged. Pixels are normalised ones (`tower.pixels`). They must require a gradient for hooks to see
    one, because the tower itself is frozen.
    """

    texts: Tensor

    def __init__(self, tower: ImageTower, texts: Float[Tensor, "T D"]) -> None:
        """Hold the tower and the texts.

        Args:
            tower: image tower with its visual prompts.
            texts: normalised features, the same for all images.
        """
        super().__init__()
        self.tower = tower
        self.model = tower.backbone
        self.register_buffer("texts", texts.to(tower.backbone.device), persistent=False)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T"]:
        """Cosines of images and texts."""
        return self.tower.features(pixels) @ self.texts.T


def reshape_transform(tower: ImageTower, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B W h w"]:
    """A ViT's tokens as maps, without class token and visual prompts: grad-cam's `reshape_transform`."""
    vit = tower.backbone.vit
    assert vit is not None, "a ResNet's activations are maps already"
    return image_forward.token_maps(vit, tokens).contiguous()


@torch.no_grad()
def paired_cosines(
    tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
) -> Float[Tensor, "B T"]:
    """Cosine of each image with its own texts."""
    return (texts @ tower.features(pixels)[..., None])[..., 0]
