"""What a call of a world costs, as its card says."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from worldline.engines.base import CallCost, Engine
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.world.pieces import cut, num_samples

NUM_CALLS: Final = 5


def measure_call(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int,
    num_calls: int = NUM_CALLS,
    clock: Callable[[], float] = time.perf_counter,
) -> CallCost:
    """What one prediction costs: what the engine's card says, else how long it takes, as the median of a few.

    Each is of one world and one plan, from `Card.context` observations, on this machine as busy as it is. One more
    comes first and does not count, since much is loaded only when it is first used.

    Args:
        engine: as it will be used.
        episodes: at least one with a stretch of the steps that are needed.
        horizon: T, the steps that are predicted, at least 1: the calibrated horizon.
        num_calls: predictions that count, at least 1.
        clock: seconds, from anywhere.

    Raises:
        InputError: `horizon` or `num_calls` is below 1.
        DataError: no episode is long enough.
    """
    if horizon < 1 or num_calls < 1:
        raise InputError(f"horizon {horizon} and num_calls {num_calls} must both be at least 1.")
    card = engine.describe()
    if card.call is not None:
        return card.call
    needed = card.context - 1 + horizon
    usable = [episode for episode in episodes if episode.num_steps >= needed]
    if not usable:
        raise DataError(
            f"none of {len(episodes)} episodes has {needed} steps", fix="Give longer ones, or a shorter horizon."
        )
    took = []
    for number in range(num_calls + 1):
        place = usable[number % len(usable)], card.context - 1
        piece = cut(card.schema, [place], length=card.context, horizon=horizon, truth=())
        started = clock()
        belief = engine.observe(None, piece.history, seed=0)
        engine.imagine(belief, piece.future, num_samples=num_samples(card), seed=0)
        took.append(clock() - started)
    return CallCost(latency_s=statistics.median(took[1:]))
