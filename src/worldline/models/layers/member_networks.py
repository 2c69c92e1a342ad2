"""The networks of an ensemble, computed together, and the linear forecast whose residual they can predict.

Their inputs have two parts. Lagged values follow from predictions and differ between members. Covariates are known in
advance, so a rollout computes their contribution for all steps at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from worldline.models.layers.linear_forecast import least_squares

RIDGE: Final = 1e-6
"""Penalty on the squared weights of the linear forecast, relative to the mean square of its inputs."""
MIN_RESIDUAL: Final = 1e-3
"""Lower bound of the linear forecast's residual, as a share of a step's change, so that the networks can add to it."""


class MemberLinear(nn.Module):
    """One linear layer per member, computed as one batched product.

    Args:
        num_members: M.
        wide: input features.
        narrow: output features.
    """

    def __init__(self, num_members: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_members, wide, narrow))
        self.bias = nn.Parameter(torch.empty(num_members, 1, narrow))
        for parameter, limit in ((self.weight, (3 / wide) ** 0.5), (self.bias, wide**-0.5)):
            nn.init.uniform_(parameter, -limit, limit)

    def forward(self, values: Float[Tensor, "M R wide"]) -> Float[Tensor, "M R narrow"]:
        """The output of each member for its rows."""
        return torch.baddbmm(self.bias, values, self.weight)


class Slices(NamedTuple):
    """Parts of the weights for one rollout; each slice anew would have a gradient of the whole weight's size."""

    first: Tensor
    hidden: Sequence[tuple[Tensor, Tensor]]
    """Bias and weight of each layer between the first and the last."""
    last: Tensor
    bias: Tensor


class MemberNetworks(nn.ModuleList):
    """One network per member. Its outputs are a change and, optionally, a logarithmic variance of each value.

    Args:
        num_members: M.
        lagged: number of lagged values; they come first.
        covariates: number of covariates.
        width: units of each hidden layer.
        layers: number of hidden layers.
        size: number of values.
        noisy: whether there are variances.
    """

    def __init__(
        self, *, num_members: int, lagged: int, covariates: int, width: int, layers: int, size: int, noisy: bool
    ) -> None:
        widths = pairwise([lagged + covariates, *[width] * layers, 2 * size if noisy else size])
        super().__init__([MemberLinear(num_members, wide, narrow) for wide, narrow in widths])
        self.num_members, self.lagged, self.size = num_members, lagged, size

    @torch.no_grad()
    def start_at_zero(self, ages: slice) -> None:
        """Makes the first changes 0, and sets the weights of the covariates `ages` to 0.

        Ages are constant in logs without gaps, so training would leave their weights random.
        """
        first, last = self._ends()
        first.weight[:, self.lagged :][:, ages] = 0
        last.weight[..., : self.size] = 0
        last.bias[..., : self.size] = 0

    def contribution(self, rows: Float[Tensor, "*M R S"]) -> Float[Tensor, "M R width"]:
        """What the covariates contribute to the first layer; `rows` may be the same for all members."""
        first, _ = self._ends()
        return torch.baddbmm(first.bias, rows.expand(self.num_members, -1, -1), first.weight[:, self.lagged :])

    def slices(self) -> Slices:
        """The weights that `change` uses in every step."""
        first, last = self._ends()
        narrow = last.weight[..., : self.size].mT.contiguous().mT  # four times as fast in products
        between = [(layer.bias, layer.weight) for layer in self if isinstance(layer, MemberLinear)][1:-1]
        return Slices(first.weight[:, : self.lagged], between, narrow, last.bias[..., : self.size])

    def change(
        self, lagged: Float[Tensor, "M1 R lagged"], covariates: Float[Tensor, "M R width"], slices: Slices
    ) -> tuple[Float[Tensor, "M R size"], Float[Tensor, "M R width"]]:
        """The changes, and the last hidden layer; `lagged` may be the same for all members (M1 = 1)."""
        hidden = silu(torch.baddbmm(covariates, lagged.expand(self.num_members, -1, -1), slices.first))
        for bias, weight in slices.hidden:
            hidden = silu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(slices.bias, hidden, slices.last).float(), hidden

    def log_variance(self, hidden: Float[Tensor, "M R width"]) -> Float[Tensor, "M R size"]:
        """The logarithmic variance, without bounds."""
        _, last = self._ends()
        return torch.baddbmm(last.bias[..., self.size :], hidden, last.weight[..., self.size :]).float()

    @contextmanager
    def shrunk(self, share: float) -> Iterator[None]:
        """Multiplies the outputs by a share meanwhile."""
        _, last = self._ends()
        kept = last.weight.detach().clone(), last.bias.detach().clone()
        with torch.no_grad():
            last.weight.mul_(share)
            last.bias.mul_(share)
        try:
            yield
        finally:
            with torch.no_grad():
                last.weight.copy_(kept[0])
                last.bias.copy_(kept[1])

    def _ends(self) -> tuple[MemberLinear, MemberLinear]:
        first, last = self[0], self[-1]
        assert isinstance(first, MemberLinear)  # for the type checker, as the next line
        assert isinstance(last, MemberLinear)
        return first, last


