"""Growth of a store, and the loading cost of a training; measured by benchmarks/data.py."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from pathlib import Path

import numpy as np
from common import Row
from data_frames import BATCH_SIZE, NUM_OBSERVATIONS, STRIDE

from worldline.data.index import INDEX_FILE, RECORD, seal
from worldline.data.store import Store, open_store
from worldline.data.windows import Windows
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

STEPS = 60
NUM_BATCHES = 200

_SIGNALS = ("camera", "position", "action")
_CHUNK = 10_000
"""Episodes whose pictures are written at once."""


def sparse_store(path: Path, num_episodes: int, side: int = 64) -> None:
    """A store of one repeated episode: constant pictures take a few bytes, vectors are sparse holes."""
    camera = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8).repeat(STEPS + 1, 0)
    position, action = np.zeros((STEPS + 1, 2), np.float32), np.zeros((STEPS, 2), np.float32)
    signals = (
        Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(side, side, 3)),
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,)),
    )
    store = Store.create(path, Schema(signals=signals))
    store.append(Episode(observations={"camera": camera, "position": position}, actions={"action": action}))
    blocks, rows = path / "blocks", num_episodes * (STEPS + 1)
    pictures, line = (blocks / "camera.lz4").read_bytes(), (path / "sources.jsonl").read_bytes()
    with (blocks / "camera.lz4").open("wb") as file:
        for start in range(0, num_episodes, _CHUNK):
            file.write(pictures * min(_CHUNK, num_episodes - start))
    ends = np.arange(rows + 1, dtype=np.uint64) * np.uint64(len(pictures) // (STEPS + 1))
    (blocks / "camera.ends").write_bytes(ends.tobytes())
    os.truncate(blocks / "position.raw", rows * 8)
    os.truncate(blocks / "action.raw", num_episodes * STEPS * 8)
    (path / "sources.jsonl").write_bytes(line * num_episodes)
    records = np.frombuffer((path / INDEX_FILE).read_bytes(), RECORD).repeat(num_episodes)
    records["first_step"] = np.arange(num_episodes, dtype=np.uint64) * np.uint64(STEPS)
    records["source_end"] = np.arange(1, num_episodes + 1, dtype=np.uint64) * np.uint64(len(line))
    (path / INDEX_FILE).write_bytes(seal(records).tobytes())


def growth(folder: Path, sizes: tuple[int, ...], repeats: int) -> list[Row]:
    """Opening time, batch time and memory, per number of episodes."""
    rows = []
    for size in sizes:
        path = folder / f"sparse-{size}"
        sparse_store(path, size)
        opened = []
        for _ in range(repeats):
            begin = time.perf_counter()
            open_store(path)
            opened.append(time.perf_counter() - begin)
        rows.append({"episodes": size, "open_s": opened, **store_memory(path)})
    return rows


def memory_mb() -> tuple[float, float]:
    """Resident and anonymous memory of this process in megabytes; the difference is mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["RssAnon"].split()[0]) / 1024


def store_memory(path: Path) -> Row:
    """Memory growth of opening a store and drawing batches, in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row: Row = pool.apply(_draw, (path,))
    return row


def _draw(path: Path) -> Row:
    """Opens a store, draws batches, and reports the growth of memory."""
    before = memory_mb()
    windows = opened(path)
    batch_ms = 1e3 * batch_time(windows)
    resident, anonymous = (after - start for after, start in zip(memory_mb(), before, strict=True))
    return {"batch_ms": batch_ms, "resident_mb": resident, "anonymous_mb": anonymous, "batches": NUM_BATCHES}


def opened(path: Path) -> Windows:
    """The windows of a sparse store."""
    store = open_store(path)
    return Windows(store, NUM_OBSERVATIONS, range(len(store)), _SIGNALS, stride=STRIDE)


def batch_time(windows: Windows) -> float:
    """Median seconds of a batch."""
    generator, batches = np.random.default_rng(0), list[float]()
    for _ in range(NUM_BATCHES):
        begin = time.perf_counter()
        windows.sample(BATCH_SIZE, generator)
        batches.append(time.perf_counter() - begin)
    return statistics.median(batches)


def loading_share(folder: Path, num_episodes: int, num_updates: int) -> Row:
    """Loading time of a batch relative to one update of the demo's training; both measured in turns."""
    import torch

    from worldline.device import autocast
    from worldline.recipes.two_rooms import two_rooms
    from worldline.training.batches import to_window
    from worldline.workflows.record import record
    from worldline.workflows.training import build_model

    store = record("two-rooms", folder / "two-rooms", num_episodes=num_episodes, max_steps=STEPS, seed=0)
    recipe = two_rooms(store)
    config, split = recipe.training, recipe.split(store)
    model = build_model(store, split, recipe).train()
    signals = [*recipe.model_config.inputs, *(signal.name for signal in store.schema.actions)]
    windows = Windows(store, config.window, split.train, signals)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    noise, generator = torch.Generator().manual_seed(0), np.random.default_rng(0)
    loads, updates = [], []
    for _ in range(num_updates):
        begin = time.perf_counter()
        window = to_window(windows.sample(config.batch_size, generator), store.schema)
        loaded = time.perf_counter()
        with autocast(torch.device("cpu")):
            losses = model.loss(window, generator=noise)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        loads.append(loaded - begin)
        updates.append(time.perf_counter() - loaded)
    loads, updates = loads[num_updates // 10 :], updates[num_updates // 10 :]  # the first updates warm up
    load_ms, update_ms = 1e3 * statistics.median(loads), 1e3 * statistics.median(updates)
    return {
        "load_ms": load_ms,
        "update_ms": update_ms,
        "share": load_ms / update_ms,
        "load_ms_tenths": [1e3 * value for value in statistics.quantiles(loads, n=10)],
        "update_ms_tenths": [1e3 * value for value in statistics.quantiles(updates, n=10)],
        "batch_size": config.batch_size,
        "observations": config.window,
        "updates": num_updates,
        "episodes": num_episodes,
        "threads": torch.get_num_threads(),
    }
