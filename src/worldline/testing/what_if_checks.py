"""The clause on `WhatIf.abduction`: full, hidden cause, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.testing.clauses import Clause, difference
from worldline.testing.world_case import WorldCase
from worldline.world.base import Abduction

ABDUCTION = Clause(
    name="world.abduction",
    look="WhatIf.abduction and reason; exactly what was inferred from the episode",
)


def abduction_honest(case: WorldCase) -> None:
    """`abduction` is correct: observations after the branch matter with `hidden_cause`, but not with `none`.

    The card lists 'abducts' if and only if something is inferred. Anything less than full has a reason.
    """
    at, matters = case.length - 1, False
    kinds: set[Abduction] = set()
    for number, episode in enumerate(case.episodes[:5]):
        taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
        others = {name: value[::-1] for name, value in taken.items()}
        found = case.world.what_if(episode, at, others)
        kinds.add(found.abduction)
        full = found.abduction is Abduction.FULL
        problem = f"abduction is {found.abduction.value} with the reason {found.reason!r}"
        ABDUCTION.holds(bool(found.reason) != full, problem)
        if full:
            continue
        again = case.world.what_if(_ends_as(episode, case.episodes[number + 1 - len(case.episodes)], at), at, others)
        differs = max(difference(again.signals[name], value) for name, value in found.signals.items())
        if found.abduction is Abduction.NONE:
            problem = "abduction is none, but other observations after the branch change the answer"
            ABDUCTION.holds(differs <= case.tolerance, problem)
        matters = matters or differs > 0
    problem = "abduction is hidden_cause, but the answer does not depend on observations after the branch"
    ABDUCTION.holds(matters or Abduction.HIDDEN_CAUSE not in kinds, problem)
    listed, infers = "abducts" in case.card.abilities, bool(kinds - {Abduction.NONE})
    problem = f"the card {'lists' if listed else 'does not list'} 'abducts', but abduction was {_words(kinds)}"
    ABDUCTION.holds(listed == infers, problem)


def _ends_as(episode: Episode, other: Episode, at: int) -> Episode:
    """The episode up to observation `at`, followed by the observations of another one."""

    def joined(first: Arrays, second: Arrays) -> Arrays:
        return {name: _spliced(value, second[name], at + 1) for name, value in first.items() if name in second}

    return replace(
        episode,
        observations=joined(episode.observations, other.observations),
        observed=joined(episode.observed, other.observed),
    )


def _spliced(first: np.ndarray, second: np.ndarray, at: int) -> np.ndarray:
    """`first` with the values of `second` from index `at` on, as far as `second` goes."""
    found, stop = first.copy(), min(len(first), len(second))
    found[at:stop] = second[at:stop]
    return found


def _words(kinds: set[Abduction]) -> str:
    return " and ".join(sorted(kind.value for kind in kinds))
