"""Detection of actions that lead or lag the observations, by regressions on shifted actions.

By the convention, action t leads from observation t to t+1. For each shift s from -3 to 3, regressions predict the
change from observation t to t+1. Their inputs are the history (observations t-1 and t, exogenous signals of step t)
with and without action t+s. They are evaluated on held-out episodes. Two figures are reported: the share that action
t+s explains alone, and the share that it adds to all other shifts. The second one separates smooth or held actions,
whose neighbours are similar.

A feedback policy makes later actions correlate with a change that they did not cause. The shift is therefore chosen by
the likelihood of the log under each shift. The likelihood is that of the next observation given the action, times that
of the action given the observation before it. If an action only reacts to observation t+1, then that observation
predicts it better than observation t does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.quality.segments import (
    HeldOut,
    Sample,
    Segment,
    clipped,
    folds,
    scaled,
    seldom_seen,
    waves,
    without,
)
from worldline.data.store import Store
from worldline.stats import Estimate

Floats = NDArray[np.floating]

MAX_SHIFT: Final = 3
MAX_ROWS: Final = 8_000
MAX_STATES: Final = 24
MAX_ACTIONS: Final = 12
NUM_PATTERNS: Final = 20
"""Principal components of the change that represent a camera."""
MIN_ROWS: Final = 60
MIN_GROUPS: Final = 5
FEW_GROUPS: Final = 10
"""With fewer episodes they are cut into pieces, which are then resampled like episodes."""
MAX_COLUMNS: Final = 700
NUM_DRAWS: Final = 1000
TAIL: Final = 0.005
"""Share of the bootstrap draws outside each end of an interval, which thus holds 99 %."""
MIN_SHARE: Final = 0.003
"""Smaller explained shares count as zero."""
MAX_FEEDBACK: Final = 0.15
"""Share of an action that observations explain, above which the action may be a reaction and not a cause."""
RIDGES: Final = (1e-7, 1e-5, 1e-3, 1e-2, 1e-1)
MIN_VARIANCE: Final = 1e-6
"""Smaller variances, in units of the variance of the changes, are rounding errors."""


class AlignmentVerdict(StrEnum):
    """Result of the comparison of shifts."""

    ALIGNED = "aligned"
    LEAD = "actions lead"
    LAG = "actions lag"
    UNKNOWN = "unknown"


class Share(Estimate):
    """An explained share of the residual variance on held-out episodes, with its 99 % interval.

    It is at most 1, and below 0 if the predictions became worse.
    """

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The share of the change from observation t to t+1 that action t+s explains.

    Args:
        shift: s; 0 is the convention.
        alone: share of the residual of the history.
        added: share of the residual of the history and the actions at all other shifts.
    """

    shift: int
    alone: Share
    added: Share


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Whether action t leads from observation t to t+1.

    Args:
        verdict: the result.
        shift: s, if action t+s acts on the change from observation t to t+1. Above 0 if actions lag, below 0 if they
            lead, else 0.
        reason: explanation of the verdict, with figures.
        fix: what to do about it; empty if the actions are aligned.
        shifts: the figures; empty if nothing could be measured.
        num_episodes: number of episodes used.
        num_rows: number of transitions used.
        left_out: observation signals that are missing too often to be used.
    """

    verdict: AlignmentVerdict
    shift: int = 0
    reason: str
    fix: str = ""
    shifts: tuple[Shift, ...] = ()
    num_episodes: int = 0
    num_rows: int = 0
    left_out: tuple[str, ...] = ()


def alignment(store: Store, episodes: Sequence[int] | None = None, seed: int = 0) -> Alignment:
    """Whether the actions of a store lead or lag its observations.

    Args:
        store: to measure.
        episodes: to sample from; default is all. At most about 15,000 steps are used.
        seed: of the sample, the regressions and the intervals.

    Raises:
        InputError: an episode does not exist.
        DataError: an episode is damaged.
    """
    sample = Sample(store, episodes, seed)
    for number in sample.episodes:
        sample.add(number, store.episode(number))
    return judge(sample.tracks, seed)


def judge(tracks: Sequence[Segment], seed: int = 0) -> Alignment:
    """Whether the actions in some segments lead or lag the observations.

    Args:
        tracks: segments of one schema.
        seed: of the regressions and the intervals.
    """
    if not any(one.actions.shape[1] and np.ptp(one.actions, axis=0).any() for one in tracks):
        return _unknown("no action ever changes within an episode", tracks)
    draw, dropped = np.random.default_rng([seed, 1]), seldom_seen(tracks)
    tracks = [without(one, dropped) for one in tracks]
    rows = _rows(_with_patterns(tracks, draw), draw)
    if rows is None:
        return _unknown(f"there are too few steps: {MIN_ROWS} from {MIN_GROUPS} episodes are needed", tracks)
    if not rows.change.shape[1]:
        return _unknown("no observation ever changes", tracks)
    return replace(_verdict(_bootstrap(_fit(rows, draw), seed), rows, tracks), left_out=dropped)


def _unknown(problem: str, tracks: Sequence[Segment]) -> Alignment:
    fix = "Log episodes in which the actions vary at random for a while, at least 10 episodes of 20 steps."
    return Alignment(verdict=AlignmentVerdict.UNKNOWN, reason=f"{problem}.", fix=fix, num_episodes=len(tracks))


@dataclass(frozen=True, kw_only=True)
class _TransitionRows:
    """n transitions from t to t+1, in units of the standard deviation of each column.

    Args:
        group: [n] episode, or piece of one.
        now: [n, d] observation t.
        trend: [n, c] change from t-1 to t.
        change: [n, c] change from t to t+1, without columns that never change.
        inputs: [n, e].
        actions: [n, 2 reach + 2, m], rows t-reach-1 to t+reach.
        reach: largest shift.
    """

    group: NDArray[np.int64]
    now: Floats
    trend: Floats
    change: Floats
    inputs: Floats
    actions: Floats
    reach: int


def _with_patterns(tracks: Sequence[Segment], draw: np.random.Generator) -> list[tuple[Segment, Floats]]:
    """Each segment with its states [T+1, d]: numbers, and per camera the centre and principal components of motion."""
    tables = [[one.table] for one in tracks]
    for camera in tracks[0].pictures:
        # Actions do not move what is static over an episode, such as a wall; the median removes it.
        moving = [one.pictures[camera] - np.median(one.pictures[camera], axis=0) for one in tracks]
        steps = np.concatenate([np.diff(part, axis=0).reshape(len(part) - 1, -1) for part in moving])
        steps = steps[draw.permutation(len(steps))[:4000]]
        patterns = np.linalg.eigh((steps.T @ steps).astype(np.float64))[1][:, ::-1][:, :NUM_PATTERNS]
        for table, part in zip(tables, moving, strict=True):
            table += [part.reshape(len(part), -1) @ patterns, _centre(np.abs(part).sum(3).astype(np.float64))]
    return [(one, np.concatenate(table, 1)) for one, table in zip(tracks, tables, strict=True)]


def _centre(weight: Floats) -> Floats:
    """Centre (row, column) of `weight` [n, rows, columns], and the log of its sum: [n, 3]."""
    total = weight.sum((1, 2)) + 1e-6
    down = weight.sum(2) @ np.arange(weight.shape[1]) / total
    across = weight.sum(1) @ np.arange(weight.shape[2]) / total
    return np.stack([down, across, np.log(total)], 1)


def _rows(tracks: Sequence[tuple[Segment, Floats]], draw: np.random.Generator) -> _TransitionRows | None:
    """The transitions with an action at every shift; None if there are too few."""
    reach, steps = _reach([one for one, _ in tracks])
    size = max(10, sum(map(len, steps)) // (2 * FEW_GROUPS)) if len(tracks) < FEW_GROUPS else 1 << 30
    group = np.concatenate([number * 1_000_000 + at // size for number, at in enumerate(steps)])
    if len(group) < MIN_ROWS or len(np.unique(group)) < MIN_GROUPS:
        return None
    chosen = np.sort(draw.permutation(len(group))[:MAX_ROWS])
    states = _reduced(clipped(np.concatenate([table for _, table in tracks])))
    firsts = np.cumsum([0, *(len(table) for _, table in tracks)])
    at = np.concatenate([first + one for first, one in zip(firsts, steps, strict=False)])[chosen]
    now, change, trend = states[at], states[at + 1] - states[at], states[at] - states[at - 1]
    live = change.std(0) > 1e-6 * np.maximum(now.std(0), 1e-12)
    scale = change[:, live].std(0)
    acts = [
        np.stack([one.actions[which + shift] for shift in range(-reach - 1, reach + 1)], 1)
        for (one, _), which in zip(tracks, steps, strict=True)
    ]
    actions = np.concatenate(acts)[chosen]
    inputs = np.concatenate([one.inputs[which] for (one, _), which in zip(tracks, steps, strict=True)])[chosen]
    return _TransitionRows(
        group=np.unique(group[chosen], return_inverse=True)[1],
        now=scaled(now),
        trend=trend[:, live] / scale,
        change=change[:, live] / scale,
        inputs=scaled(inputs),
        actions=_principal(scaled(actions.reshape(-1, actions.shape[2])), MAX_ACTIONS).reshape(*actions.shape[:2], -1),
        reach=reach,
    )


def _reach(tracks: Sequence[Segment]) -> tuple[int, list[NDArray[np.intp]]]:
    """The largest shift for which short episodes still give enough transitions, and their steps t per segment."""
    found: dict[int, list[NDArray[np.intp]]] = {}
    complete_rows = [one.whole for one in tracks]
    for reach in range(1, MAX_SHIFT + 1):
        found[reach] = []
        for one, complete in zip(tracks, complete_rows, strict=True):
            at = np.arange(reach + 1, len(one.actions) - reach)
            found[reach].append(at[complete[at - 1] & complete[at] & complete[at + 1]])
    count = {reach: sum(map(len, steps)) for reach, steps in found.items()}
    reach = max(reach for reach in found if count[reach] >= min(2000, 0.4 * count[1]))
    return reach, found[reach]


def _reduced(states: Floats) -> Floats:
    return _principal(scaled(states), MAX_STATES) if states.shape[1] > 2 * MAX_STATES else states


def _principal(table: Floats, max_columns: int) -> Floats:
    """`table` [n, d], or its first principal components if d exceeds `max_columns`."""
    if table.shape[1] <= max_columns:
        return table
    return scaled(table @ np.linalg.eigh(table.T @ table)[1][:, ::-1][:, :max_columns])


@dataclass(frozen=True, kw_only=True)
class _Fits:
    """Residuals of regressions on held-out changes and actions; lists have one item per shift.

    Args:
        group: [n].
        history: [n, c] of the change, given the history only.
        full: [n, c] of the change, given the history and the actions at all shifts.
        alone: [n, c] each, of the change, given the history and the action at this shift.
        without: [n, c] each, of the change, given the history and the actions at all other shifts.
        policy: [n, m] each, of the action at this shift, given the present and the actions before it.
        feedback: share of the action at this shift that observations up to t explain beyond the actions before it.
    """

    group: NDArray[np.int64]
    history: Floats
    full: Floats
    alone: list[Floats]
    without: list[Floats]
    policy: list[Floats]
    feedback: list[float]


def _blocks(rows: _TransitionRows, draw: np.random.Generator) -> list[Floats]:
    """Blocks of columns: inputs, present, its features, trend, features of both, first action; then three per shift."""
    num_rows, num_shifts, size = len(rows.group), rows.actions.shape[1] - 1, rows.actions.shape[2]
    max_columns = min(MAX_COLUMNS, num_rows // 3)
    num_waves = int(np.clip(max_columns // 8, 8, 96))
    width = max(0, (max_columns - 2 * num_waves) // num_shifts // size - 2)
    present = np.clip(np.concatenate([rows.now, rows.inputs], 1), -6, 6)
    features = waves(present, num_waves, draw)
    # The effect of an action depends on the state, hence products of actions with observations.
    num_states = min(rows.now.shape[1], width * 2 // 3)
    states = np.concatenate([rows.now[:, :num_states], features[:, : min(24, width - num_states)]], 1)
    past = waves(np.concatenate([present, np.clip(rows.trend, -6, 6)], 1), num_waves, draw)
    blocks = [rows.inputs, rows.now, features, rows.trend, past, rows.actions[:, 0]]
    for action in np.moveaxis(rows.actions, 1, 0)[1:]:
        blocks += [action, action**2, (action[:, :, None] * states[:, None]).reshape(num_rows, -1)]
    return blocks


def _fit(rows: _TransitionRows, draw: np.random.Generator) -> _Fits:
    """All regressions, on one set of columns."""
    num_shifts, size = rows.actions.shape[1] - 1, rows.actions.shape[2]
    blocks = _blocks(rows, draw)
    ends = np.cumsum([0, *(block.shape[1] for block in blocks)])
    inputs, present_columns, history = np.arange(ends[1]), np.arange(ends[3]), np.arange(ends[5])
    lags = [np.arange(ends[6 + 3 * s], ends[9 + 3 * s]) for s in range(num_shifts)]
    before = [np.arange(ends[5], ends[6]), *(lag[:size] for lag in lags)]
    targets = np.concatenate([rows.change, rows.actions[:, 1:].reshape(len(rows.group), -1)], 1)
    held_out = HeldOut(np.concatenate(blocks, 1), targets, folds(rows.group, draw))
    change = np.arange(rows.change.shape[1])
    acts = [len(change) + s * size + np.arange(size) for s in range(num_shifts)]
    all_columns = np.concatenate([history, *lags])

    def log_error(ridge: float) -> float:
        return float(np.log((held_out.residual(all_columns, change, ridge) ** 2).mean(0) + MIN_VARIANCE).sum())

    ridge = min(RIDGES, key=log_error)

    def residual(columns: Sequence[NDArray[np.integer]], which: NDArray[np.integer]) -> Floats:
        return held_out.residual(np.concatenate(columns), which, ridge)

    def feedback(s: int) -> float:
        without_observations = residual([inputs, before[s]], acts[s])
        with_observations = residual([history, before[s]], acts[s])
        return float(1 - (with_observations**2).sum() / max((without_observations**2).sum(), 1e-12))

    shifts = range(num_shifts)
    return _Fits(
        group=rows.group,
        history=residual([history], change),
        full=residual([all_columns], change),
        alone=[residual([history, lags[s]], change) for s in shifts],
        without=[residual([history, *(lag for other, lag in enumerate(lags) if other != s)], change) for s in shifts],
        policy=[residual([present_columns, before[s]], acts[s]) for s in shifts],
        feedback=[feedback(s) for s in shifts],
    )


@dataclass(frozen=True, kw_only=True)
class _BootstrapFigures:
    """The figures of each shift, [shifts, 1 + draws]: the estimate, then the bootstrap draws."""

    alone: Floats
    added: Floats
    misfit: Floats
    feedback: tuple[float, ...]


def _bootstrap(fits: _Fits, seed: int) -> _BootstrapFigures:
    """Shares and misfits, with 1,000 bootstrap draws of episodes."""
    num_groups, size = int(fits.group.max()) + 1, fits.history.shape[1]
    draw = np.random.default_rng([seed, 2])
    drawn = draw.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_DRAWS)
    times: Floats = np.concatenate([np.ones((1, num_groups)), drawn])
    history, full = _sums(fits.history**2, fits.group), _sums(fits.full**2, fits.group)
    alone = np.stack([_sums(one**2, fits.group) for one in fits.alone])
    without = np.stack([_sums(one**2, fits.group) for one in fits.without])
    # Signals that no action affects only add noise. The other half of the episodes gives the weight of each signal.
    weight, half = np.zeros((num_groups, size)), draw.permutation(num_groups) % 2
    for part in (0, 1):
        other = history[half != part].sum(0) + MIN_VARIANCE
        gain = np.maximum(1 - alone[:, half != part].sum(1) / other, 0).max(0)
        weight[half == part] = (gain if gain.any() else 1.0) / other

    def total(errors: Floats) -> Floats:
        return np.asarray(times @ (weight * errors).sum(-1))

    residual, counts = total(history), np.asarray(times @ np.bincount(fits.group).astype(np.float64))
    misfit = [
        _log_volume(change, fits.group, times, counts) + _log_volume(action, fits.group, times, counts)
        for change, action in zip(fits.alone, fits.policy, strict=True)
    ]
    return _BootstrapFigures(
        alone=np.stack([1 - total(one) / residual for one in alone]),
        added=np.stack([1 - total(full) / total(one) for one in without]),
        misfit=np.stack(misfit),
        feedback=tuple(fits.feedback),
    )


def _sums(values: Floats, group: NDArray[np.int64]) -> Floats:
    out = np.zeros((int(group.max()) + 1, *values.shape[1:]))
    np.add.at(out, group, values)
    return out


def _log_volume(residual: Floats, group: NDArray[np.int64], times: Floats, counts: Floats) -> Floats:
    """Entropy of Gaussian residuals [n, q] in nats, up to a constant, for each draw of episodes."""
    size = residual.shape[1]
    products = _sums((residual[:, :, None] * residual[:, None]).reshape(len(residual), -1), group)
    covariance = (times @ products).reshape(-1, size, size) / counts[:, None, None]
    return np.asarray(0.5 * np.linalg.slogdet(covariance + MIN_VARIANCE * np.eye(size))[1])


def _share(draws: Floats) -> Share:
    low, high = np.quantile(draws[1:], (TAIL, 1 - TAIL))
    return Share.around(float(draws[0]), low, high)


def _verdict(found: _BootstrapFigures, rows: _TransitionRows, tracks: Sequence[Segment]) -> Alignment:
    figures = zip(range(-rows.reach, rows.reach + 1), found.alone, found.added, strict=True)
    shifts = tuple(Shift(shift=s, alone=_share(alone), added=_share(added)) for s, alone, added in figures)
    verdict, shift, reason, fix = _explain(found, shifts)
    return Alignment(
        verdict=verdict,
        shift=shift,
        reason=reason,
        fix=fix,
        shifts=shifts,
        num_episodes=len(tracks),
        num_rows=len(rows.group),
    )


def _explain(found: _BootstrapFigures, shifts: tuple[Shift, ...]) -> tuple[AlignmentVerdict, int, str, str]:
    """Verdict, shift, reason and fix."""
    explaining = [i for i, one in enumerate(shifts) if max(one.alone.low, one.added.low) > MIN_SHARE]
    vary = "Log some episodes with random actions, which make the shift identifiable."
    if not explaining:
        strongest = max(shifts, key=lambda one: one.alone.value)
        reason = (
            f"no row of the actions explains the change; the best, {_row(strongest.shift)}, explains {strongest.alone}."
        )
        fix = f"The actions vary too little, or do not affect the observed signals. {vary}"
        return AlignmentVerdict.UNKNOWN, 0, reason, fix
    best = int(np.argmin(found.misfit[:, 0]))
    rivals = [i for i in range(len(shifts)) if i != best and _share(found.misfit[i] - found.misfit[best]).low <= 0]
    middle = len(shifts) // 2
    if rivals and middle in (best, *rivals) and shifts[middle].added.low > MIN_SHARE:
        best, rivals = middle, []
    chosen, unshifted = shifts[best], shifts[middle]
    if rivals:
        named = ", ".join(_row(shifts[i].shift) for i in sorted((best, *rivals)))
        reason = f"{named} explain the log equally well: actions depend too closely on observations, or on each other."
        return AlignmentVerdict.UNKNOWN, 0, reason, vary
    if best == middle:
        more = f", and {chosen.added} of what all other rows leave unexplained" if chosen.added.low > 0 else ""
        reason = f"action t explains {chosen.alone} of the change that earlier observations leave unexplained{more}."
        return AlignmentVerdict.ALIGNED, 0, reason, ""
    if chosen.shift > 0 and found.feedback[best] > MAX_FEEDBACK:
        reason = (
            f"{_row(chosen.shift)} correlates with the change ({chosen.alone}): actions lag, or the policy reacts to "
            f"observations, which explain {100 * found.feedback[best]:.0f} % of that row."
        )
        return AlignmentVerdict.UNKNOWN, 0, reason, vary
    return _misaligned(chosen, unshifted)


def _misaligned(chosen: Shift, unshifted: Shift) -> tuple[AlignmentVerdict, int, str, str]:
    reason = (
        f"the change from observation t to t+1 follows {_row(chosen.shift)} ({chosen.alone}), "
        f"not action t ({unshifted.alone})."
    )
    fix = f"Import the logs again with their actions moved: --action-lag {chosen.shift}"
    if chosen.shift > 0:
        return AlignmentVerdict.LAG, chosen.shift, reason, fix
    late = f"{-chosen.shift} step{'' if chosen.shift == -1 else 's'} late"
    delay = f"If the system is known to respond {late}, change nothing, and check with --delay {-chosen.shift}."
    return AlignmentVerdict.LEAD, chosen.shift, reason, f"{delay} Otherwise: {fix}"


def _row(shift: int) -> str:
    return "action t" if shift == 0 else f"action t{shift:+d}"
