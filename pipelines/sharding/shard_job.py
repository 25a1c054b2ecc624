"""Settings and vocabulary of a sharding job, and the digest that identifies it."""

from dataclasses import dataclass
from typing import Any

from ecor.data.vocabulary import Vocabulary
from ecor.storage.digests import json_digest
from pipelines.config.identity import output_settings
from pipelines.config.stages import ShardConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """What the bytes of the shards depend on, and where they go."""

    config: ShardConfig
    root: str
    """Address that sources are within."""
    vocabulary: Vocabulary
    given_splits: tuple[str, ...]
    """Splits that the input has; empty: shares decide."""
    from_vocabulary: bool
    """Images have no rationales of their own and get their category's."""
    parents: dict[str, str]
    """Digest of what the shards are made from, by name."""
    output: str
    """Address of the output folder; not relative, because workers stand elsewhere."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are written."""
        if not self.given_splits:
            return tuple(sorted(split for split, share in self.config.split_shares.items() if share > 0))
        return tuple(sorted({*self.given_splits, *(["validation"] if self.validation_share else [])}))

    @property
    def validation_share(self) -> float:
        """Share of a given train split that becomes validation, where there is none."""
        is_lacking = "train" in self.given_splits and "validation" not in self.given_splits
        return self.config.split_shares.get("validation", 0.0) if is_lacking else 0.0

    @property
    def config_digest(self) -> str:
        return digest_of(output_settings(self.config))

    @property
    def name(self) -> str:
        return digest_of([self.config_digest, self.parents, self.vocabulary.digest])[:16]


def digest_of(value: Any) -> str:
    """sha256, in hex, of JSON values."""
    return json_digest(value, ensure_ascii=False)
