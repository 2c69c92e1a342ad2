"""Logs and recipe of a disc that pushes a T-shaped block, seen from above: `python benchmarks/push_t.py`.

The logs come from gym-pusht, with policies that push without a goal. Among the model's inputs, only the image shows the
block; its position and angle are read out of the latents. The block moves only during contact, so a world must model
contacts to beat persistence.

The image is the environment's rendering of 512 by 512 pixels, averaged over areas. The environment itself subsamples
single pixels, so that edges jump at 64 pixels a side.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError
from worldline.labs.base import Policy
from worldline.models.jepa import JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.forecasting_predictors import LinearResidualPredictorConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.progress import OnProgress, tell
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.heads.base import HeadsConfig
from worldline.training.heads.distance import goal_obstacles
from worldline.training.updates import TrainingConfig

Floats = NDArray[np.floating]
Raw = Any
"""A `PushTEnv`; the package is optional."""

STATE: Final = ("agent_position", "block_position", "block_angle")
FIELD: Final = 512.0
"""Side of the square field. All lengths in this module are in the environment's pixels."""
STEP_S: Final = 0.1
NUM_STEPS: Final = 100
RADIUS: Final = 15.0
"""Radius of the agent."""
WALL: Final = 5.0
"""Distance of the edge from the inner side of a wall."""
OUTLINE: Final[Floats] = np.array([
    (-60, 0), (0, 0), (60, 0), (60, 30), (15, 30), (15, 75), (15, 120), (-15, 120), (-15, 75), (-15, 30), (-60, 30),
], float)  # fmt: skip
"""Outline of the block at position 0 and angle 0."""
CENTRE: Final = np.array([0.0, 45.0])
"""The block's centre of mass at position 0 and angle 0."""

MIN_START_DISTANCE: Final = 30.0
"""Smallest distance of the block from the edge at the start."""
MAX_WALL_DEPTH: Final = 8.0
"""An episode in which the block gets deeper into a wall is drawn again."""
MIN_TARGET_DISTANCE: Final = 18.0
"""Smallest distance of a policy's targets from the edge."""
MIN_CENTRE_DISTANCE: Final = 45.0
"""Smallest distance from the edge to which policies push the block's centre."""
CLEARANCE: Final = 20.0
"""A path at this distance from the block's outline hardly moves it: slightly more than the agent's radius."""
MAX_REACH: Final = 70.0
"""Largest distance of a target from the agent, which covers 0.4 of it in a step."""
MAX_APPROACH_STEPS: Final = 12
"""Steps after which a policy abandons a place."""


def push_t_schema(side: int) -> Schema:
    """The signals; the image has `side` pixels a side."""

    def place(name: str, role: Role, entity: str) -> Signal:
        return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(2,), unit="px", entity=entity)

    angle = replace(place("block_angle", Role.OBSERVATION, "block"), shape=(1,), unit="rad")
    return Schema(
        signals=(
            Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(side, side, 3)),
            place("agent_position", Role.OBSERVATION, "agent"),
            place("block_position", Role.OBSERVATION, "block"),
            replace(angle, low=(0.0,), period=2 * math.pi),
            replace(place("target", Role.ACTION, "agent"), low=(0.0, 0.0), high=(FIELD, FIELD)),
        ),
        step_s=STEP_S,
    )


def push_t(store: Store) -> Recipe:
    """Takes image and agent position, and reads out block position and angle.

    The block is an auxiliary target in training: without it the latents hold its position, but hardly its angle
    (benchmarks/log/push-t.md).

    Args:
        store: from `record_push_t`.
    """
    return Recipe(
        name="push-t",
        model="jepa",
        model_config=JepaConfig(
            inputs=("camera", "agent_position"),
            latent_size=192,
            signal_weight=1.0,
            predictor=LinearResidualPredictorConfig(width=512, history=2),
            regularizer=SigregConfig(weight=1.0),
            auxiliary=AuxiliaryConfig(targets=("block_position", "block_angle")),
        ),
        training=TrainingConfig(num_updates=3000, window=9),
        heads=HeadsConfig(
            goals=not goal_obstacles(store.schema),
            dynamics_updates=6000,
            readout_updates=3000,
            decoder_updates=2000,
            unroll=8,
            width=384,
        ),
        horizon=25,
        num_windows=4,
        planner=CrossEntropy(num_candidates=64, num_iterations=3),
    )


