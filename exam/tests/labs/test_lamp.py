from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.episode import Episode
from worldline.labs.playing import explore, replay
from worldline_exam.labs.lamp import KEEP, MIN_LEVER, STATIONS, Lamp, together

SEEDS = st.integers(0, 2**31)


def levers_of(seed: int, num_steps: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed).uniform(-1, 1, (num_steps, len(STATIONS), 2)).astype(np.float32)
    return {station.levers: draws[:, number] for number, station in enumerate(STATIONS)}


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_step_is_the_equation(seed: int) -> None:
    levers = levers_of(seed, 6)
    episode = replay(Lamp(effect=-1.3, noise=0.0), seed, levers)
    for station in STATIONS:
        heat, (left, right) = episode.observations[station.heat][:, 0].astype(float), levers[station.levers].T
        due = [KEEP * heat[t] - 1.3 * (1 if (left[t] > 0) == (right[t] > 0) else -1) for t in range(6)]
        np.testing.assert_allclose(heat[1:], due, atol=1e-5)


def test_options_change_one_thing_and_a_lamp_heats_nothing() -> None:
    lab, levers = Lamp(), levers_of(0, 6)
    plain = replay(lab, 3, levers).observations
    lit = plain["station_99_lamp"][0, 0]
    flipped = replay(lab, 3, levers, {"station_99_lamp": 1 - lit}).observations
    warm = replay(lab, 3, levers, {"station_80_heat": plain["station_80_heat"][0, 0] + 1.0}).observations
    for name, value in plain.items():
        due = value.copy()
        if name == "station_99_lamp":
            due[0] = 1 - lit
        np.testing.assert_array_equal(flipped[name], due)
        if name == "station_80_heat":
            np.testing.assert_allclose(warm[name][:, 0] - value[:, 0], KEEP ** np.arange(7), atol=1e-5)
        else:
            np.testing.assert_array_equal(warm[name], value)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [explore(Lamp(), seed, 40) for seed in range(100)]


def test_lamps_announce_what_the_explorer_does_as_often_as_they_say(episodes: list[Episode]) -> None:
    for station in STATIONS:
        levers = np.concatenate([one.actions[station.levers] for one in episodes]).astype(float)
        lit = np.concatenate([one.observations[station.lamp][:-1, 0] for one in episodes]) > 0.5
        joined = together(levers)
        spread = np.sqrt(station.follows * (1 - station.follows) / len(lit))
        assert (joined == lit).mean() == pytest.approx(station.follows, abs=4 * spread)
        assert joined.mean() == pytest.approx(0.5, abs=0.04)
        assert np.abs(levers).min() >= MIN_LEVER - 1e-6
        assert abs(np.corrcoef(levers[:, 0], lit)[0, 1]) < 0.07  # neither lever alone tells anything
        assert abs(np.corrcoef(levers[:, 1], lit)[0, 1]) < 0.07


def test_given_the_levers_the_lamp_says_nothing(episodes: list[Episode]) -> None:
    for station in STATIONS:
        heat = np.stack([one.observations[station.heat][:, 0] for one in episodes]).astype(float)
        lit = np.stack([one.observations[station.lamp][:-1, 0] for one in episodes]).astype(float)
        joined = together(np.stack([one.actions[station.levers] for one in episodes]).astype(float))
        table = np.stack([heat[:, :-1].ravel(), 2.0 * joined.ravel() - 1, 2 * lit.ravel() - 1], 1)
        keep, levers, lamp = np.linalg.lstsq(table, heat[:, 1:].ravel(), rcond=None)[0]
        np.testing.assert_allclose([keep, levers, lamp], [KEEP, 1.0, 0.0], atol=0.05)
