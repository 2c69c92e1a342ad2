from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.planning.costs.rollouts import rollout_of

from worldline.episode import Arrays
from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.planning.base import Chance, Rollout
from worldline.planning.costs import KeepApart, KeepClear
from worldline.planning.costs.constraints import away_from_wall

NUMBERS = st.floats(-3, 3)


def rollout(margin: Arrays | None = None, **signals: list[list[float]]) -> Rollout:
    """One world, one plan, one sample; each signal [T, size]."""
    made = {name: np.array(value, float)[None, None, None] for name, value in signals.items()}
    return rollout_of(made, margin=margin or {})


def test_the_violation_is_the_deepest_overlap() -> None:
    rule = KeepApart(first="a", second="b", distance=1.0)
    seen = rollout(a=[[0, 0], [0.8, 0], [3, 0]], b=[[2, 0], [1.2, 0.3], [3, 4]])
    np.testing.assert_allclose(rule(seen), [[0.5]])
    assert KeepApart(first="a", second="b", distance=0.4)(seen) == 0


def test_a_wall_ends() -> None:
    rule = KeepClear(signal="a", start=(0.0, 0.0), end=(0.0, 1.0), distance=0.5)
    assert rule(rollout(a=[[0.2, 0.5]])).item() == pytest.approx(0.3)
    assert rule(rollout(a=[[0.3, 1.4]])).item() == pytest.approx(0.0)  # a corner of 3, 4, 5
    assert rule(rollout(a=[[0.0, 1.3]])).item() == pytest.approx(0.2)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_nothing_on_the_wall_is_nearer(x: float, y: float, ax: float, ay: float, bx: float, by: float) -> None:
    found = np.linalg.norm(away_from_wall(torch.tensor([x, y], dtype=torch.float64), (ax, ay), (bx, by)))
    share = np.linspace(0, 1, 101)[:, None]
    every = np.linalg.norm(np.array([x, y]) - ((1 - share) * [ax, ay] + share * [bx, by]), axis=1)
    assert found <= every.min() + 1e-9
    assert found >= every.min() - 0.01 * (1 + np.hypot(ax - bx, ay - by))


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.floats(0, 1), st.floats(0, 1))
def test_with_a_level_the_bands_count(x: float, y: float, bx: float, by: float, wide: float, other: float) -> None:
    margin = {"a": np.array([[wide, wide]]), "b": np.array([[other, other]])}
    seen = rollout(margin, a=[[x, y]], b=[[bx, by]])
    apart = float(Chance(constraint=KeepApart(first="a", second="b", distance=1.0), level=0.9)(seen)[0, 0])
    clear = float(KeepClear(signal="a", start=(0.0, 0.0), end=(0.0, 1.0), distance=1.0)(seen)[0, 0])
    for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)):
        place, far = np.array([x, y]) + wide * np.array(corner), np.array([bx, by]) - other * np.array(corner)
        assert apart >= 1.0 - np.linalg.norm(place - far) - 1e-9
        assert clear >= 1.0 - np.linalg.norm(away_from_wall(torch.from_numpy(place), (0.0, 0.0), (0.0, 1.0))) - 1e-9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="distance is 0"):
        KeepApart(first="a", second="b", distance=0.0)
    with pytest.raises(ConfigError, match="quantile is 2"):
        KeepClear(signal="a", start=(0.0, 0.0), end=(1.0, 0.0), distance=1.0, quantile=2.0)
    with pytest.raises(UnknownNameError):
        KeepApart(first="a", second="c", distance=1.0)(rollout(a=[[0, 0]], b=[[0, 0]]))
    with pytest.raises(InputError, match="3"):
        KeepApart(first="a", second="b", distance=1.0)(rollout(a=[[0, 0]], b=[[0, 0, 0]]))
    with pytest.raises(InputError):
        KeepClear(signal="a", start=(0.0, 0.0), end=(1.0, 0.0), distance=1.0)(rollout(a=[[0, 0, 0]]))
