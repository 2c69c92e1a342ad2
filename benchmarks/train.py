"""Training of LeWM against stable-worldmodel 0.1.1, and of the small JEPA, on a CPU.

Run: .venv/bin/python benchmarks/train.py [--quick] [--threads N] [--peer PYTHON]
Writes benchmarks/results/train.json (with --quick only prints).

Both sides start from the same weights and train on the same windows of 4 frames, with the same draws of dropout and of
SIGReg's directions. First they take 20 steps in float32, whose losses are compared. Then they alternate, a few steps
each after one warm-up step. A sample is a window; a step is forward, backward, clipping and AdamW. bfloat16 is compared
with the peer's autocast. The peer receives normalized pictures; ours starts from bytes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import Peer, Row, arguments, peer_python, ratio_interval, show, show_bars, spread, write
from train_peer import CLIP_NORM, follow, make_optimizer, timed

from worldline.models.base import Inputs, Window, WorldModel
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.lewm import Lewm, LewmConfig, WholeLinear
from worldline.models.lewm_checkpoint import from_published
from worldline.schema import Kind, Role, Schema, Signal

NUM_FRAMES, NUM_ACTIONS = 4, 10
PUBLISHED_WEIGHT = 0.09
TOLERANCE = 1e-4
BARS = {"float32": 1.15, "bfloat16": 1.3}
JEPA_FRAMES_PER_S = 3000
KERNELS = {
    "attention": ("::bmm", "flash_attention", "softmax"),
    "products of layers": ("::mm", "::addmm", "_linear_pointwise"),
    "activations and norms": ("gelu", "layer_norm"),
    "copies": ("::copy_", "::cat"),
}
"""Parts of operator names by purpose; an operator belongs to the first match."""
PEER_PACKAGES = (
    *("stable-worldmodel==0.1.1", "transformers>=5,<6"),
    # The peer imports these unconditionally.
    *("imageio[ffmpeg]", "opencv-python-headless", "pygame", "pymunk", "shapely"),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One image size, with the batch sizes for comparing losses and for measuring time."""

    image: int
    patch: int
    compared: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the benchmark."""

    sizes: tuple[Size, ...] = (
        Size(image=224, patch=14, compared=2, batch=8),
        Size(image=64, patch=8, compared=8, batch=64),
    )
    compared_steps: int = 20
    repeats: int = 11
    steps: int = 1
    jepa_seconds: float = 5.0
    seed: int = 0


QUICK = Plan(
    sizes=(Size(image=224, patch=14, compared=2, batch=2), Size(image=64, patch=8, compared=4, batch=8)),
    compared_steps=3,
    repeats=2,
    jepa_seconds=0.5,
)


class Ours:
    """Our model at one image size, from the peer's weights, and steps of training."""

    def __init__(self, folder: Path, size: Size) -> None:
        side = size.image
        camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(side, side, 3))
        block = Signal(name="block", role=Role.ACTION, kind=Kind.VECTOR, shape=(NUM_ACTIONS,))
        config = LewmConfig(inputs=("camera",), patch=size.patch)
        self.model = Lewm(schema=Schema(signals=(camera, block)), config=config)
        weights = from_published(torch.load(folder / f"weights-{side}.pt", weights_only=True))
        self.model.load_state_dict(weights, strict=False)  # actions are not standardized
        self.frames = torch.from_numpy(np.load(folder / f"frames-{side}.npy"))
        self.actions = torch.from_numpy(np.load(folder / f"actions-{side}.npy"))
        self.optimizer = make_optimizer(self.model)

    def step(self, which: slice, *, half: bool, seed: int) -> float:
        """The loss of one step of training on some windows."""
        generator, frames = torch.Generator().manual_seed(seed), self.frames[which]
        self.model.config = replace(self.model.config, sigreg_weight=PUBLISHED_WEIGHT * len(frames))
        window = Window(
            observations={"camera": frames},
            observed={"camera": torch.ones(frames.shape[:2], dtype=torch.bool)},
            past=Inputs(
                actions=self.actions[which][:, None, :-1],
                exogenous=None,
                step_s=torch.ones(len(frames), NUM_FRAMES - 1),
            ),
        )
        return update(self.model, self.optimizer, window, generator, half=half)


def update(
    model: WorldModel, optimizer: torch.optim.Optimizer, window: Window, generator: torch.Generator, *, half: bool
) -> float:
    """The loss of one step of training."""
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = model.loss(window, generator=generator).total
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return float(loss.detach())


