from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.audit.carts import SCHEMA, Cart, carts, world

from worldline.audit import measures
from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.audit.measures import joint_coverage, leak_check, participation, rank_of, trusted_horizons
from worldline.audit.queries import window_forecasts
from worldline.audit.run import comparisons
from worldline.data.windows import evenly_spaced_windows
from worldline.world.base import Forecast

EPISODES = carts(0, 60)
WINDOWS = evenly_spaced_windows(EPISODES, length=3, horizon=6, per_episode=2)


def diagnosed(engine: Cart) -> Diagnostics:
    return diagnose(
        world(engine), WINDOWS, comparisons=comparisons(carts(100, 40), Cart().describe()), horizons=(1, 6), seed=0
    )


@pytest.mark.parametrize(("peeks", "leaks"), [(0.0, False), (1e-7, False), (1e-3, True)])
def test_a_peek_is_found_and_rounding_is_not(peeks: float, leaks: bool) -> None:
    found = leak_check(world(Cart(peeks=peeks)), WINDOWS)
    assert found.leaks is leaks
    assert found.num_checked > 0


@pytest.mark.parametrize(("peeks", "leaks"), [(0.0, False), (0.1, True)])
def test_no_offset_hides_a_peek(peeks: float, leaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pressure in Pa is about 1e5, whatever moves it; one that never moves beside it changes nothing."""
    said = measures._predict

    def lifted(*args: Any) -> Any:
        found = said(*args)
        return replace(found, signals={name: _lifted(one) for name, one in found.signals.items()})

    monkeypatch.setattr(measures, "_predict", lifted)
    assert leak_check(world(Cart(peeks=peeks)), WINDOWS).leaks is leaks


def _lifted(one: Forecast) -> Forecast:
    mean = one.mean + np.float32(1e5)
    return replace(one, mean=np.concatenate([mean, 1e9 + 0 * mean], -1), low=None, high=None)


def test_a_prediction_that_is_lost_to_a_later_action_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = list[Any](), measures._predict

    def losing(*args: Any) -> Any:
        asked.append(args)
        found = said(*args)
        lost = {name: replace(one, mean=one.mean * np.nan) for name, one in found.signals.items()}
        return replace(found, signals=lost) if len(asked) > 1 else found

    monkeypatch.setattr(measures, "_predict", losing)
    assert leak_check(world(Cart()), WINDOWS).leaks


@pytest.mark.parametrize(("engine", "steps"), [(Cart(), 6), (Cart(gain=0.0), 0), (Cart(decay=1.0, gain=-1.0), 0)])
def test_trust_goes_as_far_as_the_trivial_is_beaten(engine: Cart, steps: int) -> None:
    found = diagnosed(engine)
    trusted = trusted_horizons(found, {"place": float(WINDOWS.truth["place"].std())}, {"place": 5.0})[0]
    assert trusted.steps == steps
    assert (trusted.stops == "") == (steps == 6)


def test_coverage_counts_one_window_an_episode() -> None:
    held = joint_coverage(world(Cart()), WINDOWS, level=0.9, num_calibration=60, seed=0)[0]
    assert held.inside.trials == 60
    assert held.verdict == "holds"
    narrow = joint_coverage(world(Cart(), narrow=0.5), WINDOWS, level=0.9, num_calibration=60, seed=0)[0]
    assert narrow.verdict == "narrow"
    wide = joint_coverage(world(Cart(), narrow=4.0), WINDOWS, level=0.5, num_calibration=60, seed=0)[0]
    assert wide.verdict == "wide"


def test_coverage_counts_only_what_was_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A band without ends holds everything, and one that is no number nothing."""
    known = WINDOWS.known["place"].copy()
    known[WINDOWS.episode < 20] = False
    asked: dict[str, Any] = {"level": 0.9, "num_calibration": 60, "seed": 0}
    held = joint_coverage(world(Cart()), replace(WINDOWS, known={"place": known}), **asked)[0]
    assert held.inside.trials == 40
    endless = joint_coverage(world(Cart(), narrow=np.nan), WINDOWS, **asked)[0]
    assert (endless.inside.successes, endless.verdict) == (60, "wide")
    unseen = replace(WINDOWS, known={"place": np.zeros_like(known)})
    assert joint_coverage(world(Cart()), unseen, **asked) == ()

    def lost(*given: Any, **named: Any) -> dict[str, Forecast]:
        return {name: replace(one, low=np.nan * one.mean) for name, one in window_forecasts(*given, **named).items()}

    monkeypatch.setattr(measures, "window_forecasts", lost)
    assert joint_coverage(world(Cart()), WINDOWS, **asked)[0].inside.successes == 0


def test_trust_needs_something_that_moves_and_counts_who_is_right_at_a_step() -> None:
    found = diagnosed(Cart())
    assert trusted_horizons(found, {"place": 0.0}, {"place": 1e9}) == ()
    exact = [
        replace(one, rmse=replace(one.rmse, value=(*one.rmse.value[:3], 0.0, *one.rmse.value[4:])))
        if one.world == "persistence"
        else one
        for one in found.errors
    ]
    skills = tuple(one for one in found.skills if one.against != "persistence")  # no share of nothing
    told = trusted_horizons(replace(found, errors=tuple(exact), skills=skills), {"place": 1.0}, {"place": 5.0})
    assert [(one.steps, one.stops) for one in told] == [(3, "persistence")]


@pytest.mark.parametrize(("off", "told"), [(0.5, []), (5.0, [(0, "persistence")]), (np.nan, [(0, "persistence")])])
def test_a_world_that_moves_what_never_moves_is_not_to_be_trusted_on_it(off: float, told: list[Any]) -> None:
    """In the logs a valve is at 100 all the time."""
    found = diagnosed(Cart())
    rmse = {"": (0.0, *[off] * 5), "persistence": (0.0,) * 6}
    errors = tuple(replace(one, rmse=replace(one.rmse, value=rmse.get(one.world, (0.0,) * 6))) for one in found.errors)
    trusted = trusted_horizons(replace(found, errors=errors, skills=()), {"place": 0.0}, {"place": 100.0})
    assert [(one.steps, one.stops) for one in trusted] == told


def test_rank_is_that_of_what_is_predicted() -> None:
    right = rank_of(world(Cart()), WINDOWS, SCHEMA.observations)
    assert not right.collapsed
    assert "(participation ratio) of 1, the observations of 1, with 1\u00a0component" in right.sentence().text
    constant = rank_of(world(Cart(constant=1.0)), WINDOWS, SCHEMA.observations)
    assert constant.collapsed
    assert constant.predicted == 0.0
    draw = np.random.default_rng(0)
    assert participation(draw.normal(size=(4000, 3))) == pytest.approx(3.0, abs=0.05)
    assert participation(np.repeat(draw.normal(size=(100, 1)), 3, 1)) == pytest.approx(1.0)
