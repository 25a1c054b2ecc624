"""Addresses are checked by their type, wherever they stand in the settings of a command.

Covers: `pipelines.config.reporting`, `pipelines.config.studies`.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import get_args, get_type_hints

import pytest

from ecor.config.address_types import AddressKind, LocalPath, ModelAddress, StoreAddress
from pipelines.config import exchange, learning, pipeline_file, reporting, review, stages, studies, training
from pipelines.config.addresses import CheckedSettings, address_settings

PLACES = (
    *("image", "input", "output", "model", "vocabulary", "shards", "checkpoint", "evaluation", "champion_evaluation"),
    *("cache_dir", "work", "weights", "predictions", "compare", "beside", "projection", "explain_projection"),
    *("audit", "labels", "judged", "policy", "decisions", "sample", "before", "after", "image_root", "reviewed"),
    *("corrections", "source", "others", "seen", "init_from", "address", "features", "since"),
    *("categories", "images", "captions", "descriptors", "wordnet_folder", "index"),
)
CONFIGS = sorted(
    {
        each
        for module in (exchange, learning, pipeline_file, reporting, review, stages, studies, training)
        for each in vars(module).values()
        if isinstance(each, type) and is_dataclass(each) and issubclass(each, CheckedSettings)
    },
    key=lambda each: each.__name__,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    place: StoreAddress = "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CheckedSettings):
    one: StoreAddress = "here"
    perhaps: StoreAddress | None = None
    many: tuple[StoreAddress, ...] = ()
    model: ModelAddress = "models:/a@b"
    local: LocalPath | None = None
    text: str = "pipe:rm"
    inner: Inner = field(default_factory=Inner)


def test_settings_are_found_by_their_type():
    assert dict(address_settings(Settings)) == {
        "one": AddressKind(),
        "perhaps": AddressKind(),
        "many": AddressKind(),
        "model": AddressKind(may_be_registered=True),
        "local": AddressKind(only_local=True),
    }


@pytest.mark.parametrize("address", ["pipe:cat /etc/passwd", "https://host/x", "s3://key:secret@bucket/x"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("one", lambda address: Settings(one=address)),
        ("perhaps", lambda address: Settings(perhaps=address)),
        ("many", lambda address: Settings(many=("here", address))),
        ("model", lambda address: Settings(model=address)),
        ("local", lambda address: Settings(local=address)),
        (r"inner\.place", lambda address: Settings(inner=Inner(place=address))),
    ],
)
def test_each_is_checked_and_named(name, make, address):
    with pytest.raises(ValueError, match=name) as caught:
        make(address)
    assert "secret" not in str(caught.value)


def test_paths_stores_and_registered_models_are_taken_where_they_fit():
    given = Settings(one="s3://b/x", perhaps="gs://b/x", many=("a", "/b"), model="models:/a/3", local="work")
    assert given.text == "pipe:rm", "what is no address is not checked"
    with pytest.raises(ValueError, match="local of this command must be on a disk of this machine, got s3://b/x"):
        Settings(local="s3://b/x")


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_place_of_a_command_is_an_address(kind):
    hints, found = get_type_hints(kind), address_settings(kind)
    texts = {each.name for each in fields(kind) if str in (hints[each.name], *get_args(hints[each.name]))}
    assert found.keys() == texts & set(PLACES)
