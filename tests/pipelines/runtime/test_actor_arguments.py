"""The rule for actors' arguments is in force inside the block only; other releases of Ray Data do without it.

That Ray's warning is gone shows a whole job: `tests/pipelines/stages/test_score.py`.
"""

import sys

import pytest
from ray.data._internal.logical.optimizers import get_physical_ruleset

from pipelines.runtime.actor_arguments import inline_actor_arguments


def rule_names() -> set[str]:
    return {rule.__name__ for rule in get_physical_ruleset()}


def test_the_rule_is_in_force_inside_the_block_only() -> None:
    before = rule_names()
    with inline_actor_arguments():
        assert rule_names() - before == {"InlineActorArguments"}
    assert rule_names() == before
    with pytest.raises(KeyError), inline_actor_arguments():
        raise KeyError
    assert rule_names() == before


def test_a_release_without_these_names_keeps_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rule_names()
    monkeypatch.setitem(sys.modules, "ray.data._internal.logical.optimizers", None)
    with inline_actor_arguments():
        assert rule_names() == before
