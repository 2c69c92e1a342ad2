from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom
from tests.audit.carts import DECAY, GAIN, SCHEMA, Cart, carts, rows, world

from worldline.audit import effects as module
from worldline.audit.baselines import as_world
from worldline.audit.effect_measurement import worst_effect
from worldline.audit.effects import changes, effects_table, log_effects, world_effects
from worldline.audit.measured import Effect
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Floats

EPISODES = carts(0, 60)
ROWS = rows(EPISODES)
WINDOWS = evenly_spaced_windows(EPISODES, length=3, horizon=6, per_episode=2)
HELD = np.ones((1, 6))


def table(effect: Floats, logs: Floats | None = None, *, schema: Schema = SCHEMA, **options: Any) -> tuple[Effect, ...]:
    """The effects of a world that predicts this effect on the first observation, as these logs show them."""
    asked = {"windows": WINDOWS, "lags": (1,), "identifiable": {"push": True}, "seed": 0, **options}
    signal = schema.observations[0].name
    return effects_table(schema, changes(schema, ROWS), {signal: effect}, logs, ROWS, **asked)


def test_the_logs_tell_the_law() -> None:
    changed = changes(SCHEMA, ROWS)
    found = log_effects(SCHEMA, ROWS, changed, HELD, seed=0)
    due = changed[0].size * GAIN * np.cumsum(DECAY ** np.arange(6))
    np.testing.assert_allclose(found[0, 0, :, 0], due, atol=0.06)
    low, high = np.quantile(found[1:, 0, 0, 0], (0.025, 0.975))
    assert low < due[0] < high
    assert high - low < 0.05


def test_adjusting_for_what_was_seen_undoes_what_a_controller_does_to_a_naive_slope() -> None:
    """A push that leans against the place goes with its change; given the place the slope is the gain."""

    def leaning(place: float, draw: np.random.Generator) -> float:
        return float(np.clip(-0.8 * place + 0.5 * draw.normal(), -3, 3))

    logs = rows(carts(0, 60, leaning))
    naive = np.polyfit(logs.action[:, 0], logs.after[:, 0], 1)[0]
    changed = changes(SCHEMA, logs)
    found = log_effects(SCHEMA, logs, changed, HELD, seed=0)
    assert found[0, 0, 0, 0] / changed[0].size == pytest.approx(GAIN, abs=0.06)
    assert abs(naive - GAIN) > 0.3


@pytest.mark.filterwarnings("error")
def test_effects_of_a_world_without_a_finite_number_are_not_finite() -> None:
    lost = np.full((1, len(WINDOWS.episode), 6, 1), np.nan)
    assert np.isnan([one.world.value for one in table(lost)]).all()


def test_pushes_at_their_bounds_are_changed_the_other_way() -> None:
    windows = evenly_spaced_windows(
        [carts(number, 1, lambda place, draw: 3.0)[0] for number in range(4)], length=3, horizon=2, per_episode=1
    )
    predicted, shares = world_effects(world(Cart()), windows, changes(SCHEMA, ROWS), SCHEMA.observations)
    np.testing.assert_allclose(predicted["place"][0, :, 0, 0], changes(SCHEMA, ROWS)[0].size, rtol=1e-4)
    np.testing.assert_allclose(shares, np.ones((1, 2)), rtol=1e-6)


ANGLE = replace(SCHEMA["place"], name="angle", unit="deg", period=360.0)
DIAL = Schema(signals=(ANGLE, replace(SCHEMA["push"], low=None, high=None)), step_s=1.0)


def dials(first: int, count: int, *, drift: float, swing: float) -> list[Episode]:
    """A dial that each push turns; it drifts, and goes on by a share of its last turn."""
    episodes = []
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        pushes, angles = draw.normal(size=30) * 10, [draw.uniform(0, 360)]
        turn = 0.0
        for push in pushes:
            turn = swing * turn + drift + push + draw.normal() * 0.1
            angles.append(angles[-1] + turn)
        episodes.append(
            Episode(observations={"angle": np.mod(angles, 360)[:, None]}, actions={"push": pushes[:, None]})
        )
    return episodes


@pytest.mark.parametrize(("drift", "swing"), [(20.0, 0.0), (0.0, 0.5)])
def test_the_logs_tell_what_turns_an_angle_past_its_seam(drift: float, swing: float) -> None:
    """A held change turns it by more than a full turn."""
    logs = rows(dials(0, 40, drift=drift, swing=swing), DIAL)
    changed = changes(DIAL, logs)
    found = log_effects(DIAL, logs, changed, np.ones((1, 40)), seed=0)
    due = changed[0].size * np.cumsum(np.cumsum(swing ** np.arange(40)))
    assert due[-1] > 360
    np.testing.assert_allclose(found[0, 0, :, 0], due, rtol=0.02)
    np.testing.assert_allclose(found[1:, 0, :, 0].mean(0), due, rtol=0.02)


