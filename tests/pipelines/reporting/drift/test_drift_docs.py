"""The commands of `docs/diff.md` and `docs/cards.md` are those of the command line, and do what the pages say."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines.__main__ import _parse_command, main
from pipelines.label_commands import Diff, WriteCard
from tests.support.prediction_rows import random_table, write_labels

DOCS = Path(__file__).parents[4] / "docs"


def commands_of(name: str) -> list[list[str]]:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_commands_of_the_pages_parse():
    kinds = [type(_parse_command(each)) for name in ("diff.md", "cards.md") for each in commands_of(name)]
    assert kinds == [Diff, Diff, WriteCard, WriteCard, WriteCard]


def test_the_commands_of_the_page_about_changes_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("v3", "v4")):
        write_labels(f"labels/{name}", random_table(120, seed=seed))
    for command in commands_of("diff.md"):
        assert main(command) in (0, 3), command
    told = set(re.findall(r"^\| `([\w.]+)` \|", (DOCS / "diff.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert told == {path.name for path in Path("labels/v4-diff").iterdir()}
    assert "120 images in both, 0 only before, 0 only after" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--false-alarms", "--smallest-effect", "--fail-on-drift", "--output"])
def test_every_option_that_the_page_names_exists(option, capsys):
    assert option in (DOCS / "diff.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["diff", "--help"])
    assert option in capsys.readouterr().out
