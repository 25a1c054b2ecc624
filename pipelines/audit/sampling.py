"""Draw the sample of an audit: one pass over the labels, in memory one part and about 20 bytes per label.

The labels with the lowest keyed hash are drawn: a simple random sample without replacement that depends on the labels'
digest, the keys and all settings, the seed among them. So judgements of a sample fit one promise: other labels, and
other settings, have another sample.
"""

import csv
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import OOD_COLUMN, ORIGIN_SCHEMA
from ecor.storage.digests import json_digest
from pipelines.config.identity import output_settings
from pipelines.config.review import AuditConfig
from pipelines.review.judged_file import TO_FILL, spreadsheet_text

SAMPLE_NAME = "sample.csv"
_SHOWN = ("key", "source", "shard", "member_offset", "member_num_bytes", "category", "rationale", "confidence")
_NEEDED = (*ORIGIN_SCHEMA.names, "category", "rationale", "confidence", "category_log_prob")


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """What is known of all labels of a job."""

    scores: Float[np.ndarray, " N"]
    """The probability that what is promised is right (`score_name`)."""
    ood_scores: Float[np.ndarray, " N"] | None
    groups: Int[np.ndarray, " N"]
    """Category of each label, as an index of `categories`."""
    categories: tuple[str, ...]
    is_sampled: Bool[np.ndarray, " N"]

    @property
    def num_labels(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSample:
    """The labels to be judged, in random order."""

    table: pa.Table
    """Origin, truth and label of each."""
    rows: Int[np.ndarray, " n"]
    """Their places in the population."""

    @property
    def keys(self) -> list[str]:
        return self.table["key"].to_pylist()


def score_name(*, reasons: bool) -> str:
    """What the labels are ordered by: the probability of the pair, or that of the category alone."""
    return "confidence" if reasons else "exp(category_log_prob)"


def score_column(table: pa.Table, *, reasons: bool) -> Float[np.ndarray, " N"]:
    """The score of each row (`score_name`). ValueError where one is no number."""
    column = table["confidence"] if reasons else pc.exp(table["category_log_prob"])
    scores = column.to_numpy().astype(np.float64)
    require(bool(np.isfinite(scores).all()), "a label has a confidence that is no number: score again")
    return scores


def ood_column(table: pa.Table, *, labels: str) -> Float[np.ndarray, " N"]:
    """The OOD score of each row; ValueError where labels have none."""
    name = OOD_COLUMN.name
    require(
        name in table.column_names and not table[name].null_count,
        f"{labels} has no column {name}, which --reject needs: score with --scoring.ood-score",
    )
    scores = table[name].to_numpy().astype(np.float64)
    require(bool(np.isfinite(scores).all()), f"{labels} has an OOD score that is no number: score again")
    return scores


def draw_sample(config: AuditConfig, predictions: PredictionSet) -> tuple[Population, AuditSample]:
    """Read all labels once, and draw the sample.

    Raises:
        ValueError: for labels without rows, without calibrated confidence or, where needed, without OOD score, and for
            parts that are not those of the manifest.
    """
    require(predictions.num_rows > 0, f"{config.labels} has no labels: there is nothing to audit")
    salt = json_digest({"labels": predictions.digest, **output_settings(config)})
    scores, oods, groups, names = [], [], [], dict[str, int]()
    drawn, hashes, rows = _NEEDED_SCHEMA.empty_table(), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    start = num_uncalibrated = 0
    for part in predictions.parts:
        table = read_part(config.labels, part)
        num_uncalibrated += table.num_rows - (pc.sum(table["calibrated"]).as_py() or 0)
        scores.append(score_column(table, reasons=config.reasons))
        oods += [ood_column(table, labels=config.labels)] if config.reject is not None else []
        groups.append(_group_ids(table["category"], names=names))
        hashes = np.concatenate([hashes, _hash_keys(table["key"], salt=salt)])
        rows = np.concatenate([rows, np.arange(start, start + table.num_rows)])
        start += table.num_rows
        drawn = pa.concat_tables([drawn, table.select(list(_NEEDED)).cast(_NEEDED_SCHEMA)])
        lowest = np.argsort(hashes, kind="stable")[: config.sample_size]
        drawn, hashes, rows = drawn.take(lowest), hashes[lowest], rows[lowest]
    require(
        num_uncalibrated == 0 or config.allow_uncalibrated,
        f"the confidence of {num_uncalibrated:,} of {start:,} labels in {config.labels} is not calibrated on their "
        f"vocabulary: score with a model that `ecor train` has calibrated on it, or add --allow-uncalibrated (the "
        f"promise holds all the same, but fewer labels may be accepted)",
    )
    require(len(pc.unique(drawn["key"])) == len(drawn), f"{config.labels} has keys twice: score again")
    is_sampled = np.zeros(start, dtype=bool)
    is_sampled[rows] = True
    population = Population(
        scores=np.concatenate(scores),
        ood_scores=np.concatenate(oods) if oods else None,
        groups=np.concatenate(groups),
        categories=tuple(names),
        is_sampled=is_sampled,
    )
    return population, AuditSample(table=drawn.combine_chunks(), rows=rows)


def encode_sample(sample: AuditSample) -> bytes:
    """The sample as a CSV file, with empty columns to fill in; the same sample gives the same bytes.

    All cells are quoted, and a byte order mark leads, so that spreadsheets read names in any language.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["number", *_SHOWN, *TO_FILL])
    for number, row in enumerate(sample.table.select(list(_SHOWN)).to_pylist(), start=1):
        shown = {**row, "confidence": f"{row['confidence']:.4f}"}
        cells = ("" if shown[name] is None else spreadsheet_text(str(shown[name])) for name in _SHOWN)
        writer.writerow([number, *cells, *[""] * len(TO_FILL)])
    return text.getvalue().encode("utf-8-sig")


def _hash_keys(keys: pa.ChunkedArray, *, salt: str) -> Int[np.ndarray, " N"]:
    key = hashlib.sha256(salt.encode()).digest()
    found = (hashlib.blake2b(each.encode(), digest_size=8, key=key).digest() for each in keys.to_pylist())
    return np.frombuffer(b"".join(found), dtype=np.uint64)


def _group_ids(categories: pa.ChunkedArray, *, names: dict[str, int]) -> Int[np.ndarray, " N"]:
    """Index of each category; `names` grows by those that are new."""
    encoded = categories.combine_chunks().dictionary_encode()
    ids = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.array(ids, dtype=np.int32)[encoded.indices.to_numpy()] if ids else np.zeros(0, dtype=np.int32)


_LABEL_FIELDS = [
    pa.field("category", pa.string()),
    pa.field("rationale", pa.string()),
    pa.field("confidence", pa.float32()),
    pa.field("category_log_prob", pa.float32()),
]
_NEEDED_SCHEMA = pa.schema([*(pa.field(each.name, each.type) for each in ORIGIN_SCHEMA), *_LABEL_FIELDS])
