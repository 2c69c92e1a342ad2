"""No torch type in what applications see: NumPy goes in and NumPy comes out.

Costs, constraints and rollouts are the exception: they are torch on purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from worldline import episode, schema
from worldline.models import base as world_model
from worldline.planning import base as planning
from worldline.plots.figure import PlotFigure
from worldline.world import base as world
from worldline.world import local

TORCH = {repr(hint) for hint in (planning.Cost, planning.Constraint, planning.Rollout, planning.Chance)}

LATE = {"PlotFigure": PlotFigure}
"""Types that are imported only where they are used."""


def hints_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a function, the public methods of a class, or the fields of a dataclass are annotated with."""
    if inspect.isfunction(thing):
        yield from get_type_hints(thing).items()
    if inspect.isclass(thing):
        if is_dataclass(thing):
            yield from get_type_hints(thing).items()
        for name, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield from get_type_hints(function, localns=LATE).items()


def torch_in(module: ModuleType) -> list[str]:
    """The annotations with a tensor in the public classes and functions of a module."""
    members = [member for name, member in vars(module).items() if not name.startswith("_")]
    own = [member for member in members if getattr(member, "__module__", "") == module.__name__]
    assert own
    found = []
    for member in own:
        for name, hint in hints_of(member):
            text = repr(hint)
            for known in TORCH:
                text = text.replace(known, "")
            if "torch" in text or "Tensor" in text:
                found.append(f"{member.__qualname__}.{name}: {text}")
    return found


@pytest.mark.parametrize("module", [world, episode, schema, local])
def test_no_torch_in_a_signature(module: ModuleType) -> None:
    assert torch_in(module) == []


def test_torch_would_be_seen() -> None:
    assert torch_in(world_model)  # what researchers write is about tensors
