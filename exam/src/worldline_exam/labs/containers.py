"""Containers: rubber discs on a square table with a rim and a pen in one corner, which tilting the table moves.

    acceleration = tilt - DRAG * velocity + the push of whatever is touched

in each of two components; position in m from the lower left corner, velocity in m/s, tilt in m/s2. Rim and pen are at
rest. The pen's wall stands on the lower rim, is as high as the pen and has a round end, so that the pen is open above.
Whatever a disc overlaps pushes it away along the normal, as a spring with a damper does (per mass):

    push = stiffness * overlap + damping * (rate at which the overlap grows)

and two discs, of equal mass, push each other half as hard, so that a contact of either kind takes the same time,
pi / sqrt(stiffness) or about three steps of 0.1 s, and leaves the same share of the speed: the restitution. A disc
that comes at speed v goes v / sqrt(stiffness) deep. That is what the simulator's own penetration is.

The damper does not pull: a contact ends where it would, and leaves a little more than the restitution. Of 0.95 that is
0.95, of 0.9 and 0.8 it is 0.90 and 0.81, of 0.5 it is 0.55, of 0.1 it is 0.25.

The equations are solved in `SUBSTEPS` small steps. Nothing is hidden, and nothing is drawn but the start. The state is
kept in float32, as it is shown, so that who is shown it knows all of it.
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
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    BLUE,
    CAMERA,
    GREEN,
    INK,
    RED,
    SIZE,
    YELLOW,
    Configured,
    DrawsImages,
    Lab,
    Locates,
    Picture,
    Policy,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

STEP_S: Final = 0.1
MAX_TILT: Final = 0.5
"""Along each axis, m/s2; what is beyond is cut."""
DRAG: Final = 0.1
"""1/s."""
SUBSTEPS: Final = 6
"""Of each step."""
START_SPEED: Final = (0.4, 1.0)
"""Slowest and fastest at the start, m/s."""
WALL_HALF_WIDTH: Final = 0.03
MAX_DISCS: Final = 4
MAX_TRIES: Final = 100_000
"""Places that are drawn for the discs of a start before it is given up."""

_COLOURS: Final = (RED, BLUE, GREEN, YELLOW)


@dataclass(frozen=True, kw_only=True)
class ContainersSettings:
    """The arguments of `Containers`."""

    num_discs: int
    size: float
    radius: float
    pen: tuple[float, float]
    restitution: float
    stiffness: float
    pictures: bool


class Containers(Lab, Configured, Locates, DrawsImages):
    """The lab. Observations: for each disc `disc_0_position` [m], `disc_0_velocity` [m/s]. Action: `tilt` [m/s2].

    Args:
        num_discs: 1 to 4.
        size: edge of the table, m.
        radius: of every disc, m.
        pen: where the pen's wall stands, and its height, m; a disc fits in beside it.
        restitution: share of the speed along the normal that a contact leaves, above 0, at most 1; below about 0.9 it
            leaves more, see the module.
        stiffness: of what is touched, 1/s2.
        pictures: whether to draw `camera`.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        *,
        num_discs: int = 2,
        size: float = 2.0,
        radius: float = 0.25,
        pen: tuple[float, float] = (0.9, 0.6),
        restitution: float = 0.95,
        stiffness: float = 110.0,
        pictures: bool = False,
    ) -> None:
        room = 2 * radius + WALL_HALF_WIDTH
        fine = 1 <= num_discs <= MAX_DISCS and 0 < restitution <= 1
        if not (fine and 0 < radius < np.inf and 0 < stiffness < np.inf):
            raise InputError(
                f"num_discs {num_discs} must be 1 to {MAX_DISCS}, restitution {restitution} in (0, 1], radius "
                f"{radius} and stiffness {stiffness} above 0 and finite."
            )
        if not (size < np.inf and room < pen[0] < size - room and 0 < pen[1] < size - 2 * room):
            raise InputError(f"pen {pen} leaves no room for a disc of radius {radius} in a table of {size}. Move it.")
        self.num_discs, self.size, self.radius, self.pen = num_discs, size, radius, pen
        self.restitution, self.stiffness, self.pictures = restitution, stiffness, pictures
        # Of an oscillator whose amplitude falls to the restitution in half a period.
        loss = -np.log(restitution) / np.hypot(np.pi, np.log(restitution))
        self._damping = float(2 * loss * np.sqrt(stiffness))
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
        names = ("num_discs", "size", "radius", "restitution", "stiffness", "pictures")
        return {**{name: getattr(self, name) for name in names}, "pen": list(self.pen)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Containers:
        """See `Configured`."""
        return cls(**vars(from_json(ContainersSettings, json.dumps(settings), where="containers")))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of discs."""
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

        Raises:
            InputError: a disc lies beside the table.
        """
        super().reset(seed=seed)
        given = read_options(options, dict.fromkeys(("position", "velocity"), (self.num_discs, 2)))
        position, velocity = self.draw_start(self.np_random)
        self._position = np.asarray(given.get("position", position), dtype=np.float32).astype(float)
        self._velocity = np.asarray(given.get("velocity", velocity), dtype=np.float32).astype(float)
        away = np.abs(self._position - self.size / 2).max() - self.size / 2
        if away > self.radius:  # what is less far out is still in the rim, which may be soft
            raise InputError(
                f"position is {self._position.tolist()!r:.200}, beside the table. Keep it from 0 to {self.size} m."
            )
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One tilt; no reward, no end."""
        tilt = self._checked(action)["tilt"]
        position, velocity = self.move(self._position[None], self._velocity[None], tilt[None])
        self._position, self._velocity = position[0], velocity[0]
        return self._observe(), 0.0, False, False, {}

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The discs where they are seen; see `Locates`."""
        return dict(zip(("position", "velocity"), self.state_of(observation), strict=True))

    def explorer(self) -> Policy:
        """Random tilts, each held for a while."""
        return ContainersExplorer()

    def draw_start(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Position and velocity [D, 2] of discs that lie apart and clear of everything, moving anywhere.

        Raises:
            InputError: no room was found for all of them.
        """
        places: list[Floats] = []
        tries = 0
        while len(places) < self.num_discs:
            if tries == MAX_TRIES:
                raise InputError(
                    f"{len(places)} of {self.num_discs} discs of radius {self.radius} found room on a table of "
                    f"{self.size} with a pen of {self.pen}, in {tries} tries. Take fewer or smaller ones."
                )
            tries += 1
            place = generator.uniform(self.radius, self.size - self.radius, 2)
            clear = np.hypot(*self._to_wall(place)) > self.radius + WALL_HALF_WIDTH
            if clear and all(np.hypot(*(place - one)) > 2 * self.radius for one in places):
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
            position, velocity = self.move(position, velocity, actions["tilt"][:, step].astype(float), alone=alone)
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
    ) -> tuple[Floats, Floats]:
        """Position and velocity after one step.

        Args:
            position: m.
            velocity: m/s.
            tilt: m/s2.
            alone: as in `simulate`.
        """
        steady, short = np.clip(tilt, -MAX_TILT, MAX_TILT)[:, None], STEP_S / SUBSTEPS
        touching = self._may_touch(position, velocity)
        for _ in range(SUBSTEPS):
            # Half a step of motion, the pushes there, and the other half: second order, and bounded in energy.
            position = position + short / 2 * velocity
            pushes = self._pushes(position, velocity, alone) if touching else 0.0
            velocity = velocity + short * (steady - DRAG * velocity + pushes)
            position = position + short / 2 * velocity
        return position.astype(np.float32).astype(float), velocity.astype(np.float32).astype(float)

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

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera's picture; see `DrawsImages`."""
        places = [f"disc_{i}_position" for i in range(self.num_discs)]
        if not shown.keys() >= set(places):
            return None
        return self.picture(np.stack([shown[place] for place in places]).astype(float))

    def _vectors(self) -> list[Signal]:
        made = [("position", "m"), ("velocity", "m/s")]
        return [
            Signal(name=f"disc_{i}_{part}", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit=unit,
                   components=("x", "y"), entity=f"disc {i}")
            for i in range(self.num_discs) for part, unit in made
        ]  # fmt: skip

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._position)

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = dict(self.signals_of(self._position, self._velocity))
        return {"camera": self._look(), **seen} if self.pictures else seen

    def _to_wall(self, position: Floats) -> Floats:
        """From the nearest point of the pen's wall to each place [..., 2]."""
        x, height = self.pen
        nearest = np.stack([np.full(position.shape[:-1], x), np.clip(position[..., 1], 0.0, height)], -1)
        return np.asarray(position - nearest)

    def _may_touch(self, position: Floats, velocity: Floats) -> bool:
        """Whether any disc may touch anything before the step ends; where none does, nothing need be looked at."""
        reach = self.radius + STEP_S * (float(np.abs(velocity).max()) + STEP_S * MAX_TILT) * np.sqrt(2)
        if position.min() < reach or position.max() > self.size - reach:
            return True
        distances = [self._to_wall(position)] + [(position[:, i] - position[:, j]) / 2 for i, j in self.pairs]
        nearest = min(float(np.hypot(away[..., 0], away[..., 1]).min()) for away in distances)
        return bool(nearest < reach + WALL_HALF_WIDTH)

    def _pushes(self, position: Floats, velocity: Floats, alone: bool) -> Floats:
        """The acceleration [M, D, 2] by all that each disc touches."""
        low, high = self.radius - position, position - (self.size - self.radius)
        pushes = self._spring(low, -velocity) - self._spring(high, velocity)
        pushes = pushes + self._apart(self._to_wall(position), velocity, self.radius + WALL_HALF_WIDTH)
        for i, j in () if alone else self.pairs:
            away, relative = position[:, i] - position[:, j], velocity[:, i] - velocity[:, j]
            push = self._apart(away, relative, 2 * self.radius) / 2
            pushes[:, i] += push
            pushes[:, j] -= push
        return pushes

    def _apart(self, away: Floats, velocity: Floats, reach: float) -> Floats:
        """The push [..., 2] on what is `away` from something and moves, where it is nearer than `reach`."""
        distance = np.maximum(np.hypot(away[..., 0], away[..., 1]), 1e-9)[..., None]
        normal = away / distance
        return np.asarray(normal * self._spring(reach - distance, -(velocity * normal).sum(-1, keepdims=True)))

    def _spring(self, overlap: Floats, growing: Floats) -> Floats:
        """The push of a spring with a damper, which does not pull; 0 where nothing overlaps."""
        push = self.stiffness * overlap + self._damping * growing
        return np.asarray(np.where(overlap > 0, np.maximum(push, 0.0), 0.0))


class ContainersExplorer(Policy):
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
