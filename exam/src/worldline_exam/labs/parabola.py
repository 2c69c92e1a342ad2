"""Parabola: a ball is thrown flat, falls, and is lifted or pressed down by a fan.

    acceleration = (0, lift - (1 - buoyancy) * gravity)

in m/s2, the same during a step of 0.05 s, over which the equation is solved exactly; position in m, velocity in m/s.
Gravity is drawn for each throw and shown. Nothing is hidden, and nothing is drawn but the throw. The horizontal
velocity never changes, so that the speeds of launch are all that logs hold along this axis. The state is kept in
float32, as it is shown.
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
"""Each a band of speeds, m/s, and one of gravity, m/s2, that go together."""

STEP_S: Final = 0.05
MAX_LIFT: Final = 3.0
"""m/s2, either way; larger values are clipped."""
SLOW: Final[Band] = (1.0, 2.0)
FAST: Final[Band] = (3.0, 4.0)
WEAK: Final[Band] = (1.0, 2.0)
STRONG: Final[Band] = (3.0, 4.0)
USUAL: Final[Throws] = ((SLOW, WEAK), (SLOW, STRONG), (FAST, WEAK))
"""What is thrown unless told otherwise: no speed between 2 and 4 m/s but the fast ones, and these never fall fast."""
START_X: Final[Band] = (-9.0, 5.0)
START_Y: Final[Band] = (-2.0, 8.0)
FIELD: Final = 12.0
"""Half the edge of the picture, m."""
BALL_RADIUS: Final = 0.6
"""In the picture, m; it touches nothing."""


@dataclass(frozen=True, kw_only=True)
class ParabolaSettings:
    """Constructor arguments of `Parabola`."""

    throws: Throws
    buoyancy: float
    pictures: bool


class Parabola(Lab, Configured, Locates, DrawsImages):
    """Observations: `ball_position` [m], `ball_velocity` [m/s], `gravity` [m/s2]. Action: `lift` [m/s2].

    Args:
        throws: bands of speed and gravity that go together, each as likely as the others.
        buoyancy: share of gravity that the air takes away, at least 0, below 1.
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, throws: Throws = USUAL, *, buoyancy: float = 0.0, pictures: bool = False) -> None:
        bands = [band for throw in throws for band in throw]
        if not (bands and all(0 <= low <= high < np.inf for low, high in bands) and 0 <= buoyancy < 1):
            raise InputError(
                f"throws {throws} must be bands of rising, finite numbers from 0, buoyancy {buoyancy} in [0, 1)."
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
            seed: of the throw, the only draw.
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
        """The ball where it is seen; see `Locates`."""
        return {name: observation[name] for name in ("ball_position", "ball_velocity", "gravity")}

    def explorer(self) -> Policy:
        """A steady lift, changed now and then."""
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
        """The ball, and gravity as the length of a bar that hangs at the left edge, m and m/s2."""
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
    """One number of any size, kept for twelve steps on average.

    Args:
        action: the signal, with one component.
        most: its largest size.
    """

    def __init__(self, action: str, most: float) -> None:
        self._action, self._most = action, most
        self._value = 0.0

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first."""
        self._value = generator.uniform(-self._most, self._most)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The same as before, or a new one."""
        del observation
        if generator.random() < 1 / 12:
            self._value = generator.uniform(-self._most, self._most)
        return {self._action: np.array([self._value], np.float32)}
