"""`worldline doctor`: what a machine has, what it lacks, and what its measured rates mean for training and planning."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from packaging.requirements import Requirement

from worldline.data.array_size import memory_bytes
from worldline.data.fsync import name_in_errors
from worldline.data.store import Store
from worldline.device import CPU, choose_device, has_bfloat16
from worldline.errors import InputError
from worldline.formatting import duration, number, plural, size
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.base import Goal
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.training.heads.fitting import fit_heads
from worldline.training.loop import Run
from worldline.workers import num_cores
from worldline.workflows.learn_result import peak_memory_gb, versions
from worldline.workflows.record import record
from worldline.workflows.training import build_engine, build_model
from worldline.world.local import LocalWorld

PURPOSES: Final = {
    "tables": "Parquet files", "video": "video files", "lerobot": "LeRobot datasets", "language": "language models",
    "forecast": "pretrained forecasters", "features": "pretrained image encoders", "track": "curves in TensorBoard",
    "envs": "environments of benchmarks", "serve": "service and studio", "postgres": "service with PostgreSQL",
    "mcp": "tools of agents", "client": "worlds behind a URL", "play": "export as a page or ONNX",
    "cluster": "tasks on several machines", "dev": "development of worldline",
}  # fmt: skip
"""What each extra is for."""
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Where Linux states the available memory, and the limits of a container (version 2)."""
REPEATS, LIMIT_S = 30, 0.5
"""Most repetitions of a measurement, and seconds after which it is not repeated."""
BLOCK, PAGE = 8 * 2**20, 4096
"""Bytes that are written or read at once, and bytes of a read at a random place, such as one of a window."""
SIZES: Final = {"cpu": 512, "cuda": 4096, "mps": 2048}
"""Rows and columns of the matrices. A product occupies the whole device, and takes milliseconds."""
ALONE, SLOWER = "1 thread", 1.25
"""Where a rate is measured first, and factor from which several threads count as slower; smaller ones are noise."""
LOW_DISK_BYTES, LOW_FILES, LOW_MEMORY = 5e9, 1024, 2.0
"""Free space, open files, and available memory relative to that of this process, below which the report warns."""
LOGGED_STEPS, HORIZON, CANDIDATES, LOOP_HZ = 100_000, 20, 256, 10
"""Sizes for which the conclusions hold."""

Rates = Mapping[str, Mapping[str, float]]
"""Values by name with unit, and by place: "1 thread", "2 threads", the name of a GPU, or "disk"."""


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """The result of `examine_machine`.

    Args:
        facts: what this process can use, by name: text, counts, and bytes where the name ends with "_bytes".
        extras: for each extra of worldline its packages that are missing or have the wrong version, in words.
        rates: medians of several repetitions.
        conclusions: what the rates mean, as sentences.
        problems: what is wrong and what to do, as sentences; includes notes.
        broken: packages of the core that are missing or have the wrong version; empty if worldline works.
    """

    facts: Mapping[str, Any]
    extras: Mapping[str, tuple[str, ...]]
    rates: Rates
    conclusions: tuple[str, ...]
    problems: tuple[str, ...]
    broken: tuple[str, ...]


def examine_machine(folder: Path | str = ".") -> MachineReport:
    """Examines machine and installation, and measures rates; takes about ten seconds.

    The number of torch threads is restored, and nothing stays in the folder.

    Args:
        folder: on the disk to measure. At most 248 MiB are written there, less if little space is free.

    Raises:
        InputError: the folder does not exist, or is not a folder.
        OSError: the folder is not writable, or its disk is full.
    """
    if not (folder := Path(folder)).is_dir():
        raise InputError(f"{folder} is not a folder. Give an existing folder on the disk to measure.")
    facts, broken, computed = _facts(folder), unmet("worldline"), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".worldline-doctor-") as scratch:
        written = dict(_disk_rates(Path(scratch) / "disk", facts["free_disk_bytes"]))
        store = record(TwoRooms(camera=False), Path(scratch) / "store", num_episodes=24, max_steps=40, seed=0)
        recipe = vectors(store).with_settings({"planner.num_candidates": CANDIDATES})
        for place, name, value in _compute_rates(store, recipe, facts["cores"]):
            computed.setdefault(name, {})[place] = value
    rates = computed | {name: {"disk": value} for name, value in written.items()}
    names = metadata.metadata("worldline").get_all("Provides-Extra") or ()
    return MachineReport(
        facts=facts,
        extras={name: unmet("worldline", name) for name in names},
        rates=rates,
        conclusions=conclusions(rates, recipe),
        problems=(*problems(facts, rates), *(f"The core needs {line}. Install that version." for line in broken)),
        broken=broken,
    )


