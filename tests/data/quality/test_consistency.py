"""Changes at a date and joined episodes, on a linear plant with a hidden law that is known."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from worldline.data.checks import FindingKind, Severity
from worldline.data.quality.consistency import inconsistencies
from worldline.data.quality.segments import Segment, track
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

SCHEMA = Schema(
    signals=(
        Signal(
            name="tank", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", components=("left", "right")
        ),
        Signal(name="mode", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2),
        Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC"),
        Signal(name="pump", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="V"),
    )
)
NUM, STEPS = 80, 60


def logged(seed: int = 0, held: int = 10, *, speed: float = 0.0, noise: float = 0.05) -> list[Episode]:
    """Two levels and a temperature that follow the pump with noise; the pump is held for some steps."""
    rng, found, gain = np.random.default_rng(seed), [], np.array([0.3, 0.1, -0.2])
    for _ in range(NUM):
        pump = speed + np.repeat(rng.normal(size=(STEPS // held, 1)), held, 0)
        state = [rng.normal(size=3) + 10 * speed * gain]
        for step in range(STEPS):
            state.append(0.9 * state[-1] + gain * pump[step] + noise * rng.normal(size=3))
        rows = np.stack(state).astype(np.float32)
        observations = {"tank": rows[:, :2], "mode": (rows[:, 0] > 0).astype(np.int64), "heat": rows[:, 2:]}
        found.append(Episode(observations=observations, actions={"pump": pump.astype(np.float32)}))
    return found


def tracks(episodes: list[Episode]) -> list[Segment]:
    return [track(number, episode, SCHEMA) for number, episode in enumerate(episodes)]


def changed(episodes: list[Episode], name: str, change: Callable[[np.ndarray], np.ndarray]) -> list[Episode]:
    """The signal changes from episode 50 on."""
    later = [
        Episode(observations={**one.observations, name: change(one.observations[name])}, actions=one.actions)
        for one in episodes[50:]
    ]
    return [*episodes[:50], *later]


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_log_is_not_accused(seed: int) -> None:
    assert inconsistencies(tracks(logged(seed)), SCHEMA) == ()


@pytest.mark.parametrize(("name", "change", "message"), [
    ("heat", lambda heat: heat + 3, "it changes from about episode .* the mean error of one linear .* degC"),
    ("heat", lambda heat: -heat, "it changes from about"),
    ("tank", lambda tank: tank[:, ::-1], "component left changes from about"),
    ("tank", lambda tank: tank + np.array([0, 2], np.float32), "component right changes from about"),
])  # fmt: skip
def test_a_signal_that_changes_at_a_date_is_named_with_the_date(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    found = [one for one in inconsistencies(tracks(changed(logged(), name, change)), SCHEMA) if one.signal == name]
    assert (len(found), found[0].severity) == (1, Severity.WARNING)
    assert re.search(message, found[0].problem)
    assert found[0].episode is not None
    assert abs(found[0].episode - 50) <= 3


def test_another_operation_is_no_change_of_a_sensor() -> None:
    """The pump runs higher from a date on, and the law stays, though it is rougher at a higher speed."""
    episodes = [*logged()[:50], *logged(1, speed=5.0, noise=0.25)[50:]]
    assert {one.severity for one in inconsistencies(tracks(episodes), SCHEMA)} == {Severity.NOTE}


def joined(episodes: list[Episode]) -> list[Episode]:
    """Pairs of the episodes, each recorded as one."""
    return [
        Episode(
            observations={n: np.concatenate([one.observations[n], two.observations[n]]) for n in one.observations},
            actions={"pump": np.concatenate([one.actions["pump"], one.actions["pump"][-1:], two.actions["pump"]])},
        )
        for one, two in zip(episodes[::2], episodes[1::2], strict=True)
    ]


def test_joined_episodes_are_found_with_the_seam() -> None:
    episodes = logged()
    (found,) = inconsistencies(tracks([*episodes[6:30], *joined(episodes[:6]), *episodes[30:]]), SCHEMA)
    assert "all observations jump at once in 3\u00a0episodes (24, 25, 26)" in found.problem
    assert (found.episode, found.step) == (24, STEPS + 1)


SHIFTED = (7, 18, 30, 44, 60)


def with_shifted_actions(episodes: list[Episode], by: int, start: int, on: tuple[int, ...] = SHIFTED) -> list[Episode]:
    """The actions of some episodes are logged so many rows late from a step on."""
    found = list(episodes)
    for number in on:
        pump = episodes[number].actions["pump"].copy()
        pump[start:] = np.roll(pump[start:], by, axis=0)
        found[number] = Episode(observations=episodes[number].observations, actions={"pump": pump})
    return found


@pytest.mark.parametrize(
    ("by", "numbers", "words"),
    [(1, SHIFTED, "one row later"), (-1, SHIFTED, "one row earlier"), (1, (30,), "one row later")],
)
def test_actions_that_are_shifted_in_a_part_are_found(by: int, numbers: tuple[int, ...], words: str) -> None:
    episodes = with_shifted_actions(logged(held=2), by, STEPS // 2, numbers)
    (found,) = inconsistencies(tracks(episodes), SCHEMA)
    assert words in found.problem
    assert [place.episode for place in found.places] == list(numbers)
    assert found.episode in numbers
    assert found.step is not None
    assert found.step >= STEPS // 2 - 2


def test_few_short_or_constant_episodes_are_no_error() -> None:
    episodes = logged()
    assert inconsistencies([], SCHEMA) == ()
    assert inconsistencies(tracks(changed(episodes, "heat", lambda heat: heat + 3)[48:52]), SCHEMA) == ()
    still = [
        Episode(observations={name: 0 * value for name, value in one.observations.items()}, actions=one.actions)
        for one in episodes
    ]
    assert inconsistencies(tracks(still), SCHEMA) == ()


def test_missing_values_are_no_jumps() -> None:
    gappy = []
    for number, one in enumerate(logged()):
        observed = np.arange(STEPS + 1) % 7 != number % 7
        heat = np.where(observed[:, None], one.observations["heat"], np.nan).astype(np.float32)
        values = {**one.observations, "heat": heat}
        gappy.append(Episode(observations=values, actions=one.actions, observed={"heat": observed}))
    assert inconsistencies(tracks(gappy), SCHEMA) == ()


def test_many_joins_in_one_file_are_all_named() -> None:
    """A file of 2,000 rows holds 16 recordings of 125 rows: many seams must not hide each other."""
    rng, gain, rows = np.random.default_rng(0), np.array([0.3, 0.1, -0.2]), []
    pump = np.repeat(rng.normal(size=(200, 1)), 10, 0)
    for number, push in enumerate([np.zeros(1), *pump]):
        before = 2 * rng.normal(size=3) if number % 125 == 0 else rows[-1]
        rows.append(0.9 * before + gain * push + 0.05 * rng.normal(size=3))
    table = np.stack(rows).astype(np.float32)
    observations = {"tank": table[:, :2], "mode": np.zeros(2001, np.int64), "heat": table[:, 2:]}
    file = Episode(observations=observations, actions={"pump": pump.astype(np.float32)})
    (found,) = inconsistencies([track(0, file, SCHEMA, length=2000)], SCHEMA)
    assert found.kind is FindingKind.JOINED
    seams, named = set(range(125, 2000, 125)), {place.start for place in found.places}
    assert len(named & seams) >= 10
    assert len(named - seams) <= 1


def crane(seed: int, *, force: float) -> Episode:
    """A trolley with end stops, at which its speed becomes 0."""
    rng, place, speed, rows, given = np.random.default_rng(seed), 0.0, 0.0, [], []
    pushes = np.repeat(rng.normal(size=20), 5) * force
    for push in [*pushes, 0.0]:
        rows.append([place, speed])
        given.append([push])
        speed = 0.9 * speed + 0.1 * push
        place += speed
        if abs(place) > 1:
            place, speed = float(np.sign(place)), 0.0
    seen = np.array(rows) + 0.003 * rng.normal(size=(101, 2))
    observations = {"tank": seen.astype(np.float32), "mode": np.zeros(101, np.int64), "heat": np.zeros((101, 1), "f4")}
    return Episode(observations=observations, actions={"pump": np.array(given[:-1], np.float32)})


@pytest.mark.parametrize("seed", range(3))
def test_a_crane_that_hits_its_end_stop_is_no_fault(seed: int) -> None:
    """Three of forty episodes reach the stop."""
    episodes = [crane(100 * seed + number, force=3.0 if number in (7, 20, 31) else 0.5) for number in range(40)]
    assert not [one for one in inconsistencies(tracks(episodes), SCHEMA) if one.kind is FindingKind.SHIFTED]
