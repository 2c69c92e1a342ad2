from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldline.contracts.engine import Samples
from worldline.costs.goal import AtLeast, AtMost, KeepOut, goal_cost
from worldline.errors import ConfigError, InputError, UnknownNameError

SHAPE = (2, 3, 4, 5)  # W, N, S, T
numbers = st.floats(-100, 100)
vectors = arrays(np.float64, (*SHAPE, 2), elements=numbers)


def samples(**signals: np.ndarray) -> Samples:
    return Samples(signals=signals)


def constant(value: list[float]) -> Samples:
    return samples(place=np.broadcast_to(np.array(value), (*SHAPE, len(value))).copy())


def test_cost_by_hand() -> None:
    imagined = samples(place=np.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 1, 1, 2, 2))  # 2 steps, 2 components
    cost = goal_cost(imagined, {"place": np.array([[0.0, 1.0]])}, {"place": 2.0})
    # step 1: (1/4 + 4/4) / 2; step 2: (4/4 + 1/4) / 2
    assert cost.tolist() == [[1.25]]


def test_cost_adds_signals_averages_samples_and_takes_a_scale_per_component() -> None:
    imagined = samples(
        place=np.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1).repeat(2, -1),  # 2 samples
        heat=np.full((1, 1, 2, 1, 1), 7.0),
    )
    targets = {"place": np.zeros((1, 2)), "heat": np.array([[5.0]])}
    cost = goal_cost(imagined, targets, {"place": np.array([1.0, 10.0]), "heat": 1.0})
    assert cost.item() == pytest.approx((1 + 9) / 2 * (1 + 0.01) / 2 + 4)


def test_labels_are_right_or_wrong() -> None:
    imagined = samples(gear=np.array([0, 3, 1]).reshape(1, 1, 1, 3))
    assert goal_cost(imagined, {"gear": np.array([1])}, {"gear": 1.0}).tolist() == [[2.0]]


@given(values=vectors, target=arrays(np.float64, (2, 2), elements=numbers), scale=st.floats(0.1, 10))
def test_cost_is_never_negative_and_zero_only_at_the_goal(values: np.ndarray, target: np.ndarray, scale: float) -> None:
    cost = goal_cost(samples(place=values), {"place": target}, {"place": scale})
    assert cost.shape == SHAPE[:2]
    assert (cost >= 0).all()
    there = np.broadcast_to(target[:, None, None, None], values.shape)
    assert (goal_cost(samples(place=there), {"place": target}, {"place": scale}) == 0).all()


@given(values=vectors, shift=arrays(np.float64, (2, 2), elements=numbers), factor=st.floats(0.1, 10))
def test_cost_depends_neither_on_the_origin_nor_on_the_unit(
    values: np.ndarray, shift: np.ndarray, factor: float
) -> None:
    target = np.ones((2, 2))
    before = goal_cost(samples(place=values), {"place": target}, {"place": 2.0})
    moved = factor * (values + shift[:, None, None, None])
    after = goal_cost(samples(place=moved), {"place": factor * (target + shift)}, {"place": 2.0 * factor})
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)


def test_cost_does_not_mix_worlds_or_versions() -> None:
    values = np.zeros((*SHAPE, 2))
    values[1, 2] = 9.0
    cost = goal_cost(samples(place=values), {"place": np.array([[0.0, 0.0], [9.0, 9.0]])}, {"place": 1.0})
    assert cost.tolist() == [[0.0, 0.0, 0.0], [405.0, 405.0, 0.0]]


@pytest.mark.parametrize(
    ("targets", "scale", "error", "message"),
    [
        ({}, {}, InputError, "no target"),
        ({"plase": np.zeros((2, 2))}, {"plase": 1.0}, UnknownNameError, "'place'"),
        ({"place": np.zeros((2, 2))}, {}, UnknownNameError, "no scale"),
        ({"place": np.zeros((2, 2))}, {"place": 0.0}, InputError, "above 0"),
        ({"place": np.zeros(2)}, {"place": 1.0}, InputError, r"\(2,\).*\(2, 2\)"),
        ({"place": np.zeros((2, 3))}, {"place": 1.0}, InputError, r"\(2, 3\).*\(2, 2\)"),
    ],
)
def test_cost_refuses(targets: dict, scale: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        goal_cost(constant([0.0, 0.0]), targets, scale)


@given(values=vectors, bound=numbers)
def test_bounds_report_the_worst_excess_in_the_unit_of_the_signal(values: np.ndarray, bound: float) -> None:
    imagined = samples(place=values)
    above, below = AtMost(signal="place", bound=bound)(imagined), AtLeast(signal="place", bound=bound)(imagined)
    assert above == pytest.approx(np.maximum(values.max((2, 3, 4)) - bound, 0))
    assert below == pytest.approx(np.maximum(bound - values.min((2, 3, 4)), 0))
    mirrored = AtMost(signal="place", bound=-bound)(samples(place=-values))
    assert below == pytest.approx(mirrored)


@given(values=vectors, bound=numbers, quantiles=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_smaller_quantile_never_reports_more(
    values: np.ndarray, bound: float, quantiles: tuple[float, float]
) -> None:
    imagined = samples(place=values)
    lax, strict = (AtMost(signal="place", bound=bound, quantile=q)(imagined) for q in sorted(quantiles))
    assert (lax <= strict).all()


def test_a_quantile_forgives_that_share_of_the_samples() -> None:
    values = np.zeros((1, 1, 10, 3, 1))
    values[0, 0, 4, 1] = 5.0  # one sample of ten, at one step
    imagined = samples(place=values)
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
    violation = KeepOut(low={"place": tuple(low)}, high={"place": tuple(high)})(samples(place=values))
    inside = ((values > low) & (values < high)).all(-1).any((2, 3))
    assert ((violation > 0) == inside).all()
    assert (violation <= min(size) / 2 + 1e-9).all()


def test_keep_out_measures_the_way_to_the_nearest_face() -> None:
    box = KeepOut(low={"place": (0.0, 0.0)}, high={"place": (10.0, 4.0)})
    assert (box(constant([5.0, 3.5])) == 0.5).all()
    assert (box(constant([1.0, 2.0])) == 1.0).all()
    assert (box(constant([5.0, 4.0])) == 0.0).all()


def test_keep_out_of_a_box_in_two_signals_and_without_some_faces() -> None:
    imagined = samples(place=constant([5.0]).signals["place"], heat=constant([90.0]).signals["place"])
    rule = KeepOut(low={"place": 3.0, "heat": 80.0}, high={"place": np.inf, "heat": np.inf})
    assert (rule(imagined) == 2.0).all()
    cold = samples(place=imagined.signals["place"], heat=imagined.signals["heat"] - 50)
    assert (rule(cold) == 0.0).all()


@pytest.mark.parametrize(
    "rule",
    [
        AtMost(signal="place", bound=1.0),
        AtLeast(signal="place", bound=1.0),
        KeepOut(low={"place": 0.0}, high={"place": 1.0}),
    ],
)
def test_nan_stays_nan_so_that_a_planner_discards_it(rule: AtMost | AtLeast | KeepOut) -> None:
    values = np.zeros((*SHAPE, 2))
    values[0, 1, 2, 3, 0] = np.nan
    violation = rule(samples(place=values))
    assert np.isnan(violation).tolist() == [[False, True, False], [False, False, False]]


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
        AtLeast(signal="gear", bound=1.0)(samples(gear=np.zeros(SHAPE, int)))
