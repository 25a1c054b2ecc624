"""Read any table of images: with paths, the images' bytes, `file_name` as Hugging Face's ImageFolder; COCO's JSON.

All give the same rows; `path` of each is an address below the folder of the table, or an absolute one.
"""

from collections.abc import Sequence

from ecor.data.sources.coco import COCO_SUFFIX, describe_coco, read_coco
from ecor.data.sources.metadata_tables import is_metadata, read_metadata
from ecor.data.sources.row_tables import read_image_columns, read_row_table
from ecor.data.table_row import Columns
from ecor.data.tables import TABLE_SUFFIXES, TableRows, read_rows
from ecor.storage.members.member_address import ROW_SUFFIXES

IMAGE_TABLE_SUFFIXES = (*TABLE_SUFFIXES, ".arrow", COCO_SUFFIX)


def read_image_rows(path: str, *, required: Sequence[str], optional: Sequence[str] = ()) -> TableRows:
    """Yield the rows of a table of images, in order.

    Args:
        path: address of the table.
        required: columns that every row must have, among them `path`.
        optional: columns that are read where they are there.

    Raises:
        ValueError: as `ecor.data.tables.read_rows`, and as `ecor.data.sources.row_tables` for images in rows.
    """
    if path.lower().endswith(ROW_SUFFIXES):
        columns = read_image_columns(path, required=required, optional=optional)
        if columns is not None:
            return TableRows(read_row_table(path, columns=columns), columns=columns.as_columns)
        if path.lower().endswith(".arrow"):
            raise ValueError(f"{path} has no column with the bytes of images: write a table of paths as Parquet")
    if path.lower().endswith(COCO_SUFFIX):
        return TableRows(read_coco(path), columns=Columns(required=(), optional=()))
    if is_metadata(path):
        return read_metadata(path, required=required, optional=optional)
    return read_rows(path, required=required, optional=optional)


def describe_unlabelled(path: str) -> str | None:
    """A line on the images that have no category because of how their table is; None where there are none."""
    return describe_coco(path) if path.lower().endswith(COCO_SUFFIX) else None
