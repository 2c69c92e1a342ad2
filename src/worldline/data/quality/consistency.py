"""Changes of a log at a date, joined episodes and shifted actions: found by one linear model of all episodes.

The model predicts the change in one step from the last observations and inputs, without the steps that it fits worst.

Changes: per episode and observed component, the mean and the size of the model's residual, the level and the spread.
A signal that changes from a date on, such as a sensor that was replaced, divides the episodes into two groups. The
statistic is the largest standardised rank sum over all dates. All but the mean residual count only if no action and no
exogenous signal changes near the same date (in level, spread or speed), because another operation changes them too.

Joined episodes: at the seam all observations jump at once. The statistic of a step is the mean over components of the
logarithm of the squared residual. It is compared with an exponential tail through two of its quantiles.

Shifted actions: in each half of an episode, the model predicts with the actions of the row before and of the row after,
too. The statistic is the mean decrease of the logarithm of the squared residual.

The thresholds were chosen on the plants of benchmarks/foreign.py (benchmarks/corrupted_logs.py measures them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, FindingKind, Place, warning
from worldline.data.quality.anomalies import part_of
from worldline.data.quality.segments import Segment, names_of
from worldline.formatting import first_of, plural
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]

MIN_EPISODES: Final = 20
"""Smallest number of episodes in which changes are sought; a date that is certain needs about 40."""
MIN_SIDE: Final = 0.08
"""Smallest share of the episodes before and after a date."""
MIN_RANK_SUM: Final = 5.0
"""Smallest standardised rank sum of a change, in standard deviations."""
NEAR: Final = 0.1
"""Distance of two dates that count as equal, as a share of the episodes."""
MIN_JUMP, MIN_JUMP_ALONE = 3.2, 5.0
"""Smallest ratio of a seam's statistic to the 99.9 % quantile: if 3 episodes have a seam, and otherwise."""
MIN_GAIN: Final = 0.15
"""Smallest mean decrease by shifted actions."""
MIN_CERTAINTY: Final = 1.0
"""Smallest ratio of that mean to its standard error over blocks."""
MIN_SHIFTED: Final = 0.04
"""Share of the episodes, at least 3, that confirm each other."""
MIN_GAIN_ALONE, MIN_TAIL_ALONE = 0.08, 2.5
"""Smallest mean decrease in fewer episodes, also as a multiple of an exponential tail over all halves."""
BLOCK, MIN_BLOCKS = 5, 5
"""Steps of a block, and blocks of a half."""
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
        shifted: by -1 or 1, the residuals with the actions of the row before or after.
        track: position of the segment.
        step: the predicted step in the segment.
    """

    values: Floats
    shifted: Mapping[int, Floats]
    track: NDArray[np.intp]
    step: NDArray[np.intp]


def inconsistencies(tracks: Sequence[Segment], schema: Schema) -> tuple[Finding, ...]:
    """Signals that change from a date on, episodes that seem to be joined, and parts with shifted actions; warnings.

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
    residuals = _residuals(states, [one.actions for one in tracks], [one.inputs for one in tracks])
    shifts, possible = _shifts(residuals, len(tracks))
    return (
        *_changes(tracks, columns, states, residuals),
        *_seams(tracks, residuals, possible),
        *_shifted_actions(tracks, shifts),
    )


def _columns(schema: Schema) -> list[_Component]:
    """The components of vector observations that are no angles, with their place in the table of a segment."""
    found, index = list[_Component](), 0
    for signal in schema.observations:
        if signal.kind is Kind.IMAGE:
            continue
        width = len(names_of(signal))
        if signal.kind is Kind.VECTOR and signal.period is None:
            found += [
                _Component(signal=signal, part=part_of(signal, number), index=index + number) for number in range(width)
            ]
        index += width
    return found


def _residuals(states: Sequence[Floats], actions: Sequence[Floats], inputs: Sequence[Floats]) -> _Residuals:
    """The residuals of the linear model."""
    states, actions, inputs = _standardised(states), _standardised(actions), _standardised(inputs)
    places = [np.arange(LAGS - 1, len(given)) for given in actions]
    known = {shift: _features(states, actions, inputs, places, shift) for shift in (0, -1, 1)}
    change = np.concatenate([state[now + 1] - state[now] for state, now in zip(states, places, strict=True)])
    features, kept = known[0], np.arange(len(change))
    for _ in range(3):
        gram = features[kept].T @ features[kept] + RIDGE * len(kept) * np.eye(features.shape[1])
        weights = np.linalg.solve(gram, features[kept].T @ change[kept])
        residual = change - features @ weights
        worst = (np.abs(residual) / (np.median(np.abs(residual), axis=0) + 1e-9)).max(1)
        kept = np.flatnonzero(worst <= np.quantile(worst, 1 - TRIMMED))
    return _Residuals(
        values=residual,
        shifted={shift: change - known[shift] @ weights for shift in (-1, 1)},
        track=np.concatenate([np.full(len(now), number, np.intp) for number, now in enumerate(places)]),
        step=np.concatenate(places) + 1,
    )


