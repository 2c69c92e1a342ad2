"""Clauses on `World.surprise` of entities, steps, moments and missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.stats import separation, tails
from worldline.testing.clauses import Clause
from worldline.testing.confidence import seldom_small
from worldline.testing.log_windows import places
from worldline.testing.world_case import WorldCase, jump
from worldline.world.base import Surprise

MAX_MOMENTS, MAX_P_VALUE = 10, 0.1

STEPS: Final = "every step"

MAX_EPISODES: Final = 40
"""Episodes in which jumps are evaluated; each takes one or two calls."""

NAMES = Clause(
    name="world.surprise_parts",
    look="Surprise.entities and steps; p-values [T] of each entity with a predicted signal, and of each step",
)
MOMENTS = Clause(
    name="world.moments",
    look="Surprise.moments; at most ten steps, smallest p-value first, none above 0.1, equal to steps",
)
MISSING = Clause(
    name="world.surprise_missing",
    look="Surprise; signals, entities and steps have p-value 1 where all values are missing",
)
TOGETHER = Clause(
    name="world.surprise_together", look="Surprise.entities and steps; joint p-values of all of their signals"
)
UNIFORM = Clause(
    name="world.surprise_uniform",
    look="Surprise; p-values are shares of calibration steps that are at least as surprising",
)


def surprise_parts(case: WorldCase) -> None:
    """Each entity with a predicted signal has p-values [T] in [0, 1], and so have the steps."""
    if not _calibrated(case):
        return
    entities = set(_entities(case))
    for episode in case.episodes[:3]:
        found = case.world.surprise(episode)
        NAMES.holds(set(found.entities) == entities, f"entities {sorted(found.entities)}, expected {sorted(entities)}")
        for name, value in {**found.entities, STEPS: found.steps}.items():
            expected = (episode.num_steps,)
            NAMES.holds(value.shape == expected, f"p-values of {name} have shape {value.shape}, expected {expected}")
            NAMES.holds(bool(((value >= 0) & (value <= 1)).all()), f"p-values of {name} are outside [0, 1]")


def moments_in_order(case: WorldCase) -> None:
    """Moments are the most surprising steps, smallest p-value first, with their signals in the same order."""
    if not _calibrated(case):
        return
    for number, episode in enumerate(case.episodes[:10]):
        for each in (
            episode,
            jump(episode, range(1, episode.num_steps + 1, 2), tuple(case.vectors), case.seed + number),
        ):
            _check_moments(case, case.world.surprise(each))


def surprise_of_missing(case: WorldCase) -> None:
    """A missing value has p-value 1; so has an entity or step if all of its values are missing."""
    if not _calibrated(case):
        return
    episode = case.episodes[0]
    at = episode.num_steps  # the last observation: no step starts from it
    everything = {name: np.ones(episode.num_steps + 1, bool) for name in episode.observations}
    observed = {**everything, **{name: value.astype(bool) for name, value in episode.observed.items()}}

    def without(*names: str) -> Surprise:
        hidden = {name: mask.copy() for name, mask in observed.items()}
        for name in names:
            hidden[name][at] = False
        return case.world.surprise(replace(episode, observed=hidden))

    predicts = [name for name in case.card.predicts if name in observed]
    for name in predicts:
        value = float(without(name).p_values[name][at - 1])
        MISSING.holds(value == 1, f"{name!r} is missing at observation {at}: its p-value is {value:.3g}, expected 1")
    for entity, names in _entities(case).items():
        value = float(without(*names).entities[entity][at - 1])
        MISSING.holds(value == 1, f"all of {entity!r} is missing at observation {at}: p-value {value:.3g}, expected 1")
    value = float(without(*predicts).steps[at - 1])
    MISSING.holds(value == 1, f"all is missing at observation {at}: the p-value of the step is {value:.3g}, expected 1")


def surprise_together(case: WorldCase) -> None:
    """P-values of entities and steps are rarely small on real steps, and small where one of their signals jumps."""
    if not _calibrated(case):
        return
    some = case.episodes[:MAX_EPISODES]
    at = places(some, length=case.length, horizon=case.horizon, seed=case.seed)
    signals = {name: tuple(n for n in names if n in case.vectors) for name, names in _entities(case).items()}
    parts = {**{name: names for name, names in signals.items() if names}, STEPS: case.vectors}
    real, odd = (dict[str, list[float]]((name, []) for name in parts) for _ in range(2))
    for number, (episode, now) in enumerate(zip(some, at, strict=True)):
        before = _together(case.world.surprise(episode))
        for name, names in parts.items():
            jumped = jump(episode, [now + 1], names[:1], case.seed + number)
            real[name].append(float(before[name][now]))
            odd[name].append(float(_together(case.world.surprise(jumped))[name][now]))
    for name in parts:
        values = np.asarray(real[name])
        seldom_small(case, TOGETHER, values, f"p-values of {name} on real steps")
        share = separation(np.asarray(odd[name]), values)
        problem = f"p-values of {name} at jumps of a signal are below those of real steps in {share:.0%} of pairs"
        TOGETHER.holds(share >= 0.75, f"{problem} (chance: 50%)")


def surprise_uniform(case: WorldCase) -> None:
    """Half of the p-values of real steps are at most 0.5, unless most errors are equal."""
    if not _calibrated(case):
        return
    at = places(case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    found = [case.world.surprise(episode) for episode in case.episodes]
    columns: dict[str, NDArray[np.floating]] = {
        name: np.asarray([one.p_values[name][now] for one, now in zip(found, at, strict=True)]) for name in case.vectors
    }
    for name, values in columns.items():
        if len(np.unique(values)) < len(values) / 3:  # the errors of an exact world are rounding errors, often equal
            continue
        count = int((values <= 0.5).sum())
        chance = tails(count, len(values), 0.5, case.num_calibration).low
        problem = f"{count} of {len(values)} p-values of {name!r} on real steps are at most 0.5 (chance {chance:.2g})"
        UNIFORM.holds(chance >= case.alpha, problem)


def _calibrated(case: WorldCase) -> bool:
    """Whether there are p-values; `refusals_name_what_is_missing` checks worlds without a calibration."""
    return case.predict(case.cut()).calibrated


def _entities(case: WorldCase) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in case.card.predicts:
        entity = case.card.schema[name].entity
        if entity is not None:
            found[entity] = (*found.get(entity, ()), name)
    return found


def _together(surprise: Surprise) -> Mapping[str, NDArray[np.floating]]:
    return {**surprise.entities, STEPS: surprise.steps}


def _check_moments(case: WorldCase, found: Surprise) -> None:
    small = int((found.steps <= MAX_P_VALUE).sum())
    expected = min(MAX_MOMENTS, small)
    problem = f"{len(found.moments)} moments, but {small} steps have a p-value of at most {MAX_P_VALUE}"
    MOMENTS.holds(len(found.moments) == expected, f"{problem}; expected {expected}")
    steps = [moment.step for moment in found.moments]
    MOMENTS.holds(len(set(steps)) == len(steps), f"a step occurs twice in the moments: {steps}")
    values = [moment.p_value for moment in found.moments]
    MOMENTS.holds(values == sorted(values), f"the p-values of the moments are not in ascending order: {values}")
    smallest = np.sort(found.steps)[:expected].tolist()
    MOMENTS.holds(values == smallest, f"the moments have p-values {values}, the smallest are {smallest}")
    for moment in found.moments:
        inside = 0 <= moment.step < len(found.steps)
        MOMENTS.holds(inside, f"a moment is at step {moment.step}, expected 0 to {len(found.steps) - 1}")
        p_value = float(found.steps[moment.step])
        problem = f"the moment at step {moment.step} has p-value {moment.p_value:.3g}, but the step has {p_value:.3g}"
        MOMENTS.holds(moment.p_value == p_value, problem)
        names = sorted(moment.signals)
        problem = f"the moment at step {moment.step} names {names}, expected {sorted(case.card.predicts)}"
        MOMENTS.holds(names == sorted(case.card.predicts), problem)
        each = [float(found.p_values[name][moment.step]) for name in moment.signals]
        problem = f"the signals of the moment at step {moment.step} are not in ascending order of p-values: {each}"
        MOMENTS.holds(each == sorted(each), problem)