def test_effects_on_an_angle_are_the_shorter_way_round() -> None:
    """A change that would turn it by 270 degrees turns it back by 90, as a world's prediction would say."""
    logs = rows(dials(0, 40, drift=0.0, swing=0.0), DIAL)
    found = log_effects(DIAL, logs, [replace(changes(DIAL, logs)[0], size=270.0)], np.ones((1, 1)), seed=0)
    assert found[0, 0, 0, 0] == pytest.approx(-90.0, abs=1.0)


def test_an_angle_near_its_seam_spreads_no_further_than_elsewhere() -> None:
    """By its spread an effect is judged to be one at all."""
    spreads = []
    for middle in (180.0, 0.0):
        angles = np.mod(middle + np.random.default_rng(0).normal(size=WINDOWS.truth["place"].shape), 360)
        one = replace(WINDOWS, truth={"angle": angles}, known={"angle": WINDOWS.known["place"]})
        spreads.append(table(np.ones((1, len(WINDOWS.episode), 1, 1)), schema=DIAL, windows=one)[0].spread)
    assert spreads[1] == pytest.approx(spreads[0], rel=1e-6)


def test_steps_that_were_not_observed_do_not_change_the_spread() -> None:
    known = np.random.default_rng(0).random(WINDOWS.known["place"].shape) < 0.7
    truth = np.where(known[..., None], WINDOWS.truth["place"], np.nan)
    spreads = [
        table(np.ones((1, len(known), 1, 1)), windows=one)[0].spread
        for one in (WINDOWS, replace(WINDOWS, truth={"place": truth}, known={"place": known}))
    ]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.1)


def test_values_that_were_never_chosen_are_no_change_and_nothing_is_compared_with_them() -> None:
    """Of four gears three were used, each of which moves the cart as far as its number, and the last never."""
    signal = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=4)
    schema, episodes = Schema(signals=(SCHEMA["place"], signal), step_s=1.0), []
    for number in range(40):
        draw = np.random.default_rng(number)
        gears = draw.choice(3, 30, p=(0.2, 0.5, 0.3))
        places = np.concatenate([[0.0], np.cumsum(gears - 1.0 + 0.01 * draw.normal(size=30))])
        episodes.append(Episode(observations={"place": places[:, None].astype(np.float32)}, actions={"gear": gears}))
    logs = rows(episodes, schema)
    changed = changes(schema, logs)
    assert [(one.name, one.base) for one in changed] == [("gear=0", 1), ("gear=2", 1)]
    found = log_effects(schema, logs, changed, np.ones((2, 1)), seed=0)
    np.testing.assert_allclose(found[0, :, 0, 0], [-1.0, 1.0], atol=0.01)


def test_what_never_moves_has_no_effect_and_random_steps_tell_the_next_one_alone() -> None:
    effect = np.ones((1, len(WINDOWS.episode), 2, 1))
    still = replace(WINDOWS, truth={"place": np.full_like(WINDOWS.truth["place"], 0.1)})
    assert table(effect, windows=still, lags=(1, 2)) == ()
    for at_once, later in ((False, "not resolved"), (True, "not identifiable")):
        agreements = [each.agreement for each in table(effect, lags=(1, 2), at_once=at_once)]
        assert agreements == ["not resolved", later]


def plants(
    seed: int, count: int, draw_push: Callable[[np.random.Generator, int], Floats], **law: float
) -> list[Episode]:
    """First-order lags: each place is `decay` times the last one, plus `gain` times the push, plus noise."""
    draw, num_steps, episodes = np.random.default_rng(seed), 60, []
    for _ in range(count):
        pushes, places = draw_push(draw, num_steps), [draw.normal() * law["start"]]
        for push in pushes:
            places.append(law["decay"] * places[-1] + law["gain"] * push + law["noise"] * draw.normal())
        observations = {"place": np.array(places, np.float32)[:, None]}
        episodes.append(Episode(observations=observations, actions={"push": pushes[:, None].astype(np.float32)}))
    return episodes


def plant_effects(engine: Cart, episodes: list[Episode], lags: tuple[int, ...], seed: int = 0) -> tuple[Effect, ...]:
    """The effects table of a world of plants."""
    logs = rows(episodes)
    windows = evenly_spaced_windows(episodes, length=3, horizon=lags[-1], per_episode=2)
    changed = changes(SCHEMA, logs)
    predicted, shares = world_effects(as_world(engine), windows, changed, SCHEMA.observations)
    logged = log_effects(SCHEMA, logs, changed, shares, seed=seed)
    return effects_table(
        SCHEMA, changed, predicted, logged, logs, windows, lags=lags, identifiable={"push": True}, seed=seed
    )


