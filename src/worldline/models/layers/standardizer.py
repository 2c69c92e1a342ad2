"""Signals as z-scores of their codes, whatever is missing of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.models.layers.codes import code_size, to_code
from worldline.models.layers.encoders import FINEST
from worldline.models.layers.normaliser import Normaliser
from worldline.schema import Signal


class Standardizer(nn.Module):
    """z-scores of the codes of all signals, and how much they change in a step.

    Args:
        signals: at least one.
    """

    change: Tensor

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        super().__init__()
        self.signals = signals
        self.owner = [number for number, signal in enumerate(signals) for _ in range(code_size(signal))]
        self.normalisers = nn.ModuleList(Normaliser(code_size(signal)) for signal in signals)
        self.register_buffer("change", torch.ones(len(self.owner)))  # deviation of one step's change, z-scores

    @property
    def deviation(self) -> Float[Tensor, " size"]:
        """Physical units of one z-score."""
        return torch.cat([torch.as_tensor(one.deviation) for one in self.normalisers])

    @torch.no_grad()
    def fit(self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "B H"]]) -> None:
        """Takes means, deviations and sizes of changes from values [B, H, *shape], each signal by itself."""
        first = 0
        for signal, normaliser in zip(self.signals, self.normalisers, strict=True):
            assert isinstance(normaliser, Normaliser)  # for the type checker
            seen, here = observed[signal.name], slice(first, first + code_size(signal))
            first = here.stop
            if not seen.any():
                continue
            codes = _masked_code(signal, observations[signal.name], seen)
            normaliser.fit(codes[seen])
            scores = normaliser(codes)
            for gap in range(1, seen.shape[1]):  # of a slow sensor no two values in a row may be known
                both = seen[:, gap:] & seen[:, :-gap]
                if both.any():
                    changes = (scores[:, gap:] - scores[:, :-gap])[both]
                    self.change[here] = (changes.square().mean(0) / gap).sqrt().clamp(min=FINEST)
                    break

    def forward(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> Float[Tensor, "*lead size"]:
        """z-scores of all codes side by side, finite even where nothing was observed."""
        parts = [
            normaliser(_masked_code(signal, observations[signal.name], observed[signal.name]))
            for signal, normaliser in zip(self.signals, self.normalisers, strict=True)
        ]
        return torch.cat(parts, -1)


def _masked_code(signal: Signal, values: Tensor, observed: Tensor) -> Float[Tensor, "... size"]:
    """The code, with 0 for what was not observed: it may be NaN, or no valid choice."""
    place = observed.reshape(observed.shape + (1,) * (values.ndim - observed.ndim))
    return to_code(signal, values.where(place, torch.zeros_like(values)))
