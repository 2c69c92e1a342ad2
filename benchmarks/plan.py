"""Planning with LeWM against stable-worldmodel 0.1.1: equal plans, and their time.

Run: .venv/bin/python benchmarks/plan.py [--plans 100] [--batches 3] [--threads N] [--quick] [--peer PYTHON]
Writes benchmarks/results/plan.json (with --quick only prints).

Both sides have the same weights: a new network whose predictor gets noise, so that it depends on actions. Each plan
goes from one smooth random picture to another with the peer's published cross-entropy method: 300 samples, 30
iterations, 30 elites, 5 blocks of 5 actions, the cost at the last block, and the mean of the last elites as the answer.
The loop here replicates the peer's, with the same draws. Our part is the cost: `WorldModel.rollout` and the squared
distance to the goal's latent. Sides take turns, plan by plan. For sixteen environments the peer plans one at a time,
because its LeWM cannot cost two goals together (`expand_as` in its `criterion` fails).

If the processor multiplies bfloat16, each plan is repeated under `torch.autocast` with the same draws. Measured are its
time against the peer's float32, the difference of the costs in the first iteration, and the extra cost of its answer in
float32.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from common import Peer, Row, arguments, peer_python, ratio_interval, show_bars, write
from torch import Tensor
from torch.nn.functional import interpolate
from train import PEER_PACKAGES, measure_peak

from worldline.device import has_bfloat16
from worldline.models.base import Belief, Inputs, Window
from worldline.models.lewm import Lewm, LewmConfig
from worldline.models.lewm_checkpoint import from_published
from worldline.schema import Kind, Role, Schema, Signal

SIDE, BLOCKS, SIZE = 224, 5, 10
"""Pixels per side of a picture, blocks per plan, values per block."""
COST_BAR, ACTION_BAR, ALIKE_BAR = 1e-5, 1e-4, 0.99
SPEED_BARS = {"one": 1.45, "sixteen": 1.6}
HALF_BAR = 2.7
RATE_BAR = 0.8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seeds of the search and of the weights."""

    samples: int = 300
    iterations: int = 30
    elites: int = 30
    seed: int = 0


QUICK = Settings(samples=20, iterations=3, elites=5)


class Ours:
    """Our model with the peer's weights, and the peer's search with our cost."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 3))
        block = Signal(name="block", role=Role.ACTION, kind=Kind.VECTOR, shape=(SIZE,))
        self.model = Lewm(schema=Schema(signals=(camera, block)), config=LewmConfig(inputs=("camera",)))
        weights = from_published(torch.load(folder / "weights.pt", weights_only=True))
        self.model.load_state_dict(weights, strict=False)  # actions are not standardized
        self.model.eval()
        self.settings = settings

    @torch.no_grad()
    def solve(self, start: Tensor, goal: Tensor, *seeds: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the plans [B, T, A], and the costs [I, B, N] and elites of each iteration.

        Each environment has separate draws, as when the peer plans one at a time; batches of a size share a seed.
        """
        belief, aim = self._see(start), self._see(goal).features()[:, 0, None]
        settings = self.settings
        shape = (1, settings.samples, BLOCKS, SIZE)
        draws = torch.cat(
            [
                torch.stack([torch.randn(shape, generator=generator) for _ in range(settings.iterations)])
                for generator in map(torch.Generator().manual_seed, seeds)
                for _ in range(len(start) // len(seeds))
            ],
            1,
        )
        mean = torch.zeros(len(start), BLOCKS, SIZE)
        spread, kept = torch.ones_like(mean), []
        rows = torch.arange(len(start))[:, None]
        for drawn in draws:
            candidates = drawn * spread[:, None] + mean[:, None]
            candidates[:, 0] = mean
            costs = self.cost(belief, aim, candidates)
            elites = torch.topk(costs, settings.elites, dim=1, largest=False).indices
            best = candidates[rows, elites]
            mean, spread = best.mean(1), best.std(1)
            kept.append((costs, elites))
        return mean, torch.stack([costs for costs, _ in kept]), torch.stack([which for _, which in kept])

    def cost(self, belief: Belief, aim: Tensor, candidates: Tensor) -> Tensor:
        """Squared distance [B, N] of the last latent to the goal's latent."""
        inputs = Inputs(actions=candidates, exogenous=None, step_s=torch.ones(len(candidates), BLOCKS))
        imagined = self.model.rollout(belief, inputs, generator=torch.Generator()).features
        return (imagined[:, :, 0, -1] - aim).square().sum(-1)

    def _see(self, images: Tensor) -> Belief:
        window = Window(
            observations={"camera": images[:, None]},
            observed={"camera": torch.ones(len(images), 1, dtype=torch.bool)},
            past=Inputs(
                actions=torch.zeros(len(images), 1, 0, SIZE), exogenous=None, step_s=torch.zeros(len(images), 0)
            ),
        )
        return self.model.encode(window, generator=torch.Generator())


def pictures(count: int, seed: int) -> Tensor:
    """Smooth random pictures, uint8 [B, height, width, 3]."""
    coarse = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1).mul(255).byte().movedim(1, -1)


