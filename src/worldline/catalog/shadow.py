"""Shadow calls: a candidate gets the calls of the serving version in a background thread, and both are recorded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, final

import numpy as np

from worldline.catalog.comparison import LEVEL, Backtest, ShadowRecord, backtest_of, compare_forecasts
from worldline.episode import Episode, History
from worldline.planning.calls import Call, SurpriseCall, WhatIfCall
from worldline.world.base import Prediction, World

MAX_FILE_BYTES = 2**22
"""Largest file of records of one pair of versions, about ten thousand calls. When it is full, shadowing stops."""

_logger = logging.getLogger(__name__)
_ERRORS = (Exception, SystemExit)
"""What a candidate may raise without an effect on the caller."""

_MAX_ERROR_CHARS = 300
_MAX_SCORED_KEYS = 64
"""Number of remembered histories that were already scored; more than the number of calling threads."""


@dataclass(frozen=True, kw_only=True)
class VersionPair:
    """A version in shadow, and the records of its comparison with the serving version.

    Args:
        candidate: number of the version in shadow.
        bundle: bundle folder of the candidate.
        records: file of the records.
    """

    candidate: int
    bundle: Path
    records: Path


@final
class Shadow:
    """One thread that calls candidates, with a bounded queue of calls.

    The thread starts with the first call and ends with `close` or the process, which waits for the queued calls. A
    process that is forked afterwards does not shadow calls.

    Args:
        open_bundle: opens the world in a bundle folder.
        size: number of calls that can wait. Further calls are dropped and counted.
    """

    def __init__(self, open_bundle: Callable[[Path], World], size: int) -> None:
        self._open_bundle, self._size = open_bundle, size
        self._pool = ThreadPoolExecutor(1, "worldline-shadow")
        self._lock = Lock()
        self._closed = False
        self._queued = self._dropped = 0
        self._wanted: Path | None = None
        self._candidate: tuple[Path, World | None, str] | None = None  # bundle, and world or error
        self._scored = deque[bytes](maxlen=_MAX_SCORED_KEYS)

    def offer(self, pair: VersionPair, world: World, call: Call, seconds: float) -> None:
        """Queues a copy of a call for the candidate, if it is wanted and there is room.

        Args:
            pair: the two versions.
            world: the world that answered.
            call: the call; the caller may change its arrays afterwards.
            seconds: duration of the answer.
        """
        # A call may begin before its candidate changes.
        if self._closed or self._wanted != pair.bundle or _is_full(pair.records):
            return
        with self._lock:
            if self._queued > self._size:  # one of them is running
                self._dropped += 1
                return
            self._queued += 1
        with suppress(RuntimeError):  # another thread has closed it
            self._pool.submit(self._handle, pair, world, copied(call), seconds)

    def opened(self, bundle: Path) -> World | None:
        """The candidate in this bundle, if it is open."""
        known = self._candidate
        return known[1] if known is not None and known[0] == bundle else None

    def want(self, bundle: Path | None) -> None:
        """Sets the candidate, None for none. Any other candidate and its waiting calls are dropped."""
        with self._lock:
            self._wanted = bundle
            if self._candidate is not None and self._candidate[0] != bundle:
                self._candidate = None

    def flush(self) -> None:
        """Waits until all calls so far are recorded."""
        if not self._closed:
            self._pool.submit(int).result()

    def close(self) -> None:
        """Waits as `flush` does, and accepts no more calls."""
        self._closed = True
        self._pool.shutdown()

    def _handle(self, pair: VersionPair, world: World, call: Call, seconds: float) -> None:
        """Calls the candidate and records the result, in the thread."""
        try:
            if pair.bundle == self._wanted and not _is_full(pair.records):
                _append(pair.records, self._compared(pair, world, call, seconds))
        except _ERRORS as error:
            _logger.warning("a shadow call could not be recorded (%s)", type(error).__name__)
        finally:
            with self._lock:
                self._queued -= 1

    def _compared(self, pair: VersionPair, world: World, call: Call, seconds: float) -> ShadowRecord:
        """The record of a call: the duration or the error of the candidate, and the backtest of both versions."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = ShadowRecord(at=now, verb=call.verb, serving_s=seconds, candidate_s=None, dropped=dropped)
        candidate, problem = self._open(pair)
        if candidate is None:
            return replace(record, error=problem)
        started = perf_counter()
        try:
            candidate.answer(call)
        except _ERRORS as error:
            return replace(record, error=_error_text(error))
        answered = replace(record, candidate_s=perf_counter() - started)
        try:
            history = _history(call)
            task = backtest_of(history, world.describe(), candidate.describe())
            # Several calls may share one history, such as a plan and a prediction. It counts once.
            key = _key(pair, history)
            if key in self._scored:
                return replace(answered, unscored="this history was scored already")
            self._scored.append(key)
            forecast = _forecast(world, task)
        except _ERRORS as error:
            return replace(answered, unscored=_error_text(error))
        try:
            outcomes = compare_forecasts(task, forecast, _forecast(candidate, task))
        except _ERRORS as error:
            return replace(record, error=_error_text(error))
        return replace(answered, outcomes=outcomes, unscored="" if outcomes else "its last steps were not observed")

    def _open(self, pair: VersionPair) -> tuple[World | None, str]:
        """The candidate, or the reason why it cannot be opened; tried once."""
        if self._candidate is not None and self._candidate[0] == pair.bundle:
            return self._candidate[1:]
        world, problem = None, ""
        try:
            world = self._open_bundle(pair.bundle)
        except _ERRORS as error:
            kind, problem = type(error).__name__, _error_text(error)  # the records hold the text, which may name paths
            _logger.warning("version %d cannot be opened to run in shadow (%s)", pair.candidate, kind)
        with self._lock:  # it may have been replaced meanwhile
            self._candidate = (pair.bundle, world, problem) if self._wanted == pair.bundle else None
        return world, problem


def _history(call: Call) -> History:
    past = call.episode if isinstance(call, WhatIfCall | SurpriseCall) else call.history
    return past.history() if isinstance(past, Episode) else past


def _forecast(world: World, task: Backtest) -> Prediction:
    return world.predict(task.before, task.actions, exogenous=task.exogenous, level=LEVEL)


def _is_full(path: Path) -> bool:
    """Whether the file is full. A deleted file starts anew."""
    try:
        return path.stat().st_size >= MAX_FILE_BYTES
    except OSError:
        return False


def _key(pair: VersionPair, history: History) -> bytes:
    """Equal for equal histories and pairs of versions."""
    digest = hashlib.blake2b(str(pair.records).encode())
    for group in vars(history).values():
        for name, value in sorted(group.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
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
