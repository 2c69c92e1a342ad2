"""Containers: discs on a square table with a rim and a pen in one corner, which tilting the table sets in motion.

In each step of 0.1 s the tilt first changes the velocity of every disc by the same `tilt * 0.1 s`; drag takes a fixed
share of it; then every disc moves straight on, and contacts are solved one after the other at their exact times:

* with the rim or the pen's wall, the velocity along the normal is reversed, times the restitution;
* with another disc, of equal mass, likewise that of one relative to the other, momentum kept.

Position in m from the lower left corner, velocity in m/s, tilt in m/s2. Rim and wall are at rest; the wall stands on
the lower rim, is as high as the pen and has a round end, so that the pen is open above. Nothing is hidden, and nothing
is drawn but the start. The state is kept in float32, as it is shown, so that who is shown it knows all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import gymnasium
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.contracts.episode import Arrays
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.errors import InputError
from worldline.labs.abilities import Configured, Locates
from worldline.labs.drawing import BLUE, CAMERA, GREEN, INK, RED, SIZE, YELLOW, Picture
from worldline.labs.lab import Lab, Policy

Floats = NDArray[np.floating]

STEP_S: Final = 0.1
MAX_TILT: Final = 0.5
"""Along each axis, m/s2; what is beyond is cut."""
DRAG: Final = 0.01
"""Share of the velocity that is lost in a step."""
START_SPEED: Final = (0.4, 1.0)
"""Slowest and fastest at the start, m/s."""
WALL_HALF_WIDTH: Final = 0.03
MOST_DISCS: Final = 4
MOST_EVENTS: Final = 64
"""Contacts in one step; who is squeezed between two others may have many. What is left of the step is then dropped."""

_COLOURS: Final = (RED, BLUE, GREEN, YELLOW)


@dataclass(frozen=True, kw_only=True)
class ContainersSettings:
    """The arguments of `Containers`."""

    num_discs: int
    size: float
    radius: float
    pen: tuple[float, float]
    restitution: float
    pictures: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Moved:
    """What a step leads to.

    Args:
        position: [M, D, 2] m.
        velocity: [M, D, 2] m/s.
        touched: [M, K] whether there was a contact; K is 5 for each disc (left, right, lower, upper rim, the pen's
            wall), then one for each pair of discs.
    """

    position: Floats
    velocity: Floats
    touched: NDArray[np.bool_]


class Containers(Lab, Configured, Locates):
    """The lab. Observations: for each disc `disc_0_position` [m], `disc_0_velocity` [m/s]. Action: `tilt` [m/s2].

    Args:
        num_discs: 1 to 4.
        size: edge of the table, m.
        radius: of every disc, m.
        pen: where the pen's wall stands, and its height, m; a disc fits in beside it.
        restitution: share of the speed along the normal that a contact leaves, above 0, at most 1.
        pictures: whether to draw `camera`.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        *,
        num_discs: int = 2,
        size: float = 1.6,
        radius: float = 0.2,
        pen: tuple[float, float] = (0.7, 0.6),
        restitution: float = 0.95,
        pictures: bool = False,
    ) -> None:
        room = 2 * radius + WALL_HALF_WIDTH
        if not 1 <= num_discs <= MOST_DISCS or not 0 < restitution <= 1 or radius <= 0:
            raise InputError(
                f"num_discs {num_discs} must be 1 to {MOST_DISCS}, restitution {restitution} in (0, 1], radius "
                f"{radius} above 0."
            )
        if not (room < pen[0] < size - room and 0 < pen[1] < size - 2 * room):
            raise InputError(f"pen {pen} leaves no room for a disc of radius {radius} in a table of {size}. Move it.")
        self.num_discs, self.size, self.radius, self.pen = num_discs, size, radius, pen
        self.restitution, self.pictures = restitution, pictures
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {
            signal.name: box(-np.inf, np.inf, (2,), np.float32) for signal in self._vectors()
        }
        if pictures:
            spaces["camera"] = box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Dict({"tilt": box(-MAX_TILT, MAX_TILT, (2,), np.float32)})
        self._position: Floats = np.zeros((num_discs, 2))
        self._velocity: Floats = np.zeros((num_discs, 2))

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments; see `Configured`."""
        names = ("num_discs", "size", "radius", "restitution", "pictures")
        return {**{name: getattr(self, name) for name in names}, "pen": list(self.pen)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Containers:
        """See `Configured`."""
        return cls(**vars(from_json(ContainersSettings, json.dumps(settings), where="containers")))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of discs, in the order of `Moved.touched`."""
        return tuple(combinations(range(self.num_discs), 2))

    @property
    def schema(self) -> Schema:
        """Two signals a disc and the tilt; `camera` only where it is drawn."""
        edge = (MAX_TILT, MAX_TILT)
        tilt = Signal(name="tilt", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m/s2",
                      low=(-MAX_TILT, -MAX_TILT), high=edge, components=("x", "y"), entity="table")  # fmt: skip
        return Schema(signals=(*((CAMERA,) if self.pictures else ()), *self._vectors(), tilt), step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The first observation.

        Args:
            seed: of the start, the only draw.
            options: `position` [D, 2] m and `velocity` [D, 2] m/s take the place of what was drawn.
        """
        super().reset(seed=seed)
        given = options or {}
        position, velocity = self.draw_start(self.np_random)
        self._position = np.asarray(given.get("position", position), dtype=np.float32).astype(float)
        self._velocity = np.asarray(given.get("velocity", velocity), dtype=np.float32).astype(float)
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One tilt; no reward, no end."""
        tilt = np.asarray(action["tilt"], dtype=float)
        moved = self.move(self._position[None], self._velocity[None], tilt[None])
        self._position, self._velocity = moved.position[0], moved.velocity[0]
        return self._observe(), 0.0, False, False, {}

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The discs where they are seen; see `Locates`."""
        return dict(zip(("position", "velocity"), self.state_of(observation), strict=True))

    def explorer(self) -> Policy:
        """Random tilts, each held for a while."""
        return Explorer()

    def draw_start(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Position and velocity [D, 2] of discs that lie apart and clear of everything, moving anywhere."""
        places: list[Floats] = []
        while len(places) < self.num_discs:
            place = generator.uniform(self.radius, self.size - self.radius, 2)
            if self._to_wall(place)[1] > 0 and all(np.hypot(*(place - one)) > 2 * self.radius for one in places):
                places.append(place)
        angle = generator.uniform(0, 2 * np.pi, self.num_discs)
        speed = generator.uniform(*START_SPEED, self.num_discs)
        return np.stack(places), speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)

    def simulate(self, start: Arrays, actions: Arrays, *, alone: bool = False) -> Arrays:
        """The true consequence of many action sequences at once, leaving this environment as it is.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].
            alone: whether each disc moves as if there were no other, through which it then passes.

        Returns:
            Vector observation signals [M, T, *shape].
        """
        position, velocity = self.state_of(start)
        places, speeds = [], []
        for step in range(actions["tilt"].shape[1]):
            moved = self.move(position, velocity, actions["tilt"][:, step].astype(float), alone=alone)
            position, velocity = moved.position, moved.velocity
            places.append(position)
            speeds.append(velocity)
        return self.signals_of(np.stack(places, 1), np.stack(speeds, 1))

    def state_of(self, observations: Arrays) -> tuple[Floats, Floats]:
        """Positions and velocities [..., D, 2] of observation signals [..., 2]."""
        discs = range(self.num_discs)
        places, speeds = ([observations[f"disc_{i}_{part}"] for i in discs] for part in ("position", "velocity"))
        return np.stack(places, -2).astype(float), np.stack(speeds, -2).astype(float)

    def signals_of(self, position: Floats, velocity: Floats) -> dict[str, NDArray[np.generic]]:
        """Observation signals [..., 2] of positions and velocities [..., D, 2]; no picture."""
        parts = {"position": position, "velocity": velocity}
        return {
            f"disc_{i}_{part}": value[..., i, :].astype(np.float32)
            for i in range(self.num_discs)
            for part, value in parts.items()
        }

    def move(
        self,
        position: Float[np.ndarray, "M D 2"],
        velocity: Float[np.ndarray, "M D 2"],
        tilt: Float[np.ndarray, "M 2"],
        *,
        alone: bool = False,
    ) -> Moved:
        """The state after one step.

        Args:
            position: m.
            velocity: m/s.
            tilt: m/s2.
            alone: as in `simulate`.
        """
        kick = np.clip(tilt, -MAX_TILT, MAX_TILT)[:, None] * STEP_S
        velocity = (1 - DRAG) * (velocity + kick)
        left = np.full(len(position), STEP_S)
        touched = np.zeros((len(position), 5 * self.num_discs + len(self.pairs)), bool)
        for _ in range(MOST_EVENTS):
            times = self._times(position, velocity, alone)
            first = times.argmin(1)
            soonest = times[np.arange(len(times)), first]
            met = soonest <= left
            spent = np.where(met, soonest, left)
            position, left = position + velocity * spent[:, None, None], left - spent
            if not met.any():
                break
            velocity = self._bounced(position, velocity, np.where(met, first, -1))
            touched[met, first[met]] = True
        kept = (value.astype(np.float32).astype(float) for value in (position, velocity))
        return Moved(position=next(kept), velocity=next(kept), touched=touched)

    def picture(self, position: Float[np.ndarray, "D 2"]) -> NDArray[np.uint8]:
        """The table with discs at these places, m."""
        margin = 0.04 * self.size
        drawn = Picture(-margin, self.size + margin)
        middle, across = self.size / 2, self.size / 2 + margin
        for low in (-margin / 2, self.size + margin / 2):
            drawn.box(low, middle, margin / 2, across, INK)
            drawn.box(middle, low, across, margin / 2, INK)
        drawn.line(self.pen[0], 0.0, self.pen[0], self.pen[1], 2 * WALL_HALF_WIDTH, INK)
        for place, colour in zip(position, _COLOURS, strict=False):
            drawn.disc(float(place[0]), float(place[1]), self.radius, colour)
        return drawn.pixels()

    def _vectors(self) -> list[Signal]:
        made = [("position", "m"), ("velocity", "m/s")]
        return [
            Signal(name=f"disc_{i}_{part}", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit=unit,
                   components=("x", "y"), entity=f"disc {i}")
            for i in range(self.num_discs) for part, unit in made
        ]  # fmt: skip

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = dict(self.signals_of(self._position, self._velocity))
        return {"camera": self.picture(self._position), **seen} if self.pictures else seen

    def _to_wall(self, position: Floats) -> tuple[Floats, Floats]:
        """From the pen's wall to the middle of a disc [..., 2], and how far [...] the disc is from touching it."""
        nearest = np.stack([np.full(position.shape[:-1], self.pen[0]), np.minimum(position[..., 1], self.pen[1])], -1)
        away = position - nearest
        return away, np.hypot(away[..., 0], away[..., 1]) - self.radius - WALL_HALF_WIDTH

    def _times(self, position: Floats, velocity: Floats, alone: bool) -> Floats:
        """Seconds [M, K] until each contact, in the order of `Moved.touched`; infinite where none is ahead."""
        far = self.size - self.radius
        lower = _until(position - self.radius, velocity)
        upper = _until(far - position, -velocity)
        rims = np.stack([lower[..., 0], upper[..., 0], lower[..., 1], upper[..., 1], self._until_wall(position, velocity)], -1)
        columns = [rims.reshape(len(position), -1)]
        for i, j in self.pairs:
            time = _until_round(position[:, i] - position[:, j], velocity[:, i] - velocity[:, j], 2 * self.radius)
            columns.append((np.full_like(time, np.inf) if alone else time)[:, None])
        return np.concatenate(columns, 1)

    def _until_wall(self, position: Floats, velocity: Floats) -> Floats:
        """Seconds [M, D] until each disc touches the pen's wall: a flat side, or the round end."""
        reach, (x, height) = self.radius + WALL_HALF_WIDTH, self.pen
        side = np.sign(position[..., 0] - x)
        flat = _until(np.abs(position[..., 0] - x) - reach, side * velocity[..., 0])
        at = position[..., 1] + np.where(np.isfinite(flat), flat, 0.0) * velocity[..., 1]
        # Above the wall's end, or already beside its flat side and beyond, only the round end can be met.
        flat = np.where((at <= height) & (np.abs(position[..., 0] - x) > 0.5 * reach), flat, np.inf)
        return np.minimum(flat, _until_round(position - np.array([x, height]), velocity, reach))

    def _bounced(self, position: Floats, velocity: Floats, contact: NDArray[np.integer]) -> Floats:
        """Velocities after the contact [M] of each table, a column of `_times`; -1 for none."""
        velocity = velocity.copy()
        lasting, num_discs = 1 + self.restitution, self.num_discs
        normals = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        rows = np.flatnonzero((contact >= 0) & (contact < 5 * num_discs))
        disc, surface = np.divmod(contact[rows], 5)
        to_wall = _unit(self._to_wall(position[rows, disc])[0])
        normal = np.where((surface == 4)[:, None], to_wall, normals[np.minimum(surface, 3)])
        velocity[rows, disc] -= lasting * _along(velocity[rows, disc], normal) * normal
        for number, (i, j) in enumerate(self.pairs):
            rows = np.flatnonzero(contact == 5 * num_discs + number)
            normal = _unit(position[rows, i] - position[rows, j])
            change = lasting / 2 * _along(velocity[rows, i] - velocity[rows, j], normal) * normal
            velocity[rows, i] -= change
            velocity[rows, j] += change
        return velocity


