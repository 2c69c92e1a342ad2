"""How well two worlds would have foretold what a call's own history shows to have happened."""

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
"""The most that is foretold: the last outcomes of the history, at least one."""

LEVEL = 0.9
"""Of the bands that outcomes are looked for in."""

Floats = NDArray[np.floating]


@final
@dataclass(frozen=True, kw_only=True)
class ForecastOutcome:
    """How two worlds foretold one signal, means over worlds, steps and components where it was observed.

    Args:
        serving: absolute error of the version that answers, in the signal's unit.
        candidate: of the one in its shadow.
        change: how far the signal moved from where the prediction began: the error of saying that nothing changes.
        inside_serving: share of the worlds whose whole path lies in the joint band; None without a band.
        inside_candidate: likewise.
    """

    serving: float
    candidate: float
    change: float
    inside_serving: float | None
    inside_candidate: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question whose answer is known.

    Args:
        before: what both are told.
        actions: per signal [T, *shape], what was done then.
        exogenous: per signal [T, *shape]; None where the schema has none.
        truth: per signal that both predict [T + 1, *shape], from the last value before on.
        observed: per such signal [T + 1] bool.
        signals: those signals.
        batch: whether a W axis is in front of all of these.
    """

    before: History
    actions: Arrays
    exogenous: Arrays | None
    truth: Arrays
    observed: Mapping[str, NDArray[np.bool_]]
    signals: tuple[Signal, ...]
    batch: bool


def ask_again(history: History, serving: Card, candidate: Card) -> Asked:
    """The last steps of the history, as a question of what they would lead to.

    Both worlds are told the same, of which neither asks for more: the larger of their contexts is kept in front.

    Args:
        history: of one world or a batch, which `serving` accepted.
        serving: the world that answers.
        candidate: the one in its shadow; it predicts all that `serving` does.

    Raises:
        InputError: the history is too short, or holds no vector that both predict.
    """
    schema = serving.schema
    name, values = next(iter(history.observations.items()))
    axis = np.ndim(values) - 1 - len(schema[name].shape)
    length = np.shape(values)[axis]
    due = max(serving.context, candidate.context, 1)
    steps = min(MAX_STEPS, length - due)
    if steps < 1:
        raise InputError(f"{length} observations where {due + 1} are needed. Give histories of {due + MAX_STEPS}.")
    names = [name for name in serving.predicts if name in candidate.predicts and name in history.observations]
    signals = tuple(schema[name] for name in names if schema[name].kind is Kind.VECTOR)
    if not signals:
        raise InputError("the history holds no vector that both predict. Add one to the observations.")
    begin = length - steps

    def part(arrays: Arrays, start: int, stop: int) -> Arrays:
        return {
            name: np.asarray(value)[(slice(None),) * axis + (slice(start, stop),)] for name, value in arrays.items()
        }

    masks = part(history.observed, begin - 1, length)
    leading = (*np.shape(values)[:axis], steps + 1)
    return Asked(
        before=History(
            observations=part(history.observations, 0, begin),
            actions=part(history.actions, 0, begin - 1),
            exogenous=part(history.exogenous, 0, begin - 1),
            observed=part(history.observed, 0, begin),
        ),
        actions=part(history.actions, begin - 1, length - 1),
        exogenous=part(history.exogenous, begin - 1, length - 1) or None,
        truth=part({signal.name: history.observations[signal.name] for signal in signals}, begin - 1, length),
        observed={s.name: masks[s.name].astype(bool) if s.name in masks else np.ones(leading, bool) for s in signals},
        signals=signals,
        batch=axis == 1,
    )


def compare_forecasts(asked: Asked, serving: Prediction, candidate: Prediction) -> dict[str, ForecastOutcome]:
    """Per signal how both foretold it. Left out is what was not observed, or of which `serving` predicts no number.

    Raises:
        InputError: what the candidate predicts is no number.
    """
    found = {}
    for signal in asked.signals:
        truth, seen = asked.truth[signal.name].astype(np.float64), asked.observed[signal.name]
        if not asked.batch:
            truth, seen = truth[None], seen[None]
        # A change is known only where it began at a value that was observed.
        kept = seen[:, 1:] & seen[:, :1]
        if not kept.any():
            continue
        truth = np.where(seen[..., None], truth, 0.0)  # what was not observed may be anything
        views = [_View.of(signal, one.signals[signal.name], truth[:, 1:]) for one in (serving, candidate)]
        if not np.isfinite(views[1].error[kept]).all():
            raise InputError(f"what is predicted of {signal.name!r} is not finite.")
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
class _View:
    """One world's prediction beside the truth: [W, T, n], and whether the band holds it, None without one."""

    error: Floats
    within: NDArray[np.bool_] | None = field(default=None)

    @classmethod
    def of(cls, signal: Signal, forecast: Forecast, truth: Floats) -> _View:
        mean = np.asarray(forecast.mean, np.float64).reshape(truth.shape)
        error = np.abs(signal.difference(truth, mean))
        if forecast.low is None or forecast.high is None:
            return cls(error=error)
        low, high = (np.asarray(edge, np.float64).reshape(truth.shape) for edge in (forecast.low, forecast.high))
        return cls(error=error, within=np.abs(signal.difference(truth, (low + high) / 2)) <= (high - low) / 2)

    def inside(self, kept: NDArray[np.bool_]) -> float | None:
        """The share of the worlds, among those that were observed at all, whose path lies in its band."""
        if self.within is None:
            return None
        held: NDArray[np.bool_] = np.all(self.within | ~kept[..., None], axis=(1, 2), keepdims=True)
        return float(held[kept.any(1)].mean())
