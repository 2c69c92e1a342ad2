from __future__ import annotations

import numpy as np
import pytest
from tests.audit.carts import SCHEMA, Cart, Push, at_random, cart, carts, rows, thermostat, world

from worldline.audit.excitation import Innovations, excitations, innovations, placebos
from worldline.audit.measured import Excitation, Placebo
from worldline.audit.measures import one_step_errors
from worldline.audit.regression_rows import RegressionRows, action_names
from worldline.data.quality.segments import component_names
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Role


def placebo(engine: Cart, episodes: list[Episode]) -> Placebo:
    left = innovations(rows(episodes), seed=0)
    errors = one_step_errors(world(engine), episodes, SCHEMA.observations, context=3, per_episode=40)
    return placebos(left, *errors, (action_names(SCHEMA), component_names(SCHEMA, Role.OBSERVATION)))[0]


def noisy(place: float, draw: np.random.Generator) -> float:
    """Half of its variance follows from what is seen."""
    return float(np.clip(-0.5 * np.tanh(place) * 2 + draw.normal(), -3, 3))


def test_incomplete_stretches_are_left_out() -> None:
    episode = carts(0, 1)[0]
    mask = np.ones(31, bool)
    mask[10] = False
    holed = Episode(observations=episode.observations, actions=episode.actions, observed={"place": mask})
    assert set(range(2, 30)) - set(rows([holed]).step.tolist()) == {9, 10, 11, 12}
    with pytest.raises(DataError, match="no 4 consecutive observations are complete"):
        rows([Episode(observations={"place": np.zeros((3, 1))}, actions={"push": np.zeros((2, 1))})])


@pytest.mark.parametrize(("push", "low", "high"), [(at_random, 0.95, 1.0), (thermostat, 0.0, 0.01), (noisy, 0.4, 0.9)])
def test_excitation_is_what_the_history_leaves(push: Push, low: float, high: float) -> None:
    found = excitations(innovations(rows(carts(0, 40, push)), seed=0), SCHEMA, seed=0)[0]
    assert low <= found.left.value <= high
    assert found.left.low <= found.left.value <= found.left.high
    assert found.enough == (found.left.value >= 0.05)


class Held:
    """Pushes that are chosen every 25th step and held in between; `seen` chooses from what is seen then."""

    def __init__(self, push: Push, hold: int = 25) -> None:
        self.push, self.hold, self.step, self.last = push, hold, 0, 0.0

    def __call__(self, place: float, draw: np.random.Generator) -> float:
        if self.step % self.hold == 0:
            self.last = self.push(place, draw)
        self.step += 1
        return self.last


def levels(place: float, draw: np.random.Generator) -> float:
    return float(draw.uniform(-3, 3))


def held(push: Push, hold: int) -> Excitation:
    """20 episodes of 250 steps: with holds of 25 steps, the logs show 180 changes, some of them tiny."""
    logs = [cart(number, Held(push, hold), num_steps=250) for number in range(20)]
    return excitations(innovations(rows(logs), seed=0), SCHEMA, seed=0)[0]


@pytest.mark.parametrize(("hold", "shown"), [(25, 180), (50, 80)])
def test_levels_drawn_at_random_excite_however_long_they_are_held(hold: int, shown: int) -> None:
    found = held(levels, hold)
    assert 0.9 * shown <= found.num_changes <= shown
    assert found.left.value > 0.9
    assert found.enough


@pytest.mark.parametrize("hold", [250, 10_000])
def test_too_few_changes_excite_nothing(hold: int) -> None:
    logs = [cart(0, Held(levels, hold), num_steps=250) for _ in range(20)]
    logs[:2] = [cart(number, Held(levels, 125), num_steps=250) for number in range(2)]
    found = excitations(innovations(rows(logs), seed=0), SCHEMA, seed=0)[0]
    assert found.num_changes == 2
    assert not found.enough


def test_levels_that_follow_what_is_seen_excite_nothing() -> None:
    found = held(lambda place, draw: 1 - 0.05 * place, 50)
    assert found.num_changes > 50
    assert found.left.value < 0.05
    assert not found.enough


