from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import (
    GRID,
    HORIZON,
    SIZES,
    WITHIN,
    Drawing,
    Exact,
    surprise_of,
    toy_case,
    toy_episodes,
    toy_goal,
)

from worldline.engines.base import Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.planning.planners.categorical import Categorical
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_world
from worldline.testing.clauses import breaches
from worldline.testing.world_case import WorldCase
from worldline.testing.worlds import CLAUSES, scores_each_plan
from worldline.world.base import Forecast, PlanStatus, Scores, World
from worldline.world.local import LocalWorld

TOLERANCE = {"place": 1.0}


class ConstantBand(Exact):
    def half_width(self, level):
        return np.full(HORIZON, 1.0)


class BandTooWide(Exact):
    def half_width(self, level):
        return 3.0 * super().half_width(level)


class BandTooNarrow(Exact):
    def half_width(self, level):
        return 0.5 * super().half_width(level)


class PerStepQuantiles(Exact):
    def half_width(self, level):
        return np.interp(level, WITHIN, GRID) * SIZES


class EdgesCrossed(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, -half, horizon)


class MeanOutsideItsBand(Exact):
    def forecast(self, mean, half, horizon):
        return Forecast(mean=mean + 3 * half, low=mean - half, high=mean + half, horizon=horizon)


class NoBand(Exact):
    def predict(self, *args, **rest):
        found = super().predict(*args, **rest)
        forecast = found.signals["position"]
        return replace(found, signals={"position": replace(forecast, low=None, high=None)})


class TrustConstant(Exact):
    def trust(self, history):
        return np.full(len(history.observations["position"]), 0.8)


class TrustReversed(Exact):
    def trust(self, history):
        return 1 - super().trust(history)


class TrustAboveOne(Exact):
    def trust(self, history):
        return 100 * super().trust(history)


class SurpriseConstant(Exact):
    def surprise(self, episode):
        return surprise_of(np.full(episode.num_steps, 0.5))


class SurpriseUncalibrated(Exact):
    def surprise(self, episode):
        return surprise_of(super().surprise(episode).p_values["position"] ** 4)


class SurpriseOneStepLate(Exact):
    def surprise(self, episode):
        return surprise_of(np.roll(super().surprise(episode).p_values["position"], 3))


class BatchMean(Exact):
    def path(self, history, push, wind):
        path = super().path(history, push, wind)
        return path + 0.1 * path.mean(0)


class TrustOfTheBatch(Exact):
    def trust(self, history):
        trust = super().trust(history)
        return np.full_like(trust, trust.min())


class IgnoresMasks(Exact):
    masks = False


class Peeking(Exact):
    def path(self, history, push, wind):
        return super().path(history, np.roll(push, -1, 2), wind)


class Late(Exact):
    def path(self, history, push, wind):
        return super().path(history, np.concatenate([0 * push[:, :, :1], push[:, :, :-1]], 2), wind)


class MutatesHistory(Exact):
    def seen(self, history):
        history.observations["position"][:] += 0.01
        return super().seen(history)


class MutatesPlans(Exact):
    def inputs(self, push):
        push += 0.1
        return super().inputs(push)


class MutatesTheGoal(Exact):
    def supported(self, goal):
        goal.targets["position"][:] += 0.1


class AcceptsNan(Exact):
    def check(self, history, actions, exogenous, *, plans):
        bare = {name: np.nan_to_num(value) for name, value in history.observations.items()}
        super().check(replace(history, observations=bare), actions, exogenous, plans=plans)


class ShuffledScores(Exact):
    def total(self, steps):
        return np.sort(super().total(steps))


class ForgetsConstraints(Exact):
    def violations(self, rollout, constraints, cost):
        return 0 * super().violations(rollout, constraints, cost)


class PlansOutside(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, actions={"push": 2 * found.actions["push"]})


class PlanCostLies(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, cost=0.9 * found.cost)


