"""How fast a store is written and read, from a warm file cache: `python benchmarks/store.py`."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from worldline.contracts.episode import Episode
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.data.store import Store, open_store
from worldline.data.windows import Windows

NUM_EPISODES = 200
NUM_STEPS = 60
NUM_OBSERVATIONS = 5
BATCH_SIZE = 64
NUM_BATCHES = 400
RESULT = Path(__file__).parent / "results" / "store.json"

SCHEMA = Schema(
    signals=(
        Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3)),
        Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="wall", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="move", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,)),
    )
)


def episode(generator: np.random.Generator) -> Episode:
    """An episode of noise; nothing is compressed, so that its content does not matter."""
    rows = NUM_STEPS + 1
    return Episode(
        observations={
            "camera": generator.integers(0, 256, (rows, 64, 64, 3), np.uint8),
            "position": generator.random((rows, 2), np.float32),
            "wall": generator.random((rows, 2), np.float32),
        },
        actions={"move": generator.random((NUM_STEPS, 2), np.float32)},
    )


def median_ms(seconds: list[float]) -> float:
    """The median in milliseconds."""
    return round(1e3 * statistics.median(seconds), 3)


def measure(folder: Path) -> dict[str, float | int | str]:
    """The figures, by plain names."""
    generator = np.random.default_rng(0)
    store = Store.create(folder / "store", SCHEMA)
    appends = []
    for _ in range(NUM_EPISODES):
        one = episode(generator)
        begin = time.perf_counter()
        store.append(one)
        appends.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    store = open_store(folder / "store")
    open_s = time.perf_counter() - begin
    begin = time.perf_counter()
    store.content_hash()
    hash_s = time.perf_counter() - begin
    windows = Windows(store, NUM_OBSERVATIONS, range(NUM_EPISODES), [signal.name for signal in SCHEMA.signals])
    samples = []
    for _ in range(NUM_BATCHES):
        begin = time.perf_counter()
        windows.sample(BATCH_SIZE, generator)
        samples.append(time.perf_counter() - begin)
    size = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file())
    return {
        "batch_ms": median_ms(samples),
        "batch_ms_slowest_tenth": round(1e3 * statistics.quantiles(samples, n=10)[-1], 3),
        "windows_per_second": round(BATCH_SIZE / statistics.median(samples)),
        "append_ms": median_ms(appends),
        "open_ms": round(1e3 * open_s, 2),
        "hash_mb_per_second": round(size / hash_s / 1e6),
        "bytes_per_frame": round(size / (NUM_EPISODES * (NUM_STEPS + 1)), 1),
        "batch_size": BATCH_SIZE,
        "num_observations": NUM_OBSERVATIONS,
        "num_episodes": NUM_EPISODES,
        "num_steps": NUM_STEPS,
        "cores": os.cpu_count() or 1,
        "load_before": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    """Measures, prints, and writes the result."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    text = json.dumps(figures, indent=2)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
