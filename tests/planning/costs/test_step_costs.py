from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.planning.costs.rollouts import rollout_of

from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.planning.base import Rollout
from worldline.planning.costs import Change, Price, Track, Within

HEAT = np.array([[[[20.0, 24.0, 30.0]]]])[..., None]  # one world, plan and sample; 3 steps
VALVE = np.array([[0.0, 0.5, 0.5], [1.0, 1.0, 0.0]])[None, :, None, :, None]  # two plans, whatever the sample


def rollout(**present: float) -> Rollout:
    return rollout_of({"heat": HEAT, "valve": VALVE}, present={n: np.array([[v]]) for n, v in present.items()})


def test_tracking_a_reference_that_may_be_longer_than_the_plan() -> None:
    cost = Track(signal="heat", reference=[[20.0], [22.0], [33.0], [99.0]], tolerance=2.0)
    assert cost(rollout()).tolist() == [[[[0.0, 1.0, 2.25]]]]


def test_a_range_costs_nothing_inside() -> None:
    assert Within(signal="heat", low=21.0, high=26.0, tolerance=2.0)(rollout()).tolist() == [[[[0.25, 0.0, 4.0]]]]
    assert Within(signal="heat", low=-np.inf, high=26.0, tolerance=2.0)(rollout()).tolist() == [[[[0.0, 0.0, 4.0]]]]


def test_a_range_may_change_over_time() -> None:
    falling = np.array([[21.0], [20.0], [20.0], [0.0]])
    assert Within(signal="heat", low=falling, high=26.0, tolerance=2.0)(rollout()).tolist() == [[[[0.25, 0.0, 4.0]]]]
    night = np.array([[22.0], [22.0], [28.0]])
    assert Within(signal="heat", low=falling, high=night, tolerance=1.0)(rollout()).tolist() == [[[[1.0, 4.0, 4.0]]]]


def test_prices_of_what_is_done() -> None:
    assert Price(signal="valve", price=3.0)(rollout())[0, :, 0].tolist() == [[0.0, 1.5, 1.5], [3.0, 3.0, 0.0]]
    rising = Price(signal="valve", price=np.array([[1.0], [2.0], [4.0], [8.0]]))
    assert rising(rollout())[0, :, 0].tolist() == [[0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]


def test_each_component_has_its_price_and_its_tolerance() -> None:
    both = rollout_of({"pair": np.array([1.0, 2.0]).reshape(1, 1, 1, 1, 2)})
    assert Price(signal="pair", price=(10.0, -1.0))(both).item() == 8.0
    assert Track(signal="pair", reference=[[0.0, 0.0]], tolerance=(1.0, 4.0))(both).item() == pytest.approx(
        (1 + 0.25) / 2
    )


def test_changes_count_from_what_is_done_now() -> None:
    cost = Change(signal="valve", tolerance=0.5)
    assert cost(rollout(valve=1.0))[0, :, 0].tolist() == [[4.0, 1.0, 0.0], [0.0, 0.0, 4.0]]
    assert cost(rollout())[0, :, 0].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 4.0]]


def test_what_repeats_goes_the_shorter_way_round() -> None:
    turned = rollout_of(
        {"angle": np.array([170.0, -170.0]).reshape(1, 1, 1, 2, 1)},
        present={"angle": np.array([[-170.0]])},
        periods={"angle": 360.0},
    )
    assert Track(signal="angle", reference=[[-180.0], [180.0]], tolerance=10.0)(turned).tolist() == [[[[1.0, 1.0]]]]
    assert Change(signal="angle", tolerance=20.0)(turned).tolist() == [[[[1.0, 1.0]]]]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Track(signal="heat", reference=[[1.0]], tolerance=0.0), "tolerance is 0"),
    (lambda: Track(signal="heat", reference=[[np.nan]], tolerance=1.0), r"'heat' has shape \(1, 1\)\. Give finite"),
    (lambda: Within(signal="heat", low=2.0, high=1.0, tolerance=1.0), "low 2.0 of 'heat'"),
    (lambda: Within(signal="heat", low=np.ones(3), high=2.0, tolerance=1.0), r"shape \(3,\).*\[T, size\]"),
    (lambda: Within(signal="heat", low=np.array([[1.0], [3.0]]), high=2.0, tolerance=1.0), "is above high 2.0"),
    (lambda: Price(signal="heat", price=np.inf), "price of 'heat' is inf"),
    (lambda: Price(signal="heat", price=np.ones(3)), r"shape \(3,\).*\[T, size\]"),
    (lambda: Change(signal="heat", tolerance=(1.0, -1.0)), "tolerance is"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_does_not_fit_the_signal_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'heat'"):
        Change(signal="heet", tolerance=1.0)(rollout())
    with pytest.raises(InputError, match=r"shape \(2, 1\).*3 steps"):
        Track(signal="heat", reference=[[1.0], [1.0]], tolerance=1.0)(rollout())
    with pytest.raises(InputError, match=r"shape \(3, 2\).*1 components"):
        Price(signal="heat", price=np.zeros((3, 2)))(rollout())
    with pytest.raises(InputError, match=r"shape \(2, 1\).*3 steps"):
        Within(signal="heat", low=np.zeros((2, 1)), high=1.0, tolerance=1.0)(rollout())
    with pytest.raises(InputError, match="1 components"):
        Within(signal="heat", low=(0.0, 0.0), high=1.0, tolerance=1.0)(rollout())
