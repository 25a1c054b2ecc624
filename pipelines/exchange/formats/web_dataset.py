"""WebDataset: tars with the image, its label as JSON, the category's number and a caption of each sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ecor.config.model import TemplateConfig
from ecor.data.tar_members import HashingWriter, json_bytes, tar_header
from ecor.data.templates import category_sentence, pair_sentence
from pipelines.exchange.exported_label import ExportedLabel, label_record
from pipelines.exchange.formats.tables import evidence_record
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.image_placement import file_stem

BYTES_PER_TAR = 500 * 2**20
"""Ours: a size that loaders read well."""
SAMPLES_PER_TAR = 10_000
CLASSES_NAME = "classnames.txt"
_BLOCK = 512


class WebDatasetWriter:
    """`labels-000000.tar` and more; `classnames.txt` has the names of the numbers in `.cls`, a line each."""

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._ids = {name: number for number, name in enumerate(context.names.categories)}
        self._file: BinaryIO | None = None
        self._out: HashingWriter | None = None
        self._num_tars = self._num_samples = 0

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            out = self._current_tar()
            stem = file_stem(label.key)
            for extension, data in self._members(label).items():
                out.write(tar_header(f"{stem}.{extension}", num_bytes=len(data)))
                out.write(data + bytes(-len(data) % _BLOCK))
            self._num_samples += 1

    def finish(self) -> None:
        if self._num_tars == 0:
            self._current_tar()
        self._end_tar()
        names = "".join(f"{name}\n" for name in self._ids)
        (self._context.folder / CLASSES_NAME).write_text(names, encoding="utf-8")

    def _members(self, label: ExportedLabel) -> dict[str, bytes]:
        assert label.image.data is not None
        record = {name: value for name, value in label_record(label).items() if name != "image"}
        if self._context.with_maps and label.prediction.evidence is not None:
            record["evidence"] = evidence_record(label.prediction.evidence)
        category, rationales = label.final
        members = {label.image.extension: label.image.data, "json": json_bytes(record)}
        if category is not None:
            members["cls"] = str(self._ids.setdefault(category, len(self._ids))).encode()
            members["txt"] = _caption(category, rationales).encode()
        return members

    def _current_tar(self) -> HashingWriter:
        is_full = self._out is not None and (
            self._num_samples >= SAMPLES_PER_TAR or self._out.num_bytes >= BYTES_PER_TAR
        )
        if is_full:
            self._end_tar()
        if self._out is None:
            path: Path = self._context.folder / f"labels-{self._num_tars:06d}.tar"
            self._file = path.open("wb")
            self._out, self._num_samples, self._num_tars = HashingWriter(self._file), 0, self._num_tars + 1
        return self._out

    def _end_tar(self) -> None:
        assert self._out is not None and self._file is not None
        self._out.end()
        self._file.close()
        self._out = None


def _caption(category: str, rationales: Sequence[str]) -> str:
    templates = TemplateConfig()
    return pair_sentence(templates, category, rationales[0]) if rationales else category_sentence(templates, category)
