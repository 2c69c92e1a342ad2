"""Coverage of states and actions by a log, and advice on which data to add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from worldline.schema import Kind, Role, Schema

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]

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
        excitation: 1 - `predictable`, the share from which its effect can be learned.
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
    excitation: float
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
    states = np.concatenate([segment.table[:-1] for segment in tracks])
    actions = np.concatenate([segment.actions for segment in tracks])
    known = np.concatenate([segment.whole[:-1] for segment in tracks])
    used = _actions(tracks, schema, np.random.default_rng([seed, 3]))
    kept = Schema(signals=tuple(signal for signal in schema.signals if signal.name not in dropped))
    names = (*segments.component_names(kept, Role.OBSERVATION), *segments.component_names(kept, Role.ACTION))
    pairs = _pairs(np.concatenate([states, actions], 1)[known], names)
    # The observations whose dimension is measured: numbers, or the pixels of a camera without any.
    seen = scaled(clipped(states[known]))
    if not seen.shape[1] and tracks[0].pictures:
        camera = next(iter(tracks[0].pictures))
        images = [segment.pictures[camera][:-1].reshape(len(segment.actions), -1) for segment in tracks]
        pixels = np.concatenate(images)[known]
        seen = pixels[np.random.default_rng([seed, 4]).permutation(len(pixels))[:4000]].astype(np.float64)
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
    if len(table) < 2 or not table.shape[1]:
        return 0.0
    centred = table - table.mean(0)
    covariance = centred.T @ centred
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 0 else 0.0


def _actions(
    tracks: Sequence[segments.Segment], schema: Schema, draw: np.random.Generator
) -> tuple[ActionCoverage, ...]:
    actions = np.concatenate([segment.actions for segment in tracks])
    predictable = _predictable(tracks, schema, draw)
    coverages: list[ActionCoverage] = []
    column = 0
    for signal in (segment for segment in schema.actions if segment.kind is not Kind.IMAGE):
        names = segments.names_of(signal)
        table, share = actions[:, column : column + len(names)], predictable[column : column + len(names)]
        column += len(names)
        if signal.num_values is not None:
            # The last value has no column.
            chosen = np.where(table.sum(1) == 0, table.shape[1], table.argmax(1))
            coverages.append(_usage(signal.name, float(share.mean()), chosen, 0.0, signal.size - 1.0, signal.size))
            continue
        for part, name in enumerate(names):
            low, high = _bound(signal.low, part), _bound(signal.high, part)
            coverages.append(_usage(name, float(share[part]), table[:, part], low, high))
    return tuple(coverages)


def _usage(
    name: str, predictable: float, values: NDArray[np.number], low: float | None, high: float | None, size: int = 0
) -> ActionCoverage:
    """Coverage of the range between the bounds, or of the `size` values of a discrete action."""
    least, greatest = float(values.min()), float(values.max())
    first, last = least if low is None else low, greatest if high is None else high
    tenths = np.clip((values.astype(np.float64) - first) / (last - first or 1.0) * 10, 0, 9).astype(np.int64)
    return ActionCoverage(
        name=name,
        predictable=predictable,
        excitation=1 - predictable,
        least=least,
        greatest=greatest,
        low=low,
        high=high,
        used=len(np.unique(values)) / size if size else len(np.unique(tenths)) / 10,
        never=tuple(sorted(set(range(size)) - set(values.tolist()))),
    )


def _bound(bounds: tuple[float, ...] | None, part: int) -> float | None:
    return None if bounds is None or not np.isfinite(bounds[part]) else bounds[part]


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
    # What a policy may know when it chooses action t.
    past = []
    for part, at in zip(tracks, steps, strict=True):
        columns = [part.actions[at - 2], part.actions[at - 1], part.table[at - 1], part.table[at], part.inputs[at]]
        past.append(np.concatenate(columns, 1))
    target = np.concatenate([segment.actions[at] for segment, at in zip(tracks, steps, strict=True)])
    chosen = np.sort(draw.permutation(len(target))[: segments.MAX_STEPS // 2])
    table, target = np.concatenate(past)[chosen], target[chosen]
    before = table[:, target.shape[1] : 2 * target.shape[1]]
    fold = folds(np.unique(group[chosen], return_inverse=True)[1], draw)
    left = better(*residuals(table, target, fold, draw))
    at_changes = residuals_at_changes(table, target, action_changes(target, before, schema), fold, draw)
    # The smaller share of all rows and of the rows with a change: an action that is held is no predictable action.
    shares = [
        [_share_explained(*columns) for columns in zip(residual.T, target.T, strict=True)]
        for residual in (left, at_changes)
    ]
    return np.asarray(np.min(shares, 0))


def _share_explained(left: Floats, target: Floats) -> float:
    """R², from 0 to 1, over the rows with a residual; 1 for a constant target, and without residuals."""
    known = np.isfinite(left)
    spread = float(target[known].var()) if known.any() else 0.0
    return float(np.clip(1 - (left[known] ** 2).mean() / spread, 0, 1)) if spread > 0 else 1.0


def _pairs(table: Floats, names: Sequence[str]) -> tuple[PairCoverage, ...]:
    """The share of visited cells for each pair of components, ascending."""
    # The cell of each row per component; the range holds 98 % of the values, so that outliers do not widen it.
    bins: list[NDArray[np.intp]] = []
    kept: list[str] = []
    for name, values in zip(names, table.T, strict=True):
        if len(kept) == MAX_PAIRED or not len(values):
            break
        low, high = np.quantile(values, (0.01, 0.99))
        if high <= low:
            continue
        cell = np.clip((values - low) / (high - low) * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
        bins.append(np.unique(cell, return_inverse=True)[1])
        kept.append(name)
    # Cells that a component never visits do not count: its own coverage is measured elsewhere.
    pairs = []
    for (name, cells), (other_name, other_cells) in combinations(zip(kept, bins, strict=True), 2):
        width = int(other_cells.max()) + 1
        share = len(np.unique(cells * width + other_cells)) / ((int(cells.max()) + 1) * width)
        pairs.append(PairCoverage(one=name, other=other_name, share=share))
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
