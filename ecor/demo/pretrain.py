"""Settings in; the small CLIP's weights out: contrastive pretraining on a drawn, captioned corpus.

`python -m ecor.demo.pretrain --out small.safetensors`
"""

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Int
from open_clip.transformer import PatchDropout
from safetensors.torch import save_file
from torch import Tensor, nn

from ecor.demo.corpus import (
    CATEGORIES,
    CATEGORY_TEMPLATES,
    NAMED,
    PAIR_TEMPLATES,
    RATIONALE_TEMPLATES,
    RATIONALES,
    Corpus,
    captioned,
    draw_corpus,
)
from ecor.demo.model import create_clip, normalised, tokenized
from ecor.demo.validity import validation_images, zero_shot_table
from ecor.pretraining import Clip, Pretrainer, PretrainingBatch, pretraining_optimizer, pretraining_step, warmup_cosine

NUM_TOKEN_ROWS = 49408


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Settings of one pretraining run."""

    # where the weights go (safetensors, fp16)
    out: Path
    # of the corpus, the initialisation and the order of batches
    seed: int = 0
    # distinct images drawn; each is seen about num_samples / num_images times, mirrored at random
    num_images: int = 100_000
    # images seen in all
    num_samples: int = 260_000
    # end before the schedule does, after this many steps: the shipped weights stopped at 1,500 of 2,031
    stop_after: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    # share of the steps that warm up
    warmup: float = 0.04
    # weight of the auxiliary loss that names categories and parts in view
    attribute_weight: float = 0.2
    # share of captions that describe another image
    caption_noise: float = 0.02
    # share of image tokens dropped in the first part of training (arXiv:2212.00794)
    patch_dropout: float = 0.5
    # share of the samples seen with all image tokens, at the end
    whole_images: float = 0.3
    # towers in bfloat16: faster on processors that multiply it, slower on others
    bfloat16: bool = True
    num_threads: int = 2
    # steps between printed lines; weights are written and zero-shot accuracy printed ten times as rarely
    report_every: int = 50
    # an .npz file to keep the drawn corpus in, or none
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= self.num_samples:
            raise ValueError(f"batch_size must be between 1 and num_samples, got {self.batch_size}")


class Captions:
    """Caption -> token ids over a small table, which holds only the tokens that the world uses."""

    def __init__(self) -> None:
        parts = [t.format(c=c, r="") for t in CATEGORY_TEMPLATES + PAIR_TEMPLATES for c in CATEGORIES]
        parts += [t.format(c="", r=r) for t in RATIONALE_TEMPLATES + PAIR_TEMPLATES for r in RATIONALES]
        tokens, _ = tokenized(parts)
        # 0 pads, and must be row 0
        self.rows: Int[Tensor, " U"] = torch.unique(torch.cat([torch.zeros(1, dtype=torch.long), tokens.flatten()]))
        self._known: dict[str, list[int]] = {}

    def __call__(self, captions: tuple[str, ...]) -> tuple[Int[Tensor, "T L"], Int[Tensor, " T"]]:
        if new := [caption for caption in captions if caption not in self._known]:
            tokens, ends = tokenized(new)
            rows = torch.searchsorted(self.rows, tokens.contiguous())
            self._known |= {c: row[: end + 1].tolist() for c, row, end in zip(new, rows, ends.tolist(), strict=True)}
        rows_T = [self._known[caption] for caption in captions]
        longest = max(map(len, rows_T))
        tokens_TL = torch.tensor([row + [0] * (longest - len(row)) for row in rows_T])
        return tokens_TL, torch.tensor([len(row) - 1 for row in rows_T])


def load_corpus(config: PretrainConfig) -> Corpus:
    """Draw the corpus, or read it from the cache."""
    if config.cache and config.cache.exists():
        with np.load(config.cache) as stored:
            return Corpus(pixels=stored["pixels"], categories=stored["categories"], visible=stored["visible"])
    corpus = draw_corpus(num_images=config.num_images, seed=config.seed, num_processes=config.num_threads)
    if config.cache:
        np.savez(config.cache, pixels=corpus.pixels, categories=corpus.categories, visible=corpus.visible)
    return corpus


def make_batch(corpus: Corpus, captions: Captions, *, step: int, config: PretrainConfig) -> PretrainingBatch:
    """The batch of a step: a function of the seed and the step alone."""
    per_epoch = len(corpus.pixels) // config.batch_size
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((config.seed, epoch)).permutation(len(corpus.pixels))
    rows = order[place * config.batch_size : (place + 1) * config.batch_size]
    batch = captioned(corpus, rows, rng=random.Random(f"{config.seed}/{step}"), noise=config.caption_noise)
    rng = np.random.default_rng((config.seed, 1, step))
    tokens, ends = captions(batch.captions)
    return PretrainingBatch(
        images=normalised(_varied(corpus.pixels[rows], rng=rng)),
        tokens=tokens,
        ends=ends,
        own=torch.from_numpy(batch.own),
        true=torch.from_numpy(batch.true),
        attributes=torch.from_numpy(batch.attributes),
    )


def _varied(pixels: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the images and shift each by up to three pixels."""
    pixels = np.where(rng.random((len(pixels), 1, 1, 1)) < 0.5, pixels[:, :, ::-1], pixels)
    padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    side = pixels.shape[1]
    shifts = rng.integers(0, 7, (len(pixels), 2))
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, shifts, strict=True)])