def unmet(distribution: str, extra: str = "") -> tuple[str, ...]:
    """The requirements of an installed distribution, or of one of its extras, that are not met, in words."""
    lines = list[str]()
    for needed in map(Requirement, metadata.requires(distribution) or ()):
        if needed.marker.evaluate({"extra": extra}) if needed.marker else not extra:
            version = next((each.version for each in metadata.distributions(name=needed.name)), "")
            if not version or not needed.specifier.contains(version, prereleases=True):
                lines.append(f"{needed.name}{needed.specifier} ({version or 'not'} installed)")
            else:
                lines += [line for part in needed.extras for line in unmet(needed.name, part)]
    return tuple(lines)


def _facts(folder: Path) -> dict[str, Any]:
    """What this process can use."""
    import resource  # not available on Windows

    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    limit, used = _number(CGROUP / "memory.max", math.inf), _number(CGROUP / "memory.current", 0.0)
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **versions(),
        "cores": min(num_cores(), _number(CGROUP / "cpu.max", math.inf)),
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "bfloat16_instructions": "yes" if has_bfloat16() else "no",
        "GPU": ", ".join(f"{gpu.name} ({size(gpu.total_memory)})" for gpu in gpus)
        or ("none" if choose_device() == CPU else "mps"),
        "memory_bytes": min(memory_bytes(), limit),
        "available_memory_bytes": min(1024 * _number(MEMINFO, math.nan, "MemAvailable:"), limit - used),
        "free_disk_bytes": shutil.disk_usage(folder).free,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _number(file: Path, default: float, name: str = "") -> float:
    """The number after a name in a file of Linux, divided by the period after it if there is one; else the default."""
    match = re.search(rf"^{name}\s*(\d+)(?: (\d+))?", file.read_text(), re.MULTILINE) if file.exists() else None
    return int(match[1]) / int(match[2] or 1) if match else default


def _per_second(call: Callable[[], object], device: torch.device = CPU, repeats: int = 0) -> float:
    """Calls per second, from their median time. The first call is not counted, because libraries load at first use."""
    times_s = list[float]()
    while len(times_s) <= (repeats or REPEATS) and sum(times_s[1:]) < LIMIT_S:
        started = time.perf_counter()
        call()
        if device != CPU:
            torch.accelerator.synchronize(device)
        times_s.append(time.perf_counter() - started)
    return 1 / float(np.median(times_s[1:]))


