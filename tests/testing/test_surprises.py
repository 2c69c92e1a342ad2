from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes
from tests.testing.planted import altered, catches, world_case

from worldline.testing.surprises import (
    moments_in_order,
    surprise_is_p_value,
    surprise_of_missing,
    surprise_parts,
)
from worldline.world.base import Moment, Surprise


class MissingIsOrdinary(Exact):
    """Whatever is not seen has the p-value of what stands there."""

    def with_gaps(self, p_values, observed):
        return np.where(observed[1:], p_values, 0.5)


class EntityForgetsGaps(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, entities={"body": super().surprise(replace(episode, observed={})).steps})


class StepsForgetGaps(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, steps=super().surprise(replace(episode, observed={})).steps)


def surprising(name: str, **changes: Callable[[Surprise], Any]) -> type[Exact]:
    """A world that changes parts of each surprise."""
    return altered(
        Exact, name, surprise=lambda found: replace(found, **{key: change(found) for key, change in changes.items()})
    )


def every_step(found: Surprise) -> tuple[Moment, ...]:
    order = np.argsort(found.steps, kind="stable")
    return tuple(Moment(step=int(k), signals=("position",), p_value=float(found.steps[k])) for k in order)


def one_late(found: Surprise) -> tuple[Moment, ...]:
    return tuple(replace(moment, step=(moment.step + 1) % len(found.steps)) for moment in found.moments)


def half(found: Surprise) -> np.ndarray:
    return np.full_like(found.steps, 0.5)


def by_time(found: Surprise) -> tuple[Moment, ...]:
    return tuple(sorted(found.moments, key=lambda moment: moment.step))


WORLD_FAULTS = [
    (surprising("NoEntities", entities=lambda _: {}), surprise_parts, r"entities \[\], expected \['body'\]"),
    (
        surprising("SignalsAsEntities", entities=lambda found: {**found.entities, "position": found.steps}),
        surprise_parts,
        r"entities \['body', 'position'\]",
    ),
    (surprising("Short", steps=lambda found: found.steps[:-1]), surprise_parts, r"every step have shape \(13,\)"),
    (
        surprising("EntityAboveOne", entities=lambda found: {"body": found.steps * 2}),
        surprise_parts,
        "p-values of body are outside",
    ),
    (
        altered(Exact, "SurpriseConstant", p_values=lambda found: np.full_like(found, 0.5)),
        surprise_is_p_value,
        "at jumps of 'position', the p-value of 'position'",
    ),
    (altered(Exact, "Uncalibrated", p_values=lambda found: found**4), surprise_is_p_value, "p-values of 'position' on"),
    (
        altered(Exact, "StepsLate", p_values=lambda found: np.roll(found, 3)),
        surprise_is_p_value,
        "at jumps of 'position'",
    ),
    (surprising("StepsConstant", steps=half), surprise_is_p_value, "the p-value of every step"),
    (surprising("EntityConstant", entities=lambda found: {"body": half(found)}), surprise_is_p_value, "of body"),
    (surprising("StepsMultiplied", steps=lambda found: found.steps**3), surprise_is_p_value, "p-values of every"),
    (altered(Exact, "TooModest", p_values=lambda found: found**0.25), surprise_is_p_value, "p-values of 'position'"),
    (MissingIsOrdinary, surprise_of_missing, r"all of 'position' is missing at observation 14"),
    (EntityForgetsGaps, surprise_of_missing, r"all of body is missing"),
    (StepsForgetGaps, surprise_of_missing, "all of every step is missing"),
    (surprising("MomentsByTime", moments=by_time), moments_in_order, "the p-values of the moments are not in"),
    (surprising("EveryMoment", moments=every_step), moments_in_order, "14 moments, but"),
    (surprising("NoMoments", moments=lambda _: ()), moments_in_order, "0 moments, but"),
    (surprising("MomentsOneLate", moments=one_late), moments_in_order, r"the moment at step \d+ has p-value"),
    (
        surprising("MomentsTwice", moments=lambda found: found.moments[:1] * len(found.moments)),
        moments_in_order,
        "a step occurs twice",
    ),
    (
        surprising("NoSignals", moments=lambda found: tuple(replace(one, signals=()) for one in found.moments)),
        moments_in_order,
        r"the moment at step \d+ names \[\]",
    ),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)


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

    moments_in_order(toy_case(TwoSignals(), toy_episodes()))
    with pytest.raises(AssertionError, match=r"the signals of the moment at step \d+ are not in ascending order"):
        moments_in_order(toy_case(WrongOrder(), toy_episodes()))
