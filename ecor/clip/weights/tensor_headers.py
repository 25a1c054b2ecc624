"""Shapes and types of the tensors in a weights file, compared with a model before their values are loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from ecor.clip.open_clip_api import open_clip
from ecor.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What a file says of a tensor before its values."""

    shape: tuple[int, ...]
    dtype: str
    """As torch or safetensors writes it."""
    is_floating: bool


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Read the headers of all tensors of safetensors or of a file of `torch.save`; none of big_vision's `.npz`.

    Args:
        path: its suffix says which kind it is.

    Raises:
        Exception: of safetensors, torch or pickle, for a file that cannot be read.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: _make_header(each.get_shape(), each.get_dtype()) for name, each in slices.items()}
    if path.suffix != ".pt":
        return {}
    state = open_clip.factory.load_state_dict(str(path), device="meta", weights_only=True)
    tensors = {name: each for name, each in state.items() if isinstance(each, Tensor)}
    return {name: _make_header(each.shape, str(each.dtype).removeprefix("torch.")) for name, each in tensors.items()}


def _make_header(shape: Sequence[int], dtype: str) -> TensorHeader:
    return TensorHeader(shape=tuple(shape), dtype=dtype, is_floating=dtype.lower().startswith(("f", "bf")))


def check_headers(headers: Mapping[str, TensorHeader], *, model: nn.Module, name: str) -> None:
    """Compare a file with a model in what open_clip would change without a word.

    It interpolates positions to another image size or context length, and takes quantised integers for the weights.

    Args:
        headers: result of `read_headers`.
        model: a CLIP model of open_clip.
        name: of the file in messages.

    Raises:
        ValueError: if the file is for another image size or context length, or holds integers where weights are.
    """
    own = model.state_dict()
    for key, header in headers.items():
        require(
            header.is_floating or key not in own or not own[key].is_floating_point(),
            f"{name} holds integers ({header.dtype}) in {key}: quantised weights are not read, as their scales are "
            "missing; name the weights in fp32, fp16 or bf16",
        )
    _check_positions(headers, own=own, model=model, name=name)


def _check_positions(headers: Mapping[str, TensorHeader], *, own: Mapping[str, Tensor], model: Any, name: str) -> None:
    key = "visual.positional_embedding"
    if key in headers and key in own and headers[key].shape != tuple(own[key].shape):
        patch = getattr(model.visual, "patch_size", None)
        raise ValueError(
            f"{name} is for {_describe_grid(headers[key].shape, patch)}, and the architecture for "
            f"{_describe_grid(tuple(own[key].shape), patch)}: name the model that the weights are of, or set "
            "image_size in the architecture file"
        )
    key = "positional_embedding"
    saved = headers.get(key) or headers.get(f"text.{key}")
    tower = own.get(key, own.get(f"text.{key}"))
    if saved is not None and saved.shape and tower is not None and saved.shape != tuple(tower.shape):
        raise ValueError(
            f"{name} is for texts of {saved.shape[0]} tokens (width {saved.shape[-1]}), and the architecture for "
            f"{tower.shape[0]} (width {tower.shape[-1]}): name the model that the weights are of, or set "
            "context_length in the architecture file"
        )


def _describe_grid(shape: tuple[int, ...], patch: Any) -> str:
    """The image size that positions (a class token, then patches) are for; their number where it is no square."""
    side = math.isqrt(max(shape[0] - 1, 0))
    if side * side + 1 != shape[0] or not isinstance(patch, tuple | list) or len(patch) != 2:
        return f"{shape[0]} image positions (width {shape[-1]})"
    return f"images of {side * patch[0]}x{side * patch[1]} pixels ({shape[0]} positions, width {shape[-1]})"
