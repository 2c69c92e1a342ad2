"""A world that follows its alias: what answers may be replaced while the application runs."""

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
    copy_some,
)
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Constraint, Goal
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf, World

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Serving:
    """What answers just now, and of which state of the alias file that was true."""

    version: int
    world: World
    pair: VersionPair | None
    stamp: Stamp | None


@final
class NamedWorld(World):
    """The world that an alias stands for, at each call.

    Before a call it looks whether the alias points elsewhere by now, and if so opens that version. A call that has
    begun ends on the version that it began with, and other threads go on with the old one until the new one is open; a
    version that ran in shadow is open already. One that cannot be opened is not taken: the old one goes on, with a
    warning in the log.

    The verbs of a world take the whole history. So whatever the version before believed of the present is inferred
    anew, from the same history, by the one that takes its place.

    Where a candidate runs in shadow, it is asked the same in a thread of its own. The answer neither waits for it nor
    depends on it. Costs and rules of the caller are then also called from that thread, for the candidate.

    Args:
        shelf: the folder of its name.
        alias: to follow.
        open_bundle: gives the world in a bundle.
        queue_size: calls that may wait for the candidate; further ones are not shadowed.
    """

    def __init__(
        self, shelf: WorldDirectory, alias: str, *, open_bundle: Callable[[Path], World], queue_size: int = 16
    ) -> None:
        self._shelf, self._alias, self._open_bundle = shelf, alias, open_bundle
        self._lock = Lock()
        self._serving: _Serving | None = None
        self._shadow = Shadow(open_bundle, queue_size)

    @property
    def version(self) -> int:
        """The number of the version that answers now."""
        return self._current().version

    def __enter__(self) -> NamedWorld:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def flush(self) -> None:
        """Waits until the candidate was asked all that it is to be asked so far, and it is written down."""
        self._shadow.flush()

    def close(self) -> None:
        """Waits likewise, and shadows nothing from then on. The world still answers."""
        self._shadow.close()

    def describe(self) -> Card:
        """The card of the version that answers now."""
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

    def plan(
        self,
        history: History,
        goal: Goal,
        *,
        constraints: Sequence[Constraint] = (),
        horizon: int,
        exogenous: Arrays | None = None,
        proposals: Arrays | None = None,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        min_trust: float = 0.0,
        seed: int = 0,
    ) -> Plan:
        """See `World`."""

        def ask(
            world: World, past: History, aim: Goal, rules: Sequence[Constraint], given: Sequence[Arrays | None]
        ) -> Plan:
            return world.plan(
                past,
                aim,
                constraints=rules,
                horizon=horizon,
                exogenous=given[0],
                proposals=given[1],
                pending=given[2],
                budget_s=budget_s,
                min_trust=min_trust,
                seed=seed,
            )

        call = self._begin("plan")
        answer = ask(call.world, history, goal, constraints, (exogenous, proposals, pending))
        if call.shadowed():
            past, aim, rules = copy_history(history), copy_goal(goal), tuple(constraints)
            given = tuple(copy_some(arrays) for arrays in (exogenous, proposals, pending))
            call.again(past, lambda world: ask(world, past, aim, rules, given))
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

    def _begin(self, verb: str) -> _Begun:
        return _Begun(self._current(), self._shadow, verb)

    def _current(self) -> _Serving:
        """What is to answer a call that begins now."""
        serving = self._serving
        if serving is not None and serving.stamp == self._shelf.stamp():
            return serving
        if serving is None:
            self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            return serving  # another thread is opening the new one
        try:
            latest = self._serving  # another thread may have followed since
            return self._follow(serving) if latest is None or latest is serving else latest
        finally:
            self._lock.release()

    def _follow(self, serving: _Serving | None) -> _Serving:
        """What the alias stands for now; `serving` where that cannot be had."""
        stamp = self._shelf.stamp()  # before the file is read, so that a change in between shows at the next call
        try:
            found = self._open(serving, stamp)
        except Exception as error:
            if serving is None:
                raise
            _logger.warning(
                "%s@%s: version %d goes on, because what the alias points to now cannot be opened: %s",
                self._shelf.name,
                self._alias,
                serving.version,
                error,
                exc_info=True,
            )
            found = replace(serving, stamp=stamp)  # tried again when the file changes, not at every call
        self._serving = found
        return found

    def _open(self, serving: _Serving | None, stamp: Stamp | None) -> _Serving:
        alias = self._shelf.alias(self._alias)
        version, bundle = alias.now.version, self._shelf.path(alias.now.version)
        if serving is not None and serving.version == version:
            world = serving.world
        else:
            world = self._shadow.opened(bundle) or self._open_bundle(bundle)
        pair = None
        if alias.shadow is not None:
            pair = VersionPair(
                serving=version,
                candidate=alias.shadow,
                bundle=self._shelf.path(alias.shadow),
                records=self._shelf.records(self._alias, version, alias.shadow),
            )
        self._shadow.want(None if pair is None else pair.bundle)
        return _Serving(version=version, world=world, pair=pair, stamp=stamp)


class _Begun:
    """A call from its beginning on."""

    def __init__(self, serving: _Serving, shadow: Shadow, verb: str) -> None:
        self.world, self._pair, self._shadow, self._verb = serving.world, serving.pair, shadow, verb
        self._started, self._seconds = perf_counter(), 0.0

    def shadowed(self) -> bool:
        """Whether the candidate is to be asked the same. Stops the clock: to be called when the answer is there."""
        self._seconds = perf_counter() - self._started
        return self._pair is not None and self._shadow.reserve(self._pair)

    def again(self, history: History, ask: Callable[[World], object]) -> None:
        """Has the candidate asked; both arguments hold copies."""
        assert self._pair is not None  # `shadowed` said so
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
