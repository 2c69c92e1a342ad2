"""Statistical clauses on prediction bands, trust and surprise.

They count over episodes. `WorldCase.alpha` is the false alarm rate of each clause for a correct world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows as Cut
from worldline.episode import Arrays, Episode
from worldline.errors import UnsupportedError
from worldline.stats import separation, tails
from worldline.testing.clauses import Clause, as_float
from worldline.testing.log_windows import observed_of, places
from worldline.testing.log_windows import random_windows as random_cut
from worldline.testing.world_case import WorldCase, corrupt, jump, query_of
from worldline.world.base import Forecast

LEVELS: Final = (0.5, 0.8, 0.95)
"""Levels at which bands are checked."""

EXACT: Final = 1e-3
"""A band narrower than this share of its signal's standard deviation counts as no band: the world is exact."""

STEPS_MORE: Final = 4
"""Observations beyond `Card.context` in the long histories on which trust is checked."""

MAX_LONG_HISTORIES: Final = 30
"""Long histories on which surprise is computed; bounds time."""

MIN_DETECTED: Final = 0.9
"""Share of pairs in which surprise must separate broken steps from real ones for trust to be checked."""

BANDS = Clause(name="world.bands", look="Forecast.low and high; low <= mean <= high, wider for a higher level")
COVERAGE = Clause(
    name="world.coverage", look="Forecast.low and high; the share of whole trajectories inside equals the level"
)
TRUST = Clause(
    name="world.trust",
    look="Prediction.trust; a p-value in [0, 1], small if the present state or a step is out of distribution",
)
SURPRISE = Clause(name="world.surprise", look="World.surprise; calibrated p-values [T], small at anomalies")


def bands_ordered(case: WorldCase) -> None:
    """The band contains the mean and the bands of lower levels, and is wider than those."""
    cut = case.cut()
    levels = _levels(case)
    asked = [case.predict(cut, level=level) for level in levels]
    if not asked[0].calibrated:
        return
    for name in case.vectors:
        inner: Forecast | None = None
        for level, prediction in zip(levels, asked, strict=True):
            outer = prediction.signals[name]
            low, mean, high = _edges(outer)
            slack = 1e-6 * (np.abs(mean).max() + 1)
            where = f"signal {name!r}, level {level}"
            BANDS.holds(bool((low <= mean + slack).all()), f"{where}: low is above the mean")
            BANDS.holds(bool((mean <= high + slack).all()), f"{where}: high is below the mean")
            if inner is not None:
                narrow = _edges(inner)
                inside = bool((low <= narrow[0] + slack).all() and (narrow[2] <= high + slack).all())
                BANDS.holds(inside, f"{where}: the band does not contain the band of a lower level")
            inner = outer
        widths = [float(np.mean(_width(prediction.signals[name]))) for prediction in asked]
        if widths[0] > EXACT * _spread(case, name).mean():
            problem = f"signal {name!r}: the band has the width {widths[0]:.4g} at every level"
            BANDS.holds(widths[-1] > widths[0] * 1.001, problem)


def coverage(case: WorldCase) -> None:
    """The share of whole trajectories inside the band equals the level, within the error of the count."""
    cut = case.cut()
    for level in _levels(case):
        prediction = case.predict(cut, level=level)
        if not prediction.calibrated:
            return
        for name in case.vectors:
            forecast = prediction.signals[name]
            inside = _inside(cut, name, forecast)
            chance = tails(int(inside.sum()), len(inside), level, case.num_calibration)
            problem = f"signal {name!r}: {inside.sum()} of {len(inside)} trajectories are inside the {level} band"
            COVERAGE.holds(chance.low >= case.alpha, f"{problem}, too few (chance {chance.low:.2g})")
            if np.mean(_width(forecast)) > EXACT * _spread(case, name).mean():  # the band of an exact world covers all
                COVERAGE.holds(chance.high >= case.alpha, f"{problem}, too many (chance {chance.high:.2g})")


def trust_is_p_value(case: WorldCase) -> None:
    """Trust is a p-value in [0, 1], rarely small on real histories and smaller on corrupted ones."""
    cut = case.cut()
    unlike = replace(cut, history=replace(cut.history, observations=corrupt(cut.history.observations, case.seed)))
    prediction = case.predict(cut)
    real, wild = as_float(prediction.trust), as_float(case.predict(unlike).trust)
    for name, value in (("real", real), ("corrupted", wild)):
        TRUST.holds(value.shape == (cut.num_worlds,), f"trust has shape {value.shape} for {cut.num_worlds} worlds")
        fine = ((value >= 0) & (value <= 1)) | (np.isnan(value) & (not prediction.calibrated))
        TRUST.holds(bool(fine.all()), f"trust of {name} histories is outside [0, 1]")
    if not prediction.calibrated:
        return
    seldom_small(case, TRUST, real, "trust of real histories")
    share = separation(wild, real)
    problem = f"trust of corrupted histories is below that of real ones in {share:.0%} of pairs (chance: 50%)"
    TRUST.holds(share >= 0.75, f"{problem}; means {wild.mean():.3g} and {real.mean():.3g}")


