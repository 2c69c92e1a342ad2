"""Choice among linear forecasts by their open-loop error on held-out windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.models.layers.linear_forecast import MIN_RESIDUAL_SHARE, LinearForecast

HORIZONS: Final = (1, 10, 48)
"""Steps ahead at which errors are compared. A window that is too short for the last has its own last step."""
NUM_FOLDS: Final = 3
"""Parts of the windows; each is predicted by forecasts that are fitted on the others."""
MAX_PREDICTIONS: Final = 1500
"""Maximum number of open-loop predictions per candidate."""
MAX_ERROR: Final = 1e6
"""Error of a prediction that diverged, z-scores."""


@dataclass(frozen=True, kw_only=True)
class ScoredWindows:
    """Windows of the training data as z-scores, in the order of the logs.

    Args:
        values: ignored where they were not observed.
        known: the inputs of each step.
        observed: whether each value was observed.
    """

    values: Float[Tensor, "B H size"]
    known: Float[Tensor, "B T inputs"]
    observed: Bool[Tensor, "B H size"]

    def select(self, rows: Tensor) -> ScoredWindows:
        """The windows of these rows."""
        return ScoredWindows(values=self.values[rows], known=self.known[rows], observed=self.observed[rows])

    def split(self, length: int, count: int) -> ScoredWindows:
        """Up to `count` windows of `length` observations, evenly spread over each window."""
        last = self.values.shape[1] - length
        starts = np.linspace(0, last, max(1, min(last + 1, count // len(self.values)))).astype(int).tolist()
        return ScoredWindows(
            values=torch.cat([self.values[:, start : start + length] for start in starts]),
            known=torch.cat([self.known[:, start : start + length - 1] for start in starts]),
            observed=torch.cat([self.observed[:, start : start + length] for start in starts]),
        )

    def change(self) -> Float[Tensor, " size"]:
        """Root mean squared change of each value in one step."""
        both = self.observed[:, 1:] & self.observed[:, :-1]
        squared = torch.where(both, self.values.diff(dim=1), 0.0).square()
        return (squared.sum((0, 1)) / both.sum((0, 1)).clamp(min=1)).sqrt()


@torch.no_grad()
def choose_forecast(candidates: Sequence[LinearForecast], windows: ScoredWindows, *, warm: int, slack: float) -> int:
    """The index of the first candidate whose error is nearly the smallest.

    The error is the root mean squared error of open-loop predictions, as the geometric mean over values and horizons.
    A fit on single steps cannot choose: noise of a measurement hardly affects one step, and spoils many.

    Args:
        candidates: in order of preference, simple ones first. They are fitted here, on parts of the windows.
        windows: of at least two observations.
        warm: number of observations before each prediction, at least the largest history; all but one of shorter
            windows.
        slack: accepted increase of the error, as a share of the smallest.
    """
    warm = min(warm, windows.values.shape[1] - 1)
    errors = torch.stack([_error(candidate, windows, warm) for candidate in candidates])
    return int((errors <= errors.min() + slack).nonzero()[0, 0])


def _error(forecast: LinearForecast, windows: ScoredWindows, warm: int) -> Float[Tensor, ""]:
    """The mean logarithm of the held-out errors."""
    longest = min(HORIZONS[-1], windows.values.shape[1] - warm)
    device = windows.values.device
    steps = torch.tensor(sorted({min(step, longest) for step in HORIZONS}), device=device) - 1
    order = torch.arange(len(windows.values), device=device)
    fold = order * NUM_FOLDS // len(order)
    squared, count = torch.zeros(2, len(steps), forecast.size, device=device)
    # Cross-validation over consecutive parts of the logs, which share no episode except at their ends.
    for number in fold.unique():
        rest = fold != number
        forecast.fit_longest(**vars(windows.select(rest if rest.any() else ~rest)))
        tested = windows.select(fold == number).split(warm + longest, MAX_PREDICTIONS // NUM_FOLDS)
        path = forecast.unroll(**vars(tested), warm=warm)[:, steps]
        seen = tested.observed[:, warm:][:, steps]
        # A diverging forecast gets a large finite error, so that the means stay comparable.
        miss = (path - tested.values[:, warm:][:, steps]).nan_to_num(MAX_ERROR).clamp(-MAX_ERROR, MAX_ERROR)
        squared += torch.where(seen, miss, 0.0).square().sum(0)
        count += seen.sum(0)
    error = (squared / count.clamp(min=1)).sqrt() + MIN_RESIDUAL_SHARE * windows.change() + torch.finfo().tiny
    return torch.as_tensor(error[count > 0].log().mean().nan_to_num(0.0))
