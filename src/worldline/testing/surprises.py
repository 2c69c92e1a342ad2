"""Clauses on `World.surprise` beyond the p-values of signals: entities, steps, moments, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.stats import separation, tails
from worldline.testing.clauses import Clause
from worldline.testing.confidence import seldom_small
from worldline.testing.cuts import places
from worldline.testing.world_case import WorldCase, jump
from worldline.world.base import Surprise

MAX_MOMENTS, LARGEST_P_VALUE = 10, 0.1

EVERY: Final = "every step"

MANY: Final = 40
"""Episodes whose jumps are looked at; each takes a call or two of its own."""

NAMES = Clause(
    name="world.surprise_parts",
    look="Surprise.entities and steps; the entities of predicted signals, p-values [T] each",
)
MOMENTS = Clause(
    name="world.moments", look="Surprise.moments; at most ten, the least p-value first, none above 0.1, as in steps"
)
MISSING = Clause(
    name="world.surprise_missing", look="Surprise; 1 where the value is missing, in signals, entities and steps"
)
TOGETHER = Clause(
    name="world.surprise_together", look="Surprise.entities and steps; p-values of all of their signals together"
)
UNIFORM = Clause(
    name="world.surprise_uniform", look="Surprise; the share of calibration steps that were at least as surprising"
)


def surprise_parts(case: WorldCase) -> None:
    """There are p-values [T] in [0, 1] of each entity that has a predicted signal, and of each step."""
    if not _calibrated(case):
        return
    entities = set(_entities(case))
    for episode in case.episodes[:3]:
        found = case.world.surprise(episode)
        NAMES.holds(
            set(found.entities) == entities, f"entities {sorted(found.entities)}, and {sorted(entities)} are due"
        )
        for name, value in {**found.entities, EVERY: found.steps}.items():
            due = (episode.num_steps,)
            NAMES.holds(value.shape == due, f"p-values of {name} have shape {value.shape} where {due} is due")
            NAMES.holds(bool(((value >= 0) & (value <= 1)).all()), f"p-values of {name} outside 0 to 1")


def moments_in_order(case: WorldCase) -> None:
    """Moments are the most surprising steps, the least p-value first, with the signals in the same order."""
    if not _calibrated(case):
        return
    for number, episode in enumerate(case.episodes[:10]):
        for seen in (
            episode,
            jump(episode, range(1, episode.num_steps + 1, 2), tuple(case.vectors), case.seed + number),
        ):
            _check_moments(case, case.world.surprise(seen))


def surprise_of_missing(case: WorldCase) -> None:
    """Where an observation is missing the p-value is 1: of a signal, of an entity or step all of which is missing."""
    if not _calibrated(case):
        return
    episode = case.episodes[0]
    at = episode.num_steps  # the last one: no step sets out from it, which is the business of another clause
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
        MISSING.holds(
            value == 1, f"{name!r} is missing at observation {at}, and the p-value of that step is {value:.3g}"
        )
    for entity, names in _entities(case).items():
        value = float(without(*names).entities[entity][at - 1])
        MISSING.holds(value == 1, f"all of {entity!r} is missing at observation {at}, and its p-value is {value:.3g}")
    value = float(without(*predicts).steps[at - 1])
    MISSING.holds(value == 1, f"all is missing at observation {at}, and the p-value of that step is {value:.3g}")


def surprise_together(case: WorldCase) -> None:
    """P-values of an entity, and of a step, are seldom small on real steps and small where one of its signals jumps."""
    if not _calibrated(case):
        return
    some = case.episodes[:MANY]
    at = places(some, length=case.length, horizon=case.horizon, seed=case.seed)
    signals = {name: tuple(n for n in names if n in case.vectors) for name, names in _entities(case).items()}
    parts = {**{name: names for name, names in signals.items() if names}, EVERY: case.vectors}
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
        told = separation(np.asarray(odd[name]), values)
        seen = f"p-values of {name} where a signal of it jumps are below those of real steps in {told:.0%} of pairs"
        TOGETHER.holds(told >= 0.75, f"{seen} (50% tells nothing)")


def surprise_uniform(case: WorldCase) -> None:
    """P-values of real steps are not all large either: half of them are at most 0.5, where errors are not all alike."""
    if not _calibrated(case):
        return
    at = places(case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    found = [case.world.surprise(episode) for episode in case.episodes]
    columns: dict[str, NDArray[np.floating]] = {
        name: np.asarray([one.p_values[name][now] for one, now in zip(found, at, strict=True)]) for name in case.vectors
    }
    for name, values in columns.items():
        if len(np.unique(values)) < len(values) / 3:  # an exact world errs by rounding, and rounding is all alike
            continue
        count = int((values <= 0.5).sum())
        chance = tails(count, len(values), 0.5, case.num_calibration).low
        seen = f"{count} of {len(values)} p-values of {name!r} on real steps are at most 0.5 (chance {chance:.2g})"
        UNIFORM.holds(chance >= case.alpha, seen)


def _calibrated(case: WorldCase) -> bool:
    """Whether there are p-values; that there are none without a calibration is the business of another clause."""
    return case.predict(case.cut()).calibrated


def _entities(case: WorldCase) -> dict[str, tuple[str, ...]]:
    """The predicted signals of each entity that has any."""
    found: dict[str, tuple[str, ...]] = {}
    for name in case.card.predicts:
        entity = case.card.schema[name].entity
        if entity is not None:
            found[entity] = (*found.get(entity, ()), name)
    return found


def _together(surprise: Surprise) -> Mapping[str, NDArray[np.floating]]:
    return {**surprise.entities, EVERY: surprise.steps}


def _check_moments(case: WorldCase, found: Surprise) -> None:
    small = int((found.steps <= LARGEST_P_VALUE).sum())
    due = min(MAX_MOMENTS, small)
    seen = f"{len(found.moments)} moments, where {small} steps have a p-value of at most {LARGEST_P_VALUE}"
    MOMENTS.holds(len(found.moments) == due, f"{seen}: {due} are due")
    steps = [moment.step for moment in found.moments]
    MOMENTS.holds(len(set(steps)) == len(steps), f"a step is named twice: {steps}")
    values = [moment.p_value for moment in found.moments]
    MOMENTS.holds(values == sorted(values), f"the p-values of the moments are not in order: {values}")
    least = np.sort(found.steps)[:due].tolist()
    MOMENTS.holds(values == least, f"the moments have the p-values {values}, and the least of all steps are {least}")
    for moment in found.moments:
        inside = 0 <= moment.step < len(found.steps)
        MOMENTS.holds(inside, f"a moment at step {moment.step} of {len(found.steps)}")
        here = float(found.steps[moment.step])
        seen = f"the moment at step {moment.step} says {moment.p_value:.3g}, and steps says {here:.3g}"
        MOMENTS.holds(moment.p_value == here, seen)
        names = sorted(moment.signals)
        seen = f"the moment at step {moment.step} names {names}, the card predicts {sorted(case.card.predicts)}"
        MOMENTS.holds(names == sorted(case.card.predicts), seen)
        each = [float(found.p_values[name][moment.step]) for name in moment.signals]
        seen = f"the signals of the moment at step {moment.step} are not the most unexpected first: {each}"
        MOMENTS.holds(each == sorted(each), seen)
