"""Memory of a process over 100,000 calls to a world.

Run: .venv/bin/python benchmarks/memory.py [--calls 100000]
Writes benchmarks/results/memory.json. Takes some three minutes.

A small calibrated world of vectors with every head answers calls in turns. Of 20 calls, 12 are `predict`, 3 `score`, 3
`plan` (one with a budget), 1 `what_if` and 1 `surprise`. Its weights are not trained, because the answers do not
matter. The first tenth of the calls is not counted. Target: the resident memory after the last call is less than 1 % or
2 MB above that after the first tenth. A world with a planted leak, which keeps a copy of each history, must miss it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from common import Row, arguments, one_thread, show, write

from worldline.config import replace_at
from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.baselines import Linear
from worldline.engines.learned import LearnedEngine
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Episode, Future, History
from worldline.models.jepa import Jepa, JepaConfig
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.toys import HIGH, LOW, Integrator
from worldline.training.heads.base import by_name
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.inverse import Inverse, InverseConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(camera=False, wind=False, noise=0.1)
LATENT, HORIZON = 8, 3
SAMPLES = 20
"""Number of memory readings."""
SHARE_BAR, BYTES_BAR = 0.01, 2e6
T_QUANTILE = 2.12
"""97.5 % quantile of Student's t with 16 degrees of freedom: a line through 18 readings."""


class Keeps(NumpyEngine):
    """An engine with a planted leak."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.kept: list[np.ndarray] = []

    def describe(self) -> Card:
        """Like the wrapped engine."""
        return self.engine.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """Like the wrapped engine; keeps a copy of each history."""
        self.kept.append(steps.observations["position"].copy())
        return self.engine.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """Like the wrapped engine."""
        return self.engine.imagine(belief, future, num_samples=num_samples, noise=noise, seed=seed)


def learned_world(episodes: list[Episode]) -> LocalWorld:
    """A small world of vectors with every head that planning needs."""
    torch.manual_seed(0)
    config = replace_at(
        JepaConfig(inputs=("position",), latent_size=LATENT), {"encoder.width": 16, "predictor.width": 16}
    )
    readout = Readout(ReadoutConfig(latent_size=LATENT, signals=TOY.schema.observations, width=8))
    readout.normaliser.fit(torch.randn(50, 2))
    mahalanobis = MahalanobisScore(MahalanobisConfig(latent_size=LATENT))
    mahalanobis.fit(torch.randn(100, LATENT))
    engine = LearnedEngine(
        model=Jepa(schema=TOY.schema, config=config).eval().requires_grad_(False),
        schema=TOY.schema,
        inputs=("position",),
        heads=by_name(
            readout.requires_grad_(False),
            mahalanobis,
            Distance(DistanceConfig(latent_size=LATENT, width=8, size=8)).requires_grad_(False),
            Inverse(InverseConfig(latent_size=LATENT, width=8, low=LOW, high=HIGH)).requires_grad_(False),
        ),
    )
    return _calibrated(engine, episodes)


def _calibrated(engine: Engine, episodes: list[Episode]) -> LocalWorld:
    calibration = calibrate(engine, episodes, horizon=HORIZON, num_windows=1, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2))


def questions(world: LocalWorld, episodes: list[Episode]) -> list[Callable[[], object]]:
    """The calls, in turns."""
    asked = list[Callable[[], object]]()
    for episode in episodes:
        history = episode.history(2, 3)
        ahead = {name: value[2 : 2 + HORIZON] for name, value in episode.actions.items()}
        plans = {name: np.stack([value, value[::-1]]) for name, value in ahead.items()}
        goal = Goal(targets={"position": episode.observations["position"][-1]})
        to_steps = replace(goal, in_steps=isinstance(world.engine, LearnedEngine))
        asked += 12 * [partial(world.predict, history, ahead, level=0.5)]
        asked += 3 * [partial(world.score, history, plans, goal)]
        asked += [
            partial(world.plan, history, to_steps, horizon=HORIZON, budget_s=budget_s, proposals=proposals)
            for budget_s, proposals in ((None, None), (None, plans), (0.004, plans))
        ]
        asked += [partial(world.what_if, episode, 2, ahead), partial(world.surprise, episode)]
    return asked


def resident() -> int:
    """Resident memory of the process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(world: LocalWorld, episodes: list[Episode], num_calls: int) -> Row:
    """Memory over this number of calls."""
    asked, each = cycle(questions(world, episodes)), num_calls // SAMPLES
    calls, held, began = list[int](), list[int](), time.perf_counter()
    for number in range(SAMPLES):
        for ask in islice(asked, each):
            ask()
        calls.append((number + 1) * each)
        held.append(resident())
    counted = slice(SAMPLES // 10 - 1, None)  # starts with the reading after the first tenth
    grown = held[-1] - held[counted][0]
    slope, error = _line(np.array(calls[counted], float), np.array(held[counted], float))
    return {
        "calls": num_calls,
        "seconds": round(time.perf_counter() - began, 1),
        "objects": len(gc.get_objects()),
        "resident_mb": [round(value / 1e6, 3) for value in held],
        "grown_bytes": grown,
        "grown_share": round(grown / held[counted][0], 6),
        "bytes_a_call": [round(slope, 3), round(slope - T_QUANTILE * error, 3), round(slope + T_QUANTILE * error, 3)],
        "flat": bool(grown < max(BYTES_BAR, SHARE_BAR * held[counted][0])),
    }


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The slope of a straight line through the readings, with its standard error."""
    away = x - x.mean()
    slope = float(away @ y / (away @ away))
    left = y - y.mean() - slope * away
    return slope, float(np.sqrt(left @ left / (len(x) - 2) / (away @ away)))


def main() -> None:
    """Measures, prints and writes the results."""
    options = arguments(__doc__, calls=100_000)
    one_thread()
    episodes = TOY.episodes(20, 8, seed=0)
    linear = Linear.fit(TOY.episodes(30, 20, seed=1), TOY.schema)
    worlds = {"learned": learned_world(episodes), "planted fault": _calibrated(Keeps(linear), episodes)}
    rows = {name: measure(world, episodes, options.calls) for name, world in worlds.items()}
    bars = {"flat": rows["learned"]["flat"], "the fault is caught": not rows["planted fault"]["flat"]}
    keys = ("grown_bytes", "grown_share", "bytes_a_call", "flat", "seconds")
    show(("world", *keys), [(name, *(row[key] for key in keys)) for name, row in rows.items()])
    print(bars)
    write(options.out, {"seed": 0, "bars": bars, "rows": rows})


if __name__ == "__main__":
    main()