class PlansAtRandom(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        return -np.sign(goal.targets["position"]) * np.ones((horizon, 2))


class PlansUnseeded(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        seed = np.random.default_rng().integers(9999)
        return super().search(history, goal, constraints, horizon, exogenous, seed, *rest)


class ConvergedThoughInfeasible(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        status = PlanStatus.CONVERGED if found.status is PlanStatus.INFEASIBLE else found.status
        return replace(found, status=status, reason="")


class InfeasibleWithoutReason(Exact):
    def plan(self, *args, **rest):
        return replace(super().plan(*args, **rest), reason="")


class NeverRefuses(Exact):
    def refused(self, trust, min_trust):
        return False


class AlwaysRefuses(Exact):
    def refused(self, trust, min_trust):
        return min_trust > 0


class FactualIsTheAnswer(Exact):
    def what_if(self, episode, at, actions):
        found = super().what_if(episode, at, actions)
        return replace(found, factual=found.signals)


class WhatIfForgetsTheDraws(Exact):
    def what_if(self, episode, at, actions):
        found = super().what_if(episode, at, actions)
        noise = 0.1 * np.random.default_rng(0).standard_normal(found.signals["position"].shape)
        return replace(found, signals={"position": found.signals["position"] + noise})


class ClaimsAbduction(Exact):
    def replayed(self, episode, at, actions):
        now, path = episode.observations["position"][at].astype(float), []
        for step, push in enumerate(actions["push"]):
            now = self.toy.step(now, push, episode.exogenous["wind"][at + step])
            path.append(now)
        return np.stack(path)


class FakedDistance(Exact):
    def supported(self, goal):
        pass

    def score(self, history, actions, goal, constraints=(), *, exogenous=None):
        if "camera" not in goal.targets:
            return super().score(history, actions, goal, constraints, exogenous=exogenous)
        nothing = np.zeros(actions["push"].shape[:-2])
        return Scores(cost=nothing, violation=np.zeros((*nothing.shape, len(constraints))), trust=1.0)


class FakedDistanceDeclared(FakedDistance):
    abilities = ("abducts", "reaches")


class PredictsNothingReal(Exact):
    def describe(self):
        return replace(super().describe(), predicts=("position", "speed"))


class WrongLevel(Exact):
    def predict(self, *args, **rest):
        return replace(super().predict(*args, **rest), level=0.9)


class ForgetsWhatIsPending(Exact):
    def plan(self, *args, horizon, exogenous=None, pending=None, **rest):
        shown = {name: value[:horizon] for name, value in exogenous.items()}
        return super().plan(*args, horizon=horizon, exogenous=shown, **rest)


class ForgetsCosts(Exact):
    def with_costs(self, steps, costs):
        return steps


class CostsTheLastOnly(Exact):
    def with_costs(self, steps, costs):
        return steps + costs[-1] if costs else steps


class ForgetsDiscount(Exact):
    def weights(self, goal, horizon):
        return super().weights(replace(goal, discount=1.0), horizon)


class ForgetsLastOnly(Exact):
    def weights(self, goal, horizon):
        return super().weights(replace(goal, last_only=False), horizon)


class ShowsOtherActions(Exact):
    def inputs(self, push):
        return {"push": np.roll(push, 1, axis=2)[:, :, None]}


FAULTS = [
    (ConstantBand, "world.bands"),
    (BandTooWide, "world.coverage"),
    (BandTooNarrow, "world.coverage"),
    (PerStepQuantiles, "world.coverage"),
    (EdgesCrossed, "world.bands"),
    (MeanOutsideItsBand, "world.bands"),
    (NoBand, "world.prediction"),
    (TrustConstant, "world.trust"),
    (TrustReversed, "world.trust"),
    (TrustAboveOne, "world.trust"),
    (SurpriseConstant, "world.surprise"),
    (SurpriseUncalibrated, "world.surprise"),
    (SurpriseOneStepLate, "world.surprise"),
    (BatchMean, "world.batch"),
    (TrustOfTheBatch, "world.batch"),
    (IgnoresMasks, "world.masks"),
    (Peeking, "world.no_peek"),
    (Late, "world.timing"),
    (MutatesHistory, "world.arguments"),
    (MutatesPlans, "world.arguments"),
    (MutatesTheGoal, "world.arguments"),
    (AcceptsNan, "world.input_errors"),
    (ShuffledScores, "world.score"),
    (ForgetsConstraints, "world.score"),
    (ForgetsWhatIsPending, "world.pending"),
    (ForgetsCosts, "world.costs"),
    (CostsTheLastOnly, "world.costs"),
    (ForgetsDiscount, "world.costs"),
    (ForgetsLastOnly, "world.costs"),
    (ShowsOtherActions, "world.costs"),
    (PlansOutside, "world.plan_bounds"),
    (PlanCostLies, "world.plan_cost"),
    (PlansAtRandom, "world.plan_worth"),
    (PlansUnseeded, "world.plan_cost"),
    (ConvergedThoughInfeasible, "world.plan_status"),
    (InfeasibleWithoutReason, "world.plan_status"),
    (NeverRefuses, "world.plan_refusal"),
    (AlwaysRefuses, "world.plan_refusal"),
    (FactualIsTheAnswer, "world.what_if"),
    (WhatIfForgetsTheDraws, "world.what_if"),
    (ClaimsAbduction, "world.what_if"),
    (FakedDistance, "world.unsupported"),
    (FakedDistanceDeclared, "world.unsupported"),
    (PredictsNothingReal, "world.card"),
    (WrongLevel, "world.prediction"),
]


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


class Uncalibrated(Exact):
    calibrated = False


@pytest.mark.parametrize("world", [Exact, Drawing, Uncalibrated])
def test_a_correct_world_passes(world: type[Exact], episodes: Sequence[Episode]) -> None:
    check_world(world(), episodes, toy_goal(), horizon=HORIZON)


@pytest.mark.parametrize(("fault", "clause"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_is_caught(fault: type[Exact], clause: str, episodes: Sequence[Episode]) -> None:
    assert _seen_by_the_clauses(toy_case(fault(), episodes), clause)


def test_every_broken_clause_is_listed(episodes: Sequence[Episode]) -> None:
    class Broken(ConstantBand, NeverRefuses):
        pass

    with pytest.raises(AssertionError) as raised:
        check_world(Broken(), episodes, toy_goal(), horizon=HORIZON)
    message = str(raised.value)
    assert message.startswith("Broken breaks")
    assert "[world.bands] signal 'position': the band has the width 2 at every level" in message
    assert "[world.plan_refusal]" in message


@pytest.mark.parametrize("seed", range(3))
def test_chance_alone_breaks_nothing(seed: int) -> None:
    case = replace(toy_case(Exact(), toy_episodes(100 + seed)), seed=seed)
    assert breaches("Exact", case, CLAUSES) == []


def geared(*observations: Signal) -> tuple[LocalWorld, list[Episode]]:
    """A world whose one input is a choice, so that no price and no bound can be written on an input; and its logs."""
    gear = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
    rng, schema = np.random.default_rng(0), Schema(signals=(*observations, gear))
    episodes = [
        Episode(
            observations={
                one.name: rng.integers(0, 3, 13) if one.kind is Kind.DISCRETE else rng.normal(size=(13, 2)).astype("f4")
                for one in observations
            },
            actions={"gear": rng.integers(0, 3, 12)},
        )
        for _ in range(6)
    ]
    return LocalWorld(Persistence.fit(episodes, schema), None, Categorical()), episodes


PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,))
LIGHT = Signal(name="light", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)


@pytest.mark.parametrize("observation", [PLACE, LIGHT])
def test_a_world_without_a_vector_input_is_judged_by_what_it_has(observation: Signal) -> None:
    world, episodes = geared(observation)
    target = np.asarray(episodes[0].observations[observation.name][0])
    goal = Goal(targets={observation.name: target}, tolerance=TOLERANCE if observation is PLACE else {})
    check_world(world, episodes, goal)


def test_constraints_on_what_is_predicted_are_not_to_be_forgotten() -> None:
    class Forgetful(Exact):
        def __init__(self, world: World) -> None:
            self.world = world

        def describe(self) -> Card:
            return self.world.describe()

        def score(self, *arguments, **rest):
            found = self.world.score(*arguments, **rest)
            return replace(found, violation=0 * found.violation)

    world, episodes = geared(PLACE)
    goal = Goal(targets={"place": np.zeros(2)}, tolerance=TOLERANCE)
    with pytest.raises(AssertionError, match=r"world\.score. violation is not that of the constraints"):
        scores_each_plan(WorldCase(world=Forgetful(world), episodes=episodes, goal=goal))


def _seen_by_the_clauses(case: WorldCase, name: str) -> bool:
    """Whether the clause `name` is broken; a fault that crashes one clause is looked for in the others too."""
    for clause in CLAUSES:
        try:
            clause(case)
        except AssertionError as breach:
            if f"[{name}]" in str(breach):
                return True
        except (LookupError, ValueError, TypeError):
            continue
    return False
