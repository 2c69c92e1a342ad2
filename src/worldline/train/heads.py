"""Fits heads on a frozen model. Every episode is encoded once; no image is read again.

Distance: among all quasimetrics that call every single step at most 1, the one that holds far pairs furthest apart is
the least number of steps. Source: Wang et al., "Optimal goal-reaching reinforcement learning via quasimetric learning"
(2304.01203), here with steps imagined by the model, so that it does not matter how well the logged policy did.

Inverse: a policy that follows the distance downhill, differentiated through the model.

Before them the model's own rollout may be trained on: on stored latents a transition costs a fortieth of what it costs
with its images, and what is rare in the logs, such as a wall that stops a move, takes many (docs/design/dynamics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from worldline.contracts.schema import Kind, Schema
from worldline.contracts.world_model import Inputs, WorldModel
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.errors import ConfigError
from worldline.heads.distance import Distance, DistanceConfig
from worldline.heads.familiarity import Familiarity, FamiliarityConfig
from worldline.heads.inverse import Inverse, InverseConfig
from worldline.heads.readout import Readout, ReadoutConfig
from worldline.nn.precision import autocast
from worldline.train.batches import Trace, to_tensor, trace

Progress = Callable[[int, int], None]

FAR_SHARPNESS, FAR_WEIGHT, STEP_WEIGHT = 0.1, 0.3, 30.0
"""Of the two parts of the distance's loss; chosen on Two Rooms (benchmarks/LOG.md)."""


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """How to fit the heads.

    Args:
        goals: whether to fit distance and inverse; needs bounded vector actions and no exogenous signals.
        dynamics_updates: optimiser steps of the model's rollout on stored latents, before any head; 0 leaves the model
            as it is.
        readout_updates: optimiser steps of the readout after its linear part was solved for; 0 leaves it at that.
        distance_updates: of the distance.
        inverse_updates: of the inverse.
        width: of the distance and inverse networks.
        batch_size: states an update.
        unroll: imagined steps that dynamics, readout and inverse are fitted on.
        far: steps beyond which pairs are no longer pushed apart as strongly; about a quarter of an episode.
        learning_rate: first of a linear decay to 0.
        seed: of initial weights and batches.
    """

    goals: bool = True
    dynamics_updates: int = 0
    readout_updates: int = 1500
    distance_updates: int = 2500
    inverse_updates: int = 1500
    width: int = 256
    batch_size: int = 256
    unroll: int = 6
    far: float = 15.0
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
        model: in evaluation mode. Only its rollout is changed, and only by `dynamics_updates`; frozen in the end.
        store: to read from.
        split: only `train` is read.
        inputs: the observation signals that the model takes.
        config: see `HeadsConfig`.
        progress: called after each update, of all heads together.

    Raises:
        ConfigError: goals are asked for where actions are unbounded or discrete, or a signal is exogenous.
    """
    if config.goals and not can_reach(store.schema):
        raise ConfigError(
            "goals need bounded vector actions and no exogenous signals. Add low and high to the action signals "
            "of schema.json, or learn with goals=False."
        )
    generator = torch.Generator().manual_seed(config.seed)
    table = _Table.of(trace(model, store, split.train, inputs, generator=generator))
    updates = [
        config.dynamics_updates,
        config.readout_updates,
        *([config.distance_updates, config.inverse_updates] if config.goals else []),
    ]
    ticks = _Ticks(progress, sum(updates))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights
        familiarity = Familiarity(FamiliarityConfig(latent_size=table.features.shape[1]))
        familiarity.fit(table.features)
        imagination = _Imagination(model, store.schema, generator)
        _refine_dynamics(model, table, imagination, config, ticks)
        readout = _fit_readout(store, split, table, imagination, config, ticks)
        if not config.goals:
            return Heads(readout=readout, familiarity=familiarity, distance=None, inverse=None)
        distance = _fit_distance(table, imagination, config, ticks)
        inverse = _fit_inverse(table, distance, imagination, config, ticks)
    return Heads(readout=readout, familiarity=familiarity, distance=distance, inverse=inverse)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All latents of all episodes, one below the other, with the inputs that follow each (0 after the last)."""

    features: Float[Tensor, "M D"]
    actions: Float[Tensor, "M A"]
    exogenous: Float[Tensor, "M E"] | None
    step_s: Float[Tensor, " M"]
    first: Int[Tensor, " M"]  # row of the episode's first latent
    length: Int[Tensor, " M"]  # latents in the episode

    @staticmethod
    def of(traces: list[Trace]) -> _Table:
        lengths = torch.tensor([len(one.features) for one in traces])
        firsts = lengths.cumsum(0) - lengths
        known = [one.exogenous for one in traces if one.exogenous is not None]
        return _Table(
            features=torch.cat([one.features for one in traces]),
            actions=torch.cat([pad(one.actions, (0, 0, 0, 1)) for one in traces]),
            exogenous=torch.cat([pad(inputs, (0, 0, 0, 1)) for inputs in known]) if known else None,
            step_s=torch.cat([pad(one.step_s, (0, 1)) for one in traces]),
            first=firsts.repeat_interleave(lengths),
            length=lengths.repeat_interleave(lengths),
        )

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of `count` states, and of another state of the same episode for each."""
        here = torch.randint(len(self.features), (count,), generator=generator)
        share = torch.rand(count, generator=generator)
        return here, self.first[here] + (share * self.length[here]).long()

    def starts(self, count: int, num_steps: int, generator: torch.Generator) -> Tensor:
        """Rows of `count` states that `num_steps` logged steps follow."""
        left = self.first + self.length - torch.arange(len(self.features)) - 1
        able = (left >= num_steps).nonzero()[:, 0]
        return able[torch.randint(len(able), (count,), generator=generator)]


class _Ticks:
    """Counts updates over all heads."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Imagination:
    """A frozen model, from bare latents on."""

    def __init__(self, model: WorldModel, schema: Schema, generator: torch.Generator) -> None:
        self._model, self.generator = model, generator
        self._step_s = schema.step_s or 1.0
        self.low = torch.tensor([bound for signal in schema.actions for bound in signal.low or ()])
        self.high = torch.tensor([bound for signal in schema.actions for bound in signal.high or ()])

    def step(self, latent: Float[Tensor, "B D"], action: Float[Tensor, "B A"]) -> Float[Tensor, "B D"]:
        """The latent after `action`, without exogenous inputs."""
        return self._rollout(latent, action[:, None], None, torch.full((len(action), 1), self._step_s))[:, 0]

    def logged(self, table: _Table, rows: Tensor, num_steps: int) -> list[Float[Tensor, "B D"]]:
        """The latents that the logged inputs lead to from the latents in `rows`, for each of the next steps."""
        ahead = rows[:, None] + torch.arange(num_steps)
        exogenous = None if table.exogenous is None else table.exogenous[ahead]
        path = self._rollout(table.features[rows], table.actions[ahead], exogenous, table.step_s[ahead])
        return list(path.unbind(1))

    def random_actions(self, count: int) -> Float[Tensor, "B A"]:
        """Uniform over the action space."""
        share = torch.rand(count, len(self.low), generator=self.generator)
        return self.low + share * (self.high - self.low)

    def _rollout(
        self, latent: Tensor, actions: Tensor, exogenous: Tensor | None, step_s: Tensor
    ) -> Float[Tensor, "B T D"]:
        inputs = Inputs(actions=actions[:, None], exogenous=exogenous, step_s=step_s)
        belief = self._model.belief(latent)
        return self._model.rollout(belief, inputs, generator=self.generator).features[:, 0].mean(1)


