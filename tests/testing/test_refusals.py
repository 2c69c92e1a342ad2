from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.testing.exact_world import Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.errors import InputError, UnsupportedError
from worldline.testing.clauses import breaches
from worldline.testing.refusals import (
    bounds_kept,
    episodes_fit,
    exogenous_needed,
    messages_name_the_error,
    ranges_kept,
    refusals_name_what_is_missing,
    trust_ahead,
)
from worldline.testing.world_case import WorldCase


class Seeing(Exact):
    """Takes the camera too."""

    def describe(self):
        return replace(super().describe(), inputs=("position", "camera"))

    def check_present(self, history):
        super().check_present(history)
        if "camera" not in history.observations:
            raise InputError("observation 'camera' is missing. Add it.")


class TakesFloatPictures(Seeing):
    def check_present(self, history):
        rounded = {name: self.rounded(name, value) for name, value in history.observations.items()}
        super().check_present(replace(history, observations=rounded))

    def rounded(self, name, value):
        return value.astype(np.uint8) if name == "camera" else value


class Curt(Exact):
    """Refuses what it should, and does not say why."""

    def check(self, history, actions, exogenous, *, plans):
        try:
            super().check(history, actions, exogenous, plans=plans)
        except InputError:
            raise InputError("bad input.") from None


class NamesNoShape(Exact):
    def check(self, history, actions, exogenous, *, plans):
        try:
            super().check(history, actions, exogenous, plans=plans)
        except InputError as error:
            raise InputError(str(error).split("expected shape")[0]) from None


class DiesOfWhatItDoesNotKnow(Exact):
    def check(self, history, actions, exogenous, *, plans):
        if set(actions) != {"push"}:
            raise KeyError("nonsense")
        super().check(history, actions, exogenous, plans=plans)


class IgnoresWhatItDoesNotKnow(Exact):
    def check_actions(self, actions, leading):
        return super().check_actions({name: value for name, value in actions.items() if name == "push"}, leading)


class NeedsNoPast(Exact):
    def check_present(self, history):
        if "position" not in history.observations:
            super().check_present(history)
        shape = history.observations["position"].shape
        given = {"push": np.zeros((*shape[:-2], shape[-2] - 1, 2), np.float32)}
        super().check_present(replace(history, actions=given))


class ClipsActions(Exact):
    def check_actions(self, actions, leading):
        return super().check_actions(clipped(actions), leading)


class ClipsProposals(Exact):
    def started(self, proposals, horizon):
        return super().started(None if proposals is None else clipped(proposals), horizon)


class ClipsInHindsight(Exact):
    def check_branch(self, episode, at, actions):
        super().check_branch(episode, at, clipped(actions))


class KeepsTheBoundToItself(Exact):
    def check_actions(self, actions, leading):
        try:
            return super().check_actions(actions, leading)
        except InputError as error:
            raise InputError(str(error).split("its bound")[0]) from None


class CalmWithoutWind(Exact):
    """No wind given is no wind."""

    def batched(self, history, actions, exogenous, *, plans=False):
        shape = actions["push"].shape
        calm = np.zeros((*shape[: -3 if plans else -2], *shape[-2:]), np.float32)
        return super().batched(history, actions, exogenous or {"wind": calm}, plans=plans)


class AnyLevel(Exact):
    def check_level(self, level):
        pass

    def half_width(self, level):
        return super().half_width(min(max(level, 0.01), 0.99))


class NoSteps(Exact):
    """A plan of nothing is a plan."""

    def plan(self, history, goal, *, horizon, exogenous=None, **rest):
        if horizon == 0:
            return super().plan(history, goal, horizon=1, exogenous={"wind": np.zeros((1, 2), np.float32)}, **rest)
        return super().plan(history, goal, horizon=horizon, exogenous=exogenous, **rest)


class AnyTrust(Exact):
    def plan(self, *args, min_trust=0.0, **rest):
        return super().plan(*args, min_trust=min(min_trust, 1.0), **rest)


class AnyBudget(Exact):
    def plan(self, *args, budget_s=None, **rest):
        return super().plan(*args, budget_s=None if budget_s is None else abs(budget_s), **rest)


