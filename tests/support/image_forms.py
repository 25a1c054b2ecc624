"""One set of labelled pictures in every form that images come as: files, tables, rows, archives, annotations."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CATEGORIES = ("cat", "dog")
Pictures = Mapping[str, bytes]
"""Content of each picture by `<category>/<name>`."""


def pictures(num: int = 9, *, seed: int = 0) -> dict[str, bytes]:
    """PNG and JPEG files of coloured noise, in turn of each category."""
    random = np.random.default_rng(seed)
    found = {}
    for number in range(num):
        pixels = random.integers(0, 256, (24 + number, 40, 3), dtype=np.uint8)
        out, kind = io.BytesIO(), "PNG" if number % 2 else "JPEG"
        Image.fromarray(pixels).save(out, kind)
        name = f"{CATEGORIES[number % 2]}/{number:03d}.{'png' if number % 2 else 'jpg'}"
        found[name] = out.getvalue()
    return found


def as_folder(images: Pictures, root: Path) -> Path:
    for name, data in images.items():
        path = root / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "plain"


def rows_with_bytes(images: Pictures, *, labels: str = "category") -> pa.Table:
    """As `datasets` writes a table: a struct of bytes and path, and a ClassLabel where `labels` is `label`."""
    names = list(images)
    features = {"image": {"_type": "Image"}}
    columns: dict[str, object] = {"image": [{"bytes": images[name], "path": name} for name in names]}
    if labels == "label":
        features["label"] = {"names": list(CATEGORIES), "_type": "ClassLabel"}
        columns["label"] = [CATEGORIES.index(name.partition("/")[0]) for name in names]
    else:
        columns[labels] = [name.partition("/")[0] for name in names]
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def as_parquet(images: Pictures, root: Path) -> Path:
    path = root / "images.parquet"
    pq.write_table(rows_with_bytes(images), path, row_group_size=4)
    return path


def as_binary_parquet(images: Pictures, root: Path) -> Path:
    path = root / "binary.parquet"
    names = [name.partition("/")[0] for name in images]
    pq.write_table(pa.table({"jpg": list(images.values()), "category": names}), path, row_group_size=3)
    return path


def as_hub_folder(images: Pictures, root: Path) -> Path:
    table, folder = rows_with_bytes(images, labels="label"), root / "hub" / "data"
    folder.mkdir(parents=True)
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), folder / "part-00000-of-00002.parquet")
    pq.write_table(table.slice(half), folder / "part-00001-of-00002.parquet")
    (root / "hub" / "README.md").write_text("a card")
    return root / "hub"


def as_saved_dataset(images: Pictures, root: Path) -> Path:
    """As `save_to_disk`."""
    table, folder = rows_with_bytes(images, labels="label"), root / "saved"
    folder.mkdir()
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def as_image_folder(images: Pictures, root: Path) -> Path:
    """Files beside `metadata.csv`, whose folders say nothing."""
    folder = root / "imagefolder"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label"])
        for name, data in images.items():
            (folder / name.replace("/", "-")).write_bytes(data)
            writer.writerow([name.replace("/", "-"), name.partition("/")[0]])
    return folder


def as_coco(images: Pictures, root: Path) -> Path:
    """As COCO lays out a split: annotations beside the folder of its images."""
    (root / "coco" / "annotations").mkdir(parents=True)
    (root / "coco" / "val2017").mkdir()
    content: dict[str, list[dict[str, object]]] = {"annotations": [], "images": []}
    for number, (name, data) in enumerate(images.items()):
        (root / "coco" / "val2017" / name.replace("/", "-")).write_bytes(data)
        content["images"].append({"id": number, "file_name": name.replace("/", "-")})
        box = {"image_id": number, "category_id": 7 + CATEGORIES.index(name.partition("/")[0]), "bbox": [0, 0, 1, 1]}
        content["annotations"] += [{"id": 2 * number, **box}, {"id": 2 * number + 1, **box}]
    content["categories"] = [{"id": 7 + number, "name": name} for number, name in enumerate(CATEGORIES)]
    path = root / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(content))
    return path


def write_tar(path: Path, members: Pictures) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def as_tar(images: Pictures, root: Path) -> Path:
    return write_tar(root / "images.tar", {f"./{name}": data for name, data in images.items()})


def as_zip(images: Pictures, root: Path) -> Path:
    path = root / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number, (name, data) in enumerate(images.items()):
            file.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
        file.writestr("__MACOSX/cat/._000.jpg", b"junk")
    return path


def as_web_dataset(images: Pictures, root: Path) -> Path:
    """As img2dataset: tars in a folder, with tables and statistics beside them; a dot and a folder in each key."""
    folder = root / "web"
    folder.mkdir()
    names = list(images)
    for number, some in enumerate((names[:4], names[4:])):
        members = {}
        for name in some:
            category, file = name.split("/")
            stem, suffix = f"a.b/{file.partition('.')[0]}.v1", file.rpartition(".")[2]
            members[f"{stem}.{suffix}"] = images[name]
            members[f"{stem}.json"] = json.dumps({"caption": "x", "category": category, "status": "success"}).encode()
            members[f"{stem}.txt"] = b"a caption"
        write_tar(folder / f"{number:05d}.tar", members)
        pq.write_table(pa.table({"key": some}), folder / f"{number:05d}.parquet")
        (folder / f"{number:05d}_stats.json").write_text("{}")
    return folder


FORMS: Mapping[str, Callable[[Pictures, Path], Path]] = {
    "parquet": as_parquet,
    "binary_parquet": as_binary_parquet,
    "hub_folder": as_hub_folder,
    "saved_dataset": as_saved_dataset,
    "image_folder": as_image_folder,
    "coco": as_coco,
    "tar": as_tar,
    "zip": as_zip,
    "web_dataset": as_web_dataset,
}
"""Each writes pictures below a folder, and returns the input for `ecor shard` and `ecor score`."""
WITHOUT_SCORE_LABELS = ("tar", "zip")
"""Their folders are categories for `ecor shard` only, as those of any folder."""