def _features(
    states: Sequence[Floats],
    actions: Sequence[Floats],
    inputs: Sequence[Floats],
    places: Sequence[NDArray[np.intp]],
    shift: int,
) -> Floats:
    """What the model predicts from, one row per step; the actions are taken `shift` rows later."""
    rows = []
    for state, chosen, given, now in zip(states, actions, inputs, places, strict=True):
        past = [table[now - lag] for lag in range(LAGS) for table in (state, given)]
        past += [chosen[np.clip(now - lag + shift, 0, len(chosen) - 1)] for lag in range(LAGS)]
        rows.append(np.concatenate([*past, np.ones((len(now), 1))], 1))
    return np.concatenate(rows)


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
                kind=FindingKind.CHANGED,
                places=(Place(episode=tracks[at].number),),
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


def _seams(tracks: Sequence[Segment], residuals: _Residuals, explained: Collection[int]) -> list[Finding]:
    """A warning if all observations jump at once in some episodes; `explained` segments do not count."""
    usual = np.quantile(np.abs(residuals.values), 0.99, axis=0) + 1e-9
    jump = np.log1p(np.square(residuals.values / usual)).mean(1)
    tenth, hundredth = np.quantile(jump, [0.9, 0.99])
    ratio = jump / (2 * hundredth - tenth) * ~np.isin(residuals.track, list(explained))

    def seams_above(limit: float) -> dict[int, int]:
        places = np.flatnonzero(ratio > limit)
        return {int(residuals.track[place]): int(residuals.step[place]) for place in places[::-1]}

    seams = seams_above(MIN_JUMP)
    if len(seams) < 3:
        seams = seams_above(MIN_JUMP_ALONE)
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
            kind=FindingKind.JOINED,
            places=tuple(Place(episode=tracks[at].number, start=tracks[at].start + seams[at]) for at in sorted(seams)),
        )
    ]


def _shifts(residuals: _Residuals, count: int) -> tuple[dict[int, tuple[float, int, int]], set[int]]:
    """The segments in a half of which the actions fit better one row earlier or later: gain, shift and first step.

    Also those where that is possible.
    """
    scale = 1.4826 * np.median(np.abs(residuals.values), axis=0) + 1e-9

    def size(values: Floats) -> Floats:
        return np.asarray(np.log1p(np.square(values / scale)).sum(1))

    gains = {shift: size(residuals.values) - size(values) for shift, values in residuals.shifted.items()}
    found, best = dict[int, tuple[float, int, int]](), dict[int, tuple[float, int, int]]()
    means = list[float]()
    for number in range(count):
        halves = np.array_split(np.flatnonzero(residuals.track == number), 2)
        for half, (shift, gain) in product((half for half in halves if len(half) >= MIN_BLOCKS * BLOCK), gains.items()):
            blocks = np.array([part.mean() for part in np.array_split(gain[half], len(half) // BLOCK)])
            error = blocks.std(ddof=1) / np.sqrt(len(blocks)) + 1e-9
            one = float(blocks.mean()), shift, int(residuals.step[half[0]])
            means.append(one[0])
            best[number] = max(best.get(number, one), one)
            if one[0] >= max(MIN_GAIN, found.get(number, (0.0,))[0]) and one[0] / error >= MIN_CERTAINTY:
                found[number] = one
    possible = set(found)
    if len(found) < max(3, MIN_SHIFTED * count):
        tenth, hundredth = np.quantile(means, [0.9, 0.99]) if len(means) >= 4 * MIN_EPISODES else (0.0, np.inf)
        least = max(MIN_GAIN_ALONE, tenth + MIN_TAIL_ALONE * (hundredth - tenth))
        found = {number: one for number, one in best.items() if one[0] >= least}
    return found, possible


def _shifted_actions(tracks: Sequence[Segment], shifts: Mapping[int, tuple[float, int, int]]) -> list[Finding]:
    """A warning about the segments with shifted actions."""
    if not shifts:
        return []
    number, (_, shift, step) = max(shifts.items(), key=lambda item: item[1][0])
    numbers = first_of([str(tracks[place].number) for place in sorted(shifts)])
    where, clearest = f"in {plural(len(shifts), 'episode')} ({numbers})", tracks[number]
    return [
        warning(
            problem=f"the actions of a part fit better if taken one row {'later' if shift > 0 else 'earlier'}, "
            f"{where}; the clearest is episode {clearest.number}",
            fix="Actions may be shifted there. Compare their times with the original, or leave these episodes out.",
            episode=clearest.number,
            step=clearest.start + step - 1,
            kind=FindingKind.SHIFTED,
            places=tuple(
                Place(episode=tracks[at].number, start=tracks[at].start + shifts[at][2] - 1, lag=shifts[at][1])
                for at in sorted(shifts)
            ),
        )
    ]
