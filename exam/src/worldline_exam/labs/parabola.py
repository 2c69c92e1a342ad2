"""Lab `parabola`: a ball is thrown horizontally and falls, with a vertical force by a fan.

    acceleration = (0, lift - (1 - buoyancy) * gravity)

in m/s2, constant during a step of 0.05 s, and the equation is solved exactly; position in m, velocity in m/s. Gravity
is drawn per throw and observed. Nothing is hidden, and only the throw is random. The horizontal velocity is constant,
so logs contain only initial speeds along this axis. The state is rounded to float32 at each step, like an observation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import GREY, INK, RED, YELLOW, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, HeldActions, Options, action, observation, rounded, unrolled

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


class Parabola(ExamLab):
    """Observations: `ball_position` [m], `ball_velocity` [m/s], `gravity` [m/s2]. Action: `lift` [m/s2].

    Options of `reset`: values by observation signal.

    Args:
        throws: pairs of ranges of speed and gravity, drawn with equal probability.
        buoyancy: fraction of gravity that the air compensates, in [0, 1).
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(self, throws: Throws = USUAL, *, buoyancy: float = 0.0, pictures: bool = False) -> None:
        self.throws, self.buoyancy = throws, buoyancy
        self._state: dict[str, NDArray[np.generic]] = {}
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position, velocity, gravity and lift."""
        return (
            observation("ball_position", 2, "m", entity="ball"),
            observation("ball_velocity", 2, "m/s", entity="ball"),
            observation("gravity", 1, "m/s2", entity="earth"),
            action("lift", 1, "m/s2", entity="ball", ends=(-MAX_LIFT, MAX_LIFT)),
        )

    def _start(self, options: Options) -> None:
        speed, gravity = (
            self.np_random.uniform(*band) for band in self.throws[self.np_random.integers(len(self.throws))]
        )
        drawn = {
            "ball_position": [self.np_random.uniform(*START_X), self.np_random.uniform(*START_Y)],
            "ball_velocity": [speed, 0.0],
            "gravity": [gravity],
        }
        initial = read_options(options, {name: (len(value),) for name, value in drawn.items()})
        self._state = {name: np.array(initial.get(name, value), np.float32) for name, value in drawn.items()}

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        start = {name: value[None] for name, value in self._state.items()}
        moved = self.simulate(start, {"lift": action["lift"].reshape(1, 1, 1)})
        self._state = {name: value[0, 0] for name, value in moved.items()}

    def explorer(self) -> Policy:
        """A piecewise constant lift."""
        return steady_explorer("lift", MAX_LIFT)

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape].
        """
        lifts = np.clip(actions["lift"].astype(float), -MAX_LIFT, MAX_LIFT)
        falling = (1 - self.buoyancy) * start["gravity"].astype(float)

        def move(position: Floats, velocity: Floats, lift: Floats) -> tuple[Floats, Floats]:
            push = np.concatenate([np.zeros_like(falling), lift - falling], -1)
            moved = position + STEP_S * velocity + STEP_S**2 / 2 * push
            return rounded(moved), rounded(velocity + STEP_S * push)

        state = (start["ball_position"].astype(float), start["ball_velocity"].astype(float))
        position, velocity = unrolled(move, state, lifts)
        steady = np.repeat(start["gravity"][:, None].astype(np.float32), lifts.shape[1], 1)
        return {
            "ball_position": position.astype(np.float32),
            "ball_velocity": velocity.astype(np.float32),
            "gravity": steady,
        }

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

    def _seen(self) -> dict[str, Any]:
        return {name: value.copy() for name, value in self._state.items()}


def steady_explorer(name: str, bound: float) -> Policy:
    """A uniform scalar action of at most this magnitude, held for twelve steps on average."""
    return HeldActions(
        lambda generator: {name: generator.uniform(-bound, bound, 1)}, lambda generator: generator.random() < 1 / 12
    )
