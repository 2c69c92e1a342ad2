"""Scenes of the gusty puck for several tests: pools, logs, and episodes simulated in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History
from worldline_exam.base import DatasetSpec, Pool
from worldline_exam.labs.gusty_puck import START_SPREAD, GustyPuck, explored

Floats = NDArray[np.floating]

SIGNALS: Final = ("puck_position", "puck_velocity")
SPREAD: Final = dict(zip(SIGNALS, START_SPREAD, strict=True))
"""Spread of each signal, m and m/s, the unit of its errors."""
NUM_EPISODES: Final = 1000
NUM_CALIBRATION: Final = 500
NUM_STEPS: Final = 60
AHEAD: Final = 20
"""Predicted steps of U1; U3 has fewer."""

POOLS: Final[Mapping[Pool, Mapping[str, Any]]] = {
    Pool.DEVELOPMENT: {"friction": (0.3, 3.0), "gust": 0.12, "mass": 0.5, "spring": 0.5},
    Pool.REPORT: {"friction": (0.4, 3.2), "gust": 0.12, "mass": 0.45, "spring": 0.45},
}
"""Settings of the lab. In both, the spread of its signals is about `SPREAD`.

The range of friction is wider than the lab's default. There, knowing the friction saves 4 % of the marginal loss of C4,
which is below the gate of a cell. Here it saves 10 %.
"""


def puck(pool: Pool, *, pictures: bool = False, **shift: Any) -> GustyPuck:
    """The lab of a pool; `shift` overrides settings."""
    return GustyPuck(**{**POOLS[pool], **shift}, pictures=pictures)


def dataset(pool: Pool, *, pixels: bool) -> DatasetSpec:
    """The logs of C4, U1 and U3, from which one world learns."""
    return DatasetSpec(
        name=f"gusty-puck-{pool.value}{'-pixels' if pixels else ''}",
        make_lab=partial(puck, pool, pictures=pixels),
        asked=SIGNALS,
        num_episodes=NUM_EPISODES,
        num_steps=NUM_STEPS,
        num_calibration=NUM_CALIBRATION,
        horizon=AHEAD,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeDraws:
    """All random draws of M episodes of T steps.

    Args:
        start: initial `puck_position` and `puck_velocity` [M, 2].
        pushes: [M, T, 2] N.
        friction: [M] 1/s.
        gusts: [M, T, 2] with standard deviation 1; the lab scales them by its `gust`.
    """

    start: Arrays
    pushes: Floats
    friction: Floats
    gusts: Floats

    def at(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> EpisodeDraws:
        """The draws of some episodes."""
        return replace(
            self,
            start={name: value[rows] for name, value in self.start.items()},
            pushes=self.pushes[rows],
            friction=self.friction[rows],
            gusts=self.gusts[rows],
        )


def draw(lab: GustyPuck, num_scenes: int, num_steps: int, generator: np.random.Generator) -> EpisodeDraws:
    """Draws with the distribution of the explorer's episodes."""
    start = {name: spread * generator.standard_normal((num_scenes, 2)) for name, spread in SPREAD.items()}
    return EpisodeDraws(
        start=start,
        pushes=explored(num_scenes, num_steps, generator),
        friction=generator.uniform(*lab.friction, num_scenes),
        gusts=generator.standard_normal((num_scenes, num_steps, 2)),
    )


def paths(lab: GustyPuck, draws: EpisodeDraws) -> dict[str, NDArray[np.float32]]:
    """Simulated paths per signal [M, T + 1, 2], including the start."""
    path_of = lab.simulate(draws.start, {"push": draws.pushes}, draws.friction, lab.gust * draws.gusts)
    return {
        name: np.concatenate([draws.start[name][:, None].astype(np.float32), path_of[name]], 1, dtype=np.float32)
        for name in SIGNALS
    }


def recorded(lab: GustyPuck, num_episodes: int, generator: np.random.Generator) -> list[Episode]:
    """Episodes of `NUM_STEPS` steps with the distribution of the explorer's."""
    draws = draw(lab, num_episodes, NUM_STEPS, generator)
    path = paths(lab, draws)
    return [
        Episode(observations={name: value[e] for name, value in path.items()}, actions={"push": draws.pushes[e]})
        for e in range(num_episodes)
    ]


def twins(
    lab: GustyPuck, history: History, future: Floats, friction: Floats, num: int, generator: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Paths [E, num, T, 2] after a history, with this friction [E] and fresh gusts."""
    start = {name: np.repeat(value[:, -1], num, 0) for name, value in history.observations.items()}
    pushes = np.repeat(future, num, 0)
    gusts = lab.gust * generator.standard_normal(pushes.shape)
    twin_paths = lab.simulate(start, {"push": pushes}, np.repeat(friction, num), gusts)
    return {name: value.reshape(-1, num, *value.shape[1:]) for name, value in twin_paths.items()}


def window(values: Floats, first: Int[np.ndarray, "M"], length: int) -> Floats:
    """Windows [M, length, ...] of episodes [M, T, ...] that begin at `first`."""
    return np.asarray(values[np.arange(len(values))[:, None], first[:, None] + np.arange(length)])


def squared_error(answer: Arrays, truth: Arrays) -> Float[np.ndarray, "E"]:
    """Squared error of each scene in units of each signal's spread, averaged over all axes but the first.

    Args:
        answer: per signal [E, T, 2].
        truth: per signal, broadcastable to `answer`.
    """
    parts = [
        (((answer[name].astype(float) - truth[name]) / spread) ** 2).reshape(len(answer[name]), -1).mean(1)
        for name, spread in SPREAD.items()
    ]
    return np.asarray(np.mean(parts, axis=0))
