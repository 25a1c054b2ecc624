"""A vocabulary in, what its text features cost out: padded, by length, with shared beginnings, and with gradient.

python benchmarks/text_features.py --vocabulary imagenet.json --models ViT-B-32:random ecor-demo:embedded
"""

import argparse
import datetime
import os
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.towers.causal_text import cache_prefix, last_features
from ecor.config.model import BackboneConfig, TemplateConfig
from ecor.data.templates import pair_sentence
from ecor.data.vocabulary import Vocabulary, read_vocabulary

TEMPLATES = TemplateConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of the table."""

    model: str
    what: str
    seconds_per_1000: float
    error: float | None
    """Largest absolute difference of a feature from `encode_text`; of a gradient relative to its largest entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How a deed is timed: the fastest of some runs, because other work on the machine only ever adds."""

    repeats: int
    cpu: bool
    """CPU seconds of this process, per thread: for a machine that others use too; else seconds on the wall."""

    def seconds(self, deed: Callable[[], object]) -> float:
        return min(self._once(deed) for _ in range(self.repeats))

    def _once(self, deed: Callable[[], object]) -> float:
        now = time.process_time if self.cpu else time.perf_counter
        started = now()
        deed()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (now() - started) / (torch.get_num_threads() if self.cpu else 1)


def by_length(backbone: Backbone, texts: list[str]) -> Tensor:
    """Sentences read whole and without padding, those of one length together."""
    tower, groups = backbone.causal_text, defaultdict(list)
    assert tower is not None
    for place, ids in enumerate(backbone.text_tokenizer.tokenize(texts)):
        groups[len(ids)].append((place, tuple(ids[1:])))
    start = (cache_prefix(tower, (tower.start_token,), context=None),)
    features = torch.empty(len(texts), backbone.embed_dim, device=backbone.device)
    for group in groups.values():
        places, tokens = zip(*group, strict=True)
        features[list(places)] = last_features(tower, tokens, before=start, num_heads=1)[0]
    return features


def forward(name: str, backbone: Backbone, *, vocabulary: Vocabulary, num: int, clock: Clock) -> Iterator[Measured]:
    """Features of `num` rationales with all categories; the slow ways on some of those sentences."""
    encoder = SentenceEncoder(backbone, vocabulary=vocabulary, templates=TEMPLATES).with_frozen_contexts()
    rationales = random.Random(0).sample(range(len(vocabulary.rationales)), num)
    texts = [
        pair_sentence(TEMPLATES, category, vocabulary.rationales[r])
        for r in rationales
        for category in vocabulary.categories
    ]
    order = random.Random(1).sample(range(len(texts)), len(texts))
    sample, some = order[:64], [texts[place] for place in order[:256]]
    few = some[:64]
    expected = backbone.encode_text(few)
    seconds = clock.seconds(lambda: backbone.encode_text(few))
    yield Measured(model=name, what="`encode_text`, padded", seconds_per_1000=1000 * seconds / len(few), error=None)

    seconds = clock.seconds(lambda: by_length(backbone, some))
    error = float((by_length(backbone, few) - expected).abs().max())
    yield Measured(model=name, what="by length", seconds_per_1000=1000 * seconds / len(some), error=error)

    ids = torch.tensor(rationales)
    fresh = SentenceEncoder(backbone, vocabulary=vocabulary, templates=TEMPLATES)
    ways = {
        "shared beginnings, read anew in each call": lambda: [fresh.category_features(each) for each in ids.split(1)],
        "shared beginnings, kept (row by row)": lambda: [encoder.category_features(each) for each in ids.split(1)],
        "shared beginnings, kept (all rows in a call)": lambda: [encoder.category_features(ids)],
    }
    for what, way in ways.items():
        error = float((torch.cat(way()).flatten(0, 1)[sample] - expected).abs().max())
        seconds = clock.seconds(way)
        yield Measured(model=name, what=what, seconds_per_1000=1000 * seconds / len(texts), error=error)


def with_gradient(name: str, backbone: Backbone, *, vocabulary: Vocabulary, clock: Clock) -> Iterator[Measured]:
    """Forward and backward to 16 context tokens, of 4 rationales with 16 categories."""
    context = (0.02 * torch.randn(16, backbone.text_width, device=backbone.device)).requires_grad_()
    encoder = SentenceEncoder(backbone, vocabulary=vocabulary, templates=TEMPLATES, category_context=context)
    rationales, categories = torch.arange(4) * 7, torch.arange(16) * 5
    texts = [
        pair_sentence(TEMPLATES, vocabulary.categories[c], vocabulary.rationales[r])
        for r in rationales
        for c in categories
    ]
    weights = torch.randn(len(texts), backbone.embed_dim, device=backbone.device)

    def gradient(features: Tensor) -> Tensor:
        return torch.autograd.grad((features * weights).sum(), context)[0]

    ways = {
        "with gradient: padded": lambda: gradient(backbone.encode_text(texts, context=context)),
        "with gradient: shared beginnings": lambda: gradient(
            encoder.category_features(rationales, categories).flatten(0, 1)
        ),
    }
    expected = ways["with gradient: padded"]()
    for what, way in ways.items():
        with torch.enable_grad():
            error = float((way() - expected).abs().max() / expected.abs().max())
            seconds = clock.seconds(way)
        yield Measured(model=name, what=what, seconds_per_1000=1000 * seconds / len(texts), error=error or None)


def table(rows: list[Measured], *, vocabulary: Vocabulary) -> str:
    num_pairs = len(vocabulary.categories) * len(vocabulary.rationales)
    lines = [
        f"| model | method | s per 1000 sentences | one row ({len(vocabulary.categories)} categories) | all "
        f"{num_pairs / 1e6:.2f} M pairs | error |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        per_row, whole = (row.seconds_per_1000 * n / 1000 for n in (len(vocabulary.categories), num_pairs))
        error = "–" if row.error is None else f"{row.error:.1e}"
        extra = ("–", "–") if "gradient" in row.what else (f"{per_row:.2f} s", f"{whole / 3600:.1f} h")
        lines.append(f"| {row.model} | {row.what} | {row.seconds_per_1000:.2f} | {' | '.join(extra)} | {error} |")
    return "\n".join(lines)


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({torch.get_num_threads()} threads, {platform.machine()})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", required=True, help="categories and rationales (DROR JSON, CSV, Parquet)")
    parser.add_argument(
        "--models", nargs="+", default=["ViT-B-32:random", "ecor-demo:embedded"], help="name:pretrained"
    )
    parser.add_argument("--num-rationales", type=int, default=4, help="rows encoded per measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds of CPU time per thread")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    vocabulary = read_vocabulary(options.vocabulary)
    clock = Clock(repeats=options.repeats, cpu=options.clock == "cpu")
    rows: list[Measured] = []
    for model in options.models:
        name, _, pretrained = model.rpartition(":")
        backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained), device=options.device)
        with torch.no_grad():
            rows += forward(name, backbone, vocabulary=vocabulary, num=options.num_rationales, clock=clock)
        rows += with_gradient(name, backbone, vocabulary=vocabulary, clock=clock)
    print(
        f"`python {' '.join(sys.argv)}` — {machine(options.device)}, {options.clock} clock, torch {torch.__version__}, "
        f"{datetime.date.today().isoformat()}\n"
    )
    print(table(rows, vocabulary=vocabulary))


if __name__ == "__main__":
    main()
