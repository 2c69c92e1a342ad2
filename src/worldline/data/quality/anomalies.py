"""Findings about the signals of a log: stuck sensors and outliers, and facts that may be intended as notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, note
from worldline.data.quality.false_alarms import MAX_FINDINGS, few
from worldline.data.quality.log_figures import LogFigures
from worldline.data.quality.sensors import MAX_RELATIVE_DIFFERENCE, outliers, stuck_sensors
from worldline.schema import Role
from worldline.stats import Floats

MIN_SATURATED, MIN_LEVELS, MAX_GAP = 0.03, 50, 0.05
"""Of a sensor that may saturate: share of rows at the limit, number of values, and distance to the next value."""
SATURATION_RATIO, NUM_LEVELS = 5, 5  # a saturated value is so many times as frequent as each of the next values
MIN_COMMON: Final = 20
"""Smallest number of rows in which two equal signals are observed."""
MAX_SATURATED: Final = 0.5
"""Largest share of rows at the limit; a value that is more frequent is usual."""
MIN_OBSERVED: Final = 0.5
"""Smallest share of steps in which a signal is usually observed."""


class Inspection(LogFigures):
    """Collects figures of episodes one by one; see `LogFigures`."""

    def findings(self) -> tuple[Finding, ...]:
        """All findings. An error only if nothing can be learned, else warnings and notes."""
        if not self.episodes:
            return ()
        tests = [*outliers(self).findings(), *stuck_sensors(self).findings()]
        return (
            *tests,
            *_constant(self),
            *_repeats(self),
            *_masks(self),
            *_saturated(self),
            *_images(self),
            *_copies(self),
        )


def _constant(log: LogFigures) -> Iterator[Finding]:
    """Components that never change in the whole log; errors if no action or no observation changes."""
    table = log.table
    low, high = np.where(table["num_rows"], table["low"], np.inf), np.where(table["num_rows"], table["high"], -np.inf)
    constant = low.min(1) == high.max(1)
    for signal in dict.fromkeys(column.signal for column in log.columns if column.signal.role is not Role.REWARD):
        every = [at for at, column in enumerate(log.columns) if column.signal is signal]
        if which := [at for at in every if constant[at]]:
            parts = "it" if which == every else ", ".join(log.columns[at].subject for at in which)
            values = ", ".join(f"{low[at].min():g}" for at in which[:MAX_FINDINGS])
            fix = "Remove it from the schema, unless it will vary where the world is used."
            if signal.role is Role.ACTION:
                fix = "Log episodes in which it varies: the effect of an action that never changes cannot be learned."
            yield note(problem=f"{parts} never changes (always {values})", fix=fix, signal=signal.name)
    actions = [at for at, column in enumerate(log.columns) if column.signal.role is Role.ACTION]
    if actions and constant[actions].all():
        fix = "Log episodes in which the actions vary, or give signals that are not chosen the role exogenous."
        yield Finding(problem="no action ever changes, so the effect of actions cannot be learned", fix=fix)
    seen = [at for at, column in enumerate(log.columns) if column.signal.role is Role.OBSERVATION]
    images_move = any(figures.moves for episodes in log.cameras.values() for figures in episodes)
    if not images_move and not (table["changes"][seen] > 0).any():
        fix = "Log episodes in which an observation changes, or correct the roles of the signals."
        yield Finding(problem="no observation ever changes within an episode, so nothing can be predicted", fix=fix)


def _repeats(log: LogFigures) -> list[Finding]:
    """Components that equal one before them, or an action of the same step or of the step before, up to scale."""
    columns, findings = log.columns, list[Finding]()
    of = {role: [at for at, column in enumerate(columns) if column.signal.role is role] for role in Role}
    actions, known = of[Role.ACTION], of[Role.OBSERVATION] + of[Role.EXOGENOUS]
    # Some loggers display the action of the step before, hence its own columns.
    table = np.concatenate([log.rows[:, actions], log.rows_before[:, actions], log.rows[:, known]], 1)
    names, count = [columns[at] for at in (*actions, *actions, *known)], len(actions)
    for i, j in _equal(table):
        problem, fix = f"{names[j].subject} repeats {names[i]}, up to scale and offset", "Leave one of the two out."
        if count <= j < 2 * count:
            continue
        if i < 2 * count <= j:
            step = "t" if i < count else "t-1"
            problem = f"{names[j].subject} at step t repeats {names[i]} of step {step}"
            fix = "Leave it out: it shows the commanded value, not the effect."
        findings.append(note(problem=problem, fix=fix, signal=names[j].signal.name))
    return few(findings)


def _equal(table: Floats) -> Iterator[tuple[int, int]]:
    """Pairs of columns, the earlier one first, that are equal up to scale and offset; ignores NaN."""
    centred = np.nan_to_num(table - np.nanmean(np.where(np.isfinite(table).any(0), table, 0.0), axis=0))
    deviation = np.sqrt((centred**2).mean(0))
    scores = centred / np.where(deviation > 0, deviation, 1)
    for i, j in np.argwhere(np.triu(np.abs(scores.T @ scores) / max(len(table), 1), 1) > 0.9).tolist():
        x, y = table[np.isfinite(table[:, [i, j]]).all(1)][:, [i, j]].T
        if len(x) >= MIN_COMMON and np.ptp(x) > 0 and np.ptp(y) > 0:
            slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
            if np.abs(y - y.mean() - slope * (x - x.mean())).max() <= MAX_RELATIVE_DIFFERENCE * np.ptp(y):
                yield i, j


def _masks(log: LogFigures) -> Iterator[Finding]:
    """Signals that are missing in most steps."""
    for name, missing in sorted(log.num_missing.items()):
        share = 1 - missing / (sum(log.num_steps) + len(log.episodes))
        if share < MIN_OBSERVED:
            fix = "Check its rate and its clock, or leave it out."
            yield note(problem=f"it was observed in only {100 * share:.0f} % of the steps", fix=fix, signal=name)


def _episode_list(log: LogFigures, chosen: NDArray[np.generic]) -> tuple[str, int]:
    """Words for some episodes, and the first of them."""
    numbers = np.array(log.episodes)[chosen.astype(np.bool_)].tolist()
    listed = ", ".join(map(str, numbers[:MAX_FINDINGS])) + (", ..." if len(numbers) > MAX_FINDINGS else "")
    return f"{len(numbers)} of {len(log.episodes)} episodes ({listed})", numbers[0]


def _saturated(log: LogFigures) -> Iterator[Finding]:
    """Sensors with a limit at one end of their range. Limits at both ends are more probably stops, such as walls."""
    for at, column in enumerate(log.columns):
        ends = [(sign, _share_at_limit(sign * log.rows[:, at])) for sign in (1, -1)] if column.is_sensor else []
        at_limit = [(sign, share) for sign, share in ends if share > 0]
        if len(at_limit) != 1:
            continue
        ((sign, share),) = at_limit
        words = f"{column.subject} is exactly {sign * np.nanmax(sign * log.rows[:, at]):g}, its"
        yield note(
            problem=f"{words} {'largest' if sign > 0 else 'smallest'} value, in {100 * share:.0f} % of the rows",
            fix="If the sensor saturates there, mark these rows as missing (--mask). A stop is no error.",
            signal=column.signal.name,
        )


def _share_at_limit(values: Floats) -> float:
    """The share of the rows with the largest value, if it occurs in many and the values below it in few; else 0."""
    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(levels) < MIN_LEVELS or not levels[-1]:  # 0 is the usual value of what is off or empty
        return 0.0
    share, usual = float(counts[-1] / counts.sum()), SATURATION_RATIO * counts[-1 - NUM_LEVELS : -1].max()
    is_near = levels[-1] - levels[-2] <= MAX_GAP * (levels[-2] - levels[0])  # values reach a limit that clips
    return share if is_near and counts[-1] >= usual and MIN_SATURATED <= share <= MAX_SATURATED else 0.0


def _images(log: LogFigures) -> Iterator[Finding]:
    """Cameras with images that are black or of one colour, or that never change in an episode while signals do."""
    moves = (log.table["changes"] > 0).any(0)
    for name, episodes in log.cameras.items():
        if (frozen := moves & ~np.array([figures.moves for figures in episodes])).any():
            where, first = _episode_list(log, frozen)
            fix = "The camera froze, or does not see any motion: leave out these episodes, or the camera."
            problem = f"the image never changes while other signals do, in {where}"
            yield note(problem=problem, fix=fix, signal=name, episode=first)
        blank = np.array([len(figures.blank) for figures in episodes])
        if blank.any():
            where, first = _episode_list(log, blank)
            share = 100 * blank.sum() / sum(figures.num for figures in episodes)
            problem = f"{blank.sum()} images ({share:.1f} %) are black or of one single colour, in {where}"
            step = int(episodes[int(np.flatnonzero(blank)[0])].blank[0])
            fix = "Mark them as missing, or leave these episodes out."
            yield note(problem=problem, fix=fix, signal=name, episode=first, step=step)


def _copies(log: LogFigures) -> list[Finding]:
    """Duplicate episodes, which a random split can put into both training and test data."""
    first, findings = dict[bytes, int](), list[Finding]()
    for number, digest in zip(log.episodes, log.digests, strict=True):
        if (other := first.setdefault(digest, number)) != number:
            fix = "Keep one of the two, or put both into the same part of the split."
            findings.append(note(problem=f"it is an exact copy of episode {other}", fix=fix, episode=number))
    return few(findings)
