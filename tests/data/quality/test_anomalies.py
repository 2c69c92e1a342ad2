from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worldline.data.checks import Finding, Severity
from worldline.data.quality.anomalies import Inspection
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal


def signal(name: str, role: Role, size: int = 1, unit: str = "1") -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), unit=unit, precision="float64")


CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(8, 8, 3))
SCHEMA = Schema(
    signals=(
        CAMERA, signal("place", Role.OBSERVATION, 2, "m"), signal("push", Role.ACTION, 2),
        signal("wind", Role.EXOGENOUS), signal("reward", Role.REWARD),
    )
)  # fmt: skip
NUM_STEPS = 40


def make(number: int) -> Episode:
    """Nothing is odd about it: a random walk, pushed and seen."""
    draw = np.random.default_rng(number)
    push = draw.normal(size=(NUM_STEPS, 2))
    place = draw.normal(size=2) + np.concatenate([np.zeros((1, 2)), 0.3 * np.cumsum(push, 0)])
    return Episode(
        observations={
            "camera": draw.integers(0, 256, (NUM_STEPS + 1, 8, 8, 3)).astype(np.uint8),
            "place": place + 0.01 * draw.normal(size=place.shape),
        },
        actions={"push": push},
        exogenous={"wind": draw.normal(size=(NUM_STEPS, 1))},
        rewards={"reward": np.zeros((NUM_STEPS, 1))},
    )


def inspect(episodes: list[Episode], schema: Schema = SCHEMA) -> tuple[Finding, ...]:
    inspection = Inspection(schema, len(episodes))
    for number, episode in enumerate(episodes):
        inspection.add(number, episode)
    return inspection.findings()


def the_only(found: tuple[Finding, ...], text: str) -> Finding:
    assert len(found) == 1, [str(one) for one in found]
    assert text in found[0].problem
    assert found[0].fix.endswith(".")
    return found[0]


def observe(episode: Episode, **arrays: Any) -> Episode:
    return replace(episode, observations={**episode.observations, **arrays})


def act(episode: Episode, push: np.ndarray) -> Episode:
    return replace(episode, actions={"push": push})


@pytest.fixture
def episodes() -> list[Episode]:
    return [make(number) for number in range(12)]


def test_nothing_is_odd_about_good_logs(episodes: list[Episode]) -> None:
    assert (inspect(episodes), inspect([]), inspect(episodes[:1])) == ((), (), ())


def test_constant_signals(episodes: list[Episode]) -> None:
    place = [np.stack([e.observations["place"][:, 0], np.full(NUM_STEPS + 1, 3.5)], 1) for e in episodes]
    found = inspect([observe(e, place=p) for e, p in zip(episodes, place, strict=True)])
    one = the_only(found, "component 1 never changes (always 3.5)")
    assert (one.signal, one.severity) == ("place", Severity.NOTE)


def test_actions_that_never_change_teach_nothing(episodes: list[Episode]) -> None:
    found = inspect([act(e, np.ones((NUM_STEPS, 2))) for e in episodes])
    assert [one.severity for one in found] == [Severity.NOTE, Severity.ERROR]
    assert "no action ever changes" in found[1].problem


def test_observations_that_never_move_teach_nothing(episodes: list[Episode]) -> None:
    still = [
        observe(e, **{name: np.repeat(values[:1], NUM_STEPS + 1, 0) for name, values in e.observations.items()})
        for e in episodes
    ]
    errors = [one.problem for one in inspect(still) if one.severity is Severity.ERROR]
    assert errors == ["no observation ever changes within an episode, so nothing can be predicted"]


def test_a_wild_value_is_named_with_its_place(episodes: list[Episode]) -> None:
    place = episodes[3].observations["place"].copy()
    place[17, 1] = 1e5
    episodes[3] = observe(episodes[3], place=place)
    one = the_only(inspect(episodes), "component 1 is 100000, but 99 % of the values lie in")
    assert (one.signal, one.episode, one.step) == ("place", 3, 17)


@pytest.mark.parametrize(("visits", "is_found"), [(1, True), (20, False)])
def test_values_that_are_as_wild_in_many_episodes_are_no_outliers(visits: int, is_found: bool) -> None:
    """Some of 40 episodes visit a place far away in one step."""
    draw = np.random.default_rng(0)
    episodes = [make(number) for number in range(40)]
    for number in range(visits):
        place = episodes[number].observations["place"].copy()
        place[3, 0] = 10.0 ** draw.uniform(3, 4)
        episodes[number] = observe(episodes[number], place=place)
    assert bool(inspect(episodes)) == is_found


def test_a_sensor_that_is_stuck(episodes: list[Episode]) -> None:
    place = episodes[5].observations["place"].copy()
    place[8:34, 0] = place[8, 0]
    episodes[5] = observe(episodes[5], place=place)
    one = the_only(inspect(episodes), "component 0 is exactly")
    assert (one.signal, one.episode, one.step) == ("place", 5, 8)
    assert "for 26 steps" in one.problem


