"""Asks a candidate what the world that answers was asked, off the caller's path, and writes down how both did."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import perf_counter
from typing import TypeVar, final
from weakref import WeakSet

import numpy as np

from worldline.catalog.comparison import ShadowRecord
from worldline.catalog.outcomes import LEVEL, ask_again, compare_forecasts
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Goal
from worldline.world.base import Prediction, World

MAX_FILE_BYTES = 2**22
"""Of the records of one pair of versions, some ten thousand calls; after that the candidate is not asked any more."""

_logger = logging.getLogger(__name__)
_EXIT_S = 10.0
"""The most that the end of a process waits for a candidate."""

_MAX_WORDS = 300
_REMEMBERED = 64
"""Histories of which it is known that they were scored; more than there are threads that ask."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VersionPair:
    """Who is compared.

    Args:
        serving: the version that answers.
        candidate: the one in its shadow.
        bundle: of the candidate.
        records: the file to write to.
    """

    serving: int
    candidate: int
    bundle: Path
    records: Path


@dataclass(frozen=True, kw_only=True)
class ShadowCall:
    """What was asked and answered.

    Args:
        pair: who is compared.
        verb: of `World`.
        world: that answered.
        seconds: that it took.
        again: asks the same of another world; holds copies of the arguments, since the caller may change its own.
        history: what had happened before.
    """

    pair: VersionPair
    verb: str
    world: World
    seconds: float
    again: Callable[[World], object]
    history: History


@final
class Shadow:
    """One thread that asks candidates, and a queue of calls in front of it.

    The thread begins with the first call. It ends with `close`, or when nobody holds this object any more. At the end
    of the process, what waits is left out.

    Args:
        open_bundle: gives the world in a bundle.
        size: calls that may wait; further ones are left out, and counted.
    """

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self._state = _State(open_bundle=open_bundle, size=size)
        self._closed = False
        # The queue takes from anywhere, also from a finalizer; the thread must not hold what the finalizer waits for.
        self._finalizer = weakref.finalize(self, self._state.queue.put, None)
        self._finalizer.atexit = False

    def reserve(self, pair: VersionPair) -> bool:
        """Whether the candidate is wanted and has room for one more call, which is then kept for `put`."""
        return not self._closed and self._state.reserve(pair)

    def put(self, call: ShadowCall) -> None:
        """Has the candidate asked the same. To be called once after each `reserve` that said yes."""
        with self._state.lock:
            if self._closed:
                return
            self._state.queue.put(call)
            # A process that was forked has the object but not its thread.
            if self._state.thread is None or not self._state.thread.is_alive():
                self._state.start()

    def opened(self, bundle: Path) -> World | None:
        """The candidate in this bundle, where it is open already."""
        known = self._state.candidate
        return known.world if known is not None and known.bundle == bundle else None

    def want(self, bundle: Path | None) -> None:
        """Says which candidate is asked from now on, None for none; lets go of any other, and of what waits for it."""
        with self._state.lock:
            self._state.wanted = bundle
            if self._state.candidate is not None and self._state.candidate.bundle != bundle:
                self._state.candidate = None

    def flush(self) -> None:
        """Waits until every call that was put so far is written down."""
        reached = Event()
        with self._state.lock:
            if self._closed or self._state.thread is None or not self._state.thread.is_alive():
                return
            self._state.queue.put(reached)
        reached.wait()

    def close(self) -> None:
        """Waits likewise, and takes no more calls."""
        with self._state.lock:
            self._closed = True
        self._finalizer()
        if self._state.thread is not None:
            self._state.thread.join()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A candidate, or why there is none."""

    bundle: Path
    world: World | None
    error: str


class _State:
    """What the thread and the others share; the thread holds nothing else, so that it does not keep them alive."""

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self.open_bundle, self.size = open_bundle, size
        self.queue: SimpleQueue[ShadowCall | Event | None] = SimpleQueue()
        self.lock = Lock()
        self.thread: Thread | None = None
        self.exiting = False
        self.wanted: Path | None = None
        self.candidate: _Candidate | None = None
        self.full: Path | None = None
        self.scored: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._waiting, self._dropped = 0, 0

    def start(self) -> None:
        self.thread = Thread(target=_work, args=(self,), name="worldline-shadow", daemon=True)
        self.thread.start()
        _running.add(self)

    def reserve(self, pair: VersionPair) -> bool:
        if self.full == pair.records and _is_full(pair.records):
            return False
        with self.lock:
            if self.wanted != pair.bundle:  # the call began before the shadow ended
                return False
            if self._waiting >= self.size:
                self._dropped += 1
                return False
            self._waiting += 1
            return True

    def done(self) -> None:
        with self.lock:
            self._waiting -= 1

    def take_dropped(self) -> int:
        with self.lock:
            dropped, self._dropped = self._dropped, 0
            return dropped


def _work(state: _State) -> None:
    """The thread."""
    while _next(state):
        pass


def _next(state: _State) -> bool:
    """Whether there is more to come after what came next. Nothing of a call is held while waiting for the one after."""
    found = state.queue.get()
    if found is None:
        return False
    if isinstance(found, Event):
        found.set()
        return True
    if found.pair.bundle == state.wanted and not state.exiting:
        failure = _attempt(partial(_ask, state, found))  # nothing may end the thread while calls wait
        if isinstance(failure, BaseException):
            _logger.warning("a shadowed call could not be written down: %s", _words(failure))
    state.done()
    return True


_running: WeakSet[_State] = WeakSet()


@atexit.register
def _end_all() -> None:
    """Lets the call in progress end: cut off in the middle of compiled code, a thread may take the process along."""
    for state in list(_running):
        state.exiting = True
        state.queue.put(None)
    for state in list(_running):
        if state.thread is not None:
            state.thread.join(_EXIT_S)


def _attempt(call: Callable[[], T]) -> T | BaseException:
    """What the call returns, or what it raised: any error, since whoever asks must never notice."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        _logger.debug("in shadow", exc_info=True)
        return error


