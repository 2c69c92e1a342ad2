"""The peer's side of benchmarks/data.py: runs in its environment and imports nothing of worldline.

`python data_peer.py serve FORMAT` reads requests and answers one JSON object per line until its input ends. FORMAT is
one of `FORMATS`, or "frames" to render. A process serves one format, because the peer's Lance reader changes how later
workers start.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

FORMATS = ("lance", "hdf5", "hdf5-zstd", "hdf5-memory", "folder", "video")
"""The peer's four writers. hdf5-zstd is its HDF5 file with each frame compressed, which its reader supports.
hdf5-memory is its HDF5 reader with every column in memory."""

FORKED = ("hdf5", "hdf5-zstd", "hdf5-memory", "folder")
"""Formats whose workers can be forked, which starts them fast; the libraries of the others use threads."""

NUM_STEPS, FRAMESKIP, BATCH_SIZE, ROWS = 4, 5, 64, 61
SCENES = {"two-room": "swm/TwoRoom-v1", "push-t": "swm/PushT-v1", "cube": "swm/OGBCube-v0"}
Reply = dict[str, Any]


def files_of(form: str, folder: Path) -> Path:
    """The path of a format's data."""
    return {"lance": folder / "data.lance", "folder": folder / "folder", "video": folder / "video"}.get(
        form, folder / f"{form.removesuffix('-memory')}.h5"
    )


def episodes_of(frames: Path) -> Iterator[dict[str, list[NDArray[np.generic]]]]:
    """The input of the peer's writers: one list per column."""
    camera = np.load(frames / "camera.npy", mmap_mode="r")
    position, action = np.load(frames / "position.npy"), np.load(frames / "action.npy")
    for number in range(len(camera)):
        yield {
            "pixels": list(np.array(camera[number])),
            "proprio": list(position[number]),
            "action": list(action[number]),
        }


def write(form: str, frames: Path, folder: Path) -> Reply:
    """Writes a set with the peer's own writer, all episodes at once, which is its fastest way."""
    path = files_of(form, folder)
    episodes = list(episodes_of(frames))
    begin = time.perf_counter()
    if form == "hdf5-zstd":
        compress(files_of("hdf5", folder), path)
    else:
        data = import_module("stable_worldmodel.data")
        with data.get_format(form).open_writer(path, mode="overwrite") as writer:
            writer.write_episodes(episodes)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {"write_s": time.perf_counter() - begin, "bytes": sum(file.stat().st_size for file in files)}


def compress(source: Path, path: Path) -> None:
    """Writes the peer's HDF5 file with zstd on every frame: its reader registers these filters, its writer does not."""
    h5py, plugin = import_module("h5py"), import_module("hdf5plugin")
    with h5py.File(source) as old, h5py.File(path, "w", libver="latest") as new:
        for name, column in old.items():
            options = {"chunks": column.chunks, **plugin.Zstd(clevel=3)} if name == "pixels" else {}
            new.create_dataset(name, data=column[:], **options)


def open_dataset(form: str, folder: Path) -> Any:
    """The peer's reader, with small columns in memory where it supports that, which is faster."""
    data = import_module("stable_worldmodel.data")
    options: dict[str, Any] = {}
    if form.startswith("hdf5"):
        options["keys_to_cache"] = ["proprio", "action"] + (["pixels"] if form == "hdf5-memory" else [])
    if form == "video":
        options["video_keys"] = ["pixels"]
    name = form.partition("-")[0]
    return data.get_format(name).open_reader(
        files_of(form, folder), frameskip=FRAMESKIP, num_steps=NUM_STEPS, **options
    )


