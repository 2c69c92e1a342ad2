"""A correct world whose certainty is known in closed form. Faults are planted by overriding one of its methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Chance, Goal, Rollout
from worldline.schema import Schema
from worldline.testing.cases import WorldCase
from worldline.testing.comparing import map_arrays
from worldline.testing.toys import Integrator
from worldline.world.base import (
    Abduction,
    Forecast,
    Moment,
    Plan,
    PlanStatus,
    Prediction,
    Scores,
    Surprise,
    WhatIf,
    World,
)
from worldline.world.validation import (
    add_world_axis,
    check_actions,
    check_episode,
    check_goal,
    check_group,
    check_history,
)

NOISE, HORIZON = 0.3, 6

GRID = np.linspace(0, 9, 4001)
WITHIN = np.array([math.erf(size / math.sqrt(2)) for size in GRID])


def share_within(size):
    """The share of a standard normal within plus and minus `size`."""
    return np.interp(size, GRID, WITHIN)


def residual_paths(num_paths):
    """Draws [num_paths, T, 2] of what cannot be foreseen, summed up over the steps."""
    rng, paths = np.random.default_rng(99), np.zeros((num_paths, HORIZON, 2))
    for step in range(HORIZON):
        before = paths[:, step - 1] if step else 0.0
        paths[:, step] = 0.9 * before + NOISE * rng.standard_normal((num_paths, 2))
    return paths


SIZES = NOISE * np.sqrt(np.cumsum(0.9 ** (2 * np.arange(HORIZON))))
SCORES = np.abs(residual_paths(20_000) / SIZES[:, None]).max((1, 2))


def surprise_of(p_values: np.ndarray) -> Surprise:
    """The surprise where `position`, of the entity `body`, is all there is."""
    order = [int(step) for step in np.argsort(p_values, kind="stable")[:10] if p_values[step] <= 0.1]
    moments = tuple(Moment(step=step, signals=("position",), p_value=float(p_values[step])) for step in order)
    return Surprise(p_values={"position": p_values}, entities={"body": p_values}, steps=p_values, moments=moments)


def first_world(values: np.ndarray) -> np.ndarray | float:
    """The values of the first world of a batch, a number if it has one."""
    return values[0] if values.ndim > 1 else values[0].item()


def toy_case(world: World, episodes: Sequence[Episode]) -> WorldCase:
    """What a world is tried on."""
    return WorldCase(world=world, episodes=episodes, goal=toy_goal(), horizon=HORIZON)


def toy_goal() -> Goal:
    """A place to get to."""
    return Goal(targets={"position": np.array([1.0, -0.5])})


def toy_episodes(seed: int = 0) -> Sequence[Episode]:
    """Held-out episodes of the world that `Exact` knows."""
    return Integrator(noise=NOISE).episodes(40, 14, seed=seed)


def tensors(arrays):
    """The arrays as tensors of their own."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


