"""Planted faults: correct parts with a changed method, and the test that a clause catches each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from tests.testing.exact_world import toy_case, toy_episodes

from worldline.episode import Episode
from worldline.testing.cases import EngineCase, WorldCase
from worldline.testing.clauses import CLAUSES, Clause, breaches
from worldline.testing.toys import Integrator

Part = TypeVar("Part")
Fault = tuple[type, str, str]
"""A class with a fault, the clause that catches it, and a part of the message (a regular expression)."""

WORLD_EPISODES = toy_episodes()
ENGINE_EPISODES = Integrator(noise=0.1).episodes(20, 12, seed=0)


def world_case(world: Any) -> WorldCase:
    return toy_case(world, WORLD_EPISODES)


def engine_case(engine: Any) -> EngineCase:
    return EngineCase(engine=engine, episodes=ENGINE_EPISODES)


def gappy(episodes: Sequence[Episode], every: int, value: float) -> list[Episode]:
    """The same, with `value` where the position was not observed: each so-many-th moment."""
    found = []
    for number, one in enumerate(episodes):
        observed = np.arange(one.num_steps + 1) % every != number % every
        position = np.where(observed[:, None], one.observations["position"], value).astype(np.float32)
        observations = {**one.observations, "position": position}
        found.append(replace(one, observations=observations, observed={"position": observed}))
    return found


def altered(base: type[Part], name: str, **changes: Any) -> type[Part]:
    """A subclass.

    Args:
        base: the correct class.
        name: of the subclass.
        changes: per method a function that changes its answer; any other value replaces the attribute.
    """

    def wrapped(method: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda self, *args, **rest: change(getattr(super(found, self), method)(*args, **rest))

    members = {key: wrapped(key, change) if callable(change) else change for key, change in changes.items()}
    found = type(name, (base,), members)
    return found


def instead(base: type[Part], **members: Any) -> type[Part]:
    """A subclass with these methods and attributes."""
    return type(f"{base.__name__}_{'_'.join(members)}", (base,), members)


def changed(found: Any, **fields: Any) -> Any:
    """An answer with other fields; a function gives the new value of what was answered."""
    return replace(found, **{key: new(found) if callable(new) else new for key, new in fields.items()})


def replacing(base: type[Part], method: str, **fields: Any) -> type[Part]:
    """A subclass that changes fields of what a method returns."""
    return altered(base, f"{method}_{'_'.join(fields)}", **{method: lambda found: changed(found, **fields)})


def named(kind: str, name: str) -> Clause:
    """The clause of a kind with this name."""
    return {clause.__name__: clause for clause in CLAUSES[kind]}[name]


def passes(parts: Sequence[type], names: Sequence[str], case_of: Callable[[Any], Any]) -> Callable[..., None]:
    """A test of each correct part."""

    @pytest.mark.parametrize("part", parts)
    def test(part: type) -> None:
        case = case_of(part())
        assert breaches(case, [named(case.kind, name) for name in names]) == []

    return test


def with_card(base: type, **changes: Any) -> type:
    """The toy with another card."""
    name = "_".join(f"{key}_{value}" for key, value in changes.items())
    return altered(base, name, describe=lambda card: replace(card, **changes))


def catches(faults: Sequence[Fault], case_of: Callable[[Any], Any]) -> Callable[..., None]:
    """A test of each fault."""

    @pytest.mark.parametrize(("fault", "clause", "seen"), faults, ids=[fault.__name__ for fault, *_ in faults])
    def test(fault: type, clause: Clause[Any], seen: str) -> None:
        case = case_of(fault())
        with pytest.raises(AssertionError, match=rf"^\[{case.kind}\.{clause}\] .*{seen}"):
            named(case.kind, clause)(case)

    return test
