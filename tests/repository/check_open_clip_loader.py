"""Our shards in, what open_clip's own training loader reads of them out: a check beside the tests.

    make check-open-clip

The loader fails on every tar with webdataset 1.0, so the check installs webdataset 0.2.86 into a folder of its own,
which goes before everything else on the path of one more Python. Needs a package index, or a cache of it, and uv (UV
names it, where it is not on the path) or pip.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

NUM_SAMPLES, PER_SHARD = 16, 4


def write_shards(folder: Path) -> None:
    from ecor.data.samples import Sample
    from ecor.data.shards import ShardEntry, write_shard
    from ecor.data.vocabulary import vocabulary_from_mapping

    vocabulary = vocabulary_from_mapping({"cat": ["whiskers"]})
    for number in range(NUM_SAMPLES // PER_SHARD):
        numbers = range(number * PER_SHARD, (number + 1) * PER_SHARD)
        entries = [ShardEntry(sample=sample(each, kind=Sample)) for each in numbers]
        write_shard(entries, folder=folder, name=f"{number}.tar", vocabulary=vocabulary)


def sample(number: int, *, kind: type):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (number * 10, 0, 0)).save(file, "png")
    return kind(
        key=f"{number:04d}-x",
        image=file.getvalue(),
        extension="png",
        category="cat",
        rationales=("whiskers",),
        visible_rationales=None,
        source=f"{number}.png",
    )


def read_by_open_clip(folder: Path) -> None:
    """Run in the second Python: one epoch of open_clip_train's loader."""
    import webdataset
    from open_clip_train.data import get_wds_dataset

    arguments = SimpleNamespace(
        train_data=f"{folder}/{{0..{NUM_SAMPLES // PER_SHARD - 1}}}.tar",
        train_data_upsampling_factors=None,
        train_num_samples=NUM_SAMPLES,
        dataset_resampled=False,
        seed=0,
        batch_size=4,
        world_size=1,
        workers=1,
    )
    data = get_wds_dataset(arguments, np.asarray, is_train=True, tokenizer=lambda text: [text])
    found = sorted(
        (int(pixels[0, 0, 0]), text)
        for images, texts in data.dataloader
        for pixels, text in zip(images, texts, strict=True)
    )
    expected = [(number * 10, "This is a photo of a cat because there is whiskers.") for number in range(NUM_SAMPLES)]
    assert found == expected, found
    print(f"open_clip_train with webdataset {webdataset.__version__} reads all {len(found)} samples")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--read":
        return read_by_open_clip(Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as temporary:
        packages, shards = Path(temporary, "packages"), Path(temporary, "shards")
        uv = os.environ.get("UV") or shutil.which("uv")
        install = (
            [uv, "pip", "install", "-q", "--python", sys.executable]
            if uv
            else [sys.executable, "-m", "pip", "install", "-q"]
        )
        subprocess.run([*install, "--no-deps", "--target", str(packages), "webdataset==0.2.86"], check=True)
        write_shards(shards)
        paths = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run(
            [sys.executable, __file__, "--read", str(shards)], check=True, env={**os.environ, "PYTHONPATH": paths}
        )
    return None


if __name__ == "__main__":
    main()
