from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import HORIZON, Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.testing.clauses import breaches
from worldline.testing.horizons import horizon_honest


class BlindAfterTwo(Exact):
    """Knows two steps, and then goes the other way; its horizon says so."""

    claimed = 2

    def predict(self, *args, **rest):
        found = super().predict(*args, **rest)
        forecast = found.signals["position"]
        mean = np.concatenate([forecast.mean[..., :2, :], -forecast.mean[..., 2:, :]], -2)
        return replace(found, signals={"position": replace(forecast, mean=mean, horizon=self.told(forecast.horizon))})

    def told(self, horizon):
        return np.full_like(horizon, self.claimed) if isinstance(horizon, np.ndarray) else self.claimed


class HorizonForever(BlindAfterTwo):
    claimed = HORIZON


class HorizonOneTooFar(BlindAfterTwo):
    claimed = 3


class HorizonTooShort(BlindAfterTwo):
    claimed = 1


class HorizonNever(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, np.zeros_like(horizon))


class Persistent(Exact):
    """Everything stays as it is: no better than persistence at any step."""

    def path(self, history, push, wind):
        here = self.seen(history)[0][:, -1, None]
        return np.stack([np.repeat(here, push.shape[1], 1)] * push.shape[2], 1)


class PersistentWithoutHorizon(Persistent):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, np.zeros_like(horizon))


class BeyondTheEnd(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon + 1)


class OneForTheBatch(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon[:1])


class UncalibratedWithHorizon(Exact):
    calibrated = False

    def forecast(self, mean, half, horizon):
        return super().forecast(mean, half, horizon + 2)


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize("world", [Exact, BlindAfterTwo, PersistentWithoutHorizon])
@pytest.mark.parametrize("seed", range(5))
def test_an_honest_horizon_passes(world: Callable[[], Exact], seed: int) -> None:
    assert breaches("honest", toy_case(world(), toy_episodes(seed)), [horizon_honest]) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (
            HorizonForever,
            r"step 3 is within the horizon, but without skill: the squared error is [\d.]+ of the variance",
        ),
        (HorizonOneTooFar, "step 3 is within the horizon, but without skill"),
        (HorizonTooShort, "step 2 is just after the horizon, but with skill"),
        (HorizonNever, "step 1 is just after the horizon, but with skill"),
        (BeyondTheEnd, "for T = 6"),
        (OneForTheBatch, "W = 40"),
        (UncalibratedWithHorizon, "the horizon is 2, expected 0 without a calibration"),
    ],
)
def test_a_planted_fault_is_caught(fault: Callable[[], Exact], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.horizon\] .*{seen}"):
        horizon_honest(toy_case(fault(), episodes))


def test_a_nearly_exact_prediction_is_skill_though_persistence_is_better() -> None:
    calm = [
        replace(one, observations={**one.observations, "position": np.repeat(one.observations["position"][:1], 15, 0)})
        for one in toy_episodes()
    ]

    class NearlyStill(Persistent):
        def path(self, history, push, wind):
            return super().path(history, push, wind) + 0.1

    assert breaches("nearly still", toy_case(NearlyStill(), calm), [horizon_honest]) == []


def test_missing_values_do_not_count(episodes: Sequence[Episode]) -> None:
    gappy = []
    for number, episode in enumerate(episodes):
        observed = np.arange(15) % 4 != number % 4
        position = np.where(observed[:, None], episode.observations["position"], 1e3).astype(np.float32)
        observations = {**episode.observations, "position": position}
        gappy.append(replace(episode, observations=observations, observed={"position": observed}))
    horizon_honest(toy_case(Exact(), gappy))
    with pytest.raises(AssertionError, match="without skill"):
        horizon_honest(toy_case(HorizonForever(), gappy))
