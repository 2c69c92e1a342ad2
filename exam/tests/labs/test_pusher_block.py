from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline_exam.labs.pusher_block import LEVER, MAX_SPEED, ROOM, STATE, STEP_S, PusherBlock

SEEDS = st.integers(0, 2**31)
Place = tuple[float, float]


def placed(lab: PusherBlock, pusher: Place, block: Place, angle: float = 0.0) -> dict[str, np.ndarray]:
    """The observation of a lab that was reset into this state."""
    turn = [np.cos(angle), np.sin(angle)]
    options = {"pusher_position": pusher, "block_position": block, "block_angle": turn}
    return dict(lab.reset(options=options)[0])


def towards_block(lab: PusherBlock, seed: int, num_steps: int) -> np.ndarray:
    """Velocities that push the block about, with noise."""
    rng, shown, done = np.random.default_rng(seed), lab.reset(seed=seed)[0], []
    for _ in range(num_steps):
        way = shown["block_position"] - shown["pusher_position"]
        velocity = 0.4 * way / np.linalg.norm(way) + rng.normal(0, 0.15, 2)
        done.append(np.clip(velocity, -MAX_SPEED, MAX_SPEED).astype(np.float32))
        shown = lab.step({"velocity": done[-1]})[0]
    return np.stack(done)


def corners(observations: dict[str, np.ndarray], half: float) -> np.ndarray:
    """The block's corners [..., 4, 2]."""
    cos, sin = observations["block_angle"][..., 0, None], observations["block_angle"][..., 1, None]
    x, y = half * np.array([1, 1, -1, -1]), half * np.array([1, -1, -1, 1])
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return np.asarray(observations["block_position"][..., None, :] + turned)


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_a_seed_replays_to_the_bit_alone_in_a_batch_and_from_any_observation(seed: int) -> None:
    lab, num_steps = PusherBlock(), 25
    velocity = {"velocity": towards_block(lab, seed, num_steps)}
    one, again = replay(lab, seed, velocity), replay(PusherBlock(), seed, velocity)
    start = {name: np.stack([one.observations[name][at] for at in (0, 7, 12)]) for name in STATE}
    rest = np.stack([np.roll(velocity["velocity"], -at, 0) for at in (0, 7, 12)])
    together = lab.simulate(start, {"velocity": rest})
    for name in STATE:
        np.testing.assert_array_equal(one.observations[name], again.observations[name])
        for row, at in enumerate((0, 7, 12)):
            left = num_steps - at
            np.testing.assert_array_equal(together[name][row, :left], one.observations[name][at + 1 :])


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.floats(0.04, 0.15), st.floats(0.03, 0.08))
def test_nothing_overlaps_and_nothing_leaves_the_table(seed: int, half: float, radius: float) -> None:
    lab = PusherBlock(block_half=half, pusher_radius=radius)
    path = replay(lab, seed, {"velocity": towards_block(lab, seed, 40)}).observations
    assert np.abs(corners(dict(path), half)).max() <= ROOM + 1e-6
    assert np.abs(path["pusher_position"]).max() <= ROOM - radius + 1e-6
    assert lab.gap(path).min() > -2e-3
    np.testing.assert_allclose(np.linalg.norm(path["block_angle"], axis=-1), 1.0, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_the_block_moves_only_when_it_is_touched(seed: int) -> None:
    lab = PusherBlock()
    path = replay(lab, seed, {"velocity": towards_block(lab, seed, 30)}).observations
    moved = np.abs(np.diff(path["block_position"], axis=0)).max(-1) + np.abs(np.diff(path["block_angle"], axis=0)).max(
        -1
    )
    travelled = np.linalg.norm(np.diff(path["pusher_position"], axis=0), axis=-1)
    assert (moved[lab.gap(path)[:-1] > travelled + 1e-3] == 0).all()  # it may leave the block within the same step
    assert (moved > 0).any()


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.07, 0.07), st.floats(-0.4, 0.4))
def test_a_long_push_is_the_law_in_small_steps(offset: float, slant: float) -> None:
    """Against 2,000 small steps of an independent account, with complex numbers, of one disc and one square."""
    lab, half, radius = PusherBlock(block_half=0.1, pusher_radius=0.05), 0.1, 0.05
    placed(lab, (-0.16, offset), (0.0, 0.0), 0.1)
    velocity, num_steps = np.array([0.3, 0.3 * slant]), 6
    shown = [lab.step({"velocity": velocity})[0] for _ in range(num_steps)][-1]
    pusher, block, angle, parts = complex(-0.16, offset), 0j, 0.1, 2000
    for _ in range(parts):
        pusher += complex(*velocity) * STEP_S * num_steps / parts
        seen = (pusher - block) * np.exp(-1j * angle)
        edge = complex(np.clip(seen.real, -half, half), np.clip(seen.imag, -half, half))
        depth = radius - abs(seen - edge)
        if depth > 0:
            normal = (edge - seen) / abs(edge - seen)
            torque = (edge.conjugate() * normal).imag
            push = depth / (1 + torque**2 / (LEVER * half) ** 2)
            block += push * normal * np.exp(1j * angle)
            angle += push * torque / (LEVER * half) ** 2
    np.testing.assert_allclose(shown["block_position"], [block.real, block.imag], atol=2e-3)
    assert np.arctan2(*shown["block_angle"][::-1]) == pytest.approx(angle, abs=0.03)


def test_a_block_at_a_wall_stops_the_pusher() -> None:
    lab = PusherBlock(block_half=0.1, pusher_radius=0.05)
    placed(lab, (0.2, 0.0), (0.37, 0.0))
    for _ in range(10):
        shown = lab.step({"velocity": np.array([MAX_SPEED, 0.0])})[0]
    assert shown["block_position"] == pytest.approx([ROOM - 0.1, 0.0], abs=1e-5)
    assert shown["pusher_position"] == pytest.approx([ROOM - 0.25, 0.0], abs=1e-5)


def test_a_turned_block_is_laid_flat_by_a_wall() -> None:
    lab = PusherBlock(block_half=0.1, pusher_radius=0.05)
    placed(lab, (0.0, 0.3), (0.0, -0.3), 0.2)
    for _ in range(30):
        shown = lab.step({"velocity": np.array([0.0, -0.3])})[0]
    assert abs(np.arctan2(*shown["block_angle"][::-1])) < 0.05


def test_the_explorer_pushes_often_and_everywhere() -> None:
    lab = PusherBlock()
    paths = [explore(lab, seed, 50) for seed in range(20)]
    touching = np.stack([lab.gap(one.observations) < 2e-3 for one in paths])
    windows = np.stack([touching[:, at : at + 20].any(1) for at in range(31)])
    assert 0.4 < windows.mean() < 0.85
    block = np.stack([one.observations["block_position"] for one in paths])
    assert np.abs(np.diff(block, axis=1)).sum((1, 2)).mean() > 0.15
    half, turn = lab.block_half, np.stack([one.observations["block_angle"] for one in paths])
    at_wall = (np.abs(block).max(-1) + half * np.abs(turn).sum(-1)) > ROOM - 1e-3
    assert at_wall.mean() < 0.15
    velocity = np.stack([one.actions["velocity"] for one in paths])
    assert np.abs(velocity).max() <= MAX_SPEED
    assert (velocity.std((0, 1)) > 0.15).all()
