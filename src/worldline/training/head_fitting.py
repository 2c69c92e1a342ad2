"""How a head is fitted: as many updates as it is given, and the best of the weights that came by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

NUM_LOOKS: Final = 10
"""Times that a head is judged while it is fitted."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit one head.

    Args:
        updates: optimiser steps.
        batch_size: states an update.
        unroll: imagined steps that it is fitted on.
        width: of its network.
        learning_rate: first of a linear decay to 0.
        tick: called after each update.
    """

    updates: int
    batch_size: int
    unroll: int
    width: int
    learning_rate: float
    tick: Callable[[], None]

    def optimise(self, network: nn.Module, judge: Callable[[], float] | None = None) -> Iterator[torch.optim.Optimizer]:
        """Yields the optimiser once an update, its learning rate falling to 0; freezes the network in the end.

        Args:
            network: to be fitted.
            judge: its error on rows that it is not fitted on. The weights with the least are kept, those of the
                start among them; default is to keep the last.
        """
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
    """Remembers the weights under which an error was least."""

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
