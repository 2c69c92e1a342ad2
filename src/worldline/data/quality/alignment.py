"""Detection of actions that lead or lag the observations, by regressions on nested sets of actions.

By the convention, action t leads from observation t to t+1. For each shift s from -3 to 3, a regression predicts that
change from the history and the actions up to t+s. The history is observations t-2 to t, and the exogenous signals of
step t. The gain of s is the decrease of the entropy of the residual on held-out episodes when action t+s joins the
actions before it. The last action with a gain acts on the change. Sets of actions are nested because a system with
hidden state depends on several actions.

A feedback policy makes later actions correlate with a change that they did not cause. Their reaction is therefore
subtracted from their gain. It is the decrease of the entropy of an action if observation t+1 replaces observation t
among its inputs. A policy that reacts to observation t+1 needs that observation only, but an action that causes the
change is explained by both observations.

Observations that equal an action of some row, such as a displayed setpoint, are left out. They show how the action was
logged, and not what it causes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int

from worldline.data.quality.false_alarms import LEVEL
from worldline.data.quality.regressions import HeldOut, clipped, folds, scaled, waves
from worldline.data.quality.segments import Sample, Segment, seldom_seen, without
from worldline.data.store import Store
from worldline.stats import Estimate, Floats, cluster_sums

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
MIN_GAIN: Final = 0.002
"""Smaller gains [nats per row] count as zero."""
MIN_EFFECT: Final = 0.1
"""Smallest effect of an action that is no reaction, as a share of its gain."""
MIN_OWN_GAIN: Final = 0.05
"""Smallest gain [nats per row] of a component that responds to an action as no other action."""
MAX_REMAINDER_LATE, MAX_REMAINDER_EARLY = 0.6, 0.35
"""Actions are late or early if action t certainly gains less than this share of the gain of a later or earlier one."""
MIN_CORRELATION: Final = 0.9995
"""A component of an observation with this correlation with an action is a copy of it."""
MIN_LATE_GAIN: Final = 0.01
"""Smallest gain [nats per row] of a late action."""
STRONG_GAIN: Final = 0.06
"""A later action with this gain [nats per row] is late also if a hidden state gives action t a large gain."""
MAX_OTHER_GAIN: Final = 0.15
"""Largest gain of later actions for such a component, as a share."""
RIDGES: Final = (1e-7, 1e-5, 1e-3, 1e-2, 1e-1)
MIN_VARIANCE: Final = 1e-6
"""Smaller variances, in units of the variance of the changes, are rounding errors."""
MIN_POLICY_VARIANCE: Final = 1e-3
"""If less of the variance of an action remains, the action is a function of the observation."""

_MORE: Final = "Log episodes in which the actions vary at random for a while, at least 10 episodes of 20 steps."
_VARY: Final = "Log some episodes with random actions, which make the shift identifiable."


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
        added: share of the residual of the history and of all actions before t+s.
    """

    shift: int
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


def alignment(store: Store, seed: int = 0) -> Alignment:
    """Whether the actions of a store lead or lag its observations.

    Args:
        store: to measure. At most about 15,000 steps are used.
        seed: of the sample, the regressions and the intervals.

    Raises:
        DataError: an episode is damaged.
    """
    sample = Sample(store, seed)
    for number in sample.episodes:
        sample.add(number, store.episode(number))
    return judge(sample.tracks, seed)


