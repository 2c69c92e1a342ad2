"""The multilayer perceptron of heads and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int], *, norm: bool = False) -> nn.Sequential:
    """Linear layers with GELU between them, and no activation after the last.

    Args:
        sizes: widths from input to output, at least two.
        norm: LayerNorm before each GELU.
    """
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes[:-1]):
        layers += [nn.Linear(wide, narrow), *([nn.LayerNorm(narrow)] if norm else []), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
