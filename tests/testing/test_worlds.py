from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from worldline.contracts.engine import Card
from worldline.contracts.episode import Episode, History
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.contracts.world import (
    Abduction,
    Forecast,
    Goal,
    Moment,
    Outlook,
    Plan,
    PlanStatus,
    Prediction,
    Scores,
    Surprise,
    WhatIf,
    World,
)
from worldline.engines.trivial import Persistence
from worldline.errors import InputError, UnsupportedError
from worldline.planners.categorical import Categorical
from worldline.testing import check_world
from worldline.testing.clauses import breaches
from worldline.testing.toys import Integrator
from worldline.testing.world_case import WorldCase
from worldline.testing.worlds import CLAUSES, scores_each_plan
from worldline.worlds.local import LocalWorld

NOISE, HORIZON = 0.3, 6
TOLERANCE = {"place": 1.0}


GRID = np.linspace(0, 9, 4001)
WITHIN = np.array([math.erf(size / math.sqrt(2)) for size in GRID])


def share_within(size):
    """The share of a standard normal within plus and minus `size`."""
    return np.interp(size, GRID, WITHIN)


def residual_paths():
    """Draws [20000, T, 2] of what cannot be foreseen, summed up over the steps."""
    rng, paths = np.random.default_rng(99), np.zeros((20_000, HORIZON, 2))
    for step in range(HORIZON):
        before = paths[:, step - 1] if step else 0.0
        paths[:, step] = 0.9 * before + NOISE * rng.standard_normal((20_000, 2))
    return paths


SIZES = NOISE * np.sqrt(np.cumsum(0.9 ** (2 * np.arange(HORIZON))))
SCORES = np.abs(residual_paths() / SIZES[:, None]).max((1, 2))


def surprise_of(p_values: np.ndarray) -> Surprise:
    """The surprise where `position` is all there is."""
    order = [int(step) for step in np.argsort(p_values, kind="stable")[:10] if p_values[step] <= 0.1]
    moments = tuple(Moment(step=step, signals=("position",), p_value=float(p_values[step])) for step in order)
    return Surprise(p_values={"position": p_values}, entities={}, steps=p_values, moments=moments)