def record_push_t(
    destination: Path | str,
    *,
    num_episodes: int,
    seed: int,
    side: int = 64,
    progress: OnProgress | None = None,
) -> Store:
    """A new store with episodes of ten seconds in steps of 0.1 s.

    Each episode uses one of two policies. "pushing" moves next to the block and pushes at a random point in a direction
    with enough space. "roaming" moves to random places half of the time. Both add slowly changing noise to their
    targets and draw a speed for each stage. Agent and block start at random places and angles. No policy tries to solve
    the task, and an episode continues if it is solved by chance.

    The agent can squeeze the block through a wall; such an episode is drawn again. The sources hold `seed`, `number`
    and `policy`. There is no reset seed, because a reset alone does not reproduce an episode.

    Args:
        destination: a new folder.
        num_episodes: at least 1.
        seed: determines all draws. An episode depends on the seed and its number only.
        side: pixels per side of the square image.
        progress: called after each recorded episode.

    Raises:
        MissingExtraError: gym-pusht is not installed.
        InputError: `num_episodes` or `side` is not positive, or the destination exists.
    """
    if num_episodes < 1 or side < 1:
        raise InputError(f"num_episodes is {num_episodes} and side {side}. Both must be at least 1.")
    env = make_push_t()
    store = Store.create(destination, push_t_schema(side))
    for number in range(num_episodes):
        generator = np.random.default_rng([seed, number])
        name, pushes = _draw(generator)
        episode = None
        while episode is None:
            episode = _run(env, _Policy(pushes, generator), side, generator)
        store.append(episode, {"seed": seed, "number": number, "policy": name})
        tell(progress, "record", number + 1, num_episodes)
    return store


