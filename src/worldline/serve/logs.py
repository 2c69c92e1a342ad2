"""The logs of a service, by name: what jobs learn from, and whose episodes callers read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, final

from worldline.data.data_card import CARD_FILE
from worldline.data.index import INDEX_FILE
from worldline.data.store import SCHEMA_FILE, Store, is_store, open_store
from worldline.errors import ConfigError, DataError, UnknownNameError, UnsupportedError
from worldline.serve.hosting import NAME
from worldline.serve.problems import NotFoundError

MAX_OPEN: Final = 16
"""Stores that stay open. An open store keeps a descriptor per file that was read."""


@final
class ServedLogs:
    """The logs that callers can name. Threads may share it.

    Args:
        folder: its entries are logs in any format; None for no folder.
        named: further logs by name.
    """

    def __init__(self, folder: Path | None = None, named: Mapping[str, Path] | None = None) -> None:
        self._folder, self._named = folder, dict(named or {})
        self._opened = lru_cache(MAX_OPEN)(_opened)

    def names(self) -> list[str]:
        """The names, sorted. Entries of the folder whose names are not allowed in URLs are left out."""
        return sorted(self._paths())

    def path(self, name: str) -> Path:
        """The path of the logs with this name.

        Raises:
            UnknownNameError: there are none.
        """
        paths = self._paths()
        if name not in paths:
            raise UnknownNameError("logs", name, paths)
        return paths[name]

    def store(self, name: str) -> Store:
        """The store with this name, with every complete episode. Opens it if it was changed, so call it in a thread.

        Raises:
            NotFoundError: there are no such logs.
            UnsupportedError: they are no store, or cannot be read.
        """
        try:
            path = self.path(name)
        except UnknownNameError as error:
            raise NotFoundError("log", name, error.known) from None
        if not is_store(path):
            raise UnsupportedError(f"the log {name!r} is no store. Import it: worldline import {name} STORE")
        try:
            states = [(path / file).stat() for file in (SCHEMA_FILE, CARD_FILE, INDEX_FILE)]
            return self._opened(path, tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states))
        except (DataError, ConfigError) as error:  # whose texts name paths
            raise UnsupportedError(f"the log {name!r} cannot be read. Run: worldline check {name}") from error

    def _paths(self) -> dict[str, Path]:
        """The paths by name. Names are compared with those in the folder, so none leads out of it."""
        folder = self._folder
        entries = () if folder is None or not folder.is_dir() else folder.resolve().iterdir()
        return {path.name: path for path in entries if NAME.fullmatch(path.name)} | self._named


def _opened(path: Path, _: object) -> Store:
    return open_store(path)