class Exact(World):
    """A correct world whose certainty is known in closed form. Faults override one of its methods."""

    abilities: tuple[str, ...] = ("abducts",)

    def __init__(self) -> None:
        self.toy = Integrator(noise=NOISE)

    def describe(self) -> Card:
        return Card(
            name="exact",
            engine="exact",
            schema=self.toy.schema,
            inputs=("position",),
            predicts=("position",),
            context=3,
            deterministic=True,
            abilities=self.abilities,
        )

    def predict(self, history, actions, *, exogenous=None, level=0.9) -> Prediction:
        history, actions, exogenous, single = self.batched(history, actions, exogenous)
        mean = self.path(history, actions, exogenous)[:, :, 0]
        half = np.broadcast_to(self.half_width(level)[: mean.shape[1], None], mean.shape)
        climate = 2 * 1.2816 * self.spread()
        horizon = np.full(len(mean), int((2 * half[0, :, 0] < climate).sum()))
        trust = self.trust(history)
        forecast = self.forecast(mean, half, horizon)
        if single:
            forecast = Forecast(
                mean=forecast.mean[0], low=forecast.low[0], high=forecast.high[0], horizon=int(horizon[0])
            )
            trust = float(trust[0])
        return Prediction(signals={"position": forecast}, level=level, trust=trust, calibrated=True)

    def forecast(self, mean, half, horizon) -> Forecast:
        return Forecast(mean=mean, low=mean - half, high=mean + half, horizon=horizon)

    def spread(self):
        return math.sqrt((1 / 3 + 0.04 + NOISE**2) / (1 - 0.9**2))

    def half_width(self, level):
        return np.quantile(SCORES, level) * SIZES

    def trust(self, history):
        position, observed = self.seen(history)
        moved = self.toy.step(position[:, :-1], history.actions["push"], history.exogenous["wind"])
        both = (observed[:, 1:] & observed[:, :-1])[..., None]
        odd = np.where(both, np.abs(position[:, 1:] - moved) / NOISE, 0.0).max((1, 2))
        return 1 - share_within(odd) ** (2 * both.sum((1, 2)))

    def score(self, history, actions, goal, constraints=(), *, exogenous=None) -> Scores:
        self.supported(goal)
        history, actions, exogenous, single = self.batched(history, actions, exogenous, plans=True)
        path = self.path(history, actions, exogenous)
        outlook = Outlook(signals={**self.inputs(actions), "position": path.transpose(0, 2, 1, 3)[:, :, None]})
        steps = np.zeros((1, 1, path.shape[1]))
        if goal.targets:
            target = np.asarray(goal.targets["position"])[None] if single else goal.targets["position"]
            steps = np.square(path - target[:, None, None]).sum(-1).transpose(0, 2, 1)
        steps = self.with_costs(steps, [cost(outlook)[:, :, 0] for cost in goal.costs])
        cost = self.total(steps * self.weights(goal, path.shape[1]))
        violation = self.violations(outlook, constraints, cost)
        trust = self.trust(history)
        if single:
            return Scores(cost=cost[0], violation=violation[0], trust=float(trust[0]))
        return Scores(cost=cost, violation=violation, trust=trust)

    def inputs(self, push):
        return {"push": push[:, :, None]}

    def with_costs(self, steps, costs):
        return sum(costs, start=steps)

    def weights(self, goal, horizon):
        return goal.discount ** np.arange(horizon) * (np.arange(horizon) >= (horizon - 1) * goal.last_only)

    def total(self, steps):
        return steps.sum(-1)

    def violations(self, outlook, constraints, cost):
        values = [constraint(outlook) for constraint in constraints]
        return np.stack(values, -1) if values else np.zeros((*cost.shape, 0))

    def supported(self, goal) -> None:
        if not set(goal.targets) <= {"position"}:
            raise UnsupportedError("there is no distance head for such a goal.")

    def plan(
        self,
        history,
        goal,
        *,
        constraints=(),
        horizon,
        exogenous=None,
        pending=None,
        budget_s=None,
        min_trust=0.0,
        seed=0,
    ) -> Plan:
        self.supported(goal)
        sent = self.sent(pending)
        idle = np.concatenate([sent, np.zeros((horizon, 2))])
        trust = self.predict(history, {"push": idle}, exogenous=exogenous).trust
        if self.refused(trust, min_trust):
            return Plan(
                actions={"push": np.zeros((0, 2), np.float32)},
                status=PlanStatus.REFUSED,
                cost=math.inf,
                violation=np.zeros(len(constraints)),
                trust=trust,
                reason="the history is unlike any that was seen.",
                elapsed_s=0.0,
            )
        best = self.search(history, goal, constraints, horizon, exogenous, seed, sent)
        whole = {"push": np.concatenate([sent, best])[None]}
        scores = self.score(history, whole, goal, constraints, exogenous=exogenous)
        feasible = not scores.violation.any()
        return Plan(
            actions={"push": best},
            status=PlanStatus.CONVERGED if feasible else PlanStatus.INFEASIBLE,
            cost=float(scores.cost[0]),
            violation=scores.violation[0],
            trust=trust,
            reason="" if feasible else "no plan meets the constraints.",
            elapsed_s=0.01,
        )

    def refused(self, trust, min_trust):
        return trust < min_trust

    def sent(self, pending):
        return np.zeros((0, 2), np.float32) if pending is None else pending["push"]

    def search(self, history, goal, constraints, horizon, exogenous, seed, sent):
        rng, best = np.random.default_rng(seed), np.zeros((horizon, 2))
        for width in 0.5 ** np.arange(6):
            near = self.inside(best + width * rng.uniform(-1, 1, (64, horizon, 2)))
            near = np.concatenate([best[None], near]).astype(np.float32)
            whole = np.concatenate([np.broadcast_to(sent, (len(near), *sent.shape)), near], 1)
            found = self.score(history, {"push": whole}, goal, constraints, exogenous=exogenous)
            best = near[(found.cost + 1e6 * found.violation.sum(-1)).argmin()]
        return best

    def inside(self, push):
        return np.clip(push, -1, 1)

    def what_if(self, episode: Episode, at: int, actions) -> WhatIf:
        taken = {name: value[at : at + len(actions["push"])] for name, value in episode.actions.items()}
        return WhatIf(
            signals={"position": self.replayed(episode, at, actions)},
            factual={"position": self.replayed(episode, at, taken)},
            abduction=Abduction.FULL,
        )

    def replayed(self, episode, at, actions):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        now, path = position[at], []
        for step, push in enumerate(actions["push"]):
            now = self.toy.step(now, push, wind[at + step]) + left[at + step]
            path.append(now)
        return np.stack(path)

    def surprise(self, episode: Episode) -> Surprise:
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        return surprise_of(1 - share_within(np.abs(left).max(1) / NOISE) ** 2)

    def batched(self, history, actions, exogenous, *, plans=False):
        for arrays, name in ((history.observations, "position"), (actions, "push")):
            if name not in arrays or arrays[name].shape[-1:] != (2,):
                raise InputError(f"{name!r} is missing or misshapen.")
        for arrays, name in ((history.actions, "push"), (history.exogenous, "wind")):
            if name not in arrays:
                raise InputError(f"{name!r} is missing from the history.")
        single = history.observations["position"].ndim == 2
        if single:
            history = History(
                observations={name: value[None] for name, value in history.observations.items()},
                actions={name: value[None] for name, value in history.actions.items()},
                exogenous={name: value[None] for name, value in history.exogenous.items()},
                observed={name: value[None] for name, value in history.observed.items()},
            )
            actions = {name: value[None] for name, value in actions.items()}
            exogenous = {name: value[None] for name, value in (exogenous or {}).items()}
        if self.spoiled(history, actions):
            raise InputError("there is NaN. Mark the value as not observed.")
        push = actions["push"] if plans else actions["push"][:, None]
        return history, push, exogenous["wind"], single

    def spoiled(self, history, actions):
        position, observed = self.seen(history)
        return bool(np.isnan(position[observed]).any() or np.isnan(actions["push"]).any())

    def seen(self, history):
        position = history.observations["position"].astype(float)
        observed = history.observed.get("position", np.ones(position.shape[:2])).astype(bool)
        return np.where(observed[..., None] | ~self.masks, position, 0.0), observed

    masks = True

    def path(self, history, push, wind):
        """Means [W, T, N, 2] under plans [W, N, T, 2]."""
        position, observed = self.seen(history)
        now = position[:, 0]
        for step in range(1, position.shape[1]):
            moved = self.toy.step(now, history.actions["push"][:, step - 1], history.exogenous["wind"][:, step - 1])
            now = np.where(observed[:, step, None] | (not self.masks), position[:, step], moved)
        now, path = now[:, None], []
        for step in range(push.shape[2]):
            now = self.toy.step(now, push[:, :, step], wind[:, None, step])
            path.append(now)
        return np.stack(path, 1)


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


