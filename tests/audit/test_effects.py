from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.audit.carts import DECAY, GAIN, SCHEMA, Cart, carts, thermostat, world

from worldline.audit.audit_evidence import Effect
from worldline.audit.effects import changes, effects_table, log_effects, world_effects
from worldline.audit.regression_rows import RegressionRows, rows_of, tracks_of
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

EPISODES = carts(0, 60)
ROWS = rows_of(tracks_of(EPISODES, SCHEMA), [None] * len(EPISODES))
WINDOWS = evenly_spaced_windows(EPISODES, length=3, horizon=6, per_episode=2)


def table(engine: Cart, *, identifiable: bool = True) -> tuple[Effect, ...]:
    changed = changes(SCHEMA, ROWS)
    found = world_effects(world(engine), WINDOWS, changed, SCHEMA.observations)
    logged = log_effects(SCHEMA, ROWS, changed, 6, seed=0)
    return effects_table(
        SCHEMA, changed, found, logged, ROWS, WINDOWS, lags=(1, 2, 5), identifiable={"push": identifiable}, seed=0
    )


def test_the_logs_tell_the_law() -> None:
    changed = changes(SCHEMA, ROWS)
    found = log_effects(SCHEMA, ROWS, changed, 6, seed=0)
    assert found is not None
    due = changed[0].size * GAIN * DECAY ** np.arange(6)
    np.testing.assert_allclose(found[0, 0, :, 0], due, atol=0.06)
    low, high = np.quantile(found[1:, 0, 0, 0], (0.025, 0.975))
    assert low < due[0] < high
    assert high - low < 0.05


def test_adjusting_for_what_was_seen_undoes_what_a_controller_does_to_a_naive_slope() -> None:
    """A push that leans against the place goes with its change; given the place the slope is the gain."""

    def leaning(place: float, draw: np.random.Generator) -> float:
        return float(np.clip(-0.8 * place + 0.5 * draw.normal(), -3, 3))

    episodes = carts(0, 60, leaning)
    rows = rows_of(tracks_of(episodes, SCHEMA), [None] * len(episodes))
    naive = np.polyfit(rows.action[:, 0], rows.after[:, 0], 1)[0]
    changed = changes(SCHEMA, rows)
    found = log_effects(SCHEMA, rows, changed, 2, seed=0)
    assert found is not None
    assert found[0, 0, 0, 0] / changed[0].size == pytest.approx(GAIN, abs=0.06)
    assert abs(naive - GAIN) > 0.3


@pytest.mark.parametrize(
    ("gain", "told"),
    [(1.0, "agrees"), (0.9, "agrees"), (0.7, "apart"), (0.4, "apart"), (2.0, "apart"), (-1.0, "opposite")],
)
def test_a_world_is_compared_with_the_logs(gain: float, told: str) -> None:
    found = table(Cart(gain=gain))
    assert {one.agreement for one in found} == {told}
    assert [one.lag for one in found] == [1, 2, 5]
    np.testing.assert_allclose(
        [one.world.value for one in found], found[0].change * gain * DECAY ** np.array([0, 1, 4]), rtol=1e-4
    )


def test_actions_that_never_change_have_no_effects_to_compare() -> None:
    episodes = carts(0, 10, lambda place, draw: 1.0)
    rows = rows_of(tracks_of(episodes, SCHEMA), [None] * len(episodes))
    windows = evenly_spaced_windows(episodes, length=3, horizon=6, per_episode=2)
    changed = changes(SCHEMA, rows)
    found = world_effects(world(Cart()), windows, changed, SCHEMA.observations)
    assert (changed, found, log_effects(SCHEMA, rows, changed, 6, seed=0)) == ((), {}, None)
    assert effects_table(SCHEMA, changed, found, None, rows, windows, lags=(1,), identifiable={}, seed=0) == ()


@pytest.mark.filterwarnings("error")
def test_effects_of_a_world_without_a_finite_number_are_not_finite() -> None:
    changed, lost = changes(SCHEMA, ROWS), {"place": np.full((1, len(WINDOWS.episode), 6, 1), np.nan)}
    found = effects_table(SCHEMA, changed, lost, None, ROWS, WINDOWS, lags=(1,), identifiable={"push": True}, seed=0)
    assert np.isnan([one.world.value for one in found]).all()


def test_what_cannot_be_identified_is_not_compared() -> None:
    assert {one.agreement for one in table(Cart(), identifiable=False)} == {"not identifiable"}


