"""A pipeline file: derived folders, and mistakes that are told with the setting's name.

Covers: `pipelines.config.pipeline_file`.
"""

import pytest

from pipelines.config.pipeline_file import read_pipeline

MINIMAL = 'output = "out"\n[shard]\ninput = "photos"\n'


def write(tmp_path, text: str):
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    return path


def test_folders_follow_from_output(tmp_path):
    config = read_pipeline(write(tmp_path, MINIMAL + '[register]\nname = "clothes"\n[evaluate]\nnum_bins = 5\n'))
    assert config.shard.output == config.train.shards == "out/shards"
    assert config.register.checkpoint == config.train.output == "out/run"
    assert config.promote.model == "models:/clothes@candidate"
    assert config.score.model == "models:/clothes@champion"
    assert config.evaluate.predictions == (config.score.output,)
    assert config.evaluate.num_bins == 5
    assert config.report.predictions == config.score.output


def test_what_is_given_stays(tmp_path):
    config = read_pipeline(write(tmp_path, MINIMAL + '[score]\ninput = "other"\nscoring = {top_k = 3}\n'))
    assert (config.score.input, config.score.scoring.top_k) == ("other", 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + "[train]\nnum_epoch = 3\n", "train.num_epoch (did you mean train.num_epochs?)"),
        (MINIMAL + "[train.prompts]\nvisual_tokns = 3\n", "train.prompts.visual_tokns (did you mean"),
        (MINIMAL + "[train]\nnum_epochs = 2.5\n", "train.num_epochs"),
        (MINIMAL + "[train]\nnum_epochs = 0\n", "num_epochs must be at least 1, got 0"),
        (MINIMAL + '[score.scoring]\nmethod = "magic"\n', "'magic'"),
        ('output = "out"\n', "shard.input"),
        ("output = \n", "is not TOML"),
        (MINIMAL + "train = 3\n", "unknown setting shard.train"),
        ("train = 3\n" + MINIMAL, "train"),
    ],
)
def test_mistakes_are_named(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"pipeline\.toml") as error:
        read_pipeline(path)
    assert told in str(error.value)
