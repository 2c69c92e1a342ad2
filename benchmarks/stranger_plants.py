"""Random plants and random logs for benchmarks/strangers.py. Measures nothing and imports nothing of worldline.

A plant is a cascade of blocks of order 1 or 2, behind actuators. Time is counted in rows; units are those of `Case`.

Classes, each with what is drawn besides the linear core:

* linear: nothing.
* saturating: actuators that saturate, and states that flow out with the square root of their level.
* bilinear: actions that change the rates of states.
* hysteresis: actuators with backlash, whose position is not logged.
* dead time: actions that arrive 1 to 12 rows late.
* end stops: positions that end at a stop, where the velocity becomes 0.
* hidden states: nonlinear blocks of order 3 to 8 in all, of which one or two states are logged.
* limit cycle: a van der Pol oscillator.
* slow next to fast: time constants of 1.5 to 3 rows and of 100 to 400 rows.

At least half of the drawn plants are nonlinear with a state that is not logged. Each has sensor noise; some have
unmeasured disturbances, logged exogenous inputs, or a poor controller with exploration in a closed loop.

Logs are 30 to 300 episodes, or one recording of 800 to 50,000 rows. Some are irregular in time, have missing values, a
coarse resolution, or a short last episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Table = NDArray[np.float64]

KINDS: Final = (
    *("linear", "saturating", "bilinear", "hysteresis", "dead time"),
    *("end stops", "hidden states", "limit cycle", "slow next to fast"),
)
SHARES: Final = (0.1, 0.14, 0.12, 0.1, 0.08, 0.12, 0.18, 0.08, 0.08)
"""Probability of each class."""
SUBSTEPS: Final = 6
NUM_WINDOWS: Final = 100
"""Windows that are simulated after the end of the log."""
PAST, HORIZON = 60, 24
"""Rows of a window up to the present, and after it."""
POLICIES: Final = ("random steps", "binary", "sines", "filtered noise", "closed loop")


Episode = tuple[Table, Table, Table, Table]
"""Observations [T+1, p], actions [T, m], exogenous inputs [T, k] and durations [T] in s."""


def log_uniform(draw: Generator, low: float, high: float, size: int | None = None) -> Table:
    """Numbers whose logarithm is uniform."""
    return np.asarray(np.exp(draw.uniform(np.log(low), np.log(high), size)))


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of E copies of a plant with its controller.

    Args:
        levels: [E, n] of the blocks.
        pending: [E, delay + 1, m] normalised actions under way.
        backlash: [E, m] positions behind the actuators.
        disturbance: [E, m], unmeasured, added to the actions.
        exogenous: [E, k].
        integral: [E] of the controller.
    """

    levels: Table
    pending: Table
    backlash: Table
    disturbance: Table
    exogenous: Table
    integral: Table


