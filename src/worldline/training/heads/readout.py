"""The readout head: signals in physical units from latents."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.data.store import Store
from worldline.errors import ConfigError
from worldline.models.layers.codes import code_size, from_code, to_code
from worldline.models.layers.mlp import mlp
from worldline.models.layers.standardizer import Normaliser
from worldline.schema import Kind, Signal
from worldline.training.batches import to_tensor
from worldline.training.heads.base import Fit, Head, HeadData, descend
from worldline.training.stored_latents import LatentTable, Paths, Rows

PENALTIES: Final = (1e-9, 1e-4, 1e-2, 1.0, 100.0)
"""Ridge penalties of the linear fit, relative to the mean variance of the latents. The smallest keeps linear relations
exact and only handles constant directions. The others are for latents with more components than the logs determine."""
DOUBLE_PRECISION_ROWS: Final = 8192
"""Rows that are converted to double precision at once, which bounds memory."""

LinearMap = tuple[Float[Tensor, "D C"], Float[Tensor, " C"]]
"""Weight and bias."""


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        signals: vector or discrete signals to predict; predicted as concatenated codes (`models/layers/codes.py`).
        width: units of the two hidden layers.
    """

    latent_size: Size
    signals: tuple[Signal, ...]
    width: Size = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for signal in self.signals:
            if signal.kind is Kind.IMAGE:
                raise ConfigError(f"signal {signal.name!r} is an image. Remove it; images need the decoder head.")