class Sides:
    """Both sides, on the same pictures."""

    def __init__(self, peer: Peer, folder: Path, settings: Settings, threads: int) -> None:
        self.peer, self.folder, self.settings = peer, folder, settings
        torch.set_num_threads(threads)
        peer.ask("open", seed=settings.seed, threads=threads)
        self.ours = Ours(folder, settings)

    def theirs(self, start: Tensor, goal: Tensor, seed: int) -> Row:
        """The peer's plans, and their time in seconds."""
        np.save(self.folder / "start.npy", start.numpy())
        np.save(self.folder / "goal.npy", goal.numpy())
        search = {name: value for name, value in asdict(self.settings).items() if name != "seed"}
        row: Row = self.peer.ask("solve", seed=seed, **search)
        return row

    def plan(self, seed: int) -> Row:
        """One environment: both plans, and where they diverge."""
        start, goal = pictures(2, seed)[:, None]
        theirs_s = self.theirs(start, goal, seed)["elapsed_s"]
        begin = time.perf_counter()
        actions, costs, elites = self.ours.solve(start, goal, seed)
        ours_s = time.perf_counter() - begin
        half = self.half(start, goal, seed, actions, costs) if has_bfloat16() else {}
        kept = [torch.from_numpy(np.load(self.folder / f"their_{name}.npy")) for name in ("actions", "costs", "elites")]
        return {
            "seed": seed,
            "ours_s": round(ours_s, 4),
            "theirs_s": round(theirs_s, 4),
            "actions_apart": float((actions - kept[0]).abs().max()),
            **parting(costs[:, 0], elites[:, 0], kept[1][:, 0], kept[2][:, 0]),
            **half,
        }

    def half(self, start: Tensor, goal: Tensor, seed: int, actions: Tensor, costs: Tensor) -> Row:
        """The same plan with bfloat16 products, compared with answer and costs in float32."""
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            found, found_costs, _ = self.ours.solve(start, goal, seed)
        half_s = time.perf_counter() - begin
        with torch.no_grad():
            belief, aim = self.ours._see(start), self.ours._see(goal).features()[:, 0, None]
            due, got = self.ours.cost(belief, aim, torch.stack([actions, found], 1))[0]
        return {
            "half_s": round(half_s, 4),
            "half_costs_apart": float(((found_costs[0] - costs[0]).abs() / costs[0]).max()),
            "half_regret": float(got / due - 1),
        }

    def batch(self, seed: int, count: int = 16) -> Row:
        """Sixteen environments: half of the peer's plans, all of ours, the other half, because machine speed drifts."""
        start, goal = pictures(2 * count, seed).chunk(2)
        seeds, half = (seed, seed + count), count // 2

        def theirs(some: slice, seed: int) -> tuple[float, Tensor]:
            elapsed_s = self.theirs(start[some], goal[some], seed)["elapsed_s"]
            return elapsed_s, torch.from_numpy(np.load(self.folder / "their_actions.npy"))

        first = theirs(slice(half), seeds[0])
        begin = time.perf_counter()
        actions, *_ = self.ours.solve(start, goal, *seeds)
        ours_s = time.perf_counter() - begin
        second = theirs(slice(half, None), seeds[1])
        apart = (actions - torch.cat([first[1], second[1]])).abs().amax((1, 2))
        return {
            "seed": seed,
            "ours_s": round(ours_s, 4),
            "theirs_s": round(first[0] + second[0], 4),
            "actions_apart": [float(value) for value in apart],
        }


def parting(costs: Tensor, elites: Tensor, their_costs: Tensor, their_elites: Tensor) -> Row:
    """Difference of costs while both sides choose the same elites, and the cause of the divergence.

    At a divergence, `cut` is the gap between the last elite and the next candidate, and `apart_there` the difference
    between the costs of the two sides. Both are relative to the cost.
    """
    same = [set(mine.tolist()) == set(other.tolist()) for mine, other in zip(elites, their_elites, strict=True)]
    last = same.index(False) if False in same else len(same) - 1
    apart = ((costs - their_costs).abs() / their_costs)[: last + 1]
    row: Row = {"costs_apart": float(apart.max()), "parts_at": None if all(same) else last}
    if not all(same):
        ordered, count = their_costs[last].sort().values, elites.shape[1]
        row["cut"] = float((ordered[count] - ordered[count - 1]) / ordered[count])
        row["apart_there"] = float(apart[last].max())
    return row


