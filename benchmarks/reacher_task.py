"""Logs and recipe of the two-jointed arm of dm_control, for benchmarks/goals.py.

Record logs with `record(env, LOGS, policy=Flail(), schema=env.schema, ...)` and `env = Reacher()`: torques that follow
correlated noise, or that pull the arm towards random poses. The arm has momentum and can turn without limit.

benchmarks/goals.py measures reached poses for one training on 300 episodes of 300 steps. Of 200 held-out poses, it
reached 200 at a distance of 25 steps, and 181 at 100 steps.

Source: the DeepMind Control Suite (1801.00690), `reacher`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final, final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.errors import MissingExtraError
from worldline.labs.base import Policy
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]

STEP_S: Final = 0.02
WRIST: Final = math.radians(160)
"""Largest angle of the wrist to each side, rad."""
NEAR: Final = 0.05
"""A pose is reached if each joint is within this angle, rad: the rule of stable-worldmodel's evaluation."""
PULL, BRAKE = 2.0, 0.3
"""Gains of the pulling torque: per rad of error, and against each rad/s of velocity."""


@final
class Reacher(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """The environment without its target, and with a start that only the reset seed determines.

    Observations: `angles` [rad] of shoulder and wrist, `velocity` [rad/s] of both. Action: `torque`, as a share of the
    motors' limit.

    Raises:
        MissingExtraError: dm_control is not installed.
    """

    def __init__(self) -> None:
        try:
            from dm_control import suite
        except ImportError as error:
            raise MissingExtraError("dm_control", "envs") from error
        self.arm = suite.load("reacher", "easy", task_kwargs={"random": 0, "time_limit": math.inf})
        box = gymnasium.spaces.Box
        angles = box(-math.pi, math.pi, (2,), np.float32)
        velocity = box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"angles": angles, "velocity": velocity})
        self.action_space = gymnasium.spaces.Dict({"torque": box(-1, 1, (2,), np.float32)})

    @property
    def schema(self) -> Schema:
        """The three signals."""
        angles = Signal(
            name="angles",
            role=Role.OBSERVATION,
            kind=Kind.VECTOR,
            shape=(2,),
            unit="rad",
            low=(-math.pi,) * 2,
            period=2 * math.pi,
            components=("shoulder", "wrist"),
            entity="arm",
        )
        velocity = replace(angles, name="velocity", unit="rad/s", low=None, period=None)
        torque = replace(velocity, name="torque", role=Role.ACTION, unit="1", low=(-1.0,) * 2, high=(1.0,) * 2)
        return Schema(signals=(angles, velocity, torque), step_s=STEP_S)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts at rest in a random pose."""
        super().reset(seed=seed)
        del options
        self.arm.reset()
        with self.arm.physics.reset_context():
            self.arm.physics.data.qpos[:] = pose(self.np_random)
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Simulates 0.02 s. There is no reward and no termination."""
        self.arm.step(np.asarray(action["torque"], float))
        return self._observe(), 0.0, False, False, {}

    def _observe(self) -> dict[str, Any]:
        data = self.arm.physics.data
        return {"angles": turned(data.qpos).astype(np.float32), "velocity": np.array(data.qvel, np.float32)}


def pose(generator: np.random.Generator) -> Floats:
    """Angles [2] of a random pose, rad."""
    return np.asarray(generator.uniform((-math.pi, -WRIST), (math.pi, WRIST)))


def turned(angles: Floats) -> Floats:
    """The angles, wrapped to [-pi, pi)."""
    return np.asarray((np.asarray(angles) + math.pi) % (2 * math.pi) - math.pi)


@final
class Flail(Policy):
    """In half of the episodes torques follow correlated noise; in the others they pull towards random poses."""

    def __init__(self) -> None:
        self._pulled, self._left = False, 0
        self._pose: Floats = np.zeros(2)
        self._noise: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the kind of episode."""
        self._pulled, self._left, self._noise = bool(generator.random() < 0.5), 0, generator.normal(size=2)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The next torque."""
        self._noise = 0.9 * self._noise + math.sqrt(1 - 0.9**2) * generator.normal(size=2)
        if not self._pulled:
            return {"torque": np.clip(0.7 * self._noise, -1, 1).astype(np.float32)}
        if self._left == 0:
            self._pose, self._left = pose(generator), int(generator.integers(20, 60))
        self._left -= 1
        torque = pull(observation["angles"], observation["velocity"], self._pose) + 0.3 * self._noise
        return {"torque": np.clip(torque, -1, 1).astype(np.float32)}


def pull(angles: Floats, velocity: Floats, wanted: Floats) -> Floats:
    """The torque [..., 2] of a spring and a damper towards a pose; the shoulder turns the shorter way."""
    error = np.asarray(wanted, float) - angles
    error[..., :1] = turned(error[..., :1])
    return np.asarray(np.clip(PULL * error - BRAKE * np.asarray(velocity, float), -1, 1))


def reacher(store: Store) -> Recipe:
    """The recipe for vectors with goal heads, for logs of `Flail`."""
    recipe = vectors(store)
    return replace(recipe, name="reacher", heads=replace(recipe.heads, goals=True))