def judge(tracks: Sequence[Segment], seed: int = 0) -> Alignment:
    """Whether the actions in some segments lead or lag the observations.

    Args:
        tracks: segments of one schema.
        seed: of the regressions and the intervals.
    """
    if not any(segment.actions.shape[1] and np.ptp(segment.actions, axis=0).any() for segment in tracks):
        return replace(_unknown("no action ever changes within an episode."), num_episodes=len(tracks))
    draw, dropped = np.random.default_rng([seed, 1]), seldom_seen(tracks)
    tracks = _without_copies([without(segment, dropped) for segment in tracks])
    rows = _rows(tracks, _with_patterns(tracks, draw), draw)
    if rows is None or not rows.change.shape[1]:
        few = f"there are too few steps: {MIN_ROWS} from {MIN_GROUPS} episodes are needed."
        return replace(_unknown("no observation ever changes." if rows else few), num_episodes=len(tracks))
    draws, reach = _bootstrap(rows.group, *_fit(rows, draw), seed), rows.actions.shape[1] // 2 - 1
    shifts = tuple(Shift(shift=s, added=_interval(added)) for s, added in enumerate(draws.added, start=-reach))
    verdict, num_rows = _verdict(draws, shifts), len(rows.group)
    return replace(verdict, shifts=shifts, num_episodes=len(tracks), num_rows=num_rows, left_out=dropped)


def _unknown(reason: str, fix: str = _MORE) -> Alignment:
    return Alignment(verdict=AlignmentVerdict.UNKNOWN, reason=reason, fix=fix)


def _without_copies(tracks: Sequence[Segment]) -> Sequence[Segment]:
    """The segments without components that equal an action of some row, unless nothing else is left."""
    inner = [np.arange(MAX_SHIFT + 1, len(segment.actions) - MAX_SHIFT) for segment in tracks]
    if sum(map(len, inner)) < MIN_ROWS:
        return tracks
    pairs = list(zip(tracks, inner, strict=True))
    observations = _z_scores(np.concatenate([segment.table[at] for segment, at in pairs]))
    copied = np.zeros(observations.shape[1], np.bool_)
    # A display may show the action of any row near its own, so each shift is compared.
    for shift in range(-MAX_SHIFT - 1, MAX_SHIFT + 1):
        actions = _z_scores(np.concatenate([segment.actions[at + shift] for segment, at in pairs]))
        copied |= (np.abs(observations.T @ actions) / len(actions) > MIN_CORRELATION).any(1)
    if copied.all() and not tracks[0].pictures:
        return tracks
    return [segment.with_columns(np.flatnonzero(~copied)) for segment in tracks]


def _z_scores(table: Floats) -> Floats:
    deviation = table.std(0)
    return np.asarray((table - table.mean(0)) / np.where(deviation > 0, deviation, np.inf))


def _with_patterns(tracks: Sequence[Segment], draw: np.random.Generator) -> list[Floats]:
    """The states [T+1, d] of each segment: numbers, and per camera the centre and principal components of motion."""
    tables = [[segment.table] for segment in tracks]
    for camera in tracks[0].pictures:
        # Actions do not move what is static over an episode, such as a wall; the median removes it.
        moving = [segment.pictures[camera] - np.median(segment.pictures[camera], axis=0) for segment in tracks]
        steps = np.concatenate([np.diff(part, axis=0).reshape(len(part) - 1, -1) for part in moving])
        steps = steps[draw.permutation(len(steps))[:4000]]
        patterns = np.linalg.eigh((steps.T @ steps).astype(np.float64))[1][:, ::-1][:, :NUM_PATTERNS]
        for table, part in zip(tables, moving, strict=True):
            table += [part.reshape(len(part), -1) @ patterns, _centre(np.abs(part).sum(3).astype(np.float64))]
    return [np.concatenate(table, 1) for table in tables]


def _centre(weight: Floats) -> Floats:
    """Centre (row, column) of `weight` [n, rows, columns], and the log of its sum: [n, 3]."""
    total = weight.sum((1, 2)) + 1e-6
    down = weight.sum(2) @ np.arange(weight.shape[1]) / total
    across = weight.sum(1) @ np.arange(weight.shape[2]) / total
    return np.stack([down, across, np.log(total)], 1)


class _TransitionRows(NamedTuple):
    """n transitions from t to t+1, in units of the standard deviation of each column.

    Args:
        group: [n] episode, or piece of one.
        change: [n, c] change from t to t+1, without columns that never change.
        actions: [n, 2 reach + 2, m], rows t-reach-1 to t+reach.
        now: [n, d] observation t.
        following: [n, d] observation t+1.
        trend: [n, 2 c] changes from t-1 to t and from t-2 to t-1.
        inputs: [n, e].
    """

    group: Int[np.ndarray, "n"]
    change: Floats
    actions: Floats
    now: Floats
    following: Floats
    trend: Floats
    inputs: Floats


