"""An exponential moving average of a model's parameters, which often predicts better than the last parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of parameters; buffers are not averaged.

    Source: Polyak and Juditsky (1992); the exponential form as in Tarvainen and Valpola (1703.01780), section 3. The
    decay starts low, so that the initial weights have little influence.

    Args:
        model: the average starts at its parameters.
        decay: share of the average that each update keeps, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the parameters after update `step`, counted from 1."""
        share = 1 - min(self._decay, step / (step + 10))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self._model.parameters()], share)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Loads a saved average."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the model use the average for the duration of the context."""
        own = {name: value.detach().clone() for name, value in self._model.named_parameters()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(values[name])
