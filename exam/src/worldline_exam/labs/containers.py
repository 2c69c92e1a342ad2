"""Lab `containers`: rubber discs on a tilting square table with a rim and a pen in one corner.

    acceleration = tilt - DRAG * velocity + contact pushes

in each of two components; position in m from the lower left corner, velocity in m/s, tilt in m/s2. Rim and pen are
fixed. The wall of the pen stands on the lower rim and has a round end, so the pen is open at the top. A contact pushes
a disc along the normal like a spring with a damper (per mass):

    push = stiffness * overlap + damping * (rate at which the overlap grows)

Two discs of equal mass push each other half as hard. Every contact therefore has the same duration,
pi / sqrt(stiffness) or about three steps of 0.1 s, and the same restitution. At normal speed v the overlap reaches
about v / sqrt(stiffness).

The damper never pulls, so a contact ends early and the effective restitution is slightly higher. A nominal 0.95 gives
0.95, 0.9 gives 0.90, 0.8 gives 0.81, 0.5 gives 0.55 and 0.1 gives 0.25.

Each step has `SUBSTEPS` integration steps. Nothing is hidden, and only the initial state is random. The state is
rounded to float32 at each step, so an observation determines it exactly.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import BLUE, GREEN, INK, RED, YELLOW, Picture, Policy, read_options
from worldline.schema import Signal
from worldline_exam.labs.base import ExamLab, Floats, HeldActions, Options, action, observation, rounded, unrolled

STEP_S: Final = 0.1
MAX_TILT: Final = 0.5
"""Along each axis, m/s2; larger values are clipped."""
DRAG: Final = 0.1
"""1/s."""
SUBSTEPS: Final = 6
"""Integration steps per step."""
START_SPEED: Final = (0.4, 1.0)
"""Range of the initial speed, m/s."""
WALL_HALF_WIDTH: Final = 0.03
MAX_TRIES: Final = 100_000
"""Limit on draws of positions for one initial state."""

_COLOURS: Final = (RED, BLUE, GREEN, YELLOW)


class Containers(ExamLab):
    """Observations: for each disc `disc_0_position` [m], `disc_0_velocity` [m/s]. Action: `tilt` [m/s2].

    Options of `reset`: `position` [D, 2] m on the table, and `velocity` [D, 2] m/s.

    Args:
        num_discs: 1 to 4.
        size: side of the table, m.
        radius: radius of every disc, m.
        pen: x position and height of the wall of the pen, m; a disc must fit on both sides.
        restitution: ratio of normal speed after and before a contact, above 0, at most 1. Below about 0.9 the
            effective value is higher, see the module.
        stiffness: contact stiffness, 1/s2.
        pictures: whether to render the image `camera`.
    """

    step_s = STEP_S

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
        self.num_discs, self.size, self.radius, self.pen = num_discs, size, radius, pen
        self.restitution, self.stiffness = restitution, stiffness
        # Damping ratio of an oscillator whose amplitude falls to the restitution in half a period.
        loss = -np.log(restitution) / np.hypot(np.pi, np.log(restitution))
        self._damping = float(2 * loss * np.sqrt(stiffness))
        self._position: Floats = np.zeros((num_discs, 2))
        self._velocity: Floats = np.zeros((num_discs, 2))
        super().__init__(pictures=pictures)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of discs."""
        return tuple(combinations(range(self.num_discs), 2))

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Position and velocity of each disc, and the tilt."""
        seen = (
            observation(f"disc_{i}_{part}", 2, unit, entity=f"disc {i}")
            for i in range(self.num_discs)
            for part, unit in (("position", "m"), ("velocity", "m/s"))
        )
        return (*seen, action("tilt", 2, "m/s2", entity="table", ends=(-MAX_TILT, MAX_TILT)))

    def _start(self, options: Options) -> None:
        initial = read_options(options, dict.fromkeys(("position", "velocity"), (self.num_discs, 2)))
        position, velocity = self.draw_start(self.np_random)
        self._position = np.asarray(initial.get("position", position), dtype=np.float32).astype(float)
        self._velocity = np.asarray(initial.get("velocity", velocity), dtype=np.float32).astype(float)

    def _advance(self, action: dict[str, NDArray[Any]]) -> None:
        position, velocity = self.move(self._position[None], self._velocity[None], action["tilt"][None])
        self._position, self._velocity = position[0], velocity[0]

    def explorer(self) -> Policy:
        """A uniform tilt, held for five steps on average."""
        return HeldActions(
            lambda generator: {"tilt": generator.uniform(-MAX_TILT, MAX_TILT, 2)},
            lambda generator: generator.random() < 0.2,
        )

    def draw_start(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Random positions and velocities [D, 2] of discs without contacts.

        Raises:
            InputError: `MAX_TRIES` draws did not place all discs.
        """
        places: list[Floats] = []
        tries = 0
        while len(places) < self.num_discs:
            if tries == MAX_TRIES:
                raise InputError(
                    f"only {len(places)} of {self.num_discs} discs of radius {self.radius} fit on a table of "
                    f"{self.size} with a pen of {self.pen} in {tries} tries. Use fewer or smaller discs."
                )
            tries += 1
            place = generator.uniform(self.radius, self.size - self.radius, 2)
            clear = np.hypot(*self._to_wall(place)) > self.radius + WALL_HALF_WIDTH
            if clear and all(np.hypot(*(place - other)) > 2 * self.radius for other in places):
                places.append(place)
        angle = generator.uniform(0, 2 * np.pi, self.num_discs)
        speed = generator.uniform(*START_SPEED, self.num_discs)
        return np.stack(places), speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)

    def simulate(self, start: Arrays, actions: Arrays, *, alone: bool = False) -> Arrays:
        """Simulates many action sequences in parallel, independent of the state of this environment.

        Args:
            start: observation signals [M, *shape].
            actions: action signals [M, T, *shape].
            alone: whether to ignore contacts between discs.

        Returns:
            Vector observation signals [M, T, *shape].
        """
        return self.signals_of(*unrolled(partial(self.move, alone=alone), self.state_of(start), actions["tilt"]))

    def state_of(self, observations: Arrays) -> tuple[Floats, Floats]:
        """Positions and velocities [..., D, 2] of observation signals [..., 2]."""
        discs = range(self.num_discs)
        places, speeds = ([observations[f"disc_{i}_{part}"] for i in discs] for part in ("position", "velocity"))
        return np.stack(places, -2).astype(float), np.stack(speeds, -2).astype(float)

    def signals_of(self, position: Floats, velocity: Floats) -> dict[str, NDArray[np.generic]]:
        """Observation signals [..., 2] of positions and velocities [..., D, 2], without image."""
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
            # Leapfrog (drift, kick, drift): second order and with bounded energy error.
            position = position + short / 2 * velocity
            pushes = self._pushes(position, velocity, alone) if touching else 0.0
            velocity = velocity + short * (steady - DRAG * velocity + pushes)
            position = position + short / 2 * velocity
        return rounded(position), rounded(velocity)

    def picture(self, position: Float[np.ndarray, "D 2"]) -> NDArray[np.uint8]:
        """The image of the table for positions of the discs, m."""
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
        """The camera image of an observation."""
        places = [f"disc_{i}_position" for i in range(self.num_discs)]
        if not shown.keys() >= set(places):
            return None
        return self.picture(np.stack([shown[place] for place in places]).astype(float))

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(self._position)

    def _seen(self) -> dict[str, Any]:
        return dict(self.signals_of(self._position, self._velocity))

    def _to_wall(self, position: Floats) -> Floats:
        """Vector from the nearest point of the wall to each position [..., 2]."""
        x, height = self.pen
        nearest = np.stack([np.full(position.shape[:-1], x), np.clip(position[..., 1], 0.0, height)], -1)
        return np.asarray(position - nearest)

    def _may_touch(self, position: Floats, velocity: Floats) -> bool:
        """Whether a contact is possible within the step; if not, contacts are skipped for speed."""
        reach = self.radius + STEP_S * (float(np.abs(velocity).max()) + STEP_S * MAX_TILT) * np.sqrt(2)
        if position.min() < reach or position.max() > self.size - reach:
            return True
        distances = [self._to_wall(position)] + [(position[:, i] - position[:, j]) / 2 for i, j in self.pairs]
        nearest = min(float(np.hypot(away[..., 0], away[..., 1]).min()) for away in distances)
        return bool(nearest < reach + WALL_HALF_WIDTH)

    def _pushes(self, position: Floats, velocity: Floats, alone: bool) -> Floats:
        """Contact accelerations [M, D, 2]."""
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
        """Push [..., 2] along `away`, for distances below `reach`."""
        distance = np.maximum(np.hypot(away[..., 0], away[..., 1]), 1e-9)[..., None]
        normal = away / distance
        return np.asarray(normal * self._spring(reach - distance, -(velocity * normal).sum(-1, keepdims=True)))

    def _spring(self, overlap: Floats, growing: Floats) -> Floats:
        """Push of a spring with a damper, clipped at 0; 0 without overlap."""
        push = self.stiffness * overlap + self._damping * growing
        return np.asarray(np.where(overlap > 0, np.maximum(push, 0.0), 0.0))