def _refine_dynamics(
    model: WorldModel, table: _Table, imagination: _Imagination, config: HeadsConfig, ticks: _Ticks
) -> None:
    """Open-loop prediction of the stored latents. The encoder is not run, so it gets no gradient and stays."""
    steps = min(config.unroll, int(table.length.max()) - 1)
    model.requires_grad_(True)
    for optimizer in _optimise(model, config.dynamics_updates, config.learning_rate, ticks):
        here = table.starts(config.batch_size, steps, imagination.generator)
        with autocast():
            path = torch.stack(imagination.logged(table, here, steps)).float()
        _descend(optimizer, (path - table.features[here + torch.arange(1, steps + 1)[:, None]]).square().mean())


def _fit_readout(
    store: Store, split: Split, table: _Table, imagination: _Imagination, config: HeadsConfig, ticks: _Ticks
) -> Readout:
    """Least squares to all vector observations: a linear map from real latents, then all from imagined ones too."""
    signals = {s.name: s.size for s in store.schema.observations if s.kind is Kind.VECTOR}
    rows = [
        torch.cat([to_tensor(store.read(name, e, 0, int(store.num_steps[e]) + 1)) for name in signals], -1)
        for e in split.train
    ]
    observed = [
        torch.cat([_mask(store, name, e)[:, None].expand(-1, size) for name, size in signals.items()], -1)
        for e in split.train
    ]
    values, known = torch.cat(rows), torch.cat(observed)
    head = Readout(ReadoutConfig(latent_size=table.features.shape[1], signals=signals, width=config.width))
    head.fit_linear(table.features, values, known)
    target = head.normaliser(values).where(known, 0.0)
    steps = min(config.unroll, int(table.length.max()) - 1)
    for optimizer in _optimise(head, config.readout_updates, config.learning_rate, ticks):
        here = table.starts(config.batch_size, steps, imagination.generator)
        path, ahead = [table.features[here]], here + torch.arange(steps + 1)[:, None]
        with torch.no_grad():
            path += imagination.logged(table, here, steps)
        weight = known[ahead].float()
        error = (head.scores(torch.stack(path)) - target[ahead]).square() * weight
        _descend(optimizer, error.sum() / weight.sum().clamp(min=1))
    return head


