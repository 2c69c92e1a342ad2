from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.labs.playing import explore
from worldline.labs.spaces import SpaceLayout
from worldline.labs.two_rooms import (
    DOOR_HALF_HEIGHT,
    DOT_COLOUR,
    DOT_RADIUS,
    FIXED_WALL,
    FLOOR_COLOUR,
    MAX_MOVE,
    SIZE,
    WALL_COLOUR,
    WALL_HALF_WIDTH,
    TwoRooms,
    draw_dot,
    draw_walls,
    free_position,
    shortest_path,
    slide,
)
from worldline.schema import Role

SEEDS = st.integers(0, 2**32 - 1)
WALLS = st.tuples(st.floats(20, 44), st.floats(10, 54)).map(np.array)
REACH, GAP = WALL_HALF_WIDTH + DOT_RADIUS, DOOR_HALF_HEIGHT - DOT_RADIUS
NEAR, FAR = DOT_RADIUS, SIZE - DOT_RADIUS


def inside_wall(position: np.ndarray, wall: np.ndarray, slack: float = 1e-6) -> np.ndarray:
    """Whether a dot [..., 2] overlaps the wall, leaving its rounded ends aside (as the lab does)."""
    across, along = np.abs(position - wall)[..., 0], np.abs(position - wall)[..., 1]
    return (across < REACH - slack) & (along > GAP + slack)


def along(start: np.ndarray, end: np.ndarray, points: int = 200) -> np.ndarray:
    """Points [points, ..., 2] of a straight line."""
    return start + np.linspace(0, 1, points).reshape(-1, *[1] * start.ndim) * (end - start)


