"""Scenes of a pusher and a block, and the lab as a world: what the tests C1 and C5 share.

A scene begins as its reset seed says. Then comes a prelude, of which the last `HISTORY` observations are shown, and
the branches. Preludes and branches are motions of a drifting heading, as the explorer's are. All of it can be run again
in the lab, from the seed; it is computed for all scenes at once, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from worldline.audit import means
from worldline.engines import Card, Engine, EngineBelief, Noise, Samples
from worldline.episode import Arrays, Future, History
from worldline.errors import InputError
from worldline.world import World
from worldline_exam.base import DatasetSpec, Pool
from worldline_exam.labs.pusher_block import LEVER, MAX_SPEED, STATE, PusherBlock

Floats = NDArray[np.floating]

HISTORY: Final = 10
"""Observations that a world is shown, 1 s."""
PRELUDE: Final = 20
"""Steps before the branches."""
CONTACT: Final = 2e-3
"""Gap below which pusher and block are said to touch, m."""
TOWARDS_SPREAD: Final = 0.5
"""Deviation of a heading towards the block, rad."""
DRIFT: Final = 0.2
"""Deviation by which a heading changes in a step, rad."""


def make_lab(pool: Pool, *, pictures: bool = False) -> PusherBlock:
    """The lab of a pool."""
    if pool is Pool.DEVELOPMENT:
        return PusherBlock(block_half=0.12, pusher_radius=0.04, pictures=pictures)
    return PusherBlock(block_half=0.1, pusher_radius=0.05, pictures=pictures)


def pushing_curriculum(pool: Pool, *, pixels: bool) -> DatasetSpec:
    """Logs of the explorer."""
    name = f"pusher-block-{pool.value}{'-pixels' if pixels else ''}"
    return DatasetSpec(
        name=name, make_lab=lambda: make_lab(pool, pictures=pixels), asked=STATE, num_episodes=1200, num_steps=50
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginnings:
    """E scenes up to the branches.

    Args:
        seed: [E], of the resets.
        prelude: velocities [E, PRELUDE, 2], m/s.
        path: per signal of the state [E, PRELUDE + 1, 2].
        gap: [E], between pusher and block at the branches, m.
    """

    seed: Int[np.ndarray, "E"]
    prelude: Float[np.ndarray, "E T 2"]
    path: Arrays
    gap: Float[np.ndarray, "E"]

    @property
    def state(self) -> Arrays:
        """Per signal [E, 2], at the branches."""
        return {name: value[:, -1] for name, value in self.path.items()}

    @property
    def touching(self) -> Bool[np.ndarray, "E"]:
        """Whether they touch at the branches."""
        return np.asarray(self.gap < CONTACT)

    def some(self, rows: NDArray[np.integer]) -> Beginnings:
        """Those scenes."""
        path = {name: value[rows] for name, value in self.path.items()}
        return Beginnings(seed=self.seed[rows], prelude=self.prelude[rows], path=path, gap=self.gap[rows])


def beginnings(lab: PusherBlock, num: int, rng: np.random.Generator) -> Beginnings:
    """`num` scenes up to the branches; half of the preludes head for the block."""
    seeds = rng.integers(0, 2**31, num)
    shown = [lab.reset(seed=int(seed))[0] for seed in seeds]
    start = {name: np.stack([one[name] for one in shown]) for name in STATE}
    heading = np.where(rng.random(num) < 0.5, towards(start, rng), rng.uniform(-np.pi, np.pi, num))
    prelude = motions(heading, PRELUDE, rng)
    after = lab.simulate(start, {"velocity": prelude})
    path = {name: np.concatenate([start[name][:, None], after[name]], 1) for name in STATE}
    gap = lab.gap({name: value[:, -1] for name, value in path.items()})
    return Beginnings(seed=seeds, prelude=prelude, path=path, gap=gap)


def towards(state: Arrays, rng: np.random.Generator) -> Floats:
    """Headings [E] rad from the pusher about to the block."""
    way = state["block_position"].astype(float) - state["pusher_position"]
    return np.asarray(np.arctan2(way[:, 1], way[:, 0]) + rng.normal(0, TOWARDS_SPREAD, len(way)))


def motions(heading: Floats, num_steps: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Velocities [E, T, 2] m/s of pushers that set out along `heading` [E] rad, each at a speed of its own."""
    drift = rng.normal(0, DRIFT, (len(heading), num_steps))
    angle = heading[:, None] + np.cumsum(drift, 1)
    speed = rng.uniform(0.2, 1.0, (len(heading), 1)) * MAX_SPEED
    return np.asarray(speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1), dtype=np.float32)


