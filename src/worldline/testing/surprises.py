"""Clauses on `World.surprise` and `World.what_if`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.stats import tails
from worldline.testing.bands import detects, seldom_small
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import clause
from worldline.testing.comparing import as_float, difference, has_shape, holds
from worldline.testing.log_edits import jump
from worldline.world.base import Abduction, Surprise

STEPS: Final = "every step"

MAX_EPISODES: Final = 40
"""Episodes in which jumps are evaluated; each takes one call per signal."""


@clause("world", "Surprise; p-values [T] of each part, and the ten most surprising steps", applies=WorldCase.calibrated)
def surprise_parts(case: WorldCase) -> None:
    """Each predicted signal, entity and step has p-values [T] in [0, 1], and the smallest p-values are moments."""
    expected = sorted([*map(repr, case.card.predicts), *_entities(case), STEPS])
    for number, episode in enumerate(case.episodes[:5]):
        odd = jump(episode, range(1, episode.num_steps + 1, 2), case.vectors, case.seed + number)
        for surprise in map(case.world.surprise, (episode, odd)):
            p_values = _p_values(surprise)
            holds(sorted(p_values) == expected, f"p-values of {sorted(p_values)}, expected {expected}")
            for name, value in p_values.items():
                has_shape(f"p-value of {name}", value, (episode.num_steps,))
                holds((as_float(value) >= 0) & (as_float(value) <= 1), f"p-values of {name} are outside [0, 1]")
            _check_moments(surprise, sorted(case.card.predicts))


def _check_moments(surprise: Surprise, predicts: list[str]) -> None:
    """Raises BreachError unless moments are the steps with p-values up to 0.1, smallest first, at most ten."""
    steps, values = ([getattr(moment, name) for moment in surprise.moments] for name in ("step", "p_value"))
    expected = np.sort(surprise.steps[surprise.steps <= 0.1])[:10].tolist()
    holds(len(set(steps)) == len(steps), f"a step occurs twice in the moments: {steps}")
    holds(values == expected, f"the moments have p-values {values}, the smallest are {expected}")
    for moment in surprise.moments:
        what = f"the moment at step {moment.step}"
        p_value = float(surprise.steps[moment.step])
        holds(moment.p_value == p_value, f"{what} has p-value {moment.p_value:.3g}, but the step has {p_value:.3g}")
        holds(sorted(moment.signals) == predicts, f"{what} names {sorted(moment.signals)}, expected {predicts}")
        p_values = [float(surprise.p_values[name][moment.step]) for name in moment.signals]
        holds(p_values == sorted(p_values), f"the signals of {what} are not in ascending order of p-values: {p_values}")


@clause("world", "Surprise; p-values are uniform on real steps, and small at anomalies", applies=WorldCase.calibrated)
def surprise_is_p_value(case: WorldCase) -> None:
    """P-values of signals, entities and steps are uniform on real steps, and small where one of their signals jumps.

    Half of those of signals are at most 0.5, unless most errors are equal.
    """
    pairs = case.places()
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


@clause("world", "Surprise; p-value 1 of a part where all of its values are missing", applies=WorldCase.calibrated)
def surprise_of_missing(case: WorldCase) -> None:
    """A missing value has p-value 1; so has an entity or step if all of its values are missing."""
    episode = case.episodes[0]
    at = episode.num_steps  # the last observation: no step starts from it
    predicts = tuple(name for name in case.card.predicts if name in episode.observations)
    for part, names in {**{repr(name): (name,) for name in predicts}, **_entities(case), STEPS: predicts}.items():
        observed = {name: episode.mask(name) for name in episode.observations}
        hidden = {name: mask & ((np.arange(at + 1) != at) | (name not in names)) for name, mask in observed.items()}
        value = float(_p_values(case.world.surprise(replace(episode, observed=hidden)))[part][at - 1])
        holds(value == 1, f"all of {part} is missing at observation {at}: its p-value is {value:.3g}, expected 1")


def _p_values(surprise: Surprise) -> Arrays:
    """Of signals (in quotes), entities and steps."""
    signals = {repr(name): value for name, value in surprise.p_values.items()}
    return {**signals, **surprise.entities, STEPS: surprise.steps}


def _entities(case: WorldCase) -> dict[str, tuple[str, ...]]:
    """The predicted signals of each entity."""
    entity_of = {name: case.card.schema[name].entity for name in case.card.predicts}
    return {entity: tuple(n for n in entity_of if entity_of[n] == entity) for entity in entity_of.values() if entity}


@clause("world", "WhatIf; the logged actions lead to factual")
def what_if_factual(case: WorldCase) -> None:
    """The logged actions lead to `factual`, which does not depend on the query; later actions have no effect."""
    at, half, names = case.length - 1, case.horizon // 2, set(case.card.predicts)
    for episode in case.episodes[:3]:
        taken = case.taken(episode)
        same = case.world.what_if(episode, at, taken)
        holds(set(same.signals) == names, f"signals {sorted(same.signals)}, the card predicts {sorted(names)}")
        for name, value in same.signals.items():
            has_shape(repr(name), value, (case.horizon, *case.card.schema[name].shape))
        case.equal(same.signals, same.factual, "the logged actions do not lead to factual")
        if same.abduction is Abduction.FULL:
            logged = {n: episode.observations[n][at + 1 : at + 1 + case.horizon] for n in case.card.predicts}
            problem = "abduction is full, but the logged actions do not lead to the logged observations"
            case.equal(same.factual, logged, problem)
        turned = {n: np.concatenate([value[:half], value[half:][::-1] * 0]) for n, value in taken.items()}
        other = case.world.what_if(episode, at, turned)
        case.equal(other.factual, same.factual, "factual changed with the queried actions")
        early, expected = ({n: value[:half] for n, value in answer.signals.items()} for answer in (other, same))
        case.equal(early, expected, "later actions changed earlier signals")


@clause("world", "WhatIf.abduction and reason; exactly what was inferred from the episode")
def abduction_honest(case: WorldCase) -> None:
    """`abduction` is correct: observations after the branch matter with `hidden_cause`, but not with `none`.

    The card lists 'abducts' if and only if something is inferred. Anything less than full has a reason.
    """
    at, matters, kinds = case.length - 1, False, set[Abduction]()
    for number, episode in enumerate(case.episodes[:5]):
        others = {name: value[::-1] for name, value in case.taken(episode).items()}
        first = case.world.what_if(episode, at, others)
        kinds.add(first.abduction)
        full = first.abduction is Abduction.FULL
        holds(bool(first.reason) != full, f"abduction is {first.abduction.value} with the reason {first.reason!r}")
        again = case.world.what_if(_ends_as(episode, case.episodes[number + 1 - len(case.episodes)], at), at, others)
        differs = max(difference(again.signals[name], value) for name, value in first.signals.items())
        problem = "abduction is none, but other observations after the branch change the answer"
        holds(first.abduction is not Abduction.NONE or differs <= case.tolerance, problem)
        matters = matters or full or differs > 0
    problem = "abduction is hidden_cause, but the answer does not depend on observations after the branch"
    holds(matters or Abduction.HIDDEN_CAUSE not in kinds, problem)
    listed, was = "abducts" in case.card.abilities, " and ".join(sorted(kind.value for kind in kinds))
    problem = f"the card {'lists' if listed else 'does not list'} 'abducts', but abduction was {was}"
    holds(listed == bool(kinds - {Abduction.NONE}), problem)


def _ends_as(episode: Episode, other: Episode, at: int) -> Episode:
    """The episode up to observation `at`, followed by the observations of another one, as far as they go."""

    def joined(first: Arrays, second: Arrays) -> Arrays:
        stop, names = min(episode.num_steps, other.num_steps) + 1, [name for name in first if name in second]
        parts = {name: [first[name][: at + 1], second[name][at + 1 : stop], first[name][stop:]] for name in names}
        return {name: np.concatenate(part) for name, part in parts.items()}

    observations = joined(episode.observations, other.observations)
    return replace(episode, observations=observations, observed=joined(episode.observed, other.observed))