def places(wall: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Free positions [count, 2], some of them in the doorway, some touching the wall."""
    rng = np.random.default_rng(seed)
    free = np.stack([free_position(wall, rng) for _ in range(count)])
    free[: count // 4] = wall + rng.uniform([-REACH, -GAP], [REACH, GAP], (count // 4, 2))
    touching = slice(count // 4, count // 2)
    free[touching, 0] = wall[0] + rng.choice([-1, 1], len(free[touching])) * (REACH + 1e-4)
    return free


def crawl(position: np.ndarray, move: np.ndarray, wall: np.ndarray, margin: float) -> np.ndarray:
    """Where `move` ends, found in steps of 1/25 px: straight until something is in the way, then each axis by itself.

    Args:
        position: [M, 2] px.
        move: [M, 2] px.
        wall: [2] px.
        margin: by how much the walls are taken to be thicker, px.
    """
    pieces = int(np.linalg.norm(move, axis=-1).max() * 25) + 1
    left, here = np.full(len(move), pieces), position
    for axes in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
        moving = np.ones(len(move), bool)
        used = np.zeros(len(move), int)
        for _ in range(pieces):
            ahead = here + move * axes / pieces
            free = ~inside_wall(ahead, wall, -margin) & ((ahead >= NEAR + margin) & (ahead <= FAR - margin)).all(-1)
            moving = moving & free & (used < left)
            here, used = np.where(moving[:, None], ahead, here), used + moving
        if axes == [1.0, 1.0]:
            left = left - used
    return here


@settings(max_examples=15)
@given(WALLS, SEEDS)
def test_a_move_is_straight_to_the_first_contact_and_then_along_it(wall: np.ndarray, seed: int) -> None:
    position = places(wall, 48, seed)
    move = np.random.default_rng(seed).uniform(-MAX_MOVE, MAX_MOVE, (48, 2))
    thick, thin = (crawl(position, move, wall, margin) for margin in (0.03, -0.03))
    sure = np.abs(thick - thin).max(-1) < 0.3  # else a hair decides what is touched
    after = slide(position, move, wall)
    assert sure.mean() > 0.6
    np.testing.assert_allclose(after[sure], ((thick + thin) / 2)[sure], atol=0.25)
    straight = along(position, position + move)
    untouched = sure & ~inside_wall(straight, wall, -0.05).any(0)
    untouched &= ((straight > NEAR) & (straight < FAR)).all((0, 2))
    np.testing.assert_allclose(after[untouched], (position + move)[untouched], atol=1e-9)


@given(WALLS, SEEDS, st.sampled_from([1.0, 6.0, 500.0]))
def test_no_move_crosses_the_wall_except_through_the_door(wall: np.ndarray, seed: int, length: float) -> None:
    position = places(wall, 64, seed)
    for move in np.random.default_rng(seed).uniform(-length, length, (10, 64, 2)):
        after = slide(position, move, wall)
        assert not inside_wall(after, wall).any()
        assert ((after >= NEAR) & (after <= FAR)).all()
        went = after - position
        assert (np.abs(went) <= np.abs(move) + 1e-9).all()
        assert (went * move >= -1e-9).all()  # never backwards: so on the way y lies between its ends
        crossed = (np.abs(np.stack([position, after])[..., 0] - wall[0]) > REACH).all(0)
        crossed &= (position[:, 0] < wall[0]) != (after[:, 0] < wall[0])
        lowest, highest = np.minimum(position, after)[:, 1], np.maximum(position, after)[:, 1]
        door = (lowest <= wall[1] + GAP) & (highest >= wall[1] - GAP)
        assert door[crossed].all()
        position = after


@pytest.mark.parametrize("walls", ["fixed", "random"])
def test_an_episode_replays_exactly_from_its_seed(walls: str) -> None:
    lab, twin = TwoRooms(walls), TwoRooms(walls)
    explore(twin, 3, 1)  # another episode before it leaves nothing behind
    one, again = explore(lab, 11, 30), explore(twin, 11, 30)
    for name, value in one.observations.items():
        np.testing.assert_array_equal(value, again.observations[name])


def test_walls_differ_from_episode_to_episode_only_where_they_are_random() -> None:
    drawn = {walls: np.array([TwoRooms(walls).reset(seed=seed)[0]["wall"] for seed in range(50)]) for walls in
             ("fixed", "random")}  # fmt: skip
    assert (drawn["fixed"] == FIXED_WALL).all()
    assert len(np.unique(drawn["random"], axis=0)) == 50
    assert ((drawn["random"] >= [20, 10]) & (drawn["random"] <= [44, 54])).all()


def test_moves_beyond_the_bounds_are_cut() -> None:
    lab, start = TwoRooms(camera=False), {"position": np.array([[10.0, 20.0]]), "wall": np.array([FIXED_WALL])}
    ends = []
    for move in ([9.0, -2.0 * MAX_MOVE], [MAX_MOVE, -MAX_MOVE]):
        lab.reset(options={name: value[0] for name, value in start.items()})
        ends.append(lab.step({"move": np.array(move, np.float32)})[0]["position"])
        ends.append(lab.simulate(start, {"move": np.array([[move]])})["position"][0, 0])
    np.testing.assert_array_equal(ends, [[16.0, 14.0]] * 4)


@pytest.mark.parametrize("place", [(32.0, 10.0), (32 + REACH - 0.1, 50.0), (32.0, 32 + GAP + 0.1), (1.0, 20.0)])
def test_nobody_is_put_into_a_wall(place: tuple[float, float]) -> None:
    lab = TwoRooms()
    with pytest.raises(InputError, match="in the wall"):
        lab.reset(seed=0, options={"position": place})
    for touching in ((32 + REACH, 50.0), (32.0, 32 + GAP), (NEAR, FAR)):
        lab.reset(seed=0, options={"position": np.array(touching, np.float32)})


def test_episodes_start_clear_of_the_wall() -> None:
    lab = TwoRooms("random", camera=False)
    for seed in range(200):
        observation, _ = lab.reset(seed=seed)
        assert abs(observation["position"][0] - observation["wall"][0]) >= REACH - 1e-5


def test_a_twin_can_be_put_anywhere() -> None:
    lab = TwoRooms()
    observation, _ = lab.reset(seed=0, options={"position": [10.0, 50.0], "wall": [25.0, 40.0]})
    assert (observation["position"].tolist(), observation["wall"].tolist()) == ([10, 50], [25, 40])
    np.testing.assert_array_equal(
        observation["camera"], draw_dot(draw_walls(np.array([25.0, 40])), np.array([10.0, 50]))
    )


@given(SEEDS)
def test_simulating_is_stepping(seed: int) -> None:
    rng, lab = np.random.default_rng(seed), TwoRooms("random", camera=False)
    starts, paths = [], []
    moves = rng.uniform(-MAX_MOVE, MAX_MOVE, (4, 12, 2)).astype(np.float32)
    for number in range(4):
        drawn = lab.reset(seed=seed % 1000 + number)[0]
        options = {name: value.astype(float) for name, value in drawn.items()}
        starts.append(lab.reset(options=options)[0])
        paths.append([lab.step({"move": move})[0] for move in moves[number]])
    before = lab._position.copy()
    start = {name: np.stack([one[name] for one in starts]) for name in ("position", "wall")}
    found = lab.simulate(start, {"move": moves})
    np.testing.assert_array_equal(lab._position, before)
    for name in ("position", "wall"):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], [[step[name] for step in path] for path in paths], atol=1e-4)


@given(WALLS, SEEDS)
def test_the_shortest_path_is_free_and_no_shorter_than_a_straight_line(wall: np.ndarray, seed: int) -> None:
    start, goal = places(wall, 32, seed), places(wall, 32, seed + 1)
    walls = np.broadcast_to(wall, (32, 2))
    path = shortest_path(start, goal, walls)
    assert path.shape == (32, 4, 2)
    np.testing.assert_array_equal(path[:, 0], start)
    np.testing.assert_array_equal(path[:, -1], goal)
    assert not inside_wall(along(path[:, :-1], path[:, 1:]), wall).any()
    length = np.linalg.norm(np.diff(path, axis=1), axis=-1).sum(-1)
    straight = np.linalg.norm(goal - start, axis=-1)
    assert (length >= straight - 1e-9).all()
    back = shortest_path(goal, start, walls)
    np.testing.assert_allclose(np.linalg.norm(np.diff(back, axis=1), axis=-1).sum(-1), length, atol=0.1)
    seen = ~inside_wall(along(start, goal, 2000), wall, -0.02).any(0)
    np.testing.assert_allclose(length[seen], straight[seen], atol=1e-6)


@given(WALLS, SEEDS)
def test_the_expert_arrives_about_when_it_is_said_to(wall: np.ndarray, seed: int) -> None:
    lab = TwoRooms(camera=False)
    start, goal = (places(wall, 16, seed + offset)[8:].astype(np.float32) for offset in (0, 1))
    observations = {"position": start, "wall": np.tile(wall, (8, 1)).astype(np.float32)}
    steps = lab.steps_to_goal(observations, {"position": goal})
    assert (steps >= np.abs(goal - start).max(-1) / MAX_MOVE - 1e-6).all()
    back = lab.steps_to_goal({**observations, "position": goal}, {"position": start})
    np.testing.assert_allclose(back, steps, atol=0.1)
    moves = lab.expert(observations, {"position": goal}, 40)
    assert moves["move"].shape == (8, 40, 2)
    assert np.abs(moves["move"]).max() <= MAX_MOVE
    path = lab.simulate(observations, moves)["position"]
    gap = np.linalg.norm(path - goal[:, None], axis=-1)
    arrival = np.ceil(steps).astype(int) + 2  # a step is lost where a leg ends within it
    assert (gap[np.arange(8), np.minimum(arrival, 39)] < 0.1).all()


@pytest.mark.parametrize("side", [-1, 1])
def test_nobody_is_much_faster_than_the_expert(side: int) -> None:
    """Random walks of 12 steps: sliding round a corner may save what is left of a step, and there are two corners."""
    lab, rng = TwoRooms(camera=False), np.random.default_rng(side + 1)
    start = {"position": np.tile([32.0 + side * 20, 10.0], (500, 1)), "wall": np.tile(FIXED_WALL, (500, 1))}
    moves = rng.choice([-MAX_MOVE, MAX_MOVE], (500, 1, 2)) * rng.uniform(0, 1, (500, 12, 2))
    end = {"position": lab.simulate(start, {"move": moves})["position"][:, -1].astype(float)}
    assert (lab.steps_to_goal(start, end) <= 12 + 2).all()


def test_the_camera_draws_what_the_signals_say() -> None:
    lab = TwoRooms("random")
    for seed in range(20):
        seen, _ = lab.reset(seed=seed)
        picture, (x, y), (wall_x, door_y) = seen["camera"], seen["position"], seen["wall"]
        assert (picture.shape, picture.dtype) == ((SIZE, SIZE, 3), np.uint8)
        is_dot = (picture.astype(int) - DOT_COLOUR == 0).all(-1)
        rows, columns = np.nonzero(is_dot)
        assert np.hypot(columns.mean() + 0.5 - x, rows.mean() + 0.5 - y) < 0.5
        far = np.hypot(np.arange(SIZE)[None] + 0.5 - x, np.arange(SIZE)[:, None] + 0.5 - y) > DOT_RADIUS + 1
        middle = picture[:, int(wall_x)]
        door = np.abs(np.arange(SIZE) + 0.5 - door_y)
        shown = far[:, int(wall_x)]
        assert (middle[shown & (door > DOOR_HALF_HEIGHT + 0.5)] == WALL_COLOUR).all()
        assert (middle[shown & (door < DOOR_HALF_HEIGHT - 0.5)] == FLOOR_COLOUR).all()
        away = np.abs(np.arange(SIZE) + 0.5 - wall_x) > WALL_HALF_WIDTH + 0.5
        assert (picture[:, away][far[:, away]] == FLOOR_COLOUR).all()


@given(st.floats(NEAR, FAR), st.floats(NEAR, FAR), st.floats(-0.02, 0.02))
def test_the_picture_follows_the_dot_smoothly(x: float, y: float, shift: float) -> None:
    """Soft edges: a fiftieth of a pixel never changes a pixel by more than a fiftieth of its range and rounding."""
    room = draw_walls(np.array(FIXED_WALL))
    kept = room.copy()
    first, second = (draw_dot(room, np.clip([x + d, y], NEAR, FAR)).astype(int) for d in (0.0, shift))
    assert np.abs(first - second).max() <= 0.02 * 255 + 1
    np.testing.assert_array_equal(room, kept)
    ink = (first != np.rint(room)).any(-1).sum()
    assert ink >= np.pi * (DOT_RADIUS - 0.5) ** 2


@pytest.mark.filterwarnings("ignore:.*(symmetric and normalized|alternative render modes).*:UserWarning")
def test_it_is_a_gymnasium_environment() -> None:
    check_env(TwoRooms("random"))
    lab = TwoRooms()
    lab.reset(seed=0)
    np.testing.assert_array_equal(lab.render(), lab.reset(seed=0)[0]["camera"])
    assert "camera" not in TwoRooms(camera=False).reset(seed=0)[0]


def test_signals_and_spaces_say_the_same() -> None:
    for lab in (TwoRooms(), TwoRooms(camera=False)):
        observation, _ = lab.reset(seed=0)
        assert isinstance(lab.observation_space, gymnasium.spaces.Dict)
        assert {signal.name for signal in lab.schema.observations} == set(lab.observation_space)
        named = SpaceLayout(lab.observation_space, Role.OBSERVATION).read(observation)
        for signal in lab.schema.observations:
            assert (named[signal.name].shape, named[signal.name].dtype) == (signal.shape, signal.dtype)
        move = SpaceLayout(lab.action_space, Role.ACTION).write({"move": np.ones(2, np.float32)})
        assert lab.action_space.contains(move)


def test_the_explorer_sees_both_rooms_and_respects_the_bounds() -> None:
    lab, rng, crossings = TwoRooms(camera=False), np.random.default_rng(0), 0
    for seed in range(40):
        policy = lab.explorer()
        policy.reset(rng)
        observation, _ = lab.reset(seed=seed)
        side = observation["position"][0] > 32
        for _ in range(60):
            action = policy.act(observation, rng)
            assert lab.action_space.contains(action)
            observation = lab.step(action)[0]
        crossings += (observation["position"][0] > 32) != side
    assert 8 <= crossings <= 32


def test_it_is_reset_into_what_it_shows() -> None:
    lab = TwoRooms("random", camera=False)
    seen, _ = lab.reset(seed=3)
    seen, *_ = lab.step({"move": np.array([2.0, -3.0], np.float32)})
    again, _ = lab.reset(seed=8, options=dict(lab.locate(seen)))
    assert all((again[name] == seen[name]).all() for name in seen)