def save_weights(clip: Clip, path: Path, *, rows: Int[Tensor, " U"]) -> None:
    """Write fp16 weights with the full token table; rows of tokens that never occur share the mean row."""
    state = {
        name: value.detach().half().contiguous() for name, value in clip.state_dict().items() if name != "attn_mask"
    }
    small = state["token_embedding.weight"].float()
    table = small.mean(0).half().expand(NUM_TOKEN_ROWS, -1).clone()
    table[rows] = small.half()
    state["token_embedding.weight"] = table
    state["logit_scale"] = clip.logit_scale.detach().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.chmod(0o644)
    partial.replace(path)


def run(config: PretrainConfig) -> None:
    """Train, printing losses and rate, and zero-shot accuracy on validation images from time to time."""
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    corpus, captions = load_corpus(config), Captions()
    clip = create_clip(weights=None).train()
    clip.token_embedding = nn.Embedding(len(captions.rows), clip.token_embedding.embedding_dim)
    nn.init.normal_(clip.token_embedding.weight, std=0.02)
    embed_dim = clip.text_projection.shape[1]
    pretrainer = Pretrainer(clip, embed_dim=embed_dim, num_attributes=len(NAMED) + len(RATIONALES))
    optimizer = pretraining_optimizer(pretrainer, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    num_steps = config.num_samples // config.batch_size
    whole_from = round(num_steps * (1 - config.whole_images))
    whole_images = clip.visual.patch_dropout
    clip.visual.patch_dropout = PatchDropout(config.patch_dropout)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        coming: Future[PretrainingBatch] = ahead.submit(make_batch, corpus, captions, step=0, config=config)
        for step in range(num_steps):
            batch = coming.result()
            coming = ahead.submit(make_batch, corpus, captions, step=step + 1, config=config)
            if step == whole_from:
                clip.visual.patch_dropout = whole_images
            terms = pretraining_step(
                pretrainer,
                optimizer,
                batch,
                learning_rate=config.learning_rate * warmup_cosine((step + 1) / num_steps, warmup=config.warmup),
                attribute_weight=config.attribute_weight,
                autocast=torch.bfloat16 if config.bfloat16 else None,
            )
            if (step + 1) % config.report_every == 0:
                rate = config.batch_size * (step + 1) / (time.monotonic() - began)
                _say(_progress(step + 1, num_steps, terms, rate=rate))
            last = step + 1 in (num_steps, config.stop_after)
            if last or (step + 1) % (10 * config.report_every) == 0:
                save_weights(clip, config.out, rows=captions.rows)
                _say(_zero_shot(config.out))
            if last:
                break


def _progress(step: int, num_steps: int, terms: dict[str, float], *, rate: float) -> str:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
    return f"step {step}/{num_steps}  {losses}  {rate:.0f} images/s"


def _zero_shot(weights: Path) -> str:
    clip, lines = create_clip(weights=weights), []
    for set_name in ("demo-small", "demo-main"):
        table = zero_shot_table(clip, validation_images(set_name, num_images=300))
        best = max(table, key=lambda row: row.category_accuracy)
        lines.append(
            f"{set_name}: zero-shot {best.category_accuracy:.1%} by {best.template!r}, "
            f"labelled rationale {best.rationale_accuracy:.1%}, a visible one {best.visible_accuracy:.1%}"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> None:
    run(tyro.cli(PretrainConfig, description=__doc__))


if __name__ == "__main__":
    main()