def held_pushes(draw: np.random.Generator, num_steps: int) -> Floats:
    """Random levels that are held for 15 steps."""
    return np.repeat(draw.uniform(-3, 3, num_steps // 15), 15)


def on_off(draw: np.random.Generator, num_steps: int) -> Floats:
    """A valve that is open or closed; every push is at a bound."""
    return draw.choice([-3.0, 3.0], num_steps)


def white(draw: np.random.Generator, num_steps: int) -> Floats:
    return draw.normal(size=num_steps).clip(-3, 3)


SLOW = float(np.exp(-1 / 200))


@pytest.mark.parametrize("pushes", [held_pushes, on_off])
@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (Cart(decay=SLOW, gain=1 - SLOW), {"agrees"}),
        (Cart(decay=SLOW, gain=2 - 2 * SLOW), {"apart"}),
        (Cart(decay=SLOW, gain=SLOW - 1), {"opposite"}),
        (Cart(constant=0.0), {"apart", "opposite"}),
    ],
    ids=["right", "double", "inverted", "ignores the action"],
)
def test_the_main_path_of_a_slow_plant_is_an_effect(
    pushes: Callable[[np.random.Generator, int], Floats], engine: Cart, expected: set[str]
) -> None:
    """With a time constant of 200 steps, one changed step moves the place by less than 2 % of its deviation."""
    episodes = plants(0, 40, pushes, decay=SLOW, gain=1 - SLOW, noise=0.002, start=1.0)
    effects = plant_effects(engine, episodes, (1, 2, 5, 10, 20))
    assert worst_effect(effects).agreement in expected
    assert {one.agreement for one in effects} <= expected
    assert effects[-1].logs.value == pytest.approx(effects[-1].change * (1 - SLOW**20), rel=0.1)


@pytest.mark.parametrize(("count", "expected"), [(400, "none"), (10, "not resolved")])
def test_a_signal_that_no_action_affects_is_not_resolved_before_there_is_enough_data(count: int, expected: str) -> None:
    episodes = plants(1, count, white, decay=0.2, gain=0.0, noise=0.3, start=0.3)
    assert {one.agreement for one in plant_effects(Cart(decay=0.2, gain=1e-9), episodes, (1, 2, 5))} == {expected}


def test_false_alarms_without_an_effect_keep_their_level() -> None:
    """30 logs of few episodes: claimed effects at a lag, and tables with a difference from a right world."""
    num_claimed, num_alarms, num_logs = np.zeros(3), 0, 30
    for seed in range(num_logs):
        episodes = plants(seed, 12, white, decay=0.8, gain=0.0, noise=0.3, start=0.5)
        effects = plant_effects(Cart(decay=0.8, gain=1e-9), episodes, (1, 5, 10), seed)
        num_claimed += [one.logs is not None and (one.logs.low > 0 or one.logs.high < 0) for one in effects]
        num_alarms += any(one.agreement in ("apart", "opposite", "agrees") for one in effects)
    most = binom.ppf(0.9999, num_logs, module.TEST_LEVEL)
    assert (num_claimed <= most).all()
    assert num_alarms <= most


def words(logs: float, error: float, own: float, *, num_equal: int = 0) -> str:
    """The word for an effect in the logs and one in the world, in units of the smallest effect that matters.

    The table has `num_equal` more effects, which are equal in world and logs.
    """
    lags = range(1, 2 + num_equal)
    unit = module.MIN_EFFECT_SHARE * table(np.ones((1, len(WINDOWS.episode), 1, 1)))[0].spread
    draws = np.concatenate([[0.0], ndtri((np.arange(module.NUM_FITS) + 0.5) / module.NUM_FITS)])
    logged = unit * (logs + error * draws)[:, None, None, None] * np.ones((1, 1, len(lags), 1))
    predicted = (
        unit * np.array([own, *[logs] * num_equal])[None, None, :, None] * np.ones((1, len(WINDOWS.episode), 1, 1))
    )
    return table(predicted, logged, lags=lags)[0].agreement


@pytest.mark.parametrize(
    ("logs", "error", "own", "expected"),
    [
        (0.0, 0.1, 0.0, "none"),
        (0.5, 0.1, 0.0, "none"),  # its interval excludes 0, but it is too small to matter
        (0.5, 0.1, 3.0, "apart"),  # only the world has an effect
        (0.0, 2.0, 0.0, "not resolved"),
        (0.9, 0.3, 0.0, "apart"),  # its interval excludes 0 and reaches beyond the margin
        (10.0, 0.5, 10.0, "agrees"),
        (10.0, 0.5, 5.0, "apart"),
        (10.0, 0.5, -5.0, "opposite"),
        (10.0, 4.0, 6.0, "not resolved"),
    ],
)
def test_each_word_is_the_result_of_its_test(logs: float, error: float, own: float, expected: str) -> None:
    assert words(logs, error, own) == expected


def test_differences_are_corrected_for_the_number_of_effects() -> None:
    """The difference is 2.7 standard errors: significant alone, and not as the largest of eleven."""
    assert words(10.0, 1.0, 7.3) == "apart"
    assert words(10.0, 1.0, 7.3, num_equal=10) == "not resolved"
