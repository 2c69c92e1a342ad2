"""Calibration of worlds: joint coverage, p-values of surprise and trust, detection of changed laws, and the alarm.

Run: .venv/bin/python benchmarks/confidence.py [FOLDER] [--seeds 3] [--worlds gusty-puck wind greenhouse]
Records into FOLDER (default: a temporary one), or reuses its recordings. Writes benchmarks/results/confidence.json.
Worlds that `--worlds` leaves out keep their results.

Worlds: gusty puck and wind (labs with noise and a hidden cause), each with the engine `linear` and a learned model of
vectors; and the greenhouse under measured weather with a learned model. Training, calibration and test use different
episodes.

Targets. The share of fresh trajectories inside their joint 90 % band agrees with the beta-binomial law (5 % level, Holm
over signals, worlds and seeds). P-values of surprise are uniform (Kolmogorov-Smirnov, Holm). In each world a trust of
at most 0.05 flags at least 95 % of shifted histories; only histories with every signal inside its training range count.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, kept_or_temporary, one_thread, read, stored, write
from greenhouse_logs import record_greenhouse
from greenhouse_plant import greenhouse, greenhouse_split
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.data.windows import forecast_windows
from worldline.engines.base import Engine
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.labs.base import Lab
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Schema
from worldline.stats import tails, wilson
from worldline.workflows.record import record
from worldline.workflows.training import learn_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.ood import LENGTHS
from worldline.world.session import Session
from worldline_exam.labs.gusty_puck import GustyPuck
from worldline_exam.labs.wind import Wind

LEVEL = 0.9
RATE = 0.05
"""Nominal rate of false alarms."""
Figures = dict[str, Any]
Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A world to learn, and the changes of its law.

    Args:
        name: name of the world.
        horizon: steps of the trajectories.
        seen: steps of a history beyond the context that trust evaluates.
        logs: returns the store to learn from.
        fresh: returns episodes for calibration and for testing, none of them in the training data.
        shifts: per name, a function that returns episodes of the changed world.
    """

    name: str
    horizon: int
    seen: int
    logs: Callable[[], Store]
    fresh: Callable[[], tuple[list[Episode], list[Episode]]]
    shifts: Mapping[str, Callable[[], Store]]


PUCK_SHIFTS: dict[str, Callable[[], Lab]] = {
    "friction 3 to 4 (learned: 0.5 to 2)": lambda: GustyPuck(friction=(3.0, 4.0)),
    "mass 0.8 kg (0.5)": lambda: GustyPuck(mass=0.8),
    "spring 1.5 N/m (0.5)": lambda: GustyPuck(spring=1.5),
    "gusts of 0.2 N (0.1)": lambda: GustyPuck(gust=0.2),
}
WIND_SHIFTS: dict[str, Callable[[], Lab]] = {"noise 1.0 m a step (0.5)": lambda: Wind(noise=1.0)}
GREENHOUSE_SHIFTS = {
    "cover loses 1.5 times the heat": {"heat_transfer_cover": 1.5},
    "a vent ajar (leakage 0.75 mm/s)": {"leak": 100.0},
    "half the transpiration": {"transp_coeff": 0.5},
    "half the warmth of the sun": {"rad_heat_load": 0.5},
}


def lab_store(folder: Path, name: str, make: Callable[[], Lab], num_episodes: int, seed: int) -> Store:
    return stored(folder / name, lambda new: record(make(), new, num_episodes=num_episodes, max_steps=60, seed=seed))


def greenhouse_store(folder: Path, name: str, num_episodes: int, changed: Mapping[str, float] | None) -> Store:
    seed = 0 if changed is None else 1
    return stored(
        folder / name, lambda new: record_greenhouse(new, num_episodes=num_episodes, seed=seed, changed=changed)
    )


def fresh_of_lab(folder: Path, name: str, make: Callable[[], Lab]) -> tuple[list[Episode], list[Episode]]:
    episodes = every(lab_store(folder, f"{name}-fresh", make, 800, 1))
    return episodes[:500], episodes[500:]


