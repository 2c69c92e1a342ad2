from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engines.heads_of import distance, propose
from tests.models.partial_model import PartialModel
from torch import Tensor

from worldline.config import replace_at
from worldline.engines import learned
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.episode import Episode, Future, History
from worldline.errors import ConfigError, UnsupportedError
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.models.base import Belief, Inputs, LatentRollout, Window
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.predictors import GruPredictorConfig
from worldline.planning.base import Goal
from worldline.planning.planners.gradient import GradientPlanner
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.cases import EngineCase
from worldline.testing.clauses import CLAUSES, breaches
from worldline.testing.toys import Integrator
from worldline.training.batches import to_inputs
from worldline.training.heads.base import by_name
from worldline.training.heads.decoder import Decoder, DecoderConfig
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.inverse import Inverse, InverseConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.outcomes import Reward, RewardConfig, Termination, TerminationConfig
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.local import LocalWorld

UNTRAINED = tuple(clause for clause in CLAUSES["engine"] if clause.__name__ not in ("timing", "novelty_grows"))
"""What holds without training: all but that the log is predicted, and that noise is unlike it."""

SIZE = 8


def untrained(schema: Schema, inputs: tuple[str, ...], *, goals: bool) -> LearnedEngine:
    """A tiny learned engine, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = replace_at(
            JepaConfig(inputs=inputs, latent_size=SIZE),
            {"encoder.channels": 4, "encoder.width": 16, "predictor.width": 16},
        )
        model = Jepa(schema=schema, config=config).eval().requires_grad_(False)
        signals = tuple(one for one in schema.observations if one.kind is Kind.VECTOR)
        readout = Readout(ReadoutConfig(latent_size=SIZE, signals=signals, width=8))
        readout.normaliser.fit(torch.randn(50, sum(one.size for one in signals)) * 10 + 30)
        mahalanobis = MahalanobisScore(MahalanobisConfig(latent_size=SIZE))
        mahalanobis.fit(torch.randn(100, SIZE))
        bounds = {
            "low": tuple(bound for signal in schema.actions for bound in signal.low or ()),
            "high": tuple(bound for signal in schema.actions for bound in signal.high or ()),
        }
        return LearnedEngine(
            model=model,
            schema=schema,
            inputs=inputs,
            heads=by_name(
                readout,
                mahalanobis,
                Distance(DistanceConfig(latent_size=SIZE, width=8, size=8)) if goals else None,
                Inverse(InverseConfig(latent_size=SIZE, width=8, **bounds)) if goals else None,
            ),
        )


TOY = Integrator(camera=False)
CALM = Integrator(camera=False, wind=False)
ROOMS = [explore(TwoRooms("random"), seed, 9) for seed in range(4)]
GOAL = {"position": np.ones((3, 2), np.float32)}
IDLE = Future(actions={"push": np.zeros((3, 1, 2, 2), np.float32)})
NOTHING = {"push": np.zeros((3, 0, 2), np.float32)}


def history(episodes: Sequence[Episode], at: int, length: int) -> History:
    """The present of each of W episodes."""
    return History.stack([episode.history(at, length) for episode in episodes])


def without(engine: LearnedEngine, *names: str) -> LearnedEngine:
    """The engine without these heads."""
    return replace(engine, heads={name: head for name, head in engine.heads.items() if name not in names})


def begun(engine: LearnedEngine) -> Belief:
    """What it believes of three episodes of the toy without wind."""
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 1), seed=0)
    assert isinstance(belief, Belief)
    return belief


def calm(*, goals: bool = True) -> tuple[LearnedEngine, Belief]:
    engine = untrained(CALM.schema, ("position",), goals=goals)
    return engine, begun(engine)


@pytest.mark.parametrize("goals", [True, False])
def test_pictures_conform(goals: bool) -> None:
    engine = untrained(TwoRooms().schema, ("camera",), goals=goals)
    assert breaches(EngineCase(engine=engine, episodes=ROOMS), UNTRAINED) == []


@pytest.mark.parametrize("goals", [True, False])
@pytest.mark.parametrize("toy", [TOY, CALM], ids=["wind", "calm"])
def test_vectors_conform(toy: Integrator, goals: bool) -> None:
    engine = untrained(toy.schema, ("position",), goals=goals)
    case = EngineCase(engine=engine, episodes=toy.episodes(8, 12, seed=0))
    assert breaches(case, UNTRAINED) == []


def test_it_conforms_while_it_adapts() -> None:
    engine = replace(untrained(CALM.schema, ("position",), goals=True), adaptation=Adaptation(num_steps=3))
    case = EngineCase(engine=engine, episodes=CALM.episodes(8, 12, seed=0))
    assert breaches(case, UNTRAINED) == []


def test_what_adapts_asks_for_the_steps_that_it_learns_from_and_says_what_they_show() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    adaptive = replace(engine, adaptation=Adaptation(num_steps=7, trust=1e-3))
    assert (engine.describe().context, adaptive.describe().context) == (1, 8)
    weights = {name: value.clone() for name, value in engine.model.state_dict().items()}
    stuck = History(
        observations={"position": np.full((2, 8, 2), 1.5, np.float32)},
        actions={"push": np.full((2, 7, 2), 0.5, np.float32)},
    )
    future = Future(actions={"push": np.full((2, 1, 3, 2), 0.5, np.float32)})

    def moved(of: LearnedEngine) -> float:
        features = of.model.rollout(
            belief := of.observe(None, stuck, seed=0), to_inputs(future.actions, {}, CALM.schema),
            generator=torch.Generator(),
        ).features  # fmt: skip
        return float((features - belief.features()[:, None, :, None]).norm())

    assert moved(adaptive) < 0.1 * moved(engine)
    assert all(torch.equal(value, weights[name]) for name, value in engine.model.state_dict().items())


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"trust": 0.0}, {"trust": float("inf")}])
def test_impossible_adaptations_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Adaptation(**settings)


def test_a_model_that_cannot_adapt_is_refused() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    config = JepaConfig(inputs=("position",), latent_size=SIZE, predictor=GruPredictorConfig())
    for model in (PartialModel(), Jepa(schema=CALM.schema, config=config)):
        with pytest.raises(UnsupportedError, match=f"{type(model).__name__} cannot adapt"):
            replace(engine, model=model, adaptation=Adaptation())


def test_the_card_says_what_it_is() -> None:
    card = untrained(TwoRooms().schema, ("camera",), goals=True).describe()
    assert (card.engine, card.context, card.deterministic) == ("learned", 1, True)
    assert card.predicts == ("position", "wall")
    assert set(card.abilities) == {"differentiable", "novelty", "reaches"}
    assert untrained(TwoRooms().schema, ("camera",), goals=False).describe().abilities == ("differentiable", "novelty")


def test_proposals_that_would_come_too_late_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of five steps takes a second."""
    engine, belief = calm()
    steps = list[int]()
    engine.heads["inverse"].register_forward_hook(lambda *_: steps.append(1))
    monkeypatch.setattr("worldline.engines.learned.time.monotonic", lambda: float(len(steps)))
    for budget_s, due, taken in ((5.0, 1, 5), (4.5, 0, 1), (0.5, 0, 1), (None, 1, 5)):
        steps.clear()
        found = propose(engine, belief, GOAL, 5, num_proposals=1, budget_s=budget_s, seed=0)
        assert bool(found) == bool(due)
        assert len(steps) == taken  # it gives up as soon as it can tell


