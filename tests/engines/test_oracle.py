from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.engines.oracle import OracleEngine
from worldline.episode import Episode, Future, History
from worldline.errors import UnsupportedError
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms

LAB = TwoRooms("random", camera=False)
ENGINE = OracleEngine(lab=LAB)


EPISODES = [explore(LAB, seed, 12) for seed in range(6)]


def batch(episodes: list[Episode], start: int, stop: int) -> History:
    return History.stack([episode.history(stop - 1, stop - start) for episode in episodes])


def test_it_is_the_lab() -> None:
    belief = ENGINE.observe(None, batch(EPISODES, 0, 1), seed=0)
    future = Future(actions={"move": np.stack([e.actions["move"] for e in EPISODES])[:, None]})
    found = ENGINE.imagine(belief, future, num_samples=1, seed=0).signals
    for number, episode in enumerate(EPISODES):
        np.testing.assert_allclose(found["position"][number, 0, 0], episode.observations["position"][1:], atol=1e-3)


def test_what_is_missing_is_simulated_from_what_was_seen_before() -> None:
    history = batch(EPISODES, 0, 5)
    seen = np.ones((len(EPISODES), 5), bool)
    seen[::2, 3:] = False
    position = np.where(seen[..., None], history.observations["position"], np.nan)
    holed = replace(history, observations={**history.observations, "position": position}, observed={"position": seen})
    whole, guessed = (ENGINE.observe(None, one, seed=0) for one in (history, holed))
    np.testing.assert_allclose(guessed.state["position"], whole.state["position"], atol=1e-3)
    never = replace(holed, observed={"position": np.zeros_like(seen)})
    future = Future(actions={"move": np.zeros((len(EPISODES), 1, 1, 2), np.float32)})
    with pytest.raises(UnsupportedError, match="world 0: its state was never observed"):
        ENGINE.imagine(ENGINE.observe(None, never, seed=0), future, num_samples=1, seed=0)


def test_the_expert_arrives_when_the_distance_says() -> None:
    belief = ENGINE.observe(None, batch(EPISODES, 0, 1), seed=0)
    goal = {"position": np.stack([e.observations["position"][0] for e in EPISODES[::-1]])}
    goal = {"position": np.where(np.abs(goal["position"] - 32) < 12, 6, goal["position"]).astype(np.float32)}
    proposed = ENGINE.propose(belief, goal, 30, num_proposals=4, seed=0)
    steps = ENGINE.distance(belief, Future(actions=proposed), goal, seed=0)
    assert steps.shape == (len(EPISODES), 1, 30)
    assert (np.diff(steps, axis=-1) < 1e-2).all()
    assert (steps[..., -1] < 0.05).all()


def test_the_expert_sets_out_from_where_pending_moves_lead() -> None:
    belief = ENGINE.observe(None, batch(EPISODES, 0, 1), seed=0)
    goal = {"position": np.full((len(EPISODES), 2), 6, np.float32)}
    sent = {"move": np.full((len(EPISODES), 3, 2), 5, np.float32)}
    proposed = ENGINE.propose(belief, goal, 30, num_proposals=1, pending=sent, seed=0)["move"]
    whole = {"move": np.concatenate([sent["move"][:, None], proposed], 2)}
    assert (ENGINE.distance(belief, Future(actions=whole), goal, seed=0)[..., -1] < 0.05).all()
    at_once = ENGINE.propose(belief, goal, 30, num_proposals=1, seed=0)["move"]
    assert not np.allclose(proposed, at_once)


def test_a_goal_without_a_state_is_refused() -> None:
    belief = ENGINE.observe(None, batch(EPISODES, 0, 1), seed=0)
    future = Future(actions={"move": np.zeros((6, 1, 1, 2), np.float32)})
    with pytest.raises(UnsupportedError, match="camera"):
        ENGINE.distance(belief, future, {"camera": np.zeros((6, 64, 64, 3), np.uint8)}, seed=0)
