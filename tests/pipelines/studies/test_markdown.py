"""Tables, pages and rows of studies, in the forms that the committed ones have.

Covers: `pipelines.studies.result_rows`.
"""

from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest

from pipelines.studies.markdown import (
    MarkdownTable,
    markdown_table,
    read_introduction,
    render_template,
    table_row,
    write_parts,
)
from pipelines.studies.result_rows import append_rows, read_result_rows, write_rows


def test_a_table_has_a_rule_below_its_header_and_a_line_per_row() -> None:
    found = markdown_table(("", "mean"), [("a", "1.0"), ("b", "")])
    assert found == "|  | mean |\n|---|---|\n| a | 1.0 |\n| b |  |"
    assert (
        MarkdownTable(title="RR", header=("", "mean"), rows=(("a", "1.0"), ("b", ""))).markdown == f"**RR**\n\n{found}"
    )
    assert table_row(["---"] * 2) == "| --- | --- |"


def test_a_page_has_its_parts_apart_and_the_words_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "figures.md"
    assert read_introduction(page) == ""
    (tmp_path / "figures-words.md").write_text("\nRead me.\n\n")
    assert write_parts(page, "# Head", read_introduction(page), "", "end\n\n") == page
    assert page.read_bytes() == b"# Head\n\nRead me.\n\nend\n"


def test_a_page_is_not_made_without_a_value_that_it_asks_for() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render_template("results.md.j2", package="pipelines.studies.ablation")


def test_rows_that_are_appended_in_parts_are_those_written_at_once(tmp_path: Path) -> None:
    rows = pd.DataFrame({"arm": ["a", "b", "c"], "rr": [0.123456, np.nan, 2.0]})
    assert not len(read_result_rows(tmp_path / "parts.csv"))
    for number in range(3):
        append_rows(rows.iloc[[number]], tmp_path / "parts.csv", float_format="%.4g")
    write_rows(rows, tmp_path / "once.csv", float_format="%.4g")
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()
    write_rows(rows, tmp_path / "full.csv", missing="nan")
    assert (tmp_path / "full.csv").read_text() == "arm,rr\na,0.123456\nb,nan\nc,2.0\n"
