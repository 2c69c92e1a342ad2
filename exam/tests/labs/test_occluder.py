from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worldline.episode import Episode
from worldline.labs.playing import explore, replay, stacked
from worldline_exam.labs.occluder import (
    BARRIER,
    EDGE,
    END,
    GRAVITY,
    LEVEL,
    MAX_DEPTH,
    MAX_PUSH,
    RADIUS,
    SPEEDS,
    STEP_S,
    Occluder,
)

SEEDS = st.integers(0, 2**31)
RAILS = st.sampled_from([1, -1])
CLEAR = {"rail": -1, "x": -1.47, "speed": 1.2, "wall": 1, "pit": 1, "door": 0.0, "colour": 0.8}
"""The lower rail, with all that stops a ball on the upper one."""


def still(num_steps: int) -> dict[str, np.ndarray]:
    return {"push": np.zeros((num_steps, 1), np.float32)}


def play(num_steps: int = 40, lab: Occluder | None = None, **options: float) -> Episode:
    return replay(lab or Occluder(), 0, still(num_steps), {**CLEAR, **options})


def whole(lab: Occluder, num_steps: int = 40, **options: float) -> dict[str, np.ndarray]:
    """The path with nothing hidden, [T + 1, *shape]."""
    start = lab.start(**{name: np.array([[float(value)]]) for name, value in {**CLEAR, **options}.items()})
    path = lab.simulate(start, {name: value[None] for name, value in still(num_steps).items()})
    return {name: np.concatenate([start[name], path[name][0]]) for name in path}


def test_it_rolls_straight_on_until_the_end() -> None:
    path = whole(Occluder())
    due = np.minimum(-1.47 + 1.2 * STEP_S * np.arange(41), END - RADIUS)
    np.testing.assert_allclose(path["ball_position"][:, 0], due, atol=1e-5)
    assert (path["ball_position"][:, 1] == 0).all()
    assert (path["ball_velocity"][-1] == 0).all()


def test_without_a_floor_it_falls_as_things_fall() -> None:
    lab = Occluder(depth=MAX_DEPTH)
    fallen = np.arange(1, 5)
    due = np.maximum(-GRAVITY * STEP_S**2 * fallen * (fallen + 1) / 2, -MAX_DEPTH)
    for rail, level in ((-1, 0.0), (1, LEVEL)):
        path = whole(lab, x=EDGE - 0.05, rail=rail, pit=rail)
        np.testing.assert_allclose(path["ball_position"][1:5, 1], level + due, atol=1e-5)
        np.testing.assert_allclose(path["ball_position"][-1, 1], level - MAX_DEPTH)
    assert (path["ball_velocity"][-1] == 0).all()
    assert path["ball_position"][-1, 0] < BARRIER - RADIUS


@given(st.floats(-1.6, -0.45), st.floats(0.8, 1.6), st.floats(-0.1, LEVEL + 0.1), RAILS, RAILS, RAILS, SEEDS)
def test_nothing_passes_through_what_blocks_it(
    x: float, speed: float, door: float, rail: int, wall: int, pit: int, seed: int
) -> None:
    """What is on the other rail never matters."""
    lab, level = Occluder(), LEVEL if rail == 1 else 0.0
    options = {"rail": rail, "x": x, "speed": speed, "door": door, "wall": wall, "pit": pit, "colour": 0.5}
    start = lab.start(**{name: np.array([[float(value)]]) for name, value in options.items()})
    push = np.random.default_rng(seed).uniform(-MAX_PUSH, MAX_PUSH, (1, 90, 1))
    path = lab.simulate(start, {"push": push})
    far, low = path["ball_position"][0].max(0)[0], path["ball_position"][0].min(0)[1]
    due = -RADIUS if wall == rail else BARRIER - RADIUS if abs(door - level) > RADIUS else END - RADIUS
    if wall == rail or pit != rail:
        np.testing.assert_allclose(far, due, atol=1e-5)
        assert low == level
    else:
        assert EDGE < far < BARRIER - RADIUS
        np.testing.assert_allclose(low, level - lab.depth, atol=1e-6)
    moving = path["ball_velocity"][0, :, 0]
    assert ((moving == 0) | ((moving >= SPEEDS[0] - 1e-6) & (moving <= SPEEDS[1] + 1e-6))).all()
    assert (np.diff(moving == 0).astype(int) >= 0).all()  # once at rest, for good


