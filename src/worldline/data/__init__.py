"""Data: stores, windows, checks, and importers of logs.

Importing this package loads nothing; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worldline.data.exporting import export_store
    from worldline.data.importing import import_logs
    from worldline.data.base import Reading
    from worldline.data.open_logs import open_logs as open

__all__ = ["Reading", "export_store", "import_logs", "open"]

_HOMES = {
    "Reading": "worldline.data.base:Reading",
    "export_store": "worldline.data.exporting:export_store",
    "import_logs": "worldline.data.importing:import_logs",
    "open": "worldline.data.open_logs:open_logs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'worldline.data' has no attribute {name!r}. Public names: {', '.join(__all__)}.")
    from importlib import import_module

    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
