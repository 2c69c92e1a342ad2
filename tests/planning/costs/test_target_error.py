from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.planning.costs.rollouts import SHAPE, rollout, rollout_of

from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Rollout
from worldline.planning.costs import target_error


def target_cost(seen: Rollout, targets: dict, scale: dict) -> np.ndarray:
    """The cost as an array."""
    return target_error.target_cost(seen, {n: torch.from_numpy(np.array(v)) for n, v in targets.items()}, scale).numpy()


def test_cost_by_hand() -> None:
    imagined = rollout(place=np.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 1, 1, 2, 2))  # 2 steps, 2 components
    cost = target_cost(imagined, {"place": np.array([[0.0, 1.0]])}, {"place": 2.0})
    # step 1: (1/4 + 4/4) / 2; step 2: (4/4 + 1/4) / 2
    assert cost.tolist() == [[[[(0.25 + 1) / 2, (1 + 0.25) / 2]]]]


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


def test_cost_does_not_mix_worlds_or_versions() -> None:
    values = np.zeros((*SHAPE, 2))
    values[1, 2] = 9.0
    cost = target_cost(rollout(place=values), {"place": np.array([[0.0, 0.0], [9.0, 9.0]])}, {"place": 1.0})
    assert cost.sum(-1).mean(-1).tolist() == [[0.0, 0.0, 0.0], [405.0, 405.0, 0.0]]


@pytest.mark.parametrize(
    ("targets", "scale", "error", "message"),
    [
        ({}, {}, InputError, "no target"),
        ({"plase": np.zeros((2, 2))}, {"plase": 1.0}, UnknownNameError, "'place'"),
        ({"place": np.zeros((2, 2))}, {}, UnknownNameError, "no scale"),
        ({"place": np.zeros((2, 2))}, {"place": 0.0}, InputError, "above 0"),
        ({"place": np.zeros(2)}, {"place": 1.0}, InputError, r"\(2,\).*\(2, 2\)"),
        ({"place": np.zeros((2, 3))}, {"place": 1.0}, InputError, r"\(2, 3\).*\(2, 2\)"),
    ],
)
def test_cost_refuses(targets: dict, scale: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        target_cost(rollout(place=np.zeros((*SHAPE, 2))), targets, scale)
