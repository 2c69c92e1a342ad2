"""Curves of time against size, with fitted exponents, and what they mean for larger machines.

Run: .venv/bin/python benchmarks/scale_curves.py [--parts PART ...] [--rounds 5]
     [--image docs/images/scale.png]
Writes benchmarks/results/scale_curves.json, part by part, and the picture once it holds all parts.

training: an update of the recipe `vectors` (128 windows of 9 observations, loading included) against parameters.
shared: that update in two processes with gloo against one.
plan: a plan of that recipe, untrained, against candidates, horizon and parameters.
windows: a batch of 64 windows of 4 frames from a store of constant 16-pixel pictures and vectors, against frames.
clients: latency of a prediction over loopback against clients that wait for their answers.
exam: all tests of the exam for the subject `linear` against worker processes.
tasks: calls without work against their number, on two processes and on a local cluster of Ray.

Everything runs with one thread per process. The sizes of a curve take turns in every round. The exponent of a round is
the slope of the line through all points on logarithmic axes; stated is the median of the rounds with its interval.
`estimates` computes the table of docs/scale.md from the curves and from data sheets.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from socket import socket
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import uvloop
from common import RESULTS, Row, arguments, median_interval, one_thread, read, show, write
from data_scale import STEPS, batch_time, opened, sparse_store
from device import Side
from matplotlib import style
from matplotlib.ticker import NullFormatter
from serve import closed_loop, predict, served
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

import worldline
from worldline.data.store import Store, open_store
from worldline.device import CPU
from worldline.formatting import number
from worldline.labs.two_rooms import TwoRooms
from worldline.models.base import WorldModel
from worldline.planning.base import Goal
from worldline.plots.figure import SETTINGS, PlotFigure, palette
from worldline.progress import Progress
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.training.distributed import processes
from worldline.training.heads.fitting import fit_heads
from worldline.training.loop import Run
from worldline.workers import run_tasks
from worldline.workflows.record import record
from worldline.workflows.training import build_engine, build_model, learn_world
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld
from worldline_exam.options import ExamOptions
from worldline_exam.run import exam
from worldline_exam.subjects import TrivialSubject

WIDTHS: Final = (500, 950, 1700, 3100, 5400)
"""Of the predictor: 0.3 to 30 million parameters."""
CANDIDATES, HORIZONS = (16, 64, 256, 1024, 4096), (5, 10, 20, 40, 80)
FRAMES: Final = tuple(10**power for power in range(4, 9))
CLIENTS: Final = (1, 2, 4, 8, 16, 32, 64)
WORKERS: Final = (1, 2, 4)
TASKS: Final = (10, 100, 1000)
LIMIT_S, SECONDS = 0.5, 3.0
"""Time after which a call is not repeated within a round, and of a number of clients within a round."""

PEAK, SHARE = 989e12, 0.4
"""Operations per second of an H100 (SXM) in bfloat16, dense, by its data sheet; and the share that is assumed."""
LINK, NETWORK, GPUS_OF_A_MACHINE = 450e9, 50e9, 8
"""Bytes per second of a GPU to others of its machine (NVLink, one direction) and of other machines (400 Gbit/s), by the
data sheet of a DGX H100."""
COLLECTIVE_S: Final = 30e-6
"""Assumed time of a small collective."""
MACHINES: Final = ((1, 128), (1, 1024), (8, 128), (8, 8192), (8000, 1_024_000))
"""GPUs and windows of an update."""
LEWM_PARAMETERS, SIDE = 18.04e6, 224


def median_s(call: Callable[[], object]) -> float:
    """Median time of at least two calls."""
    times = list[float]()
    while len(times) < 2 or sum(times) < LIMIT_S:
        started_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - started_s)
    return float(np.median(times))


def curve(sizes: Sequence[float], timers: Sequence[Callable[[], float]], rounds: int, warm_up: int = 1) -> Row:
    """Times of all sizes in every round after those for warm-up, with the exponents."""
    times = np.array([[timer() for timer in timers] for _ in range(warm_up + rounds)])[warm_up:]
    logs = np.log(sizes)
    slopes = [float(np.polyfit(logs, np.log(row), 1)[0]) for row in times]
    last = np.log(times[:, -1] / times[:, -2]) / (logs[-1] - logs[-2])
    return {
        "sizes": list(map(float, sizes)),
        "seconds": np.median(times, 0).tolist(),
        "rounds": times.tolist(),
        "exponent": median_interval(slopes),
        "exponent_at_the_end": median_interval(last),
    }


class Operations(TorchDispatchMode):
    """Counts the operations that torch issues."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch gives TorchDispatchMode no annotations
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts an operation and runs it."""
        self.count += 1
        return operation(*args, **kwargs or {})


def small_store(folder: Path) -> Store:
    """Episodes of Two Rooms without a camera."""
    return record(TwoRooms(camera=False), folder / "store", num_episodes=24, max_steps=40, seed=0)


def sized(store: Store, width: int, **settings: Any) -> tuple[Recipe, WorldModel]:
    """The recipe with a predictor of this width, and its untrained model."""
    recipe = vectors(store).with_settings({"model.predictor.width": width, **settings})
    return recipe, build_model(store, recipe.split(store), recipe)


def num_parameters(model: WorldModel) -> int:
    """The number of trained values."""
    return sum(weights.numel() for weights in model.parameters())


def update(store: Store, recipe: Recipe, model: WorldModel) -> Callable[[], None]:
    """An update of a training."""
    split, inputs = recipe.split(store), recipe.model_config.inputs
    updates = Run(model, store, split, inputs, recipe.training, store.path.parent).updates

    def call() -> None:
        updates.gradient(0)
        updates.apply(0)

    return call


def training(folder: Path, rounds: int) -> Row:
    """An update against parameters; the time of an almost empty update is that of issuing its operations."""
    store = small_store(folder)
    models = [sized(store, width) for width in WIDTHS]
    calls = [update(store, *each) for each in models]
    empty = sized(store, 8, **{"training.batch_size": 2})
    issue = update(store, *empty)
    with Operations() as operations:
        issue()
    result = curve([num_parameters(model) for _, model in models], [partial(median_s, each) for each in calls], rounds)
    windows = models[0][0].training.batch_size
    return result | {
        "issue_s": median_s(issue),
        "operations": operations.count,
        "batch_size": windows,
        "steps": models[0][0].training.window - 1,
        "load_s": median_s(partial(_batch, store, models[0][0])),
    }


def shared(folder: Path, rounds: int) -> Row:
    """An update in two processes, half of the batch each, against one process; and its collectives."""
    store = small_store(folder)
    times: Row = {}
    for size in (1, 2, 1, 2):  # the first two are for warm-up
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [(rank, size, port, store.path, rounds) for rank in range(size)]
        with get_context("spawn").Pool(size) as pool:
            times[str(size)] = pool.starmap_async(_joined, ranks, 1).get(600)[0]
    ratios = {width: np.divide(times["1"][width], times["2"][width]) for width in map(str, WIDTHS)}
    return {
        "parameters": [num_parameters(sized(store, width)[1]) for width in WIDTHS],
        "speed_up": [median_interval(ratio) for ratio in ratios.values()],
        "collectives": times["2"]["collectives"],
    }


def _joined(rank: int, size: int, port: int, path: Path, rounds: int) -> Row:
    """Times of an update by width, in one of several processes; and collectives per update."""
    one_thread()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    store, row = open_store(path), Row()
    with processes():
        for width in WIDTHS:
            call = update(store, *sized(store, width))
            call()
            times = list[float]()
            for _ in range(4 * rounds):  # as often in every process, since each waits for the others
                started_s = time.perf_counter()
                call()
                times.append(time.perf_counter() - started_s)
            row[str(width)] = times
        with ExitStack() as stack:
            names = ("all_reduce", "all_gather")
            calls = [
                stack.enter_context(patch.object(distributed, name, wraps=getattr(distributed, name))) for name in names
            ]
            call()
            row["collectives"] = sum(call.call_count for call in calls)
    return row


def _batch(store: Store, recipe: Recipe) -> object:
    """The loading of a batch."""
    config, names = recipe.training, [signal.name for signal in (*store.schema.observations, *store.schema.actions)]
    windows = store.windows(config.window, signals=names)
    return windows.sample(config.batch_size, np.random.default_rng(0))


def plan(folder: Path, rounds: int) -> Row:
    """A plan against candidates, horizon and parameters."""
    store = small_store(folder)
    candidates = [_plan(store, WIDTHS[0], count, 20) for count in CANDIDATES]
    horizons = [_plan(store, WIDTHS[0], 256, horizon) for horizon in HORIZONS]
    sizes = [num_parameters(sized(store, width)[1]) for width in WIDTHS]
    return {
        "candidates": curve(CANDIDATES, candidates, rounds),
        "horizon": curve(HORIZONS, horizons, rounds),
        "parameters": curve(sizes, [_plan(store, width, 256, 20) for width in WIDTHS], rounds),
    }


def _plan(store: Store, width: int, candidates: int, horizon: int) -> Callable[[], float]:
    """The time of a plan towards the end of an episode."""
    recipe, model = sized(store, width, **{"planner.num_candidates": candidates})
    heads = fit_heads(
        model.requires_grad_(False).eval(), store, recipe.split(store), recipe.model_config.inputs, recipe.heads
    )
    world = LocalWorld(build_engine(store, recipe, model, heads), None, recipe.planner)
    episode = store.episode(0)
    goal = Goal(targets={"position": episode.observations["position"][-1]}, tolerance={"position": 1.0})
    history = episode.history(world.describe().context - 1)
    return partial(median_s, partial(world.plan, history, goal, horizon=horizon))


def windows(folder: Path, rounds: int) -> Row:
    """Batches and opening against frames."""
    paths = [folder / f"frames-{count}" for count in FRAMES]
    for path, count in zip(paths, FRAMES, strict=True):
        sparse_store(path, -(-count // (STEPS + 1)), side=16)
    batches = curve(FRAMES, [partial(batch_time, opened(path)) for path in paths], rounds)
    opening = curve(FRAMES, [partial(median_s, partial(open_store, path)) for path in paths], rounds)
    return {"batch": batches, "open": opening}


def clients(folder: Path, rounds: int) -> Row:
    """Median latency against clients, with calls per second and the 99th percentile."""
    store = small_store(folder)
    recipe = vectors(store).with_settings({"training.num_updates": 200})
    save_world(folder / "world", learn_world(store, recipe, folder=folder / "run").world)
    one = predict("world", worldline.open(folder / "world").describe())
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in CLIENTS}

    def latency(port: int, count: int) -> float:
        rate, latencies = uvloop.run(closed_loop(port, [one], count, SECONDS))
        rates[count].append((rate, float(np.quantile(latencies, 0.99))))
        return float(np.median(latencies))

    with served({"world": folder / "world"}, folder, batch=max(CLIENTS)) as (port, _):
        result = curve(CLIENTS, [partial(latency, port, count) for count in CLIENTS], rounds)
    middle = [np.median(rows[1:], 0).tolist() for rows in rates.values()]
    return result | {"calls_per_s": [row[0] for row in middle], "p99_s": [row[1] for row in middle]}


def exams(folder: Path) -> Row:
    """Seconds of an exam against workers, and of its parts with two workers; a single round."""
    parts = dict[str, float]()

    def timed(count: int, folder: Path) -> float:
        begun, started_s = dict[str, float](), time.perf_counter()

        def note(progress: Progress) -> None:
            name = f"{progress.stage} {progress.part}"
            if progress.part and not progress.ended:
                begun[name] = time.perf_counter()
            elif progress.part and name in begun:
                parts[name] = time.perf_counter() - begun[name]

        options = ExamOptions(num_processes=count)
        exam(TrivialSubject(name="linear"), folder, options, progress=note if count == 2 else None)
        return time.perf_counter() - started_s

    def fresh(count: int) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as path:
            return timed(count, Path(path) / "exam")

    result = curve(WORKERS, [partial(fresh, count) for count in WORKERS], 1, 0)
    stages: dict[str, list[float]] = {}
    for name, seconds in parts.items():
        stages.setdefault(name.split()[0], []).append(seconds)
    longest = {stage: max(seconds) for stage, seconds in stages.items()}
    return result | {"parts": parts, "longest_s": longest, "most_speed_up": sum(parts.values()) / sum(longest.values())}


def tasks() -> Row:
    """Calls without work, start and end of the workers included; a single round."""

    def timed(spec: int | str, count: int) -> float:
        started_s = time.perf_counter()
        list(run_tasks(abs, {str(task): (task,) for task in range(count)}, spec, "call"))
        return time.perf_counter() - started_s

    result = {}
    for name, spec in (("processes", 2), ("ray", "ray")):
        row = curve(TASKS, [partial(timed, spec, count) for count in TASKS], 1)
        more = (row["seconds"][-1] - row["seconds"][0]) / (TASKS[-1] - TASKS[0])
        result[name] = row | {"seconds_per_task": more, "start_s": row["seconds"][0] - TASKS[0] * more}
    return result


def estimates(result: Row) -> list[Row]:
    """What larger machines would do, for the models of the training curve and for LeWM.

    An update of a GPU takes as long as the slower of two: the processor issues the operations and loads the next
    batch, and the GPU computes. Several GPUs add their collectives: gradients (float32) and gathered statistics.
    """
    row, rows = result["training"], list[Row]()
    load_of_a_window_s = row["load_s"] / row["batch_size"]
    models = [
        (
            f"vectors, {number(count / 1e6)} million",
            count,
            6 * count * row["steps"],
            row["issue_s"],
            load_of_a_window_s,
            row["batch_size"] / cpu_s,
        )
        for count, cpu_s in zip(row["sizes"], row["seconds"], strict=True)
    ]
    names = ("operations_of_a_window", "issue_s", "load_s_of_a_window", "windows_per_s_of_a_core")
    models.append(("lewm, 224 px", LEWM_PARAMETERS, *(result["lewm"][name] for name in names)))
    for (name, parameters, operations, issue_s, load_s, on_cpu), (gpus, batch) in product(models, MACHINES):
        each = batch / gpus
        host_s, compute_s = issue_s + load_s * each, operations * each / (SHARE * PEAK)
        link = LINK if gpus <= GPUS_OF_A_MACHINE else NETWORK
        together_s = result["shared"]["collectives"] * COLLECTIVE_S + 2 * 4 * parameters / link if gpus > 1 else 0.0
        seconds = max(host_s, compute_s) + together_s
        shares = {"issuing": issue_s, "loading": load_s * each, "computing": compute_s, "collectives": together_s}
        rows.append({
            "model": name, "gpus": gpus, "batch": batch, "update_s": seconds, "windows_per_s": batch / seconds,
            "against_a_core": batch / seconds / on_cpu, "most": max(shares, key=shares.__getitem__), "shares_s": shares,
        })  # fmt: skip
    return rows


def lewm(issue_s: float, operations: int) -> Row:
    """LeWM on pictures of 224 pixels, from other benchmarks; operations take as long to issue as those of `vectors`."""
    with Operations() as counted:
        Side.on(CPU, 2).train()
    trained = next(size for size in read(RESULTS / "train.json")["sizes"] if size["image"] == SIDE)
    pictures = next(one for one in read(RESULTS / "data.json")["sets"] if one["set"] == f"push-t {SIDE}")
    loaded = next(one for one in pictures["rows"] if one["format"] == "store" and one["lossless"])
    ours = trained["bfloat16"]["ours"]
    return {
        "operations_of_a_window": 1e9 * ours["gflop_per_window"],
        "issue_s": issue_s / operations * counted.count,
        "load_s_of_a_window": 1 / loaded["median"],
        "windows_per_s_of_a_core": ours["windows_per_cpu_s"]["median"],
    }


PANELS: Final = (
    ("training", (), "Training", "parameters", "seconds per update"),
    ("plan", ("parameters",), "Planning", "parameters", "seconds per plan"),
    ("plan", ("candidates", "horizon"), "Planning", "candidates, or steps of the horizon", "seconds per plan"),
    ("windows", ("batch", "open"), "Store", "frames", "seconds"),
    ("clients", (), "Service", "clients", "median latency, s"),
    ("exam", (), "Exam", "workers", "seconds"),
)
"""Curves of the picture: part, names of its curves, title and axes."""


def picture(result: Row) -> bytes:
    """The curves on logarithmic axes."""
    colours = palette()
    with style.context(SETTINGS):
        figure = PlotFigure(12, 7)
        for axes, (part, names, title, x_label, y_label) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
            for name, colour in zip(names or ("",), ("world", "real"), strict=False):
                row = result[part][name] if name else result[part]
                label = f"{name} {row['exponent']['median']:.2f}".strip()
                low, high = np.min(row["rounds"], 0), np.max(row["rounds"], 0)
                axes.fill_between(row["sizes"], low, high, color=colours[colour], alpha=0.2)
                axes.loglog(row["sizes"], row["seconds"], "o-", color=colours[colour], markersize=3.5, label=label)
            axes.set(title=title, xlabel=x_label, ylabel=y_label)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:g}".replace("e+0", "e"))
                axis.set_minor_formatter(NullFormatter())
            axes.legend(title="exponent", frameon=False)
            axes.grid(color=colours["grid"])
            if part == "exam":  # less than a decade, so that no tick would be labelled
                axes.set(xticks=row["sizes"], yticks=np.round(row["seconds"]))
        figure.tight_layout()
    return figure.png()


PARTS: Final[dict[str, Callable[[Path, int], Row]]] = {
    "training": training,
    "shared": shared,
    "plan": plan,
    "windows": windows,
    "clients": clients,
    "exam": lambda folder, _: exams(folder),
    "tasks": lambda *_: tasks(),
}


def main() -> None:
    """Measures the parts, writes each one, and draws the picture."""
    options = arguments(__doc__, parts=tuple(PARTS), rounds=5, image=Path("docs/images/scale.png"))
    one_thread()
    result = {name: value for name, value in read(options.out).items() if name != "machine"}
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = PARTS[name](Path(folder), options.rounds)
        write(options.out, result)
    result["lewm"] = lewm(result["training"]["issue_s"], result["training"]["operations"])
    result["estimates"] = estimates(result)
    write(options.out, result)
    if PARTS.keys() <= result.keys():
        options.image.write_bytes(picture(result))
    show(("model", "GPUs", "batch", "ms", "windows/s", "cores", "most"), [
        (row["model"], row["gpus"], row["batch"], 1000 * row["update_s"], row["windows_per_s"], row["against_a_core"],
         row["most"])
        for row in result["estimates"]
    ])  # fmt: skip


if __name__ == "__main__":
    main()
