"""Changes of a log at a date, joined episodes and shifted actions: found by linear models of one step.

The model predicts the change in one step from the last observations and inputs, without the steps that it fits worst.

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
from worldline.data.quality.changes import changes
from worldline.data.quality.segments import Segment
from worldline.data.quality.transition_model import LAGS, StepTable, TransitionModel, step_tables
from worldline.formatting import first_of, plural
from worldline.schema import Schema

Floats = NDArray[np.floating]

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
MIN_HALVES: Final = 200
"""Smallest number of means, two per half of an episode, from which that tail follows."""
BLOCK, MIN_BLOCKS = 5, 5
"""Steps of a block, and blocks of a half."""


@dataclass(frozen=True, kw_only=True)
class _Residuals:
    """The residuals of all steps.

    Args:
        values: [n, C], standardised.
        gain: by -1 or 1, how much better [n] the actions of the row before or after fit.
        track: [n] position of the episode.
        step: [n] the predicted step in the segment.
    """

    values: Floats
    gain: Mapping[int, Floats]
    track: NDArray[np.intp]
    step: NDArray[np.intp]

    def parts(self) -> list[Floats]:
        """The residuals of each episode."""
        return np.split(self.values, np.flatnonzero(np.diff(self.track)) + 1)

    @classmethod
    def of(cls, tables: Sequence[StepTable]) -> _Residuals:
        """The residuals of a model of all tables."""
        model = TransitionModel(tables)
        surprise = {
            shift: np.concatenate([model.surprise(one, shift).sum(1) for one in tables]) for shift in (0, -1, 1)
        }
        counts = [len(one.actions) - LAGS + 1 for one in tables]
        return cls(
            values=np.concatenate([model.residual(one) for one in tables]),
            gain={shift: surprise[0] - surprise[shift] for shift in (-1, 1)},
            track=np.repeat(np.arange(len(tables)), counts),
            step=np.concatenate([np.arange(count) for count in counts]) + LAGS,
        )


def inconsistencies(tracks: Sequence[Segment], schema: Schema) -> tuple[Finding, ...]:
    """Signals that change from a date on, episodes that seem to be joined, and parts with shifted actions; warnings.

    Args:
        tracks: segments of one schema, at most one per episode.
        schema: of the log.
    """
    names, tables = step_tables(tracks, schema)
    if not names or len(tables) < 2:
        return ()
    residuals = _Residuals.of(tables)
    shifts, possible = _shifts(residuals, len(tables))
    return (
        *changes(tables, names, schema, residuals.parts()),
        *_seams(tables, residuals, possible),
        *_shifted_actions(tables, shifts),
    )


def _seams(tables: Sequence[StepTable], residuals: _Residuals, explained: Collection[int]) -> list[Finding]:
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
    numbers = first_of([str(tables[number].number) for number in sorted(seams)])
    first = min(seams)
    return [
        warning(
            problem=f"all observations jump at once in {plural(len(seams), 'episode')} ({numbers})",
            fix="Two recordings may have been joined, or rows are missing. Split them there.",
            episode=tables[first].number,
            step=tables[first].start + seams[first],
            kind=FindingKind.JOINED,
            places=tuple(Place(episode=tables[at].number, start=tables[at].start + seams[at]) for at in sorted(seams)),
        )
    ]


def _shifts(residuals: _Residuals, count: int) -> tuple[dict[int, tuple[float, int, int]], set[int]]:
    """The segments in a half of which the actions fit better one row earlier or later: gain, shift and first step.

    Also those where that is possible.
    """
    found, best = dict[int, tuple[float, int, int]](), dict[int, tuple[float, int, int]]()
    means = list[float]()
    for number in range(count):
        halves = np.array_split(np.flatnonzero(residuals.track == number), 2)
        for half, (shift, gain) in product(
            (half for half in halves if len(half) >= MIN_BLOCKS * BLOCK), residuals.gain.items()
        ):
            blocks = np.array([part.mean() for part in np.array_split(gain[half], len(half) // BLOCK)])
            error = blocks.std(ddof=1) / np.sqrt(len(blocks)) + 1e-9
            one = float(blocks.mean()), shift, int(residuals.step[half[0]])
            means.append(one[0])
            best[number] = max(best.get(number, one), one)
            if one[0] >= max(MIN_GAIN, found.get(number, (0.0,))[0]) and one[0] / error >= MIN_CERTAINTY:
                found[number] = one
    possible = set(found)
    if len(found) < max(3, MIN_SHIFTED * count):
        tenth, hundredth = np.quantile(means, [0.9, 0.99]) if len(means) >= MIN_HALVES else (0.0, np.inf)
        least = max(MIN_GAIN_ALONE, tenth + MIN_TAIL_ALONE * (hundredth - tenth))
        found = {number: one for number, one in best.items() if one[0] >= least}
    return found, possible


def _shifted_actions(tables: Sequence[StepTable], shifts: Mapping[int, tuple[float, int, int]]) -> list[Finding]:
    """A warning about the segments with shifted actions."""
    if not shifts:
        return []
    number, (_, shift, step) = max(shifts.items(), key=lambda item: item[1][0])
    numbers = first_of([str(tables[place].number) for place in sorted(shifts)])
    where, clearest = f"in {plural(len(shifts), 'episode')} ({numbers})", tables[number]
    return [
        warning(
            problem=f"the actions of a part fit better if taken one row {'later' if shift > 0 else 'earlier'}, "
            f"{where}; the clearest is episode {clearest.number}",
            fix="Actions may be shifted there. Compare their times with the original, or leave these episodes out.",
            episode=clearest.number,
            step=clearest.start + step - 1,
            kind=FindingKind.SHIFTED,
            places=tuple(
                Place(episode=tables[at].number, start=tables[at].start + shifts[at][2] - 1) for at in sorted(shifts)
            ),
        )
    ]
