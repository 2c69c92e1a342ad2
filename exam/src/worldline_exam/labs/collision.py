"""Lab `collision`: two rubber balls of equal mass collide on a track, and a small push acts on the left one.

    overlap            = max(0, 2 * radius - (right - left))
    left acceleration  = push - stiffness / 2 * overlap
    right acceleration =        stiffness / 2 * overlap

Position in m, velocity in m/s, push in m/s2, stiffness in 1/s2 (per mass). The contact is a linear spring. Its
duration `contact_s = pi / sqrt(stiffness)` is independent of speed and spans many steps of 0.05 s. At closing speed v
the overlap reaches `v * contact_s / pi`. Momentum and energy are conserved: without a push the balls exchange their
velocities.

Each step has `SUBSTEPS` integration steps. Nothing is hidden, and only the initial state is random. The state is
rounded to float32 at each step, so an observation determines it exactly.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREY, RED, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation, rounded, unrolled
from worldline_exam.labs.parabola import FAST, SLOW, Band, steady_explorer

Meetings = tuple[tuple[Band, Band], ...]
"""Pairs of speed ranges of the left and the right ball, m/s."""

STEP_S: Final = 0.05
MAX_PUSH: Final = 0.3
"""Bound of the push, m/s2; larger values are clipped. Too small to change the speed range of a ball."""
USUAL: Final[Meetings] = ((SLOW, SLOW), (SLOW, FAST), (FAST, FAST))
"""Default meetings; a fast left ball never meets a slow right ball."""
MEETING_PLACE: Final[Band] = (-6.0, 6.0)
MEETING_TIME: Final[Band] = (0.05, 1.0)
"""Range of the time until contact, s."""
SUBSTEPS: Final = 10
"""Integration steps per step."""
FIELD: Final = 12.0
"""Half the side of the image, m."""

_NAMES: Final = ("left_position", "left_velocity", "right_position", "right_velocity")


class Collision(ExamLab):
    """Observations: `left_position` [m], `left_velocity` [m/s], the same of `right`. Action: `push` [m/s2].

    Options of `reset`: values [1] by observation signal. The left ball must be left of the right ball.

    Args:
        meetings: pairs of speed ranges, drawn with equal probability.
        radius: radius of both balls, m, above half the largest overlap.
        contact_s: duration of a contact, s, above 0.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(
        self,
        meetings: Meetings = USUAL,
        *,
        radius: float = 1.0,
        contact_s: float = 0.4,
        pictures: bool = False,
    ) -> None:
        self.meetings, self.radius, self.contact_s = meetings, radius, contact_s
        self._stiffness = float((np.pi / contact_s) ** 2)
        self._state: dict[str, NDArray[np.generic]] = {}
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position and velocity of both balls, and the push."""
        units = {"position": "m", "velocity": "m/s"}
        parts = [name.split("_") for name in _NAMES]
        seen = (observation(f"{ball}_{what}", 1, units[what], entity=f"{ball} ball") for ball, what in parts)
        return (*seen, action("push", 1, "m/s2", entity="left ball", ends=(-MAX_PUSH, MAX_PUSH)))

    def _start(self, options: Options) -> None:
        draw = self.np_random.uniform
        left, right = (draw(*band) for band in self.meetings[self.np_random.integers(len(self.meetings))])
        place, time = np.array([draw(*MEETING_PLACE)]), np.array([draw(*MEETING_TIME)])
        drawn = self.approach(np.array([left]), np.array([right]), place, time)
        initial = read_options(options, dict.fromkeys(_NAMES, (1,)))
        self._state = {name: np.array(initial.get(name, drawn[name][0]), np.float32) for name in _NAMES}

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        start = {name: value[None] for name, value in self._state.items()}
        moved = self.simulate(start, {"push": action["push"].reshape(1, 1, 1)})
        self._state = {name: value[0, 0] for name, value in moved.items()}

    def explorer(self) -> Policy:
        """A piecewise constant push."""
        return steady_explorer("push", MAX_PUSH)

    def approach(self, left: Floats, right: Floats, place: Floats, time: Floats) -> dict[str, NDArray[np.float32]]:
        """Initial states [M, 1] that lead to a contact at a given place and time without pushes.

        Args:
            left: [M] speed of the left ball to the right, m/s.
            right: [M] speed of the right ball to the left, m/s.
            place: [M] place of the contact, m.
            time: [M] time until the contact, s.
        """
        made = (place - self.radius - left * time, left, place + self.radius + right * time, -right)
        return {name: value[:, None].astype(np.float32) for name, value in zip(_NAMES, made, strict=True)}

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape].
        """
        state = tuple(start[name].astype(float) for name in _NAMES)
        path = unrolled(self._move, state, actions["push"])
        return {name: value.astype(np.float32) for name, value in zip(_NAMES, path, strict=True)}

    def picture(self, left: float, right: float) -> NDArray[np.uint8]:
        """The image of the track for positions of the balls, m."""
        drawn = Picture(-FIELD, FIELD)
        drawn.line(-FIELD, -self.radius - 0.3, FIELD, -self.radius - 0.3, 0.6, GREY)
        drawn.disc(left, 0.0, self.radius, RED)
        drawn.disc(right, 0.0, self.radius, BLUE)
        return drawn.pixels()

    def _move(
        self, left: Floats, left_speed: Floats, right: Floats, right_speed: Floats, push: Floats
    ) -> tuple[Floats, ...]:
        """The four signals after one step, by leapfrog integration, rounded to float32."""
        push = np.clip(push, -MAX_PUSH, MAX_PUSH)
        short = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            # Leapfrog (drift, kick, drift): second order and with bounded energy error.
            left, right = left + short / 2 * left_speed, right + short / 2 * right_speed
            change = short * self._stiffness / 2 * np.maximum(2 * self.radius - (right - left), 0.0)
            left_speed, right_speed = left_speed + short * push - change, right_speed + change
            left, right = left + short / 2 * left_speed, right + short / 2 * right_speed
        return tuple(map(rounded, (left, left_speed, right, right_speed)))

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {"left_position", "right_position"}:
            return None
        return self.picture(*(float(shown[name][0]) for name in ("left_position", "right_position")))

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(*(float(self._state[name][0]) for name in ("left_position", "right_position")))

    def _seen(self) -> dict[str, Any]:
        return {name: value.copy() for name, value in self._state.items()}
