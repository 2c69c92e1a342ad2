"""Learn how a world works from logs; then predict, score, plan and ask what if.

Importing this package loads neither torch nor NumPy; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline import data, errors
from worldline.errors import WorldlineError

if TYPE_CHECKING:
    from worldline.episode import Episode, History
    from worldline.schema import Kind, Role, Schema, Signal
    from worldline.planning.base import Goal
    from worldline.world.base import World
    from worldline.data.store import Store, open_store
    from worldline.workflows.learn import learn
    from worldline.workflows.record import record
    from worldline.workflows.recorder import Recorder
    from worldline.catalog.opening import open_target as open
    from worldline.world.session import Session

    __version__: str

__all__ = [
    "Episode",
    "Goal",
    "History",
    "Kind",
    "Recorder",
    "Role",
    "Schema",
    "Session",
    "Signal",
    "Store",
    "World",
    "WorldlineError",
    "data",
    "errors",
    "learn",
    "open",
    "open_store",
    "record",
]

_HOMES = {
    "Episode": "worldline.episode:Episode",
    "Goal": "worldline.planning.base:Goal",
    "History": "worldline.episode:History",
    "Kind": "worldline.schema:Kind",
    "Recorder": "worldline.workflows.recorder:Recorder",
    "Role": "worldline.schema:Role",
    "Schema": "worldline.schema:Schema",
    "Session": "worldline.world.session:Session",
    "Signal": "worldline.schema:Signal",
    "Store": "worldline.data.store:Store",
    "World": "worldline.world.base:World",
    "learn": "worldline.workflows.learn:learn",
    "open": "worldline.catalog.opening:open_target",
    "open_store": "worldline.data.store:open_store",
    "record": "worldline.workflows.record:record",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("worldline")
    if name not in _HOMES:
        raise AttributeError(f"module 'worldline' has no attribute {name!r}. Public names: {', '.join(__all__)}.")
    from importlib import import_module

    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
