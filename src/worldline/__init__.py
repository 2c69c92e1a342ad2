"""Learn how a world works from logs; then predict, score, plan and ask what if.

Importing this package loads neither torch nor NumPy; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline import data, errors
from worldline.errors import WorldlineError

if TYPE_CHECKING:
    from worldline.contracts.episode import Episode, History
    from worldline.contracts.schema import Kind, Role, Schema, Signal
    from worldline.contracts.world import Goal, World
    from worldline.data.store import Store, open_store
    from worldline.workflows.learn import learn
    from worldline.workflows.record import record
    from worldline.workflows.recorder import Recorder
    from worldline.worlds.opening import open_target as open
    from worldline.worlds.session import Session

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
    "Episode": "worldline.contracts.episode:Episode",
    "Goal": "worldline.contracts.world:Goal",
    "History": "worldline.contracts.episode:History",
    "Kind": "worldline.contracts.schema:Kind",
    "Recorder": "worldline.workflows.recorder:Recorder",
    "Role": "worldline.contracts.schema:Role",
    "Schema": "worldline.contracts.schema:Schema",
    "Session": "worldline.worlds.session:Session",
    "Signal": "worldline.contracts.schema:Signal",
    "Store": "worldline.data.store:Store",
    "World": "worldline.contracts.world:World",
    "learn": "worldline.workflows.learn:learn",
    "open": "worldline.worlds.opening:open_target",
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
