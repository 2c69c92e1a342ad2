"""How a signal changed at a date: another unit, another sign, or two swapped columns.

A linear model of the episodes before the date predicts the episodes after it, under each candidate correction. A
correction is certain if the corrected episodes fit as well as those before, and every other explanation fits clearly
worse. A factor and an offset follow from a regression that is linear in both; its errors are clustered by episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldline.data.quality.transition_model import ComponentName, StepTable, TransitionModel

Floats = NDArray[np.floating]

MIN_EPISODES: Final = 8
"""Smallest number of episodes on each side of a date."""
MARGIN: Final = 0.05
"""Share of the episodes on each side of a date that no estimate uses, because the date is uncertain."""
MAX_EXCESS: Final = 0.1
"""Largest mean surprise of a component after the correction above that before the date: about 15 % more noise."""
MIN_ADVANTAGE: Final = 0.05
"""Smallest mean surprise per step by which all other explanations must be worse."""
MIN_EVIDENCE: Final = 10.0
"""Smallest difference in surprise between the date and its neighbours."""
MAX_ERROR: Final = 0.01
"""Largest relative standard error of an unknown factor, and difference to a known one."""
MAX_OFFSET_ERROR: Final = 0.1
"""Largest standard error of an offset, in standard deviations; otherwise it cannot be excluded."""
NUM_ERRORS: Final = 3.0
"""Standard errors within which two figures agree."""
MAX_PAIRS: Final = 200

_FACTORS: Final = (1000, 180 / np.pi, 100, 10, 60, 3600, 3.6, 2.54, 25.4, 1.8, 9.80665, 6.894757, 1.609344, 4.184)
KNOWN: Final = (
    *((sign * factor**power, 0.0) for factor in _FACTORS for power in (1, -1) for sign in (1, -1)),
    *((1.8, 32.0), (1 / 1.8, -32 / 1.8), (1.0, 273.15), (1.0, -273.15)),
)
"""Factors and offsets of known conversions of units."""


@dataclass(frozen=True, kw_only=True)
class UnitCorrection:
    """A change of a log at a date, which can be undone.

    Args:
        episode: the first one after the date.
        first: the component that changed.
        second: the component that it was swapped with; None for a change of unit or sign.
        factor: by which its values were multiplied.
        offset: that was then added.
    """

    episode: int
    first: ComponentName
    second: ComponentName | None = None
    factor: float = 1.0
    offset: float = 0.0

    def undone(self, states: Floats, names: Sequence[ComponentName]) -> Floats:
        """The components [rows, C] with these names as before the date."""
        found, at = states.copy(), names.index(self.first)
        if self.second is not None:
            pair = [at, names.index(self.second)]
            found[:, pair] = states[:, pair[::-1]]
        else:
            found[:, at] = (states[:, at] - self.offset) / self.factor
        return found


class _Affine(NamedTuple):
    """A factor and an offset, with standard errors."""

    factor: float
    factor_error: float
    offset: float
    offset_error: float


def correction_at(
    tables: Sequence[StepTable], names: Sequence[ComponentName], signals: Sequence[str], episode: int
) -> UnitCorrection | str:
    """The correction that explains a change, or the reason why none is certain.

    Args:
        tables: by episode.
        names: of the components.
        signals: that change at about this date.
        episode: the approximate date.
    """
    at, margin = sum(one.number < episode for one in tables), max(3, round(MARGIN * len(tables)))
    before, after = tables[: max(0, at - margin)], tables[at + margin :]
    if min(len(before), len(after)) < MIN_EPISODES:
        return "too few episodes lie before or after it"
    model = TransitionModel(before)
    base = np.concatenate([model.surprise(one) for one in before])
    scored = []
    for candidate in _candidates(model, after, names, signals):
        now = np.concatenate([model.surprise(_undone(one, candidate, names)) for one in after])
        scored.append((float(now.sum(1).mean()), (now.mean(0) - base.mean(0)).max(), candidate))
    as_logged = float(np.concatenate([model.surprise(one) for one in after]).sum(1).mean())
    if not scored:
        return "no factor, sign or swap of columns explains it: it may be a real change"
    scored.sort(key=lambda one: one[0])
    (best, excess, found), others = scored[0], [as_logged, *(score for score, _, _ in scored[1:])]
    if excess > MAX_EXCESS:
        return "no factor, sign or swap of columns explains it: it may be a real change"
    if min(others) < best + MIN_ADVANTAGE:
        return "several explanations fit nearly as well"
    return _dated(model, tables, names, found, at, margin)


def _undone(one: StepTable, correction: UnitCorrection, names: Sequence[ComponentName]) -> StepTable:
    return replace(one, states=correction.undone(one.states, names))


def _candidates(
    model: TransitionModel, after: Sequence[StepTable], names: Sequence[ComponentName], signals: Sequence[str]
) -> list[UnitCorrection]:
    """Corrections of the components of some signals that the regressions allow, and swaps with any component."""
    changed = [number for number, name in enumerate(names) if name.signal in signals]
    found = []
    for number in changed:
        factor, offset = _converted(_regression(model, after, number), float(model.spread[number]))
        if (factor, offset) != (1.0, 0.0):
            found.append(UnitCorrection(episode=0, first=names[number], factor=factor, offset=offset))
    pairs = [(i, j) for i, j in product(changed, range(len(names))) if i != j and not (j in changed and j < i)]
    return found + [UnitCorrection(episode=0, first=names[i], second=names[j]) for i, j in pairs[:MAX_PAIRS]]


def _regression(model: TransitionModel, after: Sequence[StepTable], number: int) -> _Affine:
    """The factor and offset of a component in units of the log: its values times the factor, plus the offset.

    Let a component be `factor * z + shift` in the units of the model, and `w` the sum of the weights of its past.
    The change that its past does not explain is then `factor` times what the others explain, minus `shift * w`.
    """
    rows = [model.own_and_other(one, number) for one in after]
    total, group = rows[0][2], np.concatenate([np.full(len(own), index) for index, (own, _, _) in enumerate(rows)])
    target = np.concatenate([own for own, _, _ in rows])
    given = np.stack([np.concatenate([other for _, other, _ in rows]), np.full(len(target), -total)], 1)
    kept = np.arange(len(target))
    for _ in range(4):
        inverse = np.linalg.pinv(given[kept].T @ given[kept])
        found = inverse @ (given[kept].T @ target[kept])
        residual = target - given @ found
        kept = np.flatnonzero(np.abs(residual) <= 4 * 1.4826 * np.median(np.abs(residual)) + 1e-12)
    moments = np.zeros((len(after), 2))
    np.add.at(moments, group[kept], given[kept] * residual[kept, None])
    covariance = inverse @ (moments.T @ moments) @ inverse
    errors = np.sqrt(np.diag(covariance))
    middle, spread = float(model.middle[number]), float(model.spread[number])
    offset = spread * found[1] + middle * (1 - found[0])
    lever = np.array([-middle, spread])
    offset_error = float(np.sqrt(lever @ covariance @ lever))
    is_known = abs(total) > 1e-9  # the model has no level for this component, so an offset has no effect
    return _Affine(float(found[0]), float(errors[0]), float(offset), offset_error if is_known else np.inf)


def _converted(estimate: _Affine, spread: float) -> tuple[float, float]:
    """The certain factor and offset, (1, 0) if there are none: a sign, a known conversion, or a precise factor."""
    factor, error = estimate.factor, estimate.factor_error
    if not estimate.offset_error <= MAX_OFFSET_ERROR * spread * max(1.0, abs(factor)):
        return 1.0, 0.0
    near = [
        (known, offset)
        for known, offset in ((-1.0, 0.0), *KNOWN)
        if abs(factor - known) <= max(NUM_ERRORS * error, MAX_ERROR * abs(known))
        and abs(estimate.offset - offset) <= NUM_ERRORS * estimate.offset_error
        and error <= 0.05 * abs(known)
    ]
    if len(near) == 1:
        return near[0]
    is_scaled = abs(estimate.offset) <= NUM_ERRORS * estimate.offset_error and error <= MAX_ERROR * abs(factor)
    if near or not is_scaled or abs(factor - 1) <= NUM_ERRORS * error:
        return 1.0, 0.0
    return factor, 0.0


def _dated(
    model: TransitionModel,
    tables: Sequence[StepTable],
    names: Sequence[ComponentName],
    found: UnitCorrection,
    at: int,
    margin: int,
) -> UnitCorrection | str:
    """The correction with the only date that fits, or the reason why there is none."""
    near = range(max(0, at - 2 * margin), min(len(tables), at + 2 * margin + 1))
    gains = np.array(
        [
            float(model.surprise(tables[place]).sum() - model.surprise(_undone(tables[place], found, names)).sum())
            for place in near
        ]
    )
    later = np.append(np.cumsum(gains[::-1])[::-1], 0.0) - np.insert(np.cumsum(gains), 0, 0.0)
    best = int(later.argmax())
    second = np.delete(later, best).max()
    if not 0 < best < len(gains) or later[best] - 2 * MIN_EVIDENCE < second:
        return "the episode at which it begins is not certain"
    first = tables[near[best]].number
    if tables[near[best] - 1].number + 1 != first:
        return "the episode at which it begins was not sampled"
    return replace(found, episode=first)
