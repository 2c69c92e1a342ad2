"""Shadow calls: a candidate gets the calls of the serving version in a background thread, and both are recorded."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Any, TypeVar, final
from weakref import WeakSet

import numpy as np

from worldline.catalog.comparison import LEVEL, ShadowRecord, backtest_of, compare_forecasts
from worldline.episode import History
from worldline.world.base import Prediction, World

MAX_FILE_BYTES = 2**22
"""Largest file of records of one pair of versions, about ten thousand calls. When it is full, shadowing stops."""

_logger = logging.getLogger(__name__)
_EXIT_S = 10.0
"""Longest wait for a candidate at the end of the process."""

_MAX_ERROR_CHARS = 300
_MAX_SCORED_KEYS = 64
"""Number of remembered histories that were already scored; more than the number of calling threads."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VersionPair:
    """The two versions that are compared.

    Args:
        serving: number of the serving version.
        candidate: number of the version in shadow.
        bundle: bundle folder of the candidate.
        records: file of the records.
    """

    serving: int
    candidate: int
    bundle: Path
    records: Path


@dataclass(frozen=True, kw_only=True)
class ShadowCall:
    """An answered call, for the candidate.

    Args:
        pair: the two versions.
        verb: verb of `World`.
        world: the world that answered.
        seconds: duration of the answer.
        again: repeats the call on another world, with copies of the arguments, because the caller may change them.
        history: history of the call.
    """

    pair: VersionPair
    verb: str
    world: World
    seconds: float
    again: Callable[[World], object]
    history: History


