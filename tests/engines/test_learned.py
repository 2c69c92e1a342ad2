from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline.contracts.engine import Future
from worldline.contracts.episode import Arrays, Episode, History
from worldline.contracts.schema import Kind, Schema
from worldline.engines.learned import LearnedEngine
from worldline.errors import InputError, UnsupportedError
from worldline.heads.distance import Distance, DistanceConfig
from worldline.heads.familiarity import Familiarity, FamiliarityConfig
from worldline.heads.inverse import Inverse, InverseConfig
from worldline.heads.readout import Readout, ReadoutConfig
from worldline.labs.two_rooms import TwoRooms
from worldline.models.jepa import Jepa, JepaConfig
from worldline.testing.clauses import breaches
from worldline.testing.engines import CLAUSES, EngineCase, timing
from worldline.testing.toys import Integrator
from worldline.train.batches import to_inputs

UNTRAINED = tuple(clause for clause in CLAUSES if clause is not timing)
"""What holds without training: all but that the log is predicted."""

SIZE = 8


def untrained(schema: Schema, inputs: tuple[str, ...], *, goals: bool) -> LearnedEngine:
    """A tiny learned engine, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = JepaConfig(inputs=inputs, latent_size=SIZE, channels=4, encoder_width=16, predictor_width=16)
        model = Jepa(schema=schema, config=config).eval().requires_grad_(False)
        signals = {one.name: one.size for one in schema.observations if one.kind is Kind.VECTOR}
        readout = Readout(ReadoutConfig(latent_size=SIZE, signals=signals, width=8))
        readout.normaliser.fit(torch.randn(50, sum(signals.values())) * 10 + 30)
        familiarity = Familiarity(FamiliarityConfig(latent_size=SIZE))
        familiarity.fit(torch.randn(100, SIZE))
        bounds = {
            "low": tuple(bound for signal in schema.actions for bound in signal.low or ()),
            "high": tuple(bound for signal in schema.actions for bound in signal.high or ()),
        }
        return LearnedEngine(
            model=model,
            schema=schema,
            inputs=inputs,
            readout=readout,
            familiarity=familiarity,
            distance_head=Distance(DistanceConfig(latent_size=SIZE, width=8, size=8)) if goals else None,
            inverse_head=Inverse(InverseConfig(latent_size=SIZE, width=8, **bounds)) if goals else None,
        )


def rooms(num_episodes: int) -> Sequence[Episode]:
    lab, rng, logged = TwoRooms("random"), np.random.default_rng(0), []
    for seed in range(num_episodes):
        seen = [lab.reset(seed=seed)[0]]
        moves = rng.uniform(-6, 6, (9, 2)).astype(np.float32)
        seen += [lab.step({"move": move})[0] for move in moves]
        observations = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
        logged.append(Episode(observations=observations, actions={"move": moves}))
    return logged


TOY = Integrator(camera=False)
CALM = Integrator(camera=False, wind=False)
ROOMS = rooms(4)


def history(episodes: Sequence[Episode], at: int, length: int) -> History:
    """The present of each of W episodes."""
    parts = [episode.history(at, length) for episode in episodes]

    def stacked(arrays: Sequence[Arrays]) -> Arrays:
        return {name: np.stack([one[name] for one in arrays]) for name in arrays[0]}

    return History(
        observations=stacked([one.observations for one in parts]),
        actions=stacked([one.actions for one in parts]),
        exogenous=stacked([one.exogenous for one in parts]),
    )


@pytest.mark.parametrize("goals", [True, False])
def test_pictures_conform(goals: bool) -> None:
    engine = untrained(TwoRooms().schema, ("camera",), goals=goals)
    assert breaches("LearnedEngine", EngineCase(engine=engine, episodes=ROOMS), UNTRAINED) == []


@pytest.mark.parametrize("goals", [True, False])
@pytest.mark.parametrize("toy", [TOY, CALM], ids=["wind", "calm"])
def test_vectors_conform(toy: Integrator, goals: bool) -> None:
    engine = untrained(toy.schema, ("position",), goals=goals)
    case = EngineCase(engine=engine, episodes=toy.episodes(8, 12, seed=0))
    assert breaches("LearnedEngine", case, UNTRAINED) == []


def test_pictures_and_vectors_together_conform() -> None:
    engine = untrained(TwoRooms().schema, ("camera", "position"), goals=True)
    assert breaches("LearnedEngine", EngineCase(engine=engine, episodes=ROOMS), UNTRAINED) == []


def test_the_card_says_what_it_is() -> None:
    card = untrained(TwoRooms().schema, ("camera",), goals=True).describe()
    assert (card.engine, card.context, card.deterministic) == ("learned", 1, True)
    assert card.predicts == ("position", "wall")
    assert set(card.abilities) == {"reaches", "novelty"}
    assert untrained(TwoRooms().schema, ("camera",), goals=False).describe().abilities == ("novelty",)


def test_it_says_what_the_model_and_the_readout_say() -> None:
    engine, episodes = untrained(TOY.schema, ("position",), goals=False), TOY.episodes(3, 8, seed=0)
    belief = engine.observe(None, history(episodes, 4, 2), seed=0)
    future = Future(
        actions={"push": np.stack([one.actions["push"][None, 4:8] for one in episodes])},
        exogenous={"wind": np.stack([one.exogenous["wind"][4:8] for one in episodes])},
    )
    found = engine.imagine(belief, future, num_samples=7, seed=0).signals["position"]
    latent = engine.model.belief(belief.features()[:, 0])
    inputs = to_inputs(future.actions, future.exogenous, TOY.schema)
    features = engine.model.rollout(latent, inputs, generator=torch.Generator()).features
    np.testing.assert_allclose(found, engine.readout(features)["position"].detach().numpy(), rtol=1e-5)
    assert found.shape == (3, 1, 1, 4, 2)


def test_proposals_are_what_the_inverse_head_does_step_by_step() -> None:
    engine = untrained(CALM.schema, ("position",), goals=True)
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 1), seed=0)
    goal = {"position": np.ones((3, 2), np.float32)}
    found = engine.propose(belief, goal, 3, num_proposals=9, seed=0)["push"]
    assert found.shape == (3, 1, 3, 2)
    first = engine.propose(belief, goal, 1, num_proposals=1, seed=0)["push"]
    np.testing.assert_allclose(found[:, :, :1], first, rtol=1e-6)


def test_without_an_inverse_head_or_with_exogenous_inputs_nothing_is_proposed() -> None:
    goal = {"position": np.ones((3, 2), np.float32)}
    calm = replace(untrained(CALM.schema, ("position",), goals=True), inverse_head=None)
    windy = untrained(TOY.schema, ("position",), goals=True)
    for engine, toy in ((calm, CALM), (windy, TOY)):
        belief = engine.observe(None, history(toy.episodes(3, 8, seed=0), 4, 1), seed=0)
        assert engine.propose(belief, goal, 5, num_proposals=4, seed=0)["push"].shape == (3, 0, 5, 2)


def test_a_distance_without_its_head_is_refused_by_name() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 1), seed=0)
    future = Future(actions={"push": np.zeros((3, 1, 2, 2), np.float32)})
    with pytest.raises(UnsupportedError, match="distance head"):
        engine.distance(belief, future, {"position": np.ones((3, 2), np.float32)})


def test_a_goal_that_is_no_whole_observation_is_refused() -> None:
    engine = untrained(TwoRooms().schema, ("camera", "position"), goals=True)
    belief = engine.observe(None, history(ROOMS, 4, 1), seed=0)
    future = Future(actions={"move": np.zeros((4, 1, 2, 2), np.float32)})
    goal = {"position": np.ones((4, 2), np.float32)}
    with pytest.raises(UnsupportedError, match="the goal lacks camera"):
        engine.distance(belief, future, goal)
    with pytest.raises(UnsupportedError, match="the goal lacks camera"):
        engine.propose(belief, goal, 2, num_proposals=1, seed=0)


def test_a_goal_of_another_shape_is_refused() -> None:
    engine = untrained(CALM.schema, ("position",), goals=True)
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 1), seed=0)
    future = Future(actions={"push": np.zeros((3, 1, 2, 2), np.float32)})
    with pytest.raises(InputError, match="'position' has shape"):
        engine.distance(belief, future, {"position": np.ones((3, 3), np.float32)})


def test_past_exogenous_inputs_are_asked_for() -> None:
    engine = untrained(TOY.schema, ("position",), goals=False)
    past = history(TOY.episodes(3, 8, seed=0), 4, 3)
    with pytest.raises(InputError, match="exogenous signal 'wind' is missing"):
        engine.observe(None, replace(past, exogenous={}), seed=0)


def test_a_belief_of_somebody_else_is_refused() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    future = Future(actions={"push": np.zeros((3, 1, 2, 2), np.float32)})
    with pytest.raises(InputError, match="belief is a dict"):
        engine.imagine({}, future, num_samples=1, seed=0)


def test_what_is_far_from_the_training_data_is_novel() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    usual, strange = CALM.episodes(8, 8, seed=0), CALM.episodes(8, 8, seed=1)
    strange = [replace(one, observations={"position": one.observations["position"] + 100}) for one in strange]
    latents = engine.observe(None, history(usual, 4, 1), seed=0).features()[:, 0]
    engine.familiarity.fit(latents)
    first, second = (engine.novelty(engine.observe(None, history(logs, 6, 1), seed=0)) for logs in (usual, strange))
    assert second.min() > first.max()


def test_nothing_that_it_takes_or_gives_has_a_gradient() -> None:
    engine = replace(untrained(CALM.schema, ("position",), goals=True))
    engine.model.requires_grad_(True)
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 2), seed=0)
    future = Future(actions={"push": np.zeros((3, 1, 2, 2), np.float32)})
    goal = {"position": np.ones((3, 2), np.float32)}
    assert not belief.features().requires_grad
    engine.imagine(belief, future, num_samples=1, seed=0)
    engine.distance(belief, future, goal)
    engine.propose(belief, goal, 2, num_proposals=1, seed=0)
    engine.novelty(belief)
