from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from point_maze_task import MAX_MOVE, NEAR, PointMaze, Walker, point_maze

from worldline.data.store import Store
from worldline.errors import MissingExtraError
from worldline.testing.clauses import unchanged
from worldline.workflows.record import record

pytest.importorskip("ogbench")


@pytest.fixture
def env() -> Iterator[PointMaze]:
    made = PointMaze()
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    env, path = PointMaze(), tmp_path_factory.mktemp("maze") / "store"
    return record(env, path, policy=Walker(env), num_episodes=6, max_steps=150, seed=0, schema=env.schema)


def moved(env: PointMaze, *moves: tuple[float, float]) -> np.ndarray:
    """Where the point is after each move."""
    return np.stack([env.step({"move": np.array(move, np.float32)})[0]["position"] for move in moves])


def test_a_seed_brings_an_episode_back(env: PointMaze) -> None:
    start = env.reset(seed=3)[0]["position"]
    there = moved(env, (0.2, 0.1), (-0.1, 0.2), (0.2, 0.2))
    again = PointMaze()
    np.testing.assert_array_equal(again.reset(seed=3)[0]["position"], start)
    np.testing.assert_allclose(moved(again, (0.2, 0.1), (-0.1, 0.2), (0.2, 0.2)), there, atol=1e-6)
    assert not np.allclose(env.reset(seed=4)[0]["position"], start)


def test_a_move_leads_as_far_as_it_says_until_a_wall_stops_it(env: PointMaze) -> None:
    env.reset(seed=0)
    env.maze.set_state(np.array(env.maze.ij_to_xy((1, 1)), float), np.zeros(2))
    np.testing.assert_allclose(moved(env, (0.2, 0.0), (0.0, -0.1))[-1], [0.2, -0.1], atol=1e-3)
    far = moved(env, *[(-MAX_MOVE, 0.0)] * 30)
    assert far[-1][0] > -2.0  # the wall begins there, and the point has a size


def test_walks_get_about_and_replay(store: Store) -> None:
    seen = np.stack([store.read("position", number, 0, 151) for number in range(len(store))])
    assert (np.linalg.norm(seen[:, -1] - seen[:, 0], axis=-1) > 2 * NEAR).mean() > 0.5
    moves = store.read("move", 2, 0, 150)
    assert (np.abs(moves) <= MAX_MOVE + 1e-6).all()
    env, seed = PointMaze(), store.entry(2).seed
    assert env.reset(seed=seed)[0]["position"] == pytest.approx(seen[2, 0])
    np.testing.assert_allclose(moved(env, *map(tuple, moves.astype(float))), seen[2, 1:], atol=1e-4)


def test_the_map_leads_to_any_place(env: PointMaze) -> None:
    walker, generator = Walker(env), np.random.default_rng(0)
    position, goal = env.reset(seed=1)[0]["position"].astype(float), env.place(generator)
    steps = 0
    while np.linalg.norm(position - goal) > NEAR and steps < 400:
        way = env.towards(position, goal) - position
        position = moved(env, tuple(MAX_MOVE * way / max(float(np.abs(way).max()), MAX_MOVE)))[-1].astype(float)
        steps += 1
    assert steps < 400
    walker.reset(generator)
    assert (np.abs(walker.act({"position": position}, generator)["move"]) <= MAX_MOVE + 1e-6).all()


def test_the_recipe_learns_from_positions_and_makes_a_map(store: Store) -> None:
    recipe = point_maze(store)
    assert recipe.model_config.inputs == ("position",)
    assert recipe.heads.goals
    assert recipe.heads.num_landmarks > 0


def test_nothing_is_left_behind_and_nothing_global_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def left() -> tuple[int, int]:
        return len(list(Path("/dev/fd").iterdir())), len(list(tmp_path.iterdir()))

    before = left()
    with unchanged():
        for seed in range(3):
            made = PointMaze()
            made.reset(seed=seed)
            made.close()
    assert left() == before


def test_without_ogbench_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogbench.locomaze.maze", None)
    with pytest.raises(MissingExtraError, match="envs"):
        PointMaze()
