from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.testing.exact_world import Exact
from tests.testing.planted import altered, catches, passes, world_case

from worldline.testing.what_if_checks import abduction_honest, what_if_factual
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


class ClaimsAbduction(FromThePast):
    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.FULL, reason="")


def shaken(found: WhatIf) -> WhatIf:
    noise = 0.1 * np.random.default_rng(0).standard_normal(found.signals["position"].shape)
    return replace(found, signals={"position": found.signals["position"] + noise})


class SaysNoneAndPeeks(Exact):
    abilities = ()

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.NONE, reason="nothing was inferred.")


class HiddenCauseOfThePastAlone(FromThePast):
    abilities = ("abducts",)

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.HIDDEN_CAUSE)


test_a_correct_world_passes = passes([FromThePast, HiddenDrift], [abduction_honest], world_case)

WORLD_FAULTS = [
    (
        altered(Exact, "FactualIsTheAnswer", what_if=lambda found: replace(found, factual=found.signals)),
        what_if_factual,
        "factual changed with the queried actions",
    ),
    (altered(Exact, "ForgetsTheDraws", what_if=shaken), what_if_factual, "the logged actions do not lead to factual"),
    (ClaimsAbduction, what_if_factual, "abduction is full, but the logged actions do not lead to the logged obs"),
    (SaysNoneAndPeeks, abduction_honest, "abduction is none, but other observations after the branch change the"),
    (HiddenCauseOfThePastAlone, abduction_honest, "abduction is hidden_cause, but the answer does not depend on"),
    (altered(Exact, "AbductsUnlisted", abilities=()), abduction_honest, "the card does not list 'abducts', but"),
    (altered(FromThePast, "ListsAbduction", abilities=("abducts",)), abduction_honest, "the card lists 'abducts',"),
    (
        altered(FromThePast, "NoReason", what_if=lambda found: replace(found, reason="")),
        abduction_honest,
        "abduction is none with the reason ''",
    ),
    (
        altered(Exact, "FullWithAReason", what_if=lambda found: replace(found, reason="well, nearly.")),
        abduction_honest,
        "abduction is full with the reason 'well, nearly.'",
    ),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
