"""Logits of images with the sentences of pairs: one matrix product with the whole table, or one per block of rows.

The number of tensor operations does not depend on how many distinct rationales a batch has.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TableInMemory, TextFeatureTable

TABLE_BYTES = {"cpu": 4 * 2**20}
"""Largest table, in fp32, that a batch is multiplied with as a whole, by kind of device. A CPU is limited by arithmetic
(`benchmarks/decoding.py`)."""
OTHER_TABLE_BYTES = 256 * 2**20
"""The same for all other devices, which are limited by the number of operations."""
LOGITS_BYTES = 512 * 2**20
"""Largest result [B R C] of that product."""
BLOCK_BYTES = 32 * 2**20
"""Features of rows, or logits, in memory at once when the table is above its budget."""


def scaled_similarity(
    image: Float[Tensor, "*G B D"], text: Float[Tensor, "*G N D"], *, scale: float
) -> Float[Tensor, "*G B N"]:
    """Logits s · v · t in fp32 (fp64 stays), also under autocast."""
    dtype = image.dtype if image.dtype in (torch.float32, torch.float64) else torch.float32
    image = image if image.dtype == dtype else image.to(dtype)
    text = text if (text.dtype, text.device) == (dtype, image.device) else text.to(device=image.device, dtype=dtype)
    with torch.autocast(image.device.type, enabled=False):
        return scale * image @ text.mT


def table_within_budget(text: TextFeatureTable, *, num_images: int, device: torch.device) -> Tensor | None:
    """All sentences [R C D], if they are in memory and small enough to multiply a batch with all of them at once."""
    table = text.table if isinstance(text, TableInMemory) else None
    if table is None:
        return None
    num_pairs = table.shape[0] * table.shape[1]
    fits = 4 * num_pairs * table.shape[2] <= TABLE_BYTES.get(device.type, OTHER_TABLE_BYTES)
    return table if fits and 4 * num_pairs * num_images <= LOGITS_BYTES else None


def fits_at_once(features: ImageFeatures, text: TextFeatureTable) -> bool:
    """Whether a batch is multiplied with the whole table at once."""
    device = features.category.device
    return table_within_budget(text, num_images=len(features), device=device) is not None


def all_pair_logits(
    image: Float[Tensor, "B D"], table: Float[Tensor, "R C D"], *, scale: float
) -> Float[Tensor, "B R C"]:
    """Logits of every image with every pair, by one matrix product."""
    return scaled_similarity(image, table.flatten(0, 1), scale=scale).unflatten(1, tuple(table.shape[:2]))


def logits_given_rationale(
    image: Float[Tensor, "B D"], text: TextFeatureTable, *, rationales: Int[Tensor, "B K"], scale: float
) -> Float[Tensor, "B K C"]:
    """Logits of every category, for K rationales of each image."""
    table = table_within_budget(text, num_images=len(image), device=image.device)
    if table is not None:
        return gather_rows(all_pair_logits(image, table, scale=scale), rationales)
    rows = partial(read_pair_rows, text)
    return block_logits(image, rows, held=rationales, width=text.categories.shape[0], scale=scale)


def logits_given_category(
    image: Float[Tensor, "B D"], text: TextFeatureTable, *, categories: Int[Tensor, "B K"], scale: float
) -> Float[Tensor, "B K R"]:
    """Logits of every rationale, for K categories of each image."""
    table = table_within_budget(text, num_images=len(image), device=image.device)
    if table is not None:
        return gather_rows(all_pair_logits(image, table, scale=scale).transpose(1, 2), categories)
    columns = partial(read_columns, text)
    return block_logits(image, columns, held=categories, width=text.rationales.shape[0], scale=scale)


def gather_rows(logits: Float[Tensor, "B M N"], ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K N"]:
    """The logits of K names of each image."""
    return logits.gather(1, ids.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))


def block_logits(
    image: Float[Tensor, "B D"],
    features: Callable[[list[int]], Float[Tensor, "G N D"]],
    *,
    held: Int[Tensor, "B K"],
    width: int,
    scale: float,
) -> Float[Tensor, "B K N"]:
    """Logits of the `width` sentences of each held name, for K names of each image; a negative id gives NaN.

    Names are grouped, and each name's images padded to the most frequent name of its block: one matrix product per
    block. A gather of [B K N D] features would cost gigabytes.
    """
    dtype = torch.promote_types(image.dtype, torch.float32)
    flat = image.new_full((held.numel(), width), torch.nan, dtype=dtype)
    for block in equal_blocks(held.flatten(), width=width, dim=image.shape[1]):
        images = torch.div(block.slots, held.shape[1], rounding_mode="floor")
        logits = scaled_similarity(image[images], features(block.names), scale=scale)
        flat[block.slots[block.is_used]] = logits[block.is_used]
    return flat.unflatten(0, tuple(held.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualBlock:
    """Distinct names, with the positions where each is held, padded to one length."""

    names: list[int]
    slots: Int[Tensor, "G M"]
    is_used: Bool[Tensor, "G M"]
    """Slots that are not padding."""


def equal_blocks(ids: Int[Tensor, " N"], *, width: int, dim: int) -> Iterator[EqualBlock]:
    """The distinct ids in blocks of similar frequency, most frequent first; negative ids (unknown) are left out."""
    order = ids.argsort(stable=True)
    values, counts = torch.unique_consecutive(ids[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    by_count = counts.masked_fill(values < 0, 0).argsort(descending=True, stable=True)
    by_count = by_count[: int((values >= 0).sum())]
    names, frequencies = values[by_count].tolist(), counts[by_count].tolist()
    for first, last in block_borders(frequencies, row_bytes=4 * width * dim, logit_bytes=4 * width):
        members = by_count[first:last]
        steps = torch.arange(frequencies[first], device=ids.device)
        is_used = steps < counts[members].unsqueeze(1)
        places = (starts[members].unsqueeze(1) + steps).where(is_used, starts[members].unsqueeze(1))
        yield EqualBlock(names=names[first:last], slots=order[places], is_used=is_used)


def block_borders(frequencies: Sequence[int], *, row_bytes: int, logit_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last index of each block of descending frequencies: within `BLOCK_BYTES`, padded by at most a half."""
    first = 0
    for last, frequency in enumerate(frequencies):
        num_bytes = (last + 1 - first) * max(row_bytes, frequencies[first] * logit_bytes)
        if last > first and (num_bytes > BLOCK_BYTES or 4 * frequency < frequencies[first]):
            yield first, last
            first = last
    if frequencies:
        yield first, len(frequencies)


