"""Good pictures and tars in, damaged ones out, and a table of what becomes of them; without Ray.

The law: damage is detected, or it changes nothing. A picture is damaged in two places:

    alone          as a file that `ecor shard` or `ecor score` reads: it is rejected, or shows the same pixels, or is
                   another picture, where its format has no checksum of its own (JPEG, GIF, BMP …)
    in its shard   after it was sharded, in the tar: the index knows its sha256, and every such damage is detected

A tar is damaged as a whole, in its members or in its headers, and read in two ways:

    with its own record         size and sha256 of the manifest: all damage is detected
    with a record that fits it  as one that was made so: it holds exactly the same samples, or it is detected

`undetected` counts what breaks the law; so does an error of another kind than the ones that are promised, or more than
`_PATIENCE_S` seconds for one item.
"""

import hashlib
import io
import random
import shutil
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import ShardEntry, read_index, read_shard, verify_shard, write_shard
from ecor.data.tar_members import read_members
from ecor.data.vocabulary import vocabulary_from_mapping

VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers", "a tail"], "dog": ["a tail", "a wet nose"]})
_BLOCK = tarfile.BLOCKSIZE
_PATIENCE_S = 20.0
_COLUMNS = ("damaged", "rejected", "same", "another picture", "undetected")

Damage = Callable[[bytes, random.Random], bytes]


