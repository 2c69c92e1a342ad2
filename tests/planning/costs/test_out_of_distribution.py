from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.planning.costs.rollouts import rollout_of

from worldline.errors import ConfigError, InputError
from worldline.planning.costs import OODPenalty, RequireInDistribution

TRUST = np.array([[[0.5, 0.05], [0.04, 0.01], [1.0, 0.0]]])[:, :, None]  # one world, three plans, two steps
SEEN = rollout_of({}, trust=lambda least: torch.from_numpy(TRUST))


def test_what_is_familiar_enough_costs_nothing_and_the_rest_in_proportion() -> None:
    cost = OODPenalty(trust=0.05, weight=3.0)(SEEN)
    np.testing.assert_allclose(cost[0, :, 0], [[0, 0], [0.6, 2.4], [0, 3.0]], atol=1e-12)


def test_the_rule_is_broken_by_the_strangest_step() -> None:
    np.testing.assert_allclose(RequireInDistribution(trust=0.05)(SEEN), [[0, 0.8, 1.0]], atol=1e-12)


def test_a_rollout_that_no_world_made_is_refused() -> None:
    for one in (RequireInDistribution(), OODPenalty()):
        with pytest.raises(InputError, match="has no trust"):
            one(rollout_of({}))


@pytest.mark.parametrize("trust", [0.0, 1.1, float("nan")])
def test_a_trust_that_is_no_probability_is_refused(trust: float) -> None:
    for kind in (RequireInDistribution, OODPenalty):
        with pytest.raises(ConfigError, match="trust is"):
            kind(trust=trust)


@pytest.mark.parametrize("weight", [0.0, float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        OODPenalty(weight=weight)
