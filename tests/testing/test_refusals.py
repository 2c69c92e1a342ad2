from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from tests.testing.exact_world import Exact
from tests.testing.planted import altered, catches, instead, world_case

from worldline.errors import InputError, UnsupportedError
from worldline.world.base import Scores


class ClipsActions(Exact):
    def check_actions(self, actions, leading):
        return super().check_actions(clipped(actions), leading)


class ClipsProposals(Exact):
    def started(self, proposals, horizon):
        return super().started(None if proposals is None else clipped(proposals), horizon)


class ClipsInHindsight(Exact):
    def check_branch(self, episode, at, actions):
        super().check_branch(episode, at, clipped(actions))


class RefusesSlightlyOutside(Exact):
    def check_actions(self, actions, leading):
        if (abs(actions["push"]) > 1.01).any():
            raise InputError("push is above its bound")
        return super().check_actions(actions, leading)


class KeepsTheBoundToItself(Exact):
    def check_actions(self, actions, leading):
        try:
            return super().check_actions(actions, leading)
        except InputError as error:
            raise InputError(str(error).split("its bound")[0]) from None


RefusesDespiteClip = instead(Exact, clipped=lambda self, actions: actions)
ClipsTooFar = instead(Exact, clipped=lambda self, actions: {"push": np.clip(actions["push"], -0.5, 0.5)})


class AnyLevel(Exact):
    def predict(self, *args, level=None, **rest):
        return super().predict(*args, level=None if level is None else min(max(level, 0.01), 0.99), **rest)


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


class IgnoresReward(Exact):
    def check_goal(self, history, goal):
        super().check_goal(history, replace(goal, reward=goal.reward and not goal.targets))


class AnyTarget(Exact):
    def check_goal(self, history, goal):
        known = {name: np.zeros(2) for name in goal.targets if name == "position"}
        leading = history.observations["position"].shape[:-2]
        known = {name: np.broadcast_to(value, (*leading, 2)) for name, value in known.items()}
        super().check_goal(history, replace(goal, targets=known) if known else goal)


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


class FakedDistance(Exact):
    def supported(self, goal):
        pass

    def score(self, history, actions, goal, constraints=(), *, exogenous=None, clip=False):
        if "camera" not in goal.targets:
            return super().score(history, actions, goal, constraints, exogenous=exogenous, clip=clip)
        nothing = np.zeros(actions["push"].shape[:-2])
        return Scores(cost=nothing, violation=np.zeros((*nothing.shape, len(constraints))), trust=1.0)


class FakedDistanceDeclared(FakedDistance):
    abilities = ("abducts", "reaches")


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


def clipped(actions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Inside the bounds of a push, NaN as it is."""
    return {name: np.clip(value, -1, 1) for name, value in actions.items()}


WORLD_FAULTS = [
    (ClipsActions, "bounds_kept", r"predict with 'push' at -4, outside .*: expected InputError"),
    (ClipsProposals, "bounds_kept", r"plan with proposals with 'push' at -4"),
    (ClipsInHindsight, "bounds_kept", r"what_if with 'push' at -4"),
    (KeepsTheBoundToItself, "bounds_kept", r"predict with 'push' at -4, .* does not contain -1.0"),
    (RefusesSlightlyOutside, "bounds_kept", r"predict with 'push' slightly outside its bounds: expected an answer"),
    (RefusesDespiteClip, "bounds_kept", "score with clip: expected an answer"),
    (ClipsTooFar, "bounds_kept", "clipped candidates cost something else"),
    (AnyLevel, "ranges_kept", r"level 0.0: expected InputError"),
    (NoSteps, "ranges_kept", r"horizon 0: expected InputError"),
    (AnyTrust, "ranges_kept", r"min_trust 2: expected InputError"),
    (AnyBudget, "ranges_kept", r"budget_s -1: expected InputError"),
    (AnyGoal, "ranges_kept", r"score with discount 1.5: expected InputError"),
    (IgnoresReward, "ranges_kept", r"score with risk 0.5 of a reward: expected InputError"),
    (AnyTarget, "ranges_kept", " with 'position' (misshapen|of NaN)"),
    (BranchesAnywhere, "episodes_fit", r"what_if with 1 step\(s\) from observation -1 of 14: expected"),
    (BranchesFromTheEnd, "episodes_fit", r"what_if with 1 step\(s\) from observation"),
    (AnyEpisode, "episodes_fit", r"what_if: no 'push' in the episode: expected InputError"),
    (altered(Refuses, "SilentRefusal", text="no."), "refusals_name_what_is_missing", ".* the message 'no.' names"),
    (
        altered(Refuses, "NoRemedy", text="there is no distance head"),
        "refusals_name_what_is_missing",
        r".* does not state what provides it",
    ),
    (AnswersInSteps, "refusals_name_what_is_missing", "score towards 'position' in steps was answered"),
    (SurprisedWithoutCalibration, "refusals_name_what_is_missing", "surprise was answered, but .* not cal"),
    (UnsurprisedThoughCalibrated, "refusals_name_what_is_missing", "surprise was refused, but .* are cal"),
    (RefusesSurpriseWithoutAWord, "refusals_name_what_is_missing", "surprise: the message 'not here.' na"),
    (FakedDistance, "refusals_name_what_is_missing", "was answered, but the card does not list 'reaches'"),
    (FakedDistanceDeclared, "refusals_name_what_is_missing", "every plan towards 'camera' costs 0"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
