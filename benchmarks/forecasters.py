"""Pretrained forecasters without training, against a linear world and `learn`, and the coverage of their bands.

Run: .venv/bin/python benchmarks/forecasters.py [--parts cases series plants] [--budget 60]
     [--plants 8000000:8000016] [--series 8100000:8100012] [--chronos FOLDER] [--workers 2] [--cache FOLDER]
Writes benchmarks/results/forecasters.json, part by part.

`cases`: the plants of benchmarks/plant_logs.py whose simulators are installed, with random inputs. Forecasts of 48
steps start after 60 observations of held-out episodes. An error is the root mean square over windows, divided by the
standard deviation of the log, as the mean over the signals. `--chronos` adds a local Chronos-2, with actions and
exogenous signals as future covariates and without them. The time of a forecast is that of one series, on one thread.

`series`: logs without actions, drawn at random: two signals with seasons, trends and random walks. The same errors
after 240 observations; each method is one ratio to the linear world, as the geometric mean over the steps.

`plants`: random plants (stranger_plants.py) that no development saw. Fracast is adopted on each log; its 90 % bands and
p-values are checked in 100 windows that are simulated after the end of the log, from 1, 3, `context` and 60 rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, arguments, one_thread, quantiles, read, share, show, write
from corrupted_logs import episodes_of, schema_of
from plant_logs import PLANTS
from scipy.signal import lfilter
from stranger_logs import each_plant, frame_of, roles_of
from stranger_plants import Case, Table
from strangers import LENGTHS, graded

import worldline
from worldline.data.importing import import_logs
from worldline.data.store import Store, open_store
from worldline.engines.baselines import Persistence
from worldline.engines.forecast.forecasters import Chronos, Fracast
from worldline.episode import Episode, History
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.forecast import chronos, fracast
from worldline.workers import run_tasks
from worldline.workflows.training import adopted
from worldline.world.base import World
from worldline.world.local import LocalWorld

PAST, LONG_PAST, HORIZON, STEPS = 60, 240, 48, (1, 10, 48)
PARTS: Final = ("cases", "series", "plants")


def errors(world: World, episodes: Sequence[Episode], spreads: Mapping[str, float], past: int) -> list[float]:
    """The error at each of `STEPS`, in a window of each episode."""
    now, misses = past - 1, list[Table]()
    history = History.stack([episode.history(at=now, length=past) for episode in episodes])
    actions, exogenous = (
        {name: np.stack([group[name][now : now + HORIZON] for group in groups]) for name in groups[0]}
        for groups in ([episode.actions for episode in episodes], [episode.exogenous for episode in episodes])
    )
    prediction = world.predict(history, actions, exogenous=exogenous)
    for name, forecast in prediction.signals.items():
        truth = np.stack([episode.observations[name][now + 1 :][:HORIZON].astype(float) for episode in episodes])
        misses.append(np.sqrt(np.square(forecast.mean - truth).mean((0, 2))) / spreads[name])
    return [float(np.mean(misses, 0)[step - 1]) for step in STEPS]


def case(name: str, budget_s: float, folder: Path | None) -> dict[str, list[float]]:
    """The errors of all methods on a plant."""
    one_thread()
    runs = [run for run in PLANTS[name].record(0) if len(run[1]) >= PAST + HORIZON]
    with tempfile.TemporaryDirectory() as temporary:
        store = Store.create(Path(temporary) / "store", schema_of(runs))
        for episode in episodes_of(runs):
            store.append(episode)
        return compared(store, budget_s, folder, PAST)


def compared(store: Store, budget_s: float, folder: Path | None, past: int) -> dict[str, list[float]]:
    """The errors of all methods on the held-out episodes of a store."""
    out = store.path.parent
    learned = {
        "linear": worldline.learn(store, out / "linear", recipe="linear", progress=None),
        "learn": worldline.learn(store, out / "learn", budget=budget_s, progress=None),
    }
    recipes = {"fracast": fracast(store)}
    if folder is not None:
        recipes |= {"chronos": chronos(store, folder), "chronos, no covariates": chronos(store, folder)}
        alone = recipes["chronos, no covariates"].forecaster
        assert isinstance(alone, Chronos)
        alone.takes_inputs = False
    split = recipes["fracast"].split(store)
    worlds = {n: LocalWorld(adopted(store, recipe).engine, None, CrossEntropy()) for n, recipe in recipes.items()}
    episodes = [store.episode(number) for number in split.held_out]
    logged = [store.episode(number).observations for number in split.train]
    spreads = {name: float(np.concatenate([seen[name] for seen in logged]).std()) for name in logged[0]}
    worlds["persistence"] = LocalWorld(Persistence.fit(episodes, store.schema), None, CrossEntropy())
    return {method: errors(world, episodes, spreads, past) for method, world in {**learned, **worlds}.items()}


def one_series(seed: int, budget_s: float, folder: Path | None) -> Row:
    """The errors of all methods on a log without actions, and its number of episodes."""
    one_thread()
    draw = np.random.default_rng(seed)
    num_episodes, steps, columns = int(draw.integers(8, 49)), LONG_PAST + HORIZON + 12, dict[str, Table]()
    columns["episode"] = np.repeat(np.arange(num_episodes), steps)
    columns["time"] = np.tile(60.0 * np.arange(steps), num_episodes)
    at = np.arange(steps) + draw.integers(0, 10_000, num_episodes)[:, None]  # seasons have a phase of the clock
    shared = np.zeros((num_episodes, steps))
    for name in ("first", "second"):
        season = sum(
            draw.uniform(0, 1) * np.sin(2 * np.pi * (at / period + draw.uniform()))
            for period in np.exp(draw.uniform(np.log(8), np.log(200), draw.integers(0, 3)))
        )
        decay, push = 1 - np.exp(draw.uniform(np.log(0.005), np.log(0.5))), draw.normal(size=at.shape)
        walk = np.stack([lfilter([np.sqrt(1 - decay**2)], [1, -decay], row) for row in push])
        trend = draw.uniform(0, 0.01) * draw.normal(size=(num_episodes, 1)) * np.arange(steps)
        noise = draw.uniform(0, 0.2) * draw.normal(size=at.shape)
        columns[name] = (season + draw.uniform(0, 1) * walk + trend + draw.uniform(-1, 1) * shared + noise).ravel()
        shared = np.roll(columns[name].reshape(at.shape), int(draw.integers(0, 6)), 1)  # the second one follows later
    with tempfile.TemporaryDirectory() as temporary:
        roles = {name: {"role": "observation"} for name in ("first", "second")}
        store = open_store(import_logs(columns, Path(temporary) / "store", edits=roles).destination)
        return {"episodes": num_episodes, "errors": compared(store, budget_s, folder, LONG_PAST)}


def series(options: Any) -> Row:
    """Per method quantiles of its ratio to the linear world, and the number of logs on which it is 2 % better."""
    tasks = {str(seed): (seed, options.budget, options.chronos) for seed in options.series}
    rows, answer = dict(sorted(run_tasks(one_series, tasks, options.workers, "series"))), Row()
    for method in next(iter(rows.values()))["errors"]:
        both = [(np.log(row["errors"][method]), np.log(row["errors"]["linear"])) for row in rows.values()]
        ratios = [float(np.exp((own - linear).mean())) for own, linear in both]
        answer[method] = quantiles(ratios, 0.0, 0.5, 1.0) | {"better": sum(ratio < 0.98 for ratio in ratios)}
    return {"summary": answer, "logs": rows}


def cases(options: Any) -> Row:
    """The errors on each plant, and the time of a forecast."""
    names = [name for name, plant in PLANTS.items() if not plant.is_missing()]
    tasks = {name: (name, options.budget, options.chronos) for name in names}
    rows = dict(run_tasks(case, tasks, options.workers, "case"))
    forecasters = {"fracast": Fracast()} | (
        {} if options.chronos is None else {"chronos": Chronos.from_folder(options.chronos)}
    )
    return {"errors": {name: rows[name] for name in names}, "seconds": {n: seconds(f) for n, f in forecasters.items()}}


def seconds(forecaster: Fracast | Chronos) -> Row:
    """Seconds of one forecast of 48 steps of one series, with one input if it takes any."""
    draw, inputs = np.random.default_rng(0), int(forecaster.takes_inputs)
    taken = list[float]()
    for _ in range(12):
        tables = [draw.normal(size=(1, count, steps)) for count, steps in ((1, 512), (inputs, 512), (inputs, HORIZON))]
        started = time.perf_counter()
        forecaster.forecast(*tables)
        taken.append(time.perf_counter() - started)
    return quantiles(taken[2:], 0.0, 0.5, 1.0)


def measure(plant: Case, row: Row) -> Row:
    """The bands of the adopted forecaster on a plant."""
    if "lengths" in row:
        return row
    spread = np.nanstd(np.concatenate([episode[0] for episode in plant.episodes]), 0)
    with tempfile.TemporaryDirectory() as folder:
        frame, out = frame_of(plant), Path(folder) / "world"
        started = time.monotonic()
        try:
            world = worldline.adopt("fracast", frame, out, edits=roles_of(plant), progress=None)
        except worldline.WorldlineError as error:
            return row | {"stopped": str(error), "lengths": {}}
        card = world.describe()
        row |= {"adopt_s": time.monotonic() - started, "context": card.context, "signals": len(card.predicts)}
        sizes = {label: min(card.context if label == "context" else int(label), plant.past) for label in LENGTHS}
        return row | {"stopped": "", "lengths": {label: graded(plant, world, n, spread) for label, n in sizes.items()}}


def plants(options: Any) -> Row:
    """Coverage and trust by length of the history."""
    rows = each_plant(measure, options, HORIZON, lambda row: [row.get("adopt_s")])
    answer: Row = {"stopped": share(sum(bool(row["stopped"]) for row in rows), len(rows))}
    for label in LENGTHS:
        cells = [row["lengths"][label] for row in rows if label in row["lengths"]]
        covered = [cell["coverage"] for cell in cells if "coverage" in cell]
        answer[label] = {
            "plants with bands": share(len(covered), len(rows)),
            "coverage": {"mean": float(np.mean(covered)), **quantiles(covered, 0.0, 0.1, 0.5)},
            "plants below 0.8": share(sum(value < 0.8 for value in covered), len(covered)),
            "trust below 0.05": float(np.mean([cell["low_trust"] for cell in cells])),
            "errors above 10 deviations with trust": sum(cell["violations"] for cell in cells),
        }
    answer["seconds per signal"] = quantiles(
        [row["adopt_s"] / row["signals"] for row in rows if "adopt_s" in row], 0.5, 1.0
    )
    return {"summary": answer, "rows": rows}


def main() -> None:
    """Measures the parts; writes and prints each one."""
    options = arguments(
        __doc__,
        parts=PARTS,
        budget=60.0,
        plants=range(8_000_000, 8_000_016),
        series=range(8_100_000, 8_100_012),
        chronos=Path,
        workers="1",
        cache=Path,
    )
    one_thread()
    result = {name: value for name, value in read(options.out).items() if name != "machine"}
    measures: Mapping[str, Any] = {"cases": cases, "series": series, "plants": plants}
    for name in options.parts:
        result[name] = measures[name](options)
        write(options.out, result)
    if "cases" in options.parts:
        head = ("plant", "method", *(f"{step} steps" for step in STEPS))
        table = result["cases"]["errors"].items()
        show(head, [(name, method, *row) for name, rows in table for method, row in rows.items()])
    if "series" in options.parts:
        show(("method", "ratio to the linear world"), list(result["series"]["summary"].items()))
    if "plants" in options.parts:
        show(("history", "figures"), list(result["plants"]["summary"].items()))


if __name__ == "__main__":
    main()
