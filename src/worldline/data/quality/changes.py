"""Signals that change from a date on, such as a sensor that was replaced.

Two statistics are used. The first one compares per episode and component the mean and the size of a model's residual,
the level and the spread. A change divides the episodes into two groups; the statistic is the largest standardised rank
sum over all dates.

The second one fits a model to the episodes on one side of a date and predicts the other side. If that is much worse
than on held-out episodes of the same side, no single model explains the log, and it is unusable.

All but the mean residual count only if no action and no exogenous signal changes near the same date (in level, spread
or speed), because another operation changes them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, FindingKind, Place, warning
from worldline.data.quality.anomalies import part_of
from worldline.data.quality.transition_model import LAGS, ComponentName, StepTable, TransitionModel
from worldline.schema import Schema, Signal

Floats = NDArray[np.floating]

MIN_EPISODES: Final = 20
"""Smallest number of episodes in which changes are sought; a date that is certain needs about 40."""
MIN_SIDE: Final = 0.08
"""Smallest share of the episodes before and after a date."""
MIN_RANK_SUM: Final = 5.0
"""Smallest standardised rank sum of a change, in standard deviations."""
NEAR: Final = 0.1
"""Distance of two dates that count as equal, as a share of the episodes."""
DATES: Final = (0.15, 0.25, 0.35, 0.5, 0.65, 0.75, 0.85)
"""Dates that are tried first, as shares of the episodes."""
MIN_EXCESS: Final = 1.0
"""Smallest mean surprise per step, above that of held-out episodes, of a part that another law governs."""
MIN_DEVIATIONS: Final = 2.0
"""Smallest such surprise in standard deviations of an episode."""
MIN_OWN_EXCESS: Final = 0.4
"""Smallest such surprise of a component that is named, if that of another is larger."""
MIN_ROWS_PER_COLUMN: Final = 20
MAX_LISTED: Final = 5


def changes(
    tables: Sequence[StepTable], names: Sequence[ComponentName], schema: Schema, residuals: Sequence[Floats]
) -> list[Finding]:
    """Warnings about signals that change from a date on.

    Args:
        tables: of the log, by episode.
        names: of their components.
        schema: of the log.
        residuals: of a model of all episodes, [steps, C] for each.
    """
    if len(tables) < MIN_EPISODES:
        return []
    law = _split(np.stack([part.mean(0) for part in residuals]))
    level, spread = (np.stack([f(one.states, axis=0) for one in tables]) for f in (np.median, np.std))
    size_of_residual = np.stack([np.log(np.sqrt(np.square(part).mean(0)) + 1e-9) for part in residuals])
    others = [_split(size_of_residual), _split(level), _split(np.log(spread + 1e-9))]
    given = [np.concatenate([one.actions, one.inputs], 1) for one in tables]
    operated = [
        _split(np.stack([np.median(one, axis=0) for one in given])),
        _split(np.log(np.stack([one.std(0) for one in given]) + 1e-9)),
        _split(np.log(np.stack([np.diff(one, axis=0).std(0) for one in given]) + 1e-9)),
    ]
    dates = np.concatenate([at[size >= MIN_RANK_SUM] for size, at in operated])
    broken_at, excess = _break(tables)
    if (np.abs(dates - broken_at) <= NEAR * len(tables)).any():
        excess = np.zeros(len(names))
    is_unusable = excess.max() >= MIN_EXCESS
    found: dict[str, Finding] = {}  # per signal, of the worst component
    signals = {one.name: one for one in schema.observations}
    for number, name in enumerate(names):
        certain = [(law[0][number], law[1][number])]
        certain += [
            (size[number], at[number])
            for size, at in others
            if not (np.abs(dates - at[number]) <= NEAR * len(tables)).any()
        ]
        size, at = max(certain)
        is_broken = bool(is_unusable and excess[number] >= MIN_OWN_EXCESS)
        known = found.get(name.signal)
        if not (size >= MIN_RANK_SUM or is_broken) or (known is not None and known.unusable >= is_broken):
            continue
        at = at if size >= MIN_RANK_SUM else broken_at
        found[name.signal] = _finding(signals[name.signal], name, tables, number, at, unusable=is_broken)
    ranked = sorted(found.values(), key=lambda one: not one.unusable)
    return ranked[:MAX_LISTED]


def _finding(
    signal: Signal, name: ComponentName, tables: Sequence[StepTable], number: int, at: int, *, unusable: bool
) -> Finding:
    """The warning about a component."""
    before, after = (np.concatenate([one.states[:, number] for one in part]) for part in (tables[:at], tables[at:]))
    unit = "" if signal.unit in ("1", "?") else f" {signal.unit}"
    relation = ", and its relation to the other signals changes" if unusable else ""
    return warning(
        problem=f"{part_of(signal, name.index)} changes from about episode {tables[at].number} on: its median goes "
        f"from {np.median(before):.4g} to {np.median(after):.4g}{unit}, its spread from {before.std():.3g} to "
        f"{after.std():.3g}{unit}{relation}",
        fix="A sensor, a unit, a sign or a column may have changed. Convert the values, or leave one part out.",
        episode=tables[at].number,
        signal=name.signal,
        unusable=unusable,
        kind=FindingKind.CHANGED,
        places=(Place(episode=tables[at].number),),
    )


def _break(tables: Sequence[StepTable]) -> tuple[int, Floats]:
    """The date at which a model of one part predicts the other part worst, and by how much for each component."""
    count = len(tables)

    def excess(at: int) -> Floats:
        parts = (tables[:at], tables[at:])
        return np.maximum(*(_excess(one, other) for one, other in (parts, parts[::-1])))

    tried = {at: excess(at) for at in sorted({int(share * count) for share in DATES})}
    for step in (count // 20, count // 40, 1):
        best = max(tried, key=lambda at: tried[at].max())
        for at in (best - step, best + step):
            if DATES[0] * count <= at <= DATES[-1] * count and at not in tried:
                tried[at] = excess(at)
    best = max(tried, key=lambda at: tried[at].max())
    return best, tried[best]


def _excess(known: Sequence[StepTable], other: Sequence[StepTable]) -> Floats:
    """The mean surprise of each component in `other`, minus that in a half of `known`; 0 if it is not certain."""
    fitted, held_out = known[::2], known[1::2]
    width = other[0].states.shape[1]
    if sum(len(one.actions) for one in fitted) < MIN_ROWS_PER_COLUMN * LAGS * width or not held_out:
        return np.zeros(width)
    model = TransitionModel(fitted)
    usual, unusual = (np.stack([model.surprise(one).mean(0) for one in part]) for part in (held_out, other))
    excess = unusual.mean(0) - usual.mean(0)
    # Episodes of one law differ as well, for example if some of them leave the range in which the model is accurate.
    return np.asarray(np.where(excess >= MIN_DEVIATIONS * usual.std(0), excess, 0.0))


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
