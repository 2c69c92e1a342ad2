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

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.labs import (
    BLUE,
    CAMERA,
    GREY,
    RED,
    Configured,
    DrawsImages,
    Lab,
    Locates,
    Picture,
    Policy,
    boxes,
    read_options,
)
from worldline.schema import Kind, Role, Schema, Signal
from worldline_exam.labs.parabola import FAST, SLOW, Band, SteadyExplorer

Floats = NDArray[np.floating]
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


@dataclass(frozen=True, kw_only=True)
class CollisionSettings:
    """Constructor arguments of `Collision`."""

    meetings: Meetings
    radius: float
    contact_s: float
    pictures: bool


class Collision(Lab, Configured, Locates, DrawsImages):
    """Observations: `left_position` [m], `left_velocity` [m/s], the same of `right`. Action: `push` [m/s2].

    Args:
        meetings: pairs of speed ranges, drawn with equal probability.
        radius: radius of both balls, m, above half the largest overlap.
        contact_s: duration of a contact, s, above 0.
        pictures: whether to render the image `camera`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        meetings: Meetings = USUAL,
        *,
        radius: float = 1.0,
        contact_s: float = 0.4,
        pictures: bool = False,
    ) -> None:
        bands = [band for meeting in meetings for band in meeting]
        rising = all(0 < low <= high < np.inf for low, high in bands)
        if not (bands and rising and 0 < radius < np.inf and 0 < contact_s < np.inf):
            raise InputError(
                f"meetings {meetings} must be ranges of rising numbers above 0; radius {radius} and contact_s "
                f"{contact_s} must be above 0; all must be finite."
            )
        deepest = contact_s / np.pi * max(left[1] + right[1] for left, right in meetings)
        if not 2 * radius > deepest:
            raise InputError(
                f"radius {radius} must be above {deepest / 2:g}, half of the largest overlap, or the balls "
                "pass through each other. Use a larger radius or a smaller contact_s."
            )
        self.meetings, self.radius, self.contact_s, self.pictures = meetings, radius, contact_s, pictures
        self._stiffness = float((np.pi / contact_s) ** 2)
        self.observation_space = boxes(self.schema, Role.OBSERVATION)
        self.action_space = boxes(self.schema, Role.ACTION)
        self._state: dict[str, NDArray[np.generic]] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor."""
        meetings = [[list(band) for band in meeting] for meeting in self.meetings]
        return {
            "meetings": meetings,
            "radius": self.radius,
            "contact_s": self.contact_s,
            "pictures": self.pictures,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Collision:
        """Inverse of `settings`."""
        found = from_json(CollisionSettings, json.dumps(settings), where="collision")
        return cls(found.meetings, radius=found.radius, contact_s=found.contact_s, pictures=found.pictures)

    @property
    def schema(self) -> Schema:
        """Five signals; `camera` only if rendered."""
        vectors = [
            Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,),
                   unit="m" if name.endswith("position") else "m/s", entity=f"{name.partition('_')[0]} ball")
            for name in _NAMES
        ]  # fmt: skip
        push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="m/s2",
                      low=(-MAX_PUSH,), high=(MAX_PUSH,), entity="left ball")  # fmt: skip
        return Schema(signals=(*((CAMERA,) if self.pictures else ()), *vectors, push), step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: seed of the initial state.
            options: values [1] by observation signal replace drawn values.

        Raises:
            InputError: the left ball is not left of the right ball.
        """
        super().reset(seed=seed)
        draw = self.np_random.uniform
        left, right = (draw(*band) for band in self.meetings[self.np_random.integers(len(self.meetings))])
        place, time = np.array([draw(*MEETING_PLACE)]), np.array([draw(*MEETING_TIME)])
        drawn = self.approach(np.array([left]), np.array([right]), place, time)
        given = read_options(options, dict.fromkeys(_NAMES, (1,)))
        self._state = {name: np.array(given.get(name, drawn[name][0]), np.float32) for name in _NAMES}
        left_at, right_at = (float(self._state[name][0]) for name in ("left_position", "right_position"))
        if not left_at < right_at:
            raise InputError(f"left_position {left_at:g} must be below right_position {right_at:g}.")
        return self._begin(self._observe()), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; reward 0, no termination."""
        push = self._checked(action)["push"].reshape(1, 1, 1)
        start = {name: value[None] for name, value in self._state.items()}
        self._state = {name: value[0, 0] for name, value in self.simulate(start, {"push": push}).items()}
        return self._observe(), 0.0, False, False, {}

    def locate(self, observation: Arrays) -> Mapping[str, Any]:
        """The observed state as options for `reset`."""
        return {name: observation[name] for name in _NAMES}

    def explorer(self) -> Policy:
        """A piecewise constant push."""
        return SteadyExplorer("push", MAX_PUSH)

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
        state = [start[name].astype(float) for name in _NAMES]
        pushes = np.clip(actions["push"].astype(float), -MAX_PUSH, MAX_PUSH)
        path = []
        for step in range(pushes.shape[1]):
            state = [value.astype(np.float32).astype(float) for value in self._move(state, pushes[:, step])]
            path.append(state)
        return {
            name: np.stack([state[number] for state in path], 1).astype(np.float32)
            for number, name in enumerate(_NAMES)
        }

    def picture(self, left: float, right: float) -> NDArray[np.uint8]:
        """The image of the track for positions of the balls, m."""
        drawn = Picture(-FIELD, FIELD)
        drawn.line(-FIELD, -self.radius - 0.3, FIELD, -self.radius - 0.3, 0.6, GREY)
        drawn.disc(left, 0.0, self.radius, RED)
        drawn.disc(right, 0.0, self.radius, BLUE)
        return drawn.pixels()

    def _move(self, state: list[Floats], push: Floats) -> list[Floats]:
        """The four signals after one step, by leapfrog integration."""
        left, left_speed, right, right_speed = state
        short = STEP_S / SUBSTEPS
        for _ in range(SUBSTEPS):
            # Leapfrog (drift, kick, drift): second order and with bounded energy error.
            left, right = left + short / 2 * left_speed, right + short / 2 * right_speed
            change = short * self._stiffness / 2 * np.maximum(2 * self.radius - (right - left), 0.0)
            left_speed, right_speed = left_speed + short * push - change, right_speed + change
            left, right = left + short / 2 * left_speed, right + short / 2 * right_speed
        return [left, left_speed, right, right_speed]

    def drawn(self, shown: Arrays) -> NDArray[np.uint8] | None:
        """The camera image of an observation."""
        if not shown.keys() >= {"left_position", "right_position"}:
            return None
        return self.picture(*(float(shown[name][0]) for name in ("left_position", "right_position")))

    def _look(self) -> NDArray[np.uint8]:
        return self.picture(*(float(self._state[name][0]) for name in ("left_position", "right_position")))

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {name: value.copy() for name, value in self._state.items()}
        return {"camera": self._look(), **seen} if self.pictures else seen
