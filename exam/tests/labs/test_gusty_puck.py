from __future__ import annotations

import numpy as np
from exam.tests.labs.integration import runge_kutta
from hypothesis import example, given
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay, stacked
from worldline_exam.labs.gusty_puck import MAX_PUSH, START_SPREAD, STEP_S, GustyPuck, GustyPuckExplorer, explored

SEEDS = st.integers(0, 2**31)


def run(lab: GustyPuck, seed: int, pushes: np.ndarray, **options: object) -> np.ndarray:
    """Positions and velocities [T + 1, 2, 2]."""
    seen = replay(lab, seed, {"push": pushes}, options).observations
    return np.stack([seen["puck_position"], seen["puck_velocity"]], 1).astype(float)


def pushes_of(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-MAX_PUSH, MAX_PUSH, (num_steps, 2)).astype(np.float32)


@given(SEEDS, st.floats(0.1, 6.0), st.floats(0.2, 3.0), st.floats(0.05, 4.0))
@example(0, 2.0, 0.5, 0.5)
@example(0, 2.0 + 1e-9, 0.5, 0.5)
@example(0, 1.5, 0.5, 1e-4)
def test_a_step_solves_the_equation(seed: int, friction: float, mass: float, spring: float) -> None:
    """Against Runge and Kutta in fifty small steps; over-, under- and critically damped alike."""
    rng = np.random.default_rng(seed)
    position, velocity, force = rng.standard_normal((3, 2))
    found = GustyPuck(mass=mass, spring=spring).move(position, velocity, force, friction)

    def slope(now: np.ndarray) -> np.ndarray:
        return np.stack([now[1], force / mass - friction * now[1] - spring / mass * now[0]])

    due = runge_kutta(slope, np.stack([position, velocity]), STEP_S, 50)
    np.testing.assert_allclose(np.stack(found), due, rtol=1e-7, atol=1e-7)


def test_the_path_stays_as_spread_as_it_was() -> None:
    """So that bands calibrated at one time hold at another."""
    paths = stacked([explore(GustyPuck(), seed, 90) for seed in range(150)]).observations
    spread = np.stack([paths["puck_position"], paths["puck_velocity"]], 2)[:, 1:].std((0, 3))
    np.testing.assert_allclose(spread[60:].mean(0), START_SPREAD, rtol=0.15)
    np.testing.assert_allclose(spread[:10].mean(0), START_SPREAD, rtol=0.15)


def test_what_is_expected_is_the_mean_over_gusts() -> None:
    lab, pushes = GustyPuck(friction=(1.0, 1.0), gust=0.3), pushes_of(0, 20)
    start = {"position": [0.3, -0.4], "velocity": [0.5, 0.0]}
    paths = np.array([run(lab, seed, pushes, **start)[1:] for seed in range(400)])
    shown = {f"puck_{name}": np.array([value], np.float32) for name, value in start.items()}
    due = lab.expected(shown, {"push": pushes[None]}, {"friction": np.array([1.0])})
    for number, name in enumerate(("puck_position", "puck_velocity")):
        np.testing.assert_allclose(paths[:, :, number].mean(0), due[name][0], atol=5 * paths[:, :, number].std() / 20)
    calm = run(GustyPuck(friction=(1.0, 1.0), gust=0.0), 0, pushes, **start)[1:]
    np.testing.assert_allclose(calm[:, 0], due["puck_position"][0], atol=1e-5)


def test_many_pucks_at_once_are_each_as_one_alone() -> None:
    lab, num_steps = GustyPuck(tilt=(0.2, -0.1), speed=1.3), 15
    gusts, starts, alone, frictions = [], [], [], []
    for seed in range(4):
        path = run(lab, seed, pushes_of(seed, num_steps))
        lab.reset(seed=seed)
        gusts.append([lab.gust * lab.np_random.standard_normal(2) for _ in range(num_steps)])
        starts.append(path[0])
        alone.append(path[1:])
        frictions.append(lab.hidden(seed)["friction"])
    start = {name: np.array(starts)[:, number] for number, name in enumerate(("puck_position", "puck_velocity"))}
    pushes = np.stack([pushes_of(seed, num_steps) for seed in range(4)])
    found = lab.simulate(start, {"push": pushes}, np.array(frictions), np.array(gusts))
    np.testing.assert_allclose(found["puck_position"], np.array(alone)[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(found["puck_velocity"], np.array(alone)[:, :, 1], atol=1e-5)


def test_a_tilted_table_moves_the_place_of_rest() -> None:
    lab = GustyPuck(gust=0.0, tilt=(0.2, -0.1), spring=0.5)
    path = run(lab, 0, np.zeros((300, 2)), friction=1.5)
    np.testing.assert_allclose(path[-1], [[0.4, -0.2], [0.0, 0.0]], atol=1e-4)


def test_pushes_of_many_episodes_are_distributed_as_the_explorer_s() -> None:
    many, policy, rng = explored(400, 30, np.random.default_rng(0)), GustyPuckExplorer(), np.random.default_rng(1)
    single = []
    for _ in range(400):
        policy.reset(rng)
        single.append([policy.act({}, rng)["push"] for _ in range(30)])
    for found, due in zip(*([one.std((0, 1)), (one[:, 5:] * one[:, :-5]).mean((0, 1))]
                            for one in (many, np.array(single))), strict=True):  # fmt: skip
        np.testing.assert_allclose(found, due, atol=0.03)
