"""The commands of `docs/features.md` are those of the command line, and do what the page says."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from ecor.checkpoint import save_checkpoint
from ecor.data.predictions.manifest import read_prediction_set
from pipelines.__main__ import main
from pipelines.config.stages import RegisterConfig
from pipelines.tracking import model_registry
from tests.support.mlflow_databases import new_database
from tests.support.scoring_without_ray import score_without_ray
from tests.support.tiny_models import OTHER_NAMES, tiny_checkpoint, tiny_recognizer, write_pictures

PAGE = (Path(__file__).parents[3] / "docs" / "features.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    score_without_ray(monkeypatch)
    write_pictures(Path("photos"), num=5)
    Path("other.json").write_text(json.dumps(OTHER_NAMES))
    tracking = new_database(tmp_path)
    model = RegisterConfig(checkpoint=tiny_checkpoint(tmp_path / "run").folder, name="clothes", alias="champion")
    model_registry.register_model(model, tracking=tracking)
    tuned = tiny_recognizer(tmp_path)
    with torch.no_grad():
        tuned.prompts.rationale_context.normal_(generator=torch.Generator().manual_seed(1))
    save_checkpoint(tuned, "run-text-tokens/checkpoint")
    commands = [shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 3
    for number, command in enumerate(commands):
        assert main(command) == 0, capsys.readouterr().err
        if number == 0:
            shutil.rmtree("photos")
    labels = {day: read_prediction_set(f"labels/{day}") for day in ("monday", "tuesday", "wednesday")}
    assert [each.num_rows for each in labels.values()] == [5, 5, 5]
    parents = {day: each.parents for day, each in labels.items()}
    assert parents["tuesday"].model_uri == "models:/clothes/1"
    assert parents["wednesday"].features_digest == parents["tuesday"].features_digest is not None
    names = {re.sub(r"[^/]+\.arrow", "<unit>-<attempt>.arrow", str(path)) for path in Path("labels/monday").rglob("*")}
    told = set(re.findall(r"^\| `(features/[^`]+)` \|", PAGE, flags=re.MULTILINE))
    assert told == {name.removeprefix("labels/monday/") for name in names if "monday/features/" in name}
    for block in blocks("python"):
        exec(compile(block, "docs/features.md", "exec"), {})


@pytest.mark.parametrize("option", ["--keep-features", "--features", "--vocabulary", "--fresh"])
def test_every_option_that_the_page_names_exists(option, capsys):
    assert option in PAGE
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    assert option in capsys.readouterr().out