@final
class Shadow:
    """One background thread that calls candidates, with a queue of calls.

    The thread starts with the first call. It ends with `close`, or when this object is garbage-collected. At the end
    of the process, waiting calls are dropped.

    Args:
        open_bundle: opens the world in a bundle folder.
        size: number of calls that can wait. Further calls are dropped and counted.
    """

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self._state = _State(open_bundle=open_bundle, size=size)
        self._closed = False
        # SimpleQueue.put is safe in a finalizer. The thread must not hold `self`, or the finalizer never runs.
        self._finalizer = weakref.finalize(self, self._state.queue.put, None)
        self._finalizer.atexit = False

    def reserve(self, pair: VersionPair) -> bool:
        """Whether the candidate is wanted and the queue has space; one place is then reserved for `put`."""
        return not self._closed and self._state.reserve(pair)

    def put(self, call: ShadowCall) -> None:
        """Queues a call for the candidate. Call it once after each successful `reserve`."""
        with self._state.lock:
            if self._closed:
                return
            self._state.queue.put(call)
            # A forked process has the object but not its thread.
            if self._state.thread is None or not self._state.thread.is_alive():
                self._state.start()

    def opened(self, bundle: Path) -> World | None:
        """The candidate in this bundle, if it is open."""
        known = self._state.candidate
        return known.world if known is not None and known.bundle == bundle else None

    def want(self, bundle: Path | None) -> None:
        """Sets the candidate, None for none. Any other candidate and its waiting calls are dropped."""
        with self._state.lock:
            self._state.wanted = bundle
            if self._state.candidate is not None and self._state.candidate.bundle != bundle:
                self._state.candidate = None

    def flush(self) -> None:
        """Waits until all calls put so far are recorded."""
        reached = Event()
        with self._state.lock:
            if self._closed or self._state.thread is None or not self._state.thread.is_alive():
                return
            self._state.queue.put(reached)
        reached.wait()

    def close(self) -> None:
        """Waits as `flush` does, and accepts no more calls."""
        with self._state.lock:
            self._closed = True
        self._finalizer()
        if self._state.thread is not None:
            self._state.thread.join()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A candidate, or the error that prevents it."""

    bundle: Path
    world: World | None
    error: str


class _State:
    """The state that the thread shares with the callers. The thread holds nothing else, so it keeps nothing alive."""

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self.open_bundle, self.size = open_bundle, size
        self.queue: SimpleQueue[ShadowCall | Event | None] = SimpleQueue()
        self.lock = Lock()
        self.thread: Thread | None = None
        self.exiting = False
        self.wanted: Path | None = None
        self.candidate: _Candidate | None = None
        self.full: Path | None = None
        self.scored: deque[bytes] = deque(maxlen=_MAX_SCORED_KEYS)
        self._waiting, self._dropped = 0, 0

    def start(self) -> None:
        self.thread = Thread(target=_work, args=(self,), name="worldline-shadow", daemon=True)
        self.thread.start()
        _running.add(self)

    def reserve(self, pair: VersionPair) -> bool:
        if self.full == pair.records and _is_full(pair.records):
            return False
        with self.lock:
            if self.wanted != pair.bundle:  # the call began before the candidate changed
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
    """The loop of the thread."""
    while _next(state):
        pass


def _next(state: _State) -> bool:
    """Handles the next item; False to stop. No call is referenced while waiting for the next one."""
    found = state.queue.get()
    if found is None:
        return False
    if isinstance(found, Event):
        found.set()
        return True
    if found.pair.bundle == state.wanted and not state.exiting:
        failure = _attempt(partial(_record, state, found))  # no error may end the thread
        if isinstance(failure, BaseException):
            _logger.warning("a shadow call could not be recorded (%s)", type(failure).__name__)
    state.done()
    return True


_running: WeakSet[_State] = WeakSet()


@atexit.register
def _end_all() -> None:
    """Lets the running call end. A thread that is killed inside compiled code may crash the process."""
    for state in list(_running):
        state.exiting = True
        state.queue.put(None)
    for state in list(_running):
        if state.thread is not None:
            state.thread.join(_EXIT_S)


def _attempt(call: Callable[[], T]) -> T | BaseException:
    """The result of the call, or any error that it raised, because the caller must never notice it."""
    try:
        return call()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # it is returned, and the caller records it
        return error


def _record(state: _State, call: ShadowCall) -> None:
    """Calls the candidate and records the result."""
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
    """Whether the file is full. A deleted file starts anew."""
    try:
        return path.stat().st_size >= MAX_FILE_BYTES
    except OSError:
        return False


def _open(state: _State, pair: VersionPair) -> _Candidate:
    """The candidate; opened once, whether that succeeds or not."""
    known = state.candidate
    if known is not None and known.bundle == pair.bundle:
        return known
    opened = _attempt(lambda: state.open_bundle(pair.bundle))
    if isinstance(opened, BaseException):
        kind = type(opened).__name__  # the records hold the text, which may name paths
        _logger.warning("version %d cannot be opened to run in shadow (%s)", pair.candidate, kind)
        found = _Candidate(bundle=pair.bundle, world=None, error=_error_text(opened))
    else:
        found = _Candidate(bundle=pair.bundle, world=opened, error="")
    with state.lock:
        state.candidate = found if state.wanted == pair.bundle else None  # it may have been replaced meanwhile
    return found


def _with_answer(record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
    """The record with the duration or the error of the candidate on the same call."""
    started = perf_counter()
    answer = _attempt(partial(call.again, candidate))
    if isinstance(answer, BaseException):
        return replace(record, error=_error_text(answer))
    return replace(record, candidate_s=perf_counter() - started)


def _with_outcomes(state: _State, record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
    """The record with the backtest of both versions, or the reason why there is none."""
    task = _attempt(lambda: backtest_of(call.history, call.world.describe(), candidate.describe()))
    if isinstance(task, BaseException):
        return replace(record, unscored=_error_text(task))
    # Several calls may share one history, such as a plan and a prediction. It counts once.
    key = _key(call)
    if key in state.scored:
        return replace(record, unscored="this history was scored already")
    state.scored.append(key)

    def forecast(world: World) -> Prediction:
        return world.predict(task.before, task.actions, exogenous=task.exogenous, level=LEVEL)

    own = _attempt(partial(forecast, call.world))
    if isinstance(own, BaseException):
        return replace(record, unscored=_error_text(own))
    outcomes = _attempt(lambda: compare_forecasts(task, own, forecast(candidate)))
    if isinstance(outcomes, BaseException):
        return replace(record, candidate_s=None, error=_error_text(outcomes))
    return replace(record, outcomes=outcomes, unscored="" if outcomes else "its last steps were not observed")


def _key(call: ShadowCall) -> bytes:
    """Equal for equal histories and pairs of versions."""
    digest = hashlib.blake2b(str(call.pair.records).encode())
    for group in (call.history.observations, call.history.actions, call.history.exogenous, call.history.observed):
        for name, value in sorted(group.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()


def _append(path: Path, record: ShadowRecord) -> None:
    """Appends a line in one write, so that lines of several processes do not mix."""
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(asdict(record)).encode() + b"\n")
    finally:
        os.close(descriptor)


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def copied(value: Any) -> Any:
    """A copy of the arguments of a call with copied arrays. Costs and constraints are the caller's and not copied."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(copied(inner) for inner in value)
    if is_dataclass(value) and not isinstance(value, type) and not callable(value):
        return replace(value, **{item.name: copied(getattr(value, item.name)) for item in fields(value)})
    return value
