"""The heated room of the pages, 12 degrees outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

TEMPERATURE = Signal(name="temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")
POWER = Signal(name="power", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(2.0,))


def heated_room(path: Path, num_episodes: int, num_steps: int) -> Store:
    """A store of episodes with random power."""
    draw, episodes = np.random.default_rng(0), list[Episode]()
    for _ in range(num_episodes):
        power, temperature = draw.uniform(0, 2, (num_steps, 1)).astype(np.float32), [draw.uniform(12, 25, 1)]
        for step in power:
            temperature.append(temperature[-1] + 0.1 * (12 - temperature[-1]) + step + 0.05 * draw.standard_normal(1))
        observations = {"temperature": np.array(temperature, np.float32)}
        episodes.append(Episode(observations=observations, actions={"power": power}))
    return stored(path, Schema(signals=(TEMPERATURE, POWER), step_s=600.0), episodes)
