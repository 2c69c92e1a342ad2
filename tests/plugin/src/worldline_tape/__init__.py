"""Importer of tapes: timestamped messages of a small robot on several channels.

A tape is one episode. It begins with b"TAPE1\n". Each record has the length and the CRC-32 of its body (uint32 each,
all numbers little-endian), then the body. The first byte of the body is its kind:

    H   JSON, the first record: {"task": "dock", "channels": [
            {"name": "pose", "role": "observation", "size": 3, "unit": "m"}, …]}
    M   a message: number of its channel (uint16), time (float64, seconds), `size` values (float32)
    E   JSON, the last record: {"time": 4.2, "terminated": true}
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data import RawEpisode, ReadOptions, importer

MAGIC = b"TAPE1\n"
RECORD = struct.Struct("<II")
MESSAGE = struct.Struct("<Hd")


@importer(".tape")
def read(path: Path, options: ReadOptions) -> Iterator[RawEpisode]:
    """Yields the episode of a tape; raises an error if it is damaged."""
    del options  # a tape takes none of the options for tables of rows
    (_, header), *messages, (kind, end) = parsed(path)
    if kind != b"E":
        raise ValueError("the tape is truncated: its last record is missing")
    channels = header["channels"]
    values, ticks = align(channels, [body for kind, body in messages if kind == b"M"], end["time"])
    yield RawEpisode(
        source={"task": header["task"]},
        values=values,
        times=ticks,
        roles={channel["name"]: channel["role"] for channel in channels},
        units={channel["name"]: channel["unit"] for channel in channels},
        terminated=end["terminated"],
        truncated=not end["terminated"],
    )


def parsed(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yields kind and content of each record. Lengths come from the file, so they are checked before use."""
    tape, at = path.read_bytes(), len(MAGIC)
    if not tape.startswith(MAGIC):
        raise ValueError(f"a tape begins with {MAGIC!r}, this file with {tape[:at]!r}")
    while at < len(tape):
        length, checksum = RECORD.unpack_from(tape, at)
        body = tape[at + RECORD.size : at + RECORD.size + length]
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            raise ValueError(f"the record at byte {at} is truncated or damaged")
        at += RECORD.size + length
        yield body[:1], body[1:] if body[:1] == b"M" else json.loads(body[1:])


def align(channels: Sequence[Mapping[str, Any]], messages: Sequence[bytes], end: float) -> tuple[dict[str, Any], Any]:
    """Returns the arrays by name, and T+1 observation times; action t was sent at `ticks[t]`."""
    received: list[list[tuple[float, Any]]] = [[] for _ in channels]
    for message in messages:
        channel, time = MESSAGE.unpack_from(message)
        received[channel].append((time, np.frombuffer(message, "<f4", offset=MESSAGE.size)))
    clock = next(number for number, channel in enumerate(channels) if channel["role"] == "action")
    ticks, arrays = np.array([*(time for time, _ in received[clock]), end]), {}
    for channel, pairs in zip(channels, received, strict=True):
        times, values = np.array([time for time, _ in pairs]), np.stack([value for _, value in pairs])
        if channel["role"] == "action":
            if not np.array_equal(times, ticks[:-1]):  # a missing action is never invented
                raise ValueError(f"channel {channel['name']!r} and {channels[clock]['name']!r} have different times")
        else:
            last = np.searchsorted(times, ticks, side="right") - 1  # last message before action t was sent
            is_new = np.diff(last, prepend=-1) > 0
            values = np.where(is_new[:, None], values[last], np.float32(np.nan))  # NaN: no message since the last tick
        arrays[channel["name"]] = values
    return arrays, ticks
