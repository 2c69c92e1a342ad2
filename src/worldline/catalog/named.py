"""A world that follows its alias, so that its version can be replaced while the application runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, final

from worldline.catalog.aliases import Stamp, WorldDirectory
from worldline.catalog.shadow import Shadow, VersionPair
from worldline.engines.base import Card
from worldline.planning.calls import Call
from worldline.world.base import World

_logger = logging.getLogger(__name__)
_STAYS = (
    "%s: version %d stays, because the version that the alias points to now cannot be opened (%s). "
    "See the reason with: worldline.open(%r)"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Serving:
    """The serving version, and the stamp of the alias file that it belongs to."""

    version: int
    world: World
    pair: VersionPair | None
    stamp: Stamp | None


@final
class NamedWorld(World):
    """The world that an alias points to at each call.

    Before each call it checks whether the alias has changed, and opens the new version if so. A running call ends on
    the version that it began with. Other threads continue with the old version until the new one is open. A version
    that ran in shadow is already open. If the new version cannot be opened, the old one stays, and a warning is
    logged.

    Verbs take the whole history. After a change, the new version therefore infers the present from the same
    history; no belief is carried over.

    A candidate in shadow gets the same calls in another thread. The answer neither waits for it nor depends on it.
    Costs and constraints of the caller are then also called from that thread. The thread ends with `close`.

    Args:
        directory: the folder of the world.
        alias: the alias to follow.
        open_bundle: opens the world in a bundle folder.
        queue_size: number of calls that can wait for the candidate. Further calls are not shadowed.
    """

    def __init__(
        self, directory: WorldDirectory, alias: str, *, open_bundle: Callable[[Path], World], queue_size: int = 16
    ) -> None:
        self._directory, self._alias, self._open_bundle = directory, alias, open_bundle
        self._lock = Lock()
        self._serving: _Serving | None = None
        self._shadow = Shadow(open_bundle, queue_size)

    @property
    def version(self) -> int:
        """The number of the serving version."""
        return self._current().version

    def serving(self) -> tuple[int, World]:
        """The number and the world of the serving version. Calls of this world are not shadowed."""
        current = self._current()
        return current.version, current.world

    def __repr__(self) -> str:
        serving = self._serving
        version = "not open" if serving is None else f"version {serving.version}"
        return f"NamedWorld({self._directory.name}@{self._alias}, {version})"

    def __enter__(self) -> NamedWorld:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def flush(self) -> None:
        """Waits until all shadow calls so far are recorded."""
        self._shadow.flush()

    def close(self) -> None:
        """Waits as `flush` does, and stops shadowing. The world still answers."""
        self._shadow.close()

    def describe(self) -> Card:
        """The card of the serving version."""
        return self._current().world.describe()

    def answer(self, call: Call) -> Any:
        """The answer of the serving version; the candidate in shadow gets a copy of the call."""
        serving = self._current()
        started = perf_counter()
        answer: Any = serving.world.answer(call)
        seconds = perf_counter() - started
        if serving.pair is not None:
            self._shadow.offer(serving.pair, serving.world, call, seconds)
        return answer

    def _current(self) -> _Serving:
        """The version that serves a call which begins now."""
        serving = self._serving
        if serving is not None and serving.stamp == self._directory.stamp():
            return serving
        if serving is None:
            self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            return serving  # another thread is opening the new version
        try:
            latest = self._serving  # another thread may have followed the alias already
            return self._follow(serving) if latest is None or latest is serving else latest
        finally:
            self._lock.release()

    def _follow(self, serving: _Serving | None) -> _Serving:
        """The version that the alias points to now; `serving` if it cannot be opened."""
        stamp = self._directory.stamp()  # before the file is read, so that the next call sees a change in between
        try:
            current = self._open(serving, stamp)
        except Exception as error:
            if serving is None:
                raise
            # No text and no trace: they name paths, and services log what this logs.
            name = f"{self._directory.name}@{self._alias}"
            _logger.warning(_STAYS, name, serving.version, type(error).__name__, name)
            current = replace(serving, stamp=stamp)  # retry when the file changes, not at every call
        self._serving = current
        return current

    def _open(self, serving: _Serving | None, stamp: Stamp | None) -> _Serving:
        alias = self._directory.alias(self._alias)
        version, bundle = alias.now.version, self._directory.path(alias.now.version)
        if serving is not None and serving.version == version:
            world = serving.world
        else:
            world = self._shadow.opened(bundle) or self._open_bundle(bundle)
        pair = None
        if alias.shadow is not None:
            pair = VersionPair(
                candidate=alias.shadow,
                bundle=self._directory.path(alias.shadow),
                records=self._directory.records(self._alias, version, alias.shadow),
            )
        self._shadow.want(None if pair is None else pair.bundle)
        return _Serving(version=version, world=world, pair=pair, stamp=stamp)
