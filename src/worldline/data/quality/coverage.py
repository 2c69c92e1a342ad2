"""Coverage of states and actions by a log, and advice on which data to add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from worldline.data.quality import segments
from worldline.data.quality.regressions import (
    NUM_FOLDS,
    action_changes,
    better,
    clipped,
    folds,
    residuals,
    residuals_at_changes,
    scaled,
)
from worldline.errors import DataError
from worldline.schema import Role, Schema
from worldline.stats import Floats

NUM_BINS: Final = 6
MAX_PAIRED: Final = 12
"""Components that are compared in pairs."""
PREDICTABLE: Final = 0.9
SPARSE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class ActionCoverage:
    """Coverage of one component of the actions.

    Args:
        name: of the signal and component.
        predictable: share of its variance that past observations and actions explain, on held-out episodes, 0 to 1.
            Of an action that is held for many rows, the share of its new level where it changes.
        least: smallest logged value.
        greatest: largest logged value.
        low: smallest possible value; None if the schema has no bound.
        high: largest possible value; None if the schema has no bound.
        used: share of the tenths of the possible range (else of the logged one) that hold a value; of a discrete
            action, share of its values.
        never: values of a discrete action that were never taken.
    """

    name: str
    predictable: float
    least: float
    greatest: float
    low: float | None
    high: float | None
    used: float
    never: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PairCoverage:
    """Coverage of the plane of two components.

    Args:
        one: name of a component.
        other: name of another component.
        share: share of visited cells of a grid over both logged ranges.
    """

    one: str
    other: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage of states and actions by a log.

    Args:
        actions: per component.
        effective_dimension: number of independent directions in which the observations vary; images count only if
            there are no other observations.
        num_components: number of observed components that vary.
        spread: mean share of visited cells over all pairs; None without pairs.
        narrow: the pairs with the smallest shares, ascending.
        advice: which data to add, as full sentences; empty if none is needed.
        num_episodes: number of episodes used.
        num_steps: number of steps used.
    """

    actions: tuple[ActionCoverage, ...]
    effective_dimension: float
    num_components: int
    spread: float | None
    narrow: tuple[PairCoverage, ...]
    advice: tuple[str, ...]
    num_episodes: int
    num_steps: int


def survey(tracks: Sequence[segments.Segment], schema: Schema, seed: int = 0) -> Coverage:
    """The coverage of some segments.

    Args:
        tracks: at least one segment.
        schema: of their signals.
        seed: of the regressions.

    Raises:
        DataError: there is no segment.
    """
    if not tracks:
        raise DataError("there is no episode to measure", fix="Record or import episodes first.")
    dropped = segments.seldom_seen(tracks)
    tracks = [segments.without(segment, dropped) for segment in tracks]
    # The known rows of all segments as one table.
    known = np.concatenate([segment.whole[:-1] for segment in tracks])
    states = np.concatenate([segment.table[:-1] for segment in tracks])[known]
    actions = np.concatenate([segment.actions for segment in tracks])
    used = _actions(actions, _predictable(tracks, schema, np.random.default_rng([seed, 3])), schema)
    kept = Schema(signals=tuple(signal for signal in schema.signals if signal.name not in dropped))
    names = [name for role in (Role.OBSERVATION, Role.ACTION) for name in segments.component_names(kept, role)]
    pairs = _pairs(np.concatenate([states, actions[known]], 1), names)
    # The observations whose dimension is measured: numbers, or the pixels of a camera without any.
    seen = scaled(clipped(states))
    if not seen.shape[1] and tracks[0].pictures:
        images = np.concatenate([next(iter(segment.pictures.values()))[:-1] for segment in tracks])[known]
        chosen = np.random.default_rng([seed, 4]).permutation(len(images))[:4000]
        seen = images[chosen].reshape(len(chosen), -1).astype(np.float64)
    return Coverage(
        actions=used,
        effective_dimension=_effective_dimension(seen),
        num_components=seen.shape[1],
        spread=float(np.mean([pair.share for pair in pairs])) if pairs else None,
        narrow=pairs[:3],
        advice=_advice(used, pairs),
        num_episodes=len(tracks),
        num_steps=len(actions),
    )


def _effective_dimension(table: Floats) -> float:
    """Participation ratio of the variances along the principal axes; 0 if nothing varies.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", section 2.
    """
    centred = table - table.mean(0) if len(table) else table
    covariance = centred.T @ centred
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 0 else 0.0


def _actions(actions: Floats, predictable: Floats, schema: Schema) -> tuple[ActionCoverage, ...]:
    """Per component the used part of the range between the bounds; per discrete action that of its values."""
    coverages = []
    for signal, columns in segments.columns_of(schema, Role.ACTION).items():
        table, share = actions[:, columns], predictable[columns]
        names, size = segments.names_of(signal), signal.num_values or 0
        bounds = [signal.low or (None,) * len(names), signal.high or (None,) * len(names)]
        if size:
            # The last value has no column.
            table = np.where(table.sum(1) == 0, table.shape[1], table.argmax(1))[:, None]
            names, share, bounds = [signal.name], share.mean(keepdims=True), [(0.0,), (size - 1.0,)]
        for name, part, values, *ends in zip(names, share.tolist(), table.T, *bounds, strict=True):
            low, high = (None if end is None or not np.isfinite(end) else end for end in ends)
            least, greatest = float(values.min()), float(values.max())
            first, last = least if low is None else low, greatest if high is None else high
            tenths = np.clip((values - first) / (last - first or 1.0) * 10, 0, 9).astype(np.int64)
            coverages.append(
                ActionCoverage(
                    name=name,
                    predictable=part,
                    least=least,
                    greatest=greatest,
                    low=low,
                    high=high,
                    used=len(np.unique(values)) / size if size else len(np.unique(tenths)) / 10,
                    never=tuple(sorted(set(range(size)) - set(values.tolist()))),
                )
            )
    return tuple(coverages)


