"""Faults of engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.testing.exact_engine import Able, Drawing, Exact
from tests.testing.planted import ENGINE_EPISODES, altered, catches, engine_case, gappy, instead, passes

from worldline.engines.base import Parts, Samples, Storable
from worldline.errors import DataError, InputError
from worldline.planning.base import Rollout
from worldline.testing import check_engine


def answering(change) -> type[Exact]:
    """An engine with other samples."""
    return altered(
        Exact, "OtherSamples", imagine=lambda found: Samples(signals={"position": change(found.signals["position"])})
    )


class NoisePerVersion(Drawing):
    def draws(self, shape, seed):
        return self.noise * np.random.default_rng(seed).standard_normal(shape)


class Unseeded(Drawing):
    def draws(self, shape, seed):
        return self.noise * np.random.default_rng().standard_normal((shape[0], 1, *shape[2:]))


class GlobalRandomness(Drawing):
    def draws(self, shape, seed):
        np.random.seed(seed)  # noqa: NPY002
        return self.noise * np.random.standard_normal((shape[0], 1, *shape[2:]))  # noqa: NPY002


class BeliefMutatedByImagine(Exact):
    def imagine(self, belief, future, **rest):
        samples = super().imagine(belief, future, **rest)
        belief += 0.1
        return samples


class BeliefMutatedByObserve(Exact):
    def observe(self, belief, steps, *, seed):
        if belief is not None:
            belief *= 0.5
        return super().observe(belief, steps, seed=seed)


class MutatesHistory(Exact):
    def seen(self, steps):
        steps.observations["position"][:, 0] += 0.5
        return super().seen(steps)


class MutatesFuture(Exact):
    def pushes(self, future):
        return np.clip(future.actions["push"], -0.5, 0.5, out=future.actions["push"])


class ForgetsOnObserve(Exact):
    def observe(self, belief, steps, *, seed):
        position, _ = self.seen(steps)
        return super().observe(None if belief is None else 0 * position[:, 0], steps, seed=seed) * 0.5 + 0.5 * (
            0 if belief is None else belief
        )


Infinite = instead(Exact, result=lambda self, path: np.where(np.arange(path.shape[3])[:, None] == 2, np.inf, path))


class NoiseNotReplayed(Able):
    def imagine(self, belief, future, *, noise=None, **rest):
        return super().imagine(belief, future, noise=None, **rest)


class FakedDistance(Able):
    def distance(self, belief, future, goal, *, seed):
        if "camera" in goal:
            return np.zeros(future.actions["push"].shape[:3])
        return super().distance(belief, future, goal, seed=seed)


class UnseededDistance(Able):
    def distance(self, belief, future, goal, *, seed):
        return super().distance(belief, future, goal, seed=None)


class UnseededNovelty(Able):
    def novelty_ahead(self, belief, future, *, seed):
        return super().novelty_ahead(belief, future, seed=None)


class ClaimsToBeLinear(Exact):
    abilities = ("linear",)

    def pushes(self, future):
        return np.abs(super().pushes(future))


class InTensors(Exact):
    """Of a push there is left, after each further step, what decays."""

    abilities = ("differentiable",)

    def rollout(self, belief, actions, exogenous, **rest):
        now, path = torch.from_numpy(self.opened(belief))[:, None], []
        for push, wind in zip(actions.unbind(2), exogenous.unbind(1), strict=True):
            now = self.kept(self.toy.decay * now) + push + wind[:, None]
            path.append(now)
        return Rollout(signals={"position": self.finished(torch.stack(path, 2)[:, :, None].float())})

    def kept(self, now):
        return now

    def finished(self, path):
        return path


class ProposesPendingActions(Able):
    """What was sent already comes back as a part of the proposals."""

    def propose(self, belief, goal, horizon, *, pending=None, **rest):
        found = super().propose(belief, goal, horizon, **rest)["push"]
        return {"push": found if pending is None else np.concatenate([pending["push"][:, None], found], 2)}


class CutsSequencesShort(Able):
    """Where there is no time for whole sequences, it gives their first steps."""

    def propose(self, *args, budget_s=None, **rest):
        found = super().propose(*args, **rest)["push"]
        return {"push": found if budget_s is None else found[:, :, :1]}


class ForgetsPendingActions(Able):
    def propose(self, *args, pending=None, **rest):
        return super().propose(*args, **rest)


class AbductsFromTheStart(Able):
    """Goes on from the first observation, wherever it was asked to branch."""

    def abduct(self, episode, at):
        belief, noise = super().abduct(episode, at)
        return 0 * belief + episode.observations["position"][None, 0], noise


class NoveltyOfThePresent(Able):
    """However far it goes, it is as new as where it set out."""

    def novelty_ahead(self, belief, future, *, seed):
        versions, horizon = future.actions["push"].shape[1:3]
        return np.repeat(np.repeat(self.novelty(belief)[:, None, None], versions, 1), horizon, 2)


ENGINE_FAULTS = [
    (ClaimsToBeLinear, "action_conditioned", "not affine"),
    (altered(Exact, "Shuffled", result=lambda path: path[:, ::-1]), "candidates_independent", "candidate 0 alone"),
    (NoisePerVersion, "candidates_independent", ""),
    (Unseeded, "seeds_reproduce", "equal seeds gave different results"),
    (GlobalRandomness, "arguments_unchanged", "global random state"),
    (BeliefMutatedByImagine, "belief_immutable", "a prediction changed the belief"),
    (BeliefMutatedByObserve, "belief_immutable", "an update changed the belief"),
    (MutatesHistory, "arguments_unchanged", r"argument 0 \(History\).observations.position"),
    (MutatesFuture, "arguments_unchanged", r"argument 2 \(Future\).actions.push"),
    (altered(Exact, "WorldsMean", closed=lambda now: now - now.mean(0)), "batch_independent", "of entry 0 changed"),
    (ForgetsOnObserve, "observe_continues", "the updated belief differs"),
    (altered(Exact, "IgnoresActions", pushes=np.zeros_like), "action_conditioned", "the card states True"),
    (
        altered(Exact, "DeniesActions", describe=lambda card: replace(card, action_conditioned=False)),
        "action_conditioned",
        "the card states False",
    ),
    (altered(Drawing, "LiesAboutDeterminism", deterministic=True), "deterministic_claim", "two seeds differ"),
    (altered(Exact, "FalselyModest", deterministic=False), "deterministic_claim", "all samples are equal"),
    (altered(Exact, "ListsAnAbility", abilities=("abducts",)), "abilities_honest", "the engine is not a Abducts"),
    (altered(Able, "HidesAnAbility", abilities=("novelty", "reaches")), "abilities_honest", "does not list 'abducts'"),
    (answering(lambda found: found.astype(np.float64)), "samples_shape", "has dtype float64"),
    (answering(lambda found: found[:, :, 0]), "samples_shape", "has shape"),
    (Infinite, "samples_shape", "is not finite"),
    (NoiseNotReplayed, "abducts", "two seeds differ"),
    (AbductsFromTheStart, "abducts", "the error of 'position' after abduct"),
    (FakedDistance, "reaches", "the distance to 'camera' is always 0"),
    (UnseededDistance, "reaches", "equal seeds gave different distances"),
    (
        altered(Able, "ProposesOutside", propose=lambda found: {"push": 3.0 * found["push"] + 1.0}),
        "reaches",
        "proposals: 'push' is outside",
    ),
    (CutsSequencesShort, "reaches", "proposals of 'push' has shape"),
    (ProposesPendingActions, "reaches", "proposals of 'push' has shape"),
    (ForgetsPendingActions, "reaches", "do not depend on the pending actions"),
    (altered(InTensors, "GradientOfTheNextStepOnly", kept=torch.Tensor.detach), "differentiable", "its gradient is 0"),
    (altered(InTensors, "NoGradient", finished=torch.Tensor.detach), "differentiable", "it has no gradient"),
    (altered(InTensors, "OtherTensors", finished=lambda path: 1.1 * path), "samples_shape", "rollout is not imagine"),
    (altered(Able, "ConstantNovelty", novelty=lambda score: np.full(len(score), 0.8)), "novelty", "is 0.8 for every"),
    (UnseededNovelty, "novelty", "equal seeds gave different scores"),
    (NoveltyOfThePresent, "novelty", "the score of the future is constant"),
    (altered(Able, "NoveltyReversed", novelty=lambda score: -score), "novelty_grows", "above that of real ones"),
]


@pytest.mark.parametrize("engine", [Exact, Drawing, Able, InTensors])
def test_a_correct_engine_passes(engine: type[Exact]) -> None:
    check_engine(engine(), ENGINE_EPISODES)


def test_missing_values_in_the_log_do_not_disturb() -> None:
    check_engine(Exact(), gappy(ENGINE_EPISODES, 5, np.nan))


def test_episodes_that_tell_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[0, 1, .* have fewer than the 42 steps .* longer ones"):
        check_engine(Exact(), ENGINE_EPISODES, horizon=40)
    with pytest.raises(InputError, match="at least two"):
        check_engine(Exact(), ENGINE_EPISODES[:1])


class Stored(Exact, Storable):
    """Keeps a setting and an array: what is drawn to, and how strongly."""

    def __init__(self, drift: float = 0.25, target: np.ndarray | None = None) -> None:
        super().__init__()
        self.drift, self.target = drift, np.array([1.0, -1.0]) if target is None else target

    def result(self, path):
        return path + self.drift * (self.target - path)

    def to_parts(self) -> Parts:
        return Parts(config={"drift": self.drift}, arrays={"target": self.target})

    @classmethod
    def from_parts(cls, schema, parts):
        if set(parts.config) != {"drift"} or set(parts.arrays) != {"target"}:
            raise DataError("these are not the parts of the toy", fix="Store it again.")
        return cls(parts.config["drift"], parts.arrays["target"])


def storing(**changes: Any) -> type[Stored]:
    """The engine with other parts."""
    return altered(Stored, f"Storing{changes}", to_parts=lambda parts: replace(parts, **changes))


class AnotherCard(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        engine = super().from_parts(schema, parts)
        engine.abilities = ("abducts",)
        return engine


class TakesAnything(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        return cls(parts.config.get("drift", 0.25), parts.arrays.get("target"))


class CrashesOnMissingParts(Stored):
    @classmethod
    def from_parts(cls, schema, parts):
        return cls(parts.config["drift"], parts.arrays["target"])


test_an_engine_in_parts_passes = passes([Stored], ["parts_restore"], engine_case)

ENGINE_FAULTS += [
    (storing(config={"drift": (0.25,)}), "parts_restore", "config changes by a round trip through JSON"),
    (storing(config={"drift": np.ones(2)}), "parts_restore", "raised TypeError: Object of type ndarray is not JSON"),
    (storing(config={"drift": 0.2}), "parts_restore", "the restored engine predicts something else"),
    (AnotherCard, "parts_restore", "the restored engine has another card"),
    (TakesAnything, "parts_restore", "parts without the array 'target': expected DataError"),
    (CrashesOnMissingParts, "parts_restore", "parts without the array 'target': expected DataError, got KeyError"),
]


test_a_planted_fault_is_caught = catches(ENGINE_FAULTS, engine_case)