def _disk_rates(path: Path, free_bytes: int) -> Iterator[tuple[str, float]]:
    """Rates of a new file, which the caller removes. Reads come from the disk if the system can empty its cache."""
    block, fill = os.urandom(BLOCK), min(REPEATS, free_bytes // 4 // BLOCK - 1)  # random, as file systems compress
    with name_in_errors(path), path.open("w+b") as file:

        def write() -> None:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())

        yield "write, MB/s", BLOCK / 1e6 * _per_second(write, repeats=max(1, fill))
        num_blocks = path.stat().st_size // BLOCK
        pages = np.random.default_rng(0).choice(num_blocks * BLOCK // PAGE, REPEATS + 1, replace=False)
        for name, places, length in (("read, MB/s", np.arange(num_blocks), BLOCK), ("4 KiB reads/s", pages, PAGE)):
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            starts = iter((places * length).tolist())
            reads = _per_second(partial(_read_next, file.fileno(), length, starts), repeats=len(places) - 1)
            yield name, reads if length == PAGE else BLOCK / 1e6 * reads


def _read_next(file: int, length: int, starts: Iterator[int]) -> bytes:
    return os.pread(file, length, next(starts))


def _compute_rates(store: Store, recipe: Recipe, cores: float) -> Iterator[tuple[str, str, float]]:
    """Rates with one thread, with a thread per core, and on the GPU if there is one: place, name, value."""
    before, gpu = torch.get_num_threads(), choose_device()
    places = {ALONE: (CPU, 1)} | ({f"{int(cores)} threads": (CPU, int(cores))} if cores >= 2 else {})
    places |= {} if gpu == CPU else {str(gpu): (gpu, before)}
    try:
        for place, (device, threads) in places.items():
            torch.set_num_threads(threads)
            for name, value in _device_rates(store, recipe, device):
                yield place, name, value
    finally:
        torch.set_num_threads(before)


def _device_rates(store: Store, recipe: Recipe, device: torch.device) -> Iterator[tuple[str, float]]:
    """Rates of matrix products and copies, and of updates and plans of the untrained recipe."""
    side, block, rate = SIZES[device.type], torch.zeros(BLOCK // 4), partial(_per_second, device=device)
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.rand(side, side).to(device, kind)
        yield f"{str(kind)[6:]} products, GFLOP/s", 2e-9 * side**3 * rate(partial(torch.mm, matrix, matrix))
    if device != CPU:
        yield "copies to the GPU, MB/s", BLOCK / 1e6 * rate(partial(block.to, device))

    # Training: batches with their loading.
    split, inputs = recipe.split(store), recipe.model_config.inputs
    model = build_model(store, split, recipe).to(device)
    updates = Run(model, store, split, inputs, recipe.training, store.path.parent).updates

    def update() -> None:
        updates.gradient(0)
        updates.apply(0)

    yield "updates/s", rate(update)

    # Planning: one world at a time, towards the end of an episode.
    heads = fit_heads(model.requires_grad_(False).eval(), store, split, inputs, recipe.heads)
    world = LocalWorld(build_engine(store, recipe, model, heads), None, recipe.planner)
    episode = store.episode(0)
    goal = Goal(targets={"position": episode.observations["position"][-1]}, tolerance={"position": 1.0})
    yield "plans/s", rate(partial(world.plan, episode.history(world.describe().context - 1), goal, horizon=HORIZON))


def slower_threads(rates: Rates) -> str:
    """What is slower on several threads than on one, and what to do; "" if nothing is."""
    rows = [(name, row[ALONE], row[place]) for name, row in rates.items() for place in row if place.endswith("threads")]
    slower = {name: alone / together for name, alone, together in rows if alone > SLOWER * together}
    if not slower:
        return ""
    worst = max(slower, key=slower.__getitem__)
    return (
        f"Several threads are slower than {ALONE}: {worst} fall by a factor of {number(slower[worst])}. Small worlds "
        "and busy cores have this effect. Set OMP_NUM_THREADS=1, and give commands --threads 1."
    )


def conclusions(rates: Rates, recipe: Recipe) -> tuple[str, str]:
    """What the highest rates mean for training and planning with the measured recipe."""
    (on, updates), (by, plans) = (
        max(rates[name].items(), key=lambda item: item[1]) for name in ("updates/s", "plans/s")
    )
    training, verdict = recipe.training, "is possible" if plans > LOOP_HZ else "is not possible"
    passes = training.num_updates * training.batch_size * (training.window - 1) / LOGGED_STEPS
    costs = f"{number(1000 / updates)} ms each, {number(passes)} passes"
    return (
        f"Training: a world from {number(LOGGED_STEPS)} steps with {number(training.num_updates)} updates ({costs}) "
        f"takes about {duration(training.num_updates / updates)}, on {on}.",
        f"Planning: a plan of {HORIZON} steps with {CANDIDATES} candidates takes {number(1000 / plans)} ms, on {by}. "
        f"A loop of {LOOP_HZ} Hz {verdict}.",
    )


def problems(facts: Mapping[str, Any], rates: Rates) -> tuple[str, ...]:
    """What is scarce or slow, and what to do."""
    threads, cores, used_gb = facts["torch_threads"], max(1, int(facts["cores"])), peak_memory_gb()
    disk, memory, files = (facts[name] for name in ("free_disk_bytes", "available_memory_bytes", "open_files"))
    checks = {
        f"Only {size(disk)} of disk is free. Free space, or use another disk.": disk < LOW_DISK_BYTES,
        f"Only {size(memory)} of memory is available. End other programs.": memory < 1e9 * LOW_MEMORY * used_gb,
        f"torch uses {threads} threads on {plural(cores, 'core')}. Set OMP_NUM_THREADS={cores}.": threads > cores,
        f"A process may open only {files} files. Run ulimit -n 4096 before a service.": files < LOW_FILES,
        "Note: torch has no GPU. If there is one, install its driver and a torch build for it.": facts["GPU"] == "none",
        slower_threads(rates): True,
    }
    return tuple(text for text, holds in checks.items() if text and holds)
