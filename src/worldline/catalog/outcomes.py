"""Backtest of two worlds: their predictions of the last steps of a history, against the observed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, History
from worldline.errors import InputError
from worldline.schema import Kind, Signal
from worldline.world.base import Forecast, Prediction

MAX_STEPS = 4
"""Largest number of predicted steps at the end of a history."""

LEVEL = 0.9
"""Level of the bands whose coverage is measured."""

Floats = NDArray[np.floating]


@final
@dataclass(frozen=True, kw_only=True)
class ForecastOutcome:
    """Errors and coverage of two worlds on one signal, as means over worlds, steps and components that were observed.

    Args:
        serving: absolute error of the serving version, in the signal's unit.
        candidate: absolute error of the candidate.
        change: absolute error of persistence: the distance of the signal from its value before the first step.
        inside_serving: share of the worlds whose whole path lies in the simultaneous band; None without a band.
        inside_candidate: likewise.
    """

    serving: float
    candidate: float
    change: float
    inside_serving: float | None
    inside_candidate: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Backtest:
    """The last steps of a history as a prediction task with known outcome.

    Args:
        before: history before these steps, the input of both worlds.
        actions: per signal [T, *shape], the actions taken.
        exogenous: per signal [T, *shape]; None if the schema has none.
        truth: per common signal [T + 1, *shape], ground truth that starts with the last value before the steps.
        observed: per common signal [T + 1] bool.
        signals: vector signals that both worlds predict.
        batch: whether all arrays have a leading W axis.
    """

    before: History
    actions: Arrays
    exogenous: Arrays | None
    truth: Arrays
    observed: Mapping[str, NDArray[np.bool_]]
    signals: tuple[Signal, ...]
    batch: bool


def backtest_of(history: History, serving: Card, candidate: Card) -> Backtest:
    """The backtest on the last steps of a history.

    Both worlds get the same input, which keeps the larger of their contexts.

    Args:
        history: history of one world or a batch, accepted by `serving`.
        serving: card of the serving version.
        candidate: card of the candidate, which predicts all signals of `serving`.

    Raises:
        InputError: the history is too short, or holds no vector that both predict.
    """
    schema = serving.schema
    name, values = next(iter(history.observations.items()))
    axis = np.ndim(values) - 1 - len(schema[name].shape)
    length = np.shape(values)[axis]
    context = max(serving.context, candidate.context, 1)
    steps = min(MAX_STEPS, length - context)
    if steps < 1:
        raise InputError(
            f"expected at least {context + 1} observations, got {length}. Use histories of {context + MAX_STEPS}."
        )
    names = [name for name in serving.predicts if name in candidate.predicts and name in history.observations]
    signals = tuple(schema[name] for name in names if schema[name].kind is Kind.VECTOR)
    if not signals:
        raise InputError("the history holds no vector that both versions predict. Add one to the observations.")
    arrays = history.map(np.asarray)
    after = arrays.last(steps + 1, axis=axis)
    leading = (*np.shape(values)[:axis], steps + 1)
    return Backtest(
        before=arrays.window(0, length - steps, axis=axis),
        actions=after.actions,
        exogenous=after.exogenous or None,
        truth={signal.name: after.observations[signal.name] for signal in signals},
        observed={s.name: np.asarray(after.observed.get(s.name, np.ones(leading)), bool) for s in signals},
        signals=signals,
        batch=axis == 1,
    )


def compare_forecasts(task: Backtest, serving: Prediction, candidate: Prediction) -> dict[str, ForecastOutcome]:
    """The outcome per signal, without signals that were not observed or that `serving` does not predict as finite.

    Raises:
        InputError: the candidate's prediction is not finite.
    """
    found = {}
    for signal in task.signals:
        truth, seen = task.truth[signal.name].astype(np.float64), task.observed[signal.name]
        if not task.batch:
            truth, seen = truth[None], seen[None]
        # Persistence is defined only if the value before the first step was observed.
        kept = seen[:, 1:] & seen[:, :1]
        if not kept.any():
            continue
        truth = np.where(seen[..., None], truth, 0.0)  # unobserved values are arbitrary
        views = [_Errors.of(signal, one.signals[signal.name], truth[:, 1:]) for one in (serving, candidate)]
        if not np.isfinite(views[1].error[kept]).all():
            raise InputError(f"the prediction of {signal.name!r} is not finite.")
        if not np.isfinite(views[0].error[kept]).all():
            continue
        change = np.abs(signal.difference(truth[:, 1:], truth[:, :1]))
        found[signal.name] = ForecastOutcome(
            serving=float(views[0].error[kept].mean()),
            candidate=float(views[1].error[kept].mean()),
            change=float(change[kept].mean()),
            inside_serving=views[0].inside(kept),
            inside_candidate=views[1].inside(kept),
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Errors:
    """Errors of one world [W, T, n], and whether its band covers the truth; None without a band."""

    error: Floats
    within: NDArray[np.bool_] | None = field(default=None)

    @classmethod
    def of(cls, signal: Signal, forecast: Forecast, truth: Floats) -> _Errors:
        mean = np.asarray(forecast.mean, np.float64).reshape(truth.shape)
        error = np.abs(signal.difference(truth, mean))
        if forecast.low is None or forecast.high is None:
            return cls(error=error)
        low, high = (np.asarray(edge, np.float64).reshape(truth.shape) for edge in (forecast.low, forecast.high))
        return cls(error=error, within=np.abs(signal.difference(truth, (low + high) / 2)) <= (high - low) / 2)

    def inside(self, kept: NDArray[np.bool_]) -> float | None:
        """The share of the observed worlds whose path lies in its band."""
        if self.within is None:
            return None
        covered: NDArray[np.bool_] = np.all(self.within | ~kept[..., None], axis=(1, 2), keepdims=True)
        return float(covered[kept.any(1)].mean())
