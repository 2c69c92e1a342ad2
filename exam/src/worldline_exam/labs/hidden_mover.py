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

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium.spaces import Discrete
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREY, INK, PAPER, RED, Hides, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, HeldActions, Options, action, observation, unrolled

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


class HiddenMover(ExamLab, Hides):
    """Observations: `puck_position` [m], and with pictures `camera`. Action: `push` [N].

    Options of `reset`: `position` [2] m inside the tray, `velocity` [2] m/s and `lid` [n, 2], pairs (first frame,
    number of frames) for which the lid is down.

    Args:
        drag: 1/s, at least 0.
        bounce: ratio of the normal velocity after and before a wall contact, 0 to 1.
        mass: kg, above 0.
        half_side: distance from the centre of the tray to a wall, m, above 0.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(
        self,
        drag: float = 0.4,
        *,
        bounce: float = 0.8,
        mass: float = 0.8,
        half_side: float = 2.0,
        pictures: bool = False,
    ) -> None:
        self.drag, self.bounce, self.mass, self.half_side = drag, bounce, mass, half_side
        self._position: Floats = np.zeros(2)
        self._velocity: Floats = np.zeros(2)
        self._lid = np.zeros(LID_FRAMES, bool)
        self._frame = 0
        super().__init__(pictures=pictures, unlogged={"lid_down": Discrete(2)})

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position and push."""
        return (
            observation("puck_position", 2, "m", entity="puck", ends=(-self.half_side, self.half_side)),
            action("push", 2, "N", entity="puck", ends=(-MAX_PUSH, MAX_PUSH)),
        )

    def seen(self, observation: Mapping[str, Any]) -> Mapping[str, bool]:
        """The position is observed unless the lid is down."""
        return {"puck_position": not int(observation["lid_down"])}

    def _start(self, options: Options) -> None:
        initial = read_options(options, {"position": (2,), "velocity": (2,), "lid": (None, 2)})
        rng = self.np_random
        position = rng.uniform(-self.half_side, self.half_side, 2)
        velocity = START_SPEED * rng.standard_normal(2) * float(rng.random() >= REST_PROBABILITY)
        lid = _draw_lid(rng)
        self._position = initial.get("position", position)
        self._velocity = initial.get("velocity", velocity)
        if "lid" in initial:
            lid = _lid_of(initial["lid"].astype(int).tolist())
        self._lid = lid
        self._frame = 0

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        self._position, self._velocity = self.move(self._position, self._velocity, action["push"])
        self._frame += 1

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
        state = (start["puck_position"].astype(float), start["puck_velocity"].astype(float))
        position, velocity = unrolled(self.move, state, actions["push"])
        return {"puck_position": position, "puck_velocity": velocity}

    def explorer(self) -> Policy:
        """Uniform pushes or none, held for eight steps on average."""
        return HeldActions(_draw_push, lambda generator: generator.random() < 0.125)

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

    def _seen(self) -> dict[str, Any]:
        down = self._is_down()
        place = np.zeros(2) if down else self._position
        return {"puck_position": place.astype(np.float32), "lid_down": np.int64(down)}


def _draw_push(generator: np.random.Generator) -> dict[str, Floats]:
    strength = generator.uniform(-MAX_PUSH, MAX_PUSH, 2)
    return {"push": strength * float(generator.random() >= 0.3)}


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
