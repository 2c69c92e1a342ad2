"""Single steps of a log as rows of a table, from which members of an ensemble learn without reading windows again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.models.layers.member_networks import MemberNetworks


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
            draws = [(rows, num) for rows, num in ((whole, count - few), (short, few)) if num]
            parts.append(
                torch.cat([rows[torch.randint(len(rows), (num,), generator=generator)] for rows, num in draws])
            )
        return torch.stack(parts).to(self.inputs.device)

    def loss(self, networks: MemberNetworks, rows: Int[Tensor, "M count"]) -> Float[Tensor, ""]:
        """The sum over the members of their mean squared errors in these rows."""
        inputs, lagged = self.inputs[rows], networks.lagged
        covariates = networks.contribution(inputs[..., lagged:])
        outputs, _ = networks.change(inputs[..., :lagged], covariates, networks.slices())
        member = torch.arange(len(rows), device=rows.device)[:, None] if len(self.targets) > 1 else 0
        error = (outputs - self.targets[member, rows]).square() * self.known[rows]
        return (error.sum(1) / self.known[rows].sum(1).clamp(min=1)).mean(-1).sum()
