"""Remove from a PNG the chunks that no pixel needs, and tell whether any stand behind its pixels."""

from zlib import crc32

_PNG_START = b"\x89PNG\r\n\x1a\n"


_PIXEL_CHUNKS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})


def png_pixels(data: bytes) -> bytes:
    """A PNG without chunks that no pixel needs; EXIF stays where its check sum is right. Other bytes as they are."""
    if not data.startswith(_PNG_START):
        return data
    kept, place = [_PNG_START], len(_PNG_START)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            break
        kind, body = data[place + 4 : place + 8], data[place + 4 : end - 4]
        sound = crc32(body) == int.from_bytes(data[end - 4 : end], "big")
        if kind[:1].isupper() or (sound and kind in _PIXEL_CHUNKS):
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def ends_after_pixels(data: bytes) -> bool:
    """Whether a whole PNG has nothing behind its pixels: all its metadata is known before a pixel is decoded."""
    if not data.startswith(_PNG_START):
        return False
    place, are_pixels_seen = len(_PNG_START), False
    while place + 12 <= len(data):
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":
            return True
        if are_pixels_seen and kind != b"IDAT":
            return False
        are_pixels_seen = kind == b"IDAT"
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False
