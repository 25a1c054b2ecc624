"""FiftyOne: a dataset folder with `metadata.json` and `samples.json`, and its own exports read back.

Written is the form without a version of FiftyOne's database, which every version of FiftyOne reads (`FiftyOneDataset`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecor.data.heatmap_codec import Evidence
from ecor.storage import filesystem
from pipelines.exchange.exported_label import ExportedLabel, label_record, review_text
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.image_placement import file_stem, spread_folder
from pipelines.exchange.json_stream import read_json_items
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS, ReturnedLabel
from pipelines.review.decision import Verdict

SAMPLES_NAME, METADATA_NAME = "samples.json", "metadata.json"


class FiftyOneWriter:
    """`samples.json` as one JSON object that is written sample by sample, heat maps as 8-bit PNG files."""

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        metadata = {
            "media_type": "image",
            "info": {"labels_digest": context.labels_digest, "rationales": list(context.names.rationales)},
            "default_classes": list(context.names.categories),
        }
        (context.folder / METADATA_NAME).write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")
        self._file = (context.folder / SAMPLES_NAME).open("w", encoding="utf-8")
        self._file.write('{"samples": [')
        self._separator = "\n"

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            self._file.write(self._separator + json.dumps(self._sample(label), ensure_ascii=False))
            self._separator = ",\n"

    def finish(self) -> None:
        self._file.write("\n]}\n")
        self._file.close()

    def _sample(self, label: ExportedLabel) -> dict[str, Any]:
        row, record = label.prediction, label_record(label)
        sample = {
            "filepath": label.image.address,
            "tags": [],
            "category": _classification(row.category, row.confidence),
            "rationales": _classifications([(row.rationale, row.confidence)]),
            "ranked_categories": _classifications(
                zip(record["ranked_categories"], record["category_probs"], strict=True)
            ),
            "ranked_rationales": _classifications(
                zip(record["ranked_rationales"], record["rationale_probs"], strict=True)
            ),
            "category_true": None if row.category_true is None else _classification(row.category_true, None),
            "reviews": list(map(review_text, label.reviews)),
        }
        kept = ("key", "source", "category_confidence", "decision", "ood_score", "rationales_true", "model")
        sample |= {name: record[name] for name in kept}
        if label.image.height and label.image.width:
            sample["metadata"] = {
                "_cls": "ImageMetadata",
                "width": label.image.width,
                "height": label.image.height,
            }
        if self._context.with_maps and row.evidence is not None:
            sample |= self._maps(label, row.evidence)
        return sample

    def _maps(self, label: ExportedLabel, evidence: Evidence) -> dict[str, Any]:
        """A field of each map over the upright image: `map_category`, and `map_rationale_1` and so on by rank."""
        height, width = label.image.height, label.image.width
        if not (height and width):
            return {}
        from pipelines.exchange.formats.map_images import draw_maps  # torch is loaded only where maps are drawn

        fields = {}
        drawn = draw_maps(evidence, size=(height, width))
        rationales = [each.rationale for each in evidence.maps if each.rationale is not None]
        for rationale, data in drawn:
            rank = "category" if rationale is None else f"rationale_{rationales.index(rationale) + 1}"
            name = f"{_maps_folder(label)}/{file_stem(label.key)}-{rank}.png"
            target = self._context.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            fields[f"map_{rank}"] = {
                "_cls": "Heatmap",
                "map_path": f"{self._context.address}/{name}",
                "tags": [rationale or evidence.category],
            }
        return fields


def read_fiftyone(folder: str) -> Iterator[ReturnedLabel]:
    """Samples of a dataset folder, as this module or `dataset.export(dataset_type=fo.types.FiftyOneDataset)` writes it.

    A verdict is a tag of the sample.

    Raises:
        ValueError: when there is no `samples.json`, or it is not such a file.
    """
    path = filesystem.join(folder, SAMPLES_NAME)
    number = 0
    for name, sample in read_json_items(path):
        if name != "samples":
            continue
        number += 1
        where = f"{path}: sample {number}"
        if not isinstance(sample, dict) or "filepath" not in sample:
            raise ValueError(f"{where} has no filepath: export the dataset as fiftyone.types.FiftyOneDataset")
        try:
            yield _returned(sample, where=where)
        except TypeError as error:
            raise ValueError(f"{where} is not as FiftyOne writes it ({error}): export the dataset again") from error
    if not number:
        raise ValueError(f"{path} holds no samples: export the dataset as fiftyone.types.FiftyOneDataset")


def _returned(sample: Mapping[str, Any], *, where: str) -> ReturnedLabel:
    return ReturnedLabel(
        where=where,
        key=sample.get("key"),
        image=sample["filepath"],
        verdict=_verdict(sample.get("tags") or (), where=where),
        category=_label(sample.get("category"), where=where),
        rationales=_labels(sample.get("rationales"), where=where),
        note=str(sample.get("note") or ""),
    )


def _verdict(tags: Sequence[str], *, where: str) -> Verdict | None:
    found = [verdict for verdict in VERDICTS_OF_TOOLS if verdict in tags]
    if len(found) > 1:
        raise ValueError(f"{where} has the tags {' and '.join(found)}: keep one")
    return found[0] if found else None


def _label(field: Any, *, where: str) -> str | None:
    if field is None:
        return None
    if isinstance(field, str):
        return field
    if not isinstance(field, Mapping) or not isinstance(field.get("label"), str | None):
        raise ValueError(f"{where}: category must be a Classification or a text, got {field!r}")
    return field.get("label")


def _labels(field: Any, *, where: str) -> tuple[str, ...]:
    found = field.get("classifications") if isinstance(field, Mapping) else field
    names = tuple(_label(each, where=where) for each in found or ())
    return tuple(each for each in names if each)


def _classification(label: str, confidence: float | None) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": label, "confidence": confidence}


def _classifications(labels: Any) -> dict[str, Any]:
    return {"_cls": "Classifications", "classifications": [_classification(*each) for each in labels]}


def _maps_folder(label: ExportedLabel) -> str:
    return f"fields/{spread_folder(label).rpartition('/')[2]}"