def fresh_of_greenhouse(folder: Path) -> tuple[list[Episode], list[Episode]]:
    store = greenhouse_store(folder, "greenhouse", 800, None)
    split = greenhouse_split(store)
    return [store.episode(number) for number in split.calibration], [store.episode(number) for number in split.held_out]


def every(store: Store) -> list[Episode]:
    return [store.episode(number) for number in range(len(store))]


def cases(folder: Path) -> list[Case]:
    def of_lab(name: str, make: Callable[[], Lab], shifts: Mapping[str, Callable[[], Lab]]) -> Case:
        return Case(
            name=name,
            horizon=20,
            seen=32,
            logs=partial(lab_store, folder, name, make, 500, 0),
            fresh=partial(fresh_of_lab, folder, name, make),
            shifts={
                shift: partial(lab_store, folder, f"{name}-shift{number}", other, 200, 2)
                for number, (shift, other) in enumerate(shifts.items())
            },
        )

    return [
        of_lab("gusty-puck", GustyPuck, PUCK_SHIFTS),
        of_lab("wind", Wind, WIND_SHIFTS),
        Case(
            name="greenhouse",
            horizon=48,
            seen=64,
            logs=partial(greenhouse_store, folder, "greenhouse", 800, None),
            fresh=partial(fresh_of_greenhouse, folder),
            shifts={
                shift: partial(greenhouse_store, folder, f"greenhouse-shift{number}", 100, changed)
                for number, (shift, changed) in enumerate(GREENHOUSE_SHIFTS.items())
            },
        ),
    ]


def engines(case: Case, store: Store, seed: int, folder: Path) -> dict[str, Engine]:
    """The linear world is the same for every seed, so it occurs once."""
    recipe = greenhouse(store) if case.name == "greenhouse" else vectors(store)
    learned = learn_world(store, recipe.with_seed(seed), folder=folder / f"{case.name}-{seed}")
    found: dict[str, Engine] = {"learned": learned.engine}
    if seed == 0 and case.name != "greenhouse":
        found["linear"] = Linear.fit(every(store), store.schema)
    return found


def histories(world: LocalWorld, episodes: Sequence[Episode], num_steps: int, rng: np.random.Generator) -> Floats:
    """Trust [n] in a history of `num_steps` beyond the context, at a random place of each episode."""
    card = world.describe()
    length = card.context + num_steps
    places = [(one, int(rng.integers(length - 1, one.num_steps))) for one in episodes]
    windows = forecast_windows(places, length=length, horizon=1, schema=card.schema, targets=())
    found = world.predict(windows.history, windows.actions, exogenous=windows.exogenous or None, level=0.5)
    return np.asarray(found.trust)


def coverage(world: LocalWorld, episodes: Sequence[Episode], horizon: int, rng: np.random.Generator) -> list[Figures]:
    """One row per signal: trajectories inside the joint band, one per episode."""
    card = world.describe()
    assert world.calibration is not None
    vectors = [name for name in card.predicts if card.schema[name].kind is Kind.VECTOR]
    places = [(one, int(rng.integers(card.context - 1, one.num_steps - horizon + 1))) for one in episodes]
    windows = forecast_windows(places, length=card.context, horizon=horizon, schema=card.schema, targets=vectors)
    said = world.predict(windows.history, windows.actions, exogenous=windows.exogenous or None, level=LEVEL).signals
    rows = []
    for name in vectors:
        low, high, truth = said[name].low, said[name].high, windows.truth[name].astype(np.float64)
        assert low is not None
        assert high is not None
        inside = np.asarray(((low <= truth) & (truth <= high)).all((1, 2)))
        chance = tails(int(inside.sum()), len(inside), LEVEL, world.calibration.num_episodes)
        band = [k for k in range(len(inside) + 1) if _two_sided(k, len(inside), world.calibration.num_episodes) > 0.05]
        rows.append(
            {
                "signal": name,
                "inside": int(inside.sum()),
                "of": len(inside),
                "share": float(inside.mean()),
                "law": [band[0] / len(inside), band[-1] / len(inside)],
                "p": min(1.0, 2 * min(chance.low, chance.high)),
                "horizon": int(np.max(said[name].horizon)),
            }
        )
    return rows


