"""Conversion of signals and inputs to z-scores and back; part of a model, saved with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.base import Inputs
from worldline.models.layers.codes import Observations, Observed, code_size, to_code
from worldline.schema import Schema, Signal

MIN_CHANGE: Final = 1e-4
"""Lower bound of the scale of a vector's change in one step, as a share of its standard deviation."""


class Normaliser(nn.Module):
    """Mean and standard deviation per component; the identity until `fit`.

    Args:
        size: number of components.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    @torch.no_grad()
    def fit(self, values: Float[Tensor, "M size"]) -> None:
        """Fits mean and standard deviation on `values`. A constant component gets standard deviation 1."""
        deviation, mean = torch.std_mean(values.double(), dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0))

    def forward(self, values: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        """z-scores of `values`."""
        return (values - self.mean) / self.deviation

    def inverse(self, scores: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        """Physical values of z-scores."""
        return scores * self.deviation + self.mean


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

    def forward(self, observations: Observations, observed: Observed) -> Float[Tensor, "*lead size"]:
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


class InputNormaliser(nn.Module):
    """Concatenated z-scores of the inputs of a step.

    Args:
        schema: actions and exogenous signals are used in its order.
        timed: whether the duration of the step is an input.
    """

    def __init__(self, schema: Schema, *, timed: bool = False) -> None:
        super().__init__()
        self.signals = (*schema.actions, *schema.exogenous)
        self.actions = Normaliser(sum(signal.size for signal in schema.actions))
        self.exogenous = Normaliser(sum(signal.size for signal in schema.exogenous))
        self.step_s = Normaliser(1) if timed else None
        self.num_actions = len(self.actions.mean)
        self.size = self.num_actions + len(self.exogenous.mean) + int(timed)

    def fit(self, past: Inputs) -> None:
        """Fits means and standard deviations on the inputs of a window, N = 1."""
        self.actions.fit(past.actions.flatten(0, 2))
        if past.exogenous is not None:
            self.exogenous.fit(past.exogenous.flatten(0, 1))
        if self.step_s is not None:
            self.step_s.fit(past.step_s.flatten()[:, None])

    def forward(self, inputs: Inputs) -> Float[Tensor, "B N T I"]:
        """z-scores of actions, exogenous signals and duration."""
        parts = [self.actions(inputs.actions)]
        versions = parts[0].shape[1]
        if inputs.exogenous is not None:
            parts.append(self.exogenous(inputs.exogenous)[:, None].expand(-1, versions, -1, -1))
        if self.step_s is not None:
            parts.append(self.step_s(inputs.step_s[..., None])[:, None].expand(-1, versions, -1, -1))
        return torch.cat(parts, -1)

    def inverse(self, scores: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead inputs"]:
        """Actions and exogenous signals in physical units, without the duration."""
        actions, others = scores[..., : self.num_actions], scores[..., self.num_actions :]
        exogenous = others[..., : len(self.exogenous.mean)]
        return torch.cat([self.actions.inverse(actions), self.exogenous.inverse(exogenous)], -1)
