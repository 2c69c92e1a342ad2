"""Learn world models from logs, then predict, score, plan and answer what-if questions.

Importing this package loads neither torch nor NumPy; each name below is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline import data, errors
from worldline.errors import WorldlineError
from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.catalog.opening import open_target as open
    from worldline.data.store import Store, open_store
    from worldline.episode import Episode, History
    from worldline.planning.base import Goal
    from worldline.schema import Kind, Role, Schema, Signal
    from worldline.studio.result_page import save_page
    from worldline.workflows.adopt import adopt
    from worldline.workflows.judge import judge
    from worldline.workflows.learn import learn
    from worldline.workflows.learn_options import Options
    from worldline.workflows.record import record
    from worldline.workflows.recorder import Recorder
    from worldline.workflows.trial import trial
    from worldline.world.base import World
    from worldline.world.session import Session

    __version__: str

__all__ = [
    "Episode",
    "Goal",
    "History",
    "Kind",
    "Options",
    "Recorder",
    "Role",
    "Schema",
    "Session",
    "Signal",
    "Store",
    "World",
    "WorldlineError",
    "adopt",
    "data",
    "errors",
    "judge",
    "learn",
    "open",
    "open_store",
    "record",
    "save_page",
    "trial",
]

_load = lazy_names(__name__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("worldline")
    return _load(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
