"""The last step at which a signal is predicted with skill."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows
from worldline.schema import Signal
from worldline.world.prediction_errors import mean_of

Floats = NDArray[np.floating]

MIN_STANDARD_ERRORS = 2.5
"""Standard errors by which the loss must be below the baseline to count as skill. High, as every step is tested."""


def last_skilled_step(
    error: Floats, windows: ForecastWindows, signal: Signal, values: Floats, num_windows: int
) -> Floats:
    """The last step [] at which a signal is predicted with skill; see `Forecast.horizon`.

    Episodes that did not observe a step are left out of its average.

    Args:
        error: [W, T, *shape], errors of the world.
        windows: the windows, `num_windows` from each episode, one episode after the other.
        signal: the signal.
        values: [n, *shape], every value in the log.
        num_windows: k.
    """
    # Two baselines: the last observed value (persistence), and the mean of the log where there is none.
    truth, known = windows.truth[signal.name], windows.known[signal.name]
    variance = max(float(values.var(0).sum()), 1e-12 * (1 + float(np.abs(values).max())) ** 2)
    mean = mean_of(signal, values[None])[0] if signal.period is not None else values.mean(0)
    last = np.broadcast_to(mean, truth[:, 0].shape)
    if signal.name in windows.history.observations:
        seen = windows.history.observed[signal.name][:, -1:]
        last = np.where(seen, windows.history.observations[signal.name][:, -1], mean)

    # Windows of one episode are averaged first, because they are not independent.
    count = known.reshape(-1, num_windows, known.shape[1]).sum(1)
    num_known = (count > 0).sum(0)
    enough = num_known >= min(2, len(count))

    def loss(apart: Floats) -> Floats:
        """Per episode and step the mean squared error over the variance; NaN if nothing was observed."""
        each = np.where(known, (apart**2).sum(-1) / variance, 0.0).reshape(-1, num_windows, known.shape[1]).sum(1)
        return np.where(enough, each / np.where(count > 0, count, np.nan), 0.0)

    own, persistence, constant = (
        loss(x) for x in (error, signal.difference(truth, last[:, None]), signal.difference(truth, mean))
    )
    # The better baseline of each step, and the paired gain over it, with its standard error over episodes.
    baseline = np.where(np.nanmean(persistence, 0) < np.nanmean(constant, 0), persistence, constant)
    gain = baseline - own
    # One episode gives no estimate of the variance between episodes.
    spread = np.nanstd(gain, axis=0, ddof=1) if len(gain) > 1 else math.inf
    significant = np.nanmean(gain, 0) > MIN_STANDARD_ERRORS * spread / np.sqrt(np.maximum(num_known, 1))
    good = np.flatnonzero(enough & (significant | (np.nanmean(own, 0) <= 0.05)))
    return np.asarray(good[-1] + 1 if len(good) else 0, dtype=np.float64)
