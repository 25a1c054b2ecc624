"""The table of docs/bad-input.md, row by row: what is damaged or hostile is told apart, and good rows stay.

Covers: `pipelines.scoring.job_stats`.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ecor.checkpoint import load
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig, Preprocess, TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.images.decoding import decode_image
from ecor.data.predictions import manifest, parts
from ecor.data.predictions import schema as prediction_schema
from ecor.data.samples import Sample, sample_key
from ecor.data.shard_manifest import ShardInfo, ShardManifest, read_shard_manifest, write_shard_manifest
from ecor.data.shards import ShardEntry, read_index, read_shard, write_shard
from ecor.data.tar_members import read_members
from ecor.data.vocabulary import read_vocabulary, vocabulary_from_mapping
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import ShardConfig
from pipelines.scoring.decoder import Part, decode_unit
from pipelines.scoring.inputs import read_input
from pipelines.scoring.job_stats import JobStats, summary_line
from pipelines.scoring.scored_part import ScoredPart
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.inspection import inspect_images
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.storage import image_bytes
from pipelines.tracking import model_registry
from tests.support.tiny_models import tiny_checkpoint, tiny_recognizer

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers", "a tail"]})
PREPROCESS = Preprocess(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SEED = 0


# Pictures


def noise(width: int = 20, height: int = 16, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A picture that says it has billions of pixels, in a hundred bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def animated(form: str) -> bytes:
    frames = [noise(seed=number) for number in range(3)]
    options = {"lossless": True} if form == "webp" else {}
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)


def transparent_palette() -> bytes:
    return encoded(noise().quantize(8), "png", transparency=0)


def grey_16_bit() -> bytes:
    return encoded(Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(12, 8), "jpeg", exif=exif)


GOOD: dict[str, Callable[[], bytes]] = {
    "wrong extension.gif": lambda: encoded(noise(), "jpeg"),
    "cmyk.jpg": lambda: encoded(noise(mode="CMYK"), "jpeg"),
    "16-bit.png": grey_16_bit,
    "palette.png": transparent_palette,
    "grey.png": lambda: encoded(noise(mode="L")),
    "grey with alpha.png": lambda: encoded(noise(mode="LA")),
    "animated.gif": lambda: animated("gif"),
    "animated.webp": lambda: animated("webp"),
    "turned.jpg": turned,
    "1x1.png": lambda: encoded(noise(1, 1)),
}
BAD: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "truncated.jpg": (lambda: encoded(noise(64, 48), "jpeg")[:500], {"truncated", "corrupt"}),
    "truncated.png": (lambda: encoded(noise(64, 48))[:500], {"truncated", "corrupt"}),
    "truncated.webp": (lambda: encoded(noise(64, 48), "webp")[:500], {"truncated", "corrupt", "not_an_image"}),
    "empty.png": (lambda: b"", {"empty"}),
    "words.png": (lambda: b"not an image, but words", {"not_an_image"}),
    "page.jpg": (lambda: b"<html><script>alert(1)</script></html>", {"not_an_image"}),
    "program.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {"not_an_image"}),
    "bomb.png": (png_bomb, {"too_large"}),
    "float.tif": (
        lambda: encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "tiff"),
        {"unsupported_mode"},
    ),
}
NAMES = [
    "with spaces.png",
    'it\'s "quoted".png',
    "new\nline.png",
    "tab\tand\rreturn.png",
    "größe-大きさ.png",
    "fox 🦊👩‍👩‍👧.png",
    "a.b.c.v2.png",
    ".leading.png".lstrip("."),
    "-rf.png",
    "%2e%2e%2f.png",
    "[a-z]*?.png",
    "<script>alert(1)</script>.png".replace("/", "_"),
    "very long " + "x" * 230 + ".png",
    "CON.png",
]


def found_by_shard(root: Path, *, validate: str = "decode") -> dict[str, dict]:
    """What `ecor shard` finds each file of a folder of categories to be, by source."""
    config = ShardConfig(input=str(root), output=str(root.parent / "none"), validate=validate)
    source = find_source(config)
    job = ShardJob(
        config=config,
        root=source.root,
        vocabulary=VOCABULARY,
        given_splits=(),
        from_vocabulary=True,
        parents={},
        output=str(root.parent / "none"),
    )
    listing = pa.concat_tables([table for place in source.places for table in list_images(place)])
    return {row["source"]: row for row in inspect_images(listing, job=job).to_pylist()}


def found_by_score(root: Path, *, size: int = 32) -> tuple[list[Part], dict[str, tuple[str, str]]]:
    """What `ecor score` decodes of a folder, and what it rejects, with stage and reason."""
    units = read_input(str(root), unit_size=7).units
    preprocess = dataclasses.replace(PREPROCESS, image_size=(size, size))
    parts = [part for unit in units for part in decode_unit(unit, preprocess=preprocess, num_images=5)]
    return parts, {each.source: (each.stage, each.reason) for part in parts for each in part.rejected}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "cat").mkdir()
    for name, make in GOOD.items():
        (folder / "cat" / name).write_bytes(make())
    for name, (make, _) in BAD.items():
        (folder / "cat" / name).write_bytes(make())
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_shard_keeps_good_pictures_and_says_what_is_wrong_with_the_others(pictures):
    found = found_by_shard(pictures)
    assert set(found) == {f"cat/{name}" for name in (*GOOD, *BAD)}
    assert {name for name in GOOD if found[f"cat/{name}"]["reason"] is not None} == set()
    for name, (_, reasons) in BAD.items():
        assert found[f"cat/{name}"]["reason"] in reasons, name
        assert found[f"cat/{name}"]["detail"]
    assert found["cat/wrong extension.gif"]["extension"] == "jpg", "the content decides"


def test_score_keeps_the_same_ones(pictures):
    parts, rejected = found_by_score(pictures)
    kept = {Path(source).name for part in parts for source in part.origins["source"].to_pylist()}
    assert kept == set(GOOD)
    for name, (_, reasons) in BAD.items():
        stage, reason = rejected[str(pictures / "cat" / name)]
        assert stage == "decode" and reason in reasons
    assert sum(len(part.pixels) for part in parts) == len(GOOD)


def test_what_good_pictures_look_like():
    assert decode_image(turned()).size == (8, 12), "EXIF orientation is applied"
    for form in ("gif", "webp"):
        first = Image.open(io.BytesIO(animated(form))).convert("RGB")
        assert np.array_equal(np.asarray(decode_image(animated(form))), np.asarray(first))
    assert np.asarray(decode_image(grey_16_bit()))[..., 0].ravel().tolist() == list(range(256))
    assert decode_image(GOOD["cmyk.jpg"]()).mode == decode_image(transparent_palette()).mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_memory_is_taken():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (png_bomb(), png_bomb(9_000, 10_000), png_bomb(2**31 - 1, 1)):
        with pytest.raises(ValueError, match="too_large"):
            decode_image(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "KiB"


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_strip_is_rejected_where_it_would_be_blown_up(tmp_path, size):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "strip.png").write_bytes(encoded(noise(*size)))
    (tmp_path / "cat" / "good.png").write_bytes(encoded(noise()))
    assert found_by_shard(tmp_path)["cat/strip.png"]["reason"] is None, "sharding changes no picture"
    parts, rejected = found_by_score(tmp_path, size=224)
    assert rejected == {str(tmp_path / "cat" / "strip.png"): ("decode", "too_elongated")}
    assert sum(len(part.pixels) for part in parts) == 1


def test_any_name_is_kept_and_its_key_is_plain(tmp_path):
    for folder in ("cat/a", "cat/b"):
        (tmp_path / folder).mkdir(parents=True)
        for number, name in enumerate(NAMES):
            (tmp_path / folder / name).write_bytes(encoded(noise(seed=number)))
    found = found_by_shard(tmp_path)
    assert set(found) == {f"cat/{folder}/{name}" for folder in "ab" for name in NAMES}
    assert all(row["reason"] is None for row in found.values())
    keys = [row["key"] for row in found.values()]
    assert len(set(keys)) == len(keys), "the same stem and the same bytes in two folders"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,96}", key) for key in keys)
    parts, rejected = found_by_score(tmp_path)
    assert rejected == {}
    sources = {source for part in parts for source in part.origins["source"].to_pylist()}
    assert sources == {str(tmp_path / source) for source in found}


@given(
    source=st.text(st.characters(codec="utf-8"), min_size=1, max_size=300),
    other=st.text(st.characters(codec="utf-8"), min_size=1, max_size=300),
)
def test_keys_are_plain_functions_of_content_and_source(source, other):
    sha256 = hashlib.sha256(b"").hexdigest()
    key = sample_key(source, sha256=sha256)
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{8}-[A-Za-z0-9_-]{1,40}", key)
    assert sample_key(source, sha256=sha256) == key
    assert (sample_key(other, sha256=sha256) == key) == (other == source)


def test_a_name_that_is_not_utf8_is_a_rejection(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "good.png").write_bytes(encoded(noise()))
    Path(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/\xff\xfe.png")).write_bytes(encoded(noise(seed=1)))
    found = found_by_shard(tmp_path)
    assert found["cat/\\udcff\\udcfe.png"]["reason"] == "misplaced"
    assert "not UTF-8" in found["cat/\\udcff\\udcfe.png"]["detail"]
    assert found["cat/good.png"]["reason"] is None
    parts, rejected = found_by_score(tmp_path)
    assert list(rejected.values()) == [("read", "bad_name")]
    assert sum(len(part.pixels) for part in parts) == 1


@pytest.mark.timeout(60)
def test_what_is_no_plain_file_is_a_rejection_and_nothing_waits_for_it(tmp_path):
    folder = tmp_path / "cat"
    (folder / "deep").mkdir(parents=True)
    (folder / "good.png").write_bytes(encoded(noise()))
    (folder / "link.png").symlink_to(folder / "good.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "pipe link.png").symlink_to("pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "deep" / "loop.png").symlink_to("..", target_is_directory=True)
    bad = {"pipe.png", "pipe link.png", "zero.png", "dangling.png", "self.png", "deep/loop.png"}
    found = found_by_shard(tmp_path)
    assert {source for source, row in found.items() if row["reason"] == "unreadable"} == {f"cat/{n}" for n in bad}
    assert found["cat/link.png"]["reason"] is found["cat/good.png"]["reason"] is None
    parts, rejected = found_by_score(tmp_path)
    assert set(rejected) == {str(folder / name) for name in bad}
    assert {stage for stage, _ in rejected.values()} == {"read"}
    assert sum(len(part.pixels) for part in parts) == 2


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of somebody who may not read everything, as root may."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() != 0:
            yield Path(folder)
            return
        os.chown(folder, nobody, nobody)
        os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_is_a_rejection(not_root):
    (not_root / "cat").mkdir()
    (not_root / "cat" / "open.png").write_bytes(encoded(noise()))
    (not_root / "cat" / "secret.png").write_bytes(encoded(noise(seed=1)))
    (not_root / "cat" / "secret.png").chmod(0)
    found = found_by_shard(not_root)
    assert {name: row["reason"] for name, row in found.items()} == {
        "cat/open.png": None,
        "cat/secret.png": "unreadable",
    }
    assert found_by_score(not_root)[1] == {str(not_root / "cat" / "secret.png"): ("read", "unreadable")}


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(image_bytes.MAX_BYTES + 1)  # a hole: takes no room
    with pytest.raises(OSError, match="more than"):
        image_bytes.read_image_bytes(str(tmp_path / "huge.png"))


def test_a_file_that_vanishes_after_the_listing_is_a_rejection(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "cat" / name).write_bytes(encoded(noise()))
    [unit] = read_input(str(tmp_path), unit_size=9).units
    (tmp_path / "cat" / "a.png").unlink()
    [part] = decode_unit(unit, preprocess=PREPROCESS, num_images=9)
    assert [(each.source, each.reason) for each in part.rejected] == [(str(tmp_path / "cat" / "a.png"), "missing")]
    assert len(part.pixels) == 1


# Tars


def tar_samples(num: int = 6) -> list[Sample]:
    return [
        Sample(
            key=f"{number:04d}-x",
            image=encoded(noise(seed=number)),
            extension="png",
            category="cat",
            rationales=("a tail",),
            visible_rationales=None,
            source=f"cat/{number}.png",
        )
        for number in range(num)
    ]


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> tuple[Path, ShardInfo]:
    folder = tmp_path_factory.mktemp("shard")
    entries = [ShardEntry(sample=sample) for sample in tar_samples()]
    return folder, write_shard(entries, folder=folder, name="0.tar", vocabulary=VOCABULARY)


def refitted(data: bytes, *, folder: Path, shard: tuple[Path, ShardInfo]) -> ShardInfo:
    """These bytes in the shard's place, and a record that fits them: a tar that was made so, not damaged later."""
    original, info = shard
    shutil.copyfile(original / info.index, folder / info.index)
    (folder / info.name).write_bytes(data)
    return dataclasses.replace(info, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def check_all_or_error(data: bytes, *, shard: tuple[Path, ShardInfo], folder: Path) -> bool:
    """Whether a reader noticed; it gives all samples as they were, or a ValueError."""
    original, info = shard
    index = read_index(original, info)
    changed = refitted(data, folder=folder, shard=shard)
    if changed != info:
        with pytest.raises(ValueError, match=r"0\.tar"):
            list(read_shard(folder, info))
    noticed = 0
    for read in (
        lambda: list(read_shard(folder, changed)),
        lambda: read_members(folder / info.name, index, rows=range(info.num_samples)),
    ):
        try:
            assert [sample.image for sample in read()] == [sample.image for sample in tar_samples()]
        except ValueError as error:
            noticed += 1
            assert info.name in str(error)
    return noticed > 0


def test_a_tar_cut_anywhere_is_an_error_or_whole(shard, tmp_path):
    data = (shard[0] / "0.tar").read_bytes()
    places = random.Random(SEED).sample(range(len(data)), 200)
    noticed = [check_all_or_error(data[:place], shard=shard, folder=tmp_path) for place in places]
    end = len(data.rstrip(b"\0")) + 2 * tarfile.BLOCKSIZE
    assert all(seen for place, seen in zip(places, noticed, strict=True) if place < end)
    assert not check_all_or_error(data, shard=shard, folder=tmp_path)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_or_changes_no_picture(shard, tmp_path_factory, place, bit):
    data = bytearray((shard[0] / "0.tar").read_bytes())
    data[place % len(data)] ^= 1 << bit
    check_all_or_error(bytes(data), shard=shard, folder=tmp_path_factory.mktemp("flipped"))


Members = list[tuple[str, bytes]]


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def tar_of(members: Members, *, kinds: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), (kinds or {}).get(name, tarfile.REGTYPE)
            if member.type != tarfile.REGTYPE:
                member.size, member.linkname = 0, "/etc/passwd"
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def renamed(members: Members, *, names: dict[str, str]) -> Members:
    return [(names.get(name, name), data) for name, data in members]


def without(members: Members, *names: str) -> Members:
    return [(name, data) for name, data in members if name not in names]


TARS: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "samples out of order": (lambda m: tar_of(m[4:8] + m[:4] + m[8:]), "comes after"),
    "a sample twice": (lambda m: tar_of(m[:4] + m), "each member once"),
    "a sample twice, apart": (lambda m: tar_of(m + m[:4]), "comes after"),
    "members of samples mixed": (lambda m: tar_of(m[:2] + m[4:8] + m[2:4] + m[8:]), "comes after"),
    "a dotted key": (
        lambda m: tar_of(renamed(m, names={"0000-x.png": "0000-x.v2.png", "0000-x.json": "0000-x.v2.json"})),
        "needs one image",
    ),
    "no image": (lambda m: tar_of(without(m, "0001-x.png")), "needs one image"),
    "two images": (lambda m: tar_of([m[0], ("0000-x.jpg", m[0][1]), *m[1:]]), "needs one image"),
    "no labels": (lambda m: tar_of(without(m, "0001-x.json")), r"one \.json"),
    "labels that are no JSON": (lambda m: tar_of([(n, b"{" if n == "0001-x.json" else d) for n, d in m]), "describe"),
    "labels that are a list": (lambda m: tar_of([(n, b"[]" if n == "0001-x.json" else d) for n, d in m]), "describe"),
    "labels of another sample": (
        lambda m: tar_of([(n, dict(m)["0002-x.json"] if n == "0001-x.json" else d) for n, d in m]),
        "of another sample",
    ),
    "another picture": (
        lambda m: tar_of([(n, dict(m)["0002-x.png"] if n == "0001-x.png" else d) for n, d in m]),
        "of another sample or image",
    ),
    "labels that are not those of the index": (
        lambda m: tar_of([(n, d.replace(b"a tail", b"a trail") if n == "0001-x.json" else d) for n, d in m]),
        r"is not as 0\.index\.parquet says",
    ),
    "an absolute name": (lambda m: tar_of(renamed(m, names={"0000-x.png": "/etc/0000-x.png"})), "not a plain file"),
    "a name that climbs": (lambda m: tar_of(renamed(m, names={"0000-x.png": "../0000-x.png"})), "not a plain file"),
    "a name without a suffix": (lambda m: tar_of([*m, ("9", b"")]), "not a plain file"),
    "a device": (lambda m: tar_of(m, kinds={"0001-x.png": tarfile.CHRTYPE}), "not a plain file"),
    "a pipe": (lambda m: tar_of(m, kinds={"0001-x.png": tarfile.FIFOTYPE}), "not a plain file"),
    "a link": (lambda m: tar_of(m, kinds={"0001-x.png": tarfile.SYMTYPE}), "not a plain file"),
    "a hard link": (lambda m: tar_of(m, kinds={"0001-x.png": tarfile.LNKTYPE}), "not a plain file"),
    "a folder": (lambda m: tar_of([("deep", b""), *m], kinds={"deep": tarfile.DIRTYPE}), "not a plain file"),
    "compressed": (lambda m: gzip.compress(tar_of(m)), "no plain tar"),
    "an empty tar": (lambda m: tar_of([]), "holds 0 samples, expected 6"),
    "an empty file": (lambda m: b"", "no plain tar"),
    "no tar": (lambda m: b"not a tar" * 1000, "no plain tar"),
    "one sample less": (lambda m: tar_of(m[:-4]), "holds 5 samples, expected 6"),
    "one sample more": (lambda m: tar_of([*m, *more()]), "holds 7 samples, expected 6"),
}


