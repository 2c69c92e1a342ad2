from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.testing.surprises import (
    moments_in_order,
    surprise_of_missing,
    surprise_parts,
    surprise_together,
    surprise_uniform,
)
from worldline.testing.world_case import WorldCase
from worldline.world.base import Moment


class NoEntities(Exact):
    def surprise(self, episode):
        return replace(super().surprise(episode), entities={})


class SignalsAsEntities(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, entities={**found.entities, "position": found.steps})


class OneStepShort(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, steps=found.steps[:-1])


class EntityAboveOne(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, entities={"body": found.steps * 2})


class StepsConstant(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, steps=np.full_like(found.steps, 0.5), moments=())


class EntityConstant(Exact):
    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, entities={"body": np.full_like(found.steps, 0.5)})


class StepsMultiplied(Exact):
    """P-values multiplied are no p-values."""

    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, steps=found.steps**3)


class TooModest(Exact):
    def p_values(self, episode):
        return np.sqrt(np.sqrt(super().p_values(episode)))


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


class MomentsOf(Exact):
    """Changes its moments."""

    def surprise(self, episode):
        found = super().surprise(episode)
        return replace(found, moments=self.changed(found.moments, found))


class MomentsByTime(MomentsOf):
    def changed(self, moments, found):
        return tuple(sorted(moments, key=lambda moment: moment.step))


class EveryMoment(MomentsOf):
    def changed(self, moments, found):
        order = np.argsort(found.steps, kind="stable")
        return tuple(Moment(step=int(k), signals=("position",), p_value=float(found.steps[k])) for k in order)


class NoMoments(MomentsOf):
    def changed(self, moments, found):
        return ()


class MomentsOneLate(MomentsOf):
    def changed(self, moments, found):
        return tuple(replace(moment, step=(moment.step + 1) % len(found.steps)) for moment in moments)


class MomentsTwice(MomentsOf):
    def changed(self, moments, found):
        return moments[:1] * len(moments)


class MomentsWithoutSignals(MomentsOf):
    def changed(self, moments, found):
        return tuple(replace(moment, signals=()) for moment in moments)


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (NoEntities, surprise_parts, r"\[world.surprise_parts\] entities \[\], expected \['body'\]"),
        (SignalsAsEntities, surprise_parts, r"\[world.surprise_parts\] entities \['body', 'position'\]"),
        (OneStepShort, surprise_parts, r"\[world.surprise_parts\] p-values of every step have shape \(13,\)"),
        (EntityAboveOne, surprise_parts, r"\[world.surprise_parts\] p-values of body are outside"),
        (StepsConstant, surprise_together, r"\[world.surprise_together\] p-values of every step at jumps"),
        (EntityConstant, surprise_together, r"\[world.surprise_together\] p-values of body at jumps"),
        (StepsMultiplied, surprise_together, r"\[world.surprise_together\] .* p-values of every step on real steps"),
        (
            TooModest,
            surprise_uniform,
            r"\[world.surprise_uniform\] .* p-values of 'position' on real steps are at most",
        ),
        (MissingIsOrdinary, surprise_of_missing, r"\[world.surprise_missing\] 'position' is missing at observation 14"),
        (EntityForgetsGaps, surprise_of_missing, r"\[world.surprise_missing\] all of 'body' is missing"),
        (StepsForgetGaps, surprise_of_missing, r"\[world.surprise_missing\] all is missing"),
        (MomentsByTime, moments_in_order, r"\[world.moments\] the p-values of the moments are not in ascending order"),
        (EveryMoment, moments_in_order, r"\[world.moments\] 14 moments, but"),
        (NoMoments, moments_in_order, r"\[world.moments\] 0 moments, but"),
        (MomentsOneLate, moments_in_order, r"\[world.moments\] the moment at step \d+ has p-value"),
        (MomentsTwice, moments_in_order, r"\[world.moments\] a step occurs twice"),
        (MomentsWithoutSignals, moments_in_order, r"\[world.moments\] the moment at step \d+ names \[\]"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[WorldCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    clause(toy_case(Exact(), episodes))
    with pytest.raises(AssertionError, match=seen):
        clause(toy_case(fault(), episodes))


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