def test_the_screen_hides_the_ball_and_keeps_hiding_the_wall() -> None:
    lab = Occluder()
    seen, path = play(lab=lab), whole(lab)
    behind = np.abs(path["ball_position"][:, 0]) < lab.half_screen
    down = np.maximum.accumulate(behind)
    assert 3 < behind.sum() < 8
    np.testing.assert_array_equal(seen.observed["ball_position"], ~behind)
    np.testing.assert_array_equal(seen.observed["ball_brightness"], ~behind)
    np.testing.assert_array_equal(seen.observed["wall"], ~down)
    np.testing.assert_array_equal(seen.observations["ball_seen"][:, 0], ~behind)
    np.testing.assert_array_equal(seen.observations["screen"][:, 0], down)
    assert "pit" not in seen.observed
    assert (seen.observations["ball_position"][behind] == 0).all()
    np.testing.assert_allclose(seen.observations["ball_position"][~behind], path["ball_position"][~behind], 0, 1e-6)


def test_a_twin_differs_by_what_was_changed_alone() -> None:
    lab = Occluder()
    without, with_wall = play(lab=lab), play(lab=lab, wall=-1)
    down = int(np.argmax(without.observations["screen"][:, 0]))
    for name, value in without.observations.items():
        if name != "wall":
            np.testing.assert_array_equal(value[: down + 1], with_wall.observations[name][: down + 1])
    assert (with_wall.observations["wall"][:down] == -1).all()
    assert without.observations["ball_seen"][-1] == 1
    assert (with_wall.observations["ball_seen"][down:] == 0).all()


def test_simulated_paths_are_those_of_the_environment() -> None:
    lab = Occluder()
    for seed in range(12):
        episode = explore(lab, seed, 30)
        start = {name: value[:1].astype(float) for name, value in episode.observations.items()}
        path = lab.simulate(start, {"push": episode.actions["push"][None]})
        for name, value in path.items():
            mask = episode.observed.get(name, np.ones(31, bool))[1:]
            np.testing.assert_allclose(value[0][mask], episode.observations[name][1:][mask], atol=1e-5)


def test_logs_show_each_thing_happen_and_not_happen() -> None:
    logs = stacked([explore(Occluder(), seed, 30) for seed in range(80)])
    x, y = logs.observations["ball_position"][..., 0], logs.observations["ball_position"][..., 1]
    came_back = (np.diff(logs.observations["ball_seen"][..., 0], axis=1) > 0).any(1)
    stayed = (logs.observations["ball_seen"][:, -1, 0] == 0) & (
        logs.observations["wall"][:, 0, 0] == np.where(y[:, 0] > 0, 1, -1)
    )
    barred = np.abs(x[:, -1] - (BARRIER - RADIUS)) < 1e-5
    for happened in (
        came_back,
        stayed,
        barred,
        (y.max(1) - y[:, -1] > 0.3) & (logs.observations["ball_seen"][:, -1, 0] == 1),
        x.max(1) > BARRIER + 0.3,
    ):
        assert 5 < happened.sum() < 60
    assert logs.observed["wall"].shape == (80, 31)
    assert 0.03 < logs.actions["push"].std() < 0.4


def test_what_is_hidden_is_not_needed_for_a_picture_and_what_is_in_sight_is() -> None:
    episode = play(40, lab=(lab := Occluder(pictures=True)))
    hides = ("ball_position", "ball_velocity", "ball_brightness", "wall")
    for step in (0, int(np.argmin(episode.observed["ball_position"])), 40):
        shown = {name: value[step] for name, value in episode.observations.items() if name != "camera"}
        seen = {name: value for name, value in shown.items() if name not in hides or episode.observed[name][step]}
        np.testing.assert_allclose(lab.drawn(seen), episode.observations["camera"][step], atol=1)
        for name in ("ball_position", "ball_brightness", "wall"):
            known = lab.drawn({other: value for other, value in seen.items() if other != name}) is not None
            assert known == (name not in seen), name
