"""Coverage of the actions by a log, and advice on which data to add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worldline.data.quality import segments
from worldline.data.quality.regressions import NUM_FOLDS, action_changes, folds, residuals, residuals_at_changes
from worldline.errors import DataError
from worldline.schema import Role, Schema
from worldline.stats import Floats

PREDICTABLE: Final = 0.9
MIN_UNUSED: Final = 0.2
"""Smallest unused share at an end of the range that advice names."""


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
class Coverage:
    """Coverage of the actions by a log.

    Args:
        actions: per component.
        advice: which data to add, as sentences.
    """

    actions: tuple[ActionCoverage, ...]
    advice: tuple[str, ...]


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
    actions = np.concatenate([segment.actions for segment in tracks])
    used = tuple(_actions(actions, _predictable(tracks, schema, np.random.default_rng([seed, 3])), schema))
    advice = [text for action in used for text in _advice(action)] if schema.has_choice else []
    return Coverage(actions=used, advice=tuple(advice))


def _actions(actions: Floats, predictable: Floats, schema: Schema) -> Iterator[ActionCoverage]:
    """Per component the used part of the range between the bounds; per discrete action that of its values."""
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
            yield ActionCoverage(
                name=name,
                predictable=part,
                least=least,
                greatest=greatest,
                low=low,
                high=high,
                used=len(np.unique(values)) / size if size else len(np.unique(tenths)) / 10,
                never=tuple(sorted(set(range(size)) - set(values.tolist()))),
            )


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
    left = residuals(table, target, fold, draw)
    at_changes = residuals_at_changes(table, target, action_changes(target, before, schema), fold, draw)
    # The smaller share of all rows and of the rows with a change: an action that is held is no predictable action.
    return np.minimum(_shares_explained(left, target), _shares_explained(at_changes, target))


def _shares_explained(left: Floats, target: Floats) -> Floats:
    """R² of each column, from 0 to 1, over the rows with a residual; 1 for constant columns and without residuals."""
    unknown = ~np.isfinite(left)
    spread = np.ma.array(target, mask=unknown).var(0).filled(0.0)
    error = np.ma.array(left**2, mask=unknown).mean(0).filled(0.0)
    return np.where(spread > 0, np.clip(1 - error / np.where(spread > 0, spread, 1.0), 0, 1), 1.0)


def _advice(action: ActionCoverage) -> Iterator[str]:
    """Advice on a constant or predictable action, and on values that were never used."""
    if action.least == action.greatest:
        yield f"'{action.name}' is always {action.least:g}: its effect cannot be learned. Log other values."
        return
    if action.predictable >= PREDICTABLE:
        problem = f"'{action.name}' is {100 * action.predictable:.0f} % predictable from the past"
        yield f"{problem}: add segments in which it is drawn at random."
    if action.never:
        yield f"'{action.name}' was never {', '.join(map(str, action.never))}: log episodes with these values."
    elif action.low is not None and action.high is not None and action.low < action.high:
        span = action.high - action.low
        below, above = (action.least - action.low) / span, (action.high - action.greatest) / span
        for which, share in (("lower", below), ("upper", above)):
            if share >= MIN_UNUSED:
                part = f"the {which} {100 * share:.0f} % of the range of '{action.name}'"
                unused = f"{part} ({action.low:g} to {action.high:g}) was never used"
                yield f"{unused}: log values there, or narrow its bounds in schema.json."
