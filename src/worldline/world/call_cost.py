"""The cost of one prediction and the memory of one candidate, for the card of a world."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from worldline.data.windows import forecast_windows
from worldline.engines.base import CallCost, Engine
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.world.prediction_errors import num_samples

NUM_CALLS: Final = 5


def measure_call(
    engine: Engine, episodes: Sequence[Episode], *, horizon: int, clock: Callable[[], float] = time.perf_counter
) -> CallCost:
    """The cost of one prediction: from the engine's card if it is stated there, else the median measured latency.

    Each call predicts one plan in one world from `Card.context` observations. One warm-up call is not counted, because
    many libraries load at first use.

    Args:
        engine: the engine to measure.
        episodes: at least one must be long enough.
        horizon: T, number of predicted steps, at least 1: the calibrated horizon.
        clock: returns seconds; any origin.

    Raises:
        DataError: no episode is long enough.
    """
    card = engine.describe()
    if card.call is not None:
        return card.call
    needed = card.context - 1 + horizon
    usable = [episode for episode in episodes if episode.num_steps >= needed]
    if not usable:
        raise DataError(
            f"none of {len(episodes)} episodes has {needed} steps", fix="Add longer episodes, or reduce the horizon."
        )
    # Each call uses another episode, so that no cache of an engine answers it.
    took = []
    for number in range(NUM_CALLS + 1):
        place = usable[number % len(usable)], card.context - 1
        window = forecast_windows([place], length=card.context, horizon=horizon, schema=card.schema, targets=())
        started = clock()
        belief = engine.observe(None, window.history, seed=0)
        engine.imagine(belief, window.future(), num_samples=num_samples(card), seed=0)
        took.append(clock() - started)
    return CallCost(latency_s=statistics.median(took[1:]))


def candidate_bytes(engine: LearnedEngine, *, horizon: int) -> int:
    """Peak bytes per candidate in one world, from rollout to predicted signals, without gradients: an estimate.

    Args:
        engine: of the world.
        horizon: T, steps of a candidate.
    """
    readout, num_steps = engine.readout, num_samples(engine.describe()) * horizon
    # Features and predicted signals are held twice: per step, and joined along time.
    size = readout.config.latent_size + readout.linear.out_features
    # The hidden layers of the readout come after the rollout, so the larger one of the two counts.
    hidden = max(engine.model.rollout_width, 2 * readout.config.width if readout.is_corrected else 0)
    return 4 * num_steps * (2 * size + hidden)
