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
    assert valve.used == pytest.approx(0.5)
    assert (valve.low, valve.high) == (0, 10)
    assert valve.least == pytest.approx(5, abs=0.01)
    assert gear.used == pytest.approx(2 / 3)
    assert gear.never == (2,)
    advice = " ".join(found.advice)
    assert "the lower 50 % of the range of 'drive.valve' (0 to 10) was never used" in advice
    assert "'gear' was never 2" in advice


def test_an_action_that_never_changes_is_named() -> None:
    still = [replace(make(i), actions={**make(i).actions, "drive": np.full((60, 2), 0.5)}) for i in range(4)]
    found = surveyed(still)
    assert found.actions[0].predictable == 1
    assert found.advice[0].startswith("'drive.wheel' is always 0.5")


def test_spread_and_dimension_of_the_states() -> None:
    whole = surveyed([make(i) for i in range(10)])
    assert whole.effective_dimension == pytest.approx(2, abs=0.1)
    assert whole.num_components == 2
    assert whole.spread is not None
    line = [
        replace(e, observations={"place": np.repeat(e.observations["place"][:, :1], 2, 1)})
        for e in (make(i) for i in range(10))
    ]
    narrow = surveyed(line)
    assert narrow.effective_dimension == pytest.approx(1, abs=0.01)
    assert (narrow.narrow[0].one, narrow.narrow[0].other) == ("place.0", "place.1")
    assert narrow.narrow[0].share == pytest.approx(1 / 6, abs=0.05)
    assert narrow.spread is not None
    assert narrow.spread < whole.spread
    assert any("'place.0' and 'place.1' cover" in one for one in narrow.advice)


def test_pictures_count_where_there_is_nothing_else() -> None:
    camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(8, 8, 1))
    schema = Schema(signals=(camera, *SCHEMA.actions))
    draw = np.random.default_rng(0)
    episodes = [
        replace(make(i), observations={"camera": draw.integers(0, 256, (61, 8, 8, 1)).astype(np.uint8)})
        for i in range(6)
    ]
    found = surveyed(episodes, schema)
    assert found.num_components == 64
    assert 40 < found.effective_dimension <= 64
