from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.planning.costs.rollouts import SHAPE, numbers, rollout, rollout_of, vectors

from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.planning.base import Rollout
from worldline.planning.costs import AtLeast, AtMost, KeepOut


def constant(value: list[float]) -> Rollout:
    return rollout(place=np.broadcast_to(np.array(value), (*SHAPE, len(value))).copy())


@given(values=vectors, bound=numbers)
def test_bounds_report_the_worst_excess_in_the_unit_of_the_signal(values: np.ndarray, bound: float) -> None:
    imagined = rollout(place=values)
    above, below = (kind(signal="place", bound=bound)(imagined).numpy() for kind in (AtMost, AtLeast))
    assert above == pytest.approx(np.maximum(values.max((2, 3, 4)) - bound, 0))
    assert below == pytest.approx(np.maximum(bound - values.min((2, 3, 4)), 0))
    mirrored = AtMost(signal="place", bound=-bound)(rollout(place=-values)).numpy()
    assert below == pytest.approx(mirrored)


def test_a_quantile_forgives_that_share_of_the_samples() -> None:
    values = np.zeros((1, 1, 10, 3, 1))
    values[0, 0, 4, 1] = 5.0  # one sample of ten, at one step
    imagined = rollout(place=values)
    assert AtMost(signal="place", bound=1.0)(imagined).tolist() == [[4.0]]
    assert AtMost(signal="place", bound=1.0, quantile=0.88)(imagined).tolist() == [[0.0]]


def test_a_bound_for_each_component() -> None:
    imagined = constant([5.0, 7.0])
    assert (AtMost(signal="place", bound=(5.0, 6.5))(imagined) == 0.5).all()
    assert (AtMost(signal="place", bound=(4.0, np.inf))(imagined) == 1.0).all()
    assert (AtLeast(signal="place", bound=(-np.inf, 8.0))(imagined) == 1.0).all()


@given(values=vectors, corner=st.tuples(numbers, numbers), size=st.tuples(st.floats(0, 50), st.floats(0, 50)))
def test_keep_out_is_violated_exactly_inside_the_box(
    values: np.ndarray, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    low, high = np.array(corner), np.array(corner) + size
    violation = KeepOut(low={"place": tuple(low)}, high={"place": tuple(high)})(rollout(place=values)).numpy()
    inside = ((values > low) & (values < high)).all(-1).any((2, 3))
    assert ((violation > 0) == inside).all()
    assert (violation <= min(size) / 2 + 1e-9).all()


def test_keep_out_of_a_box_in_two_signals_and_without_some_faces() -> None:
    imagined = rollout(place=np.full((*SHAPE, 1), 5.0), heat=np.full((*SHAPE, 1), 90.0))
    rule = KeepOut(low={"place": 3.0, "heat": 80.0}, high={"place": np.inf, "heat": np.inf})
    assert (rule(imagined) == 2.0).all()
    cold = rollout(place=np.full((*SHAPE, 1), 5.0), heat=np.full((*SHAPE, 1), 40.0))
    assert (rule(cold) == 0.0).all()


@pytest.mark.parametrize("rule", [
    AtMost(signal="place", bound=1.0),
    AtLeast(signal="place", bound=1.0),
    KeepOut(low={"place": 0.0}, high={"place": 1.0}),
])  # fmt: skip
def test_nan_stays_nan_so_that_a_planner_discards_it(rule: AtMost | AtLeast | KeepOut) -> None:
    values = np.zeros((*SHAPE, 2))
    values[0, 1, 2, 3, 0] = np.nan
    violation = rule(rollout(place=values))
    assert violation.isnan().tolist() == [[False, True, False], [False, False, False]]


def test_rules_refuse_what_makes_no_sense() -> None:
    for quantile in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="quantile"):
            AtMost(signal="place", bound=1.0, quantile=quantile)
    with pytest.raises(ConfigError, match="NaN"):
        AtLeast(signal="place", bound=(0.0, float("nan")))
    with pytest.raises(ConfigError, match="same signals"):
        KeepOut(low={"place": 0.0}, high={"heat": 1.0})
    with pytest.raises(ConfigError, match="no face"):
        KeepOut(low={"place": (-np.inf, -np.inf)}, high={"place": np.inf})


def test_rules_refuse_signals_that_they_do_not_fit() -> None:
    with pytest.raises(UnknownNameError, match="'place'"):
        AtMost(signal="plase", bound=1.0)(constant([0.0]))
    with pytest.raises(InputError, match="2 components"):
        AtMost(signal="place", bound=(1.0, 2.0, 3.0))(constant([0.0, 0.0]))
    with pytest.raises(InputError, match="vector"):
        AtLeast(signal="gear", bound=1.0)(rollout(gear=np.zeros(SHAPE, int)))


def test_where_a_rule_has_to_hold_with_a_probability_the_end_of_the_band_counts() -> None:
    values = np.zeros((1, 1, 4, 3, 1))
    values[0, 0, :, 1, 0] = [0, 0, 0, 4]  # on average 1
    seen = rollout_of({"place": values}, margin={"place": np.array([[0.5], [1.0], [1.5]])})
    assert AtMost(signal="place", bound=1.2)(seen).item() == pytest.approx(0.8)
    assert AtMost(signal="place", bound=1.2, quantile=0.5)(seen).item() == pytest.approx(0.8)
    assert AtLeast(signal="place", bound=-1.0)(seen).item() == pytest.approx(0.5)
    box = KeepOut(low={"place": 2.5}, high={"place": np.inf})
    assert box(rollout_of({"place": values})).item() == pytest.approx(1.5)  # one sample is inside
    assert box(seen).item() == 0.0  # the band reaches 2.0
    assert KeepOut(low={"place": 1.8}, high={"place": 9.0})(seen).item() == pytest.approx(0.2)
    other = rollout_of({"place": values}, margin={"heat": np.ones((3, 1))})
    assert AtMost(signal="place", bound=1.2)(other).item() == pytest.approx(2.8)
