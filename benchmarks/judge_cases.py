"""Random plants in closed loops, their logs, and controllers that never ran in them. Measures nothing.

The plants are those of benchmarks/stranger_plants.py. Three of four have an unmeasured disturbance that drifts for 5 to
400 steps; one of three has coloured sensor noise. The logged controller is the best of 20 random PID controllers, with
exploration. Its reference changes every 40 to 100 steps and is logged. Episodes begin after 60 steps of random actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from stranger_loops import reached
from stranger_plants import Plant, State, Table, draw_plant, log_uniform
from stranger_plants import _scaled as scaled

from worldline.control.controller import Situation
from worldline.control.controllers import (
    Controller,
    ControllerCard,
    ControlRule,
    PidController,
    PidLoop,
    RuleController,
    ValueRange,
)
from worldline.control.imagination import logged_runs, loop_of
from worldline.control.judgement import SHAKES
from worldline.control.linear_loops import SETTLE, STEP, lasting
from worldline.control.plan_controller import PlanController
from worldline.control.run_goal import RunFigures, RunGoal, run_figures
from worldline.episode import Arrays, Episode, History
from worldline.planning.costs import AtLeast, AtMost, Change
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.base import World

STEPS: Final = 200
WARM_UP: Final = 60
KEPT_STATES: Final = 60
"""Steps after which a controller may take over."""
NUM_PIDS: Final = 20
REPEATS: Final = 4
"""Repetitions of each logged situation with other noise."""
FRESH: Final = 20
"""Other episodes."""
UNSTABLE_SHARE: Final = 0.85
"""Share of the plants with a deliberately unstable controller."""
COLOURED: Final = 0.9
NEAR: Final = 1.3
"""Gain of the plant with which a loop near the limit of stability oscillates."""


def vector(name: str, role: Role, *bounds: float) -> Signal:
    """A signal with one component."""
    low, high = ((bounds[0],), (bounds[1],)) if bounds else (None, None)
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(1,), low=low, high=high)


@dataclass(kw_only=True)
class Loop:
    """W copies of a plant with their sensors.

    Args:
        plant: the plant.
        state: of the copies.
        coloured: share of the sensor noise that stays from step to step.
        draw: of all noise.
        calm: whether there is no noise.
    """

    plant: Plant
    state: State
    coloured: float
    draw: Generator
    calm: bool = False
    noise: Table | None = None

    def observe(self) -> Table:
        """Measurements [W, p]."""
        levels = self.state.levels[:, self.plant.logged]
        fresh = self.draw.standard_normal(levels.shape)
        before = fresh if self.noise is None else self.noise
        self.noise = self.coloured * before + np.sqrt(1 - self.coloured**2) * fresh
        noisy = levels + (0.0 if self.calm else 1.0) * self.plant.noise * self.noise
        return np.asarray(self.plant.offset + self.plant.scale * noisy)

    def step(self, actions: Table, outside: Table | None = None) -> None:
        """One step with actions [W, m] in physical units, and exogenous inputs [W, k] if they are known."""
        if outside is not None:
            self.state = replace(self.state, exogenous=outside)
        low, high = self.plant.low, self.plant.high
        share = 2 * (actions - low) / (high - low) - 1
        self.state = self.plant._step(self.state, share, np.ones(len(share)), self.draw)


@dataclass(kw_only=True)
class JudgeCase:
    """A plant, its logs and six controllers.

    Args:
        seed: of all draws.
        plant: without its own policy.
        coloured: as in `Loop`.
        schema: of the signals, with the reference "r".
        known: schema without the reference.
        goal: of the runs.
        log: the logged controller.
        explored: share of the exploration in logged actions.
        episodes: with the reference.
        states: of the plant at the first `KEPT_STATES` steps of the episodes.
        rise: change of the controlled output by the main action, and the range of references.
        main: number of the main action.
        candidates: controllers by name.
    """

    seed: int
    plant: Plant
    coloured: float
    schema: Schema
    known: Schema
    goal: RunGoal
    log: Controller
    explored: float
    rise: float
    middle: float
    main: int
    pid: PidLoop
    episodes: list[Episode] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    candidates: dict[str, Controller] = field(default_factory=dict)


def calm_of(plant: Plant) -> Plant:
    """The plant without disturbances."""
    return replace(plant, unmeasured=(0.0, 1.0), process_noise=0.0, disturb=0 * plant.disturb)


def references(case_range: tuple[float, float], count: int, draw: Generator, steps: int = STEPS) -> Table:
    """References [W, T] that change every 40 to 100 steps."""
    low, high = case_range
    values = np.empty((count, steps))
    for row in values:
        step = 0
        while step < steps:
            hold = int(draw.integers(40, 101))
            row[step : step + hold] = draw.uniform(low, high)
            step += hold
    return values


def draw_judge_case(seed: int, *, num_episodes: int = 60, exploration: float = 1.0) -> JudgeCase:
    """The case of a seed.

    Args:
        seed: of all draws.
        num_episodes: in the log.
        exploration: factor on the share of the exploration.
    """
    draw = np.random.default_rng([seed, 20261202])
    while True:
        plant = scaled(draw_plant(draw), draw)
        if plant is None:
            continue
        m = plant.drive.shape[1]
        rises = [reached(plant, 0.6 * unit) - reached(plant, -0.6 * unit) for unit in np.eye(m)]
        main = int(np.abs(rises).argmax())
        if abs(rises[main]) > 0.3 * plant.scale[0]:
            break
    slow = (float(log_uniform(draw, 0.02, 0.25) * (draw.random() < 0.75)), float(log_uniform(draw, 5, 400)))
    plant = replace(plant, policy="random steps", jitter=0.0, unmeasured=slow)
    middle = reached(plant, np.zeros(m))
    ends = sorted(reached(plant, share * np.eye(m)[main]) for share in (-0.5, 0.5))
    coloured = COLOURED * (draw.random() < 1 / 3)
    spread = max(ends[1] - ends[0], 1e-6)
    observed = [vector(f"y{n}", Role.OBSERVATION) for n in range(len(plant.logged))]
    acts = [vector(f"u{n}", Role.ACTION, *pair) for n, pair in enumerate(zip(plant.low, plant.high, strict=True))]
    outside = [vector(f"d{n}", Role.EXOGENOUS) for n in range(plant.disturb.shape[1])]
    known = Schema(signals=(*observed, *acts, *outside), step_s=1.0)
    schema = Schema(signals=(*known.signals, vector("r", Role.EXOGENOUS)), step_s=1.0)
    change = Change(signal=f"u{main}", tolerance=float(0.2 * (plant.high - plant.low)[main]))
    goal = RunGoal(targets={"y0": "r"}, tolerance={"y0": 0.1 * spread}, costs=(change,))
    case = JudgeCase(
        seed=seed, plant=plant, coloured=coloured, schema=schema, known=known, goal=goal,
        log=RuleController([ControlRule(when={}, set={})], known),
        explored=exploration * float(draw.uniform(0.15, 0.5)),
        rise=rises[main], middle=middle, main=main, pid=PidLoop(reads="y0", acts=f"u{main}", gain=0.0),
    )  # fmt: skip
    span = float((plant.high - plant.low)[main])
    tried = list[tuple[float, PidLoop]]()
    for _ in range(NUM_PIDS):
        loop = PidLoop(
            reads="y0",
            acts=f"u{main}",
            gain=float(np.sign(case.rise) * log_uniform(draw, 0.03, 5) * span / spread),
            integral_s=float(log_uniform(draw, 3, 150)),
            derivative_s=float(log_uniform(draw, 0.3, 10) * (draw.random() < 0.3)),
            bias=float((plant.low + plant.high)[main] / 2),
        )
        trial = simulated(case, pid_of(case, loop), references((ends[0], ends[1]), 6, draw), draw)
        error = (trial.observed[:, 1:, 0] - trial.reference) / (0.1 * spread)
        moved = np.diff(trial.actions[:, :, main], axis=1) / (0.2 * span)
        tried.append((float((error**2).mean() + (moved**2).mean()), loop))
    case.pid = min(tried, key=lambda each: each[0])[1]
    case.log = pid_of(case, case.pid)
    logged = simulated(case, case.log, references((ends[0], ends[1]), num_episodes, draw), draw, explored=case.explored)
    case.episodes, case.states = logged.episodes(case), logged.states
    low, high = map(float, np.quantile(logged.observed[:, :, 0], (0.05, 0.95)))
    case.goal = replace(goal, constraints=(AtMost(signal="y0", bound=high), AtLeast(signal="y0", bound=low)))
    case.candidates = candidates_of(case, logged, draw)
    return case


def pid_of(case: JudgeCase, loop: PidLoop) -> PidController:
    """The loop, with all other actions in the middle."""
    others = [
        PidLoop(reads="y0", acts=f"u{n}", gain=0.0, set_point=0.0, bias=float(value))
        for n, value in enumerate((case.plant.low + case.plant.high) / 2)
        if n != case.main
    ]
    return PidController([loop, *others], case.known)


@dataclass(kw_only=True)
class Simulated:
    """W true episodes.

    Args:
        observed: [W, T + 1, p].
        actions: [W, T, m].
        outside: [W, T, k].
        reference: [W, T].
        states: of the first steps.
    """

    observed: Table
    actions: Table
    outside: Table
    reference: Table
    states: list[State]

    def episodes(self, case: JudgeCase) -> list[Episode]:
        """With the names of the schema."""

        def columns(letter: str, table: Table) -> Arrays:
            return {f"{letter}{n}": table[:, [n]].astype(np.float32) for n in range(table.shape[1])}

        return [
            Episode(
                observations=columns("y", self.observed[w]),
                actions=columns("u", self.actions[w]),
                exogenous={**columns("d", self.outside[w]), "r": self.reference[w][:, None].astype(np.float32)},
            )
            for w in range(len(self.observed))
        ]


def simulated(
    case: JudgeCase,
    controller: Controller,
    reference: Table,
    draw: Generator,
    *,
    explored: float = 0.0,
    state: State | None = None,
    outside: Table | None = None,
    calm: bool = False,
    offset: Callable[[int], float] | None = None,
    lead: tuple[Controller, float, int] | None = None,
    past: History | None = None,
    context: int = 2,
    gain: float = 1.0,
) -> Simulated:
    """Episodes of the true plant.

    Args:
        case: the plant.
        controller: chooses the actions.
        reference: [W, T].
        draw: of all noise.
        explored: share of random levels in the actions.
        state: at the start; None for that after a warm-up.
        outside: exogenous inputs [W, T, k]; None for new ones.
        calm: whether there is no noise.
        offset: added to the measured values at a step; None for nothing.
        lead: another controller, its exploration, and for how many steps it acts first.
        past: what the controller has seen before, with as many actions as observations.
        context: observations that the controller sees.
        gain: of the plant, on the difference of the actions to their middle.
    """
    plant, (count, steps) = case.plant, reference.shape
    if state is None:
        state = plant.simulate(plant.rest(count), WARM_UP, draw).end
    loop = Loop(plant=calm_of(plant) if calm else plant, state=state, coloured=case.coloured, draw=draw, calm=calm)
    pilots = [loop_of(each, case.known, context) for each in ([controller] if lead is None else [lead[0], controller])]
    pilots[-1].reset({}, past)
    levels, m = draw.uniform(-1, 1, (count, plant.drive.shape[1])), plant.drive.shape[1]
    observed, actions, inputs, states = [loop.observe()], list[Table](), list[Table](), list[State]()
    middle, half = (plant.low + plant.high) / 2, (plant.high - plant.low) / 2
    for step in range(steps):
        first = lead is not None and step < lead[2]
        if step < KEPT_STATES:
            states.append(loop.state)
        shift = 0.0 if offset is None else offset(step)
        inputs.append(loop.state.exogenous if outside is None else outside[:, step])
        seen = {f"y{n}": (observed[-1][:, [n]] + shift).astype(np.float32) for n in range(len(plant.logged))}
        before = {f"d{n}": inputs[max(0, step - 1)][:, [n]].astype(np.float32) for n in range(inputs[0].shape[1])}
        goals = {"y0": reference[:, step, None].astype(np.float32)}
        if lead is not None and step == lead[2] > 0:
            pilots[1].reset({}, history_of(case, observed[:-1], actions, inputs[:-1]))
        acts = pilots[0 if first else -1].act(seen, exogenous=before, goals=goals)
        table = np.concatenate([np.asarray(acts[f"u{n}"], float) for n in range(m)], 1)
        table = middle + gain * (table - middle)
        share = lead[1] if first and lead is not None else explored
        switch = draw.random((count, m)) < 1 / 8
        levels = np.where(switch, draw.uniform(-1, 1, (count, m)), levels)
        actions.append(np.clip((1 - share) * table + share * (middle + half * levels), plant.low, plant.high))
        loop.step(actions[-1], inputs[-1])
        observed.append(loop.observe())
    return Simulated(
        observed=np.stack(observed, 1),
        actions=np.stack(actions, 1),
        outside=np.stack(inputs, 1),
        reference=reference,
        states=states,
    )


def history_of(case: JudgeCase, observed: list[Table], actions: list[Table], outside: list[Table]) -> History:
    """Steps as a history with as many actions as observations."""
    known = case.known
    groups = ((known.observations, observed), (known.actions, actions), (known.exogenous, outside))
    parts = [
        {signal.name: np.stack(rows, 1)[:, :, [n]].astype(np.float32) for n, signal in enumerate(signals)}
        for signals, rows in groups
    ]
    return History(observations=parts[0], actions=parts[1], exogenous=parts[2])


def true_shakes(case: JudgeCase, controller: Controller | None, spread: float, gain: float = 1.0) -> float:
    """The lasting oscillation of the true plant without noise, in standard deviations of the log; 0 if it settles."""
    reference = np.full((1, 2 * SETTLE), case.middle)
    still = pid_of(case, replace_gain(case.pid, 0.0))
    run = simulated(
        case,
        still if controller is None else controller,
        reference,
        np.random.default_rng(0),
        state=case.plant.simulate(case.plant.rest(1), WARM_UP, np.random.default_rng(1)).end,
        outside=np.zeros((1, 2 * SETTLE, case.plant.disturb.shape[1])),
        calm=True,
        offset=lambda step: STEP * spread * (step >= SETTLE),
        gain=gain,
    )
    return float(lasting((run.observed[:, SETTLE + 1 :, :1] - case.middle) / spread).max())


def replace_gain(loop: PidLoop, gain: float) -> PidLoop:
    """The loop with another gain."""
    return PidLoop(
        reads=loop.reads, acts=loop.acts, gain=gain, integral_s=loop.integral_s, derivative_s=loop.derivative_s,
        bias=loop.bias, set_point=loop.set_point,
    )  # fmt: skip


class PredictiveController(Controller):
    """Linear predictive control: an autoregression of the controlled output, and the first of the best changes.

    Args:
        case: with the schema.
        runs: the log.
        horizon: steps.
        weight: of the changes.
    """

    LAGS = 5

    def __init__(self, case: JudgeCase, runs: Simulated, horizon: int, weight: float) -> None:
        self.card = ControllerCard(name="linear MPC", reads=("y0",))
        self.case, self.horizon = case, horizon
        self.low, self.high = float(case.plant.low[case.main]), float(case.plant.high[case.main])
        y, u = runs.observed[:, :, 0], runs.actions[:, :, case.main]
        self.mean, self.spread = np.array([y.mean(), u.mean()]), np.array([y.std(), max(u.std(), 1e-9)])
        y, u = (y - self.mean[0]) / self.spread[0], (u - self.mean[1]) / self.spread[1]
        rows, n = [], self.LAGS
        for t in range(n, u.shape[1]):
            rows.append((np.concatenate([y[:, t - n + 1 : t + 1], u[:, t - n + 1 : t + 1]], 1), y[:, t + 1]))
        table, wanted = np.concatenate([a for a, _ in rows]), np.concatenate([b for _, b in rows])
        table = np.concatenate([table, np.ones((len(table), 1))], 1)
        penalty = 1e-4 * len(table) * np.eye(table.shape[1])
        self.weights = np.linalg.solve(table.T @ table + penalty, table.T @ wanted)
        zero = np.zeros((1, n))
        base, moved = (self._path(zero, zero, np.full((1, horizon), level)) for level in (0.0, 1.0))
        steps = (moved - base)[0]
        matrix = np.array([[steps[t - s] if t >= s else 0.0 for s in range(horizon)] for t in range(horizon)])
        size = matrix.T @ matrix + weight * np.eye(horizon)
        self.first = np.linalg.solve(size, matrix.T)[0]
        self.reset()

    def _path(self, y: Table, u: Table, future: Table) -> Table:
        """Predictions [W, horizon]."""
        path = []
        for t in range(self.horizon):
            u = np.concatenate([u[:, 1:], future[:, [t]]], 1)
            following = np.concatenate([y, u, np.ones((len(y), 1))], 1) @ self.weights
            y = np.concatenate([y[:, 1:], np.clip(following, -20, 20)[:, None]], 1)
            path.append(following)
        return np.stack(path, 1)

    def reset(self) -> None:
        """Forgets the lags."""
        self.y: Table | None = None
        self.u: Table | None = None

    def act(self, session: Situation) -> Arrays:
        """The clipped action; others are in their middle."""
        now = (np.asarray(session.history.observations["y0"], float)[:, -1] - self.mean[0]) / self.spread[0]
        wanted = (np.asarray(session.goals["y0"], float) - self.mean[0]) / self.spread[0]
        if self.y is None or self.u is None:
            middle = ((self.low + self.high) / 2 - self.mean[1]) / self.spread[1]
            self.y, self.u = np.repeat(now, self.LAGS, 1), np.full((len(now), self.LAGS), middle)
        else:
            self.y = np.concatenate([self.y[:, 1:], now], 1)
        free = self._path(self.y, self.u, np.repeat(self.u[:, -1:], self.horizon, 1))
        following = self.u[:, -1] + (wanted - free) @ self.first
        main = np.clip(self.mean[1] + self.spread[1] * following, self.low, self.high)
        self.u = np.concatenate([self.u[:, 1:], ((main - self.mean[1]) / self.spread[1])[:, None]], 1)
        plant = self.case.plant
        table = np.repeat(((plant.low + plant.high) / 2)[None], len(main), 0)
        table[:, self.case.main] = main
        return {s.name: s.bounded(table[:, [n]]).astype(np.float32) for n, s in enumerate(self.case.known.actions)}


def candidates_of(case: JudgeCase, logged: Simulated, draw: Generator) -> dict[str, Controller]:
    """Six controllers."""
    known, loop, main = case.known, case.pid, case.main
    made = dict[str, Controller]()
    for number in range(3):
        other = PidLoop(
            reads="y0",
            acts=loop.acts,
            gain=float(loop.gain * log_uniform(draw, 0.2, 3)),
            integral_s=float((loop.integral_s or 10) * log_uniform(draw, 0.3, 3)),
            derivative_s=loop.derivative_s if number < 2 else 0.0,
            bias=loop.bias,
        )
        made[f"PID {number}"] = pid_of(case, other)
    values, acts = logged.observed[:, :, 0], logged.actions[:, :, main]
    low, high = (float(v) for v in np.quantile(values, (0.4, 0.6)))
    small, large = (float(v) for v in np.quantile(acts, (0.2, 0.8)))
    if case.rise < 0:
        small, large = large, small
    rest = {f"u{n}": float(v) for n, v in enumerate((case.plant.low + case.plant.high) / 2)}
    middle = float(np.median(acts))
    rules = [
        ControlRule(when={"y0": ValueRange(below=low)}, set={f"u{main}": large}),
        ControlRule(when={"y0": ValueRange(above=high)}, set={f"u{main}": small}),
    ]
    made["rules"] = RuleController(rules, known, {**rest, f"u{main}": middle})
    made["linear MPC"] = PredictiveController(
        case, logged, int(draw.integers(8, 25)), float(log_uniform(draw, 0.1, 10))
    )
    spread = float(values.std())
    if draw.random() < UNSTABLE_SHARE:
        base, worst = true_shakes(case, None, spread), pid_of(case, replace_gain(loop, -loop.gain))
        name = "reversed"
        for factor in np.geomspace(2, 200, 8):
            fast = PidLoop(
                reads="y0", acts=loop.acts, gain=float(loop.gain * factor), bias=loop.bias,
                integral_s=max(1.5, (loop.integral_s or 10) / 3),
            )  # fmt: skip
            trial = pid_of(case, fast)
            if true_shakes(case, trial, spread) > max(1.5 * base, SHAKES):
                name, worst = "unstable", trial
                break
        made[name] = worst
    else:
        other = replace_gain(loop, float(loop.gain * log_uniform(draw, 0.2, 3)))
        made["PID 3"] = pid_of(case, other)
    return made


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a controller really does.

    Args:
        same: figures of the logged situations with other noise.
        fresh: figures of other episodes.
        shakes: lasting oscillation under the controller, and without one.
        near: lasting oscillation with a larger gain of the plant.
    """

    same: RunFigures
    fresh: RunFigures
    shakes: tuple[float, float] = (0.0, 0.0)
    near: float = 0.0


