"""Our side of benchmarks/data.py, and the environment of the peer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import Row, spread
from data_frames import BATCH_SIZE, NUM_OBSERVATIONS, STRIDE, FrameSet
from data_peer import measure

from worldline.data.image_block import round_off
from worldline.data.store import Store, open_store
from worldline.data.windows import WindowBatch, Windows

PEER_PACKAGES = (
    *("stable-worldmodel==0.1.1", "h5py", "hdf5plugin", "decord", "imageio[ffmpeg]"),  # its formats
    *("pygame", "pymunk", "shapely", "opencv-python-headless", "ogbench", "dm_control", "mujoco<4"),  # its scenes
)
ERRORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
SIGNALS = ("camera", "position", "action")


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
