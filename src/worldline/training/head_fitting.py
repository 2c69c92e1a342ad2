"""Fitting of one head: a number of updates, after which the best weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

NUM_LOOKS: Final = 10
"""Number of validations while a head is fitted."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of the fit of one head.

    Args:
        updates: optimiser steps.
        batch_size: states per update.
        unroll: length of the rollouts that it is fitted on, steps.
        width: of its network.
        learning_rate: initial value of a linear decay to 0.
        tick: called after each update.
    """

    updates: int
    batch_size: int
    unroll: int
    width: int
    learning_rate: float
    tick: Callable[[], None]

    def optimise(self, network: nn.Module, judge: Callable[[], float] | None = None) -> Iterator[torch.optim.Optimizer]:
        """Yields the optimiser once per update, with linear decay of the learning rate; then freezes the network.

        Args:
            network: to be fitted.
            judge: returns the error on held-out rows. The weights with the smallest error are kept, including the
                initial ones. By default the last weights are kept.
        """
        if not self.updates:
            network.eval().requires_grad_(False)
            return  # the first optimiser of a process takes seconds, because torch imports its compiler
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        best = None if judge is None else _Best(network, judge)
        between = max(1, self.updates // NUM_LOOKS)
        for update in range(self.updates):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - update / self.updates)
            yield optimizer
            self.tick()
            if best is not None and ((update + 1) % between == 0 or update + 1 == self.updates):
                best.look()
        if best is not None:
            network.load_state_dict(best.weights)
        network.eval().requires_grad_(False)


class _Best:
    def __init__(self, network: nn.Module, judge: Callable[[], float]) -> None:
        self._network, self._judge = network, judge
        self._error = float("inf")
        self.weights: dict[str, Tensor] = {}
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        error = self._judge()
        if error < self._error or not self.weights:
            self._error = error
            self.weights = {name: value.clone() for name, value in self._network.state_dict().items()}


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
