"""Lab `clips`: three balls on separate glass sheets, one above the other, between the same four cushions.

    velocity' = exp(-drag * 0.1) * (velocity + 0.1 * push)
    travelled = (velocity + 0.1 * push) * (1 - exp(-drag * 0.1)) / drag

The step is 0.1 s; position in m, velocity in m/s, drag in 1/s. The push [m/s²] acts on the red ball only. Cushions
reflect the excess distance and the normal velocity, both times `bounce`. The balls never touch.

Observed positions and velocities have independent Gaussian noise, unless `noise` is 0. Initial positions are uniform
over the table and initial directions are uniform over the circle. Without drag and pushes and with `bounce` 1, this
distribution is stationary. A path in reverse, with negated velocities, is then as likely as the path itself, so no
statistic can distinguish them.

Hidden: only the noise, which does not depend on actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREEN, INK, PAPER, RED, Colour, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, OccasionalActions, Options, action, observation, unrolled

STEP_S: Final = 0.1
HALF_TABLE: Final = 1.0
"""Half the side of the square for the centres of the balls, m."""
RADIUS: Final = 0.12
MAX_PUSH: Final = 1.0
"""Along each axis, m/s²; larger values are clipped."""
SPEEDS: Final = (0.5, 1.5)
"""Range of the initial speed, m/s."""
BALLS: Final[Mapping[str, Colour]] = {"red": RED, "green": GREEN, "blue": BLUE}
POSITION_NOISE: Final = 0.005
"""Standard deviation, m."""


class Clips(ExamLab):
    """Observations: of each ball `<colour>_position` [m], `<colour>_velocity` [m/s]. Action: `push` [m/s²].

    Option of `reset`: `state` [3, 2, 2], position [m] and velocity [m/s] of each ball.

    Args:
        drag: 1/s, at least 0.
        bounce: ratio of the velocity after and before a cushion, above 0 and at most 1.
        noise: standard deviation of observed velocities, m/s, at least 0. Positions have `POSITION_NOISE`, or none
            if `noise` is 0.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(self, *, drag: float = 0.3, bounce: float = 0.8, noise: float = 0.02, pictures: bool = False) -> None:
        self.drag, self.bounce, self.noise = drag, bounce, noise
        self._state: Floats = np.zeros((len(BALLS), 2, 2))
        self._shown: Arrays = shown(self._state)
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position and velocity of each ball, and the push."""
        seen = (
            observation(f"{ball}_{what}", 2, unit, entity=ball)
            for ball in BALLS
            for what, unit in (("position", "m"), ("velocity", "m/s"))
        )
        return (*seen, action("push", 2, "m/s^2", entity="red", ends=(-MAX_PUSH, MAX_PUSH)))

    def _start(self, options: Options) -> None:
        initial = read_options(options, {"state": (len(BALLS), 2, 2)})
        self._state = initial.get("state", self.starts(1, self.np_random)[0])

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        self._state = self.advance(self._state[None], action["push"][None])[0]

    def starts(self, count: int, generator: np.random.Generator) -> Floats:
        """Initial states [count, 3, 2, 2]: position [m] and velocity [m/s] of each ball."""
        shape = (count, len(BALLS))
        position = generator.uniform(-HALF_TABLE, HALF_TABLE, (*shape, 2))
        speed, angle = generator.uniform(*SPEEDS, shape), generator.uniform(-np.pi, np.pi, shape)
        velocity = speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        return np.stack([position, velocity], -2)

    def advance(self, state: Floats, push: Floats) -> Floats:
        """The next states [M, 3, 2, 2] without noise.

        Args:
            state: [M, 3, 2, 2].
            push: [M, 2] m/s².
        """
        position, velocity = state[:, :, 0], state[:, :, 1].copy()
        velocity[:, 0] += STEP_S * np.clip(push, -MAX_PUSH, MAX_PUSH)
        fade = np.exp(-self.drag * STEP_S)
        time = -np.expm1(-self.drag * STEP_S) / self.drag if self.drag > 0 else STEP_S
        ahead, velocity = position + time * velocity, fade * velocity
        edge = np.clip(ahead, -HALF_TABLE, HALF_TABLE)
        met = edge != ahead
        back = np.where(met, edge - self.bounce * (ahead - edge), ahead)
        return np.stack([back, np.where(met, -self.bounce * velocity, velocity)], -2)

    def simulate(self, start: Arrays, actions: Arrays) -> Arrays:
        """Simulates action sequences without noise, independent of the state of this environment.

        Args:
            start: vector observation signals [M, *shape].
            actions: action signals [M, T, *shape].

        Returns:
            Vector observation signals [M, T, *shape], float32.
        """
        return shown(*unrolled(lambda state, push: (self.advance(state, push),), (unshown(start),), actions["push"]))

    def noisy(self, states: Floats, generator: np.random.Generator) -> Floats:
        """States [..., 3, 2, 2] with observation noise."""
        deviation = np.array([POSITION_NOISE if self.noise else 0.0, self.noise])[:, None]
        return states + deviation * generator.standard_normal(states.shape)

    def draw(self, state: Floats) -> UInt8[np.ndarray, "64 64 3"]:
        """The image of one state [3, 2, 2]."""
        edge = HALF_TABLE + RADIUS
        picture = Picture(-edge - 0.08, edge + 0.08, INK)
        picture.box(0.0, 0.0, edge, edge, PAPER)
        for colour, (x, y) in zip(BALLS.values(), state[:, 0], strict=True):
            picture.disc(float(x), float(y), RADIUS, colour)
        return picture.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation. It inherits the position noise, a seventh of a pixel."""
        places = [f"{ball}_position" for ball in BALLS]
        if not shown.keys() >= set(places):
            return None
        state = np.zeros((len(BALLS), 2, 2))
        state[:, 0] = [shown[place] for place in places]
        return self.draw(state)

    def explorer(self) -> Policy:
        """Pushes the red ball in half of the episodes on average."""
        return OccasionalActions(lambda generator: {"push": generator.uniform(-MAX_PUSH, MAX_PUSH, 2)})

    def _look(self) -> NDArray[np.uint8]:
        return self.draw(unshown(self._shown))

    def _seen(self) -> dict[str, Any]:
        self._shown = shown(self.noisy(self._state, self.np_random))
        return {name: value.copy() for name, value in self._shown.items()}


def shown(states: Floats) -> dict[str, NDArray[np.float32]]:
    """States [..., 3, 2, 2] as observation signals [..., 2]."""
    parts = np.moveaxis(states, (-3, -2), (0, 1)).astype(np.float32)
    return {
        f"{ball}_{what}": parts[i, k] for i, ball in enumerate(BALLS) for k, what in enumerate(("position", "velocity"))
    }


def unshown(signals: Arrays) -> Floats:
    """The states [..., 3, 2, 2] of observation signals [..., 2], in float64."""
    balls = [np.stack([signals[f"{ball}_{what}"] for what in ("position", "velocity")], -2) for ball in BALLS]
    return np.stack(balls, -3).astype(float)
