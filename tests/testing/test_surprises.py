"""Faults of surprise and what-if."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes
from tests.testing.planted import altered, catches, instead, named, passes, replacing, with_card, world_case

from worldline.world.base import Abduction, Moment, Surprise, WhatIf

# Whatever is not seen has the p-value of what stands there.
MissingIsOrdinary = instead(Exact, with_gaps=lambda self, p_values, observed: np.where(observed[1:], p_values, 0.5))


class EntityForgetsGaps(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, entities={"body": super().surprise(replace(episode, observed={})).steps})


class StepsForgetGaps(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, steps=super().surprise(replace(episode, observed={})).steps)


def surprising(**fields: Any) -> type[Exact]:
    """A world that changes fields of each surprise."""
    return replacing(Exact, "surprise", **fields)


def every_step(found: Surprise) -> tuple[Moment, ...]:
    order = np.argsort(found.steps, kind="stable")
    return tuple(Moment(step=int(k), signals=("position",), p_value=float(found.steps[k])) for k in order)


def one_late(found: Surprise) -> tuple[Moment, ...]:
    return tuple(replace(moment, step=(moment.step + 1) % len(found.steps)) for moment in found.moments)


def half(found: Surprise) -> np.ndarray:
    return np.full_like(found.steps, 0.5)


def by_time(found: Surprise) -> tuple[Moment, ...]:
    return tuple(sorted(found.moments, key=lambda moment: moment.step))


TOO_MANY = surprising(entities=lambda found: {**found.entities, "position": found.steps})
CONSTANT = altered(Exact, "SurpriseConstant", p_values=lambda found: np.full_like(found, 0.5))
TWICE = surprising(moments=lambda found: found.moments[:1] * len(found.moments))
NAMELESS = surprising(moments=lambda found: tuple(replace(one, signals=()) for one in found.moments))
WORLD_FAULTS = [
    (surprising(entities={}), "surprise_parts", r"every step'\], expected .*'body'"),
    (TOO_MANY, "surprise_parts", r"p-values of .*'position'\], expected"),
    (surprising(steps=lambda found: found.steps[:-1]), "surprise_parts", r"every step has shape \(13,\)"),
    (surprising(entities=lambda found: {"body": found.steps * 2}), "surprise_parts", "p-values of body are outside"),
    (CONSTANT, "surprise_is_p_value", "at jumps of 'position', the p-value of 'position'"),
    (
        altered(Exact, "Uncalibrated", p_values=lambda found: found**4),
        "surprise_is_p_value",
        "p-values of 'position' on",
    ),
    (altered(Exact, "Late", p_values=lambda found: np.roll(found, 3)), "surprise_is_p_value", "at jumps of 'position'"),
    (surprising(steps=half), "surprise_is_p_value", "the p-value of every step"),
    (surprising(entities=lambda found: {"body": half(found)}), "surprise_is_p_value", "of body"),
    (surprising(steps=lambda found: found.steps**3), "surprise_is_p_value", "p-values of every"),
    (altered(Exact, "TooModest", p_values=lambda found: found**0.25), "surprise_is_p_value", "p-values of 'position'"),
    (MissingIsOrdinary, "surprise_of_missing", r"all of 'position' is missing at observation 14"),
    (EntityForgetsGaps, "surprise_of_missing", r"all of body is missing"),
    (StepsForgetGaps, "surprise_of_missing", "all of every step is missing"),
    (surprising(moments=by_time), "surprise_parts", "the moments have p-values"),
    (surprising(moments=every_step), "surprise_parts", "the moments have p-values"),
    (surprising(moments=()), "surprise_parts", r"the moments have p-values \[\]"),
    (surprising(moments=one_late), "surprise_parts", r"the moment at step \d+ has p-value"),
    (TWICE, "surprise_parts", "a step occurs twice"),
    (NAMELESS, "surprise_parts", r"the moment at step \d+ names \[\]"),
]


def test_the_signals_of_a_moment_are_in_order() -> None:
    class TwoSignals(Exact):
        """The same, and the camera, which is never surprising."""

        order = ("position", "camera")

        def describe(self):
            return replace(super().describe(), predicts=("position", "camera"))

        def surprise(self, episode):
            found = super().surprise(episode)
            return replace(
                found,
                p_values={**found.p_values, "camera": np.ones_like(found.steps)},
                moments=tuple(replace(moment, signals=self.order) for moment in found.moments),
            )

    class WrongOrder(TwoSignals):
        order = ("camera", "position")

    named("world", "surprise_parts")(toy_case(TwoSignals(), toy_episodes()))
    with pytest.raises(AssertionError, match=r"the signals of the moment at step \d+ are not in ascending order"):
        named("world", "surprise_parts")(toy_case(WrongOrder(), toy_episodes()))


class FromThePast(Exact):
    """Predicts again from what was known at the branch."""

    abilities = ()

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.NONE, reason="exact keeps no noise.")

    def replayed(self, episode, at, actions):
        return self.rolled(episode, at, actions, np.zeros((len(actions["push"]), 2)))


class HiddenDrift(Exact):
    """Infers what stays the same, the mean of the noise, and leaves the rest of it out."""

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.HIDDEN_CAUSE, reason="steps are drawn anew.")

    def replayed(self, episode, at, actions):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        return self.rolled(episode, at, actions, np.tile(left.mean(0), (len(actions["push"]), 1)))


def shaken(found: WhatIf) -> dict[str, np.ndarray]:
    position = found.signals["position"]
    return {"position": position + 0.1 * np.random.default_rng(0).standard_normal(position.shape)}


def answering(base: type[Exact], **fields: Any) -> type[Exact]:
    """A world that changes fields of each answer."""
    return replacing(base, "what_if", **fields)


Peeks = answering(with_card(Exact, abilities=()), abduction=Abduction.NONE, reason="nothing was inferred.")
OfThePast = answering(with_card(FromThePast, abilities=("abducts",)), abduction=Abduction.HIDDEN_CAUSE)
test_a_correct_world_passes = passes([FromThePast, HiddenDrift], ["abduction_honest"], world_case)

WORLD_FAULTS += [
    (
        answering(Exact, factual=lambda found: found.signals),
        "what_if_factual",
        "factual changed with the queried actions",
    ),
    (answering(Exact, signals=shaken), "what_if_factual", "the logged actions do not lead to factual"),
    (
        answering(FromThePast, abduction=Abduction.FULL, reason=""),
        "what_if_factual",
        "abduction is full, but the logged actions do not lead to the logged obs",
    ),
    (Peeks, "abduction_honest", "abduction is none, but other observations after the branch change the"),
    (OfThePast, "abduction_honest", "abduction is hidden_cause, but the answer does not depend on"),
    (with_card(Exact, abilities=()), "abduction_honest", "the card does not list 'abducts', but"),
    (with_card(FromThePast, abilities=("abducts",)), "abduction_honest", "the card lists 'abducts',"),
    (answering(FromThePast, reason=""), "abduction_honest", "abduction is none with the reason ''"),
    (answering(Exact, reason="well, nearly."), "abduction_honest", "full with the reason 'well, nearly.'"),
]


test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