def more() -> Members:
    image = encoded(noise(seed=99))
    row = {"key": "9999", "category": None, "rationales": [], "visible_rationales": None, "source": "9999.png"}
    labels = row | {"sha256": hashlib.sha256(image).hexdigest()}
    return [("9999.png", image), ("9999.json", json.dumps(labels).encode())]


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_does_not_hold_to_the_format_is_an_error_that_names_it(name, shard, tmp_path):
    make, message = TARS[name]
    info = refitted(make(members_of(shard[0] / "0.tar")), folder=tmp_path, shard=shard)
    with pytest.raises(ValueError, match=rf"0\.tar.*{message}"):
        list(read_shard(tmp_path, info))
    assert {path.name for path in tmp_path.iterdir()} == {info.name, info.index}, (
        "member names never touch the file system"
    )


def test_members_are_read_as_they_were_written(shard, tmp_path):
    info = refitted(tar_of(members_of(shard[0] / "0.tar")), folder=tmp_path, shard=shard)
    assert list(read_shard(tmp_path, info)) == tar_samples()


# Vocabularies


def vocabulary_file(folder: Path, data: bytes | str, *, suffix: str = ".json") -> Path:
    path = folder / f"names{suffix}"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not JSON at line 1"),
        ("{}", "no category in it"),
        ("[]", "got a JSON list"),
        ('{"cat": ["a tail"], "cat": ["fur"]}', "'cat' is there twice"),
        ('{"a cat": ["a tail"], "A_cat": ["fur"]}', "are the same category 'a cat'"),
        ('{"cat": "a tail"}', "needs a list of rationales"),
        ('{"": ["a tail"]}', "empty name"),
        ('{"cat": [" _ "]}', "empty name"),
        ('{"cat": [7]}', "must be a text, got 7"),
        ('{"cat": ["a \\u0000 tail"]}', r"control character '\\x00'"),
        ('{"c\\u001bat": ["a tail"]}', r"control character '\\x1b'"),
        ('{"cat": ["\\ud800"]}', r"control character '\\ud800'"),
        ('{"größe": ["ein Maß"]}'.encode("latin-1"), "line 1 is not UTF-8"),
        ('{"cat": ["a tail"]}'.encode("utf-16"), "not UTF-8"),
        (b"\x80\x04\x95pickled", "not UTF-8"),
    ],
)
def test_vocabularies_that_are_refused(tmp_path, data, message):
    path = vocabulary_file(tmp_path, data)
    with pytest.raises(ValueError, match=rf"(?s)^{re.escape(str(path))}: .*{message}"):
        read_vocabulary(path)