class HorizonForever(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, 8.0 * half, np.full_like(horizon, HORIZON))


class HorizonNever(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, np.zeros_like(horizon))


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
    def spoiled(self, history, actions):
        return False


class ShuffledScores(Exact):
    def total(self, steps):
        return np.sort(super().total(steps))


class ForgetsConstraints(Exact):
    def violations(self, outlook, constraints, cost):
        return 0 * super().violations(outlook, constraints, cost)


class PlansOutside(Exact):
    def inside(self, push):
        return push * 2


class PlanCostLies(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, cost=0.9 * found.cost)


class PlansAtRandom(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, sent):
        return -np.sign(goal.targets["position"]) * np.ones((horizon, 2))


class PlansUnseeded(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, sent):
        return super().search(
            history, goal, constraints, horizon, exogenous, np.random.default_rng().integers(9999), sent
        )


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
    (HorizonForever, "world.horizon"),
    (HorizonNever, "world.horizon"),
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
    return Integrator(noise=NOISE).episodes(40, 14, seed=0)


@pytest.fixture
def goal() -> Goal:
    return Goal(targets={"position": np.array([1.0, -0.5])})


def test_a_correct_world_passes(episodes: Sequence[Episode], goal: Goal) -> None:
    check_world(Exact(), episodes, goal, horizon=HORIZON)


@pytest.mark.parametrize(("fault", "clause"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_is_caught(fault: type[Exact], clause: str, episodes: Sequence[Episode], goal: Goal) -> None:
    case = WorldCase(world=fault(), episodes=episodes, goal=goal, horizon=HORIZON)
    assert _seen_by_the_clauses(case, clause)


def test_every_broken_clause_is_listed(episodes: Sequence[Episode], goal: Goal) -> None:
    class Broken(ConstantBand, NeverRefuses):
        pass

    with pytest.raises(AssertionError) as raised:
        check_world(Broken(), episodes, goal, horizon=HORIZON)
    message = str(raised.value)
    assert message.startswith("Broken breaks")
    assert "[world.bands] signal 'position': the band has the width 2 whatever the level" in message
    assert "[world.plan_refusal]" in message


@pytest.mark.parametrize("seed", range(3))
def test_chance_alone_breaks_nothing(seed: int, goal: Goal) -> None:
    episodes = Integrator(noise=NOISE).episodes(40, 14, seed=100 + seed)
    case = WorldCase(world=Exact(), episodes=episodes, goal=goal, horizon=HORIZON, seed=seed)
    assert breaches("Exact", case, CLAUSES) == []


def test_an_uncalibrated_world_need_not_have_bands(episodes: Sequence[Episode], goal: Goal) -> None:
    class Uncalibrated(NoBand):
        def predict(self, *args, **rest):
            return replace(super().predict(*args, **rest), calibrated=False)

        def surprise(self, episode):
            raise UnsupportedError("nothing was calibrated.")

    check_world(Uncalibrated(), episodes, goal, horizon=HORIZON)


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
    with pytest.raises(AssertionError, match=r"world\.score. violation is not what the constraints say"):
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
