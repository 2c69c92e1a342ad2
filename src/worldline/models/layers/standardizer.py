"""Standardisation of the codes of signals with missing values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.layers.codes import code_size, to_code
from worldline.models.layers.encoders import MIN_CHANGE
from worldline.models.layers.normaliser import Normaliser
from worldline.schema import Signal

MAX_SIZE = 2**20


class Standardizer(nn.Module):
    """z-scores of the codes of all signals, and the usual size of their changes in one step.

    Args:
        signals: at least one.

    Raises:
        ConfigError: they have more than `MAX_SIZE` components together.
    """

    change: Tensor

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        super().__init__()
        self.signals = signals
        if (size := sum(map(code_size, signals))) > MAX_SIZE:
            raise ConfigError(f"the signals have {size} components; at most {MAX_SIZE} are standardised. Name fewer.")
        self.owner = [number for number, signal in enumerate(signals) for _ in range(code_size(signal))]
        self.normalisers = nn.ModuleList(Normaliser(code_size(signal)) for signal in signals)
        self.register_buffer("change", torch.ones(len(self.owner)))  # standard deviation of one step's change, z-scores

    @property
    def deviation(self) -> Float[Tensor, " size"]:
        """Physical units of one z-score."""
        return torch.cat([torch.as_tensor(normaliser.deviation) for normaliser in self.normalisers])

    @torch.no_grad()
    def fit(self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "B H"]]) -> None:
        """Fits means, standard deviations and sizes of changes on values [B, H, *shape], per signal."""
        first = 0
        for signal, normaliser in zip(self.signals, self.normalisers, strict=True):
            assert isinstance(normaliser, Normaliser)  # for the type checker
            seen, columns = observed[signal.name], slice(first, first + code_size(signal))
            first = columns.stop
            if not seen.any():
                continue
            codes = _masked_code(signal, observations[signal.name], seen)
            normaliser.fit(codes[seen])
            scores = normaliser(codes)
            for gap in range(1, seen.shape[1]):  # a slow sensor may have no two successive values
                both = seen[:, gap:] & seen[:, :-gap]
                if both.any():
                    changes = (scores[:, gap:] - scores[:, :-gap])[both]
                    self.change[columns] = (changes.square().mean(0) / gap).sqrt().clamp(min=MIN_CHANGE)
                    break

    def forward(
        self, observations: Mapping[str, Tensor], observed: Mapping[str, Bool[Tensor, "*lead"]]
    ) -> Float[Tensor, "*lead size"]:
        """Concatenated z-scores of all codes; finite also where values are missing."""
        parts = [
            normaliser(_masked_code(signal, observations[signal.name], observed[signal.name]))
            for signal, normaliser in zip(self.signals, self.normalisers, strict=True)
        ]
        return torch.cat(parts, -1)


def _masked_code(signal: Signal, values: Tensor, observed: Tensor) -> Float[Tensor, "... size"]:
    """The code, with missing values set to 0, because they may be NaN or an invalid choice."""
    place = observed.reshape(observed.shape + (1,) * (values.ndim - observed.ndim))
    return to_code(signal, values.where(place, torch.zeros_like(values)))
