"""Changes of a log at a date, and episodes that were joined: found by one linear model of all episodes.

The model predicts the change in one step from the last observations and inputs, without the steps that it fits worst.

Changes: per episode and observed component, the mean and the size of the model's residual, the level and the spread.
A signal that changes from a date on, such as a sensor that was replaced, divides the episodes into two groups. The
statistic is the largest standardised rank sum over all dates. All but the mean residual count only if no action and no
exogenous signal changes near the same date (in level, spread or speed), because another operation changes them too.

Joined episodes: at the seam all observations jump at once. The statistic of a step is the mean over components of the
logarithm of the squared residual. It is compared with an exponential tail through two of its quantiles.

Both thresholds were chosen on the plants of benchmarks/foreign.py (benchmarks/corrupted_logs.py measures them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, warning
from worldline.data.quality.segments import Segment
from worldline.formatting import first_of, plural
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]

MIN_EPISODES: Final = 20
"""Smallest number of episodes in which changes are sought; a date that is certain needs about 40."""
MIN_SIDE: Final = 0.08
"""Smallest share of the episodes before and after a date."""
MIN_RANK_SUM: Final = 5.0
"""Smallest standardised rank sum of a change, in standard deviations. Clean logs reached 4.4."""
NEAR: Final = 0.1
"""Distance of two dates that count as equal, as a share of the episodes."""
MIN_JUMP: Final = 3.2
"""Smallest ratio of a seam's statistic to the 99.9 % quantile. Clean logs reached 2.8."""
LAGS: Final = 3
"""Observations and inputs from which the model predicts."""
TRIMMED: Final = 0.05
"""Share of the steps that the model is not fitted to."""
RIDGE: Final = 1e-3
MAX_LISTED: Final = 5


@dataclass(frozen=True, kw_only=True)
class _Component:
    """One component of an observation: its signal and its name in messages."""

    signal: Signal
    part: str
    index: int


@dataclass(frozen=True, kw_only=True)
class _Residuals:
    """The residuals of all steps.

    Args:
        values: standardised.
        track: position of the segment.
        step: the predicted step in the segment.
    """

    values: Floats
    track: NDArray[np.intp]
    step: NDArray[np.intp]


def inconsistencies(tracks: Sequence[Segment], schema: Schema) -> tuple[Finding, ...]:
    """Signals that change from a date on, and episodes that seem to be joined; warnings.

    Args:
        tracks: segments of one schema, at most one per episode.
        schema: of the log.
    """
    tracks = sorted((one for one in tracks if len(one.actions) > 2 * LAGS), key=lambda one: one.number)
    columns = _columns(schema)
    if not columns or len(tracks) < 2:
        return ()
    states = [one.table[:, [column.index for column in columns]] for one in tracks]
    middle = np.nanmedian(np.concatenate(states), axis=0)  # NaN before the first observation of an episode
    states = [np.where(np.isnan(table), middle, table) for table in states]
    moving = np.concatenate(states).std(0) > 0
    if not moving.any():
        return ()
    columns, states = [c for c, moves in zip(columns, moving, strict=True) if moves], [s[:, moving] for s in states]
    residuals = _residuals(states, [np.concatenate([one.actions, one.inputs], 1) for one in tracks])
    return (*_changes(tracks, columns, states, residuals), *_seams(tracks, residuals))


def _columns(schema: Schema) -> list[_Component]:
    """The components of vector observations that are no angles, with their place in the table of a segment."""
    found, index = list[_Component](), 0
    for signal in schema.observations:
        if signal.kind is Kind.IMAGE:
            continue
        width = signal.size if signal.num_values is None else max(1, signal.size - 1)
        for number in range(width):
            name = signal.components[number] if signal.components else number
            part = "it" if signal.size == 1 else f"component {name}"
            if signal.kind is Kind.VECTOR and signal.period is None:
                found.append(_Component(signal=signal, part=part, index=index + number))
        index += width
    return found


def _residuals(states: Sequence[Floats], inputs: Sequence[Floats]) -> _Residuals:
    """The residuals of the linear model."""
    scaled_states, scaled_inputs = _standardised(states), _standardised(inputs)
    known, target = list[Floats](), list[Floats]()
    track, step = list[NDArray[np.intp]](), list[NDArray[np.intp]]()
    for number, (state, given) in enumerate(zip(scaled_states, scaled_inputs, strict=True)):
        now = np.arange(LAGS - 1, len(given))
        past = [table[now - lag] for lag in range(LAGS) for table in (state, given)]
        known.append(np.concatenate([*past, np.ones((len(now), 1))], 1))
        target.append(state[now + 1] - state[now])
        track.append(np.full(len(now), number, np.intp))
        step.append(now + 1)
    features, change = np.concatenate(known), np.concatenate(target)
    kept = np.arange(len(features))
    for _ in range(3):
        gram = features[kept].T @ features[kept] + RIDGE * len(kept) * np.eye(features.shape[1])
        residual = change - features @ np.linalg.solve(gram, features[kept].T @ change[kept])
        worst = (np.abs(residual) / (np.median(np.abs(residual), axis=0) + 1e-9)).max(1)
        kept = np.flatnonzero(worst <= np.quantile(worst, 1 - TRIMMED))
    return _Residuals(values=residual, track=np.concatenate(track), step=np.concatenate(step))