class LinearBase(nn.Module):
    """Linear forecasts of the change of values, one for each number of known observations, and their usual errors.

    Each is the best linear forecast from so many observations. An open-loop prediction from a short history uses them
    in turn, as predicted values count as observed. It is then the best linear one as well, by the law of total
    expectation.

    Args:
        num_members: M, forecasts for each number of observations; 1 if all members share them.
        lagged: number of lagged values.
        covariates: number of covariates; ages come first, then the inputs.
        history: largest number of observations.
        size: number of values.
    """

    weight: Tensor
    residual: Tensor

    def __init__(self, *, num_members: int, lagged: int, covariates: int, history: int, size: int) -> None:
        super().__init__()
        self.lagged, self.covariates, self.history = lagged, covariates, history
        self.register_buffer("weight", torch.zeros(num_members, history, lagged + covariates + 1, size))
        self.register_buffer("residual", torch.ones(history, size))

    @torch.no_grad()
    def fit(
        self, inputs: Float[Tensor, "R inputs"], change: Float[Tensor, "R size"], used: Bool[Tensor, "R M"], ages: int
    ) -> None:
        """Fits the forecasts to rows with all observations; without enough of them they stay 0.

        Args:
            inputs: lagged values, then covariates.
            change: of the values, in any unit.
            used: whether a member may use a row.
            ages: number of covariates that are ages, which no forecast uses.
        """
        rows = torch.cat([inputs, torch.ones_like(inputs[:, :1])], -1).double()
        rows[:, self.lagged : self.lagged + ages] = 0
        change, steps = change.double(), self.history
        per_step = (self.lagged // steps, (self.covariates - ages) // steps)
        # One forecast per number of known observations, from the columns of these observations and their inputs. It
        # also serves for all larger numbers, until their own fit replaces it or the rows no longer suffice.
        for number in range(1, steps + 1):
            kept = torch.zeros(rows.shape[1], dtype=torch.bool, device=rows.device)
            kept[: number * per_step[0]] = kept[-1] = True
            kept[self.lagged + ages :][: number * per_step[1]] = True
            known, missed = rows[:, kept], torch.zeros_like(change)
            for member, weight in enumerate(self.weight):
                own = used[:, member]
                if int(own.sum()) <= known.shape[1]:
                    return
                weight[number - 1 :, kept] = least_squares(known[own], change[own], RIDGE).float()
                missed += (change - known @ weight[number - 1, kept].double()).square() / len(self.weight)
            self.residual[number - 1 :] = missed.mean(0).sqrt().clamp(min=MIN_RESIDUAL).float()

    def parts(
        self, rows: Float[Tensor, "R S"], count: int | Tensor, unit: Float[Tensor, " size"]
    ) -> tuple[Float[Tensor, "M R size"], Tensor]:
        """What the covariates contribute, and the weights of the lagged values, as `change` takes them.

        Args:
            rows: covariates.
            count: number of known observations, of all rows or of each.
            unit: of the changes.
        """
        weight = self.weight[:, count - 1] * unit  # [M, inputs, size] for all rows, or [M, R, inputs, size]
        with _exact(rows):
            known = _product(rows.float()[None], weight[..., self.lagged : -1, :]) + weight[..., -1:, :].flatten(1, -2)
        return known, weight[..., : self.lagged, :]

    def path(
        self, covariates: Float[Tensor, "T R S"], counts: Sequence[int | Tensor], unit: Float[Tensor, " size"]
    ) -> list[tuple[Tensor, Tensor]]:
        """The `parts` of T steps; those after the steps of `counts` have a whole history, and are computed together."""
        parts = [self.parts(rows, count, unit) for rows, count in zip(covariates, counts, strict=False)]
        rest = covariates[len(counts) :]
        if len(rest):
            known, weight = self.parts(rest.flatten(0, 1), self.history, unit)
            parts += [(contribution, weight) for contribution in known.unflatten(1, rest.shape[:2]).unbind(1)]
        return parts

    @staticmethod
    def change(
        lagged: Float[Tensor, "M1 R lagged"], covariates: Float[Tensor, "M R size"], weight: Tensor
    ) -> Float[Tensor, "M2 R size"]:
        """The change, with the contribution `covariates` of the covariates."""
        with _exact(lagged):
            return _product(lagged.float(), weight) + covariates


def _product(values: Float[Tensor, "M1 R n"], weight: Tensor) -> Float[Tensor, "M2 R m"]:
    return values @ weight if weight.ndim == 3 else (values[..., None, :] @ weight).squeeze(-2)


def _exact(values: Tensor) -> AbstractContextManager[object]:
    """A context without half precision, which would spoil exact linear forecasts; nothing if there is none anyway."""
    device = values.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


@dataclass(frozen=True, kw_only=True)
class SingleSteps:
    """What the networks receive and should return in each logged step.

    Args:
        inputs: lagged values, then covariates.
        targets: the outputs; of each member, or the same for all (M1 = 1).
        known: 1 where the target was observed, else 0.
        whole: on the CPU, per member the rows with all observations of the history that it may use.
        short: on the CPU, per member the other rows that it may use.
    """

    inputs: Float[Tensor, "R inputs"]
    targets: Float[Tensor, "M1 R size"]
    known: Float[Tensor, "R size"]
    whole: tuple[Int[Tensor, " _"], ...]
    short: tuple[Int[Tensor, " _"], ...]

    def draw(self, count: int, short_share: float, generator: torch.Generator) -> Int[Tensor, "M count"]:
        """Rows for each member, drawn with replacement; a share of them has fewer observations than the history."""
        parts = []
        for whole, short in zip(self.whole, self.short, strict=True):
            few = (round(short_share * count) if len(whole) else count) if len(short) else 0
            draws = [(rows, n) for rows, n in ((whole, count - few), (short, few)) if n]
            parts.append(torch.cat([rows[torch.randint(len(rows), (n,), generator=generator)] for rows, n in draws]))
        return torch.stack(parts).to(self.inputs.device)

    def loss(self, networks: MemberNetworks, rows: Int[Tensor, "M count"]) -> Float[Tensor, ""]:
        """The sum over the members of their mean squared errors in these rows."""
        inputs, lagged = self.inputs[rows], networks.lagged
        covariates = networks.contribution(inputs[..., lagged:])
        outputs, _ = networks.change(inputs[..., :lagged], covariates, networks.slices())
        member = torch.arange(len(rows), device=rows.device)[:, None] if len(self.targets) > 1 else 0
        error = (outputs - self.targets[member, rows]).square() * self.known[rows]
        return (error.sum(1) / self.known[rows].sum(1).clamp(min=1)).mean(-1).sum()