class Explorer(Policy):
    """Tilts of any strength, each held for five steps on average."""

    def __init__(self) -> None:
        self._tilt: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first tilt."""
        self._tilt = generator.uniform(-MAX_TILT, MAX_TILT, 2)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A tilt of at most `MAX_TILT` along each axis, wherever the discs are."""
        del observation
        if generator.random() < 0.2:
            self._tilt = generator.uniform(-MAX_TILT, MAX_TILT, 2)
        return {"tilt": self._tilt.astype(np.float32)}


def _until(gap: Floats, speed: Floats) -> Floats:
    """Seconds until a gap closes that changes at this speed; infinite where it does not."""
    closing = speed < 0
    return np.where(closing, np.maximum(gap, 0.0) / np.where(closing, -speed, 1.0), np.inf)


def _until_round(away: Floats, velocity: Floats, reach: float) -> Floats:
    """Seconds until what is `away` [..., 2] and moves comes within `reach`; infinite where it does not."""
    square = (velocity**2).sum(-1)
    half = (away * velocity).sum(-1)
    apart = (away**2).sum(-1) - reach**2
    root = half**2 - square * apart
    meets = (half < 0) & (root > 0)
    time = (-half - np.sqrt(np.where(meets, root, 0.0))) / np.where(meets, square, 1.0)
    return np.where(meets, np.maximum(time, 0.0), np.inf)


def _along(vector: Floats, normal: Floats) -> Float[np.ndarray, "n 1"]:
    return np.asarray((vector * normal).sum(-1, keepdims=True))


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / np.maximum(np.hypot(vector[..., 0], vector[..., 1]), 1e-12)[..., None])