def test_without_an_inverse_head_or_with_exogenous_inputs_nothing_is_proposed() -> None:
    calm = without(untrained(CALM.schema, ("position",), goals=True), "inverse")
    windy = untrained(TOY.schema, ("position",), goals=True)
    for engine, toy in ((calm, CALM), (windy, TOY)):
        belief = engine.observe(None, history(toy.episodes(3, 8, seed=0), 4, 1), seed=0)
        assert propose(engine, belief, GOAL, 5, num_proposals=4, seed=0) == {}


def test_a_goal_that_is_no_whole_observation_is_refused() -> None:
    engine = untrained(TwoRooms().schema, ("camera", "position"), goals=True)
    belief = engine.observe(None, history(ROOMS, 4, 1), seed=0)
    future = Future(actions={"move": np.zeros((4, 1, 2, 2), np.float32)})
    goal = {"position": np.ones((4, 2), np.float32)}
    with pytest.raises(UnsupportedError, match="the goal lacks camera"):
        distance(engine, belief, future, goal, seed=0)
    with pytest.raises(UnsupportedError, match="the goal lacks camera"):
        propose(engine, belief, goal, 2, num_proposals=1, seed=0)


def with_picture_goals(engine: LearnedEngine) -> LearnedEngine:
    torch.manual_seed(1)
    distance = Distance(DistanceConfig(latent_size=SIZE, width=8, size=8, pictures=True))
    return replace(engine, heads=engine.heads | by_name(distance))


