"""Independent trainings on processes and on a local cluster of Ray, and with workers that are killed.

Run: .venv/bin/python benchmarks/scale.py [--workers 2] [--tasks 12] [--updates 3000] [--kill-every 20]
Writes benchmarks/results/scale.json.

A task trains the recipe `vectors` without its heads on 40 episodes of Two Rooms, with its own seed and one thread, and
returns a digest of the weights. The same tasks run on processes, on Ray (its start included), and on processes of which
one is killed (-9) every so many seconds. Results are equal if all digests are.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
from common import Row, arguments, show, show_bars, write

from worldline.data.store import Store, open_store
from worldline.recipes.vectors import vectors
from worldline.training.checkpoint import STATE
from worldline.workers import Workers, run_tasks
from worldline.workflows.record import record
from worldline.workflows.training import train_model

OVERHEAD = 1.05


def trained(path: Path, folder: Path, seed: int, updates: int) -> str:
    """The digest of the weights; a second start continues from the checkpoint."""
    store = open_store(path)
    recipe = vectors(store).with_seed(seed)
    recipe = replace(recipe, training=replace(recipe.training, num_updates=updates, num_checks=10))
    model, _ = train_model(store, recipe, folder=folder, resume=(folder / STATE).exists())
    weights = model.state_dict()
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def run(store: Store, spec: Workers, num_tasks: int, updates: int) -> tuple[float, dict[str, str]]:
    """Seconds of all tasks, start and end of the workers included, and the results."""
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        tasks = {f"seed {seed}": (store.path, Path(folder) / str(seed), seed, updates) for seed in range(num_tasks)}
        ended = dict(run_tasks(trained, tasks, spec, "train"))
        return time.perf_counter() - started_s, ended


def children() -> list[int]:
    """The worker processes of this one."""
    own, workers = os.getpid(), list[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == own and b"spawn_main" in (entry / "cmdline").read_bytes():
                workers.append(int(entry.name))
        except (OSError, ValueError):
            continue  # it has ended
    return workers


@contextmanager
def killing(every_s: float) -> Iterator[list[int]]:
    """Kills a random worker every so many seconds; yields those that were killed."""
    draw, killed, ended = np.random.default_rng(0), list[int](), Event()

    def kill() -> None:
        while not ended.wait(every_s):
            if alive := children():
                killed.append(int(draw.choice(alive)))
                os.kill(killed[-1], signal.SIGKILL)

    thread = Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def bars(results: Mapping[str, Row]) -> dict[str, Row]:
    """The targets."""
    ratio = results["ray"]["seconds"] / results["processes"]["seconds"]
    return {
        "time on Ray relative to processes": {"ratio": ratio, "met": ratio <= OVERHEAD},
        "results with killed workers equal the others": {
            "killed": results["killed"]["num_killed"],
            "met": results["killed"]["equal"] and results["ray"]["equal"] and results["killed"]["num_killed"] > 0,
        },
    }


def main() -> None:
    """Runs the three variants."""
    options = arguments(__doc__, workers=2, tasks=12, updates=3000, kill_every=20.0)
    with tempfile.TemporaryDirectory() as folder:
        store = record("two-rooms", Path(folder) / "store", num_episodes=40, max_steps=60, seed=0)
        sizes = (options.tasks, options.updates)
        seconds, expected = run(store, options.workers, *sizes)
        results: dict[str, Row] = {"processes": {"seconds": seconds}}
        seconds, ended = run(store, "ray", *sizes)
        results["ray"] = {"seconds": seconds, "equal": ended == expected}
        with killing(options.kill_every) as killed:
            seconds, ended = run(store, options.workers, *sizes)
        results["killed"] = {"seconds": seconds, "equal": ended == expected, "num_killed": len(killed)}
    reached = bars(results)
    show(("workers", "s", "equal", "killed"), [
        (name, row["seconds"], row.get("equal", ""), row.get("num_killed", "")) for name, row in results.items()
    ])  # fmt: skip
    show_bars(reached)
    sizes_row = {name: getattr(options, name) for name in ("workers", "tasks", "updates", "kill_every")}
    write(options.out, {"sizes": sizes_row, "results": results, "bars": reached})


if __name__ == "__main__":
    main()