def test_a_rationale_of_no_category_is_refused_by_its_row(tmp_path):
    with pytest.raises(ValueError, match="line 3: the category has an empty name"):
        read_vocabulary(vocabulary_file(tmp_path, "category,rationale\ncat,a tail\n,fur\n", suffix=".csv"))
    table = pa.table({"category": ["cat", None], "rationale": ["a tail", "fur"]})
    pq.write_table(table, tmp_path / "names.parquet")
    with pytest.raises(ValueError, match="row 1: the category has an empty name"):
        read_vocabulary(tmp_path / "names.parquet")


def test_vocabularies_that_are_taken(tmp_path):
    names = {
        "<b>cat</b>": ['a tail & "fur"', "🦊", "zero\u200dwidth"],
        "nothing speaks for it": [],
        "ｆull": ["a tail"],
    }
    vocabulary = read_vocabulary(vocabulary_file(tmp_path, json.dumps(names)))
    assert vocabulary.categories[0] == "<b>cat< or b>", "markup is text"
    assert vocabulary.rationales_of[1] == ()
    many = {f"category {number}": [f"reason {number % 700}", f"sign {number}"] for number in range(10_000)}
    vocabulary = read_vocabulary(vocabulary_file(tmp_path, json.dumps(many)))
    assert (len(vocabulary.categories), vocabulary.num_pairs) == (10_000, 20_000)