class Readout(Head):
    """Predicts signals from a latent: a linear map plus a small correction network, which is 0 until it is trained."""

    name = "readout"
    updates = "readout_updates"
    Config = ReadoutConfig
    config: ReadoutConfig

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        size = max(1, sum(code_size(signal) for signal in config.signals))  # torch warns about layers without outputs
        self.normaliser = Normaliser(size)
        self.linear = nn.Linear(config.latent_size, size)
        self.layers = mlp([config.latent_size, config.width, config.width, size])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Readout:
        """The readout of all vector and discrete observations.

        The first stage is a ridge regression on encoded latents. The second trains linear map and correction on
        predicted latents too. Each component keeps the regression unless the second stage reduces its error on held-out
        episodes. With 0 updates there is no second stage.
        """
        table, imagination = data.table, data.imagination
        signals = tuple(signal for signal in data.store.schema.observations if signal.kind is not Kind.IMAGE)
        head = cls(ReadoutConfig(latent_size=table.features.shape[1], signals=signals, width=fit.width))
        if not signals:
            return head.eval().requires_grad_(False).to(table.device)
        # The regression; without a second stage it may use the held-out rows too.
        codes, known = _codes(data.store, table, signals)
        head.fit_linear(table.features.cpu(), codes, known, table.held_out.cpu(), whole=fit.updates == 0)
        head, codes, known = head.to(table.device), codes.to(table.device), known.to(table.device)
        target, linear = head.normaliser(codes).where(known, 0.0), copy.deepcopy(head)

        def errors(readout: Readout, paths: Paths) -> tuple[Tensor, Tensor]:
            """Sum and count of the squared errors of each component."""
            counted = (known[paths.rows] & paths.inside[..., None]).float()
            squared = (readout.scores(paths.features) - target[paths.rows]).square() * counted
            return squared.sum((0, 1)), counted.sum((0, 1))

        validation = imagination.exam(table, table.held_out, fit.unroll) if fit.updates else None
        before = codes.new_zeros(()) if validation is None else errors(linear, validation)[0].detach()

        def validation_error() -> float:
            """The error if each component has the better of the two maps."""
            assert validation is not None
            return float(torch.minimum(errors(head, validation)[0], before).sum())

        for optimizer in fit.optimise(head, None if validation is None else validation_error):
            paths = imagination.draw(table, ~table.held_out, fit.batch_size, fit.unroll)
            error, count = errors(head, paths)
            descend(optimizer, error.sum() / count.sum().clamp(min=1))
        if validation is not None:
            head.take(linear, errors(head, validation)[0] >= before)
        return head

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
        """Fits the normaliser and the linear map, by ridge regression on the known codes.

        Args:
            latents: one row per observation.
            codes: concatenated codes of the signals.
            known: codes are ignored where it is False.
            held_out: rows on which the penalty of each component is chosen; without any it is the smallest.
            whole: whether the final fit includes the held-out rows.
        """
        mean = codes.where(known, 0.0).double().sum(0) / known.sum(0).clamp(min=1)
        self.normaliser.fit(codes.where(known, mean.to(codes.dtype)))
        target = self.normaliser(codes)
        patterns, pattern = known.unique(dim=1, return_inverse=True)
        for number, rows in enumerate(patterns.unbind(1)):
            columns = (pattern == number).nonzero()[:, 0]
            weight, bias = _ridge(latents, target[:, columns], rows, held_out, whole=whole)
            self.linear.weight[columns] = weight.T.float()
            self.linear.bias[columns] = bias.float()

    @torch.no_grad()
    def take(self, other: Readout, columns: Bool[Tensor, " size"]) -> None:
        """Copies the last layers of `other` for `columns` of the codes. The correction of `other` must be 0 there."""
        for mine, theirs in (self.linear, other.linear), (self.layers[-1], other.layers[-1]):
            for old, new in zip(mine.parameters(), theirs.parameters(), strict=True):
                old[columns] = new[columns]

    @property
    def is_corrected(self) -> bool:
        """Whether the correction is trained."""
        return any(bool(parameter.any()) for parameter in self.layers[-1].parameters())

    def scores(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """z-scores of the concatenated codes of all signals."""
        scores = self.linear(latents)
        # An untrained correction is 0. On a GPU the test would wait for the device.
        if torch.is_grad_enabled() or latents.device.type != "cpu" or self.is_corrected:
            scores = scores + self.layers(latents)
        return torch.as_tensor(scores)

    def forward(self, latents: Float[Tensor, "... D"]) -> dict[str, Tensor]:
        """Values per signal [..., *shape], physical units; the most likely value of a discrete signal."""
        codes = self.normaliser.inverse(self.scores(latents))
        read, first = {}, 0
        for signal in self.config.signals:
            last = first + code_size(signal)
            read[signal.name], first = from_code(signal, codes[..., first:last]), last
        return read


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Sufficient statistics of a ridge regression, in the eigenbasis of the latents' covariance."""

    latent: Float[Tensor, " D"]  # means
    target: Float[Tensor, " C"]
    variation: Float[Tensor, " D"]  # summed squares along each direction
    directions: Float[Tensor, "D D"]
    products: Float[Tensor, "D C"]  # products with the target along each direction

    @staticmethod
    def of(latents: Float[Tensor, "M D"], target: Float[Tensor, "M C"], rows: Bool[Tensor, " M"]) -> _Moments:
        blocks, count = rows.nonzero()[:, 0].split(DOUBLE_PRECISION_ROWS), rows.sum().clamp(min=1)

        def mean_of(values: Tensor) -> Tensor:
            total = values.new_zeros(values.shape[1], dtype=torch.double)
            for block in blocks:
                total += values[block].double().sum(0)
            return total / count

        # Two passes, because sums of squares without centring lose the precision that exact linear relations need.
        latent, mean = mean_of(latents), mean_of(target)
        squares = latent.new_zeros(len(latent), len(latent))
        products = latent.new_zeros(len(latent), len(mean))
        for block in blocks:
            centred = latents[block].double() - latent
            squares += centred.T @ centred
            products += centred.T @ (target[block].double() - mean)
        # In the eigenbasis, each further penalty costs one product instead of one decomposition.
        variation, directions = torch.linalg.eigh(squares)
        variation, products = variation.clamp(min=0.0), directions.T @ products
        return _Moments(latent=latent, target=mean, variation=variation, directions=directions, products=products)

    def solve(self, penalty: float) -> LinearMap:
        """The ridge regression with this penalty."""
        added = penalty * self.variation.mean().clamp(min=1e-30)
        weight = self.directions @ (self.products / (self.variation + added)[:, None])
        return weight, self.target - self.latent @ weight


def _ridge(
    latents: Float[Tensor, "M D"], target: Float[Tensor, "M C"], rows: Rows, held_out: Rows, *, whole: bool
) -> LinearMap:
    """The linear map; each column has the penalty with the smallest error on the held-out rows."""
    validation = (rows & held_out).nonzero()[:, 0]
    moments = _Moments.of(latents, target, rows & ~held_out)
    errors = target.new_zeros(len(PENALTIES), target.shape[1], dtype=torch.double)
    for number, penalty in enumerate(PENALTIES):
        weight, bias = moments.solve(penalty)
        for block in validation.split(DOUBLE_PRECISION_ROWS):
            residual = latents[block].double() @ weight + bias - target[block].double()
            errors[number] += residual.square().sum(0)
    if whole and len(validation):
        moments = _Moments.of(latents, target, rows)
    weights, biases = map(torch.stack, zip(*(moments.solve(penalty) for penalty in PENALTIES), strict=True))
    best, columns = errors.argmin(0), torch.arange(target.shape[1], device=target.device)
    return weights[best, :, columns].T, biases[best, columns]


def _codes(
    store: Store, table: LatentTable, signals: Sequence[Signal]
) -> tuple[Float[Tensor, "M size"], Bool[Tensor, "M size"]]:
    """The concatenated codes of these signals in every row (0 where missing), and whether each was observed."""
    codes, known = [], []
    for signal in signals:
        lengths = [(episode, int(store.num_steps[episode]) + 1) for episode in table.numbers]
        seen = to_tensor(np.concatenate([store.observed(signal.name, e, 0, rows) for e, rows in lengths]))
        values = torch.cat([to_tensor(store.read(signal.name, e, 0, rows)) for e, rows in lengths])
        values = values.where(seen.view(-1, *[1] * (values.ndim - 1)), 0)
        codes.append(to_code(signal, values))
        known.append(seen[:, None].expand(-1, code_size(signal)))
    return torch.cat(codes, -1), torch.cat(known, -1)
