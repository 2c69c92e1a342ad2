"""The index of a store: a record of fixed size for each episode, in the order in which they were added."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.errors import DataError

INDEX_FILE = "index.bin"
RECORD = np.dtype(
    [
        ("num_steps", "<u4"),
        ("flags", "<u4"),
        ("seed", "<i8"),
        ("first_step", "<u8"),
        ("source_end", "<u8"),
        ("digest", "V16"),
        ("check", "<u8"),
    ]
)
TERMINATED, TRUNCATED, SEEDED, MASKED, TIMED = 1, 2, 4, 8, 16
"""Bits of `flags`; the last two for episodes with missing values, and with times of their own."""

_FACTORS = np.array([0x9E3779B97F4A7C15 * (2 * k + 1) % 2**64 | 1 for k in range(RECORD.itemsize // 8)], np.uint64)


def seal(records: NDArray[Any]) -> NDArray[Any]:
    """The records with their `check` set."""
    sealed = records.copy()
    sealed["check"] = _checks(records)
    return sealed


class Index:
    """The records that are in the file and complete.

    A record that a crash left torn or blank at the end is passed over, and overwritten by the next.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = np.empty(0, RECORD)
        self._count = 0
        self._lock = threading.Lock()
        self.first_step: NDArray[np.uint64] = self._records["first_step"]
        """Of each episode, counted over the store; there may be more than episodes."""
        self.last_masked, self.last_timed = -1, -1
        """The last episode with missing values, and with times of its own; -1 where there is none."""

    def __len__(self) -> int:
        return self._count

    @property
    def records(self) -> NDArray[Any]:
        """[episodes], read-only."""
        return self._records[: self._count]

    @property
    def num_bytes(self) -> int:
        """Where the next record goes."""
        return self._count * RECORD.itemsize

    @property
    def num_steps(self) -> int:
        """Steps of all episodes together."""
        return self.end_of(self._count - 1) if self._count else 0

    def end_of(self, episode: int) -> int:
        """The step after the last of an episode, counted over the store."""
        record = self.records[episode]
        return int(record["first_step"]) + int(record["num_steps"])

    @property
    def source_end(self) -> int:
        """Bytes that the sources of all episodes take up."""
        return int(self.records[-1]["source_end"]) if self._count else 0

    def refresh(self) -> None:
        """Takes in what was added to the file since.

        Raises:
            DataError: a record that is followed by others is damaged.
        """
        with self._lock, self._path.open("rb") as file:
            file.seek(self.num_bytes)
            self._take_in(file.read())

    def _take_in(self, data: bytes) -> None:
        new = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
        good = new["check"] == _checks(new)
        first_step = np.cumsum([self.num_steps, *new["num_steps"].tolist()], dtype=np.uint64)[:-1]
        good &= new["first_step"] == first_step
        whole = len(new) if good.all() else int(np.argmin(good))
        if any(data[(whole + 1) * RECORD.itemsize :]):  # a crash tears one record, and may leave zeros behind it
            problem = f"record {self._count + whole} is damaged, and others follow it"
            fix = "It was changed after it was written: restore the file from a copy, or import the logs again."
            raise DataError(problem, fix=fix, file=self._path)
        self._add(new[:whole])

    def _add(self, records: NDArray[Any]) -> None:
        due = self._count + len(records)
        if due > len(self._records):
            grown = np.empty(max(due, 2 * self._count), RECORD)
            grown[: self._count] = self.records
            self._records, self.first_step = grown, grown["first_step"]
        self._records[self._count : due] = records
        self.last_masked = self._last(MASKED, records, self.last_masked)
        self.last_timed = self._last(TIMED, records, self.last_timed)
        self._count = due

    def _last(self, bit: int, new: NDArray[Any], before: int) -> int:
        flagged = np.flatnonzero(new["flags"] & bit)
        return self._count + int(flagged[-1]) if len(flagged) else before


def _checks(records: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each record that changes with any of its other bits; no record of zeros has its own."""
    words = np.ascontiguousarray(records).view(np.uint64).reshape(len(records), RECORD.itemsize // 8)[:, :-1]
    mixed = (words ^ (words >> np.uint64(29))) * _FACTORS[:-1]
    return np.asarray((mixed ^ (mixed >> np.uint64(32))).sum(1, dtype=np.uint64) + _FACTORS[-1])
