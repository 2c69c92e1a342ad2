from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldline.catalog.comparison import LEVEL, Backtest, backtest_of, compare_forecasts
from worldline.episode import Episode, History
from worldline.errors import InputError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.base import Forecast, Prediction
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.0, camera=False, wind=False)


@pytest.fixture
def exact(toy_bundle: Callable[..., Path], open_toy: Callable[[Path], LocalWorld]) -> LocalWorld:
    return open_toy(toy_bundle(0.0))


@pytest.fixture
def biased(toy_bundle: Callable[..., Path], open_toy: Callable[[Path], LocalWorld]) -> LocalWorld:
    return open_toy(toy_bundle(0.5))


def foretold(world: LocalWorld, asked: Backtest) -> Prediction:
    return world.predict(asked.before, asked.actions, exogenous=asked.exogenous, level=LEVEL)


def episode() -> Episode:
    return TOY.episodes(1, 9, seed=0)[0]


def whole(one: Episode) -> History:
    return one.history(one.num_steps, one.num_steps + 1)


def test_the_last_four_steps_are_asked_again(exact: LocalWorld) -> None:
    card, one = exact.describe(), episode()
    asked = backtest_of(whole(one), card, card)
    np.testing.assert_array_equal(asked.before.observations["position"], one.observations["position"][:6])
    np.testing.assert_array_equal(asked.before.actions["push"], one.actions["push"][:5])
    np.testing.assert_array_equal(asked.actions["push"], one.actions["push"][5:])
    np.testing.assert_array_equal(asked.truth["position"], one.observations["position"][5:])


def test_the_larger_context_is_kept_in_front(exact: LocalWorld) -> None:
    card = exact.describe()
    asked = backtest_of(whole(episode()), card, replace(card, context=8))
    assert (len(asked.before.observations["position"]), len(asked.actions["push"])) == (8, 2)
    with pytest.raises(InputError, match=r"at least 11 observations, got 10\. Use histories of 14"):
        backtest_of(whole(episode()), card, replace(card, context=10))


def test_errors_are_those_that_are_known(exact: LocalWorld, biased: LocalWorld) -> None:
    asked = backtest_of(whole(episode()), exact.describe(), biased.describe())
    found = compare_forecasts(asked, foretold(exact, asked), foretold(biased, asked))["position"]
    off, total = 0.0, 0.0
    for _ in range(4):
        off = 0.9 * off + 0.5
        total += off / 4
    assert found.serving == pytest.approx(0.0, abs=1e-6)
    assert found.candidate == pytest.approx(total, abs=1e-6)
    path = asked.truth["position"].astype(np.float64)
    assert (found.change, found.inside_serving) == (pytest.approx(np.abs(path[1:] - path[:1]).mean()), None)


def test_a_batch_is_the_mean_of_its_worlds(exact: LocalWorld, biased: LocalWorld) -> None:
    episodes = TOY.episodes(3, 9, seed=1)
    together = History(
        observations={"position": np.stack([one.observations["position"] for one in episodes])},
        actions={"push": np.stack([one.actions["push"] for one in episodes])},
    )
    changes = []
    for one in episodes:
        asked = backtest_of(whole(one), exact.describe(), biased.describe())
        changes.append(compare_forecasts(asked, foretold(exact, asked), foretold(biased, asked))["position"].change)
    asked = backtest_of(together, exact.describe(), biased.describe())
    assert compare_forecasts(asked, foretold(exact, asked), foretold(biased, asked))[
        "position"
    ].change == pytest.approx(np.mean(changes))


def test_what_was_not_observed_does_not_count(exact: LocalWorld, biased: LocalWorld) -> None:
    one = episode()
    position = one.observations["position"].copy()
    position[-2] = np.nan
    seen = np.ones(10, bool)
    seen[-2] = False
    gap = History(observations={"position": position}, actions=one.actions, observed={"position": seen})
    asked = backtest_of(gap, exact.describe(), biased.describe())
    found = compare_forecasts(asked, foretold(exact, asked), foretold(biased, asked))["position"]
    assert found.serving == pytest.approx(0.0, abs=1e-6)
    assert found.candidate == pytest.approx(np.mean([0.5, 0.95, 0.5 * (1 + 0.9 + 0.81 + 0.729)]), abs=1e-6)
    none = replace(gap, observed={"position": np.arange(10) < 6}, observations={"position": np.nan_to_num(position)})
    asked = backtest_of(none, exact.describe(), biased.describe())
    assert compare_forecasts(asked, foretold(exact, asked), foretold(biased, asked)) == {}


def test_bands_hold_what_they_promise(world: LocalWorld, fresh: list[Episode]) -> None:
    card, inside = world.describe(), []
    for one in fresh[:200]:
        asked = backtest_of(whole(one), card, card)
        answer = foretold(world, asked)
        found = compare_forecasts(asked, answer, answer)["position"]
        assert found.inside_serving == found.inside_candidate
        inside.append(found.inside_serving)
    assert 0.82 <= np.mean([one for one in inside if one is not None]) <= 0.97


def test_the_shorter_way_round_counts() -> None:
    angle = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
    asked = Backtest(
        before=History(observations={}, actions={}), actions={}, exogenous=None,
        truth={"angle": np.array([[350.0], [355.0]])}, observed={"angle": np.ones(2, bool)},
        signals=Schema(signals=(angle,)).observations, batch=False,
    )  # fmt: skip
    near, wide = np.array([[2.0]]), np.array([[8.0]])

    def said(half: np.ndarray) -> Prediction:
        forecast = Forecast(mean=near, low=near - half, high=near + half, horizon=1)
        return Prediction(signals={"angle": forecast}, level=0.9, trust=1.0, calibrated=True)

    found = compare_forecasts(asked, said(wide), said(near))["angle"]
    assert (found.serving, found.change) == (7.0, 5.0)
    assert (found.inside_serving, found.inside_candidate) == (1.0, 0.0)


def test_a_candidate_that_predicts_no_number_has_failed(exact: LocalWorld) -> None:
    """Other programs behind a remote world may return NaN."""
    asked = backtest_of(whole(episode()), exact.describe(), exact.describe())
    good = foretold(exact, asked)
    nothing = {name: replace(one, mean=np.full_like(one.mean, np.nan)) for name, one in good.signals.items()}
    broken = replace(good, signals=nothing)
    with pytest.raises(InputError, match="'position' is not finite"):
        compare_forecasts(asked, good, broken)
    assert compare_forecasts(asked, broken, good) == {}


def test_a_signal_that_both_predict_has_to_be_there(exact: LocalWorld) -> None:
    card = exact.describe()
    with pytest.raises(InputError, match="no vector that both versions predict"):
        backtest_of(whole(episode()), card, replace(card, predicts=()))
