"""Other ways to run an image tower on CPUs, beside PyTorch as it is: `torch.compile`, OpenVINO, ONNX Runtime.

    python benchmarks/backends.py --models ecor-demo:embedded ViT-B-32:random --batch-sizes 32 64 256

OpenVINO and ONNX Runtime are no dependencies of this project: `uv pip install openvino onnx onnxruntime onnxscript`
adds them, and without them their rows are left out. All rows encode the same random pixels with `--threads` threads,
one after the other; of three passes the fastest counts. The first pass (compiling, packing of weights) stands beside
it.
"""

import argparse
import copy
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig

NUM_PASSES = 3
Encode = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to encode."""

    what: str
    first_s: float
    images_per_s: float
    cosine: float
    """Smallest cosine of a feature with that of PyTorch in fp32."""


def measure(what: str, encode: Encode, *, num_images: int, expected: torch.Tensor) -> Row:
    """Time a way to encode, and compare its features."""
    began = time.perf_counter()
    found = as_features(encode())
    first_s, spent = time.perf_counter() - began, []
    for _ in range(NUM_PASSES):
        began = time.perf_counter()
        encode()
        spent.append(time.perf_counter() - began)
    cosine = float((found * expected).sum(dim=-1).min())
    return Row(what=what, first_s=first_s, images_per_s=num_images / min(spent), cosine=cosine)


def as_features(found: Any) -> torch.Tensor:
    """Normalised features in fp32."""
    features = found.float() if torch.is_tensor(found) else torch.from_numpy(np.asarray(found, dtype=np.float32))
    return torch.nn.functional.normalize(features, dim=-1)


def torch_ways(tower: Any, pixels: torch.Tensor) -> Iterator[tuple[str, Encode]]:
    """PyTorch's own."""
    yield "PyTorch, fp32", partial(tower, pixels)
    reduced, few = copy.deepcopy(tower).bfloat16(), pixels.bfloat16()
    yield "PyTorch, bf16", partial(reduced, few)
    last = copy.deepcopy(tower).to(memory_format=torch.channels_last)
    yield "PyTorch, fp32, channels-last", partial(last, pixels.to(memory_format=torch.channels_last))
    for name, model, given in (("fp32", tower, pixels), ("bf16", reduced, few)):
        for what, options in (("torch.compile", {}), ("torch.compile with freezing", {"freezing": True})):
            torch._dynamo.reset()
            compiled: Any = torch.compile(copy.deepcopy(model), options=options)
            yield f"{what}, {name}", partial(compiled, given)


def exported_ways(tower: Any, pixels: torch.Tensor, *, folder: str, threads: int) -> Iterator[tuple[str, Encode]]:
    """Runtimes that read ONNX."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("openvino") is None:
        return
    import onnxruntime
    import openvino

    path = str(Path(folder, f"tower-{pixels.shape[0]}.onnx"))
    torch.onnx.export(tower, (pixels,), path, dynamo=True, verbose=False)
    values = pixels.numpy()
    for name, precision in (("fp32", "f32"), ("bf16", "bf16")):
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", hints)
        yield f"OpenVINO, {name}", lambda compiled=compiled: compiled(values)[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: values}
    yield "ONNX Runtime, fp32", lambda: session.run(None, given)[0]


@torch.inference_mode()
def rows(model: str, *, batch_size: int, threads: int, folder: str) -> Iterator[Row]:
    """All ways of one tower and batch size."""
    name, _, pretrained = model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision="fp32"))
    tower = backbone.model.visual.eval()
    pixels = torch.randn((batch_size, 3, *backbone.preprocess.image_size), generator=torch.Generator().manual_seed(0))
    expected = as_features(tower(pixels))
    for ways in (torch_ways(tower, pixels), exported_ways(tower, pixels, folder=folder, threads=threads)):
        for what, encode in ways:
            yield measure(what, encode, num_images=batch_size, expected=expected)


def main() -> None:
    """Print a table per model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded", "ViT-B-32:random"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{platform.machine()}, {asked.threads} threads, torch {torch.__version__}, {datetime.now(UTC).date()}\n")
    print("| model | batch | way | images/s | of PyTorch | first pass, s | least cosine |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for model in asked.models:
        for batch_size in asked.batch_sizes:
            with tempfile.TemporaryDirectory() as folder:
                plain: dict[bool, float] = {}
                for row in rows(model, batch_size=batch_size, threads=asked.threads, folder=folder):
                    own = plain.setdefault("bf16" in row.what, row.images_per_s)
                    print(
                        f"| {model} | {batch_size} | {row.what} | {row.images_per_s:.1f} "
                        f"| {row.images_per_s / own:.2f} | {row.first_s:.1f} | {row.cosine:.5f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
