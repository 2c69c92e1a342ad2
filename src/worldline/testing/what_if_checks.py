"""The clause on what `World.what_if` says that it inferred: full, the hidden cause, or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.testing.clauses import Clause, difference
from worldline.testing.world_case import WorldCase
from worldline.world.base import Abduction

ABDUCTION = Clause(
    name="world.abduction",
    look="WhatIf.abduction and reason; what was inferred from the episode, neither more nor less",
)


def abduction_honest(case: WorldCase) -> None:
    """What was inferred is what is said: nothing after the branch matters with `none`, something with `hidden_cause`.

    The card lists 'abducts' if and only if something is inferred; what is less than full has a reason.
    """
    at, heeded = case.length - 1, False
    kinds: set[Abduction] = set()
    for number, episode in enumerate(case.episodes[:5]):
        taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
        others = {name: value[::-1] for name, value in taken.items()}
        found = case.world.what_if(episode, at, others)
        kinds.add(found.abduction)
        full = found.abduction is Abduction.FULL
        seen = f"abduction is {found.abduction.value}, with the reason {found.reason!r}"
        ABDUCTION.holds(bool(found.reason) != full, seen)
        if full:
            continue
        again = case.world.what_if(_ends_as(episode, case.episodes[number + 1 - len(case.episodes)], at), at, others)
        differs = max(difference(again.signals[name], value) for name, value in found.signals.items())
        if found.abduction is Abduction.NONE:
            seen = "abduction is none, and other observations after the branch change the answer"
            ABDUCTION.holds(differs <= case.tolerance, seen)
        heeded = heeded or differs > 0
    seen = "abduction is hidden_cause, and whatever follows the branch, the answer is the same: that is none"
    ABDUCTION.holds(heeded or Abduction.HIDDEN_CAUSE not in kinds, seen)
    listed, infers = "abducts" in case.card.abilities, bool(kinds - {Abduction.NONE})
    seen = f"the card {'lists' if listed else 'does not list'} 'abducts', and abduction was {_words(kinds)}"
    ABDUCTION.holds(listed == infers, seen)


def _ends_as(episode: Episode, other: Episode, at: int) -> Episode:
    """The episode up to observation `at`, with what was observed in another one after it."""

    def joined(first: Arrays, second: Arrays) -> Arrays:
        return {name: _spliced(value, second[name], at + 1) for name, value in first.items() if name in second}

    return replace(
        episode,
        observations=joined(episode.observations, other.observations),
        observed=joined(episode.observed, other.observed),
    )


def _spliced(first: np.ndarray, second: np.ndarray, at: int) -> np.ndarray:
    """`first`, from index `at` on with the values of `second` as far as it goes."""
    found, stop = first.copy(), min(len(first), len(second))
    found[at:stop] = second[at:stop]
    return found


def _words(kinds: set[Abduction]) -> str:
    return " and ".join(sorted(kind.value for kind in kinds))
