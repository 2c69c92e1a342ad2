from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from worldline.models.layers.mlp import mlp


def kinds(network: nn.Sequential) -> list[type[nn.Module]]:
    return [type(layer) for layer in network]


def test_nothing_bends_after_the_last_layer() -> None:
    assert kinds(mlp([3, 5, 4])) == [nn.Linear, nn.GELU, nn.Linear]
    assert kinds(mlp([3, 5, 4], norm=True)) == [nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear]
    assert kinds(mlp([3, 4], norm=True)) == [nn.Linear]


@pytest.mark.parametrize("sizes", [[2, 3], [2, 7, 3], [2, 7, 6, 5, 3]])
def test_widths_run_from_input_to_output(sizes: list[int]) -> None:
    network = mlp(sizes)
    widths = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
    assert widths == list(pairwise(sizes))
    assert network(torch.zeros(4, 5, 2)).shape == (4, 5, 3)
