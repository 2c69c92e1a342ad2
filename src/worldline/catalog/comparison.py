"""Comparison of a candidate in shadow with the serving version: backtests of their calls and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil, sqrt
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.engines.base import Card
from worldline.episode import Arrays, History
from worldline.errors import ConfigError, InputError
from worldline.schema import Kind, Signal
from worldline.stats import Estimate, student_quantile
from worldline.world.base import Forecast, Prediction

Floats = NDArray[np.floating]

MAX_STEPS = 4
"""Largest number of predicted steps at the end of a history."""

LEVEL = 0.9
"""Level of the bands whose coverage is measured."""

MIN_SCORED = 100
"""Smallest number of scored calls for an interval. Fewer give too few blocks for the bootstrap."""

_LEVEL_Z = 1.959964
_RESAMPLES = 2000


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
    outcomes = {}
    for signal in task.signals:
        truth, seen = task.truth[signal.name].astype(np.float64), task.observed[signal.name]
        if not task.batch:
            truth, seen = truth[None], seen[None]
        # Persistence is defined only if the value before the first step was observed.
        kept = seen[:, 1:] & seen[:, :1]
        if not kept.any():
            continue
        truth = np.where(seen[..., None], truth, 0.0)  # unobserved values are arbitrary
        own, inside_serving = _errors(signal, serving.signals[signal.name], truth[:, 1:], kept)
        other, inside_candidate = _errors(signal, candidate.signals[signal.name], truth[:, 1:], kept)
        if not np.isfinite(other[kept]).all():
            raise InputError(f"the prediction of {signal.name!r} is not finite.")
        if not np.isfinite(own[kept]).all():
            continue
        outcomes[signal.name] = ForecastOutcome(
            serving=float(own[kept].mean()),
            candidate=float(other[kept].mean()),
            change=float(np.abs(signal.difference(truth[:, 1:], truth[:, :1]))[kept].mean()),
            inside_serving=inside_serving,
            inside_candidate=inside_candidate,
        )
    return outcomes


def _errors(signal: Signal, forecast: Forecast, truth: Floats, kept: NDArray[np.bool_]) -> tuple[Floats, float | None]:
    """The errors of one world [W, T, n], and the share of the W whose path lies in its band; None without a band."""
    error = np.abs(signal.difference(truth, np.asarray(forecast.mean, np.float64).reshape(truth.shape)))
    if forecast.low is None or forecast.high is None:
        return error, None
    low, high = (np.asarray(edge, np.float64).reshape(truth.shape) for edge in (forecast.low, forecast.high))
    within = np.abs(signal.difference(truth, (low + high) / 2)) <= (high - low) / 2
    covered = np.all(within | ~kept[..., None], axis=(1, 2))
    return error, float(covered[kept.any(1)].mean())


class ShadowVerdict(StrEnum):
    """The result of a comparison, from the view of the candidate."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference found"
    TOO_FEW = "too few"


@final
@dataclass(frozen=True, kw_only=True)
class ShadowRecord:
    """One call that both versions got.

    Args:
        at: time, ISO 8601 with time zone.
        verb: verb of `World`, such as "predict".
        serving_s: seconds of the serving version.
        candidate_s: seconds of the candidate; None if it failed.
        error: error of the candidate; empty if it did not fail.
        dropped: calls since the previous record that the candidate did not get, because it was busy.
        outcomes: per signal the backtest of both on the call's history; empty if there is none.
        unscored: why `outcomes` is empty; else empty.
    """

    at: str
    verb: str
    serving_s: float
    candidate_s: float | None
    error: str = ""
    dropped: int = 0
    outcomes: Mapping[str, ForecastOutcome] = field(default_factory=dict)
    unscored: str = ""


@dataclass(frozen=True, kw_only=True)
class _Records:
    records: tuple[ShadowRecord, ...]


@final
@dataclass(frozen=True, kw_only=True)
class ShadowComparison:
    """Comparison of a candidate with the serving version over the calls that both got.

    Errors are relative to persistence, averaged over all calls: 1 is the error of predicting no change, 0 is
    perfect. Signals have equal weight. Signals that never changed are left out.

    Args:
        serving: number of the serving version.
        candidate: number of the candidate.
        num_calls: calls that both got.
        num_scored: calls with a backtest.
        num_failed: calls on which the candidate failed.
        num_dropped: further calls that the candidate did not get, because it was busy.
        serving_error: mean over the scored calls; None if there are none.
        candidate_error: likewise.
        difference: candidate minus serving, paired by call; negative if the candidate is better.
        low: lower end of its 95 % interval; None if there are too few calls.
        high: upper end.
        serving_coverage: coverage of the simultaneous 90 % bands; None without bands.
        candidate_coverage: likewise.
        serving_s: median seconds of a call.
        candidate_s: likewise, in the background.
        verdict: also worse if the candidate failed on a call that was answered.
        reason: one sentence with the figures behind the verdict.
    """

    serving: int
    candidate: int
    num_calls: int
    num_scored: int
    num_failed: int
    num_dropped: int
    serving_error: float | None
    candidate_error: float | None
    difference: float | None
    low: float | None
    high: float | None
    serving_coverage: float | None
    candidate_coverage: float | None
    serving_s: float | None
    candidate_s: float | None
    verdict: ShadowVerdict
    reason: str


