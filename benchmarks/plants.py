"""Simulated plants that are controlled step by step. Measures nothing.

benchmarks/foreign_cases.py records logs of them, and benchmarks/closed_loop.py controls them. This file imports nothing
of worldline, so that it also runs in the peers' environment.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
Run = tuple[Table, Table, Table]
"""One episode: observations [T+1, n], actions [T, m] and exogenous inputs [T, k]."""


class Plant(Protocol):
    """A plant in some state."""

    def observe(self) -> Table:
        """The present measurement [n]. Called once per step, as its noise is drawn."""

    def exogenous(self) -> Table:
        """The exogenous inputs [k] of the next step."""

    def step(self, action: Table) -> None:
        """Applies an action [m] for one step."""


def record(plant: Plant, actions: Table) -> Run:
    """The episode of a plant under given actions [T, m]."""
    seen, given = [plant.observe()], []
    for action in actions:
        given.append(plant.exogenous())
        plant.step(action)
        seen.append(plant.observe())
    return np.array(seen), actions, np.array(given)


def runge_kutta(slope: Callable[[Table], Table], state: Table, step: float, parts: int) -> Table:
    """The state after `step`, in `parts` steps of the classical Runge-Kutta method of order 4."""
    size = step / parts
    for _ in range(parts):
        first = slope(state)
        second = slope(state + size / 2 * first)
        third = slope(state + size / 2 * second)
        state = state + size / 6 * (first + 2 * second + 2 * third + slope(state + size * third))
    return state


class Autonomous:
    """A plant without exogenous inputs."""

    def exogenous(self) -> Table:
        """Nothing."""
        return np.zeros(0)


class HeaterLab(Autonomous):
    """Two heaters and two sensors with a resolution of 0.32 degC. The heater temperatures are not measured."""

    STEP_S = 10.0

    def __init__(self, draws: np.random.Generator) -> None:
        with redirect_stdout(StringIO()):  # the package prints its version
            self.model = import_module("tclab").TCLabModel(synced=False)
        self.model.tlast = 0.0  # it starts at the time of the computer's clock
        self.number = 0
        self.noise = random.Random(int(draws.integers(2**31))).getstate()

    def observe(self) -> Table:
        """Both temperatures in degC."""
        random.setstate(self.noise)  # the package draws from the global generator
        found = np.array([self.model.T1, self.model.T2])
        self.noise = random.getstate()
        return found

    def step(self, action: Table) -> None:
        """Heats with two powers in %."""
        self.number += 1
        self.model.Q1(float(action[0]))
        self.model.Q2(float(action[1]))
        self.model.update(self.STEP_S * self.number)


class FourTanks(Autonomous):
    """Four tanks, of which the two lower levels are measured.

    Source: Johansson 2000, "The quadruple-tank process", equations 1 and table of the minimum-phase setting.
    """

    AREA = np.array([28.0, 32.0, 28.0, 32.0])
    OUTLET = np.array([0.071, 0.057, 0.071, 0.057])
    FLOW, TO_LOWER, GRAVITY = np.array([3.33, 3.35]), np.array([0.70, 0.60]), 981.0
    STEP_S, NOISE = 5.0, 0.02

    def __init__(self, draws: np.random.Generator) -> None:
        self.levels = np.array([12.4, 12.7, 1.8, 1.4]) * draws.uniform(0.5, 1.4, 4)
        self.draws = draws

    def observe(self) -> Table:
        """The levels of the lower tanks in cm."""
        return np.asarray(self.levels[:2] + self.NOISE * self.draws.standard_normal(2))

    def step(self, action: Table) -> None:
        """Pumps with two voltages."""
        flow = self.FLOW * action

        def slope(level: Table) -> Table:
            out = self.OUTLET * np.sqrt(2 * self.GRAVITY * np.maximum(level, 0))
            upper = (1 - self.TO_LOWER[::-1]) * flow[::-1]  # pump 2 fills tank 3, pump 1 fills tank 4
            return np.asarray(np.concatenate([self.TO_LOWER * flow + out[2:] - out[:2], upper - out[2:]]) / self.AREA)

        self.levels = np.maximum(runge_kutta(slope, self.levels, self.STEP_S, 5), 0)

    @classmethod
    def steady(cls, volts: Table) -> Table:
        """The levels [2] at which two constant voltages hold the lower tanks."""
        flow = cls.FLOW * volts
        through = cls.TO_LOWER * flow + (1 - cls.TO_LOWER[::-1]) * flow[::-1]
        return np.asarray((through / cls.OUTLET[:2]) ** 2 / (2 * cls.GRAVITY))


class StirredTank:
    """An exothermic stirred tank with a cooling jacket. The feed temperature is known; the feed concentration is not.

    Source: Seborg, Edgar and Mellichamp, "Process dynamics and control", example 2.5, parameters in l, mol, K, min.
    """

    STEP_MIN, NOISE = 0.1, np.array([0.002, 0.1])
    ARRHENIUS, ACTIVATION_K, HEAT_OF_REACTION, HEAT_CAPACITY, JACKET = 7.2e10, 8750.0, 5e4, 239.0, 5e4
    VOLUME, FEED = 100.0, 100.0

    def __init__(self, draws: np.random.Generator, steps: int) -> None:
        self.feed_k = 350 + np.clip(np.cumsum(0.3 * draws.standard_normal((steps, 1)), 0) + draws.normal(0, 2), -6, 6)
        self.feed_concentration = 1 + 0.03 * draws.uniform(-1, 1)
        self.state = np.array([draws.uniform(0.7, 1.0), draws.uniform(310, 335)])
        self.draws, self.number = draws, 0

    def observe(self) -> Table:
        """Concentration in mol/l and temperature in K."""
        return np.asarray(self.state + self.NOISE * self.draws.standard_normal(2))

    def exogenous(self) -> Table:
        """The temperature of the feed in K."""
        return np.asarray(self.feed_k[self.number])

    def step(self, action: Table) -> None:
        """Cools with a coolant temperature in K."""
        feed, coolant = float(self.exogenous()[0]), float(action[0])

        def slope(now: Table) -> Table:
            concentration, kelvin = now
            rate = self.ARRHENIUS * np.exp(-self.ACTIVATION_K / kelvin) * concentration
            cooling = self.JACKET * (coolant - kelvin) / (self.VOLUME * self.HEAT_CAPACITY)
            heat = self.HEAT_OF_REACTION * rate / self.HEAT_CAPACITY + cooling
            flow = self.FEED / self.VOLUME
            return np.array([flow * (self.feed_concentration - concentration) - rate, flow * (feed - kelvin) + heat])

        self.state = runge_kutta(slope, self.state, self.STEP_MIN, 10)
        self.number += 1


class Pendulum(Autonomous):
    """Gymnasium's Pendulum-v1."""

    STEP_S = 0.05

    def __init__(self, state: Sequence[float] | Table) -> None:
        self.env = import_module("gymnasium").make("Pendulum-v1").unwrapped
        self.env.reset(seed=0)
        self.env.state, self.env.last_u = np.array(state, float), None

    def observe(self) -> Table:
        """Cosine and sine of the angle, and the angular velocity in rad/s."""
        angle, speed = self.env.state
        return np.array([np.cos(angle), np.sin(angle), speed])

    def step(self, action: Table) -> None:
        """Applies a torque in N m."""
        self.env.step(action)


class CartPole(Autonomous):
    """Gymnasium's CartPole-v1 with a force of any size instead of two."""

    STEP_S, FORCE = 0.02, 10.0

    def __init__(self, state: Sequence[float] | Table) -> None:
        self.env = import_module("gymnasium").make("CartPole-v1").unwrapped
        self.env.reset(seed=0)
        self.env.state = np.array(state, float)

    def observe(self) -> Table:
        """Position in m, velocity in m/s, angle in rad and angular velocity in rad/s."""
        return np.array(self.env.state, float)

    def step(self, action: Table) -> None:
        """Pushes the cart with a force in N."""
        self.env.force_mag = abs(float(action[0]))
        self.env.steps_beyond_terminated = None  # falling does not end the episode
        self.env.step(int(action[0] > 0))
