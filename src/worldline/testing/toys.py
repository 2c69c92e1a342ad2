"""A toy environment with known dynamics: a leaky integrator of pushes and wind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.config import BoundedConfig, Share, Weight
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

Metres = Float[np.ndarray, "*#any 2"]

SIDE = 8
"""Height and width of the camera picture, pixels."""


LOW, HIGH = (-1.0, -1.0), (1.0, 1.0)
"""Bounds of a push, metres."""


@dataclass(frozen=True, kw_only=True)
class Integrator(BoundedConfig):
    """position' = decay * position + push + wind + noise, in each of two components.

    Pushes are independent between steps, so that a shift by one step is detectable.

    Args:
        decay: in [0, 1), so that the position has a stationary distribution.
        noise: standard deviation of the process noise, in metres; 0 makes the environment deterministic.
        wind: whether there is an exogenous signal `wind` [m].
        camera: whether there is an image signal `camera` that shows the position.
    """

    decay: Share = 0.9
    noise: Weight = 0.0
    wind: bool = True
    camera: bool = True

    @property
    def schema(self) -> Schema:
        """`position` [m], `push` [m] in [-1, 1], and optionally `wind` [m] and `camera`."""
        vector = partial(Signal, kind=Kind.VECTOR, shape=(2,), unit="m")
        signals = [vector(name="position", role=Role.OBSERVATION)]
        signals.append(vector(name="push", role=Role.ACTION, low=LOW, high=HIGH))
        if self.wind:
            signals.append(vector(name="wind", role=Role.EXOGENOUS))
        if self.camera:
            signals.append(Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIDE, SIDE, 1)))
        return Schema(signals=tuple(signals), step_s=0.1)

    def step(self, position: Metres, push: Metres, wind: Metres) -> Metres:
        """The next position without noise, metres."""
        return np.asarray(self.decay * position + push + wind)

    def episodes(self, num_episodes: int, num_steps: int, *, seed: int) -> list[Episode]:
        """Logged episodes that start approximately in the stationary distribution."""
        return [self._episode(num_steps, np.random.default_rng((seed, number))) for number in range(num_episodes)]

    def _episode(self, num_steps: int, rng: np.random.Generator) -> Episode:
        push = rng.uniform(-1, 1, (num_steps, 2)).astype(np.float32)
        wind = 0.2 * rng.standard_normal((num_steps, 2)).astype(np.float32) * self.wind
        noise = self.noise * rng.standard_normal((num_steps, 2))
        spread = np.sqrt((1 / 3 + 0.04 * self.wind + self.noise**2) / (1 - self.decay**2))
        path = [spread * rng.standard_normal(2)]
        for now in range(num_steps):
            path.append(self.step(path[-1], push[now], wind[now]) + noise[now])
        position = np.stack(path).astype(np.float32)
        return Episode(
            observations={"position": position, **({"camera": picture(position)} if self.camera else {})},
            actions={"push": push},
            exogenous={"wind": wind} if self.wind else {},
        )


def picture(position: Float[np.ndarray, "*any 2"]) -> NDArray[np.uint8]:
    """Camera image [*any, 8, 8, 1] of positions [m]: a bright blob, one pixel per metre."""
    pixels = np.arange(SIDE) - (SIDE - 1) / 2
    across = np.exp(-0.5 * (pixels - position[..., :1]) ** 2)
    down = np.exp(-0.5 * (pixels - position[..., 1:]) ** 2)
    return np.asarray(255 * down[..., :, None, None] * across[..., None, :, None], dtype=np.uint8)
