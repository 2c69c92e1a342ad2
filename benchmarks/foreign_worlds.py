"""Our side of benchmarks/foreign.py: learns a world from a log and predicts the test windows.

`python foreign_worlds.py CASE FOLDER RECIPE SEED BUDGET SETTINGS ANSWER` runs in a separate process, so that its
processor time is measured. FOLDER holds train.npz and test.npz. BUDGET is in seconds; 0 leaves the recipe's lengths.
SETTINGS are those of the recipe by path, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from foreign_cases import CASES, Case, Quantity, load_log
from numpy.typing import NDArray
from plants import Run

from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, evenly_spaced_windows
from worldline.episode import Arrays, Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.learn import learn
from worldline.world.base import World
from worldline.world.local import LocalWorld

PAST = 25
STEPS = (1, 10, 48)
PER_EPISODE = 4
"""Test windows per episode."""
LEVEL = 0.9
Table = NDArray[np.floating]


def schema_of(case: Case) -> Schema:
    """The signals of a case."""
    return Schema(signals=tuple(map(_signal, case.quantities)), step_s=case.step_s)


def _signal(one: Quantity) -> Signal:
    low, high = (None if bound is None else (bound,) for bound in (one.low, one.high))
    return Signal(name=one.name, role=Role(one.role), kind=Kind.VECTOR, shape=(1,), unit=one.unit, low=low, high=high)


def episodes_of(case: Case, runs: list[Run]) -> list[Episode]:
    """The episodes of a log."""
    found = []
    for run in runs:
        groups = (
            {one.name: table[:, [place]].astype(np.float32) for place, one in enumerate(case.of(role))}
            for role, table in zip(("observation", "action", "exogenous"), run, strict=True)
        )
        observations, actions, exogenous = groups
        found.append(Episode(observations=observations, actions=actions, exogenous=exogenous))
    return found


def test_windows(case: Case, runs: list[Run]) -> ForecastWindows:
    """The windows that all methods predict."""
    episodes = episodes_of(case, runs)
    return evenly_spaced_windows(episodes, length=PAST, horizon=max(STEPS), per_episode=PER_EPISODE)


def table(case: Case, role: str, arrays: Arrays) -> Table:
    """The signals with a role as one array [W, T, signals]."""
    columns = [np.asarray(arrays[one.name], float) for one in case.of(role)]
    shape = next(iter(arrays.values())).shape[:2] if arrays else (0, 0)
    return np.concatenate(columns, -1) if columns else np.zeros((*shape, 0))


def answer(case: Case, world: World, windows: ForecastWindows) -> dict[str, Any]:
    """Predictions at the scored steps, and whether each path lies inside its band."""
    level = _level(world)
    found = world.predict(windows.history, windows.actions, exogenous=windows.exogenous or None, level=level)
    names = [one.name for one in case.of("observation")]
    mean = table(case, "observation", {name: found.signals[name].mean for name in names})
    result: dict[str, Any] = {"predicted": mean[:, [step - 1 for step in STEPS]], "trust": found.trust}
    bands = [(found.signals[name].low, found.signals[name].high) for name in names]
    if found.calibrated:
        truth = table(case, "observation", windows.truth)
        low, high = (np.concatenate([np.asarray(band[edge], float) for band in bands], -1) for edge in (0, 1))
        finite = np.isfinite(low).all((0, 2)) & np.isfinite(high).all((0, 2))
        result |= {
            "inside": ((low <= truth) & (truth <= high)).all(1),
            "level": found.level,
            "steps_with_band": int(finite.sum()),
            "band_width": (high - low)[:, finite].mean((0, 1)),
        }
    if isinstance(world, LocalWorld) and world.calibration is not None:
        result["calibration_episodes"] = world.calibration.num_episodes
    return result


def _level(world: World) -> float | None:
    """The level of the benchmark, or the highest one of the calibration if that is lower."""
    highest = world.calibration.highest_level if isinstance(world, LocalWorld) and world.calibration else LEVEL
    return LEVEL if highest >= LEVEL else None


def main() -> None:
    """Learns, predicts, and writes the answer."""
    name, folder, recipe, seed, budget, settings, path = sys.argv[1:]
    torch.set_num_threads(1)
    case = CASES[name]
    windows = test_windows(case, load_log(Path(folder) / "test.npz"))
    with tempfile.TemporaryDirectory() as temporary:
        store = Store.create(Path(temporary) / "store", schema_of(case))
        for episode in episodes_of(case, load_log(Path(folder) / "train.npz")):
            store.append(episode)
        begun, wall_s = processor_s(), time.monotonic()
        world = learn(
            store.path,
            Path(temporary) / "world",
            recipe=recipe,
            seed=int(seed),
            set=json.loads(settings),
            budget=float(budget) or None,
            device="cpu",
        )
        learned, wall_s = processor_s(), time.monotonic() - wall_s
        found = answer(case, world, windows)
    times = {"fit_cpu_s": learned - begun, "cpu_s": processor_s() - begun, "wall_s": wall_s}
    arrays: dict[str, Any] = {**found, **times, "recipe": world.describe().notes["recipe"]}
    np.savez(Path(path), **arrays)


def processor_s() -> float:
    """Processor time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
