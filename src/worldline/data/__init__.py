"""Stores, windows, checks, and importers of logs. Each name is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse, schema_beside
    from worldline.data.checks import Finding
    from worldline.data.conversion import steps_s, to_episode
    from worldline.data.exporting import export_store
    from worldline.data.formats.importer import importer
    from worldline.data.formats.raw_episode import RawEpisode
    from worldline.data.importing import import_logs
    from worldline.data.log_edits import LogEdits, MaskedRows
    from worldline.data.open_logs import open_logs as open
    from worldline.data.splits import Split, split_store
    from worldline.data.store import Store, open_store
    from worldline.data.store_notes import correct_schema

__all__ = [
    "Finding",
    "LogEdits",
    "LoggedEpisode",
    "Logs",
    "MaskedRows",
    "RawEpisode",
    "ReadOptions",
    "Split",
    "Store",
    "correct_schema",
    "export_store",
    "import_logs",
    "importer",
    "open",
    "open_store",
    "refuse",
    "schema_beside",
    "split_store",
    "steps_s",
    "to_episode",
]

__getattr__ = lazy_names(__name__)


def __dir__() -> list[str]:
    return __all__
