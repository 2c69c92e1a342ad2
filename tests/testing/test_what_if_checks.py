from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.testing.exact_world import Exact
from tests.testing.planted import catches, passes, replacing, with_card, world_case

from worldline.world.base import Abduction, WhatIf


class FromThePast(Exact):
    """Predicts again from what was known at the branch."""

    abilities = ()

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.NONE, reason="exact keeps no noise.")

    def replayed(self, episode, at, actions):
        return self.rolled(episode, at, actions, np.zeros((len(actions["push"]), 2)))


class HiddenDrift(Exact):
    """Infers what stays the same, the mean of the noise, and leaves the rest of it out."""

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.HIDDEN_CAUSE, reason="steps are drawn anew.")

    def replayed(self, episode, at, actions):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        return self.rolled(episode, at, actions, np.tile(left.mean(0), (len(actions["push"]), 1)))


def shaken(found: WhatIf) -> dict[str, np.ndarray]:
    position = found.signals["position"]
    return {"position": position + 0.1 * np.random.default_rng(0).standard_normal(position.shape)}


def answering(base: type[Exact], **fields: Any) -> type[Exact]:
    """A world that changes fields of each answer."""
    return replacing(base, "what_if", **fields)


Peeks = answering(with_card(Exact, abilities=()), abduction=Abduction.NONE, reason="nothing was inferred.")
OfThePast = answering(with_card(FromThePast, abilities=("abducts",)), abduction=Abduction.HIDDEN_CAUSE)
test_a_correct_world_passes = passes([FromThePast, HiddenDrift], ["abduction_honest"], world_case)

WORLD_FAULTS = [
    (
        answering(Exact, factual=lambda found: found.signals),
        "what_if_factual",
        "factual changed with the queried actions",
    ),
    (answering(Exact, signals=shaken), "what_if_factual", "the logged actions do not lead to factual"),
    (
        answering(FromThePast, abduction=Abduction.FULL, reason=""),
        "what_if_factual",
        "abduction is full, but the logged actions do not lead to the logged obs",
    ),
    (Peeks, "abduction_honest", "abduction is none, but other observations after the branch change the"),
    (OfThePast, "abduction_honest", "abduction is hidden_cause, but the answer does not depend on"),
    (with_card(Exact, abilities=()), "abduction_honest", "the card does not list 'abducts', but"),
    (with_card(FromThePast, abilities=("abducts",)), "abduction_honest", "the card lists 'abducts',"),
    (answering(FromThePast, reason=""), "abduction_honest", "abduction is none with the reason ''"),
    (answering(Exact, reason="well, nearly."), "abduction_honest", "full with the reason 'well, nearly.'"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
