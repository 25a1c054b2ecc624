"""The output folder of a search or a draft: published whole, its record last, returned as it is when it is finished."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecor.config.checks import require
from ecor.storage import filesystem
from pipelines.config.identity import describe_changes
from pipelines.runtime.balance import Balance, say_balance

PAGE_NAME = "index.html"


def find_result(folder: str, *, name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a finished search in its folder; None where the folder is empty or not there.

    Args:
        folder: of the output.
        name: file name of the record.
        identity: settings and digests of inputs, as JSON values.

    Raises:
        ValueError: when the folder holds another result, a damaged record, or other files.
    """
    path = filesystem.join(folder, name)
    try:
        record: dict[str, Any] = json.loads(filesystem.read(path))
        found = record["identity"]
    except FileNotFoundError:
        holds_files = any(not each.startswith(".") for each in filesystem.names_in(folder))
        require(not holds_files, f"{folder} holds other files: name another --output")
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a result ({error}): name another --output") from error
    asked = json.loads(json.dumps(identity))
    require(found == asked, f"{folder} holds another result ({describe_changes(found, asked)}): name another --output")
    return record


def say_recorded_balance(record: Mapping[str, Any]) -> None:
    """Print the line with which the command ends; nothing for a record of an earlier version, which has no balance."""
    if "balance" in record:
        say_balance(Balance.from_record(record["balance"]))


@contextmanager
def new_result_folder() -> Iterator[Path]:
    """An empty local folder for the files of a search; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "result"  # with the usual permissions, which are published with it
        folder.mkdir()
        yield folder


def publish_result(source: Path, folder: str, *, name: str, record: Mapping[str, Any]) -> None:
    """Publish the files of a search, with its record.

    Args:
        source: local folder with the tables and the page.
        folder: of the output.
        name: file name of the record.
        record: with `identity`, as `find_result` compares it.
    """
    (source / name).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    filesystem.replace_folder(source, folder, last=name)