# Damage


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _bits_flipped(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _run(data: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(data))
    return start, min(len(data), start + draw.choice((1, 4, 16, 64, _BLOCK)))


def _overwritten(data: bytes, draw: random.Random) -> bytes:
    start, stop = _run(data, draw)
    fill = draw.choice((bytes(stop - start), b"\xff" * (stop - start), draw.randbytes(stop - start)))
    return data[:start] + fill + data[stop:]


def _removed(data: bytes, draw: random.Random) -> bytes:
    start, stop = _run(data, draw)
    return data[:start] + data[stop:]


def _inserted(data: bytes, draw: random.Random) -> bytes:
    start, stop = _run(data, draw)
    return data[:start] + draw.randbytes(stop - start) + data[start:]


def _repeated(data: bytes, draw: random.Random) -> bytes:
    start, stop = _run(data, draw)
    return data[:stop] + data[start:]


def _swapped(data: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.sample(range(len(data)), 2))
    length = min(second - first, len(data) - second, 64)
    return b"".join(
        (
            data[:first],
            data[second : second + length],
            data[first + length : second],
            data[first : first + length],
            data[second + length :],
        )
    )


def _header_overwritten(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        damaged[draw.randrange(min(64, len(damaged)))] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
    return bytes(damaged)


def _with_a_tail(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice((bytes(_BLOCK), draw.randbytes(draw.randint(1, 99)), data))


ANY: dict[str, Damage] = {
    "cut": _cut,
    "bits flipped": _bits_flipped,
    "overwritten": _overwritten,
    "removed": _removed,
    "inserted": _inserted,
    "repeated": _repeated,
    "swapped": _swapped,
    "header overwritten": _header_overwritten,
    "with a tail": _with_a_tail,
}


def _blocks(data: bytes) -> list[bytes]:
    return [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]


def _block_removed(data: bytes, draw: random.Random) -> bytes:
    blocks = _blocks(data)
    del blocks[draw.randrange(len(blocks))]
    return b"".join(blocks)


def _block_repeated(data: bytes, draw: random.Random) -> bytes:
    blocks = _blocks(data)
    blocks.insert(draw.randrange(len(blocks)), draw.choice(blocks))
    return b"".join(blocks)


def _blocks_swapped(data: bytes, draw: random.Random) -> bytes:
    blocks = _blocks(data)
    first, second = draw.sample(range(len(blocks)), 2)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


def _member_altered(data: bytes, draw: random.Random) -> bytes:
    """A tar as a program would write it, with one thing about one member changed; headers are whole."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    number = draw.randrange(len(members))
    member, content = members[number]
    deeds: list[Callable[[], None]] = [
        lambda: members.pop(number),
        lambda: members.insert(draw.randrange(len(members)), members[number]),
        lambda: members.insert(draw.randrange(len(members)), members.pop(number)),
        lambda: setattr(member, "name", draw.choice(("../x", "/etc/x", "x", "x.png", "a.b.c", member.name + "x"))),
        lambda: setattr(member, "type", draw.choice((tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE))),
        lambda: members.__setitem__(number, (member, draw.choice((b"", b"{}", content[:-1], content + b" ")))),
        lambda: members.__setitem__(number, (member, _bits_flipped(content or b" ", draw))),
    ]
    draw.choice(deeds)()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for each, inside in members:
            each.size = len(inside) if each.isreg() else 0
            tar.addfile(each, io.BytesIO(inside))
    return file.getvalue()


TARS: dict[str, Damage] = {
    **ANY,
    "a block removed": _block_removed,
    "a block repeated": _block_repeated,
    "blocks swapped": _blocks_swapped,
    "a member altered": _member_altered,
}


# What is good


def _drawn(width: int, height: int, *, seed: int) -> Image.Image:
    """A smooth ground with noise on it: neither flat, which survives much damage, nor all noise."""
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 15, height)[:, None, None]
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def good_pictures() -> dict[str, bytes]:
    """By format."""
    image = _drawn(40, 30, seed=1)
    frames = [_drawn(20, 15, seed=number).quantize(16) for number in range(3)]
    grey = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": _encoded(image, "jpeg", quality=90),
        "JPEG, progressive": _encoded(image, "jpeg", quality=80, progressive=True),
        "JPEG, CMYK": _encoded(image.convert("CMYK"), "jpeg"),
        "JPEG, turned": _encoded(image, "jpeg", exif=exif),
        "PNG": _encoded(image, "png"),
        "PNG, palette": _encoded(image.quantize(32), "png", transparency=0),
        "PNG, 16 bit": _encoded(grey, "png"),
        "WebP": _encoded(image, "webp", quality=80),
        "WebP, lossless": _encoded(image, "webp", lossless=True),
        "GIF, animated": _encoded(frames[0], "gif", save_all=True, append_images=frames[1:]),
        "BMP": _encoded(image, "bmp"),
        "TIFF": _encoded(image, "tiff"),
        "TIFF, LZW": _encoded(image, "tiff", compression="tiff_lzw"),
        "PPM": _encoded(image, "ppm"),
        "JPEG 2000": _encoded(image, "jpeg2000"),
    }


def good_samples() -> list[Sample]:
    """Of two categories, in a few formats, in the order of their keys."""
    forms = ("png", "jpeg", "webp")
    return [
        Sample(
            key=f"{number:04d}-x",
            image=_encoded(_drawn(16 + number, 16, seed=number), forms[number % 3]),
            extension={"jpeg": "jpg"}.get(forms[number % 3], forms[number % 3]),
            category="cat" if number % 2 else "dog",
            rationales=("a tail",),
            visible_rationales=("a tail", "whiskers") if number % 2 else None,
            source=f"cat/{number}.png",
        )
        for number in range(6)
    ]


# What becomes of it


@dataclass(kw_only=True)
class Outcomes:
    """How often which thing happened."""

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """What broke the law, each so that it can be done again."""


class Pictures:
    """Damages pictures of one format, alone and in a shard."""

    def __init__(self, data: bytes, *, folder: Path) -> None:
        self.data = data
        self.pixels = np.asarray(decode_image(data))
        sample = replace(good_samples()[0], image=data)
        info = write_shard([ShardEntry(sample=sample)], folder=folder, name="0.tar", vocabulary=VOCABULARY)
        self.tar, self.index = folder / info.name, read_index(folder, info)

    def outcome_alone(self, damaged: bytes) -> str:
        """What whoever reads the file finds."""
        try:
            pixels = np.asarray(decode_image(damaged))
        except ImageError:
            return "rejected"
        return "same" if np.array_equal(pixels, self.pixels) else "another picture"

    def is_detected_in_shard(self, damaged: bytes) -> bool:
        """Whether a reader of the tar notices that these bytes are in the place of the picture's."""
        place = self.index["member_offset"][0].as_py()
        here = damaged[: len(self.data)]
        with self.tar.open("r+b") as tar:
            tar.seek(place)
            tar.write(here + bytes(len(self.data) - len(here)))
        try:
            [sample] = read_members(self.tar, self.index, rows=[0])
        except ValueError:
            return True
        finally:
            with self.tar.open("r+b") as tar:
                tar.seek(place)
                tar.write(self.data)
        return sample.image == self.data


class Tars:
    """Damages one tar, and reads it with its own record and with one that fits what it has become."""

    def __init__(self, *, folder: Path) -> None:
        self.samples = good_samples()
        entries = [ShardEntry(sample=sample) for sample in self.samples]
        self.folder, self.changed = folder / "whole", folder / "changed"
        self.info = write_shard(entries, folder=self.folder, name="0.tar", vocabulary=VOCABULARY)
        self.data = (self.folder / self.info.name).read_bytes()
        self.index = read_index(self.folder, self.info)
        self.changed.mkdir()
        shutil.copyfile(self.folder / self.info.index, self.changed / self.info.index)

    def outcome(self, damaged: bytes) -> str:
        """`rejected` or `same` by all readers; else what is wrong."""
        (self.changed / self.info.name).write_bytes(damaged)
        try:
            verify_shard(self.changed, self.info)
            return "undetected with its own record"
        except ValueError:
            pass
        fitting = replace(self.info, num_bytes=len(damaged), sha256=hashlib.sha256(damaged).hexdigest())
        in_turn = self._outcome_of(lambda: list(read_shard(self.changed, fitting)))
        by_index = self._outcome_of(lambda: self._by_index(fitting))
        for way, outcome in (("in turn", in_turn), ("by its index", by_index)):
            if outcome == "other samples":
                return f"undetected {way}"
        return "rejected" if "rejected" in (in_turn, by_index) else "same"

    def _by_index(self, info: ShardInfo) -> list[Sample]:
        return read_members(self.changed / info.name, self.index, rows=range(info.num_samples))

    def _outcome_of(self, read: Callable[[], list[Sample]]) -> str:
        try:
            return "same" if read() == self.samples else "other samples"
        except ValueError as error:
            assert self.info.name in str(error), f"an error that names no tar: {error}"
            return "rejected"


def fuzz_pictures(num: int, *, seed: int) -> dict[str, Outcomes]:
    """Outcomes by format."""
    outcomes = {form: Outcomes() for form in good_pictures()}
    with tempfile.TemporaryDirectory() as folder:
        readers = {form: Pictures(data, folder=Path(folder) / form) for form, data in good_pictures().items()}
        for number, draw in _draws(num, seed=seed):
            form = list(readers)[number % len(readers)]
            reader, found = readers[form], outcomes[form]
            kind = draw.choice(list(ANY))
            damaged = _changed(ANY[kind], reader.data, draw)

            def look(reader: Pictures = reader, damaged: bytes = damaged) -> str:
                if not reader.is_detected_in_shard(damaged):
                    return "undetected in its shard"
                return reader.outcome_alone(damaged)

            _count(found, look, told=f"{form}, {kind}, picture {number} of seed {seed}")
    return outcomes


def fuzz_tars(num: int, *, seed: int) -> dict[str, Outcomes]:
    """Outcomes by kind of damage."""
    outcomes = {kind: Outcomes() for kind in TARS}
    with tempfile.TemporaryDirectory() as folder:
        reader = Tars(folder=Path(folder))
        for number, draw in _draws(num, seed=seed + 1):
            kind = list(TARS)[number % len(TARS)]
            damaged, found = _changed(TARS[kind], reader.data, draw), outcomes[kind]

            def look(damaged: bytes = damaged) -> str:
                return reader.outcome(damaged)

            _count(found, look, told=f"{kind}, tar {number} of seed {seed}")
    return outcomes


def _changed(damage: Damage, data: bytes, draw: random.Random) -> bytes:
    """Damaged as often as it takes to make other bytes of it: zeros over zeros are no damage."""
    damaged = data
    while damaged == data:
        damaged = damage(data, draw)
    return damaged


def _draws(num: int, *, seed: int) -> Iterator[tuple[int, random.Random]]:
    """Each item has a generator of its own, so that one can be done again alone."""
    return ((number, random.Random(f"{seed}/{number}")) for number in range(num))


def _count(found: Outcomes, look: Callable[[], str], *, told: str) -> None:
    began = time.monotonic()
    try:
        outcome = look()
    except Exception as error:  # noqa: BLE001 - whatever is not promised breaks the law
        outcome = f"undetected: {error!r}"
    if time.monotonic() - began > _PATIENCE_S:
        outcome = f"undetected: took {time.monotonic() - began:.0f} s"
    if outcome.startswith("undetected"):
        found.broken.append(f"{told}: {outcome}")
        outcome = "undetected"
    found.counts["damaged"] += 1
    found.counts[outcome] += 1


def table_of(outcomes: dict[str, Outcomes], *, name: str, columns: Sequence[str]) -> str:
    """Markdown."""
    lines = [f"| {name} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    sums = sum((each.counts for each in outcomes.values()), Counter())
    for row, counts in (*((row, each.counts) for row, each in outcomes.items()), ("all", sums)):
        lines.append(f"| {row} | {' | '.join(str(counts[column]) for column in columns)} |")
    lines.extend(f"\n- {told}" for each in outcomes.values() for told in each.broken)
    return "\n".join(lines)


def fuzz_table(*, num_images: int, num_tars: int, seed: int) -> tuple[str, int]:
    """Both tables in Markdown, and how many items broke the law."""
    began = time.monotonic()
    pictures, tars = fuzz_pictures(num_images, seed=seed), fuzz_tars(num_tars, seed=seed)
    tables = [
        "Images alone: each is rejected, shows the same pixels, or is another image, if its format has no checksum.\n"
        f"In its shard, all damage is detected. All of it took {time.monotonic() - began:.0f} s.",
        table_of(pictures, name="format", columns=_COLUMNS),
        "Tars with a record that fits them: each is rejected, or holds the same samples. With its own record, all\n"
        "damage is detected.",
        table_of(tars, name="damage", columns=[column for column in _COLUMNS if column != "another picture"]),
    ]
    num_broken = sum(len(each.broken) for each in (*pictures.values(), *tars.values()))
    return "\n\n".join(tables), num_broken
