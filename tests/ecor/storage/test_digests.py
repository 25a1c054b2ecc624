"""Digests are those of the spelling that older records hold: each option is checked against hashlib and json."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecor.storage.digests import bytes_sha256, file_sha256, json_digest, text_sha256

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES, sort_keys=st.booleans(), separators=st.sampled_from([None, (",", ":")]))
def test_json_digest_hashes_what_json_dumps_spells(value, sort_keys, separators):
    text = json.dumps(value, sort_keys=sort_keys, separators=separators)
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert json_digest(value, sort_keys=sort_keys, separators=separators) == expected


def test_options_of_json_are_part_of_the_digest():
    value = {"b": "é", "a": [1, 2.5, None]}
    plain = hashlib.sha256(b'{"a": [1, 2.5, null], "b": "\\u00e9"}').hexdigest()
    assert json_digest(value) == plain
    assert json_digest(value, ensure_ascii=False) == text_sha256('{"a": [1, 2.5, null], "b": "é"}')
    assert json_digest(value, sort_keys=False) == text_sha256('{"b": "\\u00e9", "a": [1, 2.5, null]}')
    assert json_digest(value, separators=(",", ":")) == text_sha256('{"a":[1,2.5,null],"b":"\\u00e9"}')


def test_a_file_a_text_and_bytes_of_one_content_have_one_digest(tmp_path):
    data = "größer".encode() * 1000
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert file_sha256(path) == file_sha256(str(path)) == file_sha256(f"file://{path}") == expected
    assert bytes_sha256(data) == text_sha256(data.decode()) == expected


def test_a_file_that_is_missing_has_no_digest(tmp_path):
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "missing")
