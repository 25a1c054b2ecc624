"""The formats of `ecor export` and `ecor import`, by name."""

from collections.abc import Callable, Iterator, Mapping

from pipelines.exchange.formats.coco import CocoWriter, read_coco
from pipelines.exchange.formats.cvat import CvatWriter, read_cvat
from pipelines.exchange.formats.fiftyone import FiftyOneWriter, read_fiftyone
from pipelines.exchange.formats.hugging_face import HuggingFaceWriter
from pipelines.exchange.formats.image_folder import ImageFolderWriter, category_folder
from pipelines.exchange.formats.label_studio import LabelStudioWriter, read_label_studio
from pipelines.exchange.formats.tables import CsvWriter, JsonLinesWriter, read_table
from pipelines.exchange.formats.web_dataset import WebDatasetWriter
from pipelines.exchange.formats.writer import ExportFormatSpec
from pipelines.exchange.image_placement import ImageNeeds
from pipelines.exchange.returned_label import ReturnedLabel

EXPORT_FORMATS: Mapping[str, ExportFormatSpec] = {
    "label-studio": ExportFormatSpec(write=LabelStudioWriter),
    "fiftyone": ExportFormatSpec(write=FiftyOneWriter, holds_maps=True, sizes_for_maps=True),
    "coco": ExportFormatSpec(write=CocoWriter, needs=ImageNeeds(size=True)),
    "cvat": ExportFormatSpec(write=CvatWriter, copies=True, needs=ImageNeeds(size=True)),
    "imagefolder": ExportFormatSpec(
        write=ImageFolderWriter,
        modes=("link", "copy"),
        copies=True,
        folder_of=category_folder,
        needs_final_category=True,
    ),
    "huggingface": ExportFormatSpec(
        write=HuggingFaceWriter, modes=("path", "copy"), needs=ImageNeeds(bytes_inside=True), holds_maps=True
    ),
    "webdataset": ExportFormatSpec(
        write=WebDatasetWriter, modes=("copy",), copies=True, needs=ImageNeeds(bytes_inside=True), holds_maps=True
    ),
    "csv": ExportFormatSpec(write=CsvWriter, opens_images=False),
    "jsonl": ExportFormatSpec(write=JsonLinesWriter, opens_images=False, holds_maps=True),
}
IMPORT_FORMATS: Mapping[str, Callable[[str], Iterator[ReturnedLabel]]] = {
    "label-studio": read_label_studio,
    "fiftyone": read_fiftyone,
    "coco": read_coco,
    "cvat": read_cvat,
    "csv": read_table,
    "jsonl": read_table,
    "parquet": read_table,
}
