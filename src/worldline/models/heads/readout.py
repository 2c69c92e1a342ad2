"""From a latent to signals in physical units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.layers.codes import code_size, from_code
from worldline.models.layers.mlp import mlp
from worldline.models.layers.normaliser import Normaliser
from worldline.schema import Kind, Signal

PENALTIES: Final = (1e-9, 1e-4, 1e-2, 1.0, 100.0)
"""On the squared weights of the linear fit, over the mean variance of the latents' numbers. The least leaves what is
linear exact, and is for idle directions; the others are for latents with more numbers than the logs can tell apart."""
BLOCK: Final = 8192
"""Rows that are copied to double precision at a time."""


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """Size of the head.

    Args:
        latent_size: D of the model.
        signals: to read, vector or discrete; read as codes (`nn.codes`), side by side.
        width: of the two hidden layers.
    """

    latent_size: int
    signals: tuple[Signal, ...]
    width: int = 256

    def __post_init__(self) -> None:
        for signal in self.signals:
            if signal.kind is Kind.IMAGE:
                raise ConfigError(f"signal {signal.name!r} is an image. The decoder shows images; leave it out here.")


class Readout(nn.Module):
    """Reads signals from a latent: a linear map and a small correction to it, which is 0 until it is trained."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.config = config
        size = max(1, sum(code_size(signal) for signal in config.signals))  # torch warns of layers without outputs
        self.normaliser = Normaliser(size)
        self.linear = nn.Linear(config.latent_size, size)
        self.layers = mlp([config.latent_size, config.width, config.width, size])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(
        self,
        latents: Float[Tensor, "M D"],
        codes: Float[Tensor, "M size"],
        known: Bool[Tensor, "M size"],
        held_out: Bool[Tensor, " M"],
        *,
        whole: bool,
    ) -> None:
        """Takes normaliser and linear map from `codes`, by ridge regression over the known ones.

        Args:
            latents: a row for each observation.
            codes: of the signals, side by side.
            known: where False the value does not matter.
            held_out: rows on which the penalty of each number is chosen; without any it is the least.
            whole: whether these rows count in the fit too once the penalty is chosen.
        """
        mean = codes.where(known, 0.0).double().sum(0) / known.sum(0).clamp(min=1)
        self.normaliser.fit(codes.where(known, mean.to(codes.dtype)))
        target = self.normaliser(codes)
        patterns, pattern = known.unique(dim=1, return_inverse=True)
        for number, rows in enumerate(patterns.unbind(1)):
            columns = (pattern == number).nonzero()[:, 0]
            found = _ridge(latents, target[:, columns], rows, held_out, whole=whole)
            self.linear.weight[columns] = found.weight.T.float()
            self.linear.bias[columns] = found.bias.float()

    @torch.no_grad()
    def take(self, other: Readout, columns: Bool[Tensor, " size"]) -> None:
        """From now on reads `columns` of the codes as `other` does, whose correction must be 0 there."""
        for mine, theirs in (self.linear, other.linear), (self.layers[-1], other.layers[-1]):
            for old, new in zip(mine.parameters(), theirs.parameters(), strict=True):
                old[columns] = new[columns]

    def scores(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """z-scores of the codes of all signals, side by side."""
        return torch.as_tensor(self.linear(latents) + self.layers(latents))

    def forward(self, latents: Float[Tensor, "... D"]) -> dict[str, Tensor]:
        """Per signal its value [..., *shape], physical units; of a discrete one the likeliest."""
        codes = self.normaliser.inverse(self.scores(latents))
        read, first = {}, 0
        for signal in self.config.signals:
            last = first + code_size(signal)
            read[signal.name], first = from_code(signal, codes[..., first:last]), last
        return read


@dataclass(frozen=True, kw_only=True)
class _Map:
    """A linear map from latents to codes."""

    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, " C"]


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """What a ridge regression takes from its rows, in the directions in which the latents vary independently."""

    latent: Float[Tensor, " D"]  # means
    target: Float[Tensor, " C"]
    variation: Float[Tensor, " D"]  # summed squares along each direction
    directions: Float[Tensor, "D D"]
    products: Float[Tensor, "D C"]  # with the target, along each direction

    @staticmethod
    def of(latents: Float[Tensor, "M D"], target: Float[Tensor, "M C"], rows: Bool[Tensor, " M"]) -> _Moments:
        blocks, count = rows.nonzero()[:, 0].split(BLOCK), rows.sum().clamp(min=1)
        latent = sum((latents[b].double().sum(0) for b in blocks), torch.zeros(latents.shape[1]).double()) / count
        mean = sum((target[b].double().sum(0) for b in blocks), torch.zeros(target.shape[1]).double()) / count
        squares = torch.zeros(len(latent), len(latent), dtype=torch.float64)
        products = torch.zeros(len(latent), len(mean), dtype=torch.float64)
        for block in blocks:
            centred = latents[block].double() - latent
            squares += centred.T @ centred
            products += centred.T @ (target[block].double() - mean)
        variation, directions = torch.linalg.eigh(squares)
        return _Moments(
            latent=latent,
            target=mean,
            variation=variation.clamp(min=0.0),
            directions=directions,
            products=directions.T @ products,
        )

    def solve(self, penalty: float) -> _Map:
        """The map of least squares, with a penalty on its weights."""
        added = penalty * self.variation.mean().clamp(min=1e-30)
        weight = self.directions @ (self.products / (self.variation + added)[:, None])
        return _Map(weight=weight, bias=self.target - self.latent @ weight)


def _ridge(
    latents: Float[Tensor, "M D"],
    target: Float[Tensor, "M C"],
    rows: Bool[Tensor, " M"],
    held_out: Bool[Tensor, " M"],
    *,
    whole: bool,
) -> _Map:
    """The map; the penalty of each column is the one with the least error on the rows that are held out."""
    judged = (rows & held_out).nonzero()[:, 0]
    moments = _Moments.of(latents, target, rows & ~held_out)
    errors = torch.zeros(len(PENALTIES), target.shape[1], dtype=torch.float64)
    for number, penalty in enumerate(PENALTIES):
        found = moments.solve(penalty)
        for block in judged.split(BLOCK):
            gap = latents[block].double() @ found.weight + found.bias - target[block].double()
            errors[number] += gap.square().sum(0)
    if whole and len(judged):
        moments = _Moments.of(latents, target, rows)
    solved = [moments.solve(penalty) for penalty in PENALTIES]
    best, columns = errors.argmin(0), torch.arange(target.shape[1])
    weights, biases = torch.stack([one.weight for one in solved]), torch.stack([one.bias for one in solved])
    return _Map(weight=weights[best, :, columns].T, bias=biases[best, columns])