def test_a_goal_may_be_the_pictures_alone_where_the_head_knows_such() -> None:
    engine = with_picture_goals(untrained(TwoRooms().schema, ("camera", "position"), goals=True))
    assert breaches(EngineCase(engine=engine, episodes=ROOMS), UNTRAINED) == []
    belief = engine.observe(None, history(ROOMS, 4, 1), seed=0)
    future = Future(actions={"move": np.zeros((4, 1, 2, 2), np.float32)})
    picture = {"camera": np.stack([one.observations["camera"][7] for one in ROOMS])}
    whole = {**picture, "position": np.stack([one.observations["position"][7] for one in ROOMS])}
    head = engine.head(Distance)
    missing = {"position": np.zeros((4, 1), bool)}
    seen = {**{name: value[:, None] for name, value in picture.items()}, "position": np.full((4, 1, 2), 9, np.float32)}
    nothing = {"move": np.zeros((4, 0, 2), np.float32)}
    alone = engine.observe(None, History(observations=seen, actions=nothing, observed=missing), seed=0)
    steps = engine.model.rollout(belief, to_inputs(future.actions, {}, engine.schema), generator=torch.Generator())
    due = head.between(head.embed(steps.features), head.embed_pictures(alone.features()[:, None, None]))
    np.testing.assert_allclose(distance(engine, belief, future, picture, seed=0), due[:, :, 0].detach(), rtol=0.05)
    assert not np.allclose(
        distance(engine, belief, future, picture, seed=0), distance(engine, belief, future, whole, seed=0), rtol=0.1
    )
    assert propose(engine, belief, picture, 2, num_proposals=1, seed=0)["move"].shape == (4, 1, 2, 2)


def test_a_goal_that_is_neither_whole_nor_all_pictures_is_refused() -> None:
    engine = with_picture_goals(untrained(TwoRooms().schema, ("camera", "position", "wall"), goals=True))
    belief = engine.observe(None, history(ROOMS, 4, 1), seed=0)
    future = Future(actions={"move": np.zeros((4, 1, 2, 2), np.float32)})
    goal = {name: np.stack([one.observations[name][7] for one in ROOMS]) for name in ("camera", "position")}
    with pytest.raises(UnsupportedError, match=r"the goal lacks wall\. Add it, or give the images alone: camera; or"):
        distance(engine, belief, future, goal, seed=0)


def test_what_is_far_from_the_training_data_is_novel() -> None:
    engine = untrained(CALM.schema, ("position",), goals=False)
    usual, unlike = CALM.episodes(8, 8, seed=0), CALM.episodes(8, 8, seed=1)
    unlike = [replace(one, observations={"position": one.observations["position"] + 100}) for one in unlike]
    latents = engine.observe(None, history(usual, 4, 1), seed=0).features()[:, 0]
    engine.mahalanobis.fit(latents)
    first, second = (engine.novelty(engine.observe(None, history(logs, 6, 1), seed=0)) for logs in (usual, unlike))
    assert second.min() > first.max()


class Members(Belief):
    """Where each member believes the dot to be, [B, S, 2]."""

    def __init__(self, places: Tensor) -> None:
        self.places = places

    def features(self) -> Tensor:
        return self.places

    def select(self, index: Tensor) -> Members:
        return Members(self.places[index])


class Drift(PartialModel):
    """The toy's dynamics, but each step and each look is off by chance; some members, each with draws of its own."""

    deterministic = False

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def belief(self, features: Tensor) -> Belief:
        return Members(features[:, None])

    def _look(self, place: Tensor, generator: torch.Generator) -> Tensor:
        return place[:, None] + 0.01 * torch.randn(len(place), self.members, 2, generator=generator)

    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        place, seen = window.observations["position"], window.observed["position"]
        belief = Members(self._look(place[:, 0].where(seen[:, :1], 0.0), generator))
        for step in range(window.past.step_s.shape[1]):
            belief = self.update(belief, window.step(step + 1), generator=generator)
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Members:
        predicted = self.rollout(belief, step.past, generator=generator).final.features()
        looked = self._look(step.observations["position"][:, 0], generator)
        return Members(looked.where(step.observed["position"][:, :, None], predicted))

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        batch, versions, steps, _ = inputs.actions.shape
        place = belief.features()[:, None].expand(-1, versions, -1, -1)
        noise = torch.randn(steps, batch, 1, self.members, 2, generator=generator)
        path = []
        for step in range(steps):
            place = 0.9 * place + inputs.actions[:, :, None, step] + noise[step]
            path.append(place)
        return LatentRollout(features=torch.stack(path, 3), final=Members(place.flatten(0, 1)))


