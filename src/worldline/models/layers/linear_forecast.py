"""A linear autoregression with inputs, solved in closed form before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldline.models.layers.changes import Seen, Values, changes, interpolated
from worldline.models.layers.memory import Memory
from worldline.models.layers.offset import add_error, all_errors, no_errors, offset_of
from worldline.models.layers.tracing import is_traced

RIDGE = 1e-9
"""Smallest relative penalty on the squared weights; needed for inputs that never change."""
MIN_RESIDUAL_SHARE = 1e-5
"""Lower bound of the residual scale, as a share of a step's change, so that the network can always add something."""
ENOUGH_ROWS = 10
"""Rows per column from which a fit uses rows without gaps only; with fewer it interpolates."""
MAX_CONCENTRATION_STEPS = 10
"""Iterations of least trimmed squares."""
Known = Float[Tensor, "B T inputs"]
"""Z-scores of the inputs of each step."""
Present = Float[Tensor, "B size"]
"""Z-scores of one step."""


@dataclass(frozen=True, kw_only=True)
class Past(Memory):
    """The steps before the present one, most recent first.

    Args:
        steps: concatenated values and inputs of each step; 0 beyond the first step.
        count: number of steps before the present, at most h. The most recent h - 1 are known.
        guessed: per value, the number of most recent steps, including the present, at which it was predicted.
        errors: recent one-step errors, see `layers.offset`; without rows if there is no offset.
    """

    steps: Float[Tensor, "B before both"]
    count: Int[Tensor, " B"]
    guessed: Int[Tensor, "B size"]
    errors: Float[Tensor, "B rows size"]

    def flat(self) -> Float[Tensor, "B numbers"]:
        """Steps and number of known steps. Predicted values count as observed, and errors as 0."""
        known = self.count.clamp(max=self.steps.shape[1])
        return torch.cat([self.steps.flatten(1), known[:, None].to(self.steps.dtype)], -1)

    def correct(self, residual: Float[Tensor, "B D"], observed: Bool[Tensor, "B size"]) -> Past:
        """The past after an observation: predicted values since the previous observation are shifted by the error.

        Without the shift, the jump from the last predicted value to the observed one would look like a velocity.

        Args:
            residual: latent with the observation minus predicted latent; the values come first.
            observed: whether each value is observed.
        """
        size, before = observed.shape[1], torch.arange(self.steps.shape[1], device=observed.device)
        predicted = observed[:, None] & (before[:, None] < self.guessed[:, None] - 1)
        values = self.steps[..., :size] + torch.where(predicted, residual[:, None, :size].to(self.steps.dtype), 0.0)
        steps = torch.cat([values, self.steps[..., size:]], -1)
        return replace(self, steps=steps, guessed=self.guessed.masked_fill(observed, 0))


