"""Compare images with the contents that were labelled, by the hash at the start of a label's key."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ecor.data.samples import sample_key
from ecor.storage.digests import bytes_sha256
from pipelines.runtime.console import progress_bar
from pipelines.storage.image_bytes import UnreadableError, read_image_bytes

_NUM_READERS = 8
_IMAGES_AT_ONCE = 256


def compare_contents(sources: Sequence[str], keys: Sequence[str], *, allow_http: tuple[str, ...] = ()) -> list[bool]:
    """Whether each image still has the content that its label was made from; at most 8 images in memory at a time.

    Keys hold 48 bits of the content's sha256. An image that cannot be read has changed.

    Args:
        sources: address of each image.
        keys: key of each image's label.
        allow_http: hosts on the web from which images are read.

    Raises:
        OSError: when a disk or a store fails.
    """
    found: list[bool] = []
    with progress_bar("comparing", total=len(sources), unit="images") as advance:
        for same in _compare(sources, keys, allow_http=allow_http):
            found.append(same)
            advance()
    return found


def _compare(sources: Sequence[str], keys: Sequence[str], *, allow_http: tuple[str, ...]) -> Iterator[bool]:
    has_content = partial(_has_content, allow_http=allow_http)
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        for start in range(0, len(sources), _IMAGES_AT_ONCE):
            chunk = slice(start, start + _IMAGES_AT_ONCE)
            yield from pool.map(has_content, sources[chunk], keys[chunk])


def _has_content(source: str, key: str, *, allow_http: tuple[str, ...]) -> bool:
    try:
        data = read_image_bytes(source, allow_http=allow_http)
    except UnreadableError:
        return False
    return sample_key(source, sha256=bytes_sha256(data)) == key
