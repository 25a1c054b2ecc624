"""The commands of `docs/inputs.md` run on inputs of these names, and shard the same images each."""

import json
import re
import shlex
from pathlib import Path

import pytest

from pipelines.__main__ import main
from tests.support.image_forms import FORMS, pictures

PAGE = (Path(__file__).parents[3] / "docs" / "inputs.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipelines.runtime.cluster.connect", None)  # Ray must not be asked for
    monkeypatch.setattr("pipelines.runtime.local_run._names_cluster", lambda config: config.address is not None)
    for form in FORMS.values():
        form(pictures(), tmp_path)
    (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err
        summary = json.loads((tmp_path / command[-1] / "summary.json").read_text())
        assert (summary["num_samples"], summary["num_rejected"]) == (len(pictures()), 0)
