from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.data.quality.coverage import Coverage, survey
from worldline.data.quality.segments import track
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), precision="float64"),
        Signal(
            name="drive", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), precision="float64",
            low=(-1.0, 0.0), high=(1.0, 10.0), components=("wheel", "valve"),
        ),
        Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
    )
)  # fmt: skip


def make(number: int, num_steps: int = 60, *, gears: int = 3) -> Episode:
    """A wheel that is drawn at random, a valve that hardly moves and stays in its upper half."""
    draw = np.random.default_rng(number)
    wheel = draw.uniform(-1, 1, num_steps)
    valve = 7.5 + 2.5 * np.sin(0.05 * np.arange(num_steps) + draw.uniform(0, 6))
    place = draw.uniform(-1, 1, (num_steps + 1, 2))
    return Episode(
        observations={"place": place},
        actions={"drive": np.stack([wheel, valve], 1), "gear": draw.integers(0, gears, num_steps)},
    )


def surveyed(episodes: list[Episode], schema: Schema = SCHEMA) -> Coverage:
    return survey([track(number, episode, schema) for number, episode in enumerate(episodes)], schema)


def test_what_can_be_foretold_excites_nothing() -> None:
    found = surveyed([make(i) for i in range(10)])
    wheel, valve, gear = found.actions
    assert (wheel.name, valve.name, gear.name) == ("drive.wheel", "drive.valve", "gear")
    assert wheel.predictable < 0.05 < 0.95 < valve.predictable
    assert gear.predictable < 0.05
    assert any("'drive.valve' is" in one and "drawn at random" in one for one in found.advice)
    assert not any("drive.wheel" in one for one in found.advice)


def test_the_range_that_was_used_and_advice_on_the_rest() -> None:
    found = surveyed([make(i, gears=2) for i in range(10)])
    wheel, valve, gear = found.actions
    assert wheel.used == 1
    assert (valve.used, (valve.low, valve.high)) == (pytest.approx(0.5), (0, 10))
    assert valve.least == pytest.approx(5, abs=0.01)
    assert (gear.used, gear.never) == (pytest.approx(2 / 3), (2,))
    advice = " ".join(found.advice)
    assert "the lower 50 % of the range of 'drive.valve' (0 to 10) was never used" in advice
    assert "'gear' was never 2" in advice


@pytest.mark.parametrize(("low", "high"), [((-1.0, 0.0), (1.0, 10.0)), ((0.5, 0.5), (0.5, 0.5))])
def test_an_action_that_never_changes_is_named(low: tuple[float, float], high: tuple[float, float]) -> None:
    """Also if its bounds were inferred from it."""
    still = [replace(make(i), actions={**make(i).actions, "drive": np.full((60, 2), 0.5)}) for i in range(4)]
    place, drive, gear = SCHEMA.signals
    found = surveyed(still, Schema(signals=(place, replace(drive, low=low, high=high), gear)))
    assert found.actions[0].predictable == 1
    assert found.advice[0].startswith("'drive.wheel' is always 0.5")
