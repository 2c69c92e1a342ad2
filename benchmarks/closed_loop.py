"""Control of simulated plants with learned worlds, against tuned PID controllers and linear model predictive control.

Run: .venv/bin/python benchmarks/closed_loop.py [--cases cstr pendulum] [--seeds 5] [--episodes 3] [--budget 60]
     [--evaluations 600]
Needs the packages `tclab` and `gymnasium`. Writes benchmarks/results/closed_loop.json, one case at a time.

All controllers get the same measurements and have the same cost in each step: the squared error of each controlled
signal, and the squared change of each action, both in units of a tolerance. References are constant, and change once in
the middle of an episode without notice. Future exogenous inputs are unknown, so controllers hold the last ones.

* The PID controllers are tuned on the plant itself: differential evolution minimises the cost of `TUNING` episodes.
* The linear controller fits an autoregression with inputs to the log and chooses its lags by validation. It solves the
  bounded least-squares problem exactly. Its horizon and its filter for a constant disturbance are tuned on the plant.
* The world is learned from the same log by `worldline learn` in `--budget` s of processor time. It plans with its
  default planner. Nothing is tuned on the plant.

The cost ratio is paired over test episodes. Its 95 % interval is a bootstrap interval over episodes of all seeds.
Target: the upper end is at most 1.05, against the better of the two others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import CLOCK, Row, arguments, one_thread, read, show, use_processor_time, write
from forecast_peers import LAGS, Problem, arx
from numpy.typing import NDArray
from plant_logs import PLANTS, held
from plants import CartPole, FourTanks, HeaterLab, Pendulum, Plant, Run, StirredTank, Table
from scipy.optimize import differential_evolution, lsq_linear

from worldline.control.controller import ReplanningController, Situation
from worldline.control.controllers import Controller, ControllerActor, ControllerCard
from worldline.control.plan_controller import PlanController
from worldline.control.run_goal import RunGoal
from worldline.data.store import Store
from worldline.episode import Arrays, Episode, History
from worldline.planning.costs import Change
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import draw_clusters
from worldline.workflows.learn import learn
from worldline.world.base import World

TUNING = 3
"""Episodes that the others are tuned on."""
STEPS = 120
PAST = 25
"""Observations that a controller may use, and the steps under the first action before the control begins."""
MAX_COST = 1e6
RATIO_BAR = 1.05


class Pair(NamedTuple):
    """One loop of a PID controller.

    Args:
        signal: its measured signal.
        action: number of its action.
        sign: 1 if a larger action raises the signal.
    """

    signal: str
    action: int
    sign: int = 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """A plant, a log and a cost.

    Args:
        schema: the signals, each with one component.
        record: the log of a seed.
        plant: a plant in a random state.
        references: two references per controlled signal [2, signals], for the halves of an episode.
        tolerance: per controlled signal the error with cost 1.
        change: per action the change with cost 1.
        first: the action before the control begins.
        horizon: steps of a plan.
        loops: of the PID controller.
        warm_up: steps under the first action.
    """

    schema: Schema
    record: Callable[[int], list[Run]]
    plant: Callable[[np.random.Generator], Plant]
    references: Callable[[np.random.Generator], Table]
    tolerance: Mapping[str, float]
    change: tuple[float, ...]
    first: tuple[float, ...]
    horizon: int
    loops: tuple[Pair, ...]
    warm_up: int = PAST

    @property
    def controlled(self) -> list[int]:
        """Numbers of the controlled observations."""
        names = [one.name for one in self.schema.observations]
        return [names.index(name) for name in self.tolerance]

    @property
    def bounds(self) -> tuple[Table, Table]:
        """Lower and upper bounds of the actions."""
        both = [(one.low[0], one.high[0]) for one in self.schema.actions if one.low and one.high]
        low, high = np.array(both, float).T
        return low, high


def signal(name: str, unit: str, role: Role = Role.OBSERVATION, *bounds: float) -> Signal:
    """A signal with one component; bounds are those of an action."""
    low, high = ((bounds[0],), (bounds[1],)) if bounds else (None, None)
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(1,), unit=unit, low=low, high=high)


def draws_of(seed: int, part: int, number: int) -> np.random.Generator:
    """The draws of an episode: part 1 for tuning, part 2 for the test."""
    return np.random.default_rng([seed, part, number])


def control(
    task: Task, controller: Controller, draws: np.random.Generator, seconds: list[float] | None = None
) -> float:
    """The mean cost of a step in one episode. Appends the seconds of each step to `seconds`."""
    plant, schema = task.plant(draws), task.schema
    references, last, total = task.references(draws), np.array(task.first), 0.0
    tolerance, change = np.array(list(task.tolerance.values())), np.array(task.change)
    loop = ReplanningController(ControllerActor(controller, schema), schema, context=PAST, replan_every=1, seed=0)
    now, inputs = plant.observe(), np.zeros(len(schema.exogenous))
    if task.warm_up:
        rows = list[tuple[Table, Table]]()
        for _ in range(task.warm_up):
            rows.append((now, plant.exogenous()))
            plant.step(last)
            now = plant.observe()
        seen, outside = (np.array(part) for part in zip(*rows, strict=True))
        past = History(
            observations=columns(schema.observations, seen),
            actions=columns(schema.actions, np.tile(last, (task.warm_up, 1))),
            exogenous=columns(schema.exogenous, outside),
        )
        loop.reset({}, History.stack([past]))
    for number in range(STEPS):
        reference, before, inputs = references[number * 2 // STEPS], inputs, plant.exogenous()
        acts = loop.act(
            columns(schema.observations, now[None]),
            exogenous=columns(schema.exogenous, before[None]),
            forecast={name: value[None] for name, value in columns(schema.exogenous, inputs[None]).items()},
            goals=columns([schema[name] for name in task.tolerance], reference[None]),
        )
        taken = table(acts, schema.actions)[0]
        plant.step(taken)
        now = plant.observe()
        error = (now[task.controlled] - reference) / tolerance
        total += min(MAX_COST, float((error**2).sum() + (((taken - last) / change) ** 2).sum()))
        last = taken
    if seconds is not None:
        seconds += [each.elapsed_s for each in loop.rounds]
    return total / STEPS


class PID(Controller):
    """PID loops whose outputs add up, with limited integrals and filtered derivatives.

    Args:
        task: with the loops.
        values: for each loop the logarithms of gain (in action ranges per tolerance), integral time and derivative time
            (in steps), then a bias per action as a share of its range.
    """

    def __init__(self, task: Task, values: Table) -> None:
        self.card = ControllerCard(name="tuned PID", reads=tuple(task.tolerance))
        self.task, self.values = task, values
        self.reset()

    def reset(self) -> None:
        """Forgets integrals and errors."""
        self.integral: Table | float = 0.0
        self.slope: Table | float = 0.0
        self.before: Table | None = None

    def act(self, session: Situation) -> Arrays:
        """The sum of the loops."""
        low, high = self.task.bounds
        loops, controlled = self.task.loops, [self.task.schema[name] for name in self.task.tolerance]
        gain, time_i, time_d = 10.0 ** self.values[: 3 * len(loops)].reshape(-1, 3).T
        tolerance = np.array(list(self.task.tolerance.values()))
        at = [list(self.task.tolerance).index(loop.signal) for loop in loops]
        measured = table(session.history.observations, controlled)[:, -1] / tolerance
        error = (table(session.goals, controlled) / tolerance - measured)[:, at]
        if self.before is not None:
            self.slope = 0.5 * self.slope + 0.5 * (self.before - measured[:, at])
        self.before = measured[:, at]
        sign = np.array([loop.sign for loop in loops])
        parts = sign * gain * (error + (self.integral + error) / time_i + time_d * self.slope)
        total = np.tile(low + self.values[3 * len(loops) :] * (high - low), (len(measured), 1))
        for place, loop in enumerate(loops):
            total[:, loop.action] += parts[:, place] * (high - low)[loop.action]
        acts = [loop.action for loop in loops]
        free = ((low <= total) & (total <= high))[:, acts]
        self.integral = self.integral + error * free
        return columns(self.task.schema.actions, np.clip(total, low, high))


def tuned_pid(task: Task, evaluations: int) -> PID:
    """The PID controller with the smallest cost in the tuning episodes."""
    bounds = [*[(-3.0, 0.5), (0.0, 3.0), (-1.5, 1.5)] * len(task.loops), *[(0.0, 1.0)] * len(task.first)]

    def cost(values: Table) -> float:
        return tuning_cost(task, PID(task, values))

    population = 4
    rounds = max(1, evaluations // (population * len(bounds)) - 1)
    found = differential_evolution(cost, bounds, popsize=population, maxiter=rounds, rng=0, tol=0, polish=False)
    return PID(task, found.x)


def tuning_cost(task: Task, controller: Controller) -> float:
    """The mean cost in the tuning episodes."""
    return float(np.mean([control(task, controller, draws_of(0, 1, number)) for number in range(TUNING)]))


@dataclass(kw_only=True)
class LinearMPC(Controller):
    """Exact plans for one plant with a linear autoregression with inputs.

    Args:
        task: with cost and bounds.
        predict: standardised predictions of the autoregression.
        mean: of observations and inputs in the log.
        spread: their standard deviations.
        horizon: steps of a plan.
        filter_: share of a new one-step error in the estimate of a constant disturbance; 0 for none.
    """

    task: Task
    predict: Callable[[Any], Table]
    mean: tuple[Table, Table]
    spread: tuple[Table, Table]
    horizon: int = 20
    filter_: float = 0.0
    card: ControllerCard = field(default=ControllerCard(name="linear MPC", reads=None))

    @classmethod
    def fit(cls, task: Task, runs: Sequence[Run], seed: int) -> LinearMPC:
        """Fits the autoregression to a log."""
        pairs = [(seen, np.concatenate([given, outside], 1)) for seen, given, outside in runs]
        tables = [np.concatenate([pair[part] for pair in pairs]) for part in (0, 1)]
        mean = tables[0].mean(0), tables[1].mean(0)
        spread = np.maximum(tables[0].std(0), 1e-9), np.maximum(tables[1].std(0), 1e-9)
        scaled = [tuple((pair[part] - mean[part]) / spread[part] for part in (0, 1)) for pair in pairs]
        shortest = min(len(given) for _, given in scaled)
        past = min(PAST, shortest // 3)
        problem = Problem(
            episodes=scaled,
            steps=(1, min(10, shortest // 3), min(task.horizon, shortest // 2)),
            past=past,
            seed=seed,
            cpu_s=60.0,
            begun_s=time.process_time(),
        )
        return cls(task=task, predict=arx(problem), mean=mean, spread=spread)

    def reset(self) -> None:
        """Forgets the disturbance."""
        self.offset = np.zeros(len(self.mean[0]))
        self.expected: Table | None = None

    def _forecast(self, seen: Table, inputs: Table) -> Table:
        """Predictions [W, T, n] for inputs [W, H - 1 + T, m] in physical units."""
        scaled = (seen - self.mean[0]) / self.spread[0]
        given = (inputs - self.mean[1]) / self.spread[1]
        windows = _Windows(observed=np.repeat(scaled[None], len(inputs), 0), inputs=given)
        return np.asarray(self.predict(windows) * self.spread[0] + self.mean[0])

    def act(self, session: Situation) -> Arrays:
        """The first action of the best plan."""
        schema, history = self.task.schema, session.history
        seen, given = table(history.observations, schema.observations)[0], table(history.actions, schema.actions)[0]
        outside = np.zeros((len(seen), 0))
        if schema.exogenous:
            parts = [table(values, schema.exogenous)[0] for values in (history.exogenous, session.forecast or {})]
            outside = np.concatenate(parts)
        reference = table(session.goals, [schema[name] for name in self.task.tolerance])[0]
        if self.expected is not None:
            self.offset = (1 - self.filter_) * self.offset + self.filter_ * (seen[-1] - self.expected)
        missing = max(LAGS) + 1 - len(seen)
        last = given[-1] if len(given) else np.array(self.task.first)
        if missing > 0:  # the plant rested before
            seen = np.concatenate([np.repeat(seen[:1], missing, 0), seen])
            given = np.concatenate([np.repeat(last[None] if not len(given) else given[:1], missing, 0), given])
            outside = np.concatenate([np.repeat(outside[:1], missing, 0), outside])
        steps, size = self.horizon, len(last)
        past = np.concatenate([given, outside[:-1]], 1)
        future = np.concatenate([np.repeat(last[None], steps, 0), np.repeat(outside[-1:], steps, 0)], 1)
        base = np.concatenate([past, future])
        moved = np.repeat(base[None], 1 + size, 0)  # held inputs, then a step of each action by one tolerance
        for place in range(size):
            moved[1 + place, len(past) :, place] += self.task.change[place]
        paths = self._forecast(seen, moved)[:, :, self.task.controlled]
        free, steps_of = paths[0] + self.offset[self.task.controlled], paths[1:] - paths[0]
        tolerance = np.array(list(self.task.tolerance.values()))
        rows = np.zeros((steps, len(tolerance), steps, size))  # by changes of the actions
        for at in range(steps):
            rows[at:, :, at, :] = steps_of[:, : steps - at].transpose(1, 2, 0)
        rows = (rows / tolerance[:, None, None]).reshape(-1, steps * size)
        target = ((reference - free) / tolerance).reshape(-1)
        sums = np.kron(np.tril(np.ones((steps, steps))), np.eye(size))  # levels from changes
        to_changes = np.linalg.inv(sums)
        matrix = np.concatenate([rows @ to_changes, to_changes])  # by levels, which have bounds
        low, high = self.task.bounds
        unit = np.tile(np.array(self.task.change), steps)
        bounds = [(np.tile(edge - last, steps) / unit) for edge in (low, high)]
        solved = lsq_linear(
            matrix, np.concatenate([target, np.zeros(steps * size)]), bounds=(bounds[0], bounds[1] + 1e-9)
        )
        now: Table = np.clip(last + solved.x[:size] * np.array(self.task.change), low, high)
        taken = base.copy()
        taken[len(past) :, :size] = now
        self.expected = self._forecast(seen, taken[None])[0, 0]
        return columns(schema.actions, now[None])


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """What `foreign_peers.roll` reads of its windows."""

    observed: Table
    inputs: Table

    @property
    def horizon(self) -> int:
        return int(self.inputs.shape[1] - self.observed.shape[1] + 1)


def tuned_mpc(task: Task, fitted: LinearMPC) -> LinearMPC:
    """The horizon and filter with the smallest cost in the tuning episodes."""
    tried = [replace(fitted, horizon=steps, filter_=share) for steps in (10, task.horizon) for share in (0.0, 0.1, 0.5)]
    for one in tried:
        one.reset()
    return min(tried, key=lambda one: tuning_cost(task, one))


def planned(task: Task, world: World) -> PlanController:
    """Plans of a world."""
    names = [one.name for one in task.schema.actions]
    changes = [Change(signal=name, tolerance=size) for name, size in zip(names, task.change, strict=True)]
    targets = dict.fromkeys(task.tolerance, "the reference")
    return PlanController(
        world, RunGoal(targets=targets, tolerance=task.tolerance, costs=changes), horizon=task.horizon
    )


def columns(signals: Sequence[Signal], values: Table) -> dict[str, NDArray[np.float32]]:
    """One array [T, 1] per signal."""
    return {one.name: values[:, [place]].astype(np.float32) for place, one in enumerate(signals)}


def table(values: Arrays, signals: Sequence[Signal]) -> Table:
    """The signals [..., 1] side by side."""
    return np.concatenate([np.asarray(values[one.name], float) for one in signals], -1)


def steady_tanks(draws: np.random.Generator) -> Table:
    """Levels that constant voltages reach."""
    return np.array([FourTanks.steady(draws.uniform(2.0, 3.3, 2)) for _ in range(2)])


def uniform(low: Sequence[float], high: Sequence[float]) -> Callable[[np.random.Generator], Table]:
    """Independent references."""
    return lambda draws: draws.uniform(low, high, (2, len(low)))


def constant(*values: float) -> Callable[[np.random.Generator], Table]:
    """The same references in each episode."""
    return lambda _: np.array([values, values])


def balanced_log(seed: int) -> list[Run]:
    """Cart-pole under a weak state feedback with random extra forces; an episode ends when the pole falls."""
    runs = []
    for number in range(150):
        draws = np.random.default_rng([seed, 0, number])
        plant, extra = CartPole(draws.uniform(-0.1, 0.1, 4)), held(draws, (-6,), (6,), (2, 10))[:, 0]
        seen, given = [plant.observe()], []
        for push in extra:
            position, velocity, angle, turning = seen[-1]
            force = 0.5 * position + velocity + 20 * angle + 3 * turning + push
            given.append([np.clip(force, -CartPole.FORCE, CartPole.FORCE)])
            plant.step(np.array(given[-1]))
            seen.append(plant.observe())
            if abs(seen[-1][2]) > 0.6 or abs(seen[-1][0]) > 2.4:
                break
        runs.append((np.array(seen), np.array(given), np.zeros((len(given), 0))))
    return runs


TASKS: dict[str, Task] = {
    "tclab": Task(
        schema=Schema(
            signals=(
                *(signal(f"temperature_{number}", "degC") for number in (1, 2)),
                *(signal(f"heater_{number}", "%", Role.ACTION, 0, 100) for number in (1, 2)),
            ),
            step_s=HeaterLab.STEP_S,
        ),
        record=PLANTS["tclab"].record,
        plant=HeaterLab,
        references=uniform((35, 30), (55, 45)),
        tolerance={"temperature_1": 1.0, "temperature_2": 1.0},
        change=(20.0, 20.0),
        first=(0.0, 0.0),
        horizon=20,
        loops=(Pair("temperature_1", 0), Pair("temperature_2", 1)),
    ),
    "quadruple-tank": Task(
        schema=Schema(
            signals=(
                *(signal(f"level_{number}", "cm") for number in (1, 2)),
                *(signal(f"pump_{number}", "V", Role.ACTION, 1.5, 3.7) for number in (1, 2)),
            ),
            step_s=FourTanks.STEP_S,
        ),
        record=PLANTS["quadruple-tank"].record,
        plant=FourTanks,
        references=steady_tanks,
        tolerance={"level_1": 0.3, "level_2": 0.3},
        change=(0.3, 0.3),
        first=(2.6, 2.6),
        horizon=20,
        loops=(Pair("level_1", 0), Pair("level_2", 1)),
    ),
    "cstr": Task(
        schema=Schema(
            signals=(
                signal("concentration", "mol/l"),
                signal("reactor_temperature", "K"),
                signal("coolant_temperature", "K", Role.ACTION, 280, 302),
                signal("feed_temperature", "K", Role.EXOGENOUS),
            ),
            step_s=60 * StirredTank.STEP_MIN,
        ),
        record=PLANTS["cstr"].record,
        plant=lambda draws: StirredTank(draws, STEPS + PAST + 1),
        references=uniform((312,), (328,)),
        tolerance={"reactor_temperature": 1.0},
        change=(3.0,),
        first=(291.0,),
        horizon=20,
        loops=(Pair("reactor_temperature", 0),),
    ),
    "pendulum": Task(
        schema=Schema(
            signals=(
                signal("angle_cosine", "1"),
                signal("angle_sine", "1"),
                signal("angular_velocity", "rad/s"),
                signal("torque", "N m", Role.ACTION, -2, 2),
            ),
            step_s=Pendulum.STEP_S,
        ),
        record=PLANTS["pendulum"].record,
        plant=lambda draws: Pendulum((np.pi + draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5))),
        references=constant(1.0, 0.0, 0.0),
        tolerance={"angle_cosine": 0.25, "angle_sine": 0.25, "angular_velocity": 3.0},
        change=(2.0,),
        first=(0.0,),
        horizon=25,
        loops=(Pair("angle_sine", 0),),
        warm_up=0,
    ),
    "cartpole": Task(
        schema=Schema(
            signals=(
                signal("position", "m"),
                signal("velocity", "m/s"),
                signal("angle", "rad"),
                signal("angular_velocity", "rad/s"),
                signal("force", "N", Role.ACTION, -CartPole.FORCE, CartPole.FORCE),
            ),
            step_s=CartPole.STEP_S,
        ),
        record=balanced_log,
        plant=lambda draws: CartPole(draws.uniform(-0.1, 0.1, 4)),
        references=lambda draws: np.array([[place, 0.0] for place in draws.uniform(-1, 1, 2)]),
        tolerance={"position": 0.3, "angle": 0.1},
        change=(5.0,),
        first=(0.0,),
        horizon=40,
        loops=(Pair("position", 0, -1), Pair("angle", 0, -1)),
        warm_up=0,
    ),
}


def learned(task: Task, runs: list[Run], budget_s: float, seed: int) -> World:
    """The world that `worldline learn` makes of a log."""
    schema = task.schema
    groups = (schema.observations, schema.actions, schema.exogenous)
    use_processor_time()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", schema)
        for run in runs:
            seen, given, outside = (columns(group, table) for group, table in zip(groups, run, strict=True))
            store.append(Episode(observations=seen, actions=given, exogenous=outside))
        return learn(store.path, Path(folder) / "world", recipe="auto", seed=seed, budget=budget_s)


def measure(name: str, task: Task, options: Any, seeds: int) -> Row:
    """All controllers of one case."""
    pid = tuned_pid(task, options.evaluations)
    costs: dict[str, list[list[float]]] = {"PID": [], "linear MPC": [], "world": []}
    models, plan_s = list[str](), list[float]()
    for seed in range(seeds):
        runs = task.record(seed)
        mpc = tuned_mpc(task, LinearMPC.fit(task, runs, seed))
        planner = planned(task, learned(task, runs, options.budget, seed))
        for method, controller in (("PID", pid), ("linear MPC", mpc), ("world", planner)):
            seconds = plan_s if method == "world" else None
            draws = [draws_of(seed, 2, number) for number in range(options.episodes)]
            found = [control(task, controller, each, seconds) for each in draws]
            costs[method].append([round(one, 5) for one in found])
            print(f"{name}, seed {seed}: {method} {np.round(found, 3)}", flush=True)
        models.append(planner.world.describe().name)
    better = min(("PID", "linear MPC"), key=lambda method: np.mean(costs[method]))
    ours, theirs = (np.ravel(costs[method]) for method in ("world", better))
    weights = draw_clusters(ours.size, 0)
    low, high = np.quantile((weights @ ours) / (weights @ theirs), (0.025, 0.975))
    return {
        "seeds": seeds,
        "episodes": options.episodes,
        "budget_s": options.budget,
        "clock": CLOCK,
        "worlds": models,
        "pid": [round(float(one), 4) for one in pid.values],
        "cost": costs,
        "mean": {method: round(float(np.mean(values)), 4) for method, values in costs.items()},
        "better": better,
        "ratio": [round(float(one), 4) for one in (ours.mean() / theirs.mean(), low, high)],
        "met": bool(high <= RATIO_BAR),
        "plan_ms": round(1e3 * float(np.median(plan_s)), 1),
    }


def show_cases(results: Mapping[str, Row]) -> None:
    """Prints the results."""
    header = ("case", "PID", "linear MPC", "world", "ratio to the better one", "model", "plan, ms")
    show(
        header,
        [
            (name, *one["mean"].values(), one["ratio"], ", ".join(sorted(set(one["worlds"]))), one["plan_ms"])
            for name, one in results.items()
        ],
    )


def main() -> None:
    """Measures case by case, writes and prints the results."""
    options = arguments(__doc__, cases=tuple(TASKS), seeds=5, episodes=3, budget=60.0, evaluations=600)
    one_thread()
    results = {name: one for name, one in read(options.out).items() if name in TASKS}
    for name in options.cases:
        if name in PLANTS and PLANTS[name].is_missing():
            print(f"{name}: skipped, this machine lacks the package {PLANTS[name].package}")
            continue
        results[name] = measure(name, TASKS[name], options, options.seeds)
        write(options.out, results)
    show_cases(results)


if __name__ == "__main__":
    main()