def rate(sides: Sides, threads: int) -> Row:
    """Operations per second in the products of one population, against a product of two large matrices."""
    torch.set_num_threads(threads)
    peak = measure_peak(threads)["float32, torch.mm"]
    ours, config = sides.ours, sides.ours.model.config
    belief, aim = ours._see(pictures(1, 0)), torch.zeros(1, 1, config.latent_size)
    candidates = torch.randn(1, 300, BLOCKS, SIZE, generator=torch.Generator().manual_seed(0))
    times = []
    with torch.no_grad():
        for _ in range(9):
            begin = time.perf_counter()
            ours.cost(belief, aim, candidates)
            times.append(time.perf_counter() - begin)
    found = 300 * flops(config) / min(times[1:]) / 1e9
    return {
        "threads": threads,
        "gflops": round(found, 1),
        "peak_gflops": round(peak, 1),
        "share": round(found / peak, 3),
    }


def flops(config: LewmConfig) -> float:
    """Operations in the products of one candidate's rollout from one observation; 2 per multiplication.

    A window holds 1, 2 and then 3 steps. While it grows, only the newest step is computed; then all three.
    """
    width, inner, wide = config.latent_size, config.predictor_heads * config.head_size, config.predictor_width
    kept, asked, network = 2 * width * inner, 2 * width * inner, 2 * width * wide
    alone = width**2
    depth, history = config.predictor_depth, config.history
    growing = depth * (kept + alone + network) + (history - 1) * depth * (kept + asked + network)
    whole = history * kept + alone + (history - 1) * asked + history * network
    sliding = (BLOCKS - history) * ((depth - 1) * whole + history * kept + asked + network)
    steering = BLOCKS * depth * 6 * width**2
    projecting = BLOCKS * 2 * width * config.projector_width
    codes = BLOCKS * (SIZE * config.code_size + config.code_size * 4 * width + 4 * width**2)
    return 2.0 * (growing + sliding + steering + projecting + codes)


def speed(rows: list[Row], key: str, bar: float) -> Row:
    """Our speed over the peer's float32, with its target."""
    ratio = ratio_interval([1 / one[key] for one in rows], [1 / one["theirs_s"] for one in rows])
    return {"met": ratio["median"] >= bar, **ratio, "bar": bar}


def bars(result: Row) -> Row:
    """Targets and whether they are met."""
    plans, batches = result["plans"], result["batches"]
    alike = [one["actions_apart"] <= ACTION_BAR for one in plans]
    ties = [one["parts_at"] is not None and one["cut"] <= 2 * one["apart_there"] for one in plans]
    told = all(same or tie for same, tie in zip(alike, ties, strict=True))
    worst = max(one["costs_apart"] for one in plans)
    targets: Row = {
        "costs": {"met": worst <= COST_BAR, "largest": worst, "bar": COST_BAR},
        "actions": {
            "met": sum(alike) >= ALIKE_BAR * len(plans) and told,
            "alike": sum(alike),
            "plans": len(plans),
            "others_part_at_a_tie": told,
        },
        "one": speed(plans, "ours_s", SPEED_BARS["one"]),
        "sixteen": speed(batches, "ours_s", SPEED_BARS["sixteen"]),
    }
    if "half_s" in plans[0]:
        regret = [one["half_regret"] for one in plans]
        targets["bfloat16"] = {
            **speed(plans, "half_s", HALF_BAR),
            "costs_apart": max(one["half_costs_apart"] for one in plans),
            "regret": float(np.mean(regret)),
            "worst_regret": max(regret),
        }
    for row in result["rates"]:
        name = f"rate, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        targets[name] = {"met": row["share"] >= RATE_BAR, "share": row["share"], "bar": RATE_BAR}
    return targets


def main() -> None:
    """Measures, writes and prints the results."""
    options = arguments(__doc__, plans=100, batches=3, threads=os.cpu_count() or 1, quick=False, peer="")
    settings, cores = QUICK if options.quick else Settings(), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        python = options.peer or peer_python("train-peer", PEER_PACKAGES)
        peer = Peer(python, Path(__file__).with_name("plan_peer.py"), "serve", folder)
        result: Row = {"settings": asdict(settings), "threads": options.threads, "peer": peer.ask("versions")}
        sides = Sides(peer, Path(folder), settings, options.threads)
        result["plans"] = [sides.plan(seed) for seed in range(options.plans)]
        result["batches"] = [sides.batch(seed) for seed in range(options.batches)]
        result["rates"] = [rate(sides, threads) for threads in sorted({1, cores})]
        peer.close()
    result["bars"] = bars(result)
    if not options.quick:
        write(options.out, result)
    show_bars(result["bars"])


if __name__ == "__main__":
    main()
