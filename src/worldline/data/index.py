"""The index of a store: one record of fixed size for each episode, in the order of appending."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Episode
from worldline.errors import DataError

Source = Mapping[str, str | int | float]
"""The origin of an episode, such as its file, as key-value pairs."""

INDEX_FILE = "index.bin"
_NUMBERS = {"num_steps": "<u4", "flags": "<u4", "seed": "<i8", "first_step": "<u8", "source_end": "<u8"}
RECORD = np.dtype([*_NUMBERS.items(), ("digest", "V16"), ("check", "<u8")])
TERMINATED, TRUNCATED, SEEDED, MASKED, TIMED = 1, 2, 4, 8, 16
"""Bits of `flags`. MASKED marks episodes with missing values, TIMED those with their own step durations."""

_FACTORS = np.array([0x9E3779B97F4A7C15 * (2 * k + 1) % 2**64 | 1 for k in range(RECORD.itemsize // 8)], np.uint64)


def seal(records: NDArray[Any]) -> NDArray[Any]:
    """The records with their `check` set."""
    sealed = records.copy()
    sealed["check"] = _checks(records)
    return sealed


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The metadata of one episode.

    Args:
        num_steps: T.
        terminated: as in `Episode`.
        truncated: as in `Episode`.
        seed: as in `Episode`.
        source: origin of the episode.
        digest: hash of the content (arrays, masks, end flags, seed, times), 128 bits in hex.
    """

    num_steps: int
    terminated: bool
    truncated: bool
    seed: int | None
    source: Source = field(default_factory=dict)
    digest: str = ""


class Index:
    """The complete records in the file.

    An incomplete record that a crash left at the end is ignored, and the next append overwrites it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = np.empty(0, RECORD)
        self._count = 0
        self._lock = threading.Lock()
        self.first_step: NDArray[np.uint64] = self._records["first_step"]
        """First step of each episode, counted over the store; may be longer than the number of episodes."""
        self.last_masked, self.last_timed = -1, -1
        """The last episode with missing values, and the last with its own step durations; -1 without one."""

    def __len__(self) -> int:
        return self._count

    @property
    def records(self) -> NDArray[Any]:
        """[episodes], read-only."""
        return self._records[: self._count]

    @property
    def num_bytes(self) -> int:
        """Offset of the next record in the file."""
        return self._count * RECORD.itemsize

    @property
    def num_steps(self) -> int:
        """Total number of steps of all episodes."""
        return self.end_of(self._count - 1) if self._count else 0

    def end_of(self, episode: int) -> int:
        """The step after the last of an episode, counted over the store."""
        record = self.records[episode]
        return int(record["first_step"]) + int(record["num_steps"])

    def entry(self, episode: int, source: Source) -> Entry:
        """The metadata of an episode with this source."""
        record = self.records[episode]
        return Entry(
            num_steps=int(record["num_steps"]),
            terminated=bool(record["flags"] & TERMINATED),
            truncated=bool(record["flags"] & TRUNCATED),
            seed=int(record["seed"]) if record["flags"] & SEEDED else None,
            source=source,
            digest=record["digest"].tobytes().hex(),
        )

    def next_record(self, episode: Episode, source_bytes: int, digest: str) -> bytes:
        """The record that appends an episode, whose source takes `source_bytes`."""
        flags = TERMINATED * episode.terminated | TRUNCATED * episode.truncated | SEEDED * (episode.seed is not None)
        flags |= MASKED * lacks_any(episode) | TIMED * (episode.step_s is not None)
        source_end, content = self.source_end + source_bytes, bytes.fromhex(digest)
        record = (episode.num_steps, flags, episode.seed or 0, self.num_steps, source_end, content, 0)
        return seal(np.array([record], RECORD)).tobytes()

    @property
    def source_end(self) -> int:
        """Total bytes of the sources of all episodes."""
        return int(self.records[-1]["source_end"]) if self._count else 0

    def refresh(self) -> None:
        """Reads the records that were added to the file since the last call.

        Raises:
            DataError: a record before the last one is damaged.
        """
        with self._lock, self._path.open("rb") as file:
            file.seek(self.num_bytes)
            self._parse(file.read())

    def _parse(self, data: bytes) -> None:
        new = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
        good = new["check"] == _checks(new)
        first_step = np.cumsum([self.num_steps, *new["num_steps"].tolist()], dtype=np.uint64)[:-1]
        good &= new["first_step"] == first_step
        num_good = len(new) if good.all() else int(np.argmin(good))
        if any(data[(num_good + 1) * RECORD.itemsize :]):  # a crash damages one record, and may leave zeros after it
            problem = f"record {self._count + num_good} is damaged, and others follow it"
            fix = "The file was changed after it was written: restore it from a copy, or import the logs again."
            raise DataError(problem, fix=fix, file=self._path)
        self._add(new[:num_good])

    def _add(self, records: NDArray[Any]) -> None:
        count = self._count + len(records)
        if count > len(self._records):
            grown = np.empty(max(count, 2 * self._count), RECORD)
            grown[: self._count] = self.records
            self._records, self.first_step = grown, grown["first_step"]
        self._records[self._count : count] = records
        self.last_masked = self._last(MASKED, records, self.last_masked)
        self.last_timed = self._last(TIMED, records, self.last_timed)
        self._count = count

    def _last(self, bit: int, new: NDArray[Any], before: int) -> int:
        flagged = np.flatnonzero(new["flags"] & bit)
        return self._count + int(flagged[-1]) if len(flagged) else before


def lacks_any(episode: Episode) -> bool:
    """Whether a value of the episode is missing."""
    return not all(mask.all() for mask in episode.observed.values())


def _checks(records: NDArray[Any]) -> NDArray[np.uint64]:
    """A checksum of each record without its `check` field; a record of zeros never matches its checksum."""
    words = np.ascontiguousarray(records).view(np.uint64).reshape(len(records), RECORD.itemsize // 8)[:, :-1]
    mixed = (words ^ (words >> np.uint64(29))) * _FACTORS[:-1]
    return np.asarray((mixed ^ (mixed >> np.uint64(32))).sum(1, dtype=np.uint64) + _FACTORS[-1])
