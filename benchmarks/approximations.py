"""What the faster ways of `ecor score` on a CPU gain, and how far they move the labels: bf16, reduced JPEG files.

    python benchmarks/approximations.py --photos ../shared/data/photos/clothing

Labels are those of the exact way's model: joint probabilities of all pairs of the vocabulary. Three sets of images:
drawn test images (PNG), photos as they are, and the same photos enlarged to the size that phones make (12 megapixels;
their files are softer than real ones, but decoding takes as long). ViT-B-32 has random weights: its probabilities are
flat, so that a small change of a feature changes the best pair more often than in a trained model. Times are of one
thread.
"""

import argparse
import io
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scoring import vocabulary_of
from torch import Tensor

from ecor.clip.loading import load_backbone
from ecor.config.choices import Precision
from ecor.config.model import BackboneConfig, Preprocess
from ecor.config.processor import has_bf16_units
from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import decode_file
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.images.reduced_jpeg import JPEG_MARGIN
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.demo.dataset import labelled_drawings
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer

SET = "demo-main"
WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "fp32, fast JPEG": ("fp32", True), "both": ("bf16", True)}
"""Precision, and whether JPEG files are reduced; the first is the exact way."""
LARGE = (3000, 4000)
"""Of an enlarged photo."""
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """N images labelled in one way."""

    prob: Float[Tensor, "N R C"]
    decode_s: float
    encode_s: float


@torch.no_grad()
def label(files: Sequence[bytes], *, model: str, names: Vocabulary, precision: Precision, fast_jpeg: bool) -> Labelled:
    name, _, pretrained = model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision=precision))
    recognizer = Recognizer.zero_shot(names, backbone=backbone)
    recognizer.image_features(torch.zeros(BATCH, 3, *backbone.preprocess.image_size, dtype=torch.uint8))
    began = time.process_time()
    pixels = decode(files, preprocess=backbone.preprocess, fast_jpeg=fast_jpeg)
    decoded = time.process_time()
    features = [recognizer.image_features(part) for part in pixels.split(BATCH)]
    encoded = time.process_time()
    num = len(names.rationales)
    scoring, probs = ScoringConfig(keep_rationales=num, max_keep_rationales=num), []
    for each in features:
        joint = recognizer.joint(each, scoring=scoring)
        order = joint.rationales.argsort(dim=1)[:, :, None].expand_as(joint.log_prob)
        probs.append(joint.log_prob.gather(1, order).exp())
    return Labelled(prob=torch.cat(probs), decode_s=decoded - began, encode_s=encoded - decoded)


def decode(files: Sequence[bytes], *, preprocess: Preprocess, fast_jpeg: bool) -> UInt8[Tensor, "N 3 H W"]:
    side = JPEG_MARGIN * max(preprocess.image_size) if fast_jpeg else None
    pictures = (decode_file(each, jpeg_side=side).picture for each in files)
    return torch.stack([torch.from_numpy(image_to_pixels(each, preprocess=preprocess)) for each in pictures])


def rows(title: str, files: Sequence[bytes], *, model: str, names: Vocabulary, ways: Sequence[str]) -> Iterator[str]:
    exact: Labelled | None = None
    for way in ways:
        precision, fast_jpeg = WAYS[way]
        found = label(files, model=model, names=names, precision=precision, fast_jpeg=fast_jpeg)
        cost = f"{1000 * found.decode_s / len(files):.2f} | {1000 * found.encode_s / len(files):.2f}"
        if exact is None:
            exact = found
            yield f"| {model} | {title} | {way} | {cost} | | | |"
            continue
        apart = (found.prob - exact.prob).abs().flatten(1)
        same = (found.prob.flatten(1).argmax(1) == exact.prob.flatten(1).argmax(1)).float().mean()
        drift = f"{float(apart.max()):.1e} | {float(apart.amax(1).mean()):.1e} | {float(same):.1%}"
        yield f"| {model} | {title} | {way} | {cost} | {drift} |"


def drawings(num: int) -> list[bytes]:
    """Test images of the drawn world, as PNG."""
    return [
        encoded(each.drawing.image, form="PNG")
        for each in labelled_drawings(set_name=SET, split="test", num_images=num, seed=100)
    ]


def encoded(image: Image.Image, *, form: str) -> bytes:
    out = io.BytesIO()
    image.save(out, form, quality=90)
    return out.getvalue()


def enlarged(photo: bytes) -> bytes:
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    size = LARGE if image.height > image.width else LARGE[::-1]
    return encoded(image.resize(size, Image.Resampling.BICUBIC), form="JPEG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of folders of photos, one per category")
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded", "ViT-B-32:random"])
    parser.add_argument("--num-drawings", type=int, default=600)
    parser.add_argument("--num-photos", type=int, default=300)
    parser.add_argument("--num-large", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, bf16 units: {has_bf16_units()}"
    print(f"`python {' '.join(sys.argv)}`, {machine}, {date.today()}, load {psutil.getloadavg()[0]:.0f}\n")
    print(
        "| model | images | way | decoding, CPU ms per image | encoding, CPU ms per image | largest change of a "
        "probability | mean of images' largest | same best pair |\n|---|---|---|---:|---:|---:|---:|---:|"
    )
    files = sorted(given.photos.rglob("*.jpg"))
    photos = [path.read_bytes() for path in files[:: max(1, len(files) // given.num_photos)]][: given.num_photos]
    of_photos = vocabulary_of(sorted({path.parent.name for path in files}))
    large = [enlarged(photo) for photo in photos[:: max(1, len(photos) // given.num_large)]][: given.num_large]
    for model in given.models:
        num = given.num_drawings if model.startswith("ecor") else given.num_drawings // 6
        for title, images, names, ways in (
            ("drawings", drawings(num), vocabulary_from_mapping(set_vocabulary(SET)), list(WAYS)[:2]),
            ("photos", photos[:num], of_photos, list(WAYS)),
            ("photos of 12 megapixels", large, of_photos, list(WAYS)),
        ):
            for row in rows(title, images, model=model, names=names, ways=ways):
                print(row, flush=True)


if __name__ == "__main__":
    main()
