"""Pass the arguments of Ray Data's actors by value, so that an actor can restart whatever the object store lost."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

_ARGUMENTS = (("_map_transformer_ref", "_map_transformer"), ("_data_context_ref", "data_context"))
"""Attributes of Ray Data's operator that become references to objects on first use, and the values of these."""


def inline_actor_arguments() -> AbstractContextManager[None]:
    """Plan actors of Ray Data whose arguments travel with the request that starts them, not by the object store.

    Ray Data stores its settings and the mapped class of every actor as objects. An actor that restarts needs them
    again, and Ray warns that it cannot restart when they are lost (ray issues 53727, 57733). Arguments by value are
    kept in the actor's record as long as it may restart. Ray itself still stores those larger than 100 kB.

    It uses names inside Ray Data. In a release that has other ones, nothing changes but that Ray warns.
    """
    try:
        return _with_rule()
    except ImportError:
        return nullcontext()


def _with_rule() -> AbstractContextManager[None]:
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
    from ray.data._internal.logical.interfaces import PhysicalPlan, Rule
    from ray.data._internal.logical.optimizers import get_physical_ruleset

    class InlineActorArguments(Rule):
        """Sets attributes that Ray Data otherwise sets to references on first use."""

        def apply(self, plan: PhysicalPlan) -> PhysicalPlan:
            for operator in plan.dag.post_order_iter():
                for name, value in _ARGUMENTS if isinstance(operator, ActorPoolMapOperator) else ():
                    if isinstance(getattr(type(operator), name, None), cached_property) and hasattr(operator, value):
                        operator.__dict__[name] = getattr(operator, value)
            return plan

    @contextmanager
    def add_rule() -> Iterator[None]:
        rules = get_physical_ruleset()
        rules.add(InlineActorArguments)
        try:
            yield
        finally:
            rules.remove(InlineActorArguments)

    return add_rule()