@settings(max_examples=200)
@example(data=b'"', suffix=".csv")
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), suffix=st.sampled_from([".json", ".csv"]))
def test_any_bytes_are_a_vocabulary_or_a_value_error(data, suffix, tmp_path_factory):
    path = vocabulary_file(tmp_path_factory.mktemp("any"), data, suffix=suffix)
    try:
        vocabulary = read_vocabulary(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        vocabulary_from_mapping(json.loads(vocabulary.to_json()))


def test_sentences_that_are_cut_are_counted_and_told(tmp_path):
    version = model_registry.resolve_model(str(tiny_checkpoint(tmp_path).folder), tracking=TrackingConfig())
    names = vocabulary_from_mapping({"cat": ["a tail", "fur " * 50], "dog": []})
    scorer = Scorer(
        ScorerSettings(
            model=version,
            tracking=TrackingConfig(),
            vocabulary=names.to_json(),
            scoring=ScoringConfig(),
            text=TextConfig(),
            batch_size=4,
            precision="fp32",
            use_gpu=False,
            num_threads=1,
        )
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(noise()))
    [unit] = read_input(str(tmp_path / "in"), unit_size=9).units
    [part] = decode_unit(unit, preprocess=scorer.recognizer.backbone.preprocess, num_images=9)
    [scored] = ScoredPart.from_rows(scorer.score(part).to_row())
    assert scored.num_cut == scorer.recognizer.text.num_truncated == 3, "alone, and with each category"
    tally = JobStats(committed={}, num_cut=scored.num_cut)
    line = summary_line({"output": "labels", "precision": "fp32"} | tally.summary(num_images=1, seconds=1.0))
    assert ", 3 sentences cut in 1.0 s" in line and line.endswith(": labels")


# Records of stages


def altered(path: Path, **changes: object) -> None:
    """The JSON object of a file with other fields; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def shard_manifest(folder: Path) -> tuple[Path, Callable[[], object]]:
    info = write_shard([], folder=folder, name="0.tar", vocabulary=VOCABULARY)
    manifest = ShardManifest(
        split="train",
        shards=(info,),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=0,
        num_rejected=0,
        num_duplicates=0,
        config_digest="c",
        parents={},
    )
    write_shard_manifest(manifest, folder)
    return folder / "manifest.json", lambda: read_shard_manifest(folder)


def prediction_manifest(folder: Path) -> tuple[Path, Callable[[], object]]:
    part = parts.write_part(str(folder), prediction_schema.PREDICTION_SCHEMA.empty_table(), name="0.parquet", unit="0")
    parents = manifest.PredictionParents(
        input="in",
        input_digest="i",
        model_uri="models:/m/1",
        model_name="m",
        model_version="1",
        model_digest="d",
        vocabulary_digest="v",
    )
    record = manifest.PredictionSet(parts=(part,), parents=parents, scoring=ScoringConfig())
    manifest.write_prediction_set(str(folder), record)
    return folder / "manifest.json", lambda: manifest.read_prediction_set(str(folder))


def checkpoint_record(folder: Path) -> tuple[Path, Callable[[], object]]:
    tiny_checkpoint(folder)
    return folder / "checkpoint" / "checkpoint.json", lambda: load(folder)


RECORDS = [shard_manifest, prediction_manifest, checkpoint_record]


@pytest.mark.parametrize("make", RECORDS)
def test_records_with_unknown_missing_or_altered_fields_are_refused(make, tmp_path):
    path, read = make(tmp_path)
    read()
    whole = path.read_text()
    known = next(name for name in ("num_rejected", "backbone_digest") if name in json.loads(whole))
    for changes, message in (
        ({known + "s": 7}, rf"unknown field '{known}s' \(did you mean '{known}'\?\)"),
        ({known: 5 if known == "num_rejected" else "other"}, "was (changed|altered)"),
        ({"digest": "0" * 64}, "was (changed|altered).*0000"),
        ({"digest": None}, "digest"),
    ):
        altered(path, **changes)
        with pytest.raises(ValueError, match=rf"{re.escape(path.name)}.*{message}"):
            read()
        path.write_text(whole)
    for text in ("", "[]", "null", "{", whole[: len(whole) // 2], '"words"'):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(path.name)):
            read()


def test_a_checkpoint_of_another_version_is_refused_with_both(tmp_path):
    path, read = checkpoint_record(tmp_path)
    altered(path, format_version=99, and_a_field_of_the_future=1)
    with pytest.raises(ValueError, match=r"format 99, this version of ecor reads \d"):
        read()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_weights_are_refused_also_when_the_record_fits(tmp_path, share):
    path, read = checkpoint_record(tmp_path)
    tokens = path.parent / "tokens.safetensors"
    data = tokens.read_bytes()
    tokens.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"tokens\.safetensors of .* was altered"):
        read()
    values = json.loads(path.read_text())
    altered(path, tokens_sha256=hashlib.sha256(tokens.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="was altered: it says") as error:
        read()
    altered(path, digest=str(error.value).rpartition(" ")[2])  # as whoever makes a record by hand would
    assert json.loads(path.read_text())["digest"] != values["digest"]
    with pytest.raises(ValueError, match=r"tokens\.safetensors does not hold the tokens"):
        read()


def test_truncated_weights_of_a_backbone_are_refused(tmp_path):
    recognizer = tiny_recognizer(tmp_path)
    architecture, weights = recognizer.backbone.save(tmp_path, stem="model")
    weights.write_bytes(weights.read_bytes()[:-1000])
    config = BackboneConfig(name=str(architecture), pretrained=str(weights))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit the architecture"):
        load_backbone(config)


# The table itself


def test_the_table_names_every_kind_of_tar_that_is_tested():
    text = DOCS.read_text()
    missing = [name for name in TARS if name not in text]
    assert missing == []
    reasons = {reason for _, reasons in BAD.values() for reason in reasons} | {"too_elongated", "missing", "unreadable"}
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []
