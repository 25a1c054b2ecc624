"""Manifest of a split: its shards with sizes and digests, and what they were made from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecor.config.checks import parse_record
from ecor.config.model import TemplateConfig
from ecor.data.tar_members import json_bytes
from ecor.data.templates import category_sentence
from ecor.data.vocabulary import Vocabulary
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256

MANIFEST_NAME = "manifest.json"
VOCABULARY_NAME = "vocabulary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """Size and digests of one tar and its index."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    """Of the tar."""
    index: str
    """Name of the Parquet file that `read_index` reads."""
    index_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardManifest:
    """One split: its shards, and what they were made from."""

    split: str
    shards: tuple[ShardInfo, ...]
    vocabulary_digest: str
    num_samples: int
    num_rejected: int
    """Images in quarantine."""
    num_duplicates: int
    """Duplicates left out. Their labels are merged into the copy that is kept, unless that one is in the test split."""
    config_digest: str
    """Of the settings that shape the bytes."""
    parents: dict[str, str]
    """Digest of each thing it was made from, by name."""

    def __post_init__(self) -> None:
        counted = sum(shard.num_samples for shard in self.shards)
        if counted != self.num_samples:
            raise ValueError(f"split {self.split}: {self.num_samples} samples, but its shards hold {counted}")

    @property
    def digest(self) -> str:
        """sha256, in hex, of the manifest's JSON."""
        return bytes_sha256(json_bytes(asdict(self)))


def write_shard_manifest(manifest: ShardManifest, folder: str | Path) -> None:
    """Write `<folder>/manifest.json` in one step.

    It is written last, so that it exists only when all that it names exists.

    Args:
        manifest: of the split.
        folder: of the split, any address fsspec writes.
    """
    write_text(_format_json({**asdict(manifest), "digest": manifest.digest}), folder=folder, name=MANIFEST_NAME)


def read_shard_manifest(folder: str | Path) -> ShardManifest:
    """Read the manifest of a split.

    Args:
        folder: of the split.

    Raises:
        ValueError: when there is none, it is no manifest, or it was changed after it was written.
    """
    url = filesystem.join(folder, MANIFEST_NAME)
    try:
        fields = json.loads(filesystem.read(url))
        digest = fields.pop("digest")
        shards = tuple(parse_record(ShardInfo, shard) for shard in fields.pop("shards"))
        manifest = parse_record(ShardManifest, {**fields, "shards": shards})
    except FileNotFoundError as error:
        raise ValueError(f"{url} is not there: run `ecor shard` (to its end) for this folder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{url} is not a manifest of shards ({error}): name a split that `ecor shard` wrote"
        ) from error
    if manifest.digest != digest:
        raise ValueError(f"{url} was changed: its digest is {manifest.digest}, it says {digest}")
    return manifest


def write_side_files(folder: str | Path, *, vocabulary: Vocabulary, templates: TemplateConfig | None = None) -> None:
    """Write the files beside the splits: `vocabulary.json`, and the class names and template that CLIP_benchmark needs.

    Args:
        folder: that holds the splits.
        vocabulary: of the shards.
        templates: whose sentence of a category alone is written; None: the default.
    """
    template = category_sentence(templates or TemplateConfig(), "{c}")
    write_text(vocabulary.to_json() + "\n", folder=folder, name=VOCABULARY_NAME)
    write_text("\n".join(vocabulary.categories) + "\n", folder=folder, name="classnames.txt")
    write_text(template + "\n", folder=folder, name="zeroshot_classification_templates.txt")


def write_text(text: str, *, folder: str | Path, name: str) -> None:
    """Write a small text file (UTF-8) in one step.

    Args:
        text: its content.
        folder: any address fsspec writes.
        name: of the file.
    """
    filesystem.write(filesystem.join(folder, name), text.encode())


def _format_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
