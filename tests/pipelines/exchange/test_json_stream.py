"""Streaming reads of JSON: as `json.loads`, whatever the size of a chunk, and one place for each fault.

Covers: `ecor.data.sources.json_stream`.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecor.data.sources import json_stream
from pipelines.exchange.json_stream import read_json_items

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150)
@given(content=st.lists(values) | st.dictionaries(st.text(), values), chunk=st.integers(1, 40), indent=st.booleans())
def test_items_are_those_of_json_loads(content, chunk, indent, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, indent=1 if indent else None, ensure_ascii=indent), encoding="utf-8")
    before, json_stream.CHUNK_CHARS = json_stream.CHUNK_CHARS, chunk
    try:
        found = list(read_json_items(str(path)))
    finally:
        json_stream.CHUNK_CHARS = before
    if isinstance(content, list):
        assert found == [(None, each) for each in content]
        return
    wanted = []
    for name, value in content.items():
        wanted += [(name, each) for each in value] if isinstance(value, list) else [(name, value)]
    assert found == wanted


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1,", "[1,]", "[1 2]", "{", '{"a"', '{"a":1', "{1: 2}", "[1]]", "nul"]
)
def test_what_is_cut_or_wrong_is_an_error_with_its_place(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        list(read_json_items(str(tmp_path / "a.json")))


def test_no_file_no_utf_8_and_too_long_an_item_are_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no such file"):
        list(read_json_items(str(tmp_path / "none.json")))
    (tmp_path / "latin.json").write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        list(read_json_items(str(tmp_path / "latin.json")))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        list(read_json_items(str(tmp_path / "deep.json")))
    monkeypatch.setattr(json_stream, "CHUNK_CHARS", 10)
    monkeypatch.setattr(json_stream, "MOST_CHARS", 100)
    (tmp_path / "long.json").write_text(json.dumps(["a" * 500]))
    with pytest.raises(ValueError, match="has an item of over 100 characters"):
        list(read_json_items(str(tmp_path / "long.json")))