class AnyGoal(Exact):
    def check_goal(self, history, goal):
        if goal.risk:
            super().check_goal(history, replace(goal, discount=1.0, tolerance={}))
        else:
            raise InputError("a goal is odd.")


class BranchesAnywhere(Exact):
    def check_branch(self, episode, at, actions):
        pass

    def rolled(self, episode, at, actions, noise):
        return np.zeros((len(actions["push"]), 2))


class BranchesFromTheEnd(Exact):
    """As Python counts."""

    def check_branch(self, episode, at, actions):
        super().check_branch(episode, at % (episode.num_steps + 1), actions)


class AnyEpisode(Exact):
    def check_episode(self, episode):
        if set(episode.actions) == {"push"}:
            super().check_episode(episode)

    def p_values(self, episode):
        return np.ones(episode.num_steps)

    def rolled(self, episode, at, actions, noise):
        return np.zeros((len(actions["push"]), 2))

    def what_if(self, episode, at, actions):
        whole = {"push": np.zeros((episode.num_steps, 2), np.float32), **episode.actions}
        return super().what_if(replace(episode, actions=whole), at, actions)


class Refuses(Exact):
    """With words of its own."""

    text = ""

    def supported(self, goal):
        try:
            super().supported(goal)
        except UnsupportedError:
            raise UnsupportedError(self.text) from None


class SilentRefusal(Refuses):
    text = "no."


class RefusalWithoutRemedy(Refuses):
    text = "there is no distance head"


class AnswersInSteps(Exact):
    def supported(self, goal):
        super().supported(replace(goal, in_steps=False))


class SurprisedWithoutCalibration(Exact):
    calibrated = False

    def surprise(self, episode):
        self.calibrated = True
        try:
            return super().surprise(episode)
        finally:
            self.calibrated = False


class UnsurprisedThoughCalibrated(Exact):
    def surprise(self, episode):
        raise UnsupportedError("surprise needs a calibration. Calibrate on held-out episodes.")


class RefusesSurpriseWithoutAWord(Exact):
    calibrated = False

    def surprise(self, episode):
        raise UnsupportedError("not here.")


class TrustsAhead(Exact):
    """In what it imagines, by how far out it is; on 19 episodes."""

    def score(self, history, actions, goal, constraints=(), *, exogenous=None):
        self.shape = (*actions["push"].shape[:-3], *actions["push"].shape[-3:-1])
        return super().score(history, actions, goal, constraints, exogenous=exogenous)

    def trust_ahead(self, least):
        if least < 1 / 20:
            raise InputError(f"19 episodes tell no p-value of {least}. Ask for 0.05.")
        return torch.full((1, *self.shape[-2:]), 0.5)[:, :, None]


class TrustsAheadAnything(TrustsAhead):
    def trust_ahead(self, least):
        return super().trust_ahead(0.5)


class TrustAheadBelowZero(TrustsAhead):
    def trust_ahead(self, least):
        return super().trust_ahead(least) - 2


class TrustAheadRefusedWithoutAWord(Exact):
    def trust_ahead(self, least):
        raise UnsupportedError("trust is good. Control is better.")


