"""Lab `gusty-puck`: a pushed puck on a table with friction, a weak spring and random gusts.

    mass * acceleration = push + gust + tilt - mass * friction * velocity - spring * position

in each of two components; position in m, velocity in m/s, push, gust and tilt in N, friction in 1/s. Push and gust are
constant during a step of 0.1 s, and the equation is solved exactly. The spring keeps the distribution of positions
stationary in long episodes. The tilt of the table is 0 by default. With a `speed` other than 1 each step simulates
`speed` times 0.1 s, while the velocity stays in m per simulated second.

Hidden: the friction, drawn per episode, and the gusts, independent Gaussian draws per step and component. Neither
depends on actions.

The image shows the table from above, with the spring between centre and puck. Velocities are visible from consecutive
images only; friction and gusts are not visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.labs import BLUE, GREY, INK, NoisyLab, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, Options, action, observation, unrolled

STEP_S: Final = 0.1
MAX_PUSH: Final = 1.0
"""Along each axis, N; larger values are clipped."""
START_SPREAD: Final = (0.65, 0.55)
"""Standard deviation of initial position, m, and velocity, m/s; about stationary under the explorer."""
TABLE: Final = 2.4
"""Half the side of the image, m; the explorer stays inside in 99 of 100 episodes."""
PUCK_RADIUS: Final = 0.2
MAX_FRICTION_STEP: Final = 1000.0
"""Bound of friction times step duration; larger values overflow the exponentials."""
RENEWAL_PROBABILITY: Final = 0.2
"""Probability per step that the explorer draws another push."""
TREMOR_STD: Final = 0.2
"""Standard deviation of the noise of its pushes, N."""


class GustyPuck(ExamLab, NoisyLab):
    """Observations: `puck_position` [m], `puck_velocity` [m/s], `camera` if drawn. Action: `push` [N].

    Options of `reset`: `position` [2] m, `velocity` [2] m/s, and `friction` 1/s, which is above 0 and at most
    `MAX_FRICTION_STEP` per step.

    Args:
        friction: range of the friction, 1/s, above 0.
        gust: standard deviation of the gusts, N, at least 0.
        mass: kg, above 0.
        spring: N/m, above 0.
        tilt: force of the tilted table along x and y, N.
        speed: simulated time per step, relative to 0.1 s, above 0.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

    def __init__(
        self,
        friction: tuple[float, float] = (0.5, 2.0),
        *,
        gust: float = 0.1,
        mass: float = 0.5,
        spring: float = 0.5,
        tilt: tuple[float, float] = (0.0, 0.0),
        speed: float = 1.0,
        pictures: bool = False,
    ) -> None:
        self.friction, self.gust, self.mass, self.spring = friction, gust, mass, spring
        self.tilt, self.speed = tilt, speed
        self._step_s = STEP_S * speed
        self._friction = friction[0]
        self._position: Floats = np.zeros(2)
        self._velocity: Floats = np.zeros(2)
        super().__init__(pictures=pictures)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position, velocity and push."""
        return (
            observation("puck_position", 2, "m", entity="puck"),
            observation("puck_velocity", 2, "m/s", entity="puck"),
            action("push", 2, "N", entity="puck", ends=(-MAX_PUSH, MAX_PUSH)),
        )

    def _start(self, options: Options) -> None:
        initial = read_options(options, {"friction": (), "position": (2,), "velocity": (2,)})
        self._friction = float(initial.get("friction", self._draw_friction(self.np_random)))
        position, velocity = self.np_random.standard_normal((2, 2)) * np.array(START_SPREAD)[:, None]
        self._position = np.array(initial.get("position", position), dtype=float)
        self._velocity = np.array(initial.get("velocity", velocity), dtype=float)

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        push = np.clip(action["push"], -MAX_PUSH, MAX_PUSH)
        gust = self.gust * self.np_random.standard_normal(2)  # independent of the action
        force = push + gust + self.tilt
        self._position, self._velocity = self.move(self._position, self._velocity, force, self._friction)

    def move(
        self, position: Floats, velocity: Floats, force: Floats, friction: Floats | float
    ) -> tuple[Floats, Floats]:
        """Position and velocity after one step.

        Args:
            position: [..., 2] m.
            velocity: [..., 2] m/s.
            force: [..., 2] N, sum of push, gust and tilt.
            friction: [...] 1/s.
        """
        friction, step_s = np.asarray(friction, dtype=float)[..., None], self._step_s
        stiffness = self.spring / self.mass
        # x'' + friction x' + stiffness x = 0 around the equilibrium of spring and force
        rate = np.sqrt((friction**2 / 4 - stiffness).astype(complex))
        rate = np.where(np.abs(rate) < 1e-6, 1e-6, rate)
        fade = np.exp(-friction * step_s / 2)
        even, odd = fade * np.cosh(rate * step_s).real, fade * (np.sinh(rate * step_s) / rate).real
        rest = force / self.spring
        away = position - rest
        moved = (even + odd * friction / 2) * away + odd * velocity
        speed = (even - odd * friction / 2) * velocity - odd * stiffness * away
        return np.asarray(rest + moved), np.asarray(speed)

    def explorer(self) -> Policy:
        """Piecewise constant random pushes with noise."""
        return GustyPuckExplorer()

    def hidden(self, seed: int) -> Mapping[str, float]:
        """The friction of an episode, 1/s."""
        return {"friction": self._draw_friction(np_random(seed)[0])}

    def expected(self, start: Arrays, actions: Arrays, hidden: Mapping[str, Floats]) -> Arrays:
        """The mean path: gusts have mean 0."""
        return self.simulate(start, actions, hidden["friction"], np.zeros(actions["push"].shape))

    def simulate(self, start: Arrays, actions: Arrays, friction: Floats, gusts: Floats) -> Arrays:
        """Simulates many pucks with given friction and gusts.

        Args:
            start: `puck_position` and `puck_velocity` [M, 2].
            actions: `push` [M, T, 2].
            friction: [M] 1/s.
            gusts: [M, T, 2] N.

        Returns:
            `puck_position` and `puck_velocity` [M, T, 2], without images.
        """
        force = np.clip(actions["push"].astype(float), -MAX_PUSH, MAX_PUSH) + gusts + self.tilt
        state = (start["puck_position"].astype(float), start["puck_velocity"].astype(float))
        position, velocity = unrolled(partial(self.move, friction=friction), state, force)
        return {"puck_position": position.astype(np.float32), "puck_velocity": velocity.astype(np.float32)}

    def picture(self, position: Floats) -> NDArray[np.uint8]:
        """The image [64, 64, 3] of a puck at `position` [2] m."""
        picture = Picture(low=-TABLE, high=TABLE)
        x, y = (float(part) for part in position)
        picture.line(0.0, 0.0, x, y, 0.07, GREY)
        picture.disc(0.0, 0.0, 0.07, INK)
        picture.disc(x, y, PUCK_RADIUS, BLUE)
        picture.disc(x, y, PUCK_RADIUS / 2.5, INK)
        return picture.pixels()

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {"puck_position"}:
            return None
        return self.picture(shown["puck_position"].astype(float))

    def _draw_friction(self, generator: np.random.Generator) -> float:
        return float(generator.uniform(*self.friction))

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._position)

    def _seen(self) -> dict[str, Any]:
        return {
            "puck_position": self._position.astype(np.float32),
            "puck_velocity": self._velocity.astype(np.float32),
        }


class GustyPuckExplorer(Policy):
    """Uniform pushes, each held for five steps on average, with Gaussian noise at each step."""

    def __init__(self) -> None:
        self._push: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first push."""
        self._push = generator.uniform(-MAX_PUSH, MAX_PUSH, 2)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A push of at most `MAX_PUSH` along each axis."""
        del observation
        if generator.random() < RENEWAL_PROBABILITY:
            self._push = generator.uniform(-MAX_PUSH, MAX_PUSH, 2)
        push = self._push + TREMOR_STD * generator.standard_normal(2)
        return {"push": np.clip(push, -MAX_PUSH, MAX_PUSH).astype(np.float32)}


def explored(num_episodes: int, num_steps: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Pushes [M, T, 2] with the distribution of the explorer, for many episodes in parallel."""
    shape = num_episodes, num_steps, 2
    fresh, renewed = generator.uniform(-MAX_PUSH, MAX_PUSH, shape), generator.random(shape[:2]) < RENEWAL_PROBABILITY
    chosen = np.maximum.accumulate(np.where(renewed, np.arange(num_steps), 0), axis=1)
    pushes = np.take_along_axis(fresh, chosen[..., None], axis=1)
    return np.clip(pushes + TREMOR_STD * generator.standard_normal(shape), -MAX_PUSH, MAX_PUSH).astype(np.float32)