def _standardised(tables: Sequence[Floats]) -> list[Floats]:
    every = np.concatenate(tables)
    return [(table - every.mean(0)) / (every.std(0) + 1e-9) for table in tables]


def _changes(
    tracks: Sequence[Segment], columns: Sequence[_Component], states: Sequence[Floats], residuals: _Residuals
) -> list[Finding]:
    """A warning for each signal that changes from a date on."""
    if len(tracks) < MIN_EPISODES:
        return []
    parts = [residuals.values[residuals.track == number] for number in range(len(tracks))]
    law = _split(np.stack([part.mean(0) for part in parts]))
    level, spread = np.stack([np.median(one, axis=0) for one in states]), np.stack([one.std(0) for one in states])
    size_of_residual = np.stack([np.log(np.sqrt(np.square(part).mean(0)) + 1e-9) for part in parts])
    others = [_split(size_of_residual), _split(level), _split(np.log(spread + 1e-9))]
    given = [np.concatenate([one.actions, one.inputs], 1) for one in tracks]
    operated = [
        _split(np.stack([np.median(one, axis=0) for one in given])),
        _split(np.log(np.stack([one.std(0) for one in given]) + 1e-9)),
        _split(np.log(np.stack([np.diff(one, axis=0).std(0) for one in given]) + 1e-9)),
    ]
    dates = np.concatenate([at[size >= MIN_RANK_SUM] for size, at in operated])
    found: dict[str, Finding] = {}
    for number, column in enumerate(columns):
        certain = [(law[0][number], law[1][number])]
        certain += [
            (size[number], at[number])
            for size, at in others
            if not (np.abs(dates - at[number]) <= NEAR * len(tracks)).any()
        ]
        size, at = max(certain)
        if size >= MIN_RANK_SUM and column.signal.name not in found:
            before, after = (np.median(level[:, number][part]) for part in (slice(at), slice(at, None)))
            wide, wider = (np.median(spread[:, number][part]) for part in (slice(at), slice(at, None)))
            unit = "" if column.signal.unit in ("1", "?") else f" {column.signal.unit}"
            found[column.signal.name] = warning(
                problem=f"{column.part} changes from about episode {tracks[at].number} on: its median goes from "
                f"{before:.4g} to {after:.4g}{unit}, its spread from {wide:.3g} to {wider:.3g}{unit}",
                fix="A sensor, a unit, a sign or a column may have changed. Convert the values, or leave one part out.",
                episode=tracks[at].number,
                signal=column.signal.name,
            )
    return list(found.values())[:MAX_LISTED]


def _split(series: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The largest standardised rank sum of each column [C] of a series [E, C] over all dates, and its date."""
    count = len(series)
    ranks = series.argsort(0, kind="stable").argsort(0, kind="stable").astype(np.float64)
    first = np.arange(max(4, int(MIN_SIDE * count)), count - max(4, int(MIN_SIDE * count)) + 1)
    sums = np.cumsum(ranks, axis=0)
    before = sums[first - 1] / first[:, None]
    after = (sums[-1] - sums[first - 1]) / (count - first)[:, None]
    scale = np.sqrt(count * (count + 1) / 12 * (1 / first + 1 / (count - first)))
    sizes = np.abs(before - after) / scale[:, None]
    constant = series.max(0) - series.min(0) <= 1e-12
    sizes[:, constant] = 0.0
    best = sizes.argmax(0)
    return sizes.max(0), first[best]


def _seams(tracks: Sequence[Segment], residuals: _Residuals) -> list[Finding]:
    """A warning if all observations jump at once in some episodes."""
    usual = np.quantile(np.abs(residuals.values), 0.99, axis=0) + 1e-9
    jump = np.log1p(np.square(residuals.values / usual)).mean(1)
    tenth, hundredth = np.quantile(jump, [0.9, 0.99])
    places = np.flatnonzero(jump > MIN_JUMP * (2 * hundredth - tenth))
    seams = {int(residuals.track[place]): int(residuals.step[place]) for place in places[::-1]}
    if not seams:
        return []
    numbers = first_of([str(tracks[number].number) for number in sorted(seams)])
    first = min(seams)
    return [
        warning(
            problem=f"all observations jump at once in {plural(len(seams), 'episode')} ({numbers})",
            fix="Two recordings may have been joined, or rows are missing. Split them there.",
            episode=tracks[first].number,
            step=tracks[first].start + seams[first],
        )
    ]