def history_before(begun: Beginnings) -> History:
    """The last `HISTORY` observations of the preludes."""
    seen = {name: np.asarray(value[:, -HISTORY:]) for name, value in begun.path.items()}
    return History(observations=seen, actions={"velocity": begun.prelude[:, PRELUDE + 1 - HISTORY :]})


def branch_answers(world: World, history: History, velocity: Floats) -> dict[str, Floats]:
    """What a world says of B branches, per signal [E, B, T, 2].

    Each branch is one question about all scenes, so that a world that draws has the same draws in every branch.

    Args:
        world: to ask.
        history: [E, H, *shape].
        velocity: [E, B, T, 2], m/s.
    """
    said = [
        means(world, history, {"velocity": velocity[:, branch]}, signals=STATE) for branch in range(velocity.shape[1])
    ]
    return {name: np.stack([one[name] for one in said], 1) for name in STATE}


def true_branches(lab: PusherBlock, state: Arrays, velocity: Floats) -> dict[str, Floats]:
    """What becomes of B branches, per signal [E, B, T, 2]; see `branch_answers`."""
    num_scenes, num_branches, num_steps, _ = velocity.shape
    start = {name: np.repeat(value, num_branches, 0) for name, value in state.items()}
    path = lab.simulate(start, {"velocity": velocity.reshape(-1, num_steps, 2)})
    return {name: v.astype(np.float32).reshape(num_scenes, num_branches, num_steps, 2) for name, v in path.items()}


def block_distance(lab: PusherBlock, first: Arrays, second: Arrays) -> Floats:
    """How far apart the blocks [..., T, 2] of two branches are, root mean square over the steps [...], m.

    A turn counts as what it moves at the distance `LEVER` times half the block's side.
    """
    arm = LEVER * lab.block_half
    moved = first["block_position"].astype(float) - second["block_position"]
    turned = arm * (first["block_angle"].astype(float) - second["block_angle"])
    return np.asarray(np.sqrt(((moved**2).sum(-1) + (turned**2).sum(-1)).mean(-1)))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Pushing(Engine):
    """The lab as an engine: goes on from the last observation.

    Args:
        lab: its law.
        still: signals that are said to stay as they are, whatever happens to them.
    """

    lab: PusherBlock
    still: Sequence[str] = ()

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="pushing",
            engine="pushing",
            schema=self.lab.schema,
            inputs=STATE,
            predicts=STATE,
            context=1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> dict[str, NDArray[np.generic]]:
        """The last state; see `Engine`.

        Raises:
            InputError: it is not shown.
        """
        del belief, seed
        if any(not steps.observed[name][:, -1].all() for name in STATE if name in steps.observed):
            raise InputError("the last state is missing. Show it, since nothing else tells where things are.")
        return {name: steps.observations[name][:, -1] for name in STATE}

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """What the lab does; see `Engine`."""
        del num_samples, noise, seed
        assert isinstance(belief, Mapping)  # what `observe` gave
        path = true_branches(self.lab, belief, future.actions["velocity"].astype(np.float32))
        held = {n: np.broadcast_to(belief[n][:, None, None], path[n].shape) for n in self.still}
        return Samples(signals={name: value[:, :, None] for name, value in {**path, **held}.items()})
