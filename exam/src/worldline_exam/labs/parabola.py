"""Lab `parabola`: a ball is thrown horizontally and falls, with a vertical force by a fan.

    acceleration = (0, lift - (1 - buoyancy) * gravity)

in m/s2, constant during a step of 0.05 s, and the equation is solved exactly; position in m, velocity in m/s. Gravity
is drawn per throw and observed. Nothing is hidden, and only the throw is random. The horizontal velocity is constant,
so logs contain only initial speeds along this axis. The state is rounded to float32 at each step, like an observation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    CAMERA,
    GREY,
    INK,
    RED,
    YELLOW,
    Configured,
    DrawsImages,
    Lab,
    Locates,
    Picture,
    Policy,
    boxes,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]
Band = tuple[float, float]
Throws = tuple[tuple[Band, Band], ...]
"""Pairs of ranges of speed, m/s, and gravity, m/s2."""

STEP_S: Final = 0.05
MAX_LIFT: Final = 3.0
"""Bound of the lift, m/s2; larger values are clipped."""
SLOW: Final[Band] = (1.0, 2.0)
FAST: Final[Band] = (3.0, 4.0)
WEAK: Final[Band] = (1.0, 2.0)
STRONG: Final[Band] = (3.0, 4.0)
USUAL: Final[Throws] = ((SLOW, WEAK), (SLOW, STRONG), (FAST, WEAK))
"""Default throws: speeds of 1 to 2 or 3 to 4 m/s, and fast throws only with weak gravity."""
START_X: Final[Band] = (-9.0, 5.0)
START_Y: Final[Band] = (-2.0, 8.0)
FIELD: Final = 12.0
"""Half the side of the image, m."""
BALL_RADIUS: Final = 0.6
"""Radius in the image, m; the ball has no contacts."""


@dataclass(frozen=True, kw_only=True)
class ParabolaSettings:
    """Constructor arguments of `Parabola`."""

    throws: Throws
    buoyancy: float
    pictures: bool


class Parabola(Lab, Configured, Locates, DrawsImages):
    """Observations: `ball_position` [m], `ball_velocity` [m/s], `gravity` [m/s2]. Action: `lift` [m/s2].

    Args:
        throws: pairs of ranges of speed and gravity, drawn with equal probability.
        buoyancy: fraction of gravity that the air compensates, in [0, 1).
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, throws: Throws = USUAL, *, buoyancy: float = 0.0, pictures: bool = False) -> None:
        bands = [band for throw in throws for band in throw]
        if not (bands and all(0 <= low <= high < np.inf for low, high in bands) and 0 <= buoyancy < 1):
            raise InputError(
                f"throws {throws} must be ranges of rising, finite numbers from 0, buoyancy {buoyancy} in [0, 1)."
            )
        self.throws, self.buoyancy, self.pictures = throws, buoyancy, pictures
        self.observation_space = boxes(self.schema, Role.OBSERVATION)
        self.action_space = boxes(self.schema, Role.ACTION)
        self._state: dict[str, NDArray[np.generic]] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        throws = [[list(band) for band in throw] for throw in self.throws]
        return {"throws": throws, "buoyancy": self.buoyancy, "pictures": self.pictures}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Parabola:
        """Inverse of `settings`."""
        found = from_json(ParabolaSettings, json.dumps(settings), where="parabola")
        return cls(found.throws, buoyancy=found.buoyancy, pictures=found.pictures)

    @property
    def schema(self) -> Schema:
        """Four signals; `camera` only if rendered."""
        seen, names = Role.OBSERVATION, ("x", "y")
        return Schema(
            signals=(
                *((CAMERA,) if self.pictures else ()),
                Signal(name="ball_position", role=seen, kind=Kind.VECTOR, shape=(2,), unit="m",
                       components=names, entity="ball"),
                Signal(name="ball_velocity", role=seen, kind=Kind.VECTOR, shape=(2,), unit="m/s",
                       components=names, entity="ball"),
                Signal(name="gravity", role=seen, kind=Kind.VECTOR, shape=(1,), unit="m/s2", entity="earth"),
                Signal(name="lift", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="m/s2",
                       low=(-MAX_LIFT,), high=(MAX_LIFT,), entity="ball"),
            ),
            step_s=STEP_S,
        )  # fmt: skip

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the throw.
            options: `ball_position` [2] m, `ball_velocity` [2] m/s and `gravity` [1] m/s2 replace drawn values.
        """
        super().reset(seed=seed)
        speed, gravity = (
            self.np_random.uniform(*band) for band in self.throws[self.np_random.integers(len(self.throws))]
        )
        drawn = {
            "ball_position": [self.np_random.uniform(*START_X), self.np_random.uniform(*START_Y)],
            "ball_velocity": [speed, 0.0],
            "gravity": [gravity],
        }
        given = read_options(options, {name: (len(value),) for name, value in drawn.items()})
        self._state = {name: np.array(given.get(name, value), np.float32) for name, value in drawn.items()}
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        lift = self._checked(action)["lift"].reshape(1, 1, 1)
        start = {name: value[None] for name, value in self._state.items()}
        self._state = {name: value[0, 0] for name, value in self.simulate(start, {"lift": lift}).items()}
        return self._observe(), 0.0, False, False, {}

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The observed state as options for `reset`."""
        return {name: observation[name] for name in ("ball_position", "ball_velocity", "gravity")}

    def explorer(self) -> Policy:
        """A piecewise constant lift."""
        return SteadyExplorer("lift", MAX_LIFT)

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape].
        """
        position, velocity = start["ball_position"], start["ball_velocity"]
        lifts = np.clip(actions["lift"].astype(float), -MAX_LIFT, MAX_LIFT)
        falling = (1 - self.buoyancy) * start["gravity"].astype(float)
        places, speeds = [], []
        for step in range(lifts.shape[1]):
            push = np.concatenate([np.zeros_like(falling), lifts[:, step] - falling], -1)
            moved = position.astype(float) + STEP_S * velocity.astype(float) + STEP_S**2 / 2 * push
            position, velocity = moved.astype(np.float32), (velocity.astype(float) + STEP_S * push).astype(np.float32)
            places.append(position)
            speeds.append(velocity)
        steady = np.repeat(start["gravity"][:, None].astype(np.float32), lifts.shape[1], 1)
        return {"ball_position": np.stack(places, 1), "ball_velocity": np.stack(speeds, 1), "gravity": steady}

    def picture(self, position: Float[np.ndarray, "2"], gravity: float) -> NDArray[np.uint8]:
        """The image: the ball, and a bar at the left edge with the length of gravity; m and m/s2."""
        drawn = Picture(-FIELD, FIELD)
        drawn.line(-FIELD, -FIELD + 0.3, FIELD, -FIELD + 0.3, 0.6, GREY)
        drawn.box(-FIELD + 1.0, FIELD - 2.0 * gravity, 0.5, 2.0 * gravity, YELLOW)
        drawn.box(-FIELD + 1.0, FIELD - 0.3, 1.0, 0.3, INK)
        drawn.disc(float(position[0]), float(position[1]), BALL_RADIUS, RED)
        return drawn.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {"ball_position", "gravity"}:
            return None
        return self.picture(shown["ball_position"].astype(float), float(shown["gravity"][0]))

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._state["ball_position"].astype(float), float(self._state["gravity"][0]))

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {name: value.copy() for name, value in self._state.items()}
        return {"camera": self._look(), **seen} if self.pictures else seen


class SteadyExplorer(Policy):
    """A uniform scalar action, held for twelve steps on average.

    Args:
        action: name of the signal, with one component.
        bound: largest magnitude.
    """

    def __init__(self, action: str, bound: float) -> None:
        self._action, self._bound = action, bound
        self._value = 0.0

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first action."""
        self._value = generator.uniform(-self._bound, self._bound)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The previous action or a new one."""
        del observation
        if generator.random() < 1 / 12:
            self._value = generator.uniform(-self._bound, self._bound)
        return {self._action: np.array([self._value], np.float32)}
