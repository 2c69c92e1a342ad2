"""A quantity that changes by a simple law which predicted paths break: the energy of what moves, found in the logs.

Where a contact may go two ways, the mean of both is shorter than either, and so predicted motion dies down. How long
the vectors are together is often far easier to tell than where they point: with x of the squared lengths of all
vectors, and the right weights w, w x changes by the work that is done, which a regression knows.

Sought are the weights for which what the regression misses is smallest beside what the predictions miss, at the end of
paths: a generalised eigenvalue problem. Where the regression misses much less, each predicted step is set on the
surface on which w x is what the regression says; each number moves as far as its own errors are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

BELIEVED: Final = 0.1
"""Of the mean square of what predictions miss, what a law may miss to be believed."""
RIDGE: Final = 1e-6
"""Penalty of the regression, and of directions in which predictions miss nothing, relative."""
EASE: Final = 1e-4
"""Share of the usual slope by which a step is eased where there is next to no slope."""
MOST: Final = 0.5
"""Share by which a number may grow or shrink in one of the iterations."""
ITERATIONS: Final = 3
MAX_SETTINGS: Final = 2
"""Scalars that stay as they are within an episode, such as a damping, on which a law may depend."""
FEWEST: Final = 10
"""Times as many steps as regressors."""


class ConservedQuantity(nn.Module):
    """The law, if one was found; until `fit` there is none.

    Args:
        states: where vectors stand among the values; at least one.
        inputs: likewise among the inputs.
    """

    weight: Tensor
    """[vectors], of the squared lengths; all 0 where there is no law."""
    gain: Tensor
    """[regressors], of the change of the weighted sum in a step."""
    setting: Tensor
    """Where the settings stand among the values; -1 for none."""
    slope: Tensor
    """The usual square of the slope."""

    def __init__(self, *, states: Sequence[slice], inputs: Sequence[slice]) -> None:
        super().__init__()
        self.states, self.inputs = tuple(states), tuple(inputs)
        sizes = [place.stop - place.start for place in (*self.states, *self.inputs)]
        self.pairs = [(a, b) for b, size in enumerate(sizes) for a in range(b + 1) if sizes[a] == size]
        num = (len(self.pairs) + 1) * (1 + 2 * MAX_SETTINGS)
        self.register_buffer("weight", torch.zeros(len(self.states)))
        self.register_buffer("gain", torch.zeros(num))
        self.register_buffer("setting", torch.full((MAX_SETTINGS,), -1))
        self.register_buffer("slope", torch.ones(()))

    @property
    def found(self) -> bool:
        """Whether there is a law."""
        return bool(self.weight.any())

    def drop(self) -> None:
        """Forgets the law."""
        self.weight.zero_()

    @torch.no_grad()
    def fit(
        self,
        values: Float[Tensor, "B T1 size"],
        inputs: Float[Tensor, "B T inputs"],
        imagined: Float[Tensor, "B T size"],
        room: Float[Tensor, " size"],
    ) -> None:
        """Looks for a law, and keeps it where it tells the end of the paths much better than the predictions do.

        Args:
            values: as observed, in physical units.
            inputs: likewise.
            imagined: predicted from the first of the values on.
            room: how far the predictions of each value are off in a step.
        """
        self.drop()
        if inputs.shape[:2].numel() < FEWEST * len(self.gain):
            return
        values, imagined = values.double(), imagined.double()
        still = [
            place.start
            for place in self.states
            if place.stop - place.start == 1 and not values[..., place].diff(dim=1).any() and values[..., place].std()
        ]
        self.setting.copy_(torch.tensor([*still, *[-1] * MAX_SETTINGS][:MAX_SETTINGS]))
        lengths = self._lengths(values)
        regressors, change = self._regressors(values[:, :-1], inputs.double()), lengths.diff(dim=1)
        gain = _solved(regressors.flatten(0, 1), change.flatten(0, 1))
        ours = self._lengths(imagined[:, -1]) - lengths[:, -1]
        laws = (change - regressors @ gain).sum(1)
        missed = ours.square().mean(0)
        missing = missed > RIDGE * lengths.flatten(0, 1).var(0).clamp(min=torch.finfo().tiny)
        if not missing.any():
            return
        scale = missed[missing].sqrt()
        both = [part[:, missing] / scale for part in (ours, laws)]
        ours, laws = (part.T @ part / len(part) for part in both)
        root = torch.linalg.cholesky(ours + RIDGE * torch.eye(len(ours), dtype=ours.dtype, device=ours.device))
        half = torch.linalg.solve_triangular(root, laws, upper=False)
        ratios, directions = torch.linalg.eigh(torch.linalg.solve_triangular(root, half.mT, upper=False))
        if ratios[0] > BELIEVED:
            return
        found = torch.linalg.solve_triangular(root.mT, directions[:, :1], upper=True)[:, 0] / scale
        weight = torch.zeros(len(self.states), dtype=found.dtype, device=found.device)
        weight[missing] = found / found.abs().max()
        self.weight.copy_(weight)
        self.gain.copy_(gain @ weight)
        self.slope.copy_(((2 * self._spread(values) * values * room).square()).sum(-1).mean())

    def forward(
        self,
        before: Float[Tensor, "M size"],
        inputs: Float[Tensor, "M inputs"],
        after: Float[Tensor, "M size"],
        room: Float[Tensor, " size"],
    ) -> Float[Tensor, "M size"]:
        """What comes after `before`, moved until the law holds; see `fit`."""
        due = self._lengths(before) @ self.weight + self._regressors(before, inputs) @ self.gain
        spread = self._spread(after)
        for _ in range(ITERATIONS):
            off = self._lengths(after) @ self.weight - due
            slope = (2 * spread * after * room).square().sum(-1) + EASE * self.slope
            share = 2 * spread * room.square() * (off / slope)[..., None]
            after = after * (1 - share.clamp(-MOST, MOST))
        return after

    def _lengths(self, values: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead vectors"]:
        return torch.stack([values[..., place].square().sum(-1) for place in self.states], -1)

    def _regressors(
        self, values: Float[Tensor, "*lead size"], inputs: Float[Tensor, "*lead inputs"]
    ) -> Float[Tensor, "*lead regressors"]:
        """All inner products and a 1; and these times each setting, and times its square."""
        vectors = [values[..., place] for place in self.states] + [inputs[..., place] for place in self.inputs]
        products = [(vectors[a] * vectors[b]).sum(-1) for a, b in self.pairs]
        plain = torch.stack([*products, torch.ones_like(products[0])], -1)
        told = torch.where(self.setting >= 0, values[..., self.setting.clamp(min=0)], 0.0)
        factors = torch.cat([torch.ones_like(told[..., :1]), told, told.square()], -1)
        return (plain[..., None, :] * factors[..., None]).flatten(-2)

    def _spread(self, values: Float[Tensor, "*lead size"]) -> Float[Tensor, " size"]:
        """The weight of each number."""
        spread = torch.zeros(values.shape[-1], dtype=values.dtype, device=values.device)
        for place, weight in zip(self.states, self.weight, strict=True):
            spread[place] = weight.to(values.dtype)
        return spread


def _solved(seen: Float[Tensor, "n given"], due: Float[Tensor, "n vectors"]) -> Float[Tensor, "given vectors"]:
    """Ridge regression on regressors of any size; those that are always 0 count for nothing."""
    size = seen.square().mean(0).sqrt()
    size = torch.where(size > 0, size, 1.0)
    scaled = seen / size
    products = scaled.mT @ scaled / len(seen)
    penalty = RIDGE * torch.eye(len(products), dtype=seen.dtype, device=seen.device)
    return torch.as_tensor(torch.linalg.solve(products + penalty, scaled.mT @ due / len(seen)) / size[:, None])
