"""Read any table of images: with paths, the images' bytes, `file_name` as Hugging Face's ImageFolder; COCO's JSON.

All give the same rows; `path` of each is an address below the folder of the table, or an absolute one.
"""

from collections.abc import Iterator, Sequence

from ecor.data.sources.coco import COCO_SUFFIX, describe_coco, read_coco
from ecor.data.sources.metadata_tables import describe_metadata, is_metadata, read_metadata
from ecor.data.sources.row_tables import read_image_columns, read_row_table
from ecor.data.table_row import TableRow
from ecor.data.tables import TABLE_SUFFIXES, describe_unread_columns, read_rows
from ecor.storage.members.member_address import ROW_SUFFIXES

IMAGE_TABLE_SUFFIXES = (*TABLE_SUFFIXES, ".arrow", COCO_SUFFIX)


def read_image_rows(path: str, *, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[TableRow]:
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
            return read_row_table(path, columns=columns)
        if path.lower().endswith(".arrow"):
            raise ValueError(f"{path} has no column with the bytes of images: write a table of paths as Parquet")
    if path.lower().endswith(COCO_SUFFIX):
        return read_coco(path)
    if is_metadata(path):
        return read_metadata(path, required=required, optional=optional)
    return read_rows(path, required=required, optional=optional)


def describe_unread(path: str, *, required: Sequence[str], optional: Sequence[str] = ()) -> str | None:
    """Name the columns that `read_image_rows` with the same arguments does not read; None where it reads all."""
    if path.lower().endswith(ROW_SUFFIXES):
        columns = read_image_columns(path, required=required, optional=optional)
        if columns is not None:
            return columns.describe_unread()
    if path.lower().endswith(COCO_SUFFIX):
        return describe_coco(path)
    if is_metadata(path):
        return describe_metadata(path, required=required, optional=optional)
    return describe_unread_columns(path, required=required, optional=optional)
