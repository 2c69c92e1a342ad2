"""Scenes, logs and reference engine of the three driven labs.

Tests on these logs share the names of their datasets, so one world learns each lab once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit import history_of, means, packed, packed_history, unpacked
from worldline.episode import Arrays, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, ExamTest, Pool
from worldline_exam.labs.driven import DAMPINGS, HOLDS, Driven, bounds
from worldline_exam.labs.elastic_pucks import ElasticPucks
from worldline_exam.labs.pendulum import Pendulum
from worldline_exam.labs.two_bodies import TwoBodies

Floats = NDArray[np.floating]

LABS: Final[Mapping[Pool, Mapping[str, Callable[..., Driven]]]] = {
    Pool.DEVELOPMENT: {
        "pendulum": partial(Pendulum, mass=1.2, length=0.8),
        "two-bodies": partial(TwoBodies, masses=(1.3, 0.9), strength=1.8, softening=0.8, trap=0.9),
        "elastic-pucks": partial(ElasticPucks, masses=(1.3, 0.9), radii=(0.22, 0.3)),
    },
    Pool.REPORT: {"pendulum": Pendulum, "two-bodies": TwoBodies, "elastic-pucks": ElasticPucks},
}
SYSTEMS: Final = tuple(LABS[Pool.REPORT])
NUM_EPISODES: Final[Mapping[str, int]] = {"pendulum": 400, "two-bodies": 400, "elastic-pucks": 1600}
"""Logged episodes. Pucks need more, since only one step in ten has a contact to learn from."""
NUM_STEPS: Final = 126
"""Length of a logged episode. Longer than any predicted rollout, so that worlds can learn its whole length."""
HORIZON: Final = 100
"""Predicted steps of T1."""
CONTEXT: Final = 4
"""Observations in the history. One determines the state; more serve models with a longer context."""


def lab_of(system: str, pool: Pool, *, pixels: bool = False) -> Driven:
    """The lab of a system in a pool."""
    return LABS[pool][system](pictures=pixels)


def datasets_of(pool: Pool, *, pixels: bool) -> tuple[DatasetSpec, ...]:
    """One dataset for each system, with all dampings in one log."""
    return tuple(
        DatasetSpec(
            name=system,
            make_lab=partial(lab_of, system, pool, pixels=pixels),
            asked=tuple(signal.name for signal in lab_of(system, pool).moving),
            num_episodes=NUM_EPISODES[system],
            num_steps=NUM_STEPS,
            horizon=HORIZON,
        )
        for system in SYSTEMS
    )


def rollouts(lab: Driven, num: int, num_steps: int, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Scenes of one system: history, future actions and truth, with each damping in every third scene.

    Args:
        lab: lab of the system.
        num: number E of scenes.
        num_steps: number T of steps after the history.
        rng: generator of initial states and pushes, which are distributed like those of the logs.

    Returns:
        "history.*" [E, CONTEXT, *shape], "future.*" [E, T, *shape] (actions), "truth.*" [E, T, *shape].
    """
    start = {name: value.astype(np.float32) for name, value in lab.split(lab.draw_states(rng, num)).items()}
    start["damping"] = np.resize(np.array(DAMPINGS, np.float32), num)[:, None]
    pushes = _held_pushes(lab, num, CONTEXT - 1 + num_steps, rng)
    path = lab.simulate(start, pushes)
    seen = {name: np.concatenate([start[name][:, None], value], 1) for name, value in path.items()}
    shown = {name: value[:, :CONTEXT] for name, value in seen.items()}
    done = {name: value[:, : CONTEXT - 1] for name, value in pushes.items()}
    return {
        **packed_history(History(observations=shown, actions=done)),
        **packed("future", {name: value[:, CONTEXT - 1 :] for name, value in pushes.items()}),
        **packed("truth", {name: value[:, CONTEXT:] for name, value in seen.items()}),
    }


def predictions(world: World, lab: Driven, scenes: Arrays, system: str) -> dict[str, NDArray[np.generic]]:
    """A world's predictions for a system: per moving signal [E, T, *shape], by dotted names.

    Raises:
        UnreadableError: the world does not predict one of the moving signals.
    """
    part = unpacked(scenes, system)
    signals = [signal.name for signal in lab.moving]
    return packed(system, means(world, history_of(part), unpacked(part, "future"), signals=signals))


def present(scenes: Arrays, system: str) -> dict[str, NDArray[np.generic]]:
    """The last observation of a system in the history, per signal [E, *shape]."""
    return {name: value[:, -1] for name, value in unpacked(scenes, f"{system}.history.observations").items()}


def damped_by(scenes: Arrays, system: str, damping: float) -> NDArray[np.bool_]:
    """Mask [E] of the scenes with this damping."""
    return np.asarray(np.isclose(present(scenes, system)["damping"][:, 0].astype(float), damping))


@dataclass(frozen=True, kw_only=True)
class DrivenTest(ExamTest):
    """Base of tests on rollouts of all three driven systems.

    Args:
        num_scenes: number of rollouts of each system, a third of them with each damping.
    """

    num_scenes: int = 300

    def lab(self, system: str) -> Driven:
        """The lab of the pool."""
        return lab_of(system, self.pool)

    def datasets(self) -> tuple[DatasetSpec, ...]:
        """One dataset for each system, the same for all driven tests."""
        return datasets_of(self.pool, pixels=self.pixels)

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Predictions per system and moving signal [E, T, *shape]."""
        answers: dict[str, NDArray[np.generic]] = {}
        for system in SYSTEMS:
            answers |= predictions(worlds[system], self.lab(system), scenes, system)
        return answers


def _held_pushes(lab: Driven, num: int, num_steps: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Pushes [E, T, *shape] like the explorer's: all pushes of a lab change at the same steps."""
    changes = rng.random((num, num_steps)) > HOLDS
    changes[:, 0] = True
    last = np.maximum.accumulate(np.where(changes, np.arange(num_steps), 0), 1)
    drawn = {signal.name: rng.uniform(*bounds(signal), (num, num_steps, *signal.shape)) for signal in lab.pushes}
    return {name: np.take_along_axis(value, last[..., None], 1).astype(np.float32) for name, value in drawn.items()}