def clipped(actions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Inside the bounds of a push, NaN as it is."""
    return {name: np.clip(value, -1, 1) for name, value in actions.items()}


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


CLAUSES = (
    messages_name_the_error,
    bounds_kept,
    exogenous_needed,
    ranges_kept,
    episodes_fit,
    refusals_name_what_is_missing,
    trust_ahead,
)


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("world", [Exact, Seeing, TrustsAhead])
def test_a_correct_world_passes(
    world: type[Exact], clause: Callable[[WorldCase], None], episodes: Sequence[Episode]
) -> None:
    assert breaches("correct", toy_case(world(), episodes), [clause]) == []


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (
            Curt,
            messages_name_the_error,
            r"\[world.messages\] no 'position' in the history: the message 'bad input.' does not contain",
        ),
        (
            NamesNoShape,
            messages_name_the_error,
            r"\[world.messages\] 'position' misshapen .* does not contain \(2,\), \(3, 3\)",
        ),
        (
            TakesFloatPictures,
            messages_name_the_error,
            r"\[world.messages\] 'camera' of floats in the history: expected InputError",
        ),
        (
            NeedsNoPast,
            messages_name_the_error,
            r"\[world.messages\] no 'push' in the past actions: expected InputError, got KeyError",
        ),
        (
            DiesOfWhatItDoesNotKnow,
            messages_name_the_error,
            r"\[world.messages\] no 'push' in the plan: expected InputError, got KeyError",
        ),
        (
            IgnoresWhatItDoesNotKnow,
            messages_name_the_error,
            r"\[world.messages\] an unknown signal in the plan: expected InputError",
        ),
        (ClipsActions, bounds_kept, r"\[world.bounds\] predict with 'push' at -3, outside .*: expected InputError"),
        (ClipsProposals, bounds_kept, r"\[world.bounds\] plan with proposals with 'push' at -3"),
        (ClipsInHindsight, bounds_kept, r"\[world.bounds\] what_if with 'push' at -3"),
        (KeepsTheBoundToItself, bounds_kept, r"\[world.bounds\] predict with 'push' at -3, .* does not contain -1.0"),
        (CalmWithoutWind, exogenous_needed, r"\[world.exogenous\] predict without any of the exogenous signals"),
        (AnyLevel, ranges_kept, r"\[world.ranges\] level 0.0: expected InputError"),
        (NoSteps, ranges_kept, r"\[world.ranges\] horizon 0: expected InputError"),
        (AnyTrust, ranges_kept, r"\[world.ranges\] min_trust 2: expected InputError"),
        (AnyBudget, ranges_kept, r"\[world.ranges\] budget_s -1: expected InputError"),
        (AnyGoal, ranges_kept, r"\[world.ranges\] score with discount 1.5: expected InputError"),
        (
            BranchesAnywhere,
            episodes_fit,
            r"\[world.episodes\] what_if with 1 step\(s\) from observation -1 of 14: expected",
        ),
        (BranchesFromTheEnd, episodes_fit, r"\[world.episodes\] what_if with 1 step\(s\) from observation"),
        (AnyEpisode, episodes_fit, r"\[world.episodes\] what_if: no 'push' in the episode: expected InputError"),
        (
            SilentRefusal,
            refusals_name_what_is_missing,
            r"\[world.lacking\] .* the message 'no.' names none of distance",
        ),
        (RefusalWithoutRemedy, refusals_name_what_is_missing, r"\[world.lacking\] .* does not state what provides it"),
        (
            AnswersInSteps,
            refusals_name_what_is_missing,
            r"\[world.lacking\] score towards 'position' in steps was answered",
        ),
        (
            SurprisedWithoutCalibration,
            refusals_name_what_is_missing,
            r"\[world.lacking\] surprise was answered, but .* not cal",
        ),
        (
            UnsurprisedThoughCalibrated,
            refusals_name_what_is_missing,
            r"\[world.lacking\] surprise was refused, but .* are cal",
        ),
        (
            RefusesSurpriseWithoutAWord,
            refusals_name_what_is_missing,
            r"\[world.lacking\] surprise: the message 'not here.' na",
        ),
        (
            TrustsAheadAnything,
            trust_ahead,
            r"\[world.lacking\] OODPenalty with a p-value of 1e-12: expected InputError",
        ),
        (TrustAheadBelowZero, trust_ahead, r"\[world.lacking\] OODPenalty costs .* expected 0 to 6"),
        (TrustAheadRefusedWithoutAWord, trust_ahead, r"\[world.lacking\] trust of predictions: the message"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[WorldCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    with pytest.raises(AssertionError, match=seen):
        clause(toy_case(fault(), episodes))


def test_a_target_that_is_nan_or_misshapen_is_refused(episodes: Sequence[Episode]) -> None:
    class AnyTarget(Exact):
        def check_goal(self, history, goal):
            known = {name: np.zeros(2) for name in goal.targets if name == "position"}
            leading = history.observations["position"].shape[:-2]
            known = {name: np.broadcast_to(value, (*leading, 2)) for name, value in known.items()}
            super().check_goal(history, replace(goal, targets=known) if known else goal)

    with pytest.raises(AssertionError, match=r"\[world.ranges\] .* with 'position' (misshapen|of NaN)"):
        ranges_kept(toy_case(AnyTarget(), episodes))