def trust_depends_on_steps(case: WorldCase) -> None:
    """Trust is smaller if a step of the history is implausible although each value is usual.

    Checked on histories longer than `Card.context`, and only if the world's surprise detects such steps.
    """
    length = case.length + STEPS_MORE
    at = length - STEPS_MORE + 1  # has predecessors, and is not in the context of the present
    long = [episode for episode in case.episodes if episode.num_steps >= length - 1 + case.horizon]
    if len(long) < 2 or not case.predict(case.cut()).calibrated:
        return
    cut = random_cut(long, length=length, horizon=case.horizon, seed=case.seed)
    changed = {name: value.copy() for name, value in cut.history.observations.items()}
    for value in changed.values():
        value[:, at] = np.roll(value[:, at], 1, axis=0)
    broken = replace(cut, history=replace(cut.history, observations=changed))
    few = range(min(MAX_LONG_HISTORIES, cut.num_worlds))
    share = separation(*(_min_p_values(case, each.select(few), at) for each in (broken, cut)))
    if share < MIN_DETECTED:
        return
    real, odd = as_float(case.predict(cut).trust), as_float(case.predict(broken).trust)
    seldom_small(case, TRUST, real, "trust of long histories")
    found = separation(odd, real)
    problem = f"one observation is from another episode: surprise detects it in {share:.0%} of pairs, trust"
    TRUST.holds(found >= 0.75, f"{problem} in {found:.0%} (chance: 50%)")


def surprise_is_p_value(case: WorldCase) -> None:
    """Surprises are p-values in [0, 1], rarely small on real steps and smaller where a signal jumps."""
    at = places(case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    names = case.vectors
    real, odd = np.zeros((2, len(case.episodes), len(names)))
    for number, (episode, now) in enumerate(zip(case.episodes, at, strict=True)):
        try:
            before = _p_values(case, episode)
        except UnsupportedError:
            calibrated = case.predict(case.cut()).calibrated
            SURPRISE.holds(not calibrated, "surprise raised UnsupportedError, but the world is calibrated")
            return
        after = _p_values(case, jump(episode, [now + 1], tuple(episode.observations), case.seed + number))
        real[number], odd[number] = [before[n][now] for n in names], [after[n][now] for n in names]
    for column, name in enumerate(names):
        seldom_small(case, SURPRISE, real[:, column], f"p-values of {name!r} on real steps")
        share = separation(odd[:, column], real[:, column])
        problem = f"p-values of {name!r} at jumps are below those of real steps in {share:.0%} of pairs"
        SURPRISE.holds(share >= 0.75, f"{problem} (chance: 50%)")


def _min_p_values(case: WorldCase, cut: Cut, at: int) -> NDArray[np.floating]:
    """The smallest p-value over signals of the step that leads to observation `at` of each history [W]."""
    found = []
    for world in range(cut.num_worlds):
        history = query_of(cut, world).history
        episode = Episode(
            observations=history.observations,
            actions=history.actions,
            exogenous=history.exogenous,
            observed=history.observed,
        )
        found.append(min(float(value[at - 1]) for value in _p_values(case, episode).values()))
    return np.asarray(found)


def _levels(case: WorldCase) -> list[float]:
    num = case.num_calibration
    return [level for level in LEVELS if num is None or (num + 1) * (1 - level) >= 1 - 1e-9]


def _p_values(case: WorldCase, episode: Episode) -> Arrays:
    """The surprise of an episode, with names, shapes and range checked."""
    found = case.world.surprise(episode).p_values
    names = case.card.predicts
    SURPRISE.holds(set(found) == set(names), f"p-values of {sorted(found)}, expected {sorted(names)}")
    for name, value in found.items():
        expected = (episode.num_steps,)
        SURPRISE.holds(value.shape == expected, f"p-values of {name!r} have shape {value.shape}, expected {expected}")
        SURPRISE.holds(bool(((value >= 0) & (value <= 1)).all()), f"p-values of {name!r} are outside [0, 1]")
    return found


def seldom_small(case: WorldCase, clause: Clause, values: NDArray[np.floating], what: str) -> None:
    """Raises AssertionError if more p-values are at most 0.1 than chance allows."""
    count = int((values <= 0.1).sum())
    chance = tails(count, len(values), 0.1, case.num_calibration).high
    clause.holds(chance >= case.alpha, f"{count} of {len(values)} {what} are at most 0.1 (chance {chance:.2g})")


def _edges(forecast: Forecast) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    BANDS.holds(forecast.low is not None and forecast.high is not None, "a calibrated vector signal has no band")
    assert forecast.low is not None  # for the type checker
    assert forecast.high is not None
    return forecast.low, as_float(forecast.mean), forecast.high


def _width(forecast: Forecast) -> NDArray[np.floating]:
    low, _, high = _edges(forecast)
    return np.asarray(high - low)


def _inside(cut: Cut, name: str, forecast: Forecast) -> NDArray[np.bool_]:
    """Whether each whole trajectory [W] is inside at its known steps, up to a rounding error."""
    low, _, high = _edges(forecast)
    truth = as_float(cut.truth[name])
    slack = 1e-5 * (np.nanmax(np.abs(truth)) + 1e-12)
    inside = ((low - slack <= truth) & (truth <= high + slack)).all(-1)
    return np.asarray((inside | ~cut.known[name].astype(bool)).all(-1))


def _values(case: WorldCase, name: str) -> NDArray[np.floating]:
    """All values of a vector signal in the episodes [n, size]; NaN where not observed."""
    rows = []
    for episode in case.episodes:
        value = as_float(episode.observations[name])
        rows.append(np.where(observed_of(episode, name)[:, None], value, np.nan))
    return np.concatenate(rows)


def _spread(case: WorldCase, name: str) -> NDArray[np.floating]:
    return np.asarray(np.nanstd(_values(case, name), axis=0))
