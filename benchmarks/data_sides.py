"""The two sides of benchmarks/data.py: processes of the peer in a separate environment, and our store."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_frames import FrameSet
from data_layouts import BATCH_SIZE, NUM_OBSERVATIONS, STRIDE
from data_peer import measure

from worldline.data.image_block import round_off
from worldline.data.store import Store, open_store
from worldline.data.windows import WindowBatch, Windows

PEER_VERSION = "0.1.1"
PEER_PACKAGES = (
    *(f"stable-worldmodel=={PEER_VERSION}", "h5py", "hdf5plugin", "decord", "imageio[ffmpeg]"),  # its formats
    *("pygame", "pymunk", "shapely", "opencv-python-headless", "ogbench", "dm_control", "mujoco<4"),  # its scenes
)
ERRORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
SIGNALS = ("camera", "position", "action")

Row = dict[str, Any]


def peer_python(cache: Path) -> str:
    """Creates the environment with the peer once; returns its Python."""
    python = cache / "peer" / "bin" / "python"
    if not (cache / "peer" / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache / "peer"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        (cache / "peer" / "complete").touch()
    return str(python)


class Peer:
    """A peer process that serves one format."""

    def __init__(self, python: str, form: str, log: Path) -> None:
        command = [python, str(Path(__file__).with_name("data_peer.py")), "serve", form]
        self.log = log / f"{form}.log"
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def ask(self, do: str, **what: object) -> Row:
        """The answer to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **what}, default=str), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer failed at {do} {what}:\n{self.log.read_text()[-2000:]}")
        reply: Row = json.loads(line)
        return reply

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def spread(values: Sequence[float]) -> Row:
    """Median, minimum, maximum and all repetitions."""
    rounded = [round(value, 2) for value in values]
    return {"median": statistics.median(rounded), "low": min(rounded), "high": max(rounded), "repeats": rounded}


class Ours:
    """A store of a set's frames, read by one thread."""

    def __init__(self, frames: FrameSet, path: Path, max_error: int) -> None:
        self.frames, self.path, self.max_error = frames, path, max_error
        store = Store.create(path, frames.schema, max_error={"camera": max_error})
        begin = time.perf_counter()
        for episode in frames.episodes():
            store.append(episode)
        self.write_s = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        self.bytes_per_frame = size / frames.num_frames
        self.store = open_store(path)
        self.windows = Windows(self.store, NUM_OBSERVATIONS, range(len(self.store)), SIGNALS, stride=STRIDE)
        self.draws = StoreDraws(self.windows)
        self.measured: list[Row] = []

    def measure(self, seconds: float) -> None:
        """Adds a measurement."""
        self.measured.append(measure(self.draws, seconds))

    def check(self) -> Row:
        """Error of the read frames against the written ones."""
        camera, position, action = self.frames.camera, self.frames.position, self.frames.action
        squares, worst, exact = 0.0, 0, True
        for number in range(len(self.store)):
            read = self.store.episode(number)
            exact &= np.array_equal(read.observations["position"], position[number])
            exact &= np.array_equal(read.actions["action"], action[number, :-1])
            if not np.array_equal(read.observations["camera"], camera[number]):
                error = read.observations["camera"].astype(np.int16) - camera[number]
                squares += float(np.square(error, dtype=np.int32).sum())
                worst = max(worst, int(np.abs(error).max()))
        batch, aligned = self.windows.sample(BATCH_SIZE, np.random.default_rng(0)), True
        for place, (episode, start) in enumerate(batch.starts.tolist()):
            end = start + (NUM_OBSERVATIONS - 1) * STRIDE
            as_stored = self.store.read("camera", episode, start, end + 1)[::STRIDE]
            aligned &= np.array_equal(batch.observations["camera"][place], as_stored)
            aligned &= np.array_equal(batch.actions["action"][place], action[episode, start:end])
        psnr = float(10 * np.log10(255**2 * camera.size / squares)) if squares else None
        return {"psnr_db": psnr, "worst_error": worst, "vectors_exact": exact, "windows_aligned": aligned}

    def rows(self) -> list[Row]:
        """The results."""
        checked = self.check()
        if not (checked["vectors_exact"] and checked["windows_aligned"] and checked["worst_error"] <= self.max_error):
            raise AssertionError(f"{self.path} does not return the frames that were written: {checked}")
        kept = {
            "format": "store",
            "max_error": self.max_error,
            "lossless": self.max_error == 0,
            "bytes_per_frame": round(self.bytes_per_frame, 1),
            "write_s": round(self.write_s, 2),
            **checked,
        }
        return [{**kept, "threads": 1, **speeds(self.measured)}]


class StoreDraws:
    """Endless random batches of a store; each reuses the arrays of the previous one."""

    workers = 0

    def __init__(self, windows: Windows) -> None:
        self.windows, self.generator = windows, np.random.default_rng(0)
        self.batch: WindowBatch | None = None

    def next(self) -> object:
        """The next batch."""
        self.batch = self.windows.sample(BATCH_SIZE, self.generator, into=self.batch)
        return self.batch


def speeds(measured: Sequence[Row]) -> Row:
    """Windows per second of wall time and of processor time."""
    per_cpu_s = spread([one["windows"] / one["cpu_s"] for one in measured])
    return {**spread([one["windows"] / one["wall_s"] for one in measured]), "per_cpu_s": per_cpu_s}


def error_for(frames: FrameSet, psnr_db: float) -> int:
    """The largest `max_error` with at least this PSNR; 0 if none reaches it."""
    counts = sum(np.bincount(episode.reshape(-1), minlength=256) for episode in frames.camera)
    values = np.arange(256)
    enough = [0]
    for error in ERRORS:
        off = round_off(values.astype(np.uint8), error).astype(int) - values
        mean = float((counts * off**2).sum()) / frames.camera.size
        if not mean or 10 * np.log10(255**2 / mean) >= psnr_db:
            enough.append(error)
    return max(enough)
