"""Lexicons by name: the demo's, one's own file, WordNet above a list of words."""

import json
from pathlib import Path

import pytest
from test_explain_lexicon import small_wordnet

from ecor.demo.taxonomy import ROOT, demo_lexicon
from pipelines.lexicons import lexicon_named


def test_each_kind_of_lexicon_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lexicon_named("demo").descendants(ROOT) == demo_lexicon().concepts
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"a": {"definition": "first"}, "b": {"definition": "second", "kind_of": ["a"]}}))
    assert lexicon_named(str(own)).descendants("a") == ("a", "b")
    words = tmp_path / "words.txt"
    words.write_text("dogs\n\nmice\n")
    folder = small_wordnet(tmp_path / "dict")
    assert "dog.n.01" in lexicon_named(f"wordnet:{words},{folder}").concepts
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    found = lexicon_named(f"wordnet:{words}")
    assert set(found.concepts) == {"entity.n.01", "animal.n.01", "dog.n.01", "mouse.n.01", "mouse.n.02"}


def test_what_is_no_lexicon_is_named() -> None:
    with pytest.raises(ValueError, match="wordnets is no lexicon"):
        lexicon_named("wordnets")
    with pytest.raises(ValueError, match=r"'words\.txt' is no text file of words"):
        lexicon_named("wordnet:words.txt")
