"""Lab `two-bodies`: two bodies in a trap attract each other; one of them is pushed.

    mass * x'' = push - mass * trap * x - mass * damping * x' + attraction towards the other

in each of two components; x in m, push in N (on the driven body only), trap in 1/s^2, damping in 1/s, constant during
an episode. The attraction is softened gravity, which stays finite at distance 0, with the potential

    strength * (1 / softening - 1 / sqrt(distance ** 2 + softening ** 2))

in J, with strength in J m and softening in m. The energy is this potential plus the sum of

    mass * (x' ** 2 + trap * x ** 2) / 2

Hidden: nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from worldline.episode import Arrays
from worldline.labs import BLUE, RED, Colour, Picture
from worldline_exam.labs.base import Floats
from worldline_exam.labs.driven import Driven, body_signals, leap, push_signal

BODIES: Final = ("driven", "free")
MAX_PUSH: Final = 1.5
"""N along each axis; larger values are clipped."""
START_SPREAD: Final = (0.6, 0.6)
"""Standard deviation of each component of initial position, m, and velocity, m/s."""
LEAPS: Final = 8
"""Integration substeps per step."""
FAR: Final = 4.5
"""Half the side of the image, m; the explorer moves the driven body outside in 2 of 1,000 steps."""
TOWARDS: Final = np.array([[1.0], [-1.0]])
"""Sign of the attraction of each body along the line from the driven to the free body."""


class TwoBodies(Driven):
    """Observations: `driven_position`, `free_position` [m], `driven_velocity`, `free_velocity` [m/s].

    Also `damping` [1/s]. Action: `driven_push` [N].

    Args:
        masses: mass of the driven and the free body, kg, above 0.
        strength: strength of the attraction, J m, at least 0.
        softening: m, above 0.
        trap: 1/s^2, at least 0.
        pictures: whether to render the image `camera`.
    """

    def __init__(
        self,
        *,
        masses: tuple[float, float] = (1.0, 1.0),
        strength: float = 1.5,
        softening: float = 0.7,
        trap: float = 1.0,
        pictures: bool = False,
    ) -> None:
        self.masses, self.strength, self.softening, self.trap = masses, strength, softening, trap
        moving = tuple(signal for body in BODIES for signal in body_signals(body))
        super().__init__(moving, (push_signal("driven", MAX_PUSH),), pictures=pictures)

    def draw_states(self, generator: np.random.Generator, num: int) -> Float[np.ndarray, "M D"]:
        """Gaussian states with the deviations `START_SPREAD`."""
        drawn = generator.standard_normal((num, 2, 2, 2)) * np.array(START_SPREAD)[:, None]
        return np.asarray(drawn.reshape(num, 8))

    def advance(
        self, state: Float[np.ndarray, "M D"], force: Float[np.ndarray, "M A"], damping: Float[np.ndarray, "M"]
    ) -> Float[np.ndarray, "M D"]:
        """Fourth-order integration of one step."""
        bodies = state.reshape(-1, 2, 2, 2)
        masses = np.array(self.masses)[:, None]
        driven = np.stack([force, np.zeros_like(force)], 1) / masses

        def acceleration(at: Floats) -> Floats:
            apart = at[:, 1] - at[:, 0]
            pull = self.strength * apart / ((apart**2).sum(-1, keepdims=True) + self.softening**2) ** 1.5
            return np.asarray(driven - self.trap * at + pull[:, None] * TOWARDS / masses)

        position, velocity = leap(bodies[:, :, 0], bodies[:, :, 1], acceleration, damping[:, None, None], LEAPS)
        return np.stack([position, velocity], 2).reshape(-1, 8)

    def energy(self, observations: Arrays) -> Floats:
        """Energy, 0 if both bodies are at rest in the centre."""
        state = self.join(observations)
        position, velocity = np.moveaxis(state.reshape(*state.shape[:-1], 2, 2, 2), -2, 0)
        squares = (velocity**2 + self.trap * position**2).sum(-1)
        apart = ((position[..., 1, :] - position[..., 0, :]) ** 2).sum(-1)
        attraction = self.strength * (1 / self.softening - 1 / np.sqrt(apart + self.softening**2))
        return np.asarray(squares @ np.array(self.masses) / 2 + attraction)

    def places(self, observations: Arrays) -> Floats:
        """Positions of the bodies."""
        return np.stack([observations[f"{body}_position"].astype(float) for body in BODIES], -2)

    def paint(self, state: Float[np.ndarray, "D"], paper: Colour) -> UInt8[np.ndarray, "64 64 3"]:
        """The driven body in red, the free one in blue; radii grow with mass."""
        picture = Picture(-FAR, FAR, paper)
        for first, mass, colour in ((4, self.masses[1], BLUE), (0, self.masses[0], RED)):
            picture.disc(float(state[first]), float(state[first + 1]), 0.26 * mass**0.5, colour)
        return picture.pixels()
