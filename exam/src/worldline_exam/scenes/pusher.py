"""Scenes of a pusher and a block, and the lab as an engine, for C1 and C5.

A scene begins with a reset seed. A prelude follows, whose last `HISTORY` observations are the history, and then the
branches. Preludes and branches have slowly turning headings, like the explorer's motions. All of it can be replayed in
the lab from the seed. It is computed for all scenes in one batch, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from worldline.audit import means
from worldline.episode import Arrays, History
from worldline.world import World
from worldline_exam.base import DatasetSpec, Pool
from worldline_exam.labs.pusher_block import LEVER, MAX_SPEED, STATE, PusherBlock

Floats = NDArray[np.floating]

HISTORY: Final = 10
"""Observations in the history, 1 s."""
PRELUDE: Final = 20
"""Steps before the branches."""
CONTACT: Final = 2e-3
"""Gap below which pusher and block touch, m."""
TOWARDS_SPREAD: Final = 0.5
"""Standard deviation of a heading around the direction to the block, rad."""
DRIFT: Final = 0.2
"""Standard deviation of the change of a heading in a step, rad."""


def make_lab(pool: Pool, *, pictures: bool = False) -> PusherBlock:
    """The lab of a pool."""
    if pool is Pool.DEVELOPMENT:
        return PusherBlock(block_half=0.12, pusher_radius=0.04, pictures=pictures)
    return PusherBlock(block_half=0.1, pusher_radius=0.05, pictures=pictures)


def pusher_dataset(pool: Pool, *, pixels: bool) -> DatasetSpec:
    """The dataset of the explorer."""
    name = f"pusher-block-{pool.value}{'-pixels' if pixels else ''}"
    return DatasetSpec(
        name=name, make_lab=lambda: make_lab(pool, pictures=pixels), asked=STATE, num_episodes=1200, num_steps=50
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginnings:
    """E scenes up to the branches.

    Args:
        seed: [E], seeds of the resets.
        prelude: velocities [E, PRELUDE, 2], m/s.
        path: per state signal [E, PRELUDE + 1, 2].
        gap: [E], gap between pusher and block at the branch point, m.
    """

    seed: Int[np.ndarray, "E"]
    prelude: Float[np.ndarray, "E T 2"]
    path: Arrays
    gap: Float[np.ndarray, "E"]

    @property
    def state(self) -> Arrays:
        """State at the branch point, per signal [E, 2]."""
        return {name: value[:, -1] for name, value in self.path.items()}

    @property
    def touching(self) -> Bool[np.ndarray, "E"]:
        """Whether pusher and block touch at the branch point."""
        return np.asarray(self.gap < CONTACT)

    @classmethod
    def joined(cls, parts: Sequence[Beginnings]) -> Beginnings:
        """The scenes of all parts."""
        fields = concatenated([{"seed": part.seed, "prelude": part.prelude, "gap": part.gap} for part in parts])
        return cls(**fields, path=concatenated([part.path for part in parts]))

    def some(self, rows: NDArray[np.integer]) -> Beginnings:
        """The scenes of these rows."""
        path = {name: value[rows] for name, value in self.path.items()}
        return Beginnings(seed=self.seed[rows], prelude=self.prelude[rows], path=path, gap=self.gap[rows])


def concatenated(parts: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    """The scenes of all parts, by name."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def beginnings(lab: PusherBlock, num: int, rng: np.random.Generator) -> Beginnings:
    """`num` scenes up to the branches; half of the preludes head for the block."""
    seeds = rng.integers(0, 2**31, num)
    shown = [lab.reset(seed=int(seed))[0] for seed in seeds]
    start = {name: np.stack([observation[name] for observation in shown]) for name in STATE}
    heading = np.where(rng.random(num) < 0.5, towards(start, rng), rng.uniform(-np.pi, np.pi, num))
    prelude = motions(heading, PRELUDE, rng)
    after = lab.simulate(start, {"velocity": prelude})
    path = {name: np.concatenate([start[name][:, None], after[name]], 1) for name in STATE}
    gap = lab.gap({name: value[:, -1] for name, value in path.items()})
    return Beginnings(seed=seeds, prelude=prelude, path=path, gap=gap)


def towards(state: Arrays, rng: np.random.Generator) -> Floats:
    """Headings [E] from the pusher roughly to the block, rad."""
    way = state["block_position"].astype(float) - state["pusher_position"]
    return np.asarray(np.arctan2(way[:, 1], way[:, 0]) + rng.normal(0, TOWARDS_SPREAD, len(way)))


def motions(heading: Floats, num_steps: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Velocities [E, T, 2] m/s of pushers that start along `heading` [E] rad, each with a random speed."""
    drift = rng.normal(0, DRIFT, (len(heading), num_steps))
    angle = heading[:, None] + np.cumsum(drift, 1)
    speed = rng.uniform(0.2, 1.0, (len(heading), 1)) * MAX_SPEED
    return np.asarray(speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1), dtype=np.float32)


def history_before(begun: Beginnings) -> History:
    """The last `HISTORY` observations of the preludes."""
    seen = {name: np.asarray(value[:, -HISTORY:]) for name, value in begun.path.items()}
    return History(observations=seen, actions={"velocity": begun.prelude[:, PRELUDE + 1 - HISTORY :]})


def branch_answers(world: World, history: History, velocity: Floats) -> dict[str, Floats]:
    """A world's predictions of B branches, per signal [E, B, T, 2].

    Each branch is one query for all scenes, so a stochastic world has the same draws in every branch.

    Args:
        world: world that is queried.
        history: [E, H, *shape].
        velocity: [E, B, T, 2], m/s.
    """
    predicted = [
        means(world, history, {"velocity": velocity[:, branch]}, signals=STATE) for branch in range(velocity.shape[1])
    ]
    return {name: np.stack([branch[name] for branch in predicted], 1) for name in STATE}


def true_branches(lab: PusherBlock, state: Arrays, velocity: Floats) -> dict[str, Floats]:
    """True paths of B branches, per signal [E, B, T, 2]; see `branch_answers`."""
    num_scenes, num_branches, num_steps, _ = velocity.shape
    start = {name: np.repeat(value, num_branches, 0) for name, value in state.items()}
    path = lab.simulate(start, {"velocity": velocity.reshape(-1, num_steps, 2)})
    return {name: v.astype(np.float32).reshape(num_scenes, num_branches, num_steps, 2) for name, v in path.items()}


def block_distance(lab: PusherBlock, first: Arrays, second: Arrays) -> Floats:
    """Distance of the blocks [..., T, 2] in two branches, root mean square over steps [...], m.

    A rotation counts as its motion at `LEVER` times half the block's side from the centre.
    """
    arm = LEVER * lab.block_half
    moved = first["block_position"].astype(float) - second["block_position"]
    turned = arm * (first["block_angle"].astype(float) - second["block_angle"])
    return np.asarray(np.sqrt(((moved**2).sum(-1) + (turned**2).sum(-1)).mean(-1)))