def _fit_distance(table: _Table, imagination: _Imagination, config: HeadsConfig, ticks: _Ticks) -> Distance:
    """Far pairs apart, single steps at most 1."""
    head = Distance(DistanceConfig(latent_size=table.features.shape[1], width=config.width))
    count = 2 * config.batch_size
    for optimizer in _optimise(head, config.distance_updates, config.learning_rate, ticks):
        here, goal = table.pairs(count, imagination.generator)
        start = table.features[here]
        following = table.features[torch.minimum(here + 1, table.first[here] + table.length[here] - 1)]
        with torch.no_grad(), autocast():
            after = imagination.step(start, imagination.random_actions(count)).float()
        with autocast():
            embedded = head.embed(torch.cat([start, after, following, table.features[goal]])).float()
        before, imagined, logged, there = embedded.chunk(4)
        step = torch.cat([head.between(before, imagined), head.between(before, logged)])
        far = torch.cat([head.between(before, there), head.between(imagined, there)])
        apart = softplus(config.far - far, beta=FAR_SHARPNESS).mean()
        _descend(optimizer, FAR_WEIGHT * apart + STEP_WEIGHT * (step - 1).relu().square().mean())
    return head


def _fit_inverse(
    table: _Table, distance: Distance, imagination: _Imagination, config: HeadsConfig, ticks: _Ticks
) -> Inverse:
    """The policy that the imagined sum of distances to the goal is least under."""
    low, high = tuple(imagination.low.tolist()), tuple(imagination.high.tolist())
    head = Inverse(InverseConfig(latent_size=table.features.shape[1], low=low, high=high, width=config.width))
    for optimizer in _optimise(head, config.inverse_updates, config.learning_rate, ticks):
        here, goal = table.pairs(config.batch_size, imagination.generator)
        latent, wanted = table.features[here], table.features[goal]
        there = distance.embed(wanted)
        path = []
        with autocast():
            for _ in range(config.unroll):
                latent = imagination.step(latent, head(latent, wanted))
                path.append(latent)
            left = distance.between(distance.embed(torch.stack(path)).float(), there)
        _descend(optimizer, left.mean())
    return head


def _mask(store: Store, name: str, episode: int) -> Tensor:
    return torch.from_numpy(store.observed(name, episode, 0, int(store.num_steps[episode]) + 1))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _optimise(network: nn.Module, updates: int, learning_rate: float, ticks: _Ticks) -> Iterator[torch.optim.Optimizer]:
    """Yields the optimiser once an update, its learning rate falling to 0; freezes the network in the end."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - update / updates)
        yield optimizer
        ticks()
    network.eval().requires_grad_(False)
