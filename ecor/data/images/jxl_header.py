"""Read the size of a JPEG XL picture from its header (ISO/IEC 18181-1, SizeHeader; 18181-2 for the boxes).

The plugin of Pillow decodes a picture when it opens it, so the size must be known before.
"""

from ecor.data.images.image_error import ImageError

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
JXL_STARTS = (_CODESTREAM, _CONTAINER)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_LENGTHS = (9, 13, 18, 30)
_HEADER_BYTES = 16


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height as stored. Raises ImageError (`corrupt`) where there is no header."""
    header = _find_codestream(data)
    if header is None or len(header) < _HEADER_BYTES // 2 or not header.startswith(_CODESTREAM):
        raise ImageError("corrupt", "a JPEG XL without a size in its first part")
    bits = _Bits(header[len(_CODESTREAM) : _HEADER_BYTES])
    is_small = bits.take(1) == 1
    height = _side(bits, is_small=is_small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, is_small=is_small), height
    numerator, denominator = _RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _find_codestream(data: bytes) -> bytes | None:
    """The first bytes of the codestream: the file's, or those of the box `jxlc` or of the first box `jxlp`."""
    if not data.startswith(_CONTAINER):
        return data[:_HEADER_BYTES]
    place = 0
    while place + 8 <= len(data):
        length, kind, start = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], place + 8
        if length == 1:
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0  # the number of the part
            return data[start : start + _HEADER_BYTES]
        if length < start - place:
            return None  # the last box, or a damaged one
        place += length
    return None


class _Bits:
    """Numbers of some bits, the lowest bits first."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, num_bits: int) -> int:
        found = self._left & ((1 << num_bits) - 1)
        self._left >>= num_bits
        return found


def _side(bits: _Bits, *, is_small: bool) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.take(_LENGTHS[bits.take(2)]) + 1
