"""The dataset card (Markdown): what shards hold and what they were made from, from their records alone.

Facts that no record holds are named as absent (after Gebru et al., Datasheets for Datasets, arXiv:1803.09010; the
choice of sections is ours).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ecor.config.checks import require
from ecor.data.shard_manifest import ShardManifest
from ecor.data.vocabulary import Vocabulary
from pipelines.cards.markdown_text import bullets, escape, section, table

NUM_CATEGORIES_SHOWN = 100
_FIRST_WORDS = "# Dataset card: "
_NUM_RATIONALES_SHOWN = 8
_ABSENT = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The records that a dataset card is made from."""

    name: str
    """Folder of the shards."""
    manifests: tuple[ShardManifest, ...]
    """One per split."""
    vocabulary: Vocabulary
    summary: Mapping[str, Any] | None
    """`summary.json` of `ecor shard`; None where it is not there, or of other shards."""
    rejected: Mapping[str, int] | None
    """Number of images in quarantine by reason; None where the table is not there."""

    def __post_init__(self) -> None:
        for each in self.manifests:
            require(
                each.vocabulary_digest == self.vocabulary.digest,
                f"split {each.split} of {self.name} has the vocabulary {each.vocabulary_digest[:12]}…, the file beside "
                f"it {self.vocabulary.digest[:12]}…: shard again",
            )


def dataset_card(facts: DatasetFacts) -> str:
    """The card as Markdown; the same records give the same text."""
    splits = ("split", "images", "shards", "MB", "rejected", "copies left out", "manifest")
    return (
        "\n\n".join(
            [
                f"{_FIRST_WORDS}{escape(facts.name)}",
                "Made from records by `ecor`. Each digest names the record that a fact is from.",
                section("Splits", table(splits, map(_split_row, facts.manifests))),
                section("Made from", table(("fact", "value"), _origin(facts))),
                section("Left out", *_rejections(facts)),
                section("Vocabulary", *_vocabulary(facts.vocabulary)),
                section("Known limits", bullets(_limits(facts))),
            ]
        )
        + "\n"
    )


def is_card_of(facts: DatasetFacts, text: str) -> bool:
    """Whether a text is a card of exactly these shards: it names the manifest of each split."""
    return text.startswith(_FIRST_WORDS) and all(_named_digest(each) in text for each in facts.manifests)


def _named_digest(manifest: ShardManifest) -> str:
    return f"`{manifest.digest[:12]}`"


def _split_row(manifest: ShardManifest) -> tuple[str, ...]:
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    return (
        escape(manifest.split),
        f"{manifest.num_samples:,}",
        f"{len(manifest.shards):,}",
        f"{num_bytes / 1e6:.1f}",
        f"{manifest.num_rejected:,}",
        f"{manifest.num_duplicates:,}",
        _named_digest(manifest),
    )


def _origin(facts: DatasetFacts) -> Iterator[tuple[str, str]]:
    summary = facts.summary or {}
    yield "input", escape(summary.get("input", _ABSENT))
    yield "layout of the input", escape(summary.get("layout", _ABSENT))
    yield "vocabulary digest", facts.vocabulary.digest
    for split in facts.manifests:
        for name, digest in sorted(split.parents.items()):
            yield f"{escape(split.split)}: {escape(name)} digest", escape(digest)
        yield f"{escape(split.split)}: settings digest", escape(split.config_digest)
    for name in ("split_shares", "samples_per_shard", "validate", "max_rejected"):
        yield escape(name), escape(summary.get("config", {}).get(name, _ABSENT))
    for fact in ("licence", "who took and labelled the images", "when"):
        yield fact, _ABSENT


def _rejections(facts: DatasetFacts) -> Iterator[str]:
    total = sum(each.num_rejected for each in facts.manifests)
    if not total:
        yield "No image was rejected."
    elif not facts.rejected:
        yield f"{total:,} images were rejected; their reasons: {_ABSENT} (the quarantine table is not there)."
    else:
        rows = sorted(facts.rejected.items(), key=lambda each: (-each[1], each[0]))
        yield table(("reason", "images"), ((escape(reason), f"{number:,}") for reason, number in rows))
    ignored = (facts.summary or {}).get("num_ignored")
    yield f"Files of the input that were no samples: {_ABSENT if ignored is None else f'{ignored:,}'}."


def _vocabulary(vocabulary: Vocabulary) -> Iterator[str]:
    yield f"{len(vocabulary.categories):,} categories, {len(vocabulary.rationales):,} rationales."
    shown = zip(vocabulary.categories, vocabulary.rationales_of, strict=True)
    rows = [
        (escape(category), _named([vocabulary.rationales[each] for each in ids]))
        for category, ids in list(shown)[:NUM_CATEGORIES_SHOWN]
    ]
    yield table(("category", "rationales"), rows)
    if len(vocabulary.categories) > NUM_CATEGORIES_SHOWN:
        yield f"And {len(vocabulary.categories) - NUM_CATEGORIES_SHOWN:,} more categories, in `vocabulary.json`."


def _named(names: list[str]) -> str:
    more = len(names) - _NUM_RATIONALES_SHOWN
    shown = ", ".join(map(escape, names[:_NUM_RATIONALES_SHOWN])) or "none listed"
    return f"{shown}, and {more:,} more" if more > 0 else shown


def _limits(facts: DatasetFacts) -> Iterator[str]:
    if any(each.num_duplicates for each in facts.manifests):
        yield "Only images of equal content are copies; near copies may be in several splits."
    else:
        yield "No copies of equal content were found; near copies may be in several splits."
    yield "Labels are as the input had them: nobody checked them for this card."
    yield f"Consent of people in the images, bias and intended use: {_ABSENT}."