@dataclass(frozen=True, kw_only=True)
class Rows:
    """E simulated episodes.

    Args:
        observed: [E, T + 1, p] with sensor noise, in physical units.
        actions: [E, T, m] in physical units.
        exogenous: [E, T, k].
        step_s: [E, T] duration of each step in units of the usual one.
        clean: [E, T + 1, p] without sensor noise.
        end: the state after the last row.
    """

    observed: Table
    actions: Table
    exogenous: Table
    step_s: Table
    clean: Table
    end: State


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A random plant.

    Args:
        kind: one of `KINDS`.
        tau: [n] time constants in rows; of an oscillator, its period over 2 pi.
        pair: [n] 1 for the position of an oscillator, 2 for its velocity, 0 for a block of order 1.
        damping: [n] of oscillators; below 0 for a limit cycle.
        shape: [n] 0 linear, 1 square root, 2 cubic.
        rate: [n, m] relative change of the rate by an action.
        couple: [n, n] lower triangular.
        drive: [n, m], and `disturb` [n, k] for exogenous inputs.
        stop: [n] largest magnitude of a position.
        saturation: [m] gain in front of a saturation; 0 for none.
        backlash: [m] width; 0 for none.
        delay: [m] in rows.
        process_noise: standard deviation per square root of a row.
        unmeasured: standard deviation and time constant of the disturbance.
        logged: [p] numbers of the logged states.
        scale, offset, noise: [p] of the sensors.
        low, high: [m] ranges of the actions.
        policy: one of `POLICIES`.
        periods: [m, 4] of the sines, in rows.
        hold: rows for which an action is held, or the time scale of the policy.
        gain: of the poor controller, proportional and integral, and its exploration.
        jitter: relative deviation of the duration of steps; 0 if regular.
    """

    kind: str
    tau: Table
    pair: NDArray[np.int64]
    damping: Table
    shape: NDArray[np.int64]
    rate: Table
    couple: Table
    drive: Table
    disturb: Table
    stop: Table
    saturation: Table
    backlash: Table
    delay: NDArray[np.int64]
    process_noise: float
    unmeasured: tuple[float, float]
    logged: NDArray[np.int64]
    scale: Table
    offset: Table
    noise: Table
    low: Table
    high: Table
    policy: str
    periods: Table
    hold: float
    gain: tuple[float, float, float]
    jitter: float

    @property
    def is_nonlinear(self) -> bool:
        """Whether the law is not linear."""
        bends = self.shape.any() or self.rate.any() or self.saturation.any() or self.backlash.any()
        return bool(bends or np.isfinite(self.stop).any() or (self.damping < 0).any())

    @property
    def has_hidden_state(self) -> bool:
        """Whether a state is not logged."""
        return bool(len(self.logged) < len(self.tau) or self.backlash.any() or self.delay.any())

    @cached_property
    def _parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Table, bool, bool]:
        """Positions, velocities, states of order 1, and whether shapes and rates bend."""
        position, velocity = np.flatnonzero(self.pair == 1), np.flatnonzero(self.pair == 2)
        return position, velocity, (self.pair == 0).astype(float), bool(self.shape.any()), bool(self.rate.any())

    def rest(self, count: int) -> State:
        """`count` copies at rest."""
        m, k = self.drive.shape[1], self.disturb.shape[1]
        return State(
            levels=np.zeros((count, len(self.tau))),
            pending=np.zeros((count, int(self.delay.max()) + 1, m)),
            backlash=np.zeros((count, m)),
            disturbance=np.zeros((count, m)),
            exogenous=np.zeros((count, k)),
            integral=np.zeros(count),
        )

    def simulate(self, state: State, rows: int, draw: Generator) -> Rows:
        """`rows` steps of every copy under the policy."""
        count, m, k = len(state.levels), self.drive.shape[1], self.disturb.shape[1]
        excitation = self._excitation(count, rows, m, draw)
        step = np.ones((count, rows))
        if self.jitter:
            step = np.clip(1 + self.jitter * draw.standard_normal((count, rows)), 0.3, 3.0)
        sensor = draw.standard_normal((rows + 1, count, len(self.logged)))
        clean = np.empty((rows + 1, count, len(self.logged)))
        actions, exogenous = np.empty((rows, count, m)), np.empty((rows, count, k))
        for t in range(rows + 1):
            clean[t] = state.levels[:, self.logged]
            if t == rows:
                break
            exogenous[t] = state.exogenous
            actions[t], integral = self._act(clean[t] + self.noise * sensor[t], excitation[:, t], state)
            state = self._step(replace(state, integral=integral), actions[t], step[:, t], draw)
        seen, pure = (self.offset + self.scale * table for table in (clean + self.noise * sensor, clean))
        physical = self.low + (actions + 1) / 2 * (self.high - self.low)
        return Rows(
            observed=np.moveaxis(seen, 0, 1),
            actions=np.moveaxis(physical, 0, 1),
            exogenous=np.moveaxis(exogenous, 0, 1),
            step_s=step,
            clean=np.moveaxis(pure, 0, 1),
            end=state,
        )

    def _excitation(self, count: int, rows: int, m: int, draw: Generator) -> Table:
        """Normalised actions [E, T, m] of the policy, or set points and exploration of the closed loop."""
        times = np.arange(rows)
        if self.policy == "sines":
            waves = 2 * np.pi * times[None, :, None, None] / self.periods
            phase = draw.uniform(0, 2 * np.pi, (count, 1, m, 4))
            return np.asarray(np.clip(np.sin(waves + phase).sum(-1) / 2.2, -1, 1))
        if self.policy == "filtered noise":
            keep, values = np.exp(-1 / self.hold), np.empty((count, rows, m))
            now = draw.standard_normal((count, m))
            for t in range(rows):
                now = keep * now + np.sqrt(1 - keep**2) * draw.standard_normal((count, m))
                values[:, t] = now
            return np.clip(0.5 * values, -1, 1)
        levels = draw.uniform(-1, 1, (count, rows, m))
        if self.policy == "binary":
            levels = np.where(levels > 0, 0.8, -0.8)
        switch = draw.random((count, rows, m)) < 1 / self.hold
        switch[:, 0] = True
        last = np.maximum.accumulate(np.where(switch, times[None, :, None], 0), axis=1)
        return np.take_along_axis(levels, last, axis=1)

    def _act(self, seen: Table, excitation: Table, state: State) -> tuple[Table, Table]:
        """Normalised actions [E, m] and the integral of the controller."""
        if self.policy != "closed loop":
            return excitation, state.integral
        proportional, integrating, exploration = self.gain
        error = 0.6 * excitation[:, 0] - seen[:, 0]  # the set point is not logged
        first = np.clip(proportional * error + state.integral, -1, 1)
        integral = np.clip(state.integral + integrating * error, -1, 1)
        others = np.roll(excitation, 1, axis=0)  # exploration must not reveal the set point
        acts = exploration * others
        acts[:, 0] += (1 - exploration) * first
        return np.clip(acts, -1, 1), integral

    def _step(self, state: State, action: Table, step: Table, draw: Generator) -> State:
        """One row later."""
        pending = np.concatenate([action[:, None], state.pending[:, :-1]], 1)
        late = np.stack([pending[:, lag, j] for j, lag in enumerate(self.delay)], 1)
        half = self.backlash / 2
        position = np.clip(state.backlash, late - half, late + half) if self.backlash.any() else late
        size, slow = self.unmeasured
        keep = np.exp(-1 / slow)
        disturbance = keep * state.disturbance + size * np.sqrt(1 - keep**2) * draw.standard_normal(late.shape)
        bent = np.where(self.saturation > 0, np.tanh(self.saturation * position), position)
        valve = bent + disturbance
        levels, dt = state.levels, step[:, None] / SUBSTEPS
        inflow = valve @ self.drive.T + state.exogenous @ self.disturb.T
        for _ in range(SUBSTEPS):
            levels = self._substep(levels, valve, inflow, dt)
        if self.process_noise:
            levels = levels + self.process_noise * draw.standard_normal(levels.shape) * (self.pair != 1)
        levels = np.clip(levels, -self.stop, self.stop)
        slowly = np.exp(-1 / 30)
        exogenous = slowly * state.exogenous + np.sqrt(1 - slowly**2) * draw.standard_normal(state.exogenous.shape)
        return replace(
            state, levels=levels, pending=pending, backlash=position, disturbance=disturbance, exogenous=exogenous
        )

    def _substep(self, levels: Table, valve: Table, inflow: Table, dt: Table) -> Table:
        """A semi-implicit Euler step: velocities first, then positions."""
        position, velocity, single, bends, varies = self._parts
        driven = levels @ self.couple.T + inflow
        rate, outflow = 1 / self.tau, levels
        if varies:
            rate = np.clip(1 + np.clip(valve, -1, 1) @ self.rate.T, 0.1, 3) / self.tau
        if bends:
            root = np.sign(levels) * np.sqrt(np.abs(levels))
            outflow = np.where(self.shape == 1, root, levels + levels**3 * (self.shape == 2))
        rate = np.broadcast_to(rate, levels.shape)
        change = rate * (driven - outflow) * single
        if len(position):
            where, speed = levels[:, position], levels[:, velocity]
            damping = self.damping[position]
            braking = np.where(damping < 0, damping * (1 - where**2) * speed, 2 * damping * speed)
            spring = outflow[:, position] if bends else where
            change[:, velocity] = rate[:, velocity] * (driven[:, velocity] - spring - braking)
        following = levels + dt * change
        if len(position):
            following[:, position] = levels[:, position] + dt * rate[:, position] * following[:, velocity]
            bound = self.stop[position]
            at_stop = np.abs(following[:, position]) >= bound
            outward = following[:, position] * following[:, velocity] > 0
            following[:, velocity] = np.where(at_stop & outward, 0.0, following[:, velocity])
            following[:, position] = np.clip(following[:, position], -bound, bound)
        return following.clip(-50, 50)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plant and its log.

    Args:
        seed: of the case.
        plant: the plant.
        layout: "episodes" or "recording".
        episodes: of the log; a recording is one. Missing values are NaN.
        step_s: usual duration of a step in s.
        flaws: properties of the log: "irregular", "missing", "quantised", "short last episode".
        later: windows after the end of the log, in physical units: observations [W, PAST + HORIZON, p], then actions
            and exogenous inputs [W, PAST + HORIZON - 1, ...] and durations.
        clean: [W, PAST + HORIZON, p], observations of these windows without sensor noise.
        past: rows of a window up to the present; shorter if the episodes are short.
    """

    seed: int
    plant: Plant
    layout: str
    episodes: list[Episode]
    step_s: float
    flaws: tuple[str, ...]
    later: Episode = field(repr=False)
    clean: Table = field(repr=False)
    past: int = PAST