def test_the_placebo_hears_a_hidden_cause_and_not_a_controller() -> None:
    hidden = placebo(Cart(), carts(0, 60, hidden=0.7))
    assert hidden.found
    assert hidden.value.high < 0
    controlled = placebo(Cart(), carts(0, 60, noisy))
    assert not controlled.found
    assert not placebo(Cart(), carts(0, 60)).found


def test_the_placebo_hears_actions_that_were_logged_late() -> None:
    late = [
        Episode(
            observations={"place": one.observations["place"][1:]}, actions={"push": np.roll(one.actions["push"], 1)[1:]}
        )
        for one in carts(0, 60)
    ]
    # The action that led to an observation stands one step after it, where the next one should be.
    assert placebo(Cart(), late).found


def slow(errors: np.ndarray, kept: slice) -> np.ndarray:
    """With an error more, which is known of these rows alone."""
    sensor = np.full(len(errors), np.nan)
    sensor[kept] = errors[kept, 0]
    return np.concatenate([errors, sensor[:, None]], 1)


def test_sensors_that_are_never_read_together_hide_nothing() -> None:
    episodes = carts(0, 60, hidden=0.7)
    left = innovations(rows(episodes), seed=0)
    errors, episode, step = one_step_errors(world(Cart()), episodes, SCHEMA.observations, context=3, per_episode=40)
    apart = slow(slow(errors, slice(0, None, 4)), slice(2, None, 4))
    alone = placebos(left, errors, episode, step, (["push"], ["place"]))
    found = placebos(left, apart, episode, step, (["push"], ["place", "one", "other"]))
    assert [one.signal for one in found] == ["place", "one", "other"]
    assert found[0].found
    assert found[0].value == alone[0].value


@pytest.mark.parametrize("kept", [slice(0, 19), slice(0, 19 * 20)], ids=["19 errors", "19 episodes"])
def test_of_too_few_errors_there_is_no_placebo(kept: slice) -> None:
    episodes = carts(0, 40)
    left = innovations(rows(episodes), seed=0)
    errors, episode, step = one_step_errors(world(Cart()), episodes, SCHEMA.observations, context=3, per_episode=20)
    found = placebos(left, slow(errors, kept), episode, step, (["push"], ["place", "sensor"]))
    assert [one.signal for one in found] == ["place"]


def of_noise(draw: np.random.Generator, lengths: list[int], memory: float) -> tuple[Placebo, ...]:
    """Placebos of 5 errors and 4 actions that have nothing to do with each other, each with a memory of its own."""

    def noise(width: int) -> np.ndarray:
        parts = []
        for length in lengths:
            path = [draw.normal(size=width)]
            for _ in range(length - 1):
                path.append(memory * path[-1] + np.sqrt(1 - memory**2) * draw.normal(size=width))
            parts.append(np.array(path))
        return np.concatenate(parts)

    errors, actions = noise(5), noise(4)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    none = np.zeros((len(episode), 0))
    found = RegressionRows(
        states=none[:, None], before=actions[:, None], action=actions, inputs=none, after=none, episode=episode,
        step=step, randomised=np.zeros(len(episode), bool), num_episodes=len(lengths),
    )  # fmt: skip
    left = Innovations(rows=found, left=actions, unexplained=actions)
    return placebos(left, errors, episode, step, (list("abcd"), list("vwxyz")))


def false_findings(lengths: list[int], memory: float, runs: int) -> float:
    """The share of runs in which any of 20 pairs of independent noise is found."""
    draw = np.random.default_rng(0)
    return float(np.mean([any(one.found for one in of_noise(draw, lengths, memory)) for _ in range(runs)]))


def test_of_few_episodes_nothing_is_sure() -> None:
    assert false_findings([20] * 19, 0.0, 5) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "memory"),
    [([20] * 20, 0.0), ([10] * 20 + [40] * 10, 0.8)],
    ids=["20 episodes", "of unlike lengths that have a memory"],
)
def test_the_placebo_finds_something_in_noise_as_seldom_as_it_says(lengths: list[int], memory: float) -> None:
    assert false_findings(lengths, memory, 200) <= 0.035  # more than that has a chance of 0.2 % where 1 % is kept


def test_the_interval_of_a_placebo_holds_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    held = [one.value.low <= 0 <= one.value.high for _ in range(20) for one in of_noise(draw, [20] * 20, 0.8)]
    assert 0.93 <= np.mean(held) <= 0.98
