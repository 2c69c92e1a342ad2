"""Faults of worlds and engines in what they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.testing import exact_engine, exact_world
from tests.testing.planted import (
    ENGINE_EPISODES,
    altered,
    catches,
    engine_case,
    instead,
    named,
    passes,
    with_card,
    world_case,
)

from worldline.errors import InputError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import breaches
from worldline.world.local import LocalWorld

World, Engine = exact_world.Exact, exact_engine.Exact


FALSE_CARDS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name '' or engine 'exact' is empty"),
    ({"predicts": ()}, "Card.predicts is empty"),
    ({"predicts": ("position", "speed")}, "predicts .*'speed'.*, expected a subset of the observations .*'camera'"),
    ({"predicts": ("position", "position")}, "a name occurs twice"),
    ({"inputs": ("push",)}, "inputs .*'push'"),
    ({"context": 0}, "context is 0"),
    ({"abilities": ("abduct",)}, r"unknown abilities \['abduct'\]; known are .*'abducts'"),
    ({"max_batch": 0}, "max_batch is 0"),
    ({"bytes_per_candidate": -1}, "bytes_per_candidate is -1"),
]


class AnotherCardEachTime(World):
    asked = 0

    def describe(self):
        self.asked += 1
        return replace(super().describe(), notes={"asked": str(self.asked)})


class LooksAtTheCamera(World):
    """It is not on the card."""

    def path(self, history, push, wind):
        bright = history.observations["camera"].mean() if "camera" in history.observations else 0.0
        return super().path(history, push, wind) + bright / 1e3


class NeedsTheCamera(World):
    """It is not on the card."""

    def check_present(self, history):
        super().check_present(history)
        if "camera" not in history.observations:
            raise InputError("observation 'camera' is missing. Add it.")


class WithoutPositionFromZero(World):
    def check_present(self, history):
        pass

    def check(self, history, actions, exogenous, *, plans):
        if "position" in history.observations:
            super().check(history, actions, exogenous, plans=plans)

    def batched(self, history, actions, exogenous, *, plans=False):
        zero = np.zeros((*history.observations["camera"].shape[:-3], 2), np.float32)
        given = {"position": zero, **history.observations}
        return super().batched(replace(history, observations=given), actions, exogenous, plans=plans)


class RefusesShortHistories(World):
    def check_present(self, history):
        if history.observations["position"].shape[-2] < 3:
            raise InputError("three observations are needed. Give more.")


class NanOfShortHistories(World):
    def path(self, history, push, wind):
        lost = np.nan if history.observations["position"].shape[-2] < 3 else 0.0
        return super().path(history, push, wind) + lost


class Diverges(World):
    def path(self, history, push, wind):
        late = np.arange(push.shape[2]) >= 8
        return super().path(history, push, wind) + np.where(late, np.nan, 0.0)[:, None, None]


Peeking = instead(World, path=lambda self, history, push, wind: World.path(self, history, np.roll(push, -1, 2), wind))


class Late(World):
    def path(self, history, push, wind):
        return super().path(history, np.concatenate([0 * push[:, :, :1], push[:, :, :-1]], 2), wind)


class AcceptsNan(World):
    def check(self, history, actions, exogenous, *, plans):
        bare = {name: np.nan_to_num(value) for name, value in history.observations.items()}
        super().check(replace(history, observations=bare), actions, exogenous, plans=plans)


# Takes the camera too, and says so.
Seeing = with_card(NeedsTheCamera, inputs=("position", "camera"))


class TakesFloatPictures(Seeing):
    def check_present(self, history):
        rounded = {n: v.astype(np.uint8) if n == "camera" else v for n, v in history.observations.items()}
        super().check_present(replace(history, observations=rounded))


class Curt(World):
    """Refuses what it should, and does not state why."""

    text = "bad input."

    def check(self, history, actions, exogenous, *, plans):
        try:
            super().check(history, actions, exogenous, plans=plans)
        except InputError as error:
            raise InputError(self.text or str(error).split("expected shape")[0]) from None


class DiesOfUnknownActions(World):
    def check(self, history, actions, exogenous, *, plans):
        if set(actions) != {"push"}:
            raise KeyError("nonsense")
        super().check(history, actions, exogenous, plans=plans)


class IgnoresUnknownActions(World):
    def check_actions(self, actions, leading):
        return super().check_actions({name: value for name, value in actions.items() if name == "push"}, leading)


class NeedsNoPast(World):
    def check_present(self, history):
        if "position" not in history.observations:
            super().check_present(history)
        shape = history.observations["position"].shape
        given = {"push": np.zeros((*shape[:-2], shape[-2] - 1, 2), np.float32)}
        super().check_present(replace(history, actions=given))


WORLD_FAULTS = [
    *((with_card(World, **changes), "card_honest", seen) for changes, seen in FALSE_CARDS),
    (AnotherCardEachTime, "card_honest", "two calls of describe returned different cards"),
    (LooksAtTheCamera, "inputs_honest", "the prediction changes without 'camera', which is not an input"),
    (NeedsTheCamera, "inputs_honest", r"the prediction changes without 'camera', .* InputError \(obs"),
    (with_card(World, inputs=("position", "camera")), "inputs_honest", "the history lacks 'camera'.*expected"),
    (WithoutPositionFromZero, "inputs_honest", "the history lacks 'position'.*expected InputError"),
    (RefusesShortHistories, "any_length", "1 of the 3 observations .* InputError"),
    (NanOfShortHistories, "any_length", "1 of the 3 observations .*'position' over 6 steps is not finite"),
    (Diverges, "any_length", "'position' over 1. steps is not finite"),
    (altered(World, "IgnoresMasks", masks=False), "masks_hide", ""),
    (Peeking, "no_peek", "before step 1 changed with later inputs"),
    (Late, "timing", "shifted by"),
    (AcceptsNan, "invalid_inputs_refused", "NaN as 'position' in the history: expected InputError"),
    (Curt, "invalid_inputs_refused", "no 'position' .*: the message 'bad input.' does not contain"),
    (altered(Curt, "NamesNoShape", text=""), "invalid_inputs_refused", "'position' misshapen .* does not contain"),
    (TakesFloatPictures, "invalid_inputs_refused", "'camera' of floats in the history: expected InputError"),
    (NeedsNoPast, "invalid_inputs_refused", "no 'push' in the past actions: expected InputError, got IndexError"),
    (DiesOfUnknownActions, "invalid_inputs_refused", "no action at all: expected InputError, got KeyError"),
    (IgnoresUnknownActions, "invalid_inputs_refused", "an unknown signal in the plan: expected InputError"),
]
test_a_fault_of_a_world_is_caught = catches(WORLD_FAULTS, world_case)

Patient = with_card(Engine, context=3)


class EngineNanOfShortHistories(Patient):
    def observe(self, belief, steps, *, seed):
        lost = np.nan if steps.observations["position"].shape[1] < 3 else 0.0
        return super().observe(belief, steps, seed=seed) + lost


class EngineIgnoresMasks(Engine):
    def seen(self, steps):
        position = np.nan_to_num(steps.observations["position"].astype(float))
        return position, np.ones(position.shape[:2], bool)


NanTimesZero = instead(Engine, merged=lambda self, position, observed, moved: position * observed + moved * ~observed)


class EngineDiverges(Engine):
    def imagine(self, belief, future, **rest):
        found = super().imagine(belief, future, **rest)
        found.signals["position"][:, :, :, 5:] = np.inf
        return found


class KeyErrors(Engine):
    def check(self, arrays, name, ndim):
        arrays[name]


class KeyErrorOfThePast(Engine):
    def observe(self, belief, steps, *, seed):
        return super().observe(belief, replace(steps, exogenous={"wind": steps.exogenous["wind"]}), seed=seed)


class MissingMeansZero(Engine):
    def observe(self, belief, steps, *, seed):
        if "push" not in steps.actions:
            steps = replace(steps, actions={"push": np.zeros_like(steps.exogenous["wind"])})
        return super().observe(belief, steps, seed=seed)


class CalmWithoutWind(Engine):
    def imagine(self, belief, future, **rest):
        push = future.actions["push"][:, 0] if "push" in future.actions else np.zeros((1, 1, 2))
        given = {"wind": np.zeros_like(push), **future.exogenous}
        return super().imagine(belief, replace(future, exogenous=given), **rest)


ENGINE_FAULTS = [
    (with_card(Engine, max_candidates=0), "card_honest", "max_candidates is 0"),
    (with_card(Engine, inputs=("position", "camera")), "inputs_honest", "the history lacks 'camera', .*expected"),
    (EngineNanOfShortHistories, "any_length", "1 of the 3 .*'position' over 4 steps is not finite"),
    (EngineDiverges, "any_length", "'position' over 1. steps is not finite"),
    (EngineIgnoresMasks, "masks_hide", ""),
    (NanTimesZero, "masks_hide", "'nan'"),
    (altered(Engine, "PeekingAtPushes", pushes=lambda push: push[:, :, ::-1]), "no_peek", ""),
    (altered(Engine, "PeekingAtWind", winds=lambda wind: wind[:, :, ::-1]), "no_peek", ""),
    (altered(Engine, "Early", pushes=lambda push: np.roll(push, -1, 2)), "timing", "shifted by"),
    (KeyErrors, "invalid_inputs_refused", "no action at all: expected InputError, got KeyError"),
    (KeyErrorOfThePast, "invalid_inputs_refused", "no 'wind' in the past exogenous inputs: .* got KeyError"),
    (
        MissingMeansZero,
        "invalid_inputs_refused",
        "no 'push' in the past actions: no InputError, but another prediction",
    ),
    (CalmWithoutWind, "invalid_inputs_refused", "no 'wind' in the exogenous inputs: expected InputError"),
]
test_a_fault_of_an_engine_is_caught = catches(ENGINE_FAULTS, engine_case)


CLAUSES = ["card_honest", "inputs_honest", "any_length", "invalid_inputs_refused"]
test_a_correct_world_passes = passes([Seeing], CLAUSES, world_case)
test_a_correct_engine_passes = passes([Patient], CLAUSES, engine_case)


def test_an_engine_that_ignores_masks_is_found_in_a_world() -> None:
    """A world sets unobserved values to 0 before its engine sees them."""
    goal = Goal(targets={"position": np.zeros(2)})
    for engine, broken in ((Engine(), False), (EngineIgnoresMasks(), True)):
        world = LocalWorld(engine, None, CrossEntropy())
        found = breaches(WorldCase(world=world, episodes=ENGINE_EPISODES, goal=goal), [named("world", "masks_hide")])
        assert bool(found) == broken
        assert not broken or "masks are ignored" in str(found[0])
