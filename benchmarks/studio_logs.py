"""Logs of many episodes, of which one is long, with many signals and large pictures; for benchmarks/studio.py."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from worldline.data.index import INDEX_FILE, RECORD, TRUNCATED, seal
from worldline.data.store import BLOCKS_FOLDER, SOURCES_FILE, Store, open_store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

NUM_EPISODES, LONG_STEPS, SHORT_STEPS = 10_000, 100_000, 20
NUM_SENSORS, NUM_ACTIONS, SIDE = 59, 4, 224
PATTERN: Final = 200
"""Number of rows that are repeated."""

_SENSORS: Final = [f"sensor_{number:02}" for number in range(NUM_SENSORS)]
_VALVES: Final = [f"valve_{number}" for number in range(NUM_ACTIONS)]
_signal: Final = partial(Signal, kind=Kind.VECTOR, shape=(1,))
SCHEMA: Final = Schema(
    signals=(
        Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 3)),
        *(_signal(name=name, role=Role.OBSERVATION, unit="degC") for name in _SENSORS),
        *(_signal(name=name, role=Role.ACTION, unit="%", low=(0.0,), high=(100.0,)) for name in _VALVES),
    ),
    step_s=1.0,
)


def pattern() -> Episode:
    """The repeated rows: sensors that follow random valves, and a disc that moves over a smooth background."""
    rng = np.random.default_rng(0)
    valves = rng.uniform(0, 100, (PATTERN // 20, NUM_ACTIONS)).repeat(20, 0).astype(np.float32)
    mixed = valves @ rng.uniform(0, 0.1, (NUM_ACTIONS, NUM_SENSORS))
    level, path = mixed[0], [mixed[0]]
    for target in mixed:
        level = 0.9 * level + 0.1 * target + rng.normal(0, 0.05, NUM_SENSORS)
        path.append(level)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    background = np.stack([rows, columns, (rows + columns) // 2], -1).astype(np.uint8)
    camera = np.repeat(background[None], PATTERN + 1, 0)
    for number, angle in enumerate(np.linspace(0, 2 * np.pi, PATTERN + 1)):
        row, column = SIDE / 2 + 80 * np.array([np.sin(angle), np.cos(angle)])
        camera[number, (rows - row) ** 2 + (columns - column) ** 2 < 36] = 255
    sensors = np.stack(path).astype(np.float32)
    return Episode(
        observations={"camera": camera, **{name: sensors[:, n, None] for n, name in enumerate(_SENSORS)}},
        actions={name: valves[:, n, None] for n, name in enumerate(_VALVES)},
    )


def record_large(path: Path) -> Store:
    """A store whose first episode has `LONG_STEPS`, and all others `SHORT_STEPS`: the pattern, repeated.

    The files are written directly: to add the episodes one by one would take an hour, and the long one 15 GB of memory.
    Digests of episodes are therefore wrong.
    """
    Store.create(path, SCHEMA).append(pattern())
    lengths = np.full(NUM_EPISODES, SHORT_STEPS)
    lengths[0] = LONG_STEPS
    num_steps, blocks = int(lengths.sum()), path / BLOCKS_FOLDER
    for signal in SCHEMA.signals[1:]:
        rows = num_steps + NUM_EPISODES * (signal.role is Role.OBSERVATION)
        values = np.fromfile(blocks / f"{signal.name}.raw", np.float32)
        np.resize(values, rows).tofile(blocks / f"{signal.name}.raw")
    frames, ends = (blocks / "camera.lz4").read_bytes(), np.fromfile(blocks / "camera.ends", np.uint64)
    sizes = np.resize(np.diff(ends), num_steps + NUM_EPISODES)
    np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64).tofile(blocks / "camera.ends")
    with (blocks / "camera.lz4").open("wb") as file:
        for _ in range(len(sizes) // (PATTERN + 1) + 1):
            file.write(frames)
    lines = [json.dumps({"file": f"run-{number:05}.csv"}).encode() + b"\n" for number in range(NUM_EPISODES)]
    (path / SOURCES_FILE).write_bytes(b"".join(lines))
    records = np.fromfile(path / INDEX_FILE, RECORD).repeat(NUM_EPISODES)
    records["num_steps"], records["flags"] = lengths, TRUNCATED
    records["first_step"] = np.cumsum(lengths) - lengths
    records["source_end"] = np.cumsum([len(line) for line in lines])
    seal(records).tofile(path / INDEX_FILE)
    return open_store(path)
