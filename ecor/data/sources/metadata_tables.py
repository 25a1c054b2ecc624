"""Read `metadata.csv`, `.jsonl` and `.parquet` of Hugging Face's ImageFolder: `file_name` beside the images' labels."""

from collections.abc import Iterator, Sequence

from ecor.data.table_row import TableRow
from ecor.data.tables import TABLE_SUFFIXES, TableRows, read_rows

METADATA_NAMES = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
_FILE_NAME, _LABEL = "file_name", "label"


def is_metadata(path: str) -> bool:
    """Whether a file is one of ImageFolder's, by its name and its column `file_name`. An unrelated one is none."""
    if path.rpartition("/")[2].lower() not in METADATA_NAMES:
        return False
    try:
        return next(read_rows(path, required=(_FILE_NAME,)), None) is not None
    except ValueError:
        return False


def read_metadata(path: str, *, required: Sequence[str], optional: Sequence[str]) -> TableRows:
    """Yield its rows with `path` in place of `file_name`.

    The category is the column `category`, else `label`, else the first folder of the file's name.

    Raises:
        ValueError: as `ecor.data.tables.read_rows`, and when a category is required and there is none of the three.
    """
    asked = (*(name for name in (*required, *optional) if name != "path"), _LABEL)
    rows = read_rows(path, required=(_FILE_NAME,), optional=asked)
    return TableRows(_rows_with_paths(rows, required=required), columns=rows.columns)


def _rows_with_paths(rows: TableRows, *, required: Sequence[str]) -> Iterator[TableRow]:
    for row in rows:
        name = row.path(_FILE_NAME)
        cells = {column: value for column, value in row.cells.items() if column not in (_FILE_NAME, _LABEL)}
        if "category" not in cells and _LABEL in row.cells:
            cells["category"] = row.cells[_LABEL]
        if "category" not in cells and "/" in name.removeprefix("./"):
            cells["category"] = name.removeprefix("./").partition("/")[0]
        if "category" in required and "category" not in cells:
            raise ValueError(f"{row.where}: {name} has no category: add a column category, or a folder per category")
        yield TableRow(where=row.where, cells={"path": name, **cells})
