from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import Drawing, Exact, residual_paths, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.planning.base import Chance
from worldline.testing.clauses import breaches
from worldline.testing.goals import (
    chance_uses_the_band,
    periods_respected,
    rollout_is_complete,
    tolerance_scales,
    worst_samples,
)
from worldline.testing.world_case import WorldCase


class ForgetsTolerance(Exact):
    def tolerance(self, goal):
        return self.spread()


class ToleranceNotSquared(Exact):
    def tolerance(self, goal):
        return np.sqrt(super().tolerance(goal))


class DefaultToleranceOfOneTenth(Exact):
    def tolerance(self, goal):
        return goal.tolerance.get("position", 0.1)


class ShowsTheFirstPlanOnly(Exact):
    def samples(self, path):
        return np.broadcast_to(path[:, :1], path.shape)[:, :, None]


class ShowsOneStepLess(Exact):
    def samples(self, path):
        return path[:, :, None, [0, *range(path.shape[2] - 1)]]


class HidesExogenous(Exact):
    def batched(self, *args, **rest):
        history, push, wind, single = super().batched(*args, **rest)
        return history, push, 0 * wind, single


class ForgetsThePresent(Exact):
    def present(self, history):
        return {}


class PresentOfTheFirstStep(Exact):
    def present(self, history):
        return {**super().present(history), "push": history.actions["push"][:, 0]}


class Turning(Exact):
    """Its position repeats, further out than it ever gets."""

    @property
    def schema(self):
        position, *others = super().schema.signals
        return replace(super().schema, signals=(replace(position, period=50.0), *others))


class TargetsTheLongWay(Turning):
    def error(self, values, target):
        return values - target


class HidesPeriods(Turning):
    def periods(self):
        return {}


class ChanceIgnored(Exact):
    def banded(self, rollout, constraint):
        return rollout


class ChanceOfAnotherLevel(Exact):
    def banded(self, rollout, constraint):
        return super().banded(rollout, replace(constraint, level=0.5) if isinstance(constraint, Chance) else constraint)


class ChanceWithoutBands(Exact):
    calibrated = False

    def banded(self, rollout, constraint):
        return rollout


class ClaimsToBeDeterministic(Drawing):
    deterministic = True


class FalselyModest(Exact):
    deterministic = False


class RiskOfTheBest(Drawing):
    def worst(self, steps, risk):
        return -super().worst(-steps, risk)


class ShowsSamplesBelowTheMean(Drawing):
    def samples(self, path):
        return path[:, :, None] - np.abs(residual_paths(16)[:, : path.shape[2]]) - 0.1


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


CLAUSES = (tolerance_scales, rollout_is_complete, periods_respected, chance_uses_the_band, worst_samples)


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("world", [Exact, Drawing, Turning])
def test_a_correct_world_passes(
    world: type[Exact], clause: Callable[[WorldCase], None], episodes: Sequence[Episode]
) -> None:
    assert breaches("correct", toy_case(world(), episodes), [clause]) == []


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (
            ForgetsTolerance,
            tolerance_scales,
            r"\[world.tolerance\] twice the tolerance of 'position' does not give a quarter",
        ),
        (ToleranceNotSquared, tolerance_scales, r"\[world.tolerance\] twice the tolerance of 'position'"),
        (
            DefaultToleranceOfOneTenth,
            tolerance_scales,
            r"\[world.tolerance\] 'position' by default tolerance costs",
        ),
        (ShowsTheFirstPlanOnly, rollout_is_complete, r"\[world.rollout\] the violation of AtMost\('position'"),
        (ShowsOneStepLess, rollout_is_complete, r"\[world.rollout\] the violation of At(Most|Least)\('position'"),
        (HidesExogenous, rollout_is_complete, r"\[world.rollout\] Price of exogenous 'wind'"),
        (ForgetsThePresent, rollout_is_complete, r"\[world.rollout\] Change of action 'push'"),
        (PresentOfTheFirstStep, rollout_is_complete, r"\[world.rollout\] Change of action 'push'"),
        (
            ShowsSamplesBelowTheMean,
            rollout_is_complete,
            r"\[world.rollout\] the violation of At(Most|Least)\('position'.* below that of the mean",
        ),
        (TargetsTheLongWay, periods_respected, r"\[world.periods\] a shift of the target of 'position' by one period"),
        (HidesPeriods, periods_respected, r"\[world.periods\] a shift of the reference of 'position' by one period"),
        (
            ChanceIgnored,
            chance_uses_the_band,
            r"\[world.chance\] the violation of 'position' <= .* with probability 0.8",
        ),
        (
            ChanceOfAnotherLevel,
            chance_uses_the_band,
            r"\[world.chance\] the violation of 'position' <= .* with probability 0.8",
        ),
        (
            ChanceWithoutBands,
            chance_uses_the_band,
            r"\[world.chance\] Chance in a world without bands: expected InputError",
        ),
        (ClaimsToBeDeterministic, worst_samples, r"\[world.samples\] the card states deterministic, but samples"),
        (FalselyModest, worst_samples, r"\[world.samples\] the card does not state deterministic, but the worst"),
        (RiskOfTheBest, worst_samples, r"\[world.samples\] plans cost .* with risk 0.1"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[WorldCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    with pytest.raises(AssertionError, match=seen):
        clause(toy_case(fault(), episodes))
