"""Lexicons by name: the demo's, one's own file, WordNet above a list of words."""

import json
from pathlib import Path

import pytest

from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.convis.lexicon import lexicon_digest
from ecor.demo.lexicon import ROOT, demo_lexicon
from ecor.storage import filesystem
from pipelines.storage.lexicons import open_concepts, open_lexicon
from tests.ecor.convis.test_lexicon import small_wordnet


def test_each_kind_of_lexicon_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_lexicon("demo").descendants(ROOT) == demo_lexicon().concepts
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"a": {"definition": "first"}, "b": {"definition": "second", "kind_of": ["a"]}}))
    assert open_lexicon(str(own)).descendants("a") == ("a", "b")
    words = tmp_path / "words.txt"
    words.write_text("dogs\n\nmice\n")
    folder = small_wordnet(tmp_path / "dict")
    assert "dog.n.01" in open_lexicon(f"wordnet:{words},{folder}").concepts
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    found = open_lexicon(f"wordnet:{words}")
    assert set(found.concepts) == {"entity.n.01", "animal.n.01", "dog.n.01", "mouse.n.01", "mouse.n.02"}


def test_definitions_that_a_text_tower_does_not_read_to_their_end_are_told(tmp_path: Path, capsys) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"a": {"definition": "a toy"}, "b": {"definition": "a very long " * 60}}))
    backbone = load_backbone(BackboneConfig())
    assert open_concepts(str(own), backbone=backbone).num_cut == 1
    assert "own.json: 1 of 2 definitions are longer than the 77 tokens" in capsys.readouterr().err
    open_concepts("demo", backbone=backbone)
    assert capsys.readouterr().err == ""


def test_lexicons_in_a_store_are_those_on_a_disk(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}"
    filesystem.write(f"{place}/own.json", json.dumps({"a": {"definition": "first"}}).encode())
    assert open_lexicon(f"{place}/own.json").definition("a") == "first"
    filesystem.write(f"{place}/words.txt", b"dogs\n\nmice\n")
    folder = small_wordnet(tmp_path / "dict")
    for path in folder.iterdir():
        filesystem.write(f"{place}/dict/{path.name}", path.read_bytes())
    expected = lexicon_digest(open_lexicon(f"wordnet:{place}/words.txt,{folder}"))
    assert lexicon_digest(open_lexicon(f"wordnet:{place}/words.txt,{place}/dict")) == expected
    with pytest.raises(ValueError, match=f"{place}/none.json is no lexicon"):
        open_lexicon(f"{place}/none.json")
    for name in ("http://host/own.json", "wordnet:http://host/words.txt", f"wordnet:{place}/words.txt,ssh://host/dict"):
        with pytest.raises(ValueError, match=r"the lexicon: (http|ssh):// is not read"):
            open_lexicon(name)


def test_what_is_no_lexicon_is_named() -> None:
    with pytest.raises(ValueError, match="wordnets is no lexicon"):
        open_lexicon("wordnets")
    with pytest.raises(ValueError, match=r"'words\.txt' is no text file of words"):
        open_lexicon("wordnet:words.txt")
