"""Clauses on `World.what_if`: the factual path, later actions, and what was inferred from the episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.testing.clauses import clause, difference, has_shape, holds
from worldline.testing.world_case import WorldCase
from worldline.world.base import Abduction


@clause("WhatIf; the logged actions lead to factual")
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


@clause("WhatIf.abduction and reason; exactly what was inferred from the episode")
def abduction_honest(case: WorldCase) -> None:
    """`abduction` is correct: observations after the branch matter with `hidden_cause`, but not with `none`.

    The card lists 'abducts' if and only if something is inferred. Anything less than full has a reason.
    """
    at, matters, kinds = case.length - 1, False, set[Abduction]()
    for number, episode in enumerate(case.episodes[:5]):
        others = {name: value[::-1] for name, value in case.taken(episode).items()}
        answer = case.world.what_if(episode, at, others)
        kinds.add(answer.abduction)
        full = answer.abduction is Abduction.FULL
        holds(bool(answer.reason) != full, f"abduction is {answer.abduction.value} with the reason {answer.reason!r}")
        if full:
            continue
        again = case.world.what_if(_ends_as(episode, case.episodes[number + 1 - len(case.episodes)], at), at, others)
        differs = max(difference(again.signals[name], value) for name, value in answer.signals.items())
        problem = "abduction is none, but other observations after the branch change the answer"
        holds(answer.abduction is not Abduction.NONE or differs <= case.tolerance, problem)
        matters = matters or differs > 0
    problem = "abduction is hidden_cause, but the answer does not depend on observations after the branch"
    holds(matters or Abduction.HIDDEN_CAUSE not in kinds, problem)
    listed, infers = "abducts" in case.card.abilities, bool(kinds - {Abduction.NONE})
    was = " and ".join(sorted(kind.value for kind in kinds))
    holds(listed == infers, f"the card {'lists' if listed else 'does not list'} 'abducts', but abduction was {was}")


def _ends_as(episode: Episode, other: Episode, at: int) -> Episode:
    """The episode up to observation `at`, followed by the observations of another one, as far as they go."""

    def joined(first: Arrays, second: Arrays) -> Arrays:
        stop, names = min(episode.num_steps, other.num_steps) + 1, [name for name in first if name in second]
        parts = {name: [first[name][: at + 1], second[name][at + 1 : stop], first[name][stop:]] for name in names}
        return {name: np.concatenate(part) for name, part in parts.items()}

    observations = joined(episode.observations, other.observations)
    return replace(episode, observations=observations, observed=joined(episode.observed, other.observed))
