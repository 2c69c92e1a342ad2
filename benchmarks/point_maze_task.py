"""Logs and recipe of the point mazes of OGBench, for benchmarks/goals.py.

Record logs with `record(env, LOGS, policy=Walker(env), schema=env.schema, ...)` and `env = PointMaze()`: noisy walks
between random places. The policy knows the map, the model does not: no signal holds the walls, so it must infer them
from the effects of moves.

benchmarks/goals.py measures reached goals in the giant maze for one training on 300 walks of 400 steps. Of 200 held-out
goals, it reached 196 at a distance of 100 steps, and 199 at 150 steps.

Source: OGBench (2410.20092), `pointmaze-medium-v0` and its larger siblings.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, final, get_args
from unittest.mock import patch

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.errors import InputError, MissingExtraError
from worldline.labs.base import Policy
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal

Floats = NDArray[np.floating]
Maze = Literal["medium", "large", "giant"]

MAX_MOVE: Final = 0.2
"""Largest move along each axis in one step, m."""
NEAR: Final = 1.0
"""A goal is reached within this distance, m: the rule of the environment."""
MAX_OFFSET: Final = 1.2
"""Largest offset of starts and goals from the centre of their cell, along each axis, m."""
NOISE: Final = 0.5
"""Standard deviation of the noise of the walks, as a share of `MAX_MOVE`."""


@final
class PointMaze(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """The environment without goals, and with a start that only the reset seed determines.

    Observation: `position` [m]. Action: `move` [m].

    Args:
        maze: the map. OGBench's "teleport" is not supported, because its exits are not drawn from the seed.

    Raises:
        InputError: the map is unknown.
        MissingExtraError: OGBench is not installed.
    """

    def __init__(self, maze: Maze = "medium") -> None:
        if maze not in get_args(Maze):
            raise InputError(f"maze is {maze!r}. Use one of {', '.join(get_args(Maze))}.")
        try:
            from mujoco import mj_resetData
            from ogbench.locomaze.maze import make_maze_env
        except ImportError as error:
            raise MissingExtraError("ogbench", "envs") from error
        with _temporary_files_removed():
            self.maze = make_maze_env("point", "maze", maze_type=maze, terminate_at_goal=False)
        self._at_rest = mj_resetData
        self.free = np.argwhere(self.maze.maze_map == 0)
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict({"position": box(-np.inf, np.inf, (2,), np.float32)})
        self.action_space = gymnasium.spaces.Dict({"move": box(-MAX_MOVE, MAX_MOVE, (2,), np.float32)})

    @property
    def schema(self) -> Schema:
        """The two signals."""
        place = Signal(
            name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", components=("x", "y")
        )
        move = replace(place, name="move", role=Role.ACTION, low=(-MAX_MOVE,) * 2, high=(MAX_MOVE,) * 2)
        return Schema(signals=(place, move))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts near the centre of a random free cell."""
        super().reset(seed=seed)
        del options
        # Avoids the environment's reset, which draws tasks and noise from NumPy's global generator.
        self._at_rest(self.maze.model, self.maze.data)
        self.maze.set_state(self.place(self.np_random), np.zeros(2))
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves once. There is no reward and no termination."""
        self.maze.step(np.asarray(action["move"], float) / MAX_MOVE)
        return self._observe(), 0.0, False, False, {}

    def place(self, generator: np.random.Generator) -> Floats:
        """A random position [2] in a free cell, m."""
        middle = self.maze.ij_to_xy(self.free[generator.integers(len(self.free))])
        return np.asarray(middle + generator.uniform(-MAX_OFFSET, MAX_OFFSET, 2))

    def towards(self, position: Floats, goal: Floats) -> Floats:
        """The next point [2] on the way to `goal`: the centre of a cell, or the goal if it is at most one cell away."""
        cell = self.maze.xy_to_ij(position)
        subgoal, steps = self.maze.get_oracle_subgoal(position, goal)
        return goal if steps[cell] <= 1 else np.asarray(subgoal, float)

    def close(self) -> None:
        """Closes the environment and its renderer."""
        self.maze.close()

    def _observe(self) -> dict[str, Any]:
        return {"position": np.asarray(self.maze.get_xy(), np.float32)}


_ONE_AT_A_TIME: Final = Lock()


@contextmanager
def _temporary_files_removed() -> Iterator[None]:
    """Closes and deletes the temporary file that OGBench creates for each maze and leaves open."""
    original, files = tempfile.mkstemp, list[tuple[int, str]]()

    def noted(*args: Any, **settings: Any) -> tuple[int, str]:
        created = original(*args, **settings)
        if settings.get("suffix") == ".xml":
            files.append(created)
        return created

    with _ONE_AT_A_TIME:
        try:
            with patch.object(tempfile, "mkstemp", noted):
                yield
        finally:
            for descriptor, path in files:
                os.close(descriptor)
                Path(path).unlink()


@final
class Walker(Policy):
    """Walks between random places in the maze, with noise on every move.

    Args:
        env: provides the map.
    """

    def __init__(self, env: PointMaze) -> None:
        self._env = env
        self._goal: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first goal."""
        self._goal = self._env.place(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """Moves at full speed towards the goal, and draws a new goal when it is reached."""
        position = observation["position"].astype(float)
        if np.linalg.norm(position - self._goal) < NEAR / 2:
            self._goal = self._env.place(generator)
        offset = self._env.towards(position, self._goal) - position
        move = offset / max(float(np.linalg.norm(offset)), 1e-9) + NOISE * generator.normal(size=2)
        return {"move": (MAX_MOVE * np.clip(move, -1, 1)).astype(np.float32)}


def point_maze(store: Store) -> Recipe:
    """The recipe for vectors with goal heads and landmarks for distant goals, for logs of `Walker`."""
    recipe = vectors(store)
    heads = replace(
        recipe.heads,
        goals=True,
        dynamics_updates=3000,
        distance_updates=8000,
        width=384,
        num_landmarks=256,
        reach=40.0,
    )
    return replace(recipe, name="point-maze", heads=heads)