def samples_of(dataset: Any, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Windows by index, in one call where the reader supports it, as its DataLoader does."""
    fetch = getattr(dataset, "__getitems__", None)
    return fetch(numbers) if fetch is not None else [dataset[number] for number in numbers]


class Source(Protocol):
    """An endless iterator of random batches."""

    workers: int

    def next(self) -> object:
        """The next batch."""


class Draws:
    """Endless random batches, in this process or from workers."""

    def __init__(self, form: str, dataset: Any, workers: int, seed: int) -> None:
        torch_data = import_module("torch.utils.data")
        self.collate: Callable[[list[dict[str, Any]]], dict[str, Any]] = torch_data.default_collate
        self.dataset, self.generator = dataset, np.random.default_rng(seed)
        self.workers, self.loaded = workers, None
        if workers:
            random = torch_data.RandomSampler(dataset, replacement=True, num_samples=1 << 30)
            start = "fork" if form in FORKED else "spawn"
            self.loaded = iter(
                torch_data.DataLoader(
                    dataset, BATCH_SIZE, sampler=random, num_workers=workers, multiprocessing_context=start
                )
            )

    def next(self) -> dict[str, Any]:
        """A stacked batch of windows."""
        if self.loaded is not None:
            return next(self.loaded)
        numbers = self.generator.integers(len(self.dataset), size=BATCH_SIZE).tolist()
        return self.collate(samples_of(self.dataset, numbers))


def measure(draws: Source, seconds: float) -> Reply:
    """Windows drawn in about `seconds` of wall time, and the processor time of this process and its workers."""
    for _ in range(2 * draws.workers + 1):  # discard the batches that workers prepared before the clock starts
        draws.next()
    cpu, begin, batches = processor_s(), time.perf_counter(), 0
    # Workers finish together, so with few batches the stop time would bias the rate.
    while (
        batches < max(2, 6 * draws.workers) or batches % max(1, draws.workers) or time.perf_counter() - begin < seconds
    ):
        draws.next()
        batches += 1
    wall = time.perf_counter() - begin
    used = processor_s() - cpu
    settle()
    return {"windows": batches * BATCH_SIZE, "wall_s": wall, "cpu_s": used}


def settle() -> None:
    """Waits until the workers have filled their queues, so that they do not disturb the next measurement."""
    before = -1.0
    while multiprocessing.active_children() and processor_s() - before > 0.015:
        before = processor_s()
        time.sleep(0.1)


def processor_s() -> float:
    """User and system time of this process and its running workers."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def check(dataset: Any, frames: Path) -> Reply:
    """Error of every fourth episode against the written frames, and whether windows are aligned."""
    camera = np.load(frames / "camera.npy", mmap_mode="r")
    columns = {"proprio": np.load(frames / "position.npy"), "action": np.load(frames / "action.npy")}
    squares, worst, exact = 0.0, 0, True
    whole = {}  # whole episodes, with every frame
    dataset.frameskip = 1
    for number in range(0, len(camera), 4):
        read = dataset.load_episode(number)
        whole[number] = read["pixels"].numpy()
        error = np.abs(whole[number].transpose(0, 2, 3, 1).astype(np.int16) - camera[number])
        squares += float(np.square(error, dtype=np.int32).sum())
        worst = max(worst, int(error.max()))
        exact &= all(np.array_equal(read[name].numpy(), column[number]) for name, column in columns.items())
    dataset.frameskip = FRAMESKIP
    numbers = np.random.default_rng(0).integers(len(dataset), size=BATCH_SIZE).tolist()
    aligned = True
    for number, sample in zip(numbers, samples_of(dataset, numbers), strict=True):
        episode, start = dataset.clip_indices[number]
        rows = slice(start, start + NUM_STEPS * FRAMESKIP)
        if episode in whole:
            aligned &= np.array_equal(sample["pixels"].numpy(), whole[episode][rows][::FRAMESKIP])
        aligned &= np.array_equal(sample["action"].numpy().reshape(-1, 2), columns["action"][episode, rows])
    mean = squares / camera[::4].size
    psnr = 10 * np.log10(255**2 / mean) if mean else None
    return {"psnr_db": psnr, "worst_error": worst, "vectors_exact": bool(exact), "windows_aligned": aligned}


def render(scene: str, num_episodes: int, frames: Path, seed: int) -> Reply:
    """Renders a set from one of the peer's environments, with random actions that are held for some steps each."""
    import_module("stable_worldmodel")
    environment = import_module("gymnasium").make(SCENES[scene], render_mode="rgb_array", disable_env_checker=True)
    generator = np.random.default_rng(seed)
    environment.reset(seed=seed)
    size = np.asarray(environment.render()).shape
    camera = np.empty((num_episodes, ROWS, *size), np.uint8)
    position, action = (np.zeros((num_episodes, ROWS, 2), np.float32) for _ in range(2))
    for episode in range(num_episodes):
        environment.reset(seed=seed + episode)
        for row in range(ROWS):
            camera[episode, row] = environment.render()
            if row % 4 == 0:
                held = generator.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
            move = toward_block(environment.unwrapped, held) if scene == "push-t" else held
            action[episode, row] = move[:2]
            position[episode, row] = whereabouts(environment.unwrapped, scene)
            environment.step(move)
    frames.mkdir(parents=True, exist_ok=True)
    np.save(frames / "position.npy", position)
    np.save(frames / "action.npy", action)
    np.save(frames / "camera.part.npy", camera)
    (frames / "camera.part.npy").rename(frames / "camera.npy")
    return {"frames": num_episodes * ROWS}


def toward_block(environment: Any, noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """A random move near the block, so that it is pushed, like the peer's collection policy."""
    block, agent = (np.array(body.position) for body in (environment.block, environment.agent))
    move: NDArray[np.float64] = np.clip((block + 100 * noise - agent) / environment.action_scale, -1, 1)
    return move.astype(np.float32)


def whereabouts(environment: Any, scene: str) -> NDArray[np.float32]:
    """The agent's position as two numbers."""
    if scene == "two-room":
        return np.asarray(environment.agent_position, np.float32)
    if scene == "push-t":
        return np.asarray(environment.agent.position, np.float32)
    return np.asarray(environment.data.qpos[:2], np.float32)


def versions() -> Reply:
    """Versions of the packages that affect speed."""
    names = ["stable-worldmodel", "lancedb", "pylance", "torch", "torchvision", "numpy", "h5py", "hdf5plugin"]
    names += ["decord", "imageio", "pillow"]
    return {name: version(name) for name in names}


def answer(form: str, ask: Reply, draws: dict[int, Draws]) -> Reply:
    """Answers one request; `draws` holds the open iterators by number of workers."""
    folder, frames = Path(ask.get("folder", ".")), Path(ask.get("frames", "."))
    match ask["do"]:
        case "versions":
            return versions()
        case "render":
            return render(ask["scene"], ask["episodes"], frames, ask["seed"])
        case "write":
            return write(form, frames, folder)
        case "check":
            return check(open_dataset(form, folder), frames)
        case "open":
            dataset = open_dataset(form, folder)
            draws[ask["workers"]] = Draws(form, dataset, ask["workers"], ask["seed"])
            draws[ask["workers"]].next()
            return {"windows": len(dataset)}
        case "measure":
            return measure(draws[ask["workers"]], ask["seconds"])
        case "close":
            draws.pop(ask["workers"], None)
            return {}
    raise ValueError(f"unknown request: {ask['do']}")


def serve(form: str, replies: TextIO) -> None:
    """Answers each line of standard input."""
    draws: dict[int, Draws] = {}
    for line in sys.stdin:
        print(json.dumps(answer(form, json.loads(line), draws)), file=replies, flush=True)


def main() -> None:
    """Serves requests; redirects the peer's output to standard error."""
    if sys.argv[1:2] != ["serve"]:
        print("benchmarks/data.py runs this file inside the peer's environment.")
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import_module("torch").set_num_threads(1)  # two threads cost more waiting than they gain
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("MUJOCO_GL", "egl")
    serve(sys.argv[2], replies)


if __name__ == "__main__":
    main()
