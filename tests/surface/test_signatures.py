"""No torch type in what applications and engines see: NumPy goes in and NumPy comes out.

Costs and constraints are the exception: they are torch functions of a `Rollout`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from worldline import episode, schema
from worldline.models import base as world_model
from worldline.planning import base as planning
from worldline.world import base as world
from worldline.world import local
from worldline.world.base import World


def hints_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """What the signature of a function, the methods of a class, or the fields of a dataclass are annotated with."""
    if inspect.isfunction(thing):
        yield from ((f"{thing.__qualname__}({name})", hint) for name, hint in get_type_hints(thing).items())
    if not inspect.isclass(thing):
        return
    if is_dataclass(thing):
        hints = get_type_hints(thing)
        yield from ((f"{thing.__qualname__}.{field.name}", hints[field.name]) for field in fields(thing))
    for name, member in vars(thing).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            yield from hints_of(function)


def parts_of(hint: Any) -> Iterator[Any]:
    """The annotation and everything inside it; of a jaxtyping one the kind of array."""
    if hint in (planning.Cost, planning.Constraint):
        return
    yield hint
    array = getattr(hint, "array_type", None)
    for inner in (*get_args(hint), *(() if array is None else (array,))):
        if isinstance(inner, list):
            for each in inner:
                yield from parts_of(each)
        else:
            yield from parts_of(inner)


def torch_in(*things: Any) -> list[str]:
    """Where a type of torch stands, in the signatures of `things` and in whatever dataclass of contracts they name."""
    found, seen, left = [], set(), list(things)
    while left:
        thing = left.pop()
        if thing in seen:
            continue
        seen.add(thing)
        if thing in (planning.Rollout, planning.Chance):
            continue
        for where, hint in hints_of(thing):
            for part in parts_of(hint):
                home = getattr(part, "__module__", "")
                if home.split(".")[0] == "torch":
                    found.append(f"{where}: {part}")
                if inspect.isclass(part) and is_dataclass(part) and home.startswith("worldline."):
                    left.append(part)
    return sorted(found)


def public(module: ModuleType) -> list[Any]:
    """Its own public classes and functions."""
    members = vars(module).items()
    return [
        member
        for name, member in members
        if not name.startswith("_") and getattr(member, "__module__", "") == module.__name__
    ]


@pytest.mark.parametrize("module", [world, episode, schema, local])
def test_no_torch_in_a_signature(module: ModuleType) -> None:
    assert public(module)
    assert torch_in(*public(module)) == []


def test_every_verb_is_annotated() -> None:
    for name in sorted(World.__abstractmethods__):
        verb = getattr(World, name)
        assert {*list(inspect.signature(verb).parameters)[1:], "return"} <= get_type_hints(verb).keys()


def test_torch_would_be_seen() -> None:
    # What researchers write is about tensors, in fields and in what methods return.
    found = "\n".join(torch_in(*public(world_model)))
    assert "Inputs.actions: " in found
    assert "Belief.features(return): " in found
