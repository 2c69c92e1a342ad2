"""Fits heads on a frozen model. Every episode is encoded once; no image is read again.

Distance: among all quasimetrics that call every single step at most 1, the one that holds far pairs furthest apart is the
least number of steps. Source: Wang et al., "Optimal goal-reaching reinforcement learning via quasimetric learning"
(2304.01203), here with steps imagined by the model, so that it does not matter how well the logged policy did.

Inverse: a policy that follows the distance downhill, differentiated through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from worldline.contracts.schema import Kind, Schema
from worldline.contracts.world_model import Belief, Inputs, WorldModel
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.errors import ConfigError
from worldline.heads.distance import Distance, DistanceConfig
from worldline.heads.familiarity import Familiarity, FamiliarityConfig
from worldline.heads.inverse import Inverse, InverseConfig
from worldline.heads.readout import Readout, ReadoutConfig
from worldline.nn.precision import autocast
from worldline.train.batches import Trace, trace

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """How to fit the heads.

    Args:
        goals: whether to fit distance and inverse; needs bounded vector actions and no exogenous signals.
        readout_updates: optimiser steps of the readout.
        distance_updates: of the distance.
        inverse_updates: of the inverse.
        width: of the distance and inverse networks.
        unroll: steps that the inverse is differentiated through.
        learning_rate: first of a linear decay to 0.
        seed: of initial weights and batches.
    """

    goals: bool = True
    readout_updates: int = 1500
    distance_updates: int = 2500
    inverse_updates: int = 1500
    width: int = 256
    unroll: int = 6
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The fitted heads.

    Args:
        readout: to signals.
        familiarity: for novelty.
        distance: None where there are no goals.
        inverse: None where there are no goals.
    """

    readout: Readout
    familiarity: Familiarity
    distance: Distance | None
    inverse: Inverse | None


def can_reach(schema: Schema) -> bool:
    """Whether distance and inverse can be fitted: bounded vector actions, no exogenous signals."""
    bounded = all(s.kind is Kind.VECTOR and s.low is not None and s.high is not None for s in schema.actions)
    return bool(schema.actions) and bounded and not schema.exogenous


def fit_heads(
    model: WorldModel,
    store: Store,
    split: Split,
    inputs: tuple[str, ...],
    config: HeadsConfig,
    *,
    progress: Progress | None = None,
) -> Heads:
    """The heads of a trained model.

    Args:
        model: in evaluation mode; left as it is.
        store: to read from.
        split: only `train` is read.
        inputs: the observation signals that the model takes.
        config: see `HeadsConfig`.
        progress: called after each update, of all heads together.

    Raises:
        ConfigError: goals are asked for in a world whose actions are unbounded, discrete, or that has exogenous signals.
    """
    if config.goals and not can_reach(store.schema):
        raise ConfigError(
            "goals need bounded vector actions and no exogenous signals. Add low and high to the action signals "
            "of schema.json, or learn with goals=False."
        )
    generator = torch.Generator().manual_seed(config.seed)
    table = _Table.of(trace(model, store, split.train, inputs, generator=generator))
    updates = [config.readout_updates, *([config.distance_updates, config.inverse_updates] if config.goals else [])]
    ticks = _Ticks(progress, sum(updates))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights
        familiarity = Familiarity(FamiliarityConfig(latent_size=table.features.shape[1]))
        familiarity.fit(table.features)
        readout = _fit_readout(store, split, table, config, generator, ticks)
        if not config.goals:
            return Heads(readout=readout, familiarity=familiarity, distance=None, inverse=None)
        imagination = _Imagination(model, store.schema, generator)
        distance = _fit_distance(imagination, table, config, generator, ticks)
        inverse = _fit_inverse(imagination, table, distance, config, generator, ticks)
    return Heads(readout=readout, familiarity=familiarity, distance=distance, inverse=inverse)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All latents of all episodes, one below the other."""

    features: Float[Tensor, "M D"]
    first: Int[Tensor, "M"]  # row of the episode's first latent
    length: Int[Tensor, "M"]  # latents in the episode

    @staticmethod
    def of(traces: list[Trace]) -> _Table:
        lengths = torch.tensor([len(one.features) for one in traces])
        firsts = lengths.cumsum(0) - lengths
        return _Table(
            features=torch.cat([one.features for one in traces]),
            first=firsts.repeat_interleave(lengths),
            length=lengths.repeat_interleave(lengths),
        )

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of `count` states, and of another state of the same episode for each."""
        here = torch.randint(len(self.features), (count,), generator=generator)
        share = torch.rand(count, generator=generator)
        there = self.first[here] + (share * self.length[here]).long()
        return here, there


class _Ticks:
    """Counts updates over all heads."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Imagination:
    """One step of a frozen model from bare latents."""

    def __init__(self, model: WorldModel, schema: Schema, generator: torch.Generator) -> None:
        self._model, self._generator = model, generator
        self._step_s = schema.step_s or 1.0
        self.low = torch.tensor([bound for signal in schema.actions for bound in signal.low or ()])
        self.high = torch.tensor([bound for signal in schema.actions for bound in signal.high or ()])

    def step(self, belief: Belief, action: Float[Tensor, "B A"]) -> Belief:
        """The belief after `action`."""
        step_s = torch.full((len(action), 1), self._step_s)
        inputs = Inputs(actions=action[:, None, None], exogenous=None, step_s=step_s)
        return self._model.rollout(belief, inputs, generator=self._generator).final

    def random_action(self, count: int) -> Float[Tensor, "B A"]:
        """Uniform over the action space."""
        share = torch.rand(count, len(self.low), generator=self._generator)
        return self.low + share * (self.high - self.low)


def _optimise(network: nn.Module, updates: int, learning_rate: float, ticks: _Ticks) -> Iterator[torch.optim.Optimizer]:
    """Yields the optimiser once an update, its learning rate falling to 0."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - update / updates)
        yield optimizer
        ticks()
    network.eval().requires_grad_(False)
