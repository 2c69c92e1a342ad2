"""A cart on rails whose law is a line, logged in several ways, and worlds of it that are right or wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.data.stores import stored

from worldline.audit.regression_rows import RegressionRows, rows_of, tracks_of
from worldline.audit.twins import TwinSource
from worldline.engines.base import Card, EngineBelief, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Arrays, Episode, Future, History
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="N", low=(-3.0,), high=(3.0,)),
    ),
    step_s=1.0,
)
DECAY, GAIN, NOISE = 0.9, 1.0, 0.3
HORIZON = 6

Push = Callable[[float, np.random.Generator], float]


def at_random(place: float, draw: np.random.Generator) -> float:
    """Pushes that nothing foretells."""
    return float(np.clip(draw.normal(), -3, 3))


def thermostat(place: float, draw: np.random.Generator) -> float:
    """Pushes that follow from what is seen, in a bent line."""
    return float(np.clip(-1.5 * np.tanh(place), -3, 3))


def timid(place: float, draw: np.random.Generator) -> float:
    """Pushes in the middle of what is possible alone."""
    return float(draw.uniform(-1, 1))


def cart(number: int, push: Push = at_random, *, hidden: float = 0.0, num_steps: int = 30) -> Episode:
    """One episode; `hidden` is how much a force that nobody logs drives both the pushes and the cart."""
    draw = np.random.default_rng(number)
    force, places, pushes = draw.normal(), [draw.normal() * 2], []
    for _ in range(num_steps):
        force = 0.5 * force + 0.87 * draw.normal()
        pushes.append(float(np.clip(push(places[-1], draw) + hidden * force, -3, 3)))
        places.append(DECAY * places[-1] + GAIN * pushes[-1] - 1.5 * hidden * force + NOISE * draw.normal())
    return Episode(
        observations={"place": np.array(places, np.float32)[:, None]},
        actions={"push": np.array(pushes, np.float32)[:, None]},
    )


def carts(first: int, count: int, push: Push = at_random, *, hidden: float = 0.0) -> list[Episode]:
    return [cart(number, push, hidden=hidden) for number in range(first, first + count)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cart(NumpyEngine):
    """Predicts by the law, with a gain of its own; may peek at later pushes, or hear nothing."""

    gain: float = GAIN
    decay: float = DECAY
    peeks: float = 0.0
    constant: float | None = None

    def describe(self) -> Card:
        return Card(
            name="cart", engine="cart", schema=SCHEMA, inputs=("place",), predicts=("place",), context=1,
            deterministic=True, action_conditioned=self.gain != 0,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return steps.observations["place"][:, -1].astype(float)

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        pushes = future.actions["push"].astype(float)
        place, path = np.repeat(belief[:, None], pushes.shape[1], 1), []
        for step in range(pushes.shape[2]):
            place = self.decay * place + self.gain * pushes[:, :, step]
            shown = place + self.peeks * pushes[:, :, -1]
            path.append(shown if self.constant is None else np.full_like(shown, self.constant))
        return Samples(signals={"place": np.stack(path, 2)[:, :, None].astype(np.float32)})


def world(engine: Cart, push: Push = at_random, *, narrow: float = 1.0, hidden: float = 0.0) -> LocalWorld:
    """The engine with bands calibrated on 60 episodes, and then made narrower."""
    episodes = carts(5000, 60, push, hidden=hidden)
    fitted = calibrate(engine, episodes, horizon=HORIZON, num_windows=2, seed=0, trust_steps=1, with_causes=False)
    scores = {name: narrow * value for name, value in fitted.scores.items()}
    calibration: Calibration = replace(fitted, scores=scores)
    return LocalWorld(engine, calibration, CrossEntropy())


def rows(episodes: Sequence[Episode], schema: Schema = SCHEMA) -> RegressionRows:
    """The rows of a regression on these episodes, without flags."""
    return rows_of(tracks_of(episodes, schema), [None] * len(episodes))


def write(folder: Path, push: Push = at_random, *, hidden: float = 0.0, count: int = 45) -> Path:
    """A store of carts."""
    stored(folder, SCHEMA, carts(0, count, push, hidden=hidden))
    return folder


class CartTwins(TwinSource):
    """The cart, from a seed."""

    @property
    def schema(self) -> Schema:
        return SCHEMA

    def run(self, seed: int, actions: Arrays) -> Episode:
        draw = np.random.default_rng(seed)
        places = [draw.normal() * 2]
        for push in actions["push"][:, 0].astype(float):
            places.append(DECAY * places[-1] + GAIN * push + NOISE * draw.normal())
        return Episode(observations={"place": np.array(places, np.float32)[:, None]}, actions=dict(actions))
