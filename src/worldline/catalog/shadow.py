"""Shadow calls: a candidate gets the calls of the serving version in a background thread, and both are recorded."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, final

import numpy as np

from worldline.catalog.comparison import LEVEL, Backtest, ShadowRecord, backtest_of, compare_forecasts
from worldline.episode import History
from worldline.world.base import Prediction, World

MAX_FILE_BYTES = 2**22
"""Largest file of records of one pair of versions, about ten thousand calls. When it is full, shadowing stops."""

_logger = logging.getLogger(__name__)
_ERRORS = (Exception, SystemExit)
"""What a candidate may raise without an effect on the caller."""

_EXIT_S = 10.0
"""Longest wait for a candidate at the end of the process."""

_MAX_ERROR_CHARS = 300
_MAX_SCORED_KEYS = 64
"""Number of remembered histories that were already scored; more than the number of calling threads."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """A candidate, or the error that prevents it."""

    bundle: Path
    world: World | None
    error: str


@final
class Shadow:
    """A daemon thread that calls candidates, with a bounded queue of calls.

    The thread starts with the first call and ends with `close`. At the end of the process, waiting calls are dropped. A
    process that is forked afterwards does not shadow calls.

    Args:
        open_bundle: opens the world in a bundle folder.
        size: number of calls that can wait. Further calls are dropped and counted.
    """

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self._open_bundle = open_bundle
        self._calls = Queue[ShadowCall | None](size)
        self._lock = Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._wanted: Path | None = None
        self._candidate: _Candidate | None = None
        self._scored = deque[bytes](maxlen=_MAX_SCORED_KEYS)
        self._dropped = 0

    def accepts(self, pair: VersionPair) -> bool:
        """Whether the candidate is wanted and there is room in the queue and in the file of records."""
        # A call may begin before its candidate changes.
        if self._wanted != pair.bundle or _is_full(pair.records):
            return False
        if not self._calls.full():
            return not self._closed
        with self._lock:
            self._dropped += 1
        return False

    def put(self, call: ShadowCall) -> None:
        """Queues a call for the candidate, or drops it. Call `accepts` first, which saves copies of the arguments."""
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = Thread(target=self._work, name="worldline-shadow", daemon=True)
                self._thread.start()
                atexit.register(self._end)
            try:
                self._calls.put_nowait(call)
            except Full:  # another thread was faster
                self._dropped += 1

    def opened(self, bundle: Path) -> World | None:
        """The candidate in this bundle, if it is open."""
        known = self._candidate
        return known.world if known is not None and known.bundle == bundle else None

    def want(self, bundle: Path | None) -> None:
        """Sets the candidate, None for none. Any other candidate and its waiting calls are dropped."""
        with self._lock:
            self._wanted = bundle
            if self._candidate is not None and self._candidate.bundle != bundle:
                self._candidate = None

    def flush(self) -> None:
        """Waits until all calls put so far are recorded."""
        self._calls.join()

    def close(self) -> None:
        """Waits as `flush` does, and accepts no more calls."""
        with self._lock:
            self._closed = True
        if self._thread is not None and self._thread.is_alive():
            self._calls.put(None)
            self._thread.join()
            atexit.unregister(self._end)

    def _end(self) -> None:
        """Lets the running call end, because PyTorch aborts the process if Python ends during a computation."""
        self.want(None)
        with self._calls.all_tasks_done:
            self._calls.all_tasks_done.wait_for(lambda: not self._calls.unfinished_tasks, _EXIT_S)

    def _take_dropped(self) -> int:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def _work(self) -> None:
        """The loop of the thread. No call is referenced while it waits for the next one."""
        while self._handle(self._calls.get()):
            pass

    def _handle(self, call: ShadowCall | None) -> bool:
        """Handles the next item of the queue. Returns False to stop."""
        try:
            if call is not None and call.pair.bundle == self._wanted and not _is_full(call.pair.records):
                self._record(call)
        except _ERRORS as error:  # no error may end the thread
            _logger.warning("a shadow call could not be recorded (%s)", type(error).__name__)
        finally:
            self._calls.task_done()
        return call is not None

    def _record(self, call: ShadowCall) -> None:
        """Calls the candidate and records the result."""
        record = ShadowRecord(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            verb=call.verb,
            serving_s=call.seconds,
            candidate_s=None,
            dropped=self._take_dropped(),
        )
        candidate = self._open(call.pair)
        if candidate.world is None:
            record = replace(record, error=candidate.error)
        else:
            record = _with_answer(record, call, candidate.world)
            record = record if record.error else self._with_outcomes(record, call, candidate.world)
        _append(call.pair.records, record)

    def _open(self, pair: VersionPair) -> _Candidate:
        """The candidate; opened once, whether that succeeds or not."""
        known = self._candidate
        if known is not None and known.bundle == pair.bundle:
            return known
        try:
            candidate = _Candidate(bundle=pair.bundle, world=self._open_bundle(pair.bundle), error="")
        except _ERRORS as error:
            kind = type(error).__name__  # the records hold the text, which may name paths
            _logger.warning("version %d cannot be opened to run in shadow (%s)", pair.candidate, kind)
            candidate = _Candidate(bundle=pair.bundle, world=None, error=_error_text(error))
        with self._lock:
            self._candidate = candidate if self._wanted == pair.bundle else None  # it may have been replaced meanwhile
        return candidate

    def _with_outcomes(self, record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
        """The record with the backtest of both versions, or the reason why there is none."""
        try:
            task = backtest_of(call.history, call.world.describe(), candidate.describe())
            # Several calls may share one history, such as a plan and a prediction. It counts once.
            key = _key(call)
            if key in self._scored:
                return replace(record, unscored="this history was scored already")
            self._scored.append(key)
            serving_forecast = _forecast(call.world, task)
        except _ERRORS as error:
            return replace(record, unscored=_error_text(error))
        try:
            outcomes = compare_forecasts(task, serving_forecast, _forecast(candidate, task))
        except _ERRORS as error:
            return replace(record, candidate_s=None, error=_error_text(error))
        return replace(record, outcomes=outcomes, unscored="" if outcomes else "its last steps were not observed")


def _with_answer(record: ShadowRecord, call: ShadowCall, candidate: World) -> ShadowRecord:
    """The record with the duration or the error of the candidate on the same call."""
    started = perf_counter()
    try:
        call.again(candidate)
    except _ERRORS as error:
        return replace(record, error=_error_text(error))
    return replace(record, candidate_s=perf_counter() - started)


def _forecast(world: World, task: Backtest) -> Prediction:
    return world.predict(task.before, task.actions, exogenous=task.exogenous, level=LEVEL)


def _is_full(path: Path) -> bool:
    """Whether the file is full. A deleted file starts anew."""
    try:
        return path.stat().st_size >= MAX_FILE_BYTES
    except OSError:
        return False


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
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(asdict(record)).encode() + b"\n")


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
