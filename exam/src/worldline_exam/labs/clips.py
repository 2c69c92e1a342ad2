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

import json
from collections.abc import Mapping
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
    GREEN,
    INK,
    PAPER,
    RED,
    SIZE,
    Colour,
    Configured,
    DrawsImages,
    Lab,
    Picture,
    Policy,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

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


@dataclass(frozen=True, kw_only=True)
class ClipsSettings:
    """Constructor arguments of `Clips`."""

    drag: float
    bounce: float
    noise: float
    pictures: bool


class Clips(Lab, Configured, DrawsImages):
    """Observations: of each ball `<colour>_position` [m], `<colour>_velocity` [m/s]. Action: `push` [m/s²].

    Args:
        drag: 1/s, at least 0.
        bounce: ratio of the velocity after and before a cushion, above 0 and at most 1.
        noise: standard deviation of observed velocities, m/s, at least 0. Positions have `POSITION_NOISE`, or none
            if `noise` is 0.
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, drag: float = 0.3, bounce: float = 0.8, noise: float = 0.02, pictures: bool = False) -> None:
        if not (0 <= drag < np.inf and 0 < bounce <= 1 and 0 <= noise < np.inf):
            raise InputError(f"drag {drag} and noise {noise} must be at least 0 and finite, bounce {bounce} in (0, 1].")
        self.drag, self.bounce, self.noise, self.pictures = drag, bounce, noise, pictures
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {
            f"{ball}_{what}": box(-np.inf, np.inf, (2,), np.float32)
            for ball in BALLS
            for what in ("position", "velocity")
        }
        if pictures:
            spaces[CAMERA.name] = box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({"push": box(-MAX_PUSH, MAX_PUSH, (2,), np.float32)})
        self._state: Floats = np.zeros((len(BALLS), 2, 2))
        self._shown: Arrays = shown(self._state)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        return {name: getattr(self, name) for name in ("drag", "bounce", "noise", "pictures")}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Clips:
        """Inverse of `settings`."""
        found = from_json(ClipsSettings, json.dumps(settings), where="clips")
        return cls(drag=found.drag, bounce=found.bounce, noise=found.noise, pictures=found.pictures)

    @property
    def schema(self) -> Schema:
        """The seven signals; `camera` only if rendered."""
        axes, edge = ("x", "y"), (MAX_PUSH, MAX_PUSH)
        seen = tuple(
            Signal(name=f"{ball}_{what}", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit=unit,
                   components=axes, entity=ball)
            for ball in BALLS
            for what, unit in (("position", "m"), ("velocity", "m/s"))
        )  # fmt: skip
        push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m/s^2",
                      low=(-MAX_PUSH, -MAX_PUSH), high=edge, components=axes, entity="red")  # fmt: skip
        return Schema(signals=(*((CAMERA,) if self.pictures else ()), *seen, push), step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the initial state and the noise.
            options: `state` [3, 2, 2], position [m] and velocity [m/s] of each ball, replaces the drawn state. The
                noise still follows the seed.
        """
        super().reset(seed=seed)
        given = read_options(options, {"state": (len(BALLS), 2, 2)})
        self._state = given.get("state", self.starts(1, self.np_random)[0])
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        self._state = self.advance(self._state[None], self._checked(action)["push"][None])[0]
        return self._observe(), 0.0, False, False, {}

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
        state, path = unshown(start), []
        for step in range(actions["push"].shape[1]):
            state = self.advance(state, actions["push"][:, step].astype(float))
            path.append(state)
        return shown(np.stack(path, 1))

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
        return ClipsExplorer()

    def _look(self) -> NDArray[np.uint8]:
        return self.draw(unshown(self._shown))

    def _observe(self) -> dict[str, Any]:
        self._shown = shown(self.noisy(self._state, self.np_random))
        found: dict[str, Any] = {name: value.copy() for name, value in self._shown.items()}
        return {CAMERA.name: self._look(), **found} if self.pictures else found


class ClipsExplorer(Policy):
    """Independent pushes at each step in half of the episodes."""

    def __init__(self) -> None:
        self._pushes = False

    def reset(self, generator: np.random.Generator) -> None:
        """Draws whether the episode has pushes."""
        self._pushes = bool(generator.random() < 0.5)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A push of at most `MAX_PUSH` along each axis."""
        del observation
        push = generator.uniform(-MAX_PUSH, MAX_PUSH, 2)
        return {"push": (push if self._pushes else np.zeros(2)).astype(np.float32)}


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
