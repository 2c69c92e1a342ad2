from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.planning.costs.rollouts import rollout, rollout_of

from worldline.planning.base import Rollout
from worldline.planning.costs import rollout_signals


def target_cost(seen: Rollout, targets: dict, scale: dict) -> np.ndarray:
    """The cost as an array."""
    values = {n: torch.from_numpy(np.array(v)) for n, v in targets.items()}
    return rollout_signals.target_cost(seen, values, scale).numpy()


def test_cost_adds_signals_and_takes_a_scale_per_component() -> None:
    imagined = rollout(
        place=np.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1).repeat(2, -1),  # 2 samples
        heat=np.full((1, 1, 2, 1, 1), 7.0),
    )
    targets = {"place": np.zeros((1, 2)), "heat": np.array([[5.0]])}
    cost = target_cost(imagined, targets, {"place": np.array([1.0, 10.0]), "heat": 1.0})
    assert cost.flatten() == pytest.approx([(1 + 0.01) / 2 + 4, (9 + 0.09) / 2 + 4])


def test_errors_of_periodic_signals_are_wrapped() -> None:
    turned = rollout_of({"turn": np.array([355.0]).reshape(1, 1, 1, 1, 1)}, periods={"turn": 360.0})
    assert target_cost(turned, {"turn": np.array([[5.0]])}, {"turn": 5.0}).item() == 4.0


def test_labels_are_right_or_wrong() -> None:
    imagined = rollout(gear=np.array([0, 3, 1]).reshape(1, 1, 1, 3))
    assert target_cost(imagined, {"gear": np.array([1])}, {"gear": 1.0}).tolist() == [[[[1.0, 1.0, 0.0]]]]