class LinearForecast(nn.Module):
    """Forecasts the change of values in one step, linearly from the last h values and inputs, or fewer if not known.

    Args:
        size: number of values.
        num_inputs: number of inputs per step.
        history: h, at least 1.
        values: number of past values in the forecast, in addition to all h inputs; 0 for all. Above 0, the output of
            the residual network is scaled by the residual (see `unit`).
        taken: number of steps that the residual network receives (see `shown`); 0 for as many as `values`.
        trim: share of the steps, those with the largest residuals, that the fit ignores; 0 to below 1.
        ridge: penalty on the squared weights, relative to the mean square of the columns; above 0.
        gain: of the offset that is added to each change, see `layers.offset`; 0 for none.
    """

    weight: Tensor
    missed: Tensor
    """[size], root mean squared residual of the forecast from the longest past. For windows with gaps the whole change
    counts as residual."""
    misses: list[Tensor]
    """Root mean squared residuals from 1, 2, ... steps, over completely observed windows; set by `fit`."""

    def __init__(
        self,
        *,
        size: int,
        num_inputs: int,
        history: int,
        values: int = 0,
        taken: int = 0,
        trim: float = 0.0,
        ridge: float = RIDGE,
        gain: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.both, self.history, self.gain = size, size + num_inputs, history, gain
        self.values, self.trim, self.in_part = min(values or history, history), trim, values > 0
        self.taken, self.ridge = min(taken or self.values, history), ridge
        self.register_buffer("weight", torch.zeros(history, history * self.both + 1, size))  # one map per count
        self.register_buffer("missed", torch.ones(size))
        self.misses: list[Tensor] = []

    @property
    def num_shown(self) -> int:
        """Size of the result of `shown`."""
        return (self.taken - 1) * self.both + self.size if self.in_part else (self.history - 1) * self.both + 1

    def shown(self, past: Past, forecast: Present) -> Float[Tensor, "B shown"]:
        """The inputs of the residual network, in addition to the present.

        The whole past; or, with `values` above 0, the steps of the `taken` last values and the forecast. The forecast
        then stands for older inputs, because a network that receives all of them does not train in minutes. The count
        of steps is left out, because it is smaller in training than at inference.

        Args:
            past: before the present.
            forecast: of the next change, scaled for a network.
        """
        if not self.in_part:
            return past.flat()
        return torch.cat([past.steps[:, : self.taken - 1].flatten(1), forecast.to(past.steps.dtype)], -1)

    def unit(self, change: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """The scale of the residual network's output.

        The change in one step; or, with `values` above 0, the residual of the forecast. If the residual is almost 0 the
        network then adds almost nothing, so that it does not blur an exact law.

        Args:
            change: root mean squared change of each value in one step.
        """
        if not self.in_part:
            return change
        return torch.minimum(change, self.missed.maximum(MIN_RESIDUAL_SHARE * change))

    def begin(self, batch: int, device: torch.device) -> Past:
        """An empty past with an observed present."""
        steps = torch.zeros(batch, self.history - 1, self.both, device=device)
        return self._past(steps, torch.zeros(batch, dtype=torch.long, device=device))

    def correct(self, predicted: Present, past: Past, scores: Present, observed: Tensor) -> tuple[Present, Past]:
        """Values and past after an observation; a value that was not observed keeps its prediction."""
        values = torch.where(observed, scores, predicted)
        following = past.correct(values - predicted, observed)
        if self.gain:
            counts = observed & (past.guessed == 1) & (past.count == self.history)[:, None]
            following = replace(following, errors=add_error(past.errors, values - predicted, counts, self.gain))
        return values, following

    def start(self, scores: Present, observed: Bool[Tensor, "B size"]) -> tuple[Present, Past]:
        """Values and past of a first observation; values that were not observed are 0."""
        past = replace(self.begin(len(scores), scores.device), guessed=(~observed).long())
        return scores.where(observed, 0.0), past

    def observe(self, values: Values, known: Known) -> tuple[Present, Past]:
        """Values and past after the last of H complete observations, as `start` and `correct` give them in turn."""
        both, before = torch.cat([values[:, :-1], known], -1), self.history - 1
        length = both.shape[1]
        steps = both[:, max(0, length - before) :].flip(1)
        padded = torch.cat([steps, steps.new_zeros(len(steps), before - steps.shape[1], self.both)], 1)
        count = torch.full((len(values),), min(length, self.history), device=values.device)
        past = self._past(padded, count)
        if self.gain and length >= self.history:
            lags = self.weight[-1, :-1].unflatten(0, (self.history, self.both))
            change = self.weight[-1, -1] + sum(both[:, before - n : length - n] @ part for n, part in enumerate(lags))
            past = replace(past, errors=all_errors(values.diff(dim=1)[:, before:] - change, self.gain))
        return values[:, -1], past

    def unroll(self, values: Values, known: Known, observed: Seen, warm: int) -> Float[Tensor, "B ahead size"]:
        """The values predicted open loop after observation `warm`.

        Args:
            values: z-scores; ignored where they were not observed.
            known: the inputs of each step.
            observed: whether each value was observed.
            warm: number of observations that the predictions use, at least 1.
        """
        first, path = 0, list[Tensor]()
        if observed[:, :warm].all():
            first, (now, past) = warm - 1, self.observe(values[:, :warm], known[:, : warm - 1])
        else:
            now, past = self.start(values[:, 0], observed[:, 0])
        for step in range(first, known.shape[1]):
            change, past = self(now, known[:, step], past)
            now = now + change
            if step + 1 < warm:
                now, past = self.correct(now, past, values[:, step + 1], observed[:, step + 1])
            else:
                path.append(now)
        return torch.stack(path, 1)

    def past(self, flat: Float[Tensor, "B numbers"]) -> Past:
        """The inverse of `Past.flat`."""
        steps = flat[:, :-1].unflatten(1, (self.history - 1, self.both))
        return self._past(steps, flat[:, -1].round().long())

    def _past(self, steps: Float[Tensor, "B before both"], count: Int[Tensor, " B"]) -> Past:
        """A past without predicted values and errors."""
        zeros = steps.new_zeros(len(steps), self.size)
        return Past(steps=steps, count=count, guessed=zeros.long(), errors=no_errors(zeros, self.gain))

    @torch.no_grad()
    def fit(self, values: Values, known: Known, observed: Seen) -> None:
        """Fits least squares on observed changes, see `ENOUGH_ROWS`; without any it forecasts 0."""
        unseen, gap = changes(values.double(), observed)
        self.misses = []
        for count in range(1, self.history + 1):
            fitted = self._fit_count(values, known, observed, count)
            if fitted is None:
                break
            usable, residual = fitted
            self.misses.append(residual.square().mean(0).sqrt().float())
            error = unseen[:, count - 1 :].clone()
            error[usable] = residual
            counted = gap[:, count - 1 :] > 0
            self.missed.copy_((error.square().sum((0, 1)) / counted.sum((0, 1)).clamp(min=1)).sqrt())

    def _fit_count(
        self, values: Tensor, known: Tensor, observed: Tensor, count: int
    ) -> tuple[Bool[Tensor, "B n"], Float[Tensor, "rows size"]] | None:
        """Fits the map of `count` known steps; returns its rows and their residuals, None if there are too few."""
        filled = interpolated(values, observed)
        both = torch.cat([filled[:, :-1], known], -1).double()
        change, all_observed = values.diff(dim=1).double(), observed.all(-1)
        num = both.shape[1] - count + 1
        if num < 1:
            return None
        nearest_first = [both[:, count - 1 - back :][:, :num] for back in range(count)]
        rows = torch.cat([*nearest_first, torch.ones_like(both[:, :num, :1])], -1)
        used, columns = min(count, self.values), self._columns(count, values.device)
        complete = [all_observed[:, place:][:, :num] for place in range(count - used, count + 1)]
        usable = torch.stack(complete).all(0)
        if usable.sum() < ENOUGH_ROWS * columns.sum():
            usable = complete[-1] & complete[-2]  # gaps before are interpolated
        inputs, target = rows[usable][:, columns], change[:, count - 1 :][usable]
        if len(inputs) <= inputs.shape[1]:
            return None
        weight = torch.zeros(rows.shape[-1], self.size, device=values.device)
        weight[columns] = _solve(inputs, target, self.trim, self.ridge).float()
        # Longer pasts reuse the longest solution, because there may be too few rows for their own.
        self.weight[count - 1 :, : count * self.both], self.weight[count - 1 :, -1] = weight[:-1], weight[-1]
        return usable, target - inputs @ weight[columns].double()

    def enough(self, change: Float[Tensor, " size"], slack: float) -> int:
        """The smallest number of steps at which no residual is much larger than at the largest number; at least 1.

        Args:
            change: root mean squared change of each value in one step.
            slack: accepted relative increase of the residual.
        """
        if not self.misses:
            return 1
        limit = (1 + slack) * self.misses[-1].maximum(MIN_RESIDUAL_SHARE * change)
        return next(count for count, miss in enumerate(self.misses, start=1) if (miss <= limit).all())

    def _columns(self, count: int, device: torch.device) -> Bool[Tensor, " row"]:
        """The columns of a row of `count` steps that the forecast uses."""
        steps = torch.ones(count, self.both, dtype=torch.bool, device=device)
        steps[self.values :, : self.size] = False
        return torch.cat([steps.flatten(), steps.new_ones(1)])

    def forward(self, values: Present, known: Float[Tensor, "B inputs"], past: Past) -> tuple[Present, Past]:
        """The forecast change, and the past of the next step."""
        with torch.autocast(values.device.type, enabled=False):  # half precision would spoil exact linear forecasts
            now = torch.cat([values, known], -1).float()[:, None]
            steps = torch.cat([now, past.steps.float()], 1)
            row = torch.cat([steps.flatten(1), torch.ones_like(now[:, 0, :1])], -1)
            known_steps = past.count.clamp(max=self.history - 1)
            first = known_steps[0]
            if (known_steps == first).all():
                # A number as index would be a constant of a trace.
                change = row @ (self.weight[known_steps[:1]][0] if is_traced() else self.weight[first])
            else:
                every = torch.einsum("bn,cns->bcs", row, self.weight)
                change = every[torch.arange(len(row), device=row.device), known_steps]
            if self.gain:
                change = change + offset_of(past.errors)
        count = (past.count + 1).clamp(max=self.history)
        return change, replace(past, steps=steps[:, : self.history - 1], count=count, guessed=past.guessed + 1)


def _solve(
    inputs: Float[Tensor, "n numbers"], target: Float[Tensor, "n size"], trim: float, ridge: float
) -> Float[Tensor, "numbers size"]:
    """Least squares; with `trim`, least trimmed squares per value.

    Source: Rousseeuw and Van Driessen (2006), the concentration steps of least trimmed squares.
    """
    weights = least_squares(inputs, target, ridge)
    kept = len(inputs) - round(trim * len(inputs))
    if kept == len(inputs) or kept <= inputs.shape[1]:
        return weights
    for _ in range(MAX_CONCENTRATION_STEPS):
        nearest = (target - inputs @ weights).abs().argsort(0)[:kept]
        parts = [least_squares(inputs[rows], target[rows, n : n + 1], ridge) for n, rows in enumerate(nearest.T)]
        weights = torch.cat(parts, 1)
    return weights


def least_squares(
    inputs: Float[Tensor, "n numbers"], target: Float[Tensor, "n size"], ridge: float
) -> Float[Tensor, "numbers size"]:
    """Ridge regression; `ridge` is the penalty on the squared weights, relative to the mean square of the columns."""
    products = inputs.T @ inputs
    penalty = ridge * products.diagonal().mean()
    products.diagonal().add_(penalty)
    return torch.as_tensor(torch.linalg.solve(products, inputs.T @ target))


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

    values: Values
    known: Known
    observed: Seen

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
        forecast.weight.zero_()  # without enough rows it forecasts 0
        forecast._fit_count(**vars(windows.select(rest if rest.any() else ~rest)), count=forecast.history)
        tested = windows.select(fold == number).split(warm + longest, MAX_PREDICTIONS // NUM_FOLDS)
        path = forecast.unroll(**vars(tested), warm=warm)[:, steps]
        seen = tested.observed[:, warm:][:, steps]
        # A diverging forecast gets a large finite error, so that the means stay comparable.
        miss = (path - tested.values[:, warm:][:, steps]).nan_to_num(MAX_ERROR).clamp(-MAX_ERROR, MAX_ERROR)
        squared += torch.where(seen, miss, 0.0).square().sum(0)
        count += seen.sum(0)
    error = (squared / count.clamp(min=1)).sqrt() + MIN_RESIDUAL_SHARE * windows.change() + torch.finfo().tiny
    return torch.as_tensor(error[count > 0].log().mean().nan_to_num(0.0))
