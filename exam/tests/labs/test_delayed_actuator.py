from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline_exam.labs.delayed_actuator import AMBIENT, GAIN, SETTLED, DelayedActuator, use_valves

SEEDS = st.integers(0, 2**31)
EMPTY = {"before": np.zeros((0, 5))}


def valves_of(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (num_steps, 5)).astype(np.float32)


def temperatures(lab: DelayedActuator, valves: np.ndarray, **options: object) -> np.ndarray:
    return replay(lab, 0, {"valves": valves}, {**EMPTY, **options}).observations["temperatures"].astype(float)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.0, 0.95), st.lists(st.integers(0, 12), min_size=5, max_size=5))
def test_it_is_a_late_convolution(seed: int, fade: float, lags: list[int]) -> None:
    valves = valves_of(seed, 30)
    found = temperatures(DelayedActuator(tuple(lags), fade=fade), valves)
    decay = GAIN * fade ** np.arange(30)
    for tank, lag in enumerate(lags):
        late = np.concatenate([np.zeros(lag), valves[:, tank].astype(float)])[:30]
        due = AMBIENT + np.convolve(late, decay)[:30]
        np.testing.assert_allclose(found[1:, tank], due, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_many_at_once_go_as_one_does(seed: int) -> None:
    lab, valves = DelayedActuator(), valves_of(seed, 25)
    before = valves_of(seed + 1, SETTLED)
    due = temperatures(lab, valves, before=before)
    start = {"temperatures": np.stack([due[0]] * 3), "before": np.stack([before] * 3)}
    found = lab.simulate(start, {"valves": np.stack([valves] * 3)})["temperatures"]
    np.testing.assert_allclose(found[2], due[1:], atol=1e-4)


def test_logs_hold_pulses_of_every_strength() -> None:
    valves = use_valves(np.random.default_rng(0), 200, (50,))
    opened = valves[valves > 0]
    assert 0.05 < (valves > 0).mean() < 0.2
    assert 0.3 <= opened.min() < 0.32
    assert 0.98 < opened.max() <= 1.0
    episodes = [explore(DelayedActuator(), seed, 60).observations["temperatures"] for seed in range(40)]
    spread = np.array(episodes).std((0, 2))
    np.testing.assert_allclose(spread[:10].mean(), spread[50:].mean(), rtol=0.15)  # settled when it begins