def test_a_stop_is_not_a_stuck_sensor(episodes: list[Episode]) -> None:
    for number in (5, 7):
        place = episodes[number].observations["place"].copy()
        place[8:34, 0] = 0.25  # rests there in two episodes
        place[:26, 1] = 99.0  # the end of its range
        episodes[number] = observe(episodes[number], place=place)
    assert not any("exactly" in one.problem for one in inspect(episodes))


def test_values_that_are_not_observed_do_not_matter(episodes: list[Episode]) -> None:
    mask = np.arange(NUM_STEPS + 1) % 4 != 0
    wild = [np.where(mask[:, None], e.observations["place"], 1e9) for e in episodes]
    found = [replace(observe(e, place=p), observed={"place": mask}) for e, p in zip(episodes, wild, strict=True)]
    assert inspect(found) == ()


def test_pictures_that_show_nothing(episodes: list[Episode]) -> None:
    camera = episodes[6].observations["camera"].copy()
    camera[3:5], camera[9] = 0, 77
    episodes[6] = observe(episodes[6], camera=camera)
    blank = the_only(inspect(episodes), "3 images (0.6 %) are black or of one single colour, in 1 of 12 episodes (6)")
    assert (blank.signal, blank.episode, blank.step) == ("camera", 6, 3)
    frozen = np.repeat(episodes[1].observations["camera"][:1], NUM_STEPS + 1, 0)
    episodes = [make(number) for number in range(12)]
    episodes[1] = observe(episodes[1], camera=frozen)
    assert the_only(inspect(episodes), "never changes while other signals do").episode == 1


def test_copies_leak(episodes: list[Episode]) -> None:
    exact = the_only(inspect([*episodes, episodes[3]]), "it is an exact copy of episode 3")
    assert exact.episode == 12


def test_many_findings_of_a_kind_are_summed_up(episodes: list[Episode]) -> None:
    found = inspect([*episodes, *episodes[:9]])
    assert len(found) == 5
    assert found[-1].problem.endswith("(and 4 more like this)")


def test_what_is_mostly_missing(episodes: list[Episode]) -> None:
    mask = np.arange(NUM_STEPS + 1) % 4 == 0
    one = the_only(inspect([replace(e, observed={"place": mask}) for e in episodes]), "in only 27 % of the steps")
    assert one.signal == "place"


def test_a_signal_that_says_the_same_as_another(episodes: list[Episode]) -> None:
    schema = Schema(signals=(*SCHEMA.signals, signal("again", Role.OBSERVATION)))
    found = inspect([observe(e, again=7 - 100 * e.observations["place"][:, :1]) for e in episodes], schema)
    one = the_only(found, "it repeats component 0 of 'place'")
    assert one.signal == "again"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("role", [Role.OBSERVATION, Role.EXOGENOUS])
def test_a_signal_that_repeats_the_action(episodes: list[Episode], role: Role, late: bool) -> None:
    schema, log = Schema(signals=(*SCHEMA.signals, signal("echo", role))), []
    for one in episodes:
        push = one.actions["push"][:, 1]
        echo = 2 + 5 * (np.append(0.1, push) if late else np.append(push, 0.1))[:, None]
        log.append(
            observe(one, echo=echo)
            if role is Role.OBSERVATION
            else replace(one, exogenous={**one.exogenous, "echo": echo[:-1]})
        )
    step = "t-1" if late else "t"
    assert the_only(inspect(log, schema), f"it at step t repeats component 1 of 'push' of step {step}").signal == "echo"


@pytest.mark.parametrize(("end", "words"), [(1, "largest"), (-1, "smallest")])
def test_a_sensor_that_saturates_is_named_with_its_limit(episodes: list[Episode], end: int, words: str) -> None:
    limit = end * np.quantile(end * np.concatenate([one.observations["place"][:, 0] for one in episodes]), 0.9)
    clipped = []
    for one in episodes:
        place = one.observations["place"].copy()
        place[:, 0] = end * np.minimum(end * place[:, 0], end * limit)
        clipped.append(observe(one, place=place))
    found = the_only(inspect(clipped), "of the rows")
    assert found.signal == "place"
    assert f"component 0 is exactly {np.float32(limit):g}, its {words} value" in found.problem


def test_coarse_sensors_walls_and_rest_at_zero_are_no_saturation(episodes: list[Episode]) -> None:
    coarse = [observe(one, place=np.round(one.observations["place"], 1)) for one in episodes]
    resting = [observe(one, place=np.maximum(one.observations["place"], 0)) for one in episodes]
    walls = [observe(one, place=np.clip(one.observations["place"], -1, 1)) for one in episodes]
    assert not any("value, in" in one.problem for log in (coarse, resting, walls) for one in inspect(log))