def make_push_t() -> Raw:
    """The environment for all versions of pymunk, with `camera(side)`, and with states that are set exactly.

    Raises:
        MissingExtraError: gym-pusht is not installed.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints a greeting on standard output
    try:
        from gym_pusht.envs.pusht import PushTEnv  # first: it silences a warning of pygame's import
        from pygame import surfarray, transform
    except ImportError as error:
        raise MissingExtraError("gym_pusht", "envs") from error

    class _PushT(PushTEnv):  # type: ignore[misc]  # the package has no types
        def _setup(self) -> None:
            try:
                super()._setup()
            except AttributeError as error:
                if error.name != "add_collision_handler":
                    raise
                # The last call in _setup of gym-pusht 0.1.6 counts contacts by a method that pymunk 7 lacks.
                self.space.on_collision(0, 0, post_solve=self._handle_collision)
                self.n_contact_points = 0

        def _set_state(self, state: Floats) -> None:
            self.agent.position = tuple(map(float, state[:2]))
            # The block turns about its centre of mass, so the angle changes its position and must be set first.
            self.block.angle = float(state[4])
            self.block.position = tuple(map(float, state[2:4]))
            self.space.step(self.dt)

        def camera(self, side: int) -> NDArray[np.uint8]:
            small = transform.smoothscale(self._draw(), (side, side))
            return np.asarray(surfarray.array3d(small).swapaxes(0, 1))

        def gap(self) -> float:
            agent = self.agent.position
            return float(min(shape.point_query(agent).distance for shape in self.block.shapes)) - RADIUS

    return _PushT()


@final
class PushT(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """The environment with named signals, without a goal, and with a start that only the reset seed determines.

    An episode is truncated when the block goes through a wall.

    Args:
        side: pixels per side of the square image.

    Raises:
        MissingExtraError: gym-pusht is not installed.
    """

    def __init__(self, side: int = 64) -> None:
        self._env, self._side = make_push_t(), side
        box = gymnasium.spaces.Box
        places = {name: box(-np.inf, np.inf, (2,), np.float32) for name in STATE[:2]}
        angle = box(0, np.inf, (1,), np.float32)
        camera = box(0, 255, (side, side, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"camera": camera, **places, STATE[2]: angle})
        self.action_space = gymnasium.spaces.Dict({"target": box(0, FIELD, (2,), np.float32)})

    @property
    def schema(self) -> Schema:
        """The signals."""
        return push_t_schema(self._side)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts with agent and block at random places and angles, without contact."""
        super().reset(seed=seed)
        del options
        return self._observe(_start(self._env, self.np_random)), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Simulates 0.1 s. There is no reward."""
        state = self._env.step(np.asarray(action["target"], float))[0]
        return self._observe(state), 0.0, False, _from_edge(state) < WALL - MAX_WALL_DEPTH, {}

    def close(self) -> None:
        """Closes the environment and its renderer."""
        self._env.close()

    def _observe(self, state: Floats) -> dict[str, Any]:
        return _signals(state, self._env.camera(self._side))


@final
class Pusher(Policy):
    """One of the two policies of `record_push_t`, drawn anew for each episode."""

    def __init__(self) -> None:
        self._policy: _Policy | None = None

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the policy."""
        self._policy = _Policy(_draw(generator)[1], generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The next target. It draws from the generator of the last `reset`."""
        del generator
        assert self._policy is not None, "call reset first"
        state = np.concatenate([observation[name] for name in STATE]).astype(float)
        return {"target": np.clip(self._policy(state), 0, FIELD).astype(np.float32)}


def _run(env: Raw, policy: _Policy, side: int, generator: np.random.Generator) -> Episode | None:
    """An episode from a random state; None if the block went through a wall."""
    states = [_start(env, generator)]
    images, targets = [env.camera(side)], []
    for _ in range(NUM_STEPS):
        targets.append(np.clip(policy(states[-1]), 0, FIELD))
        states.append(env.step(targets[-1])[0])
        if _from_edge(states[-1]) < WALL - MAX_WALL_DEPTH:
            return None
        images.append(env.camera(side))
    return Episode(
        observations=_signals(np.array(states), np.array(images)),
        actions={"target": np.array(targets, np.float32)},
        truncated=True,
    )


def _signals(state: Floats, camera: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """The observation of a state [..., 5] and its image."""
    parts = np.split(state.astype(np.float32), (2, 4), axis=-1)
    return {"camera": camera, **dict(zip(STATE, parts, strict=True))}


def _draw(generator: np.random.Generator) -> tuple[str, float]:
    """A policy's name, and the share of its plans that are pushes."""
    name = "pushing" if generator.random() < 0.85 else "roaming"
    return name, _PUSH_SHARES[name]


def _start(env: Raw, generator: np.random.Generator) -> Floats:
    """A random state [5] without contact: agent position, block position and block angle."""
    while True:
        state = np.append(generator.uniform(RADIUS, FIELD - RADIUS, 4), generator.uniform(0, 2 * math.pi))
        if _from_edge(state) > MIN_START_DISTANCE:
            observed = np.asarray(env.reset(seed=0, options={"reset_to_state": state})[0])
            if env.gap() > 2:
                return observed


@dataclass(frozen=True, kw_only=True)
class _PushStage:
    """Moves towards a place, which may move with the block, until `is_over` or `num_steps` have passed."""

    place: Callable[[Floats], Floats]
    is_over: Callable[[Floats], bool]
    reach: float
    num_steps: int


class _Policy:
    """Maps a state [5] to a target [2]. Follows a sequence of plans."""

    def __init__(self, pushes: float, generator: np.random.Generator) -> None:
        self._pushes, self._generator = pushes, generator
        self._noise, self._spread = np.zeros(2), generator.uniform(0, 25)
        self._stages, self._left = list[_PushStage](), 0

    def __call__(self, state: Floats) -> Floats:
        if self._stages and (self._left == 0 or self._stages[0].is_over(state)):
            self._begin(self._stages[1:])
        if not self._stages:
            push = _push(state, self._generator) if self._generator.random() < self._pushes else None
            self._begin(push or [_roam(state, self._generator)])
        self._left -= 1
        self._noise = 0.8 * self._noise + 0.6 * self._spread * self._generator.normal(size=2)
        stage = self._stages[0]
        offset = stage.place(state) + self._noise - state[:2]
        return np.asarray(state[:2] + offset * min(1.0, stage.reach / max(float(np.linalg.norm(offset)), 1e-9)))

    def _begin(self, stages: list[_PushStage]) -> None:
        self._stages, self._left = stages, stages[0].num_steps if stages else 0


_PUSH_SHARES: Final = {"pushing": 0.95, "roaming": 0.5}
"""Per policy the share of its plans that are pushes."""


def _push(state: Floats, generator: np.random.Generator) -> list[_PushStage] | None:
    """A push at a random point of the block, possibly after an approach; None if no free path was found."""
    for _ in range(20):
        low, high = ((-60, 0), (60, 30)) if generator.random() < 0.5 else ((-15, 30), (15, 120))
        point, back = generator.uniform(low, high), generator.uniform(45, 80)
        contact = _on_block(state, point)
        at_once = generator.random() < 0.5
        ahead = _unit(contact - state[:2] if at_once else generator.normal(size=2))
        start = contact - back * ahead
        inside = bool((np.abs(start - FIELD / 2) < FIELD / 2 - MIN_TARGET_DISTANCE).all())
        reachable = at_once or (inside and _is_clear(state, start))
        if reachable and _space_ahead(state, ahead) > CLEARANCE:
            push = _pushing(point, ahead, generator)
            return [push] if at_once else [_beside(point, back * ahead, generator), push]
    return None


def _beside(point: Floats, away: Floats, generator: np.random.Generator) -> _PushStage:
    return _heading(lambda state: _on_block(state, point) - away, 50.0, generator)


def _pushing(point: Floats, ahead: Floats, generator: np.random.Generator) -> _PushStage:
    reach = _reach(30.0, generator)
    return _PushStage(
        place=lambda state: _on_block(state, point) + 100 * ahead,
        is_over=lambda state: _space_ahead(state, ahead) < reach,
        reach=reach,
        num_steps=int(np.clip(generator.uniform(50, 250) / (0.4 * reach), 3, 25)),
    )


def _roam(state: Floats, generator: np.random.Generator) -> _PushStage:
    """A random place without a push of the block towards a wall; the present place if none was found."""
    places = generator.uniform(MIN_TARGET_DISTANCE, FIELD - MIN_TARGET_DISTANCE, (20, 2))
    place = next((place for place in places if _is_clear(state, place)), state[:2])
    return _heading(lambda _: place, 30.0, generator)


def _heading(place: Callable[[Floats], Floats], slowest: float, generator: np.random.Generator) -> _PushStage:
    def is_there(state: Floats) -> bool:
        return float(np.linalg.norm(place(state) - state[:2])) < 2 * RADIUS

    return _PushStage(place=place, is_over=is_there, reach=_reach(slowest, generator), num_steps=MAX_APPROACH_STEPS)


def _reach(slowest: float, generator: np.random.Generator) -> float:
    return float(np.exp(generator.uniform(np.log(slowest), np.log(MAX_REACH))))


def _is_clear(state: Floats, place: Floats) -> bool:
    """Whether the straight path to `place` misses the block, or pushes it to where there is space."""
    offset, outline = place - state[:2], _on_block(state, OUTLINE) - state[:2]
    share = np.clip(outline @ offset / max(float(offset @ offset), 1e-9), 0, 1)
    passed = np.linalg.norm(outline - share[:, None] * offset, axis=1).min() > CLEARANCE
    return bool(passed) or _space_ahead(state, _unit(offset)) > 2 * MIN_CENTRE_DISTANCE


def _space_ahead(state: Floats, ahead: Floats) -> float:
    """How far the block's centre may move in the direction `ahead`."""
    limit = np.where(ahead > 0, FIELD - MIN_CENTRE_DISTANCE, MIN_CENTRE_DISTANCE) - _on_block(state, CENTRE)
    return float((limit / np.where(np.abs(ahead) < 1e-9, 1e-9, ahead)).min())


def _on_block(state: Floats, points: Floats) -> Floats:
    """The positions of `points` [..., 2] that are given for the block at position 0 and angle 0."""
    cosine, sine = math.cos(state[4]), math.sin(state[4])
    return np.asarray(state[2:4] + points @ np.array([[cosine, sine], [-sine, cosine]]))


def _from_edge(state: Floats) -> float:
    """Distance of the block's outermost corner from the edge of the field."""
    return float((FIELD / 2 - np.abs(_on_block(state, OUTLINE) - FIELD / 2)).min())


def _unit(offset: Floats) -> Floats:
    return np.asarray(offset / max(float(np.linalg.norm(offset)), 1e-9))
