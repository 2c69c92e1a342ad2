"""The model family `recurrent`: an ensemble whose networks are recurrent, for noisy sensors and hidden states.

Each member is a gated recurrent unit that predicts the residual of a linear forecast. It reads each observation with
the inputs after it, and then its own predictions. It learns from open-loop paths alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldline.config import Size
from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.ensemble import Ensemble, EnsembleConfig
from worldline.models.layers.changes import interpolated
from worldline.models.layers.member_beliefs import Codes, EnsembleBelief, Known, Seen, by_step
from worldline.models.layers.member_networks import LinearBase, MemberLinear, MemberNetworks
from worldline.models.layers.offset import offset_of
from worldline.schema import Schema


class MemberCells(MemberNetworks):
    """One gated recurrent unit per member, and a linear layer from its state to a change.

    Layer 0 gives the gates' inputs from the taken values, layer 1 those from the state, layer 2 the change.

    Args:
        num_members: M.
        lagged: number of lagged values of the linear forecast.
        taken: number of values that a cell takes in each step.
        width: size of the state.
        size: number of values.

    Source: Cho et al. 2014 (arXiv 1406.1078), with the reset gate after the product.
    """

    def __init__(self, *, num_members: int, lagged: int, taken: int, width: int, size: int) -> None:
        sizes = (taken, 3 * width), (width, 3 * width), (width, size)
        nn.ModuleList.__init__(self, [MemberLinear(num_members, *pair) for pair in sizes])
        self.num_members, self.lagged, self.size, self.width = num_members, lagged, size, width

    @torch.no_grad()
    def start_at_zero(self, ages: slice) -> None:
        """Makes the first changes 0; cells take no ages."""
        _, last = self._ends()
        last.weight.zero_()
        last.bias.zero_()

    def step(self, taken: Float[Tensor, "M R gates"], state: Float[Tensor, "M R width"]) -> Float[Tensor, "M R width"]:
        """The next state."""
        kept, width = self[1](state), self.width
        reset, update = torch.sigmoid(taken[..., : 2 * width] + kept[..., : 2 * width]).split(width, -1)
        proposed = torch.tanh(taken[..., 2 * width :] + reset * kept[..., 2 * width :])
        return torch.as_tensor(proposed + update * (state - proposed))


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(EnsembleConfig):
    """As of an ensemble with a linear forecast and without noise. `layers` and `beta` have no effect.

    Args:
        context: observations that the state is computed from in training; predictions use all that are given.
    """

    history: Size = 8
    width: Size = 64
    bootstrap: bool = False
    blanked: float = 0.0
    linear: bool = True
    noise: bool = False
    context: Size = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise or not self.linear:
            raise ConfigError(
                "recurrent networks need linear=True and noise=False. Choose the family ensemble instead."
            )


class Recurrent(Ensemble):
    """The model. Its belief holds the last `history` observations and the hidden state, once per member.

    Args:
        schema: the signals; actions and exogenous inputs are used in its order.
        config: see `RecurrentConfig`.

    Raises:
        UnknownNameError: the config names a signal that the schema lacks.
        ConfigError: an input is an image.
    """

    Config = RecurrentConfig
    paths_only = True
    layers: MemberCells

    def __init__(self, *, schema: Schema, config: RecurrentConfig) -> None:
        self.state_size = config.width
        super().__init__(schema=schema, config=config)
        self.context = max(config.history, config.context)

    def _networks(self, lagged: int, covariates: int) -> MemberNetworks:
        config, size = self.config, len(self.codes.owner)
        taken = size + self.inputs.size
        return MemberCells(num_members=config.num_members, lagged=lagged, taken=taken, width=config.width, size=size)

    def single_steps(self, window: Window) -> None:
        """None: the networks learn from paths."""

    def _taken(self, present: Float[Tensor, "M R size"], now: Float[Tensor, "R I"]) -> Float[Tensor, "M R gates"]:
        """What present values and inputs contribute to the gates, both limited to the logged range and a margin."""
        size, ages = present.shape[-1], self.config.history * len(self.codes.signals)
        first = self.layers.lagged + ages
        present = present.clamp(self.lowest[:size], self.highest[:size])
        now = now.clamp(self.lowest[first:][: now.shape[-1]], self.highest[first:][: now.shape[-1]])
        return torch.as_tensor(self.layers[0](torch.cat([present, now.expand(len(present), -1, -1)], -1)))

    def _next(self, memory: EnsembleBelief, now: Float[Tensor, "B I"]) -> Float[Tensor, "M B width"]:
        """The hidden state after the present observation and the inputs `now`."""
        present = memory.codes[:, :, 0].transpose(0, 1)
        return self.layers.step(self._taken(present, now), memory.hidden[:, :, 0].transpose(0, 1))

    def _windows(self, codes: Codes, now: Tensor, starts: Int[Tensor, " P"]) -> EnsembleBelief:
        """As in an ensemble, for each member with its hidden state."""
        members, batch, steps = self.config.num_members, len(codes), now.shape[1]
        present = codes[:, :steps].transpose(0, 1).flatten(0, 1).expand(members, -1, -1)
        taken = self._taken(present, by_step(now[:, :steps])).unflatten(1, (steps, batch))
        states = [codes.new_zeros(members, batch, self.state_size)]
        for step in range(steps):
            states.append(self.layers.step(taken[:, step], states[-1]))
        hidden = torch.stack(states)[starts].transpose(1, 2).flatten(0, 1)[:, :, None]
        return replace(super()._windows(codes, now, starts).of_members(members), hidden=hidden)

    def _after_gaps(self, codes: Codes, seen: Seen, now: Tensor) -> EnsembleBelief:
        """With values interpolated across gaps, which is faster than to predict them."""
        codes = interpolated(codes, seen[..., self.codes.owner])
        return self._windows(codes, now, torch.tensor([codes.shape[1] - 1], device=codes.device))

    def _update(self, memory: EnsembleBelief, now: Tensor, codes: Tensor, seen: Bool[Tensor, "B _"]) -> EnsembleBelief:
        hidden = self._next(memory, now).transpose(0, 1)[:, :, None]
        return replace(super()._update(memory, now, codes, seen), hidden=hidden)

    def _predict(
        self, memory: EnsembleBelief, now: Float[Tensor, "B I"]
    ) -> tuple[Float[Tensor, "B M size"], Float[Tensor, "M B width"]]:
        """Each member's expected codes after the step with inputs `now`, and its next hidden state."""
        assert self.base is not None
        lagged, covariates = self._lagged(memory).flatten(2).transpose(0, 1), memory.covariates(now)
        count = memory.common_count()
        state = self._next(memory, now)
        change = LinearBase.change(lagged, *self.base.parts(covariates, count, self.codes.change))
        change = (change + self.layers[2](state).float() * self._unit(count)).transpose(0, 1)
        if self.config.gain:
            change = change + offset_of(memory.errors)
        return memory.codes[:, :, 0] + change.where(~self._never(memory), 0.0), state

    def _unroll(
        self, memory: EnsembleBelief, known: Known, noise: object = None
    ) -> tuple[Float[Tensor, "B M T size"], Float[Tensor, "B M 1 state"]]:
        """The codes that each member predicts open loop, and the last hidden state."""
        _, bases, units = self._ahead(memory, known)
        lagged, present, unseen, offset = self._start(memory)
        size, history, state = len(self.codes.owner), self.config.history, memory.hidden[:, :, 0].transpose(0, 1)
        path = list[Tensor]()
        for step, (base, unit) in enumerate(zip(bases, units, strict=True)):
            assert base is not None
            state = self.layers.step(self._taken(present, known[:, step]), state)
            change = torch.addcmul(LinearBase.change(lagged, *base), self.layers[2](state).float(), unit)
            change = change if offset is None else change + offset
            change = change if step else change.where(~unseen, 0.0)
            present = present + change
            path.append(present)
            moved = [change / self.codes.change, lagged[..., size:-size]] if history > 1 else []
            lagged = torch.cat([present, *moved], -1)
        return torch.stack(path, 2).transpose(0, 1), state.transpose(0, 1)[:, :, None]