def _two_sided(count: int, trials: int, num_calibration: int) -> float:
    chance = tails(count, trials, LEVEL, num_calibration)
    return 2 * min(chance.low, chance.high)


def surprises(world: LocalWorld, episodes: Sequence[Episode], rng: np.random.Generator) -> list[Figures]:
    """Kolmogorov-Smirnov test against uniform, one random step per episode."""
    assert world.calibration is not None
    drawn: dict[str, list[float]] = {}
    for one in episodes:
        found = world.surprise(one)
        step = int(rng.integers(world.describe().context - 1, one.num_steps))
        named = {f"signal {n}": v for n, v in found.p_values.items()} | {
            f"entity {n}": v for n, v in found.entities.items()
        }
        for name, value in {**named, "all": found.steps}.items():
            drawn.setdefault(name, []).append(float(value[step]))
    return [{"of": name, **uniform(np.array(p), world.calibration.num_episodes)} for name, p in drawn.items()]


def uniform(p_values: Floats, num_calibration: int) -> Figures:
    """Two-sample distance of p-values from uniform, since they are ranks among the calibration episodes."""
    order, count = np.sort(p_values), len(p_values)
    distance = max((np.arange(1, count + 1) / count - order).max(), (order - np.arange(count) / count).max())
    size = count * num_calibration / (count + num_calibration)
    scaled = (math.sqrt(size) + 0.12 + 0.11 / math.sqrt(size)) * max(distance - 1 / (num_calibration + 1), 0.0)
    tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101))
    return {"n": count, "distance": float(distance), "p": 1.0 if scaled < 0.2 else min(1.0, max(0.0, tail))}