def read_records(path: Path) -> tuple[ShadowRecord, ...]:
    """The recorded calls; empty if the file does not exist.

    Raises:
        ConfigError: the file is damaged.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return from_json(_Records, f'{{"records": [{",".join(filter(None, lines))}]}}', where=path).records
    except ConfigError as error:
        raise ConfigError(f"{error} Remove the file to start a new comparison.") from error


def compare(records: Sequence[ShadowRecord], *, serving: int, candidate: int, seed: int = 0) -> ShadowComparison:
    """Compares the two versions.

    Args:
        records: in the order of the calls.
        serving: number of the serving version.
        candidate: number of the candidate.
        seed: seed of the bootstrap.
    """
    own, other = _scores(records)
    apart = other - own
    interval = block_interval(apart, seed=seed) if len(apart) >= MIN_SCORED else None
    verdict, reason = _verdict(records, apart, interval)
    outcomes = [outcome for record in records for outcome in record.outcomes.values()]
    return ShadowComparison(
        serving=serving,
        candidate=candidate,
        num_calls=len(records),
        num_scored=len(apart),
        num_failed=sum(bool(record.error) for record in records),
        num_dropped=sum(record.dropped for record in records),
        serving_error=_mean(own.tolist()),
        candidate_error=_mean(other.tolist()),
        difference=_mean(apart.tolist()),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        serving_coverage=_mean([each.inside_serving for each in outcomes if each.inside_serving is not None]),
        candidate_coverage=_mean([each.inside_candidate for each in outcomes if each.inside_candidate is not None]),
        serving_s=_median([record.serving_s for record in records]),
        candidate_s=_median([record.candidate_s for record in records if record.candidate_s is not None]),
        verdict=verdict,
        reason=reason,
    )


def block_interval(values: Float[np.ndarray, "N"], *, seed: int) -> Estimate:
    """The mean and its 95 % interval of an autocorrelated series, by the moving-block bootstrap.

    The block length is the square root of the series length. With few blocks, resamples vary too little. Their
    quantiles are therefore widened by the ratio of Student's t to the normal distribution.

    Args:
        values: [N], in order, N at least 4.
        seed: seed of the resamples.

    Source: Künsch 1989, "The jackknife and the bootstrap for general stationary observations", section 2.
    """
    size = len(values)
    length = ceil(sqrt(size))
    count = ceil(size / length)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.random.default_rng(seed).integers(0, size - length + 1, (_RESAMPLES, count))
    means = (sums[starts + length] - sums[starts]).sum(1) / (count * length)
    wider = student_quantile(0.025, size / length - 1) / _LEVEL_Z * sqrt(size / (size - length))
    low, high = values.mean() + wider * np.quantile(means - means.mean(), (0.025, 0.975))
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def _scores(records: Sequence[ShadowRecord]) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The error of both versions per scored call, as a mean over the signals that ever changed."""
    names = {name for record in records for name in record.outcomes}
    usual = {n: float(np.mean([r.outcomes[n].change for r in records if n in r.outcomes])) for n in names}
    errors = [
        [(outcome.serving / usual[n], outcome.candidate / usual[n]) for n, outcome in r.outcomes.items() if usual[n]]
        for r in records
    ]
    means = np.array([np.mean(pairs, axis=0) for pairs in errors if pairs], np.float64).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _verdict(
    records: Sequence[ShadowRecord], apart: Float[np.ndarray, "N"], interval: Estimate | None
) -> tuple[ShadowVerdict, str]:
    if errors := [record.error for record in records if record.error]:
        reason = f"it failed on {len(errors)} of {len(records)} calls; last error: {errors[-1].rstrip('.')}"
        return ShadowVerdict.WORSE, reason
    if interval is None:
        count = f"{len(apart)} scored calls of {len(records)}; {MIN_SCORED} are needed"
        why = next((record.unscored for record in reversed(records) if record.unscored), "")
        return ShadowVerdict.TOO_FEW, f"{count}; last unscored call: {why.rstrip('.')}" if why else count
    figures = f"{interval.value:+.4g} (95 % interval {interval.low:+.4g} to {interval.high:+.4g}, {len(apart)} calls)"
    reason = f"its error minus that of the serving version, relative to persistence, is {figures}"
    if interval.high < 0:
        return ShadowVerdict.BETTER, reason
    return (ShadowVerdict.WORSE if interval.low > 0 else ShadowVerdict.NO_DIFFERENCE), reason


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
