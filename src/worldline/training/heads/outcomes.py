"""The heads of outcomes: the expected reward of a step, and the probability that a state is terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from worldline.config import BoundedConfig, Size, SizeOrZero
from worldline.data.store import Store
from worldline.models.layers.mlp import mlp
from worldline.models.layers.standardizer import Normaliser
from worldline.schema import Role, Signal
from worldline.training.batches import to_tensor
from worldline.training.heads.base import Fit, Head, HeadData, descend
from worldline.training.stored_latents import Paths, Rows


@dataclass(frozen=True, kw_only=True)
class RewardConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        action_size: A.
        width: of the two hidden layers.
    """

    latent_size: Size
    action_size: SizeOrZero
    width: Size = 256


class Outcome(Head):
    """A network with two hidden layers and one output, which is constant until it is trained.

    Args:
        config: size of the head.
        size: number of its inputs.
    """

    updates = "outcome_updates"

    def __init__(self, config: Any, size: int) -> None:
        super().__init__(config)
        self.inputs = Normaliser(size)
        self.layers = mlp([size, config.width, config.width, 1])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def descend(
        self, data: HeadData, fit: Fit, error: Callable[[Paths], Tensor], *, rows: Rows, held_out: Rows
    ) -> None:
        """Minimises an error along the paths from these rows; those that are held out choose the kept weights."""
        table, imagination = data.table, data.imagination
        validation = imagination.exam(table, held_out & rows, fit.unroll)
        for optimizer in fit.optimise(self, None if validation is None else lambda: float(error(validation))):
            descend(optimizer, error(imagination.draw(table, ~held_out & rows, fit.batch_size, fit.unroll)))


class Reward(Outcome):
    """The expected reward of a step, from its action and the latent after it. Predicts the mean until it is trained."""

    name = "reward"
    Config = RewardConfig
    config: RewardConfig

    def __init__(self, config: RewardConfig) -> None:
        super().__init__(config, config.latent_size + config.action_size)
        self.normaliser = Normaliser(1)

    def fit_normaliser(
        self, latents: Float[Tensor, "M D"], actions: Float[Tensor, "M A"], rewards: Float[Tensor, " M"]
    ) -> None:
        """Fits means and standard deviations on M steps."""
        self.inputs.fit(torch.cat([latents, actions], -1))
        self.normaliser.fit(rewards[:, None])

    def scores(self, latents: Float[Tensor, "... D"], actions: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """The z-score of the reward."""
        return torch.as_tensor(self.layers(self.inputs(torch.cat([latents, actions], -1)))[..., 0])

    def forward(self, latents: Float[Tensor, "... D"], actions: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """The reward, in logged units.

        Args:
            latents: after the step.
            actions: of the step, physical units; discrete ones as one-hot.
        """
        return self.normaliser.inverse(self.scores(latents, actions)[..., None])[..., 0]

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether there are updates, and the logs hold a reward and a step."""
        rewarded = bool(data.store.schema.of(Role.REWARD))
        return bool(data.config.outcome_updates and rewarded and (data.table.steps_after > 0).any())

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Reward:
        """The head for the reward of a step, the sum over all reward signals."""
        store, table = data.store, data.table
        signals, steps = store.schema.of(Role.REWARD), table.steps_after > 0
        earned = [_rewards(store, signals, episode) for episode in table.numbers]
        reward = torch.cat(earned).to(table.device)  # of the step after each row; 0 after the last row
        latent_size, action_size = table.features.shape[1], table.actions.shape[1]
        head = cls(RewardConfig(latent_size=latent_size, action_size=action_size, width=fit.width)).to(table.device)
        before = steps.nonzero()[:, 0]
        head.fit_normaliser(table.features[before + 1].cpu(), table.actions[before].cpu(), reward[before].cpu())
        target = head.normaliser(reward[:, None])[:, 0]

        def error(paths: Paths) -> Tensor:
            """The squared error after each step of the paths, for predicted and for encoded latents."""
            inside, rows = paths.inside[1:].float(), paths.rows[:-1]
            both = torch.stack([paths.features[1:], table.features[paths.rows[1:]]])
            actions = table.actions[rows].expand(2, -1, -1, -1)
            squared = (head.scores(both, actions) - target[rows]).square().mean(0)
            return torch.as_tensor((squared * inside).sum() / inside.sum().clamp(min=1))

        head.descend(data, fit, error, rows=steps, held_out=table.held_out)
        return head


def _rewards(store: Store, signals: Sequence[Signal], episode: int) -> Float[Tensor, " T1"]:
    """The summed reward of each step, then a 0."""
    steps = int(store.num_steps[episode])
    total = np.zeros(steps + 1, np.float32)
    for signal in signals:
        total[:-1] += store.read(signal.name, episode, 0, steps).reshape(steps, -1).sum(1)
    return to_tensor(total)


@dataclass(frozen=True, kw_only=True)
class TerminationConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: of the two hidden layers.
    """

    latent_size: Size
    width: Size = 256


class Termination(Outcome):
    """The probability that a latent belongs to a terminal state. Predicts the base rate until it is trained."""

    name = "termination"
    Config = TerminationConfig
    config: TerminationConfig

    def __init__(self, config: TerminationConfig) -> None:
        super().__init__(config, config.latent_size)

    @torch.no_grad()
    def fit_rate(self, latents: Float[Tensor, "M D"], terminal: Bool[Tensor, " M"]) -> None:
        """Fits means, standard deviations and the rate of terminal states on M latents."""
        self.inputs.fit(latents)
        _, bias = self.layers[-1].parameters()
        bias.fill_((terminal.double().mean().clamp(1e-6, 1 - 1e-6)).logit())

    def logits(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """The log-odds."""
        return torch.as_tensor(self.layers(self.inputs(latents))[..., 0])

    def forward(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """The probability."""
        return self.logits(latents).sigmoid()

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether there are updates, and a training episode ends in a terminal state."""
        return bool(data.config.outcome_updates and _terminal(data).any())

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Termination:
        """The head for terminal states."""
        table, terminal = data.table, _terminal(data)
        held_out = table.held_out
        if not (terminal & held_out).any() or not (terminal & ~held_out).any():
            held_out = torch.zeros_like(held_out)  # both parts need a terminal state
        head = cls(TerminationConfig(latent_size=table.features.shape[1], width=fit.width)).to(table.device)
        head.fit_rate(table.features.cpu(), terminal.cpu())

        def error(paths: Paths) -> Tensor:
            """The cross entropy along the paths, for predicted and for encoded latents."""
            inside = paths.inside.float()
            both = torch.stack([paths.features, table.features[paths.rows]])
            target = terminal[paths.rows].float().expand(2, -1, -1)
            entropy = binary_cross_entropy_with_logits(head.logits(both), target, reduction="none").mean(0)
            return (entropy * inside).sum() / inside.sum()

        head.descend(data, fit, error, rows=torch.ones_like(held_out), held_out=held_out)
        return head


def _terminal(data: HeadData) -> Bool[Tensor, " M"]:
    """Whether each row is a terminal state."""
    ends = to_tensor(data.store.terminated[data.table.episode.cpu().numpy()], data.table.device)
    return torch.as_tensor(ends & (data.table.steps_after == 0))
