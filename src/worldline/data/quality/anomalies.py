"""Findings about the signals of a log: stuck sensors and outliers, and facts that may be intended as notes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from worldline.data.checks import Finding, FindingKind, Place, note, warning
from worldline.data.quality.false_alarms import LEVEL, MAX_FINDINGS, MAXIMA, MIN_VALUES, RUNS, LogTest, few
from worldline.data.quality.log_figures import LogFigures
from worldline.schema import NOOP, Kind, Role
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
OUTLIER_RANGES: Final = 10.0
"""Distance of an outlier from the range of 99 % of the values, in units of that range."""
MIN_ROWS: Final = 100
"""Smallest number of values from which the usual range follows."""
MIN_CHANGES: Final = 0.2
"""Smallest usual share of steps in which a sensor changes that may be stuck."""
MAX_CONSTANT_STEPS: Final = 20
"""Largest number of steps for which a sensor that is not stuck may always be constant."""
MAX_COINCIDENCE: Final = 3.0
"""Largest ratio of the stuck values that are equal to those that would be equal by chance."""
MAX_RELATIVE_DIFFERENCE: Final = 1e-3
"""Largest difference of two equal values, as a share of the range."""


class Inspection(LogFigures):
    """Collects figures of episodes one by one; see `LogFigures`."""

    def findings(self) -> tuple[Finding, ...]:
        """All findings. An error only if nothing can be learned, else warnings and notes."""
        if not self.episodes:
            return ()
        tests = [*outliers(self).findings(), *stuck_sensors(self).findings()]
        others = (part(self) for part in (_constant, _repeats, _masks, _saturated, _images, _copies))
        return (*tests, *chain.from_iterable(others))


def _constant(log: LogFigures) -> Iterator[Finding]:
    """Components that never change in the whole log; errors if no action or no observation changes."""
    table = log.table
    low, high = np.where(table["num_rows"], table["low"], np.inf), np.where(table["num_rows"], table["high"], -np.inf)
    constant = low.min(1) == high.max(1)
    signals = dict.fromkeys(column.signal for column in log.columns)
    for signal in (each for each in signals if each.role is not Role.REWARD and each != NOOP):
        every = [at for at, column in enumerate(log.columns) if column.signal is signal]
        if which := [at for at in every if constant[at]]:
            parts = "it" if which == every else ", ".join(log.columns[at].subject for at in which)
            values = ", ".join(f"{low[at].min():g}" for at in which[:MAX_FINDINGS])
            fix = "Remove it from the schema, unless it will vary where the world is used."
            if signal.role is Role.ACTION:
                fix = "Log episodes in which it varies: the effect of an action that never changes cannot be learned."
            yield note(problem=f"{parts} never changes (always {values})", fix=fix, signal=signal.name)
    actions = [at for at, c in enumerate(log.columns) if c.signal.role is Role.ACTION and c.signal != NOOP]
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


def outliers(log: LogFigures) -> LogTest:
    """Values far outside the range of 99 % of the values, unless other episodes have values as far outside.

    The statistic [C, E] is the logarithm of the distance of the most distant value; it allows for heavy tails. The
    limit is the larger of a fixed distance and of that from the other episodes.
    """
    figures, rows = log.table, log.rows
    usable = np.array([column.signal.kind is Kind.VECTOR for column in log.columns], bool)
    usable &= np.isfinite(rows).sum(0) >= MIN_ROWS
    usual = np.full((2, len(usable)), np.nan)
    if usable.any():
        usual[:, usable] = np.nanquantile(rows[:, usable], (0.005, 0.995), axis=0)
    usual[:, usual[0] >= usual[1]] = np.nan
    # How far the extremes of each episode lie outside of the usual range, in units of it.
    low, high = usual[:, :, None]
    above, below = (figures["high"] - high) / (high - low), (low - figures["low"]) / (high - low)
    distance = np.asarray(np.log1p(np.maximum(np.maximum(above, below), 0)), np.float64)
    distance[figures["num_rows"] == 0] = np.nan
    known = [part[np.isfinite(part)] for part in distance]
    limits = np.array([MAXIMA.limit(part) if len(part) >= MIN_VALUES else 0.0 for part in known])

    def sentences(places: Int[np.ndarray, "k 2"]) -> Iterator[Finding]:
        for at, index in places.tolist():
            column, end = log.columns[at], "high" if above[at, index] > below[at, index] else "low"
            values = f"99 % of the values lie in {usual[0, at]:.4g} to {usual[1, at]:.4g}"
            yield warning(
                problem=f"{column.subject} is {figures[at, index][end]:g}, but {values}",
                fix="Repair the value, mark it as missing, or leave the episode out.",
                signal=column.signal.name,
                episode=log.episodes[index],
                step=int(figures[at, index][f"{end}_at"]),
            )

    return LogTest(distance, np.maximum(limits, np.log1p(OUTLIER_RANGES))[:, None], sentences)


def stuck_sensors(log: LogFigures) -> LogTest:
    """Sensors that usually change in nearly every step, but are constant for an extreme number of steps.

    The statistic [C, E] is the longest constant run of each episode, in rows.
    """
    figures, rows = log.table, log.rows
    known = [part[part["num_rows"] > 0] for part in figures]
    pairs = zip(log.columns, known, strict=True)
    limits = [_longest_usual_run(part) if column.is_sensor else np.inf for column, part in pairs]

    def sentences(places: Int[np.ndarray, "k 2"]) -> Iterator[Finding]:
        moves = figures["changes"] > 0
        for at, index in places.tolist():
            # Others change, and the constant value is no stop.
            column, part, episode = log.columns[at], figures[at, index], log.episodes[index]
            if (
                _is_stop(part["run_value"], known[at], rows[:, at], limits[at])
                or not np.delete(moves[:, index], at).any()
            ):
                continue
            start, stop = int(part["run_from"]), int(part["run_to"]) + 1
            yield warning(
                problem=f"{column.subject} is exactly {part['run_value']:g} for {part['run']} steps while others "
                "change",
                fix="The sensor was stuck or slower than the log: mark these steps as missing.",
                episode=episode,
                signal=column.signal.name,
                step=start,
                kind=FindingKind.STUCK,
                places=(Place(episode=episode, start=start, stop=stop, component=column.component),),
            )

    return LogTest(figures["run"].astype(np.float64), np.array(limits)[:, None], sentences)


def _longest_usual_run(figures: NDArray[np.void]) -> float:
    """The longest run that chance or the log explains; infinite if the sensor seldom changes."""
    steps, run = figures["num_rows"] - 1, figures["run"]
    # The longest run of each episode may be the fault. The others show the usual share of constant steps.
    num_others = steps - (run - 1)
    shares = (figures["changes"] * steps)[num_others > 0] / num_others[num_others > 0]
    if not len(shares) or np.median(shares) <= MIN_CHANGES:
        return np.inf
    same = ((1 - figures["changes"]) * steps - (run - 1)).sum()
    stays = (same + 1) / (num_others.sum() + 2)
    by_chance = np.log(LEVEL / steps.sum()) / np.log(stays)
    usual, tested = np.log(figures["next_run"][run <= steps]), np.log(run)
    by_others = RUNS.limit(usual, tested) if len(usual) >= MIN_VALUES else 0.0
    return float(max(MAX_CONSTANT_STEPS, by_chance, np.exp(by_others)))


def _is_stop(value: float, figures: NDArray[np.void], rows: Floats, limit: float) -> bool:
    """Whether the constant value is an end of the range, or a place of rest, which long runs have in common."""
    low, high, is_long = figures["low"].min(), figures["high"].max(), figures["run"] > limit
    near = MAX_RELATIVE_DIFFERENCE * (high - low)
    rested = (is_long & (np.abs(figures["run_value"] - value) <= near)).sum() - 1
    share = (np.abs(rows - value) <= near).mean() if len(rows) else 0.0
    return bool(value - low <= near or high - value <= near or rested > MAX_COINCIDENCE * share * is_long.sum())
