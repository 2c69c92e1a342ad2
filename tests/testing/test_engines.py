from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.testing.exact_engine import Able, Drawing, Exact

from worldline.engines.base import Samples
from worldline.engines.tensors import TensorEngine
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.planning.base import Rollout
from worldline.testing import check_engine
from worldline.testing.clauses import breaches
from worldline.testing.engine_case import EngineCase
from worldline.testing.engines import CLAUSES
from worldline.testing.toys import Integrator


class Peeking(Exact):
    def pushes(self, future):
        return future.actions["push"][:, :, ::-1]


class PeekingAtWind(Exact):
    def winds(self, future):
        return super().winds(future)[:, :, ::-1]


class Late(Exact):
    def pushes(self, future):
        push = future.actions["push"]
        return np.concatenate([np.zeros_like(push[:, :, :1]), push[:, :, :-1]], 2)


class Early(Exact):
    def pushes(self, future):
        return np.roll(future.actions["push"], -1, 2)


class HeedsNothing(Exact):
    def pushes(self, future):
        return np.zeros_like(future.actions["push"])


class SaysItHeedsNothing(Exact):
    def describe(self) -> Card:
        return replace(super().describe(), action_conditioned=False)


class Shuffled(Exact):
    def result(self, path):
        return path[:, ::-1]


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


class IgnoresMasks(Exact):
    def seen(self, steps):
        position = np.nan_to_num(steps.observations["position"].astype(float))
        return position, np.ones(position.shape[:2], bool)


class NanTimesZero(Exact):
    def merged(self, position, observed, moved):
        return position * observed + moved * ~observed


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


class WorldsMean(Exact):
    def closed(self, now):
        return now - now.mean(0)


class ForgetsOnObserve(Exact):
    def observe(self, belief, steps, *, seed):
        position, _ = self.seen(steps)
        return super().observe(None if belief is None else 0 * position[:, 0], steps, seed=seed) * 0.5 + 0.5 * (
            0 if belief is None else belief
        )


class LiesAboutDeterminism(Drawing):
    deterministic = True


class FalselyModest(Exact):
    deterministic = False


class ListsAnAbility(Exact):
    abilities = ("abducts",)


class HidesAnAbility(Able):
    abilities = ("novelty", "reaches")


class MisspellsAnAbility(Exact):
    abilities = ("abduct",)


class PredictsNothingReal(Exact):
    predicts = ("position", "speed")


class WrongPrecision(Exact):
    def imagine(self, *args, **rest):
        found = super().imagine(*args, **rest).signals["position"]
        return Samples(signals={"position": found.astype(np.float64)})


class NoSampleAxis(Exact):
    def imagine(self, *args, **rest):
        return Samples(signals={"position": super().imagine(*args, **rest).signals["position"][:, :, 0]})


class Infinite(Exact):
    def result(self, path):
        return np.where(np.arange(path.shape[3])[:, None] == 2, np.inf, path)


class KeyErrors(Exact):
    def check(self, arrays, name, ndim):
        arrays[name]


class KeyErrorOfThePast(Exact):
    def observe(self, belief, steps, *, seed):
        return super().observe(belief, replace(steps, exogenous={"wind": steps.exogenous["wind"]}), seed=seed)


class MissingMeansZero(Exact):
    def observe(self, belief, steps, *, seed):
        if "push" not in steps.actions:
            steps = replace(steps, actions={"push": np.zeros_like(steps.exogenous["wind"])})
        return super().observe(belief, steps, seed=seed)


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


class InTensors(Exact, TensorEngine):
    """Of a push there is left, after each further step, what decays."""

    abilities = ("differentiable",)

    def rollout(self, belief, actions, exogenous, *, num_samples, seed):
        now, path = torch.from_numpy(self.opened(belief))[:, None], []
        for push, wind in zip(actions.unbind(2), exogenous.unbind(1), strict=True):
            now = self.kept(self.toy.decay * now) + push + wind[:, None]
            path.append(now)
        return Rollout(signals={"position": self.finished(torch.stack(path, 2)[:, :, None].float())})

    def kept(self, now):
        return now

    def finished(self, path):
        return path


class GradientOfTheNextStepOnly(InTensors):
    def kept(self, now):
        return now.detach()


class NoGradient(InTensors):
    def finished(self, path):
        return path.detach()


class OtherTensors(InTensors):
    def finished(self, path):
        return 1.1 * path


class ProposesOutside(Able):
    def propose(self, *args, **rest):
        return {"push": 3.0 * super().propose(*args, **rest)["push"] + 1.0}


class ProposesWhatIsPending(Able):
    """What was sent already comes back as a part of the proposals."""

    def propose(self, belief, goal, horizon, *, pending=None, **rest):
        found = super().propose(belief, goal, horizon, **rest)["push"]
        return {"push": found if pending is None else np.concatenate([pending["push"][:, None], found], 2)}


class CutsSequencesShort(Able):
    """Where there is no time for whole sequences, it gives their first steps."""

    def propose(self, *args, budget_s=None, **rest):
        found = super().propose(*args, **rest)["push"]
        return {"push": found if budget_s is None else found[:, :, :1]}


