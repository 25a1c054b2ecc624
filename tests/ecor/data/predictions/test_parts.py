"""What is written is read back; what was altered is refused by name.

Covers: `ecor.data.predictions.manifest`.
"""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import (
    PredictionParents,
    PredictionPart,
    PredictionSet,
    read_prediction_set,
    write_prediction_set,
)
from ecor.data.predictions.parts import iterate_parts, read_predictions, write_part
from ecor.data.predictions.records import (
    ExplainablePrediction,
    RankedCategory,
    RankedPair,
    RankedRationale,
    iterate_predictions,
    predictions_table,
)
from ecor.data.predictions.schema import PREDICTION_SCHEMA, check_schema, encode_parquet, schema_for

names = st.text(alphabet="aZ é漢.\n", min_size=1, max_size=4)
log_probs = st.floats(min_value=-50, max_value=0, width=32)


@st.composite
def predictions(draw: st.DrawFn) -> ExplainablePrediction:
    pairs = draw(st.lists(st.builds(RankedPair, category=names, rationale=names, log_prob=log_probs), max_size=4))
    categories = draw(st.lists(st.builds(RankedCategory, category=names, log_prob=log_probs), max_size=4))
    rationales = draw(st.lists(st.builds(RankedRationale, rationale=names, log_prob=log_probs), max_size=4))
    known = st.none() | st.lists(names, max_size=3).map(tuple)
    return ExplainablePrediction(
        key=draw(names),
        source=draw(names),
        shard=draw(st.none() | names),
        member_offset=draw(st.none() | st.integers(0, 2**40)),
        member_num_bytes=draw(st.none() | st.integers(0, 2**40)),
        category_true=draw(st.none() | names),
        rationales_true=draw(known),
        visible_rationales=draw(known),
        category=draw(names),
        rationale=draw(names),
        confidence=draw(st.floats(0, 1, width=32)),
        category_log_prob=draw(log_probs),
        pairs=tuple(pairs),
        categories=tuple(categories),
        rationales=tuple(rationales),
        two_stage_category=draw(names),
        two_stage_rationale=draw(names),
        kept_mass=draw(st.floats(0, 1, width=32)),
        pairs_exact=draw(st.booleans()),
        calibrated=draw(st.booleans()),
        method=draw(st.sampled_from(["joint", "pairs"])),
        model_name=draw(names),
        model_version=draw(st.none() | names),
        model_digest=draw(names),
        vocabulary_digest=draw(names),
        ood_score=draw(st.none() | st.floats(0, 2, width=32)),
    )


def example(key: str) -> ExplainablePrediction:
    return ExplainablePrediction(
        key=key,
        source=f"/photos/{key}.jpg",
        category="fox",
        rationale="pointed ears",
        confidence=0.5,
        category_log_prob=-0.25,
        pairs=(RankedPair(category="fox", rationale="pointed ears", log_prob=-0.6875),),
        categories=(RankedCategory(category="fox", log_prob=-0.25),),
        rationales=(RankedRationale(rationale="pointed ears", log_prob=-0.5),),
        two_stage_category="fox",
        two_stage_rationale="pointed ears",
        kept_mass=1.0,
        pairs_exact=True,
        calibrated=False,
        method="joint",
        model_name="ecor",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )


DIGEST_OF_BEFORE = "a1fa62d3f881de4062d39f20b80fe48b70c767906cfe3a5a7c432f9d20e297c9"
"""Of an empty set of predictions, before there were optional columns."""
PARENTS = PredictionParents(
    input="/shards/test",
    input_digest="i" * 64,
    model_uri="models:/ecor@champion",
    model_name="ecor",
    model_version="3",
    model_digest="m" * 64,
    vocabulary_digest="v" * 64,
)


def labels_folder(folder: Path) -> PredictionSet:
    parts = tuple(
        write_part(
            str(folder), predictions_table([example(f"{unit}{i}") for i in range(3)]), name=f"{unit}.parquet", unit=unit
        )
        for unit in ("a", "b")
    )
    record = PredictionSet(parts=parts, parents=PARENTS, scoring=ScoringConfig(top_k=3), num_rejected=1)
    write_prediction_set(str(folder), record)
    return record