def _predictable(tracks: Sequence[segments.Segment], schema: Schema, draw: np.random.Generator) -> Floats:
    """R², from 0 to 1, of each component of action t on actions t-2 and t-1, observations t-1 and t, and inputs t.

    An action that is held for many rows counts where it changes.
    """
    rows = [np.arange(2, len(segment.actions)) for segment in tracks]
    steps = [at[segment.whole[at] & segment.whole[at - 1]] for at, segment in zip(rows, tracks, strict=True)]
    if sum(map(len, steps)) < 10 * NUM_FOLDS:
        return np.zeros(tracks[0].actions.shape[1])
    size = 20 if len(tracks) < NUM_FOLDS else segments.SEGMENT
    group = np.concatenate([number * segments.SEGMENT + at // size for number, at in enumerate(steps)])
    chosen = np.sort(draw.permutation(len(group))[: segments.MAX_STEPS // 2])
    # What a policy may know when it chooses action t.
    past = [
        np.concatenate([s.actions[at - 2], s.actions[at - 1], s.table[at - 1], s.table[at], s.inputs[at]], 1)
        for s, at in zip(tracks, steps, strict=True)
    ]
    table = np.concatenate(past)[chosen]
    target = np.concatenate([segment.actions[at] for segment, at in zip(tracks, steps, strict=True)])[chosen]
    before = table[:, target.shape[1] : 2 * target.shape[1]]
    fold = folds(np.unique(group[chosen], return_inverse=True)[1], draw)
    left = better(*residuals(table, target, fold, draw))
    at_changes = residuals_at_changes(table, target, action_changes(target, before, schema), fold, draw)
    # The smaller share of all rows and of the rows with a change: an action that is held is no predictable action.
    return np.minimum(_shares_explained(left, target), _shares_explained(at_changes, target))


def _shares_explained(left: Floats, target: Floats) -> Floats:
    """R² of each column, from 0 to 1, over the rows with a residual; 1 for constant columns and without residuals."""
    shares = []
    for residual, values in zip(left.T, target.T, strict=True):
        known = np.isfinite(residual)
        spread = float(values[known].var()) if known.any() else 0.0
        shares.append(np.clip(1 - (residual[known] ** 2).mean() / spread, 0, 1) if spread > 0 else 1.0)
    return np.array(shares)


def _pairs(table: Floats, names: Sequence[str]) -> tuple[PairCoverage, ...]:
    """The share of visited cells for each pair of components, ascending."""
    # The cell of each row per component; the range holds 98 % of the values, so that outliers do not widen it.
    low, high = np.quantile(table, (0.01, 0.99), axis=0) if len(table) else np.zeros((2, len(names)))
    kept = np.flatnonzero(high > low)[:MAX_PAIRED].tolist()
    cells = np.clip((table[:, kept] - low[kept]) / (high - low)[kept] * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
    # Cells that a component never visits do not count: its own coverage is measured elsewhere.
    bins = [np.unique(column, return_inverse=True)[1] for column in cells.T]
    pairs = []
    for (at, first), (other, second) in combinations(zip(kept, bins, strict=True), 2):
        width = int(second.max()) + 1
        share = len(np.unique(first * width + second)) / ((int(first.max()) + 1) * width)
        pairs.append(PairCoverage(one=names[at], other=names[other], share=share))
    return tuple(sorted(pairs, key=lambda pair: pair.share))


def _advice(actions: Sequence[ActionCoverage], pairs: Sequence[PairCoverage]) -> tuple[str, ...]:
    # Constant actions first: nothing else can be said of them. Then reactions, unused ranges and narrow pairs.
    advice = []
    for action in actions:
        if action.least == action.greatest:
            problem = f"'{action.name}' is always {action.least:g}: its effect cannot be learned."
            advice.append(f"{problem} Log other values.")
            continue
        if action.predictable >= PREDICTABLE:
            problem = f"'{action.name}' is {100 * action.predictable:.0f} % predictable from the past"
            advice.append(f"{problem}: add segments in which it is drawn at random.")
        advice += _unused(action)
    advice += [
        f"'{pair.one}' and '{pair.other}' cover {100 * pair.share:.0f} % of their combinations: log more of the others."
        for pair in pairs[:3]
        if pair.share < SPARSE
    ]
    return tuple(advice)


def _unused(action: ActionCoverage) -> list[str]:
    """Advice on values of a discrete action, or a fifth or more at an end of the range, that were never used."""
    if action.never:
        return [f"'{action.name}' was never {', '.join(map(str, action.never))}: log episodes with these values."]
    if action.low is None or action.high is None or action.low >= action.high:
        return []
    span = action.high - action.low
    below, above = (action.least - action.low) / span, (action.high - action.greatest) / span
    return [
        f"the {which} {100 * share:.0f} % of the range of '{action.name}' ({action.low:g} to {action.high:g}) "
        "was never used: log values there, or narrow its bounds in schema.json."
        for which, share in (("lower", below), ("upper", above))
        if share >= 0.2
    ]