def _blocks(kind: str, draw: Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Block membership `pair` and the block number of each state."""
    order = {"limit cycle": draw.integers(2, 6), "hidden states": draw.integers(3, 9), "end stops": draw.integers(2, 7)}
    size = int(order.get(kind, draw.integers(1, 9)))
    if kind == "slow next to fast":
        size = max(size, 2)
    pair, number = list[int](), list[int]()
    while len(pair) < size:
        first = not pair and kind in ("limit cycle", "end stops")
        if size - len(pair) >= 2 and (first or draw.random() < 0.3):
            number += [len(set(number))] * 2
            pair += [1, 2]
        else:
            number.append(len(set(number)))
            pair.append(0)
    return np.array(pair), np.array(number)


def draw_plant(draw: Generator) -> Plant:
    """A random plant whose sensors are not scaled yet."""
    kind = str(draw.choice(KINDS, p=SHARES))
    pair, number = _blocks(kind, draw)
    n, m, k = len(pair), int(draw.choice([1, 2, 3], p=[0.6, 0.3, 0.1])), int(draw.random() < 0.3)
    tau = log_uniform(draw, 1.5, 40, n)
    if kind == "slow next to fast":
        tau = np.where(draw.random(n) < 0.5, log_uniform(draw, 1.5, 3, n), log_uniform(draw, 100, 400, n))
        tau[-1], tau[0] = log_uniform(draw, 100, 400), log_uniform(draw, 1.5, 3)
    tau[pair == 1] = log_uniform(draw, 2, 12, int((pair == 1).sum()))
    tau[pair == 2] = tau[np.flatnonzero(pair == 2) - 1]
    damping = np.where(pair == 1, log_uniform(draw, 0.03, 1.0, n), 0.0)
    shape = np.zeros(n, np.int64)
    if kind in ("saturating", "hidden states"):
        shape = np.where((pair == 0) & (draw.random(n) < 0.6), 1, 0)
    if kind in ("hidden states", "end stops", "bilinear"):
        shape = np.where((shape == 0) & (draw.random(n) < 0.3) & (pair < 2), 2, shape)
    if kind == "hidden states" and not shape.any():
        shape[0] = 2
    stop = np.full(n, np.inf)
    if kind == "limit cycle":
        damping[0] = -log_uniform(draw, 0.2, 1.5)
    if kind == "end stops":
        stop[0] = draw.uniform(0.4, 0.9)
        damping[0] = max(damping[0], 0.1)
    couple, drive, last = np.zeros((n, n)), np.zeros((n, m)), 0
    for block in range(number[-1] + 1):
        at = np.flatnonzero(number == block)
        entry = at[-1]  # the velocity of an oscillator, or the state itself
        if block:
            couple[entry, last] = draw.choice([-1, 1]) * draw.uniform(0.6, 1.3)
        if not block or draw.random() < 0.25:
            drive[entry] = draw.choice([-1, 1], m) * draw.uniform(0.3, 1.3, m) * (1.0 if not block else 0.5)
        last = at[0]
    disturb = np.zeros((n, k))
    disturb[draw.integers(n), :] = draw.uniform(0.1, 0.4)
    disturb *= pair[:, None] != 1
    logged = [last]
    most = 2 if kind == "hidden states" else 3
    others = draw.permutation([at for at in range(n) if at != last])
    logged += others[: draw.integers(0, min(most, n))].tolist() if n > 1 else []
    p = len(logged)
    low = draw.choice([0.0, -1.0, 10.0], m) * log_uniform(draw, 0.5, 50, m)
    policy, hold = str(draw.choice(POLICIES, p=[0.35, 0.15, 0.1, 0.2, 0.2])), float(log_uniform(draw, 1.5, 30))
    return Plant(
        kind=kind,
        tau=tau,
        pair=pair,
        damping=damping,
        shape=shape,
        rate=np.where(draw.random((n, m)) < 0.5, draw.uniform(-0.8, 0.8, (n, m)), 0.0) * (kind == "bilinear"),
        couple=couple,
        drive=drive,
        disturb=disturb,
        stop=stop,
        saturation=draw.uniform(1.2, 4, m) * (kind == "saturating" or draw.random() < 0.4 * (kind == "hidden states")),
        backlash=draw.uniform(0.1, 0.6, m) * (kind == "hysteresis"),
        delay=draw.integers(1, 13, m) * (kind == "dead time"),
        process_noise=float(log_uniform(draw, 0.001, 0.03) * draw.integers(2)),
        unmeasured=(float(log_uniform(draw, 0.02, 0.25) * draw.integers(2)), float(log_uniform(draw, 2, 200))),
        logged=np.array(logged),
        scale=np.ones(p),
        offset=np.zeros(p),
        noise=np.zeros(p),
        low=low,
        high=low + log_uniform(draw, 0.5, 100, m),
        policy=policy,
        periods=log_uniform(draw, 3, 20 * hold, 4 * m).reshape(m, 4),
        hold=hold,
        gain=(float(log_uniform(draw, 0.1, 2)), float(log_uniform(draw, 0.003, 0.1)), float(draw.uniform(0.15, 0.5))),
        jitter=0.0,
    )  # fmt: skip


def _scaled(plant: Plant, draw: Generator) -> Plant | None:
    """The plant with sensors of a random scale and noise; None if an output hardly moves or does not stay finite."""
    rows = plant.simulate(plant.rest(4), 1500, draw)
    spread = rows.clean[:, 300:].std((0, 1))
    alone = replace(plant, drive=0 * plant.drive, rate=0 * plant.rate)
    still = alone.simulate(plant.rest(4), 1500, draw).clean[:, 300:].std((0, 1))
    if not np.isfinite(spread).all() or (spread < 0.02).any() or (spread > 20).any():
        return None
    if plant.kind != "limit cycle" and still.min() > 0.8 * spread.min():
        return None  # the actions have no visible effect
    p = len(spread)
    scale = log_uniform(draw, 0.1, 100, p)
    offset = draw.choice([0.0, 1.0, 10.0], p) * scale * draw.uniform(1, 3, p)
    return replace(plant, scale=scale, offset=offset, noise=log_uniform(draw, 0.001, 0.05, p) * spread)


def draw_case(seed: int, horizon: int = HORIZON, num_windows: int = NUM_WINDOWS) -> Case:
    """The case of a seed.

    Args:
        seed: of all draws.
        horizon: rows of a later window after the present; with more than `HORIZON` at most half of an episode.
        num_windows: number of later windows.
    """
    draw = np.random.default_rng([seed, 20261130])
    plant = None
    while plant is None:
        plant = _scaled(draw_plant(draw), draw)
    flaws = [name for name in ("irregular", "missing", "quantised") if draw.random() < 0.15]
    if "irregular" in flaws:
        plant = replace(plant, jitter=float(draw.uniform(0.1, 0.3)))
    layout = "episodes" if draw.random() < 0.6 else "recording"
    step_s = float(draw.choice([0.05, 0.1, 1.0, 10.0, 60.0]))
    if layout == "episodes":
        length = int(log_uniform(draw, 40, 250))
        count = int(min(float(log_uniform(draw, 30, 300)), 30_000 / length))
        horizon = min(horizon, max(HORIZON, length // 2))
        begin = plant.rest(count + num_windows)
        from_rest = draw.random() < 0.4
        begin = plant.simulate(begin, 5 if from_rest else 150, draw).end
        rows = plant.simulate(begin, max(length, horizon + 4), draw)
        episodes = [_episode(rows, number, length, step_s) for number in range(count)]
        if draw.random() < 0.3:
            flaws.append("short last episode")
            stop = int(draw.integers(1, 6))
            observed, actions, exogenous, durations = episodes[-1]
            episodes[-1] = observed[: stop + 1], actions[:stop], exogenous[:stop], durations[:stop]
        past = min(PAST, length + 1 - horizon)
        later, clean = _windows(rows, np.arange(count, count + num_windows), past, horizon, step_s, draw)
    else:
        length = int(log_uniform(draw, 800, 50_000))
        begin = plant.simulate(plant.rest(1), 300, draw).end
        first = plant.simulate(begin, length, draw)
        episodes, past = [_episode(first, 0, length, step_s)], PAST
        rest = plant.simulate(first.end, num_windows * (PAST + horizon), draw)
        later, clean = _windows(rest, np.zeros(num_windows, np.int64), past, horizon, step_s, None)
    episodes, step = _with_flaws(episodes, flaws, draw)
    later = (np.where(step > 0, step * np.round(later[0] / np.where(step > 0, step, 1)), later[0]), *later[1:])
    return Case(
        seed=seed, plant=plant, layout=layout, episodes=episodes, step_s=step_s, flaws=tuple(flaws), later=later,
        clean=clean, past=past,
    )  # fmt: skip


def _episode(rows: Rows, number: int, length: int, step_s: float) -> Episode:
    observed, actions = rows.observed[number, : length + 1], rows.actions[number, :length]
    return observed, actions, rows.exogenous[number, :length], step_s * rows.step_s[number, :length]


def _windows(
    rows: Rows, episodes: NDArray[np.int64], past: int, horizon: int, step_s: float, draw: Generator | None
) -> tuple[Episode, Table]:
    """Windows at random places of episodes, or side by side in one recording without `draw`."""
    size, total = past + horizon, rows.actions.shape[1]
    starts = size * np.arange(len(episodes)) if draw is None else draw.integers(0, total + 2 - size, len(episodes))
    at = starts[:, None] + np.arange(size)
    groups = [table[episodes[:, None], at] for table in (rows.observed, rows.clean)]
    inputs = [table[episodes[:, None], at[:, :-1]] for table in (rows.actions, rows.exogenous, step_s * rows.step_s)]
    return (groups[0], inputs[0], inputs[1], inputs[2]), groups[1]


def _with_flaws(episodes: list[Episode], flaws: list[str], draw: Generator) -> tuple[list[Episode], Table]:
    """The episodes with values that are missing or rounded, and the resolution [p] of each sensor; 0 for exact ones."""
    width = episodes[0][0].shape[1]
    column, every = int(draw.integers(width)), np.concatenate([one[0] for one in episodes])
    step = draw.uniform(0.005, 0.03) * np.ptp(every[:, column])
    share, block = draw.uniform(0.01, 0.08), int(draw.integers(1, 6))
    damaged = list[Episode]()
    for observed, actions, exogenous, durations in episodes:
        observed = observed.copy()
        if "quantised" in flaws:
            observed[:, column] = step * np.round(observed[:, column] / step)
        if "missing" in flaws:
            gaps = np.flatnonzero(draw.random(len(observed)) < share / block)
            for gap in gaps[gaps > 0]:
                observed[gap : gap + block, column] = np.nan
        damaged.append((observed, actions, exogenous, durations))
    return damaged, step * (np.arange(width) == column) * ("quantised" in flaws)