class Exact(World):
    """Correct, deterministic, calibrated; abducts. Tells no trust ahead and no distance to a goal observation."""

    abilities: tuple[str, ...] = ("abducts",)
    calibrated = True
    deterministic = True
    masks = True

    def __init__(self) -> None:
        self.toy = Integrator(noise=NOISE)

    @property
    def schema(self) -> Schema:
        position, *others = self.toy.schema.signals
        return replace(self.toy.schema, signals=(replace(position, entity="body"), *others))

    def describe(self) -> Card:
        return Card(
            name="exact", engine="exact", schema=self.schema, inputs=("position",), predicts=("position",),
            context=3, deterministic=self.deterministic, abilities=self.abilities,
            band_horizon=HORIZON if self.calibrated else 0, band_level=self.band_level if self.calibrated else 0.0,
        )  # fmt: skip

    def answer(self, call):
        return getattr(self, f"on_{call.verb}")(call)

    # --- predict

    def on_predict(self, call) -> Prediction:
        level, num_samples = self.default_level if call.level is None else call.level, call.num_samples
        self.check_level(level)
        self.check_options(num_samples, call.images)
        history, actions, exogenous, single = self.batched(call.history, call.actions, call.exogenous)
        mean = self.path(history, actions, exogenous)[:, :, 0]
        width = np.append(self.half_width(level), np.full(max(mean.shape[1] - HORIZON, 0), np.inf))
        half = np.broadcast_to(width[: mean.shape[1], None], mean.shape)
        horizon = np.full(len(mean), mean.shape[1] if self.calibrated else 0)
        forecast = self.forecast(mean, half, horizon)
        if not self.calibrated:
            forecast = replace(forecast, low=None, high=None)
        if num_samples:
            forecast = replace(forecast, samples=mean[:, None] + self.draws(num_samples)[:, : mean.shape[1]])
        found = Prediction(
            signals={"position": forecast}, level=level, trust=self.trust(history), calibrated=self.calibrated
        )
        return map_arrays(found, first_world) if single else found

    default_level, band_level = 0.9, 0.9995

    def draws(self, num_samples):
        return residual_paths(num_samples)

    def check_options(self, num_samples, images) -> None:
        if num_samples and not self.calibrated:
            raise UnsupportedError("sampled paths need a calibration. Calibrate on held-out episodes.")
        if images:
            raise UnsupportedError("exact predicts no images and has no decoder. Fit one.")

    def check_level(self, level) -> None:
        if not 0 < level < 1:
            raise InputError(f"level is {level}. Give a probability between 0 and 1.")
        if self.calibrated and level > self.band_level:
            raise UnsupportedError(
                f"level {level} needs more episodes. The highest available level is {self.band_level}."
            )

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
        odd = np.where(both, np.abs(position[:, 1:] - moved) / NOISE, 0.0).max((1, 2), initial=0.0)
        return 1 - share_within(odd) ** (2 * both.sum((1, 2)))

    # --- score

    def on_score(self, call) -> Scores:
        goal, constraints = call.goal, call.constraints
        actions = self.clipped(call.actions) if call.clip else call.actions
        self.check_goal(call.history, goal)
        self.supported(goal)
        history, actions, exogenous, single = self.batched(call.history, actions, call.exogenous, plans=True)
        path = self.path(history, actions, exogenous).transpose(0, 2, 1, 3)
        signals = {**self.inputs(actions), "wind": exogenous[:, None, None], "position": self.samples(path)}
        rollout = Rollout(
            signals=tensors(signals),
            present=tensors(self.present(history)),
            periods=self.periods(),
            trust=self.trust_ahead,
        )
        steps = np.zeros((1, 1, 1, path.shape[2]))
        if goal.targets:
            target = np.asarray(goal.targets["position"])[None] if single else goal.targets["position"]
            error = self.error(signals["position"], target[:, None, None, None]) / self.tolerance(goal)
            steps = np.square(error).mean(-1)
        steps = self.with_costs(steps, [cost(rollout).numpy() for cost in goal.costs])
        steps = np.broadcast_to(steps, (*actions.shape[:2], *steps.shape[2:])) * self.weights(goal, path.shape[2])
        cost = self.total(self.worst(steps, goal.risk))
        violation = self.violations(rollout, constraints, cost)
        found = Scores(cost=cost, violation=violation, trust=self.trust(history))
        return map_arrays(found, first_world) if single else found

    def check_goal(self, history, goal) -> None:
        shape = history.observations["position"].shape if "position" in history.observations else (1, 2)
        check_goal(self.schema, goal, shape[:-2])

    def supported(self, goal) -> None:
        if goal.in_steps or not set(goal.targets) <= {"position"}:
            raise UnsupportedError("exact has no distance head. Fit one, or set a target on position, not in steps.")

    def clipped(self, actions):
        return {"push": self.inside(actions["push"])}

    def inputs(self, push):
        return {"push": push[:, :, None]}

    def samples(self, path):
        return path[:, :, None]

    def present(self, history):
        now = {"position": history.observations["position"][:, -1].astype(float)}
        for name, arrays in (("push", history.actions), ("wind", history.exogenous)):
            if arrays[name].shape[1]:
                now[name] = arrays[name][:, -1]
        return now

    def periods(self):
        return {signal.name: signal.period for signal in self.schema.signals if signal.period is not None}

    def error(self, values, target):
        return self.schema["position"].difference(values, target)

    def trust_ahead(self, least):
        raise UnsupportedError("exact measures no novelty of what it imagines. Leave out what asks for it.")

    def tolerance(self, goal):
        return goal.tolerance.get("position", self.spread())

    def with_costs(self, steps, costs):
        return sum(costs, start=steps)

    def weights(self, goal, horizon):
        return goal.discount ** np.arange(horizon) * (np.arange(horizon) >= (horizon - 1) * goal.last_only)

    def worst(self, steps, risk):
        num = math.ceil(risk * steps.shape[2])
        order = steps.sum(-1).argsort(2)[:, :, -num:]
        return np.take_along_axis(steps, order[..., None], 2).mean(2)

    def total(self, steps):
        return steps.sum(-1)

    def violations(self, rollout, constraints, cost):
        values = [constraint(self.banded(rollout, constraint)).numpy() for constraint in constraints]
        return np.stack(values, -1) if values else np.zeros((*cost.shape, 0))

    def banded(self, rollout, constraint):
        if not isinstance(constraint, Chance):
            return rollout
        if not self.calibrated:
            raise UnsupportedError(f"a rule has to hold with probability {constraint.level}, without bands. Calibrate.")
        steps = rollout.signals["position"].shape[3]
        half = np.tile(self.half_width(constraint.level)[:steps, None], (1, 2))
        return replace(rollout, margin=tensors({"position": half}))

    # --- plan

    def on_plan(self, request) -> Plan:
        history = request.history
        self.check_goal(history, request.goal)
        self.supported(request.goal)
        if history.observations["position"].ndim == 3:
            alone = replace(request, proposals=None, pending=None)
            return self.stacked(
                [
                    self.on_plan(replace(alone, history=each, goal=replace(request.goal, targets=one), exogenous=wind))
                    for each, one, wind in worlds(history, request.goal.targets, request.exogenous)
                ]
            )
        sent = self.sent(request.pending)
        idle = np.concatenate([sent, np.zeros((request.horizon, 2))])
        trust = self.predict(history, {"push": idle}, exogenous=request.exogenous).trust
        if self.refused(trust, request.min_trust):
            return Plan(
                actions={"push": np.zeros((0, 2), np.float32)}, status=PlanStatus.REFUSED, cost=math.inf,
                violation=np.zeros(len(request.constraints)), trust=trust,
                reason="the history is unlike any that was seen.", elapsed_s=0.0,
            )  # fmt: skip
        proposals = request.proposals
        started = self.started(self.clipped(proposals) if request.clip and proposals else proposals, request.horizon)
        num_rounds = 6 if request.budget_s is None else 0
        goal, rules, exogenous = request.goal, request.constraints, request.exogenous
        best = self.search(history, goal, rules, request.horizon, exogenous, request.seed, sent, started, num_rounds)
        return self.as_plan(history, goal, rules, exogenous, sent, best, trust, searched=num_rounds > 0)

    def as_plan(self, history, goal, constraints, exogenous, sent, best, trust, *, searched):
        whole = {"push": np.concatenate([sent, best])[None]}
        scores = self.score(history, whole, goal, constraints, exogenous=exogenous)
        feasible = not scores.violation.any()
        expected = self.expected(history, {"push": np.concatenate([sent, best])}, exogenous)
        status = PlanStatus.SEARCHED if searched else PlanStatus.OUT_OF_TIME
        return Plan(
            actions={"push": best}, status=status if feasible else PlanStatus.INFEASIBLE,
            cost=float(scores.cost[0]), violation=scores.violation[0], trust=trust,
            reason="" if feasible else "no plan meets the constraints.", elapsed_s=0.01, prediction=expected,
        )  # fmt: skip

    def expected(self, history, actions, exogenous):
        return self.predict(history, actions, exogenous=exogenous)

    def stacked(self, plans):
        infeasible = [plan for plan in plans if plan.status is PlanStatus.INFEASIBLE]
        return Plan(
            actions={"push": np.stack([plan.actions["push"] for plan in plans])},
            status=infeasible[0].status if infeasible else plans[0].status,
            cost=np.array([plan.cost for plan in plans]),
            violation=np.stack([plan.violation for plan in plans]),
            trust=np.array([plan.trust for plan in plans]),
            reason=infeasible[0].reason if infeasible else "",
            elapsed_s=0.02,
        )

    def refused(self, trust, min_trust):
        return trust < min_trust

    def sent(self, pending):
        return np.zeros((0, 2), np.float32) if pending is None else pending["push"]

    def started(self, proposals, horizon):
        if proposals is None:
            return np.zeros((1, horizon, 2), np.float32)
        return check_actions(self.schema.actions, proposals, (None, horizon))["push"]

    def search(self, history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds):
        rng, near = np.random.default_rng(seed), started
        best = near[0]
        for width in [0.0, *0.5 ** np.arange(num_rounds)]:
            if width:
                near = self.inside(best + width * rng.uniform(-1, 1, (64, horizon, 2)))
                near = np.concatenate([best[None], near]).astype(np.float32)
            whole = np.concatenate([np.broadcast_to(sent, (len(near), *sent.shape)), near], 1)
            found = self.score(history, {"push": whole}, goal, constraints, exogenous=exogenous)
            best = near[(found.cost + 1e6 * found.violation.sum(-1)).argmin()]
        return best

    def inside(self, push):
        return np.clip(push, -1, 1)

    # --- what_if and surprise

    def on_what_if(self, call) -> WhatIf:
        episode, at, actions = call.episode, call.at, call.actions
        self.check_episode(episode)
        self.check_branch(episode, at, actions)
        taken = {name: value[at : at + len(actions["push"])] for name, value in episode.actions.items()}
        return WhatIf(
            signals={"position": self.replayed(episode, at, actions)},
            factual={"position": self.replayed(episode, at, taken)},
            abduction=Abduction.FULL,
        )

    def check_episode(self, episode) -> None:
        check_episode(self.schema, episode)

    def check_branch(self, episode, at, actions) -> None:
        num_steps = len(check_actions(self.schema.actions, actions, (None,))["push"])
        if at < 0 or at + num_steps > episode.num_steps:
            raise InputError(f"{num_steps} steps from {at} do not fit {episode.num_steps} steps. Branch earlier.")

    def replayed(self, episode, at, actions):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        return self.rolled(episode, at, actions, left[at:])

    def rolled(self, episode, at, actions, noise):
        now, path = episode.observations["position"][at].astype(float), []
        for step, push in enumerate(actions["push"]):
            now = self.toy.step(now, push, episode.exogenous["wind"][at + step]) + noise[step]
            path.append(now)
        return np.stack(path)

    def on_surprise(self, call) -> Surprise:
        if not self.calibrated:
            raise UnsupportedError("surprise needs a calibration. Calibrate on held-out episodes.")
        self.check_episode(call.episode)
        return surprise_of(self.p_values(call.episode))

    def p_values(self, episode):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        observed = episode.observed.get("position", np.ones(len(position))).astype(bool)
        found = 1 - share_within(np.abs(left).max(1) / NOISE) ** 2
        return self.with_gaps(found, observed)

    def with_gaps(self, p_values, observed):
        return np.where(observed[1:] & observed[:-1], p_values, 1.0)

    # --- what all verbs share

    def batched(self, history, actions, exogenous, *, plans=False):
        self.check(history, actions, exogenous, plans=plans)
        position = history.observations["position"]
        nothing = {name: np.zeros((*position.shape[:-2], 0, 2)) for name in ("push", "wind")}
        history = replace(
            history,
            actions=history.actions or {"push": nothing["push"]},
            exogenous=history.exogenous or {"wind": nothing["wind"]},
        )
        single = position.ndim == 2
        if single:
            history = add_world_axis(history)
            actions = {name: value[None] for name, value in actions.items()}
            exogenous = {name: value[None] for name, value in exogenous.items()}
        push = actions["push"] if plans else actions["push"][:, None]
        return history, push, exogenous["wind"], single

    def check(self, history, actions, exogenous, *, plans) -> None:
        self.check_present(history)
        leading = history.observations["position"].shape[:-2]
        num_steps = self.check_actions(actions, (*leading, None, None) if plans else (*leading, None))
        self.check_exogenous(exogenous or {}, (*leading, num_steps))

    def check_present(self, history) -> None:
        check_history(self.schema, history)
        if "position" not in history.observations:
            raise InputError("observation 'position' is missing. Add it.")

    def check_actions(self, actions, leading):
        return check_actions(self.schema.actions, actions, leading)["push"].shape[-2]

    def check_exogenous(self, exogenous, leading) -> None:
        check_group(self.schema.exogenous, exogenous, leading, "exogenous")

    def seen(self, history):
        position = history.observations["position"].astype(float)
        observed = history.observed.get("position", np.ones(position.shape[:2])).astype(bool)
        return np.where(observed[..., None] | ~self.masks, position, 0.0), observed

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


class Drawing(Exact):
    """Shows costs and constraints what cannot be foreseen, as draws."""

    deterministic = False

    def samples(self, path):
        draws = residual_paths(16)
        draws = (draws - draws.mean(0))[:, : path.shape[2]]
        return path[:, :, None] + draws


def worlds(history: History, targets: Arrays, exogenous: Arrays | None) -> list[tuple[History, Arrays, Arrays]]:
    """Each world of a batch: its history, targets and exogenous inputs."""
    batch = (history, targets, exogenous or {})
    return [
        tuple(map_arrays(part, lambda value, number=number: value[number]) for part in batch)
        for number in range(len(history.observations["position"]))
    ]