def _ask(state: _State, call: ShadowCall) -> None:
    """Asks the candidate, and writes down how it did."""
    path = call.pair.records
    if _is_full(path):
        state.full = path
        return
    record = ShadowRecord(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        verb=call.verb,
        serving_s=call.seconds,
        candidate_s=None,
        dropped=state.take_dropped(),
    )
    candidate = _open(state, call.pair)
    if candidate.world is None:
        record = replace(record, error=candidate.error)
    else:
        record = _with_answer(record, call, candidate.world)
        record = record if record.error else _with_outcomes(state, record, call, candidate.world)
    _append(path, record)


def _is_full(path: Path) -> bool:
    """Whether no more is written there; a file that is removed begins anew."""
    try:
        return path.stat().st_size >= MAX_FILE_BYTES
    except OSError:
        return False


def _open(state: _State, pair: VersionPair) -> _Candidate:
    """The candidate; opened once, whether it can be or not."""
    known = state.candidate
    if known is not None and known.bundle == pair.bundle:
        return known
    opened = _attempt(lambda: state.open_bundle(pair.bundle))
    if isinstance(opened, BaseException):
        _logger.warning("version %d cannot be opened to run in shadow: %s", pair.candidate, _words(opened))
        found = _Candidate(bundle=pair.bundle, world=None, error=_words(opened))
    else:
        found = _Candidate(bundle=pair.bundle, world=opened, error="")
    with state.lock:
        state.candidate = found if state.wanted == pair.bundle else None  # it may have been let go meanwhile
    return found


def _with_answer(record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
    """The record with the time that the candidate takes for the same call, or how it fails."""
    started = perf_counter()
    answer = _attempt(partial(call.again, candidate))
    seconds = perf_counter() - started
    return (
        replace(record, error=_words(answer))
        if isinstance(answer, BaseException)
        else replace(record, candidate_s=seconds)
    )


def _with_outcomes(state: _State, record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
    """The record with how both foretell the end of the history, or why that cannot be told."""
    asked = _attempt(lambda: ask_again(call.history, call.world.describe(), candidate.describe()))
    if isinstance(asked, BaseException):
        return replace(record, unscored=_words(asked))
    # Many calls may be about one moment, such as a plan and what it would lead to: it counts once.
    key = _key(call)
    if key in state.scored:
        return replace(record, unscored="this history was scored already")
    state.scored.append(key)

    def foretold(world: World) -> Prediction:
        return world.predict(asked.before, asked.actions, exogenous=asked.exogenous, level=LEVEL)

    own = _attempt(partial(foretold, call.world))
    if isinstance(own, BaseException):
        return replace(record, unscored=_words(own))
    outcomes = _attempt(lambda: compare_forecasts(asked, own, foretold(candidate)))
    if isinstance(outcomes, BaseException):
        return replace(record, candidate_s=None, error=_words(outcomes))
    return replace(record, outcomes=outcomes, unscored="" if outcomes else "nothing was observed at its end")


def _key(call: ShadowCall) -> bytes:
    """The same for the same history and pair of versions."""
    digest = hashlib.blake2b(str(call.pair.records).encode())
    for group in (call.history.observations, call.history.actions, call.history.exogenous, call.history.observed):
        for name, value in sorted(group.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()


def _append(path: Path, record: ShadowRecord) -> None:
    """Adds a line, in one piece, so that processes that write to the same file do not mix theirs."""
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(record)).encode() + b"\n")
    finally:
        os.close(descriptor)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_WORDS]


# Copies


def copy_arrays(arrays: Arrays) -> Arrays:
    """The same values, in arrays of their own."""
    return {name: np.array(value) for name, value in arrays.items()}


def copy_some(arrays: Arrays | None) -> Arrays | None:
    """Likewise, or None."""
    return None if arrays is None else copy_arrays(arrays)


def copy_history(history: History) -> History:
    """The same history, in arrays of its own."""
    return History(
        observations=copy_arrays(history.observations),
        actions=copy_arrays(history.actions),
        exogenous=copy_arrays(history.exogenous),
        observed=copy_arrays(history.observed),
    )


def copy_episode(episode: Episode) -> Episode:
    """The same episode, in arrays of its own."""
    return replace(
        episode,
        observations=copy_arrays(episode.observations),
        actions=copy_arrays(episode.actions),
        exogenous=copy_arrays(episode.exogenous),
        rewards=copy_arrays(episode.rewards),
        observed=copy_arrays(episode.observed),
        step_s=None if episode.step_s is None else episode.step_s.copy(),
    )


def copy_goal(goal: Goal) -> Goal:
    """The same goal, its targets in arrays of their own. Its costs are the caller's: they are called, not copied."""
    return replace(goal, targets=copy_arrays(goal.targets), tolerance=dict(goal.tolerance), costs=tuple(goal.costs))
