"""A world that follows its alias, so that its version can be replaced while the application runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import final

from worldline.catalog.aliases import Stamp, WorldDirectory
from worldline.catalog.shadow import (
    Shadow,
    ShadowCall,
    VersionPair,
    copy_arrays,
    copy_episode,
    copy_goal,
    copy_history,
    copy_request,
    copy_some,
)
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Constraint, Goal, PlanRequest
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf, World

_logger = logging.getLogger(__name__)


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
    Costs and constraints of the caller are then also called from that thread.

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

    def predict(
        self, history: History, actions: Arrays, *, exogenous: Arrays | None = None, level: float = 0.9
    ) -> Prediction:
        """See `World`."""
        call = self._begin("predict")
        answer = call.world.predict(history, actions, exogenous=exogenous, level=level)
        if call.shadowed():
            past, steps, given = copy_history(history), copy_arrays(actions), copy_some(exogenous)
            call.again(past, lambda world: world.predict(past, steps, exogenous=given, level=level))
        return answer

    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
    ) -> Scores:
        """See `World`."""
        call = self._begin("score")
        answer = call.world.score(history, actions, goal, constraints, exogenous=exogenous)
        if call.shadowed():
            past, plans, given = copy_history(history), copy_arrays(actions), copy_some(exogenous)
            aim, rules = copy_goal(goal), tuple(constraints)
            call.again(past, lambda world: world.score(past, plans, aim, rules, exogenous=given))
        return answer

    def answer_plan(self, history: History, request: PlanRequest) -> Plan:
        """See `World`."""
        call = self._begin("plan")
        answer = call.world.answer_plan(history, request)
        if call.shadowed():
            past, same = copy_history(history), copy_request(request)
            call.again(past, lambda world: world.answer_plan(past, same))
        return answer

    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """See `World`."""
        call = self._begin("what_if")
        answer = call.world.what_if(episode, at, actions)
        if call.shadowed():
            past, steps = copy_episode(episode), copy_arrays(actions)
            call.again(past.history(past.num_steps, past.num_steps + 1), lambda world: world.what_if(past, at, steps))
        return answer

    def surprise(self, episode: Episode) -> Surprise:
        """See `World`."""
        call = self._begin("surprise")
        answer = call.world.surprise(episode)
        if call.shadowed():
            past = copy_episode(episode)
            call.again(past.history(past.num_steps, past.num_steps + 1), lambda world: world.surprise(past))
        return answer

    def _begin(self, verb: str) -> _RunningCall:
        return _RunningCall(self._current(), self._shadow, verb)

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
            found = self._open(serving, stamp)
        except Exception as error:
            if serving is None:
                raise
            _logger.warning(
                "%s@%s: version %d stays, because the version that the alias points to now cannot be opened: %s",
                self._directory.name,
                self._alias,
                serving.version,
                error,
                exc_info=True,
            )
            found = replace(serving, stamp=stamp)  # retry when the file changes, not at every call
        self._serving = found
        return found

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
                serving=version,
                candidate=alias.shadow,
                bundle=self._directory.path(alias.shadow),
                records=self._directory.records(self._alias, version, alias.shadow),
            )
        self._shadow.want(None if pair is None else pair.bundle)
        return _Serving(version=version, world=world, pair=pair, stamp=stamp)


class _RunningCall:
    """One call on the version that serves it."""

    def __init__(self, serving: _Serving, shadow: Shadow, verb: str) -> None:
        self.world, self._pair, self._shadow, self._verb = serving.world, serving.pair, shadow, verb
        self._started, self._seconds = perf_counter(), 0.0

    def shadowed(self) -> bool:
        """Whether the candidate gets the same call. Stops the clock, so call it directly after the answer."""
        self._seconds = perf_counter() - self._started
        return self._pair is not None and self._shadow.reserve(self._pair)

    def again(self, history: History, ask: Callable[[World], object]) -> None:
        """Queues the call for the candidate; both arguments hold copies."""
        assert self._pair is not None  # checked by `shadowed`
        self._shadow.put(
            ShadowCall(
                pair=self._pair,
                verb=self._verb,
                world=self.world,
                seconds=self._seconds,
                again=ask,
                history=history,
            )
        )