@settings(max_examples=30, deadline=None)
@given(st.lists(predictions(), max_size=3))
def test_records_survive_the_table_and_the_file(rows: list[ExplainablePrediction]) -> None:
    table = predictions_table(rows)
    assert list(iterate_predictions(table)) == rows
    read = pq.read_table(pa.BufferReader(encode_parquet(table)))
    assert list(iterate_predictions(check_schema(read, source="file"))) == rows


def test_the_same_rows_give_the_same_bytes_however_they_are_chunked() -> None:
    rows = [example(f"k{i}") for i in range(7)]
    chunked = pa.concat_tables([predictions_table(rows[:2]), predictions_table(rows[2:])])
    assert encode_parquet(chunked) == encode_parquet(predictions_table(rows))


def test_a_folder_of_labels_is_read_back_with_its_record(tmp_path: Path) -> None:
    record = labels_folder(tmp_path)
    assert read_prediction_set(str(tmp_path)) == record
    assert (record.num_rows, record.num_bytes) == (6, sum((tmp_path / p.name).stat().st_size for p in record.parts))
    assert read_predictions(str(tmp_path))["key"].to_pylist() == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert [table.num_rows for table in iterate_parts(str(tmp_path), columns=["key"])] == [3, 3]
    assert read_predictions(str(tmp_path / "b.parquet"), columns=["key"]).num_rows == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_digest_is_of_content_not_of_attempts(tmp_path: Path) -> None:
    record = labels_folder(tmp_path)
    renamed = tuple(dataclasses.replace(part, name=f"attempt-{part.name}") for part in reversed(record.parts))
    again = PredictionSet(parts=renamed, parents=PARENTS, scoring=ScoringConfig(top_k=3), num_rejected=1, run_id="r")
    assert again.digest == record.digest
    other = PredictionSet(parts=renamed, parents=PARENTS, scoring=ScoringConfig(top_k=4), num_rejected=1)
    assert other.digest != record.digest


def test_an_altered_short_or_missing_part_is_named(tmp_path: Path) -> None:
    labels_folder(tmp_path)
    path = tmp_path / "b.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(ValueError, match=r"part b\.parquet is not the file"):
        read_predictions(str(tmp_path))
    path.write_bytes(encode_parquet(predictions_table([example("b0")])))
    with pytest.raises(ValueError, match=r"part b\.parquet is not the file"):
        read_predictions(str(tmp_path))
    path.unlink()
    with pytest.raises(ValueError, match=r"part b\.parquet is missing"):
        read_predictions(str(tmp_path))


def test_a_count_that_lies_is_found(tmp_path: Path) -> None:
    record = labels_folder(tmp_path)
    lying = tuple(dataclasses.replace(part, num_rows=9) for part in record.parts)
    write_prediction_set(str(tmp_path), PredictionSet(parts=lying, parents=PARENTS, scoring=record.scoring))
    with pytest.raises(ValueError, match=r"part a\.parquet has 3 rows, its manifest says 9"):
        read_predictions(str(tmp_path))