def read_pair_rows(text: TextFeatureTable, rationales: list[int]) -> Float[Tensor, "G C D"]:
    """Prompt_{c|R} of some rationales with every category."""
    table = text.table if isinstance(text, TableInMemory) else None
    return torch.stack([text.row(r) for r in rationales]) if table is None else table[rationales]


def read_columns(text: TextFeatureTable, categories: list[int]) -> Float[Tensor, "G R D"]:
    """Prompt_{c|R} of some categories with every rationale."""
    table = text.table if isinstance(text, TableInMemory) else None
    return torch.stack([text.column(c) for c in categories]) if table is None else table.transpose(0, 1)[categories]


def stream_pair_logits(
    image: Float[Tensor, "B D"], text: TextFeatureTable, *, scale: float
) -> Iterator[Float[Tensor, "B G C"]]:
    """Logits of every image with every pair, some rationales at a time: all of them if they fit the budgets."""
    table = table_within_budget(text, num_images=len(image), device=image.device)
    if table is not None:
        yield all_pair_logits(image, table, scale=scale)
        return
    num_rationales, num_categories = text.rationales.shape[0], text.categories.shape[0]
    size = max(1, BLOCK_BYTES // (4 * num_categories * max(image.shape)))
    for block in torch.arange(num_rationales).split(size):
        yield all_pair_logits(image, read_pair_rows(text, block.tolist()), scale=scale)
