"""A small world whose every error is known, and a report that shows everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pytest

from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.audit.forecast_measurements import Decoded, DecodedWindow, TrustedHorizons, sample_forecasts
from worldline.audit.measured import Trusted
from worldline.audit.planning_measurements import Film, Films, GoalOutcome, Planning
from worldline.audit.training_measurements import Learning, Series
from worldline.data.windows import evenly_spaced_windows
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.calls import PredictCall
from worldline.report.learn_page import Report
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Curve, Floats, wilson
from worldline.world.base import Forecast, Prediction, World

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", components=("x", "y")),
        Signal(name="number", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(
            name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m", low=(-1.0, -1.0), high=(1.0, 1.0)
        ),
    ),
    step_s=300.0,
)

TRUST = TrustedHorizons(
    trusted=(Trusted(signal="place", steps=4, of=6, stops="persistence"),), deviation={"place": 1.5}
)
Imagine = Callable[[History, Arrays], Floats]


class Toy(World):
    """Predicts `place` as `imagine` says, in a band `half_width(level)` to each side where that is given."""

    def __init__(self, imagine: Imagine, half_width: Callable[[float], float] | None = None) -> None:
        self.imagine, self.half_width, self.asked = imagine, half_width, 0

    def describe(self) -> Card:
        return Card(
            name="toy",
            engine="toy",
            schema=SCHEMA,
            inputs=("place",),
            predicts=("place",),
            context=1,
            deterministic=True,
        )

    def answer(self, call: PredictCall) -> Prediction:
        self.asked += 1
        mean, level = self.imagine(call.history, call.actions), 0.9 if call.level is None else call.level
        half = None if self.half_width is None else self.half_width(level)
        forecast = Forecast(
            mean=mean,
            low=None if half is None else mean - half,
            high=None if half is None else mean + half,
            horizon=np.full(len(mean), mean.shape[1] - 1),
        )
        return Prediction(
            signals={"place": forecast}, level=level, trust=np.ones(len(mean)), calibrated=half is not None
        )


def still(history: History, actions: Arrays) -> Floats:
    """Nothing ever moves, whatever is done."""
    start = history.observations["place"][:, -1:].astype(float)
    return np.repeat(start, actions["push"].shape[1], axis=1)


def exact(history: History, actions: Arrays) -> Floats:
    """The true dynamics: each push is added to the place."""
    return np.asarray(still(history, actions) + np.cumsum(actions["push"].astype(float), axis=1))


def off_by(error: Callable[[Floats, Floats], Floats]) -> Imagine:
    """The true dynamics, wrong by error(step from 1, episode number)."""

    def imagine(history: History, actions: Arrays) -> Floats:
        true = exact(history, actions)
        steps = np.arange(1, true.shape[1] + 1)[None, :, None]
        return true + error(steps, history.observations["number"][:, -1:].astype(float))

    return imagine


def walk(number: int, num_steps: int) -> Episode:
    """An episode of pushes of whole quarters, so that sums are exact."""
    push = np.random.default_rng(number).integers(-4, 5, size=(num_steps, 2)) / 4
    place = np.concatenate([np.zeros((1, 2)), np.cumsum(push, axis=0)])
    return Episode(
        observations={"place": place.astype(np.float32), "number": np.full((num_steps + 1, 1), number, np.float32)},
        actions={"push": push.astype(np.float32)},
    )


@pytest.fixture
def episodes() -> list[Episode]:
    return [walk(number, 12) for number in range(10)]


@pytest.fixture
def worlds() -> Mapping[str, Callable[..., Toy]]:
    """Makers of toys, by name."""
    return {
        "exact": lambda half=None: Toy(exact, half),
        "still": lambda half=None: Toy(still, half),
        "linear_error": lambda half=None: Toy(off_by(lambda step, _: 0.1 * step), half),
        "error_by_episode": lambda half=None: Toy(off_by(lambda _, number: number), half),
    }


@pytest.fixture
def diagnostics(episodes: list[Episode]) -> Diagnostics:
    return diagnose(
        Toy(off_by(lambda step, _: 0.1 * step), lambda level: level),
        evenly_spaced_windows(episodes, length=2, horizon=6, per_episode=3),
        comparisons={"persistence": Toy(still)},
        horizons=(1, 6),
        seed=0,
    )


@pytest.fixture
def report(diagnostics: Diagnostics, episodes: list[Episode]) -> Report:
    """Everything at once."""
    frames = np.random.default_rng(0).integers(0, 256, size=(5, 16, 16, 3), dtype=np.uint8)
    loss = Series(name="prediction", steps=(0, 10, 20), values=(1.0, 0.1, 0.02))
    series = Series(name="effective_rank", steps=(0, 10, 20), values=(3.0, 20.0, 41.0))
    return Report(
        title="A toy world",
        subtitle="Learned from nothing.",
        facts={"Data": "10 episodes", "Seeds": "0"},
        notices=("One sensor was frozen.",),
        commands=("worldline audit world NEW-LOGS",),
        sections=(
            Planning(
                task="the dot is near enough",
                outcomes=(
                    outcome("learned planner", "planner", 99),
                    outcome("inverse head alone", "peer", 80),
                    outcome("random", "floor", 3),
                    outcome("oracle", "ceiling", 100),
                ),
            ),
            Learning(terms=(loss,), validation=loss, health=(series,)),
            diagnostics,
            Decoded(
                camera="left_eye",
                step_s=None,
                steps=(2, 4, 6, 8),
                windows=(DecodedWindow(real=frames, drawn=255 - frames),) * 2,
                num_windows=40,
                num_episodes=10,
                imagined=level(5.0),
                persistence=level(12.5),
                decoder=level(3.0),
                saved=level(0.6),
            ),
            Films(films=(Film(frames=frames, goal=frames[0], reached=True),)),
            sample_forecasts(
                Toy(exact, lambda level: level),
                {"Episode 1: typical": (episodes[1], 2), "Episode 4: worst decile": (episodes[4], 5)},
                [SCHEMA["place"]],
                context=3,
                horizon=6,
                level=0.9,
                rivals={"place": Toy(still)},
            ),
            TRUST,
        ),
    )


def flat(low: float, high: float, steps: int) -> Curve:
    """The same interval at each step, with its middle as the value."""
    return Curve(value=((low + high) / 2,) * steps, low=(low,) * steps, high=(high,) * steps)


def level(value: float) -> Curve:
    """The same at each of four steps, give or take a tenth."""
    return flat(0.9 * value, 1.1 * value, 4)


def outcome(name: str, role: Literal["planner", "peer", "floor", "ceiling"], successes: int) -> GoalOutcome:
    """Out of a hundred, split evenly."""
    half = {"same room": wilson(successes // 2, 50), "across": wilson(successes - successes // 2, 50)}
    return GoalOutcome(name=name, role=role, all=wilson(successes, 100), split=half)