class ForgetsWhatIsPending(Able):
    def propose(self, *args, pending=None, **rest):
        return super().propose(*args, **rest)


class AbductsFromTheStart(Able):
    """Goes on from the first observation, wherever it was asked to branch."""

    def abduct(self, episode, at):
        belief, noise = super().abduct(episode, at)
        return 0 * belief + episode.observations["position"][None, 0], noise


class AbductsTheWrongDraws(Able):
    def abduct(self, episode, at):
        belief, noise = super().abduct(episode, at)
        return belief, -noise


class NoveltyReversed(Able):
    """The more usual, the newer."""

    def novelty(self, belief):
        return -super().novelty(belief)


class ConstantNovelty(Able):
    def novelty(self, belief):
        return np.full(len(belief), 0.8)


class NoveltyOfThePresent(Able):
    """However far it goes, it is as new as where it set out."""

    def novelty_ahead(self, belief, future, *, seed):
        versions, horizon = future.actions["push"].shape[1:3]
        return np.repeat(np.repeat(self.novelty(belief)[:, None, None], versions, 1), horizon, 2)


FAULTS = [
    (Peeking, "engine.no_peek"),
    (PeekingAtWind, "engine.no_peek"),
    (Late, "engine.timing"),
    (Early, "engine.timing"),
    (Shuffled, "engine.versions_independent"),
    (NoisePerVersion, "engine.versions_independent"),
    (Unseeded, "engine.seeds"),
    (GlobalRandomness, "engine.arguments"),
    (IgnoresMasks, "engine.masks"),
    (NanTimesZero, "engine.masks"),
    (BeliefMutatedByImagine, "engine.belief_immutable"),
    (BeliefMutatedByObserve, "engine.belief_immutable"),
    (MutatesHistory, "engine.arguments"),
    (MutatesFuture, "engine.arguments"),
    (WorldsMean, "engine.worlds_independent"),
    (ForgetsOnObserve, "engine.observe_continues"),
    (HeedsNothing, "engine.action_conditioned"),
    (SaysItHeedsNothing, "engine.action_conditioned"),
    (LiesAboutDeterminism, "engine.deterministic"),
    (FalselyModest, "engine.deterministic"),
    (ListsAnAbility, "engine.abilities"),
    (HidesAnAbility, "engine.abilities"),
    (MisspellsAnAbility, "engine.card"),
    (PredictsNothingReal, "engine.card"),
    (WrongPrecision, "engine.samples"),
    (NoSampleAxis, "engine.samples"),
    (Infinite, "engine.samples"),
    (KeyErrors, "engine.input_errors"),
    (KeyErrorOfThePast, "engine.input_errors"),
    (MissingMeansZero, "engine.input_errors"),
    (NoiseNotReplayed, "engine.abducts"),
    (AbductsFromTheStart, "engine.abducts"),
    (AbductsTheWrongDraws, "engine.abducts"),
    (NoveltyReversed, "engine.novelty"),
    (FakedDistance, "engine.reaches"),
    (UnseededDistance, "engine.reaches"),
    (ProposesOutside, "engine.reaches"),
    (CutsSequencesShort, "engine.reaches"),
    (ProposesWhatIsPending, "engine.reaches"),
    (ForgetsWhatIsPending, "engine.reaches"),
    (GradientOfTheNextStepOnly, "engine.tensors"),
    (NoGradient, "engine.tensors"),
    (OtherTensors, "engine.tensors"),
    (ConstantNovelty, "engine.novelty"),
    (UnseededNovelty, "engine.novelty"),
    (NoveltyOfThePresent, "engine.novelty"),
]


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return Integrator(noise=0.1).episodes(20, 12, seed=0)


@pytest.mark.parametrize("engine", [Exact, Drawing, Able, InTensors])
def test_a_correct_engine_passes(engine: type[Exact], episodes: Sequence[Episode]) -> None:
    check_engine(engine(), episodes)


@pytest.mark.parametrize(("fault", "clause"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_is_caught(fault: type[Exact], clause: str, episodes: Sequence[Episode]) -> None:
    assert _seen_by_the_clauses(EngineCase(engine=fault(), episodes=episodes), clause)


def test_missing_values_in_the_log_do_not_disturb(episodes: Sequence[Episode]) -> None:
    gappy = []
    for number, episode in enumerate(episodes):
        observed = np.arange(13) % 5 != number % 5
        position = np.where(observed[:, None], episode.observations["position"], np.nan).astype(np.float32)
        gappy.append(
            replace(
                episode,
                observations={**episode.observations, "position": position},
                observed={"position": observed},
            )
        )
    check_engine(Exact(), gappy)


def test_clauses_can_be_called_one_by_one(episodes: Sequence[Episode]) -> None:
    case = EngineCase(engine=Able(), episodes=episodes, seed=1)
    assert [breaches("Able", case, [clause]) for clause in CLAUSES] == [[]] * len(CLAUSES)


def test_episodes_that_tell_nothing_are_refused(episodes: Sequence[Episode]) -> None:
    with pytest.raises(InputError, match="longer ones"):
        check_engine(Exact(), episodes, horizon=40)


def _seen_by_the_clauses(case: EngineCase, name: str) -> bool:
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