def measure_size(peer: Peer, folder: Path, size: Size, threads: int, plan: Plan) -> Row:
    """Measures both sides at one image size."""
    draw(folder, size, plan.seed)
    peer.ask("open", image=size.image, patch=size.patch, threads=threads, seed=plan.seed)
    steps, compared = plan.compared_steps, size.compared
    theirs = peer.ask("follow", image=size.image, steps=steps, batch=compared, half=False)["losses"]
    ours = {kind: follow(Ours(folder, size), steps, compared, half=kind == "bfloat16") for kind in BARS}
    result: Row = {
        **asdict(size),
        "losses": {"theirs": theirs, **ours},
        "largest_difference": {kind: largest_difference(losses, theirs) for kind, losses in ours.items()},
    }
    for kind in BARS:
        training = Ours(folder, size)
        result[kind] = take_turns(peer, training, size, plan, half=kind == "bfloat16")
        result[kind]["ours"]["shares_of_time"] = shares_of_time(training, size, half=kind == "bfloat16")
    peer.ask("close", image=size.image)
    return result


def take_turns(peer: Peer, training: Ours, size: Size, plan: Plan, *, half: bool) -> Row:
    """Windows per second of both sides."""
    runs: dict[str, list[Row]] = {"ours": [], "theirs": []}
    for repeat in range(plan.repeats + 1):
        mine = timed(training, plan.steps, size.batch, half=half)
        other = peer.ask("time", image=size.image, steps=plan.steps, batch=size.batch, half=half)
        if repeat:  # the first step is the warm-up
            runs["ours"].append(mine)
            runs["theirs"].append(other)
    rates = {side: [one["windows"] / one["wall_s"] for one in measured] for side, measured in runs.items()}
    busy = {side: [one["windows"] / one["cpu_s"] for one in measured] for side, measured in runs.items()}
    result: Row = {"ratio": ratio_interval(**rates), "ratio_per_cpu_s": ratio_interval(**busy)}
    for side, flops in flops_per_window(size).items():
        result[side] = {
            "windows_per_s": spread(rates[side]),
            "windows_per_cpu_s": spread(busy[side]),
            "system_share": sum(run["system_s"] for run in runs[side]) / sum(run["cpu_s"] for run in runs[side]),
            "gflop_per_window": flops / 1e9,
            "gflops": flops / 1e9 * statistics.median(rates[side]),
        }
    return result


def shares_of_time(training: Ours, size: Size, *, half: bool) -> Row:
    """Shares of time in one of our steps, by the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        training.step(slice(0, size.batch), half=half, seed=0)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    found = dict.fromkeys((*KERNELS, "rest"), 0.0)
    for name, time_us in times.items():
        kinds = (kind for kind, kernels in KERNELS.items() if any(kernel in name for kernel in kernels))
        found[next(kinds, "rest")] += time_us / sum(times.values())
    return {kind: round(share, 3) for kind, share in found.items()}


def flops_per_window(size: Size) -> dict[str, float]:
    """Operations in the products of a training step, 2 per multiplication: forward, and twice that backward.

    Our last encoder layer computes one token only. Pixels need no gradient.
    """
    width, tokens, layers = 192, 1 + (size.image // size.patch) ** 2, 12
    pixels = 3 * size.patch**2 * width * (tokens - 1)
    layer = 12 * width**2 * tokens + 2 * width * tokens**2
    inner, hidden = 16 * 64, 2048
    block = 4 * inner * width + 2 * hidden * width + 6 * width**2
    predictor = (NUM_FRAMES - 1) * (6 * block + 2 * hidden * width)
    rest = predictor + NUM_FRAMES * 2 * hidden * width
    total = {"theirs": layers * layer, "ours": (layers - 1) * layer + 4 * width * 3 * tokens + 10 * width**2}
    return {side: 2 * (NUM_FRAMES * (3 * encoder + 2 * pixels) + 3 * rest) for side, encoder in total.items()}


def draw(folder: Path, size: Size, seed: int) -> None:
    """Frames and action blocks for both sides."""
    count = max(size.batch, 5 * size.compared)
    generator = np.random.default_rng(seed)
    shape = (count, NUM_FRAMES, size.image, size.image, 3)
    np.save(folder / f"frames-{size.image}.npy", generator.integers(256, size=shape, dtype=np.uint8))
    actions = generator.standard_normal((count, NUM_FRAMES, NUM_ACTIONS), dtype=np.float32)
    np.save(folder / f"actions-{size.image}.npy", actions)


def measure_peak(threads: int) -> dict[str, float]:
    """The highest rate of a product of two 2048 by 2048 matrices, in GFLOP/s.

    In float32 with torch's default library, and with the library of our encoder if that is faster.
    """
    torch.set_num_threads(threads)
    found = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left, right = torch.randn(2, 2048, 2048).to(kind).unbind()
        times, bias = list[float](), torch.zeros(2048)
        for turn in range(16):
            begin = time.perf_counter()
            if turn % 2 and name == "float32":
                WholeLinear.apply(left, right, bias)  # type: ignore[no-untyped-call] # untyped in torch
            else:
                torch.mm(left, right)
            times.append(time.perf_counter() - begin)
        if name == "float32":
            found["float32, torch.mm"] = 2 * 2048**3 / min(times[::2]) / 1e9
        found[name] = 2 * 2048**3 / min(times) / 1e9
    return found


def measure_jepa(threads: int, plan: Plan) -> Row:
    """Frames per second, forward and backward, of the JEPA in the recipes for 64-pixel cameras."""
    torch.set_num_threads(threads)
    batch, length, generator = 64, 5, torch.Generator().manual_seed(plan.seed)
    camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3))
    push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,))
    model = Jepa(schema=Schema(signals=(camera, push)), config=JepaConfig(inputs=("camera",)))
    frames = torch.randint(256, (batch, length, 64, 64, 3), generator=generator, dtype=torch.uint8)
    actions = torch.randn(batch, 1, length - 1, 2, generator=generator)
    window = Window(
        observations={"camera": frames},
        observed={"camera": torch.ones(batch, length, dtype=torch.bool)},
        past=Inputs(actions=actions, exogenous=None, step_s=torch.ones(batch, length - 1)),
    )
    rates, begin = list[float](), time.perf_counter()
    while time.perf_counter() - begin < plan.jepa_seconds or len(rates) < 4:
        now = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(window, generator=generator).total
        loss.backward()
        rates.append(batch * length / (time.perf_counter() - now))
    return {"batch": batch, "length": length, "frames_per_s": spread(rates[2:])}


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest relative difference of two loss curves."""
    return max(abs(mine - other) / abs(other) for mine, other in zip(ours, theirs, strict=True))


