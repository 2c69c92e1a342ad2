"""The belief of an ensemble: the last observations of each member."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from worldline.models.base import Belief, LatentRollout
from worldline.models.layers.offset import no_errors
from worldline.models.layers.tracing import is_traced

Codes = Float[Tensor, "B H size"]
"""Codes of observations."""
Seen = Bool[Tensor, "B H signals"]
"""Whether each signal was observed."""
Known = Float[Tensor, "B T I"]
"""Z-scores of inputs."""


@dataclass(frozen=True, kw_only=True)
class EnsembleBelief(Belief):
    """The last observations of each member, newest first. Particle m always belongs to member m.

    Args:
        codes: z-scores; the member's prediction where a value is missing.
        stale: age of each value. 0 if it was observed or predicted in a rollout, k / (k + 1) after k steps without an
            observation, 1 if it was never observed.
        inputs: z-scores of the inputs between the observations, newest first.
        errors: recent one-step errors, see `layers.offset`; without rows if there is no offset.
        hidden: state of recurrent networks before the present observation; of size 0 without them.
    """

    codes: Float[Tensor, "B M history size"]
    stale: Float[Tensor, "B M history signals"]
    inputs: Float[Tensor, "B M gaps I"]
    errors: Float[Tensor, "B M rows size"]
    hidden: Float[Tensor, "B M 1 state"]

    def features(self) -> Float[Tensor, "B M D"]:
        """All parts but the errors and the hidden state concatenated; the present z-scores come first."""
        return torch.cat([self.codes.flatten(2), self.stale.flatten(2), self.inputs.flatten(2)], -1)

    def of_members(self, count: int) -> EnsembleBelief:
        """The same belief for each of `count` members; M must be 1."""
        parts = {name: value.expand(-1, count, -1, -1) for name, value in vars(self).items()}
        return EnsembleBelief(**parts)

    def repeat(self, times: int) -> EnsembleBelief:
        """Each batch entry `times` times in succession."""
        index = torch.arange(len(self.codes), device=self.codes.device)
        return self.select(index.repeat_interleave(times))

    def rollout(self, path: Float[Tensor, "B M T size"], known: Known, hidden: Tensor) -> LatentRollout:
        """The features after each of T predicted steps with inputs `known`, [B, 1, M, T, D], and the last belief.

        `hidden` is the last hidden state.
        """
        (_, members, history, _), steps = self.codes.shape, path.shape[2]
        ages = self.stale.new_zeros(*path.shape[:3], self.stale.shape[-1])
        ahead = known[:, None].expand(-1, members, -1, -1)
        groups = (self.codes, path), (self.stale, ages), (self.inputs, ahead)
        codes, stale, inputs = (torch.cat([old.flip(2), new], 2) for old, new in groups)  # newest last
        ends = torch.arange(steps, device=codes.device)[:, None]
        back = ends + torch.arange(history, 0, -1, device=codes.device)
        # Newest first; the inputs lie between observations, so that there is one fewer.
        parts = [
            whole.index_select(2, index.flatten()).unflatten(2, index.shape).flatten(3)
            for whole, index in ((codes, back), (stale, back), (inputs, back[:, : history - 1] - 1))
        ]
        features = torch.cat(parts, -1)
        codes, stale = codes[:, :, -history:].flip(2), stale[:, :, -history:].flip(2)
        inputs = inputs[:, :, inputs.shape[2] - history + 1 :].flip(2)
        final = replace(self, codes=codes, stale=stale, inputs=inputs, hidden=hidden)
        return LatentRollout(features=features[:, None], final=final)

    def push(self, codes: Tensor, stale: Tensor, now: Tensor) -> EnsembleBelief:
        """The belief one step later. `codes` and `stale` [B, M, ...] are new; `now` [B, I] led to them."""
        inputs = now[:, None, None].expand(-1, codes.shape[1], -1, -1)
        inputs = torch.cat([inputs, self.inputs], 2)[:, :, : self.inputs.shape[2]]
        codes = torch.cat([codes[:, :, None], self.codes[:, :, :-1]], 2)
        return replace(self, codes=codes, stale=torch.cat([stale[:, :, None], self.stale[:, :, :-1]], 2), inputs=inputs)

    def count(self) -> Int[Tensor, " B"]:
        """The number of known observations, at least 1."""
        return (self.stale[:, 0] < 1).any(-1).sum(-1).clamp(min=1)

    def common_count(self) -> int | Tensor:
        """The number of known observations as one number if all rows agree, which saves a matrix per row."""
        count = self.count()
        if count.is_meta:  # shapes only
            return self.codes.shape[2]
        if is_traced():  # all rows have one past
            return count[:1]
        least, most = torch.stack([count.amin(), count.amax()]).tolist()
        return int(least) if least == most else count

    def covariates(self, now: Float[Tensor, "B I"]) -> Float[Tensor, "B covariates"]:
        """The inputs of the networks that are known in advance: ages, and inputs with those `now` first."""
        return torch.cat([self.stale[:, 0].flatten(1), now, self.inputs[:, 0].flatten(1)], -1)


def by_step(values: Shaped[Tensor, "B P *rest"]) -> Shaped[Tensor, "PB *rest"]:
    """All rows of the first step, then all rows of the second, and so on."""
    return values.transpose(0, 1).flatten(0, 1)


def lag_index(at: Int[Tensor, " P"], history: int) -> Int[Tensor, "P history"]:
    """Indices of the last `history` entries up to number `at`, newest first, after history - 1 padded entries."""
    return at[:, None] + history - 1 - torch.arange(history, device=at.device)


def cut_beliefs(
    codes: Codes, now: Known, starts: Int[Tensor, " P"], history: int, num_signals: int, *, gain: float, state_size: int
) -> EnsembleBelief:
    """The beliefs at the observations `starts` of logs without gaps, [P B, 1, ...]."""
    batch, back = len(codes), lag_index(starts, history)
    past = torch.cat([codes[:, :1].expand(-1, history - 1, -1), codes], 1)[:, back]
    inputs = torch.cat([now.new_zeros(batch, history - 1, now.shape[2]), now], 1)[:, back[:, 1:]]
    before_first = (back < history - 1).to(codes.dtype)
    stale = before_first[None, ..., None].expand(batch, -1, -1, num_signals)
    past, stale, inputs = (by_step(part)[:, None] for part in (past, stale, inputs))
    errors = no_errors(past[:, :, 0], gain)
    hidden = past.new_zeros(len(past), 1, 1, state_size)
    return EnsembleBelief(codes=past, stale=stale, inputs=inputs, errors=errors, hidden=hidden)
