"""Trivial models, and how worlds are asked."""

import numpy as np
import pytest

from worldline.audit.baselines import as_world, bank
from worldline.audit.queries import BATCH, check_readable, means, only
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import InputError, UnreadableError
from worldline.labs.playing import explore, stacked
from worldline_exam.labs.gusty_puck import GustyPuck

EPISODES = [explore(GustyPuck(), seed, 20) for seed in range(20)]
SCHEMA = GustyPuck().schema
BOTH = stacked(EPISODES)
HISTORY = History(
    observations={name: value[:, :4] for name, value in BOTH.observations.items()},
    actions={name: value[:, :3] for name, value in BOTH.actions.items()},
)
FUTURE = {"push": BOTH.actions["push"][:, 3:9]}


def test_the_bank_says_what_its_members_are_called_after() -> None:
    worlds = bank(EPISODES, SCHEMA)
    found = {n: means(one, HISTORY, FUTURE, signals=("puck_position",))["puck_position"] for n, one in worlds.items()}
    last, before = (HISTORY.observations["puck_position"][:, place] for place in (-1, -2))
    steps = np.arange(1, 7)[:, None]
    assert np.allclose(found["persistence"], last[:, None])
    assert np.allclose(found["constant velocity"], last[:, None] + steps * (last - before)[:, None], atol=1e-5)
    every = np.concatenate([one.observations["puck_position"] for one in EPISODES])
    assert np.allclose(found["marginal mean"], every.mean(0), atol=1e-5)
    truthful = means(as_world(Linear.fit(EPISODES, SCHEMA)), HISTORY, FUTURE, signals=("puck_position",))
    rolled = {"push": np.roll(FUTURE["push"], 1, axis=0)}
    told = means(as_world(Linear.fit(EPISODES, SCHEMA)), HISTORY, rolled, signals=("puck_position",))
    assert np.allclose(found["shuffled action"], told["puck_position"])
    assert not np.allclose(found["shuffled action"], truthful["puck_position"])


def test_actions_of_a_world_that_is_alone_are_shuffled_too() -> None:
    one = History(
        observations={name: value[:1] for name, value in HISTORY.observations.items()},
        actions={name: value[:1] for name, value in HISTORY.actions.items()},
    )
    push = {"push": FUTURE["push"][:1]}
    worlds = (bank(EPISODES, SCHEMA)["shuffled action"], as_world(Linear.fit(EPISODES, SCHEMA)))
    told, truthful = (means(world, one, push, signals=("puck_position",))["puck_position"] for world in worlds)
    assert not np.allclose(told, truthful)


def test_what_ignores_the_actions_says_so() -> None:
    assert not any(world.describe().action_conditioned for world in bank(EPISODES, SCHEMA).values())


def test_asking_in_batches_changes_no_figure() -> None:
    world, count = as_world(Linear.fit(EPISODES, SCHEMA)), BATCH + 3
    rows = np.arange(count) % len(EPISODES)
    history = History(
        observations={name: value[rows] for name, value in HISTORY.observations.items()},
        actions={name: value[rows] for name, value in HISTORY.actions.items()},
    )
    many = means(world, history, {"push": FUTURE["push"][rows]}, signals=("puck_velocity",))["puck_velocity"]
    few = means(world, HISTORY, FUTURE, signals=("puck_velocity",))["puck_velocity"]
    assert np.allclose(many, few[rows], atol=1e-6)


def test_a_signal_that_is_not_predicted_is_unreadable() -> None:
    world = bank(EPISODES, SCHEMA)["persistence"]
    check_readable(world, ("puck_position",))
    with pytest.raises(UnreadableError, match="the test needs depth"):
        check_readable(world, ("puck_position", "depth"))


def test_one_world_is_asked_where_one_is_due() -> None:
    worlds = bank(EPISODES, SCHEMA)
    with pytest.raises(InputError, match="expected one world for this test, got 5"):
        only(worlds)