def measure(python: str, threads: int, plan: Plan) -> Row:
    """Everything."""
    result: Row = {"plan": asdict(plan), "threads": threads, "peak_gflops": measure_peak(threads)}
    result["jepa"] = measure_jepa(threads, plan)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, Path(__file__).with_name("train_peer.py"), "serve", folder)
        result["peer_versions"] = peer.ask("versions")
        result["sizes"] = []
        for size in plan.sizes:
            print(f"side by side: {size.image} px", flush=True)
            result["sizes"].append(measure_size(peer, Path(folder), size, threads, plan))
        peer.close()
    again = measure_peak(threads)
    result["peak_gflops"] = {kind: max(value, again[kind]) for kind, value in result["peak_gflops"].items()}
    return result | {"bars": bars(result)}


def bars(result: Row) -> Row:
    """Targets and whether they are met."""
    found: Row = {}
    for kind, least in BARS.items():
        ratios = {f"{size['image']} px": size[kind]["ratio"]["median"] for size in result["sizes"]}
        found[f"{least} times the peer, {kind}"] = {"met": min(ratios.values()) >= least, **ratios}
    apart = {f"{size['image']} px": size["largest_difference"]["float32"] for size in result["sizes"]}
    found["losses equal to 1e-4 over the first steps"] = {"met": max(apart.values()) <= TOLERANCE, **apart}
    rate = result["jepa"]["frames_per_s"]["median"]
    found[f"small JEPA, {JEPA_FRAMES_PER_S} frames a second"] = {"met": rate >= JEPA_FRAMES_PER_S, "frames_per_s": rate}
    return found


def show_sizes(result: Row) -> None:
    """Prints the results."""
    header = (
        "image",
        "precision",
        "ours, windows/s",
        "peer",
        "ratio",
        "95 %",
        "per CPU-s",
        "of peak",
        "shares of time",
    )
    rows = []
    for size in result["sizes"]:
        for kind in BARS:
            row, peak = size[kind], result["peak_gflops"][kind]
            rows.append(
                (
                    f"{size['image']} px x {size['batch']}",
                    kind,
                    *(row[side]["windows_per_s"]["median"] for side in ("ours", "theirs")),
                    row["ratio"]["median"],
                    f"{row['ratio']['low']:.2f} to {row['ratio']['high']:.2f}",
                    row["ratio_per_cpu_s"]["median"],
                    f"{row['ours']['gflops'] / peak:.0%}, {row['theirs']['gflops'] / peak:.0%}",
                    row["ours"]["shares_of_time"],
                )
            )
    show(header, rows)
    show_bars(result["bars"])


def main() -> None:
    """Measures, writes and prints the results."""
    options = arguments(__doc__, peer="", threads=os.cpu_count() or 1, quick=False)
    python = options.peer or peer_python("train-peer", PEER_PACKAGES)
    result = measure(python, options.threads, QUICK if options.quick else Plan())
    if not options.quick:
        write(options.out, result)
    show_sizes(result)


if __name__ == "__main__":
    main()
