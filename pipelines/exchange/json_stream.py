"""Read the items of large JSON arrays of a file, or of a file in a zip archive, one by one."""

from collections.abc import Iterator
from typing import Any

from ecor.data.sources.json_stream import stream_json_items
from pipelines.exchange.export_files import open_text


def read_json_items(path: str, *, within: str = "") -> Iterator[tuple[str | None, Any]]:
    """Yield the items of the outermost array, or of the arrays in the outermost object (`stream_json_items`).

    Args:
        path: of the file, or of a zip archive.
        within: end of the name of the file in a zip archive.

    Raises:
        ValueError: naming the file and the place, when it is no such JSON.
    """
    with open_text(path, within=within) as file:
        yield from stream_json_items(file.read, path=path)
