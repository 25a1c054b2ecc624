"""COCO's annotations: an image has the category of all its annotations, or none, and a line says how many."""

import json
from pathlib import Path

import pytest

from ecor.data.sources.coco import describe_coco, read_coco

CATEGORIES = [{"id": 1, "name": "hat"}, {"id": 5, "name": "shoe"}]


def write(root: Path, pairs: list[tuple[int, int]], *, num_images: int = 3, **changes: object) -> str:
    (root / "images").mkdir(exist_ok=True)
    (root / "images" / "0.jpg").touch()
    content = {
        "info": {"year": 2017},
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(num_images)],
        "annotations": [{"image_id": image, "category_id": category} for image, category in pairs],
        "categories": CATEGORIES,
    } | changes
    (root / "a.json").write_text(json.dumps(content))
    return str(root / "a.json")


def test_an_image_has_the_one_category_of_its_annotations(tmp_path: Path):
    path = write(tmp_path, [(0, 5), (0, 5), (1, 1), (1, 5), (1, 5)])
    found = [(row.path("path"), row.text("category")) for row in read_coco(path)]
    images = f"{tmp_path}/images"
    assert found == [(f"{images}/0.jpg", "shoe"), (f"{images}/1.jpg", None), (f"{images}/2.jpg", None)]
    assert describe_coco(path) == (
        f"{path}: 1 images have annotations of several categories and 1 have none: they are taken without a category"
    )
    assert describe_coco(write(tmp_path, [(0, 5), (1, 1), (2, 1)])) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": [{"id": 0}]}, "images, item 0: an object with file_name is expected, got {'id': 0}"),
        ({"images": [{"id": 0, "file_name": 3}]}, "file_name must be a text, got 3"),
        ({"images": [{"id": 0, "file_name": "x.jpg"}]}, r"its image x\.jpg is in none of"),
        ({"annotations": [{"image_id": 0, "category_id": 9}]}, "name the category 9, which is not in categories"),
        ({"annotations": [7]}, "an object with image_id is expected, got 7"),
        ({"categories": []}, "no file of COCO annotations"),
    ],
)
def test_what_is_no_coco_is_told(tmp_path: Path, changes: dict[str, object], problem: str):
    with pytest.raises(ValueError, match=problem):
        list(read_coco(write(tmp_path, [(0, 5)], **changes)))


def test_a_cut_file_is_told(tmp_path: Path):
    path = Path(write(tmp_path, [(0, 5)]))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"a\.json, character \d+: "):
        list(read_coco(str(path)))