def _rows(tracks: Sequence[Segment], tables: list[Floats], draw: np.random.Generator) -> _TransitionRows | None:
    """The transitions with an action at every shift; None if there are too few."""
    # Rows t at which all shifts exist and observations t-2 to t+1 are known.
    reach = _reach(np.array([len(segment.actions) for segment in tracks]))
    steps = [np.arange(reach + 1, len(segment.actions) - reach) for segment in tracks]
    near = np.arange(-2, 2)[:, None]
    steps = [at[part.whole[at + near].all(0)] for part, at in zip(tracks, steps, strict=True)]
    # Few episodes are cut into pieces, which the bootstrap resamples instead.
    size = max(10, sum(map(len, steps)) // (2 * FEW_GROUPS)) if len(tracks) < FEW_GROUPS else 1 << 30
    group = np.concatenate([number * 1_000_000 + at // size for number, at in enumerate(steps)])
    if len(group) < MIN_ROWS or len(np.unique(group)) < MIN_GROUPS:
        return None
    # A random sample of the rows bounds the time of the regressions.
    chosen = np.sort(draw.permutation(len(group))[:MAX_ROWS])
    firsts = np.cumsum([0, *map(len, tables[:-1])])
    at = np.concatenate([first + own for first, own in zip(firsts, steps, strict=True)])[chosen]
    states = clipped(np.concatenate(tables))
    if states.shape[1] > 2 * MAX_STATES:
        states = _principal(scaled(states), MAX_STATES)
    change = states[at + 1] - states[at]
    live = change.std(0) > 1e-6 * np.maximum(states[at].std(0), 1e-12)
    states, shifts, pairs = scaled(states), np.arange(-reach - 1, reach + 1), list(zip(tracks, steps, strict=True))
    actions = np.concatenate([segment.actions[own[:, None] + shifts] for segment, own in pairs])[chosen]
    plain = _principal(scaled(actions.reshape(-1, actions.shape[2])), MAX_ACTIONS)
    return _TransitionRows(
        group=np.unique(group[chosen], return_inverse=True)[1],
        change=change[:, live] / change[:, live].std(0),
        actions=plain.reshape(*actions.shape[:2], -1),
        now=states[at],
        following=states[at + 1],
        trend=np.concatenate([scaled(states[at] - states[at - 1]), scaled(states[at - 1] - states[at - 2])], 1),
        inputs=scaled(np.concatenate([segment.inputs[own] for segment, own in pairs])[chosen]),
    )


def _reach(lengths: Int[np.ndarray, "episodes"]) -> int:
    """The largest shift for which episodes of these lengths still give enough transitions."""
    count = [np.maximum(lengths - 2 * reach - 1, 0).sum() for reach in range(1, MAX_SHIFT + 1)]
    return max(reach for reach, num in enumerate(count, start=1) if num >= min(2000, 0.4 * count[0]))


def _principal(table: Floats, max_columns: int) -> Floats:
    """`table` [n, d], or its first principal components if d exceeds `max_columns`."""
    if table.shape[1] <= max_columns:
        return table
    return scaled(table @ np.linalg.eigh(table.T @ table)[1][:, ::-1][:, :max_columns])


def _fit(rows: _TransitionRows, draw: np.random.Generator) -> tuple[list[Floats], list[Floats], list[Floats]]:
    """Residuals of regressions on held-out episodes.

    Returns:
        Of the change, [n, c] each, given the history and the actions before the first shift, then with the actions up
        to each shift; of the action at each shift, [n, m] each, given observation t and the actions before it; the same
        with observation t+1 instead.
    """
    num_shifts, size = rows.actions.shape[1] - 1, rows.actions.shape[2]
    # One table for all regressions, so that the products of its columns are computed once.
    blocks = _blocks(rows, draw)
    edges = np.cumsum([0, *(block.shape[1] for block in blocks.values())])
    at = {name: np.arange(*ends) for name, ends in zip(blocks, itertools.pairwise(edges), strict=True)}
    change = np.arange(rows.change.shape[1])
    targets = np.concatenate([rows.change, blocks["plain"]], 1)
    held_out = HeldOut(np.concatenate(list(blocks.values()), 1), targets, folds(rows.group, draw))

    def nested(num_actions: int, ridge: float, *, rich: bool) -> Floats:
        """The residual of the change, given the history and the first actions."""
        history = [at["inputs"], at["present"], at["trend"], at["plain"][: num_actions * size]]
        effects = [at[f"effects {number}"] for number in range(num_actions - 1)]
        columns = np.concatenate([*history, *([at["waves"], at["past"], *effects] if rich else [])])
        return held_out.residual(columns, change, ridge)

    def log_error(options: tuple[float, bool]) -> float:
        every = nested(num_shifts + 1, options[0], rich=options[1])
        return float(np.log((every**2).mean(0) + MIN_VARIANCE).sum())

    # With few changes of the actions, a linear model predicts better.
    ridge, rich = min(itertools.product(RIDGES, (False, True)), key=log_error)

    def policy(number: int, observed: str, bent: str) -> Floats:
        """The residual of an action, given an observation and the actions before it."""
        columns = np.concatenate([at["inputs"], at[observed], at[bent], at["plain"][: number * size]])
        return held_out.residual(columns, len(change) + number * size + np.arange(size), ridge)

    shifts = range(1, num_shifts + 1)
    return (
        [nested(number, ridge, rich=rich) for number in range(1, num_shifts + 2)],
        [policy(number, "present", "waves") for number in shifts],
        [policy(number, "following", "following waves") for number in shifts],
    )


def _blocks(rows: _TransitionRows, draw: np.random.Generator) -> dict[str, Floats]:
    """The columns of all regressions, [n, ...] each."""
    num_rows, num_shifts, size = len(rows.group), rows.actions.shape[1] - 1, rows.actions.shape[2]
    # Widths of the blocks: the table must stay small against the number of rows.
    max_columns = min(MAX_COLUMNS, num_rows // 3)
    num_waves = int(np.clip(max_columns // 8, 8, 96))
    width = max(0, (max_columns - 2 * num_waves) // num_shifts // size - 2)
    # Nonlinear features of observations t and t+1, with the same frequencies, so that both explain alike.
    present, following = (np.clip(np.concatenate([part, rows.inputs], 1), -6, 6) for part in (rows.now, rows.following))
    both = waves(np.concatenate([present, following]), num_waves, draw)
    features = both[:num_rows]
    blocks = {
        "inputs": rows.inputs,
        "present": rows.now,
        "waves": features,
        "following": rows.following,
        "following waves": both[num_rows:],
        "trend": rows.trend,
        "past": waves(np.concatenate([present, np.clip(rows.trend, -6, 6)], 1), num_waves, draw),
        "plain": rows.actions.reshape(num_rows, -1),
    }
    # The effect of an action depends on the state, hence products of actions with observations.
    num_states = min(rows.now.shape[1], width * 2 // 3)
    states = np.concatenate([rows.now[:, :num_states], features[:, : min(24, width - num_states)]], 1)
    for number in range(num_shifts):
        action = rows.actions[:, number + 1]
        products = (action[:, :, None] * states[:, None]).reshape(num_rows, -1)
        blocks[f"effects {number}"] = np.concatenate([action**2, products], 1)
    return blocks


class GainDraws(NamedTuple):
    """The figures of each shift, [shifts, 1 + draws]: the estimate, then the bootstrap draws.

    Args:
        added: share of the residual that the action explains.
        gain: decrease of the entropy of the change [nats per row].
        effect: the gain without the part that a reaction to observation t+1 can explain.
        parts: the gain of each component of the observation, [shifts, 1 + draws, c].
    """

    added: Floats
    gain: Floats
    effect: Floats
    parts: Floats


def _bootstrap(
    group: Int[np.ndarray, "n"], nested: list[Floats], policy: list[Floats], reaction: list[Floats], seed: int
) -> GainDraws:
    """The figures with 1,000 bootstrap draws of episodes."""
    # How often each draw takes each episode; the first row takes each once and gives the estimate.
    num_groups, size = int(group.max()) + 1, nested[0].shape[1]
    draw = np.random.default_rng([seed, 2])
    drawn = draw.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_DRAWS)
    times: Floats = np.concatenate([np.ones((1, num_groups)), drawn])
    squares = np.stack([cluster_sums(residual**2, group, num_groups) for residual in nested])
    # Signals that no action affects only add noise. The other half of the episodes gives the weight of each signal.
    weight, half = np.zeros((num_groups, size)), draw.permutation(num_groups) % 2
    for part in (0, 1):
        sums = squares[:, half != part].sum(1) + MIN_VARIANCE
        gain = np.maximum(1 - sums[1:] / sums[:-1], 0).max(0)
        weight[half == part] = (gain if gain.any() else 1.0) / sums[0]
    totals = np.stack([times @ (weight * residual).sum(-1) for residual in squares])
    counts = np.asarray(times @ np.bincount(group).astype(np.float64))

    def entropy(residuals: Sequence[Floats], floor: float) -> Floats:
        """Entropy of Gaussian residuals in nats, up to a constant, for each draw of episodes."""
        return np.stack([_log_volume(residual, group, times, counts, floor) for residual in residuals])

    # The gain of an action, and how much of it a reaction of the policy to observation t+1 could explain.
    gains, actions = -np.diff(entropy(nested, MIN_VARIANCE), axis=0), entropy(policy, MIN_POLICY_VARIANCE)
    reactions = np.maximum(actions - entropy(reaction, MIN_POLICY_VARIANCE), 0)
    # A policy without noise gives the action the largest gain that can be measured, which its reaction then equals.
    largest = actions - 0.5 * policy[0].shape[1] * np.log(MIN_POLICY_VARIANCE)
    variances = np.einsum("eg,sgc->sec", times, squares) / counts[:, None] + MIN_VARIANCE
    return GainDraws(
        added=1 - totals[1:] / totals[:-1],
        gain=gains,
        effect=np.minimum(gains, largest) - reactions,
        parts=-0.5 * np.diff(np.log(variances), axis=0),
    )


def _log_volume(residual: Floats, group: Int[np.ndarray, "n"], times: Floats, counts: Floats, floor: float) -> Floats:
    """Half of the log determinant of the covariance of residuals [n, q], for each draw of episodes."""
    size = residual.shape[1]
    products = (residual[:, :, None] * residual[:, None]).reshape(len(residual), -1)
    sums = times @ cluster_sums(products, group, times.shape[1])
    covariance = sums.reshape(-1, size, size) / counts[:, None, None]
    return np.asarray(0.5 * np.linalg.slogdet(covariance + floor * np.eye(size))[1])


def _interval(draws: Floats) -> Share:
    low, high = np.quantile(draws[1:], (TAIL, 1 - TAIL))
    return Share.around(float(draws[0]), low, high)


def _verdict(draws: GainDraws, shifts: tuple[Shift, ...]) -> Alignment:
    """The verdict on the bootstrap draws, with reason and fix."""
    gains = [_interval(shift) for shift in draws.gain]
    middle = len(shifts) // 2
    gaining = [i for i, gain in enumerate(gains) if gain.low > MIN_GAIN]
    if not gaining:
        best = max(shifts, key=lambda shift: shift.added.value)
        reason = f"no row of the actions explains the change; the best, {_row(best.shift)}, explains {best.added}."
        return _unknown(reason, f"The actions vary too little, or do not affect the observed signals. {_VARY}")
    acting, unclear = _acting(draws, gains, gaining)
    if acting is not None:
        return _misaligned(shifts[acting], shifts[middle])
    if unclear is not None or middle not in gaining:
        shift = shifts[gaining[-1] if unclear is None else unclear]
        reason = f"{_row(shift.shift)} correlates with the change ({shift.added}): "
        return _unknown(f"{reason}actions are shifted, or the policy reacts to observations.", _VARY)
    reason = f"action t explains {shifts[middle].added} of the change that earlier rows leave unexplained."
    return Alignment(verdict=AlignmentVerdict.ALIGNED, reason=reason)


def _acting(draws: GainDraws, gains: list[Share], gaining: list[int]) -> tuple[int | None, int | None]:
    """The index of the shift that certainly acts on the change, if it is not 0; and one that may act or react."""
    effects = [_interval(shift) for shift in draws.effect]
    middle = len(gains) // 2
    unclear: int | None = None
    # From the last action with a gain to the first: the last one with its own effect acts on the change.
    for i in itertools.takewhile(lambda i: i != middle, reversed(gaining)):
        gain, effect = gains[i].value, effects[i]
        if effect.low > max(MIN_GAIN if i < middle else MIN_LATE_GAIN, MIN_EFFECT * gain):
            # Signals that respond within a row follow action t+1 although the actions are aligned.
            acting = i if i < middle else min(i, max(middle, _first_response(draws.parts)))
            if acting == middle:
                break
            # A shift is certain if the actions in the way of it gain much less than the acting one.
            others, share = [middle] if gains[acting].low < STRONG_GAIN else [], MAX_REMAINDER_LATE
            if i < middle:
                others, share = list(range(i + 1, len(gains))), MAX_REMAINDER_EARLY
            if all(_is_less(draws.gain[other], share * draws.gain[acting]) for other in others):
                # Both the later and this action are misplaced; the estimate of the effect decides between them.
                if unclear is not None and (unclear > middle) == (i > middle):
                    acting = unclear if effects[unclear].value > MIN_EFFECT * gains[unclear].value else acting
                return acting, unclear
        if effect.high > 0 and unclear is None:
            unclear = i
    return None, unclear


def _is_less(gain: Floats, other: Floats) -> bool:
    """Whether a gain is certainly less than another number; wrong for any shift with a probability of `LEVEL`."""
    return bool(np.quantile(gain[1:] - other[1:], 1 - LEVEL / MAX_SHIFT) < 0)


def _first_response(parts: Floats) -> int:
    """The index of the earliest shift that is the last one with a gain for some component.

    Some signals respond within a row, such as the pressures of a network of pipes. They then follow action t+1 although
    the actions are aligned. Other signals of the same log, such as levels, follow action t.
    """
    values, (low, high) = parts[:, 0], np.quantile(parts[:, 1:], (TAIL, 1 - TAIL), axis=1)
    for i in range(len(parts)):
        if ((low[i] > MIN_OWN_GAIN) & (high[i + 1 :] < MAX_OTHER_GAIN * values[i]).all(0)).any():
            return i
    return len(parts)


def _misaligned(acting: Shift, unshifted: Shift) -> Alignment:
    shift, fix = acting.shift, f"Import the logs again with their actions moved: --action-lag {acting.shift}"
    if shift < 0:
        late = f"{-shift} step{'' if shift == -1 else 's'} late"
        delay = f"If the system is known to respond {late}, change nothing, and check with --delay {-shift}."
        fix = f"{delay} Otherwise: {fix}"
    verdict = AlignmentVerdict.LAG if shift > 0 else AlignmentVerdict.LEAD
    follows = f"the change from observation t to t+1 follows {_row(shift)} ({acting.added})"
    return Alignment(verdict=verdict, shift=shift, reason=f"{follows}, not action t ({unshifted.added}).", fix=fix)


def _row(shift: int) -> str:
    return "action t" if shift == 0 else f"action t{shift:+d}"