def test_an_altered_manifest_and_an_unfinished_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finished"):
        read_predictions(str(tmp_path))
    labels_folder(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_rejected": 1', '"num_rejected": 0'))
    with pytest.raises(ValueError, match="was altered"):
        read_predictions(str(tmp_path))
    manifest.write_text("[]")
    with pytest.raises(ValueError, match="not a manifest"):
        read_predictions(str(tmp_path))


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    table = predictions_table([example("a")]).drop_columns(["method"])
    with pytest.raises(ValueError, match="column method must be string, found None"):
        write_part(str(tmp_path), table, name="a.parquet", unit="a")


def test_a_column_that_was_not_asked_for_is_not_there(tmp_path: Path) -> None:
    """Neither in rows nor in the manifest, so that folders of before read, and digest, as they did."""
    plain, scored = example("a"), dataclasses.replace(example("a"), ood_score=0.5)
    assert predictions_table([plain]).schema.equals(PREDICTION_SCHEMA, check_metadata=True)
    assert schema_for(ScoringConfig()).equals(PREDICTION_SCHEMA, check_metadata=True)
    table = predictions_table([scored, plain])
    assert table.schema.equals(schema_for(ScoringConfig(ood_score=True)), check_metadata=True)
    assert table["ood_score"].to_pylist() == [0.5, None]
    part = write_part(str(tmp_path), table.append_column("colour", [["red", "blue"]]), name="a.parquet", unit="a")
    record = PredictionSet(parts=(part,), parents=PARENTS, scoring=ScoringConfig(ood_score=True))
    write_prediction_set(str(tmp_path), record)
    assert read_prediction_set(str(tmp_path)) == record
    assert read_predictions(str(tmp_path)).equals(table)
    off = PredictionSet(parts=(part,), parents=PARENTS, scoring=ScoringConfig())
    assert "ood_score" not in off.to_json() and off.digest != record.digest
    with pytest.raises(ValueError, match="column ood_score must be float, found string"):
        check_schema(predictions_table([plain]).append_column("ood_score", [["x"]]), source="table")


def test_a_manifest_of_before_the_column_reads(tmp_path: Path) -> None:
    """Written by the version before, with its digest."""
    record = PredictionSet(
        parts=(), parents=PARENTS, scoring=ScoringConfig(method="joint", calibrated_confidence=False)
    )
    assert record.digest == DIGEST_OF_BEFORE
    (tmp_path / "manifest.json").write_text(record.to_json())
    assert read_prediction_set(str(tmp_path)) == record


def test_no_labels_is_an_empty_table(tmp_path: Path) -> None:
    write_prediction_set(str(tmp_path), PredictionSet(parts=(), parents=PARENTS, scoring=ScoringConfig()))
    assert read_predictions(str(tmp_path)).schema.equals(PREDICTION_SCHEMA)


def test_rows_with_known_truth_are_counted(tmp_path: Path) -> None:
    known = dataclasses.replace(example("a"), category_true="fox", rationales_true=("pointed ears",))
    rows = [known, dataclasses.replace(known, rationales_true=()), dataclasses.replace(known, category_true=None)]
    part = write_part(str(tmp_path), predictions_table(rows), name="a.parquet", unit="a")
    assert part.num_labelled == 1
    assert PredictionSet(parts=(part,), parents=PARENTS, scoring=ScoringConfig()).has_truth
    assert not labels_folder(tmp_path).has_truth


def test_remote_file_systems_are_reached_by_url() -> None:
    folder = "memory://labels"
    part = write_part(folder, predictions_table([example("a")]), name="a.parquet", unit="a")
    assert isinstance(part, PredictionPart)
    write_prediction_set(folder, PredictionSet(parts=(part,), parents=PARENTS, scoring=ScoringConfig()))
    assert read_predictions(folder)["key"].to_pylist() == ["a"]


def test_labels_that_pandas_has_saved_again_are_read(tmp_path: Path) -> None:
    """It writes texts as large_string, numbers in 64 bits, and a column without values as null."""
    table = predictions_table([example("a"), example("b")])
    wide = {pa.string(): pa.large_string(), pa.float32(): pa.float64(), pa.int32(): pa.int64()}
    schema = pa.schema(
        [
            pa.field(
                each.name, pa.null() if table[each.name].null_count == len(table) else wide.get(each.type, each.type)
            )
            for each in table.schema
        ]
    )
    columns = [pa.nulls(len(table)) if each.type == pa.null() else table[each.name].cast(each.type) for each in schema]
    changed = pa.table(columns, schema=schema)
    assert changed.schema.types != table.schema.types
    pq.write_table(changed, tmp_path / "labels.parquet")
    assert read_predictions(tmp_path / "labels.parquet").equals(table)


def test_values_that_do_not_fit_a_column_are_refused_with_the_remedy(tmp_path: Path) -> None:
    table = predictions_table([example("a")])
    index = table.schema.get_field_index("confidence")
    for column, told in (
        (pa.array(["high"]), "its values do not fit: write it in that type"),
        (pa.nulls(1), "1 have none"),
    ):
        pq.write_table(table.set_column(index, "confidence", column), tmp_path / "labels.parquet")
        with pytest.raises(ValueError, match=f"labels.parquet: column confidence must .*{told}"):
            read_predictions(tmp_path / "labels.parquet")
