"""A pipeline's file as editors save it: with a byte order mark, or not in UTF-8."""

import codecs
from pathlib import Path

import pytest

from pipelines.config.pipeline_file import PipelineConfig, read_pipeline

TEXT = """output = "out"
[shard]
input = "images"
"""


def read(folder: Path, content: bytes) -> PipelineConfig:
    (folder / "pipeline.toml").write_bytes(content)
    return read_pipeline(folder / "pipeline.toml")


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT.encode())
    assert read(tmp_path, codecs.BOM_UTF8 + TEXT.encode()) == config and config.shard.input == "images"


@pytest.mark.parametrize("content", [TEXT.encode("utf-16"), codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")])
def test_utf_16_is_refused_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"pipeline\.toml is UTF-16, not UTF-8: save it as UTF-8$"):
        read(tmp_path, content)


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pipeline\.toml: line 2 is not UTF-8"):
        read(tmp_path, 'output = "out"\n# caf\u00e9\n'.encode("cp1252"))
