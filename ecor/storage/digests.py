"""SHA-256 digests, in hex, of JSON values, texts, bytes and files.

The spelling of JSON (order of keys, escapes, separators) is part of a digest: records written earlier hold it.
"""

import hashlib
import json
from functools import lru_cache
from typing import Any

from ecor.storage import filesystem


def json_digest(
    value: Any, *, sort_keys: bool = True, ensure_ascii: bool = True, separators: tuple[str, str] | None = None
) -> str:
    """Digest of a JSON value.

    Args:
        value: of JSON types.
        sort_keys: as in `json.dumps`.
        ensure_ascii: as in `json.dumps`.
        separators: as in `json.dumps`.

    Example:
        >>> json_digest({"b": 1, "a": 2}) == json_digest({"a": 2, "b": 1})
        True
    """
    return text_sha256(_encoder(sort_keys, ensure_ascii, separators).encode(value))


@lru_cache(maxsize=16)
def _encoder(sort_keys: bool, ensure_ascii: bool, separators: tuple[str, str] | None) -> json.JSONEncoder:
    """Making one takes longer than encoding a row does."""
    return json.JSONEncoder(sort_keys=sort_keys, ensure_ascii=ensure_ascii, separators=separators)


def text_sha256(text: str) -> str:
    """Digest of a text in UTF-8."""
    return bytes_sha256(text.encode())


def bytes_sha256(data: bytes) -> str:
    """Digest of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(address: filesystem.Address) -> str:
    """Digest of a file, read in chunks.

    Args:
        address: a local path, or a URL that `ecor.storage.filesystem` opens.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    with filesystem.open_file(address) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
