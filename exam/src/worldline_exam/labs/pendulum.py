"""Lab `pendulum`: a bob on a rod that is driven by a motor.

    inertia * angle'' = torque - mass * gravity * length * sin(angle) - inertia * damping * angle'

with inertia = mass * length ** 2; angle in rad from the downward position, torque in N m, mass in kg, length in m,
damping in 1/s, constant during an episode. Cosine and sine of the angle are observed, which are continuous over full
turns, and the angular velocity. Energy: inertia * angle' ** 2 / 2 + mass * gravity * length * (1 - cos(angle)).

Hidden: nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from worldline.episode import Arrays
from worldline.labs import GREY, INK, RED, Colour, Picture
from worldline_exam.labs.base import Floats, action, observation
from worldline_exam.labs.driven import Driven, leap

GRAVITY: Final = 9.81
"""m/s^2."""
MAX_TORQUE: Final = 3.0
"""Bound of the torque, N m; larger values are clipped."""
START: Final = (1.5, 2.0)
"""Bounds of the initial angle, rad, and angular velocity, rad/s."""
LEAPS: Final = 8
"""Integration substeps per step."""


class Pendulum(Driven):
    """Observations: `angle` (cos, sin), `angular_velocity` [rad/s], `damping` [1/s]. Action: `torque` [N m].

    Args:
        mass: kg, above 0.
        length: m, above 0 and at most 1.6, so that it fits the image.
        pictures: whether to render the image `camera`.
    """

    def __init__(self, *, mass: float = 1.0, length: float = 1.0, pictures: bool = False) -> None:
        self.mass, self.length = mass, length
        moving = (
            observation("angle", 2, entity="bob", components=("cos", "sin")),
            observation("angular_velocity", 1, "rad/s", entity="bob"),
        )
        torque = action("torque", 1, "N m", entity="bob", ends=(-MAX_TORQUE, MAX_TORQUE))
        super().__init__(moving, (torque,), pictures=pictures)

    def draw_states(self, generator: np.random.Generator, num: int) -> Float[np.ndarray, "M D"]:
        """Uniform within `START`."""
        angle, speed = (generator.uniform(-bound, bound, num) for bound in START)
        return np.stack([np.cos(angle), np.sin(angle), speed], -1)

    def advance(
        self, state: Float[np.ndarray, "M D"], force: Float[np.ndarray, "M A"], damping: Float[np.ndarray, "M"]
    ) -> Float[np.ndarray, "M D"]:
        """Fourth-order integration of one step."""
        angle, driven = np.arctan2(state[:, 1:2], state[:, 0:1]), force / (self.mass * self.length**2)
        pull = GRAVITY / self.length
        angle, speed = leap(angle, state[:, 2:3], lambda at: driven - pull * np.sin(at), damping[:, None], LEAPS)
        return np.concatenate([np.cos(angle), np.sin(angle), speed], -1)

    def energy(self, observations: Arrays) -> Floats:
        """Energy, 0 at rest in the downward position. Uses the observed cosine without normalization."""
        speed, cosine = observations["angular_velocity"][..., 0].astype(float), observations["angle"][..., 0]
        height = self.length * (1 - cosine.astype(float))
        return np.asarray(0.5 * self.mass * (self.length * speed) ** 2 + self.mass * GRAVITY * height)

    def places(self, observations: Arrays) -> Floats:
        """Position of the bob."""
        cosine, sine = np.moveaxis(observations["angle"].astype(float), -1, 0)
        return self.length * np.stack([sine, -cosine], -1)[..., None, :]

    def paint(self, state: Float[np.ndarray, "D"], paper: Colour) -> UInt8[np.ndarray, "64 64 3"]:
        """Rod and bob."""
        picture = Picture(-2.0, 2.0, paper)
        x, y = self.length * float(state[1]), -self.length * float(state[0])
        picture.line(0.0, 0.0, x, y, 0.12, INK)
        picture.disc(0.0, 0.0, 0.14, GREY)
        picture.disc(x, y, 0.3, RED)
        return picture.pixels()
