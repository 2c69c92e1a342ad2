"""Lab `hidden-mover`: a pushed puck bounces off the walls of a tray that a lid covers at times.

    mass * acceleration = push - mass * drag * velocity

in each of two components; position in m, velocity in m/s, push in N, drag in 1/s. A push is constant during a step of
0.1 s, and the equation is solved exactly. If a puck is past a wall at the end of a step, its excess distance and its
velocity are reflected, both times the bounce.

The lid closes for 5, 10, 20 or 40 frames at a time, at random times that do not depend on actions. The puck moves on
under the lid. Its position is then not observed in logs, and the image shows the lid. After `LID_FRAMES` frames the
lid stays open.

Hidden: the velocity, always, and the position under the lid. The state of the lid is in the observation *space*, so
that logs can mark missing values, but not in the *schema*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    BLUE,
    CAMERA,
    GREY,
    INK,
    PAPER,
    RED,
    Configured,
    DrawsImages,
    Hides,
    Lab,
    Picture,
    Policy,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

STEP_S: Final = 0.1
SERIES_BOUND: Final = 1e-3
"""Drag times step duration below which a series replaces the exact response."""
MAX_PUSH: Final = 1.0
"""Along each axis, N; larger values are clipped."""
GAPS: Final = (5, 10, 20, 40)
"""Numbers of frames for which the lid is closed."""
OPEN: Final = (10, 40)
"""Range of the number of frames for which it is open in between."""
START_SPEED: Final = 0.6
"""Standard deviation of the initial velocity along each axis, m/s."""
REST_PROBABILITY: Final = 0.2
"""Probability of an initial velocity of 0."""
RADIUS: Final = 0.22
"""Radius of the drawn puck, m. Positions and walls refer to its centre."""
LID_FRAMES: Final = 1000
"""Number of frames for which the lid is drawn."""


@dataclass(frozen=True, kw_only=True)
class HiddenMoverSettings:
    """Constructor arguments of `HiddenMover`."""

    drag: float
    bounce: float
    mass: float
    half_side: float
    pictures: bool


class HiddenMover(Lab, Configured, Hides, DrawsImages):
    """Observations: `puck_position` [m], and with pictures `camera`. Action: `push` [N].

    Args:
        drag: 1/s, at least 0.
        bounce: ratio of the normal velocity after and before a wall contact, 0 to 1.
        mass: kg, above 0.
        half_side: distance from the centre of the tray to a wall, m, above 0.
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        drag: float = 0.4,
        *,
        bounce: float = 0.8,
        mass: float = 0.8,
        half_side: float = 2.0,
        pictures: bool = False,
    ) -> None:
        if not (0 <= drag < np.inf and 0 <= bounce <= 1 and 0 < mass < np.inf and 0 < half_side < np.inf):
            raise InputError(
                f"drag {drag} must be at least 0, bounce {bounce} in [0, 1], mass {mass} and half_side {half_side} "
                "above 0, all finite."
            )
        self.drag, self.bounce, self.mass, self.half_side, self.pictures = drag, bounce, mass, half_side, pictures
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {
            "puck_position": box(-half_side, half_side, (2,), np.float32),
            "lid_down": gymnasium.spaces.Discrete(2),
        }
        if pictures:
            spaces["camera"] = box(0, 255, CAMERA.shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({"push": box(-MAX_PUSH, MAX_PUSH, (2,), np.float32)})
        self._position: Floats = np.zeros(2)
        self._velocity: Floats = np.zeros(2)
        self._lid = np.zeros(LID_FRAMES, bool)
        self._frame = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        return {name: getattr(self, name) for name in ("drag", "bounce", "mass", "half_side", "pictures")}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> HiddenMover:
        """Inverse of `settings`."""
        found = from_json(HiddenMoverSettings, json.dumps(settings), where="hidden-mover")
        return cls(**vars(found))

    @property
    def schema(self) -> Schema:
        """Position and push; `camera` only if rendered."""
        side, edge = (self.half_side,) * 2, (MAX_PUSH,) * 2
        names = ("x", "y")
        signals = (
            Signal(name="puck_position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m",
                   low=(-side[0], -side[1]), high=side, components=names, entity="puck"),
            Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="N",
                   low=(-MAX_PUSH, -MAX_PUSH), high=edge, components=names, entity="puck"),
        )  # fmt: skip
        return Schema(signals=(CAMERA, *signals) if self.pictures else signals, step_s=STEP_S)

    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """The position is observed unless the lid is down."""
        return {"puck_position": not int(observation["lid_down"])}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the initial state and the lid.
            options: `position` [2] m, `velocity` [2] m/s and `lid` [n, 2] replace drawn values. `lid` holds pairs
                (first frame, number of frames) for which the lid is down.

        Raises:
            InputError: the position is outside the tray, or `lid` has invalid values.
        """
        super().reset(seed=seed)
        given = read_options(options, {"position": (2,), "velocity": (2,), "lid": (None, 2)})
        rng = self.np_random
        position = rng.uniform(-self.half_side, self.half_side, 2)
        velocity = START_SPEED * rng.standard_normal(2) * float(rng.random() >= REST_PROBABILITY)
        lid = _draw_lid(rng)
        self._position = given.get("position", position)
        if np.abs(self._position).astype(np.float32).max() > np.float32(self.half_side):
            raise InputError(f"position is {self._position}, outside the tray. Keep it within {self.half_side} m.")
        self._velocity = given.get("velocity", velocity)
        if "lid" in given:
            runs = given["lid"]
            if (runs < 0).any() or (runs != np.rint(runs)).any():
                raise InputError(f"lid is {runs.tolist()!r:.200}. Give frames as integers of at least 0.")
            lid = _lid_of(runs.astype(int).tolist())
        self._lid = lid
        self._frame = 0
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        push = self._checked(action)["push"]
        self._position, self._velocity = self.move(self._position, self._velocity, push)
        self._frame += 1
        return self._observe(), 0.0, False, False, {}

    def move(self, position: Floats, velocity: Floats, push: Floats) -> tuple[Floats, Floats]:
        """Position and velocity after one step.

        Args:
            position: [..., 2] m.
            velocity: [..., 2] m/s.
            push: [..., 2] N.
        """
        fade, reach, lift = self.response
        force = np.clip(push, -MAX_PUSH, MAX_PUSH) / self.mass
        speed = fade * velocity + reach * force
        along = position + reach * velocity + lift * force
        beyond = np.abs(along) > self.half_side
        inside = np.sign(along) * (self.half_side - self.bounce * (np.abs(along) - self.half_side))
        # One reflection per step: a puck that would pass the opposite wall too is clipped to that wall.
        inside = np.clip(inside, -self.half_side, self.half_side)
        return np.where(beyond, inside, along), np.where(beyond, -self.bounce * speed, speed)

    @property
    def response(self) -> tuple[float, float, float]:
        """Response in one step: velocity ratio, m per m/s (also m/s per m/s2) and m per m/s2."""
        slowed = self.drag * STEP_S
        fade = float(np.exp(-slowed))
        if slowed < SERIES_BOUND:  # avoids cancellation and a division by 0
            return fade, STEP_S * (1 - slowed / 2 + slowed**2 / 6), STEP_S**2 * (1 / 2 - slowed / 6 + slowed**2 / 24)
        reach = (1 - fade) / self.drag
        return fade, reach, (STEP_S - reach) / self.drag

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: `puck_position` [M, 2] m and `puck_velocity` [M, 2] m/s.
            actions: `push` [M, T, 2] N.

        Returns:
            Both [M, T, 2], float64.
        """
        position, velocity = start["puck_position"].astype(float), start["puck_velocity"].astype(float)
        pushes, places, speeds = actions["push"].astype(float), [], []
        for step in range(pushes.shape[1]):
            position, velocity = self.move(position, velocity, pushes[:, step])
            places.append(position)
            speeds.append(velocity)
        return {"puck_position": np.stack(places, 1), "puck_velocity": np.stack(speeds, 1)}

    def explorer(self) -> Policy:
        """Piecewise constant random pushes and pauses."""
        return HiddenMoverExplorer()

    def draw(self, position: Floats, *, lid_down: bool) -> UInt8[np.ndarray, "64 64 3"]:
        """The image of the tray from above.

        Args:
            position: [2] m.
            lid_down: whether the lid covers it.
        """
        rim = self.half_side + RADIUS
        picture = Picture(-1.15 * rim, 1.15 * rim, GREY)
        picture.box(0.0, 0.0, 1.06 * rim, 1.06 * rim, INK)
        picture.box(0.0, 0.0, rim, rim, PAPER)
        if not lid_down:
            picture.disc(float(position[0]), float(position[1]), RADIUS, RED)
            return picture.pixels()
        picture.box(0.0, 0.0, rim, rim, BLUE)
        for slat in (-0.75 * rim, -0.25 * rim, 0.25 * rim, 0.75 * rim):  # marks the lid
            picture.box(0.0, slat, 0.92 * rim, 0.02 * rim, INK)
        return picture.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8]:
        """The camera image of an observation; it shows the lid if the puck is not observed."""
        place = shown.get("puck_position")
        return self.draw(np.zeros(2) if place is None else place.astype(float), lid_down=place is None)

    def _look(self) -> NDArray[np.uint8]:
        return self.draw(self._position, lid_down=self._is_down())

    def _is_down(self) -> bool:
        return bool(self._lid[self._frame]) if self._frame < len(self._lid) else False

    def _observe(self) -> dict[str, Any]:
        down = self._is_down()
        hidden: dict[str, Any] = {
            "puck_position": np.zeros(2, np.float32) if down else self._position.astype(np.float32),
            "lid_down": np.int64(down),
        }
        if self.pictures:
            hidden["camera"] = self._look()
        return hidden


class HiddenMoverExplorer(Policy):
    """Uniform pushes or none, each held for eight steps on average."""

    def __init__(self) -> None:
        self._push: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first push."""
        self._push = _draw_push(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A push of at most `MAX_PUSH` along each axis."""
        del observation
        if generator.random() < 0.125:
            self._push = _draw_push(generator)
        return {"push": self._push.astype(np.float32)}


def _draw_push(generator: np.random.Generator) -> Floats:
    strength = generator.uniform(-MAX_PUSH, MAX_PUSH, 2)
    return strength * float(generator.random() >= 0.3)


def _draw_lid(generator: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the lid is down [LID_FRAMES]; it starts open."""
    runs, frame = [], 0
    while frame < LID_FRAMES:
        frame += int(generator.integers(OPEN[0], OPEN[1] + 1))
        runs.append((frame, int(generator.choice(GAPS))))
        frame += runs[-1][1]
    return _lid_of(runs)


def _lid_of(runs: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    down = np.zeros(LID_FRAMES, bool)
    for first, frames in runs:
        down[first : first + frames] = True
    return down
