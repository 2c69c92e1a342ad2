"""What pendulum, two bodies and elastic pucks have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline_exam.labs.driven import DAMPINGS, Driven, bounds
from worldline_exam.labs.elastic_pucks import ElasticPucks
from worldline_exam.labs.pendulum import Pendulum
from worldline_exam.labs.two_bodies import TwoBodies

LABS: dict[str, Callable[..., Driven]] = {"pendulum": Pendulum, "two-bodies": TwoBodies, "elastic-pucks": ElasticPucks}
SEEDS = st.integers(0, 2**31)
every_lab = pytest.mark.parametrize("name", LABS)


def pushes_of(lab: Driven, seed: int, num: int, num_steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {one.name: rng.uniform(*bounds(one), (num, num_steps, *one.shape)).astype(np.float32) for one in lab.pushes}


def drift(lab: Driven, damping: float, num_steps: int = 100) -> np.ndarray:
    """Energy [steps + 1, 200] of bodies that nobody pushes, in float64 throughout."""
    state = lab.draw_states(np.random.default_rng(0), 200)
    energy, force = [lab.energy(lab.split(state))], np.zeros((200, sum(one.size for one in lab.pushes)))
    for _ in range(num_steps):
        state = lab.advance(state, force, np.full(200, damping))
        energy.append(lab.energy(lab.split(state)))
    return np.stack(energy)


@every_lab
def test_undriven_and_undamped_no_energy_is_won_or_lost(name: str) -> None:
    energy = drift(LABS[name](), 0.0)
    assert np.abs(energy / energy[0] - 1).max() < 1e-6


@every_lab
@pytest.mark.parametrize("damping", DAMPINGS[1:])
def test_the_medium_only_takes_energy(name: str, damping: float) -> None:
    energy = drift(LABS[name](), damping)
    assert (np.diff(energy, axis=0) <= 1e-6 * energy[0].max()).all()
    assert energy[-1].mean() < (0.4 if damping == DAMPINGS[1] else 0.05) * energy[0].mean()


@every_lab
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, at=st.integers(0, 19))
def test_it_goes_on_from_any_observation(name: str, seed: int, at: int) -> None:
    """`step` and `simulate` are one, and nothing is hidden."""
    lab = LABS[name]()
    episode = explore(lab, seed, 20)
    start = {signal: value[at][None] for signal, value in episode.observations.items()}
    path = lab.simulate(start, {signal: value[None, at:] for signal, value in episode.actions.items()})
    for signal, value in path.items():
        np.testing.assert_allclose(value[0], episode.observations[signal][at + 1 :], atol=1e-5)
    located = {signal: value[at] for signal, value in episode.observations.items()}
    twin = replay(lab, 0, {signal: value[at:] for signal, value in episode.actions.items()}, located)
    for signal in path:
        np.testing.assert_array_equal(twin.observations[signal], episode.observations[signal][at:])


@every_lab
def test_a_twin_differs_by_what_was_changed_alone(name: str) -> None:
    lab, seed = LABS[name](), 3
    pushes = {signal: value[0] for signal, value in pushes_of(lab, 0, 1, 30).items()}
    free, thick = (replay(lab, seed, pushes, {"damping": np.array([damping])}) for damping in (0.0, 0.8))
    for signal in lab.moving:
        np.testing.assert_array_equal(free.observations[signal.name][0], thick.observations[signal.name][0])
    assert (free.observations["damping"] == 0).all()
    np.testing.assert_allclose(thick.observations["damping"], 0.8, rtol=1e-6)
    assert lab.energy(free.observations)[-1] > lab.energy(thick.observations)[-1]
    later = {signal: value.copy() for signal, value in pushes.items()}
    for value in later.values():
        value[10:] = -value[10:]
    other = replay(lab, seed, later, {"damping": np.array([0.0])})
    for signal in lab.moving:
        np.testing.assert_array_equal(other.observations[signal.name][:11], free.observations[signal.name][:11])
    assert any(np.abs(other.observations[s.name][11] - free.observations[s.name][11]).max() > 1e-3 for s in lab.moving)


@every_lab
def test_dampings_and_pushes_are_as_the_module_says(name: str) -> None:
    lab = LABS[name]()
    episodes = [explore(lab, seed, 15) for seed in range(45)]
    dampings = np.array([episode.observations["damping"] for episode in episodes])
    assert (dampings == dampings[:, :1]).all()
    counts = [int(np.isclose(dampings[:, 0, 0], one).sum()) for one in DAMPINGS]
    assert sum(counts) == 45
    assert min(counts) > 5
    for one in lab.pushes:
        pushes = np.array([episode.actions[one.name] for episode in episodes])
        kept = (np.diff(pushes, axis=1) == 0).all(-1).mean()
        assert 0.72 < kept < 0.88
        assert np.abs(pushes).max() <= bounds(one)[1].max()
        assert pushes.std() > 0.5 * bounds(one)[1].max()
