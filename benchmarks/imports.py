"""Processor time and memory of imports, compared with an earlier version of the toolkit.

Run: .venv/bin/python benchmarks/imports.py --base COMMIT [--rows 10000000] [--repeats 5] [--cases NAME ...]
Writes benchmarks/results/imports.json. About an hour on two cores with 10,000,000 rows.

The earlier version is checked out into a temporary folder. Both versions import the same logs, in turn, each import in
a separate process with one thread. The first import makes a store; the repeated one finds every episode in it.

Rows, per case and import:
  ratio      processor time, new over old, of the same turn: median over the repeats, with its 95 % interval
  memory_mb  largest resident memory of any repeat, old and new
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from common import ROOT, median_interval

from worldline.data import Store, import_logs, open_store
from worldline.data.exporting import export_store
from worldline.schema import Kind, Role, Schema, Signal

RESULT: Final = Path(__file__).parent / "results" / "imports.json"
COMMAND: Final = """
import sys
from pathlib import Path
from worldline.data import import_logs

import_logs(*sys.argv[1:3], edits={"push": {"role": "action"}})
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1024)
"""
STEPS: Final = 500
SIDE: Final = 64


def table(rows: int) -> pd.DataFrame:
    """A cart that is pushed, in episodes of `STEPS` + 1 rows."""
    rng, episodes = np.random.default_rng(0), -(-rows // (STEPS + 1))
    push = np.repeat(rng.uniform(-1, 1, (episodes, STEPS // 5 + 1)), 5, 1)[:, : STEPS + 1]
    speed = np.cumsum(0.1 * push - 0.002 * rng.standard_normal(push.shape), 1)
    columns = {
        "episode": np.repeat(np.arange(episodes), STEPS + 1),
        "time [s]": np.tile(0.1 * np.arange(STEPS + 1), episodes),
        "position [m]": np.cumsum(0.1 * speed, 1).ravel(),
        "speed [m/s]": speed.ravel(),
        "push": push.ravel(),
    }
    return pd.DataFrame(columns).iloc[:rows].round(4)


def write_tables(folder: Path, rows: int) -> dict[str, Path]:
    """The table as CSV and as Parquet."""
    frame, paths = table(rows), {"csv": folder / "cart.csv", "parquet": folder / "cart.parquet"}
    frame.to_csv(paths["csv"], index=False)
    frame.to_parquet(paths["parquet"], index=False)
    return paths


def write_datasets(folder: Path, rows: int) -> dict[str, Path]:
    """A table of a twentieth of the rows as HDF5 and Minari, and a filmed one of a thousandth as LeRobot and video."""
    edits: Any = {"push": {"role": "action"}}
    import_logs(table(rows // 20), folder / "vectors", edits=edits)
    paths = {"hdf5": folder / "cart.h5", "minari": folder / "minari"}
    export_store(open_store(folder / "vectors"), paths["hdf5"], exporter="hdf5")
    write_minari(paths["minari"], open_store(folder / "vectors"))
    filmed = film(folder / "filmed", max(2, rows // 1000 // (STEPS + 1)))
    paths |= {"lerobot": folder / "lerobot", "video": folder / "video"}
    export_store(open_store(filmed), paths["lerobot"], exporter="lerobot")
    paths["video"].mkdir()
    write_video(paths["video"], max(2, rows // 1000))
    return paths


def write_minari(folder: Path, store: Store) -> None:
    """A Minari dataset with the episodes of a store."""
    import gymnasium as gym
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (folder / "data").mkdir(parents=True)
    names = [signal.name for signal in store.schema.observations]
    box = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    taken = gym.spaces.Dict({"push": box})
    spaces = {"observation_space": gym.spaces.Dict(dict.fromkeys(names, box)), "action_space": taken}
    storage = MinariStorage.new(folder / "data", data_format="hdf5", **spaces)
    storage.update_metadata({"dataset_id": "benchmark/cart-v0", "minari_version": "0.5.4"})
    for number in range(len(store)):
        episode = store.episode(number)
        ends = np.arange(episode.num_steps) == episode.num_steps - 1
        storage.update_episodes(
            [
                EpisodeBuffer(
                    id=number,
                    observations=dict(episode.observations),
                    actions=dict(episode.actions),
                    rewards=np.zeros(episode.num_steps),
                    terminations=ends & False,
                    truncations=ends,
                    infos={},
                )
            ]
        )


def picture(step: int) -> np.ndarray:
    """A disc that moves over a shaded ground."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ground = np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8)
    disc = (x - SIDE / 2 - 20 * np.cos(step / 9)) ** 2 + (y - SIDE / 2 - 20 * np.sin(step / 9)) ** 2 < 36
    ground[disc] = (255, 64, 0)
    return ground


