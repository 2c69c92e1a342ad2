from __future__ import annotations

import torch
from torch import nn

from worldline.training.weight_average import Average


def layer(value: float) -> nn.Linear:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, value)
    return made


def test_it_moves_by_the_decay_once_it_is_warm() -> None:
    model = layer(0.0)
    average = Average(model, 0.9)
    nn.init.constant_(model.weight, 1.0)
    average.update(1)  # 1 / 11 is kept of the first
    torch.testing.assert_close(average.values["weight"], torch.tensor([[1 - 1 / 11]]))
    nn.init.constant_(model.weight, 0.0)
    average.update(1000)
    torch.testing.assert_close(average.values["weight"], torch.tensor([[0.9 * (1 - 1 / 11)]]))


def test_it_takes_the_place_of_the_parameters_for_a_while() -> None:
    model = layer(3.0)
    average = Average(model, 0.5)
    nn.init.constant_(model.weight, 7.0)
    with average.in_place():
        assert model.weight.item() == 3.0
    assert model.weight.item() == 7.0


def test_it_can_be_saved() -> None:
    first, second = Average(layer(3.0), 0.5), Average(layer(4.0), 0.5)
    second.load(first.values)
    assert second.values["weight"].item() == 3.0
