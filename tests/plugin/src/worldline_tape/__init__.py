"""Importer of tapes: timestamped messages of a small robot on several channels.

A tape is one episode. It begins with b"TAPE1\n". Each record has the length and the CRC-32 of its body (uint32 each,
all numbers little-endian), then the body. The first byte of the body is its kind:

    H   JSON, the first record: {"step_s": 0.1, "task": "dock", "channels": [
            {"name": "pose", "role": "observation", "size": 3, "unit": "m"}, …]}
    M   a message: number of its channel (uint16), time (float64, seconds), `size` values (float32)
    E   JSON, the last record: {"time": 4.2, "terminated": true}
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data import Finding, LoggedEpisode, Logs, ReadOptions, refuse, schema_beside, steps_s, to_episode
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

MAGIC = b"TAPE1\n"
RECORD = struct.Struct("<II")
MESSAGE = struct.Struct("<Hd")
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, struct.error)
"""Errors that a damaged tape can raise. List those of your library; a bare `except` hides your own mistakes."""
FIX = "Copy the tape again from the robot."


class TapeLogs(Logs):
    """A folder of tapes in the order of their names, or a single tape."""

    def __init__(self, files: Sequence[Path], schema: Schema) -> None:
        super().__init__(schema)  # a second argument takes sentences on open questions, such as units or the rate
        self._files = files

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.suffix == ".tape" if path.is_file() else any(path.glob("*.tape"))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> TapeLogs:
        refuse(reading, "tape")  # a tape takes none of the options for tables of rows
        files = [path] if path.is_file() else sorted(path.glob("*.tape"))
        # The user's schema has priority over the files.
        return cls(files, schema or schema_beside(path) or first_schema(files))

    def __len__(self) -> int:
        return len(self._files)

    def read(self) -> Iterator[LoggedEpisode]:
        for number, file in enumerate(self._files):
            try:
                header, episode = read_episode(file, self.schema)
            except UNREADABLE as error:  # a bad file is a finding; the next file is read
                problem = f"the tape cannot be read ({type(error).__name__}: {error})".replace("\n", " ")
                finding = Finding(problem=problem, fix=FIX, file=file.name, episode=number)
                yield LoggedEpisode(file=file.name, number=number, episode=None, findings=(finding,))
            else:
                source: dict[str, str | int | float] = {
                    "file": file.name,
                    "episode": 0,
                    "task": str(header.get("task", "")),
                }
                yield LoggedEpisode(file=file.name, number=number, episode=episode, source=source)


def records(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and body of each record. Lengths come from the file, so they are checked before use."""
    tape, at = file.read_bytes(), len(MAGIC)
    if not tape.startswith(MAGIC):
        raise ValueError(f"a tape begins with {MAGIC!r}, this file with {tape[:at]!r}")
    while at < len(tape):
        length, checksum = RECORD.unpack_from(tape, at)
        body = tape[at + RECORD.size : at + RECORD.size + length]
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            raise ValueError(f"the record at byte {at} is truncated or damaged")
        at += RECORD.size + length
        yield body[:1], body[1:]


def read_header(found: Iterator[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Reads the first record."""
    kind, body = next(found)
    header = json.loads(body)
    if kind != b"H" or not {channel["role"] for channel in header["channels"]} == {"observation", "action"}:
        raise ValueError(f"the first record is {kind!r} {header}. It must name observation and action channels")
    return dict(header)


def first_schema(files: Sequence[Path]) -> Schema:
    """Returns the schema in the first readable header."""
    problems = []
    for file in files:
        try:
            header = read_header(records(file))
            signals = [
                Signal(name=c["name"], role=Role(c["role"]), kind=Kind.VECTOR, shape=(c["size"],), unit=c["unit"])
                for c in header["channels"]
            ]
            return Schema(signals=tuple(signals), step_s=header["step_s"])
        except UNREADABLE as error:
            problems.append(f"{type(error).__name__}: {error}")
    raise DataError(f"none of the {len(files)} tapes has a readable header ({problems[0]})", fix=FIX, file=files[0])


def read_episode(file: Path, schema: Schema) -> tuple[dict[str, Any], Episode]:
    """Reads the header and the episode."""
    found = records(file)
    header = read_header(found)
    messages: list[list[tuple[float, Any]]] = [[] for _ in header["channels"]]
    end: dict[str, Any] | None = None
    for kind, body in found:
        if kind == b"M":
            channel, time = MESSAGE.unpack_from(body)
            messages[channel].append((time, np.frombuffer(body, "<f4", offset=MESSAGE.size)))
        elif kind == b"E":
            end = json.loads(body)
    if end is None:
        raise ValueError("the tape is truncated: its last record is missing")
    arrays, observed, ticks = align(header["channels"], messages, float(end["time"]))
    episode = to_episode(
        arrays,
        schema,
        observed=observed,
        terminated=bool(end["terminated"]),
        truncated=not end["terminated"],
        step_s=steps_s(ticks, schema.step_s),  # None if every step has the length in the schema
    )
    return header, episode


def align(channels: Sequence[dict[str, Any]], messages: list[list[tuple[float, Any]]], end: float) -> tuple[Any, ...]:
    """Returns arrays and masks by name, and T+1 observation times; action t was sent at `ticks[t]`."""
    clock = next(number for number, channel in enumerate(channels) if channel["role"] == "action")
    ticks = np.array([*(time for time, _ in messages[clock]), end])
    arrays, observed = {}, {}
    for channel, received in zip(channels, messages, strict=True):
        name = channel["name"]
        times = np.array([time for time, _ in received])
        if not received or not (np.diff(times) > 0).all():
            raise ValueError(f"the times of channel {name!r} do not rise: {times}")
        values = np.stack([value for _, value in received])
        if channel["role"] == "action":
            if not np.array_equal(times, ticks[:-1]):  # a missing action is never invented
                raise ValueError(f"channel {name!r} is out of step with channel {channels[clock]['name']!r}")
            arrays[name] = values
        else:
            last = np.searchsorted(times, ticks, side="right") - 1  # last message before action t was sent
            arrays[name] = values[np.maximum(last, 0)]
            observed[name] = np.diff(last, prepend=-1) > 0  # False without a new message since the last tick
    return arrays, {name: mask for name, mask in observed.items() if not mask.all()}, ticks