def inside_range(schema: Schema, train: Sequence[Episode], episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes whose vectors all stay in their training range."""
    kept = list(episodes)
    for signal in (*schema.observations, *schema.actions, *schema.exogenous):
        if signal.kind is not Kind.VECTOR:
            continue
        values = np.concatenate([_values(one, signal.name) for one in train])
        low, high = values.min(0), values.max(0)
        kept = [one for one in kept if ((low <= _values(one, signal.name)) & (_values(one, signal.name) <= high)).all()]
    return kept


def _values(episode: Episode, name: str) -> NDArray[np.generic]:
    return {**episode.observations, **episode.actions, **episode.exogenous}[name]


def shifted(case: Case, world: LocalWorld, store: Store, held_out: Sequence[Episode], seed: int) -> Figures:
    """Flag rates of ordinary and shifted histories, per number of observed steps."""
    train = every(store) if case.name != "greenhouse" else [store.episode(n) for n in greenhouse_split(store).train]
    lengths = [steps for steps in LENGTHS if steps <= case.seen]
    rng = np.random.default_rng(seed)

    def row(episodes: Sequence[Episode]) -> dict[int, Figures]:
        found = {}
        for steps in lengths:
            flags = histories(world, episodes, steps, rng) <= RATE
            rate = wilson(int(flags.sum()), len(flags))
            found[steps] = {"share": rate.value, "low": rate.low, "high": rate.high, "of": len(flags)}
        return found

    rows = {}
    for name, logs in case.shifts.items():
        changed = every(logs())
        kept = inside_range(store.schema, train, changed)
        rows[name] = {"inside_the_range": [len(kept), len(changed)], "flagged": row(kept) if kept else {}}
    return {"ordinary": row(held_out), "shifts": rows}


def alarms(world: LocalWorld, ordinary: Sequence[Episode], changed: Mapping[str, Callable[[], Store]]) -> Figures:
    """Alarms of one session per episode: false alarms, and the delay in steps."""

    def play(one: Episode) -> Session:
        session = Session(world, num_kept=world.describe().context + 4)
        for step in range(one.num_steps + 1):
            before = max(step - 1, 0)
            session.observe(
                {name: value[step] for name, value in one.observations.items()},
                actions={name: value[before] for name, value in one.actions.items()} if step else None,
                exogenous={name: value[before] for name, value in one.exogenous.items()} if step else None,
            )
        return session

    calm = [play(one) for one in ordinary]
    steps = sum(one.num_steps for one in ordinary)
    found: Figures = {
        "patience": calm[0].patience,
        "ordinary": {"alarms": sum(len(s.alarms) for s in calm), "steps": steps},
    }
    for name, logs in changed.items():
        sessions = [play(one) for one in every(logs())[:50]]
        first = [session.alarms[0].step for session in sessions if session.alarms]
        found[name] = {
            "raised": len(first),
            "of": len(sessions),
            "median_steps": float(np.median(first)) if first else None,
        }
    return found


def run(case: Case, seed: int, folder: Path) -> list[Figures]:
    store = case.logs()
    episodes, held_out = case.fresh()
    rows = []
    for name, engine in engines(case, store, seed, folder).items():
        found = calibrate(engine, episodes, horizon=case.horizon, num_windows=4, seed=seed, trust_steps=case.seen)
        world, rng = LocalWorld(engine, found, CrossEntropy()), np.random.default_rng(100 + seed)
        rows.append(
            {
                "world": case.name,
                "engine": name,
                "seed": seed,
                "calibration_episodes": found.num_episodes,
                "coverage": coverage(world, held_out, case.horizon, rng),
                "surprise": surprises(world, held_out, rng),
                "trust_uniform": uniform(histories(world, held_out, case.seen, rng), found.num_episodes),
                "trust": shifted(case, world, store, held_out, seed),
                "alarm": alarms(world, held_out[:50], case.shifts),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def holm(rows: Sequence[Figures], part: str) -> Figures:
    """Whether any test of this part is rejected at 5 %, with Holm's correction."""
    p_values = sorted(one["p"] for row in rows for one in row[part])
    adjusted = [min(1.0, p * (len(p_values) - place)) for place, p in enumerate(p_values)]
    return {"tests": len(p_values), "smallest_p": p_values[0], "after_holm": adjusted[0], "met": adjusted[0] > 0.05}


def shift_bar(rows: Sequence[Figures]) -> Figures:
    """Per world, the flagged share of shifted and ordinary histories of the longest length, with a 95 % interval.

    All runs of a world use the same episodes, so the episodes count once. The share is the mean over runs; the
    interval uses the number of episodes of one run.
    """
    worlds = {}
    for world in dict.fromkeys(row["world"] for row in rows):
        runs = [row["trust"] for row in rows if row["world"] == world]
        most = max(runs[0]["ordinary"], key=int)
        shifts = [[one["flagged"][most] for one in run["shifts"].values() if one["flagged"]] for run in runs]
        worlds[world] = {
            "flagged": _over_runs(shifts),
            "false_alarms": _over_runs([[run["ordinary"][most]] for run in runs]),
            "least": min(one["share"] for run in shifts for one in run),
        }
    return {"worlds": worlds, "met": all(one["flagged"][0] >= 0.95 for one in worlds.values())}


def _over_runs(runs: Sequence[Sequence[Figures]]) -> list[float]:
    """The mean share over runs on the same trials, with its Wilson interval."""
    trials = sum(one["of"] for one in runs[0])
    hits = sum(one["share"] * one["of"] for run in runs for one in run) / len(runs)
    rate = wilson(round(hits), trials)
    return [hits / trials, rate.low, rate.high]


def main() -> None:
    worlds = ("gusty-puck", "wind", "greenhouse")
    options = arguments(__doc__, folder=Path, seeds=3, worlds=worlds)
    one_thread()
    rows = [row for row in read(options.out).get("runs", []) if row["world"] not in options.worlds]
    with kept_or_temporary(options.folder) as folder, tempfile.TemporaryDirectory() as temporary:
        for case in cases(folder):
            for seed in range(options.seeds if case.name in options.worlds else 0):
                rows += run(case, seed, Path(temporary))
    bars = {"coverage": holm(rows, "coverage"), "surprise": holm(rows, "surprise"), "shifts": shift_bar(rows)}
    write(options.out, {"bars": bars, "runs": rows})
    print(json.dumps(bars, indent=2))


if __name__ == "__main__":
    main()