def film(path: Path, episodes: int) -> Path:
    """A store of filmed episodes."""
    from worldline.episode import Episode

    signals = (
        Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 3)),
        Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="rad"),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
    store, rng = Store.create(path, Schema(signals=signals, step_s=0.1)), np.random.default_rng(0)
    for _ in range(episodes):
        start = int(rng.integers(1000))
        seen = {
            "camera": np.stack([picture(start + step) for step in range(STEPS + 1)]),
            "angle": (np.arange(STEPS + 1, dtype=np.float32)[:, None] + start) / 9,
        }
        store.append(Episode(observations=seen, actions={"push": rng.uniform(-1, 1, (STEPS, 1)).astype(np.float32)}))
    return path


def write_video(folder: Path, rows: int) -> None:
    """A video of ten frames per second, and a table of actions by time."""
    import av

    with av.open(str(folder / "camera.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = SIDE, SIDE, "yuv420p", {"crf": "18"}
        for step in range(rows):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(step), format="rgb24")))
        container.mux(stream.encode())
    push = np.random.default_rng(0).uniform(-1, 1, rows).round(3)
    times = (0.1 * np.arange(rows)).round(1)
    pd.DataFrame({"time": times, "push": push, "angle": np.arange(rows) / 9}).to_csv(folder / "log.csv", index=False)


CASES: Final[Mapping[str, Callable[[Path, int], dict[str, Path]]]] = {
    "csv": write_tables,
    "parquet": write_tables,
    "hdf5": write_datasets,
    "minari": write_datasets,
    "lerobot": write_datasets,
    "video": write_datasets,
}


def run(root: Path, logs: Path, store: Path) -> tuple[float, float]:
    """Processor seconds and largest memory, MB, of one import by the version in `root`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "src")}
    before = os.times()
    command = [sys.executable, "-c", COMMAND, str(logs), str(store)]
    peak = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, float(peak)


def compared(base: Path, logs: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Both imports of one case; the order of the versions alternates."""
    times: dict[str, list[float]] = {"first": [], "repeated": []}
    memory = {name: {"old": 0.0, "new": 0.0} for name in times}
    for turn in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name in times:
                seconds = {}
                for version, root in [("old", base), ("new", ROOT)][:: 1 if turn % 2 else -1]:
                    seconds[version], peak = run(root, logs, Path(scratch) / version)
                    memory[name][version] = max(memory[name][version], round(peak))
                times[name].append(seconds["new"] / seconds["old"])
    return {name: {"ratio": median_interval(times[name]), "memory_mb": memory[name]} for name in times}


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="commit of the earlier version")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base, folder, rows = Path(scratch) / "base", Path(scratch), {}
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(base), options.base], cwd=ROOT, check=True)
        try:
            logs: dict[str, Path] = {}
            for write in dict.fromkeys(CASES[name] for name in options.cases):
                logs |= write(folder, options.rows)
            for name in options.cases:
                rows[name] = compared(base, logs[name], folder, options.repeats)
                print(name, json.dumps(rows[name]), flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(base)], cwd=ROOT, check=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread"
    result = {"base": options.base, "rows": options.rows, "repeats": options.repeats, "machine": machine, "cases": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
