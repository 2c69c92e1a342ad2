"""Clauses on `World.surprise`: p-values of signals, entities and steps, missing values and moments."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.stats import tails
from worldline.testing.clauses import as_float, clause, has_shape, holds
from worldline.testing.confidence import detects, seldom_small
from worldline.testing.log_windows import places
from worldline.testing.world_case import WorldCase, jump
from worldline.world.base import Surprise

MAX_MOMENTS, MAX_P_VALUE = 10, 0.1

STEPS: Final = "every step"

MAX_EPISODES: Final = 40
"""Episodes in which jumps are evaluated; each takes one call per signal."""


@clause("Surprise; p-values [T] of each predicted signal, entity and step", applies=WorldCase.calibrated)
def surprise_parts(case: WorldCase) -> None:
    """Each predicted signal, each entity with a predicted signal and the steps have p-values [T] in [0, 1]."""
    signals, entities = set(case.card.predicts), set(_entities(case))
    for episode in case.episodes[:3]:
        surprise = case.world.surprise(episode)
        holds(set(surprise.p_values) == signals, f"p-values of {sorted(surprise.p_values)}, expected {sorted(signals)}")
        holds(set(surprise.entities) == entities, f"entities {sorted(surprise.entities)}, expected {sorted(entities)}")
        for name, value in _p_values(surprise).items():
            has_shape(f"p-value of {name}", value, (episode.num_steps,))
            holds((as_float(value) >= 0) & (as_float(value) <= 1), f"p-values of {name} are outside [0, 1]")


@clause("Surprise; p-values are uniform on real steps, and small at anomalies", applies=WorldCase.calibrated)
def surprise_is_p_value(case: WorldCase) -> None:
    """P-values of signals, entities and steps are uniform on real steps, and small where one of their signals jumps.

    Half of those of signals are at most 0.5, unless most errors are equal.
    """
    pairs = places(case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    entities = {entity: tuple(n for n in names if n in case.vectors) for entity, names in _entities(case).items()}
    signals = {repr(name): (name,) for name in case.vectors}
    real = [_p_values(case.world.surprise(episode)) for episode in case.episodes]
    jumped: dict[str, list[Arrays]] = {name: [] for name in case.vectors}
    for name, (number, (episode, now)) in product(case.vectors, enumerate(pairs[:MAX_EPISODES])):
        odd_episode = jump(episode, [now + 1], (name,), case.seed + number)
        jumped[name].append(_p_values(case.world.surprise(odd_episode)))
    for part, names in {**signals, **entities, STEPS: case.vectors}.items():
        if not names:
            continue
        values, odd = (
            np.asarray([p_values[part][now] for p_values, (_, now) in zip(group, pairs, strict=False)])
            for group in (real, jumped[names[0]])
        )
        seldom_small(case, values, f"p-values of {part} on real steps")
        detects(odd, values, f"at jumps of {names[0]!r}, the p-value of {part}")
        # The errors of an exact world are rounding errors, often equal.
        if part in signals and len(np.unique(values)) >= len(values) / 3:
            count = int((values <= 0.5).sum())
            chance = tails(count, len(values), 0.5, case.num_calibration).low
            problem = f"{count} of {len(values)} p-values of {part} on real steps are at most 0.5"
            holds(chance >= case.alpha, f"{problem} (chance {chance:.2g})")


@clause("Surprise; p-value 1 of a part where all of its values are missing", applies=WorldCase.calibrated)
def surprise_of_missing(case: WorldCase) -> None:
    """A missing value has p-value 1; so has an entity or step if all of its values are missing."""
    episode = case.episodes[0]
    at = episode.num_steps  # the last observation: no step starts from it
    predicts = tuple(name for name in case.card.predicts if name in episode.observations)
    parts = {**{repr(name): (name,) for name in predicts}, **_entities(case), STEPS: predicts}
    for part, names in parts.items():
        observed = {name: episode.mask(name) for name in episode.observations}
        hidden = {name: mask & ((np.arange(at + 1) != at) | (name not in names)) for name, mask in observed.items()}
        value = float(_p_values(case.world.surprise(replace(episode, observed=hidden)))[part][at - 1])
        holds(value == 1, f"all of {part} is missing at observation {at}: its p-value is {value:.3g}, expected 1")


@clause("Surprise.moments; at most ten, smallest p-value first, none above 0.1", applies=WorldCase.calibrated)
def moments_in_order(case: WorldCase) -> None:
    """Moments are the most surprising steps, smallest p-value first, with their signals in the same order."""
    for number, episode in enumerate(case.episodes[:10]):
        odd = range(1, episode.num_steps + 1, 2)
        _check_moments(case, episode)
        _check_moments(case, jump(episode, odd, tuple(case.vectors), case.seed + number))


def _p_values(surprise: Surprise) -> Arrays:
    """Of signals (in quotes), entities and steps."""
    signals = {repr(name): value for name, value in surprise.p_values.items()}
    return {**signals, **surprise.entities, STEPS: surprise.steps}


def _entities(case: WorldCase) -> dict[str, tuple[str, ...]]:
    """The predicted signals of each entity."""
    entity_of = {name: case.card.schema[name].entity for name in case.card.predicts}
    return {entity: tuple(n for n in entity_of if entity_of[n] == entity) for entity in entity_of.values() if entity}


def _check_moments(case: WorldCase, episode: Episode) -> None:
    surprise = case.world.surprise(episode)
    steps, values = ([getattr(moment, name) for moment in surprise.moments] for name in ("step", "p_value"))
    small = np.sort(surprise.steps[surprise.steps <= MAX_P_VALUE]).tolist()
    expected = small[:MAX_MOMENTS]
    problem = f"{len(values)} moments, but {len(small)} steps have a p-value of at most {MAX_P_VALUE}"
    holds(len(values) == len(expected), f"{problem}; expected {len(expected)}")
    holds(len(set(steps)) == len(steps), f"a step occurs twice in the moments: {steps}")
    holds(values == sorted(values), f"the p-values of the moments are not in ascending order: {values}")
    holds(values == expected, f"the moments have p-values {values}, the smallest are {expected}")
    for moment in surprise.moments:
        what = f"the moment at step {moment.step}"
        holds(0 <= moment.step < len(surprise.steps), f"{what} is outside 0 to {len(surprise.steps) - 1}")
        p_value = float(surprise.steps[moment.step])
        holds(moment.p_value == p_value, f"{what} has p-value {moment.p_value:.3g}, but the step has {p_value:.3g}")
        names, predicts = sorted(moment.signals), sorted(case.card.predicts)
        holds(names == predicts, f"{what} names {names}, expected {predicts}")
        p_values = [float(surprise.p_values[name][moment.step]) for name in moment.signals]
        holds(p_values == sorted(p_values), f"the signals of {what} are not in ascending order of p-values: {p_values}")