def test_pushes_at_their_bounds_are_changed_the_other_way() -> None:
    windows = evenly_spaced_windows(
        [carts(number, 1, lambda place, draw: 3.0)[0] for number in range(4)], length=3, horizon=2, per_episode=1
    )
    found = world_effects(world(Cart()), windows, changes(SCHEMA, ROWS), SCHEMA.observations)
    np.testing.assert_allclose(found["place"][0, :, 0, 0], changes(SCHEMA, ROWS)[0].size, rtol=1e-4)


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
    episodes = dials(0, 40, drift=drift, swing=swing)
    rows = rows_of(tracks_of(episodes, DIAL), [None] * len(episodes))
    changed = changes(DIAL, rows)
    found = log_effects(DIAL, rows, changed, 4, seed=0)
    assert found is not None
    due = changed[0].size * np.cumsum(swing ** np.arange(4))
    np.testing.assert_allclose(found[0, 0, :, 0], due, rtol=0.02)
    np.testing.assert_allclose(found[1:, 0, :, 0].mean(0), due, rtol=0.02)


def test_effects_on_an_angle_are_the_shorter_way_round() -> None:
    """A change that would turn it by 270 degrees turns it back by 90, as a world's prediction would say."""
    episodes = dials(0, 40, drift=0.0, swing=0.0)
    rows = rows_of(tracks_of(episodes, DIAL), [None] * len(episodes))
    found = log_effects(DIAL, rows, [replace(changes(DIAL, rows)[0], size=270.0)], 1, seed=0)
    assert found is not None
    assert found[0, 0, 0, 0] == pytest.approx(-90.0, abs=1.0)


def test_an_angle_near_its_seam_spreads_no_further_than_elsewhere() -> None:
    """By its spread an effect is judged to be one at all."""
    rows = [
        replace(ROWS, after=np.mod(middle + np.random.default_rng(0).normal(size=ROWS.after.shape), 360))
        for middle in (180.0, 0.0)
    ]
    spreads = []
    for one in rows:
        effect = np.ones((1, len(WINDOWS.episode), 1, 1))
        found = effects_table(
            DIAL, changes(DIAL, ROWS), {"angle": effect}, None, one, WINDOWS, lags=(1,), identifiable={"push": True},
            seed=0,
        )  # fmt: skip
        spreads.append(found[0].spread)
    assert spreads[1] == pytest.approx(spreads[0], rel=1e-6)


def test_each_value_of_a_choice_is_a_change() -> None:
    signal = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
    schema = Schema(signals=(SCHEMA["place"], signal), step_s=1.0)
    gears = [np.random.default_rng(number).integers(0, 3, 30) for number in range(4)]
    episodes = [replace(one, actions={"gear": gear}) for one, gear in zip(carts(0, 4, thermostat), gears, strict=True)]
    rows = rows_of(tracks_of(episodes, schema), [None] * 4)
    assert [one.name for one in changes(schema, rows)] == ["gear=0", "gear=1"]


def test_values_that_were_never_chosen_are_no_change_and_nothing_is_compared_with_them() -> None:
    """Of four gears three were used, each of which moves the cart as far as its number, and the last never."""
    signal = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=4)
    schema, episodes = Schema(signals=(SCHEMA["place"], signal), step_s=1.0), []
    for number in range(40):
        draw = np.random.default_rng(number)
        gears = draw.choice(3, 30, p=(0.2, 0.5, 0.3))
        places = np.concatenate([[0.0], np.cumsum(gears - 1.0 + 0.01 * draw.normal(size=30))])
        episodes.append(Episode(observations={"place": places[:, None].astype(np.float32)}, actions={"gear": gears}))
    rows = rows_of(tracks_of(episodes, schema), [None] * 40)
    changed = changes(schema, rows)
    assert [(one.name, one.base) for one in changed] == [("gear=0", 1), ("gear=2", 1)]
    found = log_effects(schema, rows, changed, 1, seed=0)
    assert found is not None
    np.testing.assert_allclose(found[0, :, 0, 0], [-1.0, 1.0], atol=0.01)


def test_what_never_moves_has_no_effect_and_random_steps_tell_the_next_one_alone() -> None:
    def table(rows: RegressionRows, at_once: bool) -> list[str]:
        effect = np.ones((1, len(WINDOWS.episode), 2, 1))
        found = effects_table(
            SCHEMA, changes(SCHEMA, ROWS), {"place": effect}, None, rows, WINDOWS, lags=(1, 2),
            identifiable={"push": True}, at_once=at_once, seed=0,
        )  # fmt: skip
        return [one.agreement for one in found]

    assert table(replace(ROWS, after=np.full_like(ROWS.after, 0.1)), at_once=False) == []
    assert table(ROWS, at_once=False) == ["unclear", "unclear"]
    assert table(ROWS, at_once=True) == ["unclear", "not identifiable"]