def figures_of(known: Schema, goal: RunGoal, episodes: Sequence[Episode], at: int) -> RunFigures:
    """Figures of true episodes from a step on."""
    goals = [goal.logged_targets(episode, known) for episode in episodes]
    return run_figures(logged_runs(known, episodes, goals, at=at), goal, known)


def continued(logged: Episode, run: Episode, at: int) -> Episode:
    """The logged steps before `at`, then a run."""
    parts = [
        {name: np.concatenate([before[name][:at], value]) for name, value in after.items()}
        for before, after in (
            (logged.observations, run.observations),
            (logged.actions, run.actions),
            (logged.exogenous, run.exogenous),
        )
    ]
    return Episode(observations=parts[0], actions=parts[1], exogenous=parts[2])


def truth_of(case: JudgeCase, controller: Controller, at: int) -> Truth:
    """Runs of the true plant in the logged situations and in other episodes, and oscillations without noise."""
    draw = np.random.default_rng([case.seed, 7])
    count, steps = len(case.episodes), case.episodes[0].num_steps
    reference = np.stack([np.asarray(episode.exogenous["r"][at:, 0], np.float64) for episode in case.episodes])
    names = [f"d{n}" for n in range(case.plant.disturb.shape[1])]
    outside = np.stack(
        [
            np.concatenate([episode.exogenous[name][at:] for name in names] + [np.zeros((steps - at, 0))], 1)
            for episode in case.episodes
        ]
    )
    twice = np.tile(np.arange(count), REPEATS)
    state = case.states[at]
    start = State(**{name: value[:count][twice] for name, value in vars(state).items()})
    seen = History.stack([episode.history(at=at, length=at + 1) for episode in case.episodes]).worlds(twice)
    past = History(
        observations={s.name: seen.observations[s.name][:, :-1] for s in case.known.observations},
        actions={s.name: seen.actions[s.name] for s in case.known.actions},
        exogenous={s.name: seen.exogenous[s.name] for s in case.known.exogenous},
    )
    sees: dict[str, Any] = {"context": max(2, at + 1)}
    if at:
        sees["past"] = past
    same = simulated(case, controller, reference[twice], draw, state=start, outside=outside[twice], **sees)
    ends = sorted(reached(case.plant, share * np.eye(case.plant.drive.shape[1])[case.main]) for share in (-0.5, 0.5))
    fresh = simulated(
        case, controller, references((ends[0], ends[1]), FRESH, draw, steps), draw, lead=(case.log, case.explored, at),
        context=max(2, at + 1),
    )  # fmt: skip
    spread = float(np.std(np.array([episode.observations["y0"] for episode in case.episodes], np.float64)))
    return Truth(
        same=figures_of(
            case.known,
            case.goal,
            [continued(case.episodes[w], run, at) for w, run in zip(twice, same.episodes(case), strict=True)],
            at,
        ),
        fresh=figures_of(case.known, case.goal, fresh.episodes(case), at),
        shakes=(true_shakes(case, controller, spread), true_shakes(case, None, spread)),
        near=true_shakes(case, controller, spread, NEAR),
    )


def planned_case(case: JudgeCase, world: World, horizon: int, episodes: int, steps: int) -> JudgeCase:
    """Short logged episodes, and plans on a world as the only controller.

    Args:
        case: with all episodes.
        world: plans.
        horizon: steps of a plan.
        episodes: number of them.
        steps: of an episode.
    """
    first = [episode.window(0, steps) for episode in case.episodes[:episodes]]
    return replace(case, episodes=first, candidates={"plan": PlanController(world, case.goal, horizon=horizon)})