def drifting(members: int) -> LearnedEngine:
    """Reads the place as it is."""
    readout = Readout(ReadoutConfig(latent_size=2, signals=CALM.schema.observations, width=4))
    torch.nn.init.eye_(readout.linear.weight)
    torch.nn.init.zeros_(readout.linear.bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distance = Distance(DistanceConfig(latent_size=2, width=8, size=8))
        reward = Reward(RewardConfig(latent_size=2, action_size=2, width=8))
        termination = Termination(TerminationConfig(latent_size=2, width=8))
        for head in (reward, termination):
            torch.nn.init.normal_(head.layers[-1].weight)
    return LearnedEngine(
        model=Drift(members).eval(),
        schema=CALM.schema,
        inputs=("position",),
        heads=by_name(readout, MahalanobisScore(MahalanobisConfig(latent_size=2)), distance, reward, termination),
    )


@pytest.mark.parametrize("members", [1, 5])
def test_a_model_that_draws_conforms(members: int) -> None:
    case = EngineCase(engine=drifting(members), episodes=CALM.episodes(8, 12, seed=0))
    assert breaches(case, UNTRAINED) == []


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("num_samples", [1, 2, 4, 5, 16])
def test_there_are_as_many_samples_as_were_asked_for_and_no_two_are_alike(members: int, num_samples: int) -> None:
    engine = drifting(members)
    belief = begun(engine)
    push = np.broadcast_to(np.float32(0.5), (3, 2, 4, 2)).copy()
    found = engine.imagine(belief, Future(actions={"push": push}), num_samples=num_samples, seed=1).signals["position"]
    assert found.shape == (3, 2, num_samples, 4, 2)
    assert len(np.unique(found[:, 0])) == 3 * num_samples * 4 * 2
    np.testing.assert_array_equal(found[:, 0], found[:, 1])  # the same draws for all versions


def test_samples_are_spread_as_the_model_draws_them() -> None:
    engine = drifting(3)
    belief = begun(engine)
    found = engine.imagine(belief, IDLE, num_samples=4000, seed=1).signals["position"][:, 0]
    np.testing.assert_allclose(found.std(1), np.broadcast_to([[1.0], [np.sqrt(1.81)]], (3, 2, 2)), rtol=0.05)
    start = belief.features().mean(1).numpy()
    np.testing.assert_allclose(found[:, :, 0].mean(1), 0.9 * start, atol=0.08)


class Bent(Drift):
    """What is seen of a place is its square, so that a slope depends on the draws."""

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        imagined = super().rollout(belief, inputs, generator=generator)
        return replace(imagined, features=imagined.features.square())


@pytest.mark.parametrize("most_numbers", [2**20, 40])
def test_gradients_are_those_of_the_samples_that_are_drawn(most_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """World by world and version by version, also where worlds are drawn a few at a time."""
    monkeypatch.setattr(learned, "MAX_LATENT_VALUES", most_numbers)
    engine, draw = replace(drifting(2), model=Bent(2).eval()), np.random.default_rng(0)
    push = torch.from_numpy(draw.uniform(-1, 1, (5, 2, 3, 2)).astype(np.float32))
    shown = {"position": np.zeros((5, 1, 2), np.float32)}
    belief = engine.observe(None, History(observations=shown, actions={"push": push[:, 0, :0].numpy()}), seed=0)

    def signals(pushes: torch.Tensor, seed: int = 3) -> torch.Tensor:
        return engine.rollout(belief, pushes, None, num_samples=4, seed=seed).signals["position"].double()

    future = Future(actions={"push": push.numpy()})
    samples = engine.imagine(belief, future, num_samples=4, seed=3).signals["position"]
    np.testing.assert_allclose(signals(push).detach().numpy(), samples, rtol=1e-5, atol=1e-6)
    weights, way = (torch.from_numpy(draw.normal(size=shape)) for shape in (samples.shape, push.shape))
    leaf = push.clone().requires_grad_()
    found, other = (torch.autograd.grad((weights * signals(leaf, seed)).sum(), leaf)[0] for seed in (3, 99))
    ends = [(weights * signals((push + change * way).float())).sum((2, 3, 4)) for change in (0.02, -0.02)]
    expected = ((ends[0] - ends[1]) / 0.04).detach()
    np.testing.assert_allclose((found * way).sum((2, 3)), expected, rtol=2e-2, atol=2e-2)
    assert not np.allclose(found, other)


def test_distances_rewards_and_ends_are_the_mean_over_the_members() -> None:
    engine, episodes = drifting(4), CALM.episodes(3, 8, seed=0)
    belief = engine.observe(None, history(episodes, 4, 1), seed=0)
    future = Future(actions={"push": np.random.default_rng(0).uniform(-1, 1, (3, 2, 5, 2)).astype(np.float32)})
    inputs = to_inputs(future.actions, {}, CALM.schema)
    features = engine.model.rollout(belief, inputs, generator=torch.Generator().manual_seed(0)).features
    assert features.shape == (3, 2, 4, 5, 2)
    goal = engine.observe(None, History(observations={"position": GOAL["position"][:, None]}, actions=NOTHING), seed=0)
    with torch.no_grad():
        steps = engine.heads["distance"](features, goal.features().mean(1)[:, None, None, None]).mean(2)
        actions = inputs.actions[:, :, None].expand(-1, -1, 4, -1, -1)
        rewards = torch.stack([engine.heads["reward"](features, actions)[:, :, one] for one in range(4)]).mean(0)
        ends = engine.heads["termination"](features).mean(2)
    np.testing.assert_allclose(distance(engine, belief, future, GOAL, seed=0), steps.numpy(), rtol=0.05)
    with torch.no_grad():
        rollout = engine.rollout(belief, inputs.actions, None, num_samples=4, seed=0)
        assert rollout.reward is not None
        assert rollout.termination is not None
        np.testing.assert_allclose(rollout.reward(), rewards, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(rollout.termination(), ends, rtol=1e-4, atol=1e-6)
    assert ((ends > 0) & (ends < 1)).all()


def test_rewards_before_the_end_have_a_gradient_in_the_actions() -> None:
    engine, draw = drifting(2), np.random.default_rng(0)
    world, goal = LocalWorld(engine, None, GradientPlanner(num_iterations=10)), Goal(reward=True, discount=0.9)
    past = History(observations={"position": np.zeros((1, 2), np.float32)}, actions={"push": np.zeros((0, 2), "f4")})
    push = draw.uniform(-1, 1, (1, 4, 2)).astype(np.float32)
    plan = world.plan(past, goal, horizon=4, proposals={"push": push})
    assert plan.cost < world.score(past, {"push": push}, goal).cost[0] - 0.1


def test_pictures_are_the_mean_over_the_members() -> None:
    engine = drifting(3)
    camera = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1))
    decoder = Decoder(DecoderConfig(latent_size=2, images=(camera,), channels=4, width=8)).eval()
    engine = replace(engine, heads={**engine.heads, "decoder": decoder})
    belief = engine.observe(None, history(CALM.episodes(3, 8, seed=0), 4, 1), seed=0)
    actions = torch.zeros(3, 2, 5, 2)
    with torch.no_grad():
        rollout = engine.rollout(belief, actions, None, num_samples=3, seed=0)
        assert rollout.images is not None
        inputs = to_inputs({"push": actions.numpy()}, {}, CALM.schema)
        features = engine.model.rollout(belief, inputs, generator=torch.Generator().manual_seed(0)).features
        due = decoder(features)["camera"].float().mean(2)
        shown = rollout.images()["camera"]
    assert (shown.shape, shown.dtype) == ((3, 2, 5, 32, 32, 1), torch.uint8)
    assert (shown - due).abs().max() <= 0.5


def test_a_rollout_has_no_measure_of_a_head_that_was_not_fitted() -> None:
    engine, belief = calm(goals=False)
    rollout = engine.rollout(belief, torch.zeros(3, 1, 2, 2), None, num_samples=1, seed=0)
    assert (rollout.goal_distance, rollout.reward, rollout.termination) == (None, None, None)
    with pytest.raises(UnsupportedError, match="no distance head"):
        engine.encode_goal(belief, {"position": np.ones((3, 2), np.float32)})


def test_angles_and_labels_come_out_as_the_log_holds_them() -> None:
    heading = Signal(
        name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), period=1.0, precision="float64"
    )
    gear = Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
    schema = replace(CALM.schema, signals=(*CALM.schema.signals, heading, gear))
    readout = Readout(ReadoutConfig(latent_size=SIZE, signals=(gear, heading), width=8))
    engine = untrained(CALM.schema, ("position",), goals=False)
    engine = replace(engine, schema=schema, heads=engine.heads | by_name(readout))
    assert engine.describe().predicts == ("gear", "heading")
    belief = begun(engine)
    found = engine.imagine(belief, Future(actions={"push": np.zeros((3, 2, 4, 2), np.float32)}), num_samples=1, seed=0)
    assert (found.signals["gear"].shape, found.signals["gear"].dtype) == ((3, 2, 1, 4), np.int64)
    assert found.signals["heading"].dtype == np.float64
    assert ((found.signals["heading"] >= 0) & (found.signals["heading"] <= 1)).all()
