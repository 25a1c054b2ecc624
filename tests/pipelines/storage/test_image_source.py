"""A failure of a store that passes is not kept."""

import pytest

from ecor.data.predictions.manifest import PredictionParents
from pipelines.storage import image_source
from pipelines.storage.image_source import ImagePlace, ImageSource

PLACE = ImagePlace(key="k", source="s", shard="0.tar", member_offset=0, member_num_bytes=1)


def parents_of(folder: str) -> PredictionParents:
    return PredictionParents(
        input=folder,
        input_digest="0" * 64,
        model_uri="m",
        model_name="m",
        model_version=None,
        model_digest="1" * 64,
        vocabulary_digest="2" * 64,
    )


def test_the_next_image_tries_again(tmp_path, monkeypatch):
    tries = []

    def fail(folder):
        tries.append(folder)
        raise OSError("the disk is away")

    source = ImageSource(parents_of(str(tmp_path)))
    with monkeypatch.context() as patch:
        patch.setattr(image_source, "read_shard_manifest", fail)
        with pytest.raises(ValueError, match="the disk is away"):
            source.read(PLACE)
    assert tries
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        source.read(PLACE)


def test_what_is_certain_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    source = ImageSource(parents_of(str(tmp_path)))
    with pytest.raises(ValueError, match=r"manifest\.json"):
        source.read(PLACE)
    monkeypatch.setattr(image_source, "read_shard_manifest", None)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        source.read(PLACE)
