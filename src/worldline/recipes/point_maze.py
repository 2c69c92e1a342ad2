"""A maze of OGBench, in which a point goes: `worldline learn LOGS --recipe worldline.recipes.point_maze:point_maze`.

The logs come from noisy walks between random places that know the map:
`record(env, LOGS, policy=Walker(env), schema=env.schema, ...)` with `env = PointMaze()`. What is learned does not: the
walls are nowhere in the signals, and have to be found in where moves led.

Measured by benchmarks/goals.py in the giant maze, one training on 300 walks of 400 steps, 200 held-out goals: 196 are
reached that lie 100 steps away, and 199 at 150.

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
"""Along each axis in one step, m."""
NEAR: Final = 1.0
"""A goal is reached at this distance, m: the environment's own rule."""
CLEAR: Final = 1.2
"""Around the middle of its cell, m: where an episode starts, and where walks head for."""
NOISE: Final = 0.5
"""Of the walks, deviation, as a share of the longest move."""


@final
class PointMaze(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """The environment without goals of its own, and with a start that its seed alone decides.

    Observation: `position` [m]. Action: `move` [m].

    Args:
        maze: which map. OGBench's "teleport" is none of them: its exits are not drawn from the seed.

    Raises:
        InputError: there is no such map.
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
        with _nothing_left():
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
        """Somewhere near the middle of any free cell."""
        super().reset(seed=seed)
        del options
        # Not by its own reset, which draws tasks and noise from NumPy's global generator.
        self._at_rest(self.maze.model, self.maze.data)
        self.maze.set_state(self.place(self.np_random), np.zeros(2))
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One move; no reward, no end."""
        self.maze.step(np.asarray(action["move"], float) / MAX_MOVE)
        return self._observe(), 0.0, False, False, {}

    def place(self, generator: np.random.Generator) -> Floats:
        """A position [2] in a free cell, m."""
        middle = self.maze.ij_to_xy(self.free[generator.integers(len(self.free))])
        return np.asarray(middle + generator.uniform(-CLEAR, CLEAR, 2))

    def towards(self, position: Floats, goal: Floats) -> Floats:
        """The next point [2] on the way to `goal`: the middle of a cell, or the goal itself in the same or next one."""
        cell = self.maze.xy_to_ij(position)
        subgoal, steps = self.maze.get_oracle_subgoal(position, goal)
        return goal if steps[cell] <= 1 else np.asarray(subgoal, float)

    def close(self) -> None:
        """Closes what it draws with."""
        self.maze.close()

    def _observe(self) -> dict[str, Any]:
        return {"position": np.asarray(self.maze.get_xy(), np.float32)}


_ONE_AT_A_TIME: Final = Lock()


@contextmanager
def _nothing_left() -> Iterator[None]:
    """OGBench writes each maze to a temporary file, and leaves it behind open."""
    make, made = tempfile.mkstemp, list[tuple[int, str]]()

    def noted(*args: Any, **settings: Any) -> tuple[int, str]:
        found = make(*args, **settings)
        if settings.get("suffix") == ".xml":
            made.append(found)
        return found

    with _ONE_AT_A_TIME:
        try:
            with patch.object(tempfile, "mkstemp", noted):
                yield
        finally:
            for descriptor, path in made:
                os.close(descriptor)
                Path(path).unlink()


@final
class Walker(Policy):
    """Goes from place to place through the maze, with noise on every move.

    Args:
        env: knows the map.
    """

    def __init__(self, env: PointMaze) -> None:
        self._env = env
        self._goal: Floats = np.zeros(2)

    def reset(self, generator: np.random.Generator) -> None:
        """Draws the first place."""
        self._goal = self._env.place(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """At full speed towards the place, and a new one once it is reached."""
        position = observation["position"].astype(float)
        if np.linalg.norm(position - self._goal) < NEAR / 2:
            self._goal = self._env.place(generator)
        way = self._env.towards(position, self._goal) - position
        move = way / max(float(np.linalg.norm(way)), 1e-9) + NOISE * generator.normal(size=2)
        return {"move": (MAX_MOVE * np.clip(move, -1, 1)).astype(np.float32)}


def point_maze(store: Store) -> Recipe:
    """That for vectors, with a map for goals that are far.

    Args:
        store: of walks.
    """
    recipe = vectors(store)
    heads = replace(
        recipe.heads, dynamics_updates=3000, distance_updates=8000, width=384, num_landmarks=256, reach=40.0
    )
    return replace(recipe, name="point-maze", heads=heads)
