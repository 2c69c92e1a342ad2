"""The contract of a head, the settings of all heads, and the fit of one head."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import torch
from torch import Tensor, nn

from worldline.config import BoundedConfig
from worldline.data.store import Store
from worldline.schema import Kind, Signal
from worldline.training.stored_latents import Imagination, LatentTable

NUM_LOOKS: Final = 10
"""Number of validations while a head is fitted."""


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(BoundedConfig):
    """Settings of the fit of all heads.

    Args:
        goals: whether to fit distance and inverse; needs bounded vector actions and no exogenous signals.
        dynamics_updates: optimiser steps of the model's rollout on stored latents, before any head, see
            `refine_dynamics`; 0 leaves the model unchanged.
        readout_updates: optimiser steps of the readout after the closed-form fit of its linear part; 0 for none.
        distance_updates: of the distance.
        inverse_updates: of the inverse.
        outcome_updates: of the reward, if the logs hold one, and of the termination, if an episode ends in a terminal
            state; 0 fits neither.
        decoder_updates: of the decoder of the model's images; 0 fits none.
        width: of every network except the decoder.
        batch_size: states per update.
        unroll: length of the rollouts that dynamics and heads are fitted on, steps.
        far: distance beyond which pairs are pushed apart less strongly, steps; about a quarter of an episode.
        learning_rate: initial value of a linear decay to 0.
        seed: of initial weights and batches.
    """

    goals: bool = True
    dynamics_updates: int = 0
    readout_updates: int = 1500
    distance_updates: int = 2500
    inverse_updates: int = 1500
    outcome_updates: int = 500
    decoder_updates: int = 0
    width: int = 256
    batch_size: int = 256
    unroll: int = 6
    far: float = 15.0
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """What heads are fitted on.

    Args:
        store: the logs.
        table: the latents of the training episodes.
        imagination: the frozen model, with the generator for all draws.
        inputs: observation signals that the model takes.
        config: settings of all heads.
    """

    store: Store
    table: LatentTable
    imagination: Imagination
    inputs: tuple[str, ...]
    config: HeadsConfig

    @property
    def images(self) -> tuple[Signal, ...]:
        """The images among the inputs of the model."""
        inputs = (self.store.schema[name] for name in self.inputs)
        return tuple(signal for signal in inputs if signal.kind is Kind.IMAGE)


class Head(nn.Module, ABC):
    """A small network that is fitted on a frozen model. Its file holds config, network, fit, and what the fit needs.

    Constructed as `Head(Head.Config(...))`.
    """

    name: ClassVar[str]
    """Name in the mapping of an engine, and of its files in a bundle."""

    Config: ClassVar[type[Any]]
    """The frozen dataclass with the size of the head."""

    config: Any
    """The size of this head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    updates: ClassVar[str | None] = None
    """Field of `HeadsConfig` with the optimiser steps of the fit; None for a fit in closed form."""

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether these settings ask for the head, and these logs can train it."""
        return True

    @classmethod
    @abstractmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Head:
        """The head, fitted to data for which `can_fit` holds.

        Args:
            data: logs and latents.
            fit: settings of the optimiser.
            heads: the heads that were fitted before.
        """


AnyHead = TypeVar("AnyHead", bound=Head)


def by_name(*heads: Head | None) -> dict[str, Head]:
    """The heads by their names, as an engine takes them; None is left out."""
    return {head.name: head for head in heads if head is not None}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Settings of the fit of one head.

    Args:
        updates: optimiser steps.
        batch_size: states per update.
        unroll: length of the rollouts that it is fitted on, steps.
        width: of its network.
        learning_rate: initial value of a linear decay to 0.
        tick: called after each update.
    """

    updates: int
    batch_size: int
    unroll: int
    width: int
    learning_rate: float
    tick: Callable[[], None]

    def optimise(self, network: nn.Module, error: Callable[[], float] | None = None) -> Iterator[torch.optim.Optimizer]:
        """Yields the optimiser once per update, with linear decay of the learning rate; then freezes the network.

        Args:
            network: to be fitted.
            error: returns the error on held-out rows. The weights with the smallest error are kept, including the
                initial ones. By default the last weights are kept.
        """
        if not self.updates:
            network.eval().requires_grad_(False)
            return  # the first optimiser of a process takes seconds, because torch imports its compiler
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        between, smallest, best = max(1, self.updates // NUM_LOOKS), math.inf, dict[str, Tensor]()
        for update in range(self.updates + 1):
            if error is not None and (update % between == 0 or update == self.updates):
                with torch.no_grad():
                    now = error()
                if now < smallest or not best:
                    smallest, best = now, {name: value.clone() for name, value in network.state_dict().items()}
            if update < self.updates:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * (1 - update / self.updates)
                yield optimizer
                self.tick()
        if best:
            network.load_state_dict(best)
        network.eval().requires_grad_(False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
