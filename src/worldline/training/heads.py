"""Fitting of all heads on a frozen model, in order.

Before the heads, `refine_dynamics` trains the model's rollout further on stored latents. This needs a fortieth of the
time per transition, because images are not encoded again. Rare events, such as a wall that stops a move, need many
transitions (docs/design/dynamics.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.device import autocast, device_of
from worldline.errors import ConfigError
from worldline.models.base import WorldModel
from worldline.models.heads.decoder import Decoder
from worldline.models.heads.distance import Distance
from worldline.models.heads.inverse import Inverse
from worldline.models.heads.landmarks import Landmarks
from worldline.models.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.models.heads.outcome import Reward, Termination
from worldline.models.heads.readout import Readout
from worldline.progress import OnProgress, tell
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.batches import picture_goals, trace
from worldline.training.goal_heads import fit_distance, fit_inverse, fit_landmarks
from worldline.training.head_fitting import NUM_LOOKS, Fit, descend
from worldline.training.readout_heads import fit_decoder, fit_readout, fit_reward, fit_termination
from worldline.training.stored_latents import Imagination, LatentTable


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
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
        num_landmarks: number of landmarks for goals beyond `reach`; 0 for none. Neighbours should be less than half the
            reach apart.
        reach: maximum distance at which the distance head is used if there are landmarks, steps; at least 2.
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
    num_landmarks: int = 0
    reach: float = 40.0
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_landmarks < 0 or not 2 <= self.reach < math.inf:
            raise ConfigError(
                f"num_landmarks is {self.num_landmarks} and reach is {self.reach}. num_landmarks must be at least 0, "
                "reach at least 2 and finite."
            )
        if self.num_landmarks and not self.goals:
            raise ConfigError(
                f"num_landmarks is {self.num_landmarks}, but goals is False. Set it to 0, or goals to True."
            )


@dataclass(frozen=True, kw_only=True)
class GoalHeads:
    """The fitted heads for goal observations.

    Args:
        distance: steps to a goal.
        inverse: actions that lead to a goal.
        landmarks: None if not configured.
    """

    distance: Distance
    inverse: Inverse
    landmarks: Landmarks | None


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The fitted heads.

    Args:
        readout: latents to signals.
        mahalanobis: out-of-distribution score.
        goals: None if not configured.
        reward: None if the logs hold none, or if not configured.
        termination: None if no episode ends in a terminal state, or if not configured.
        decoder: None if the model takes no images, or if not configured.
    """

    readout: Readout
    mahalanobis: MahalanobisScore
    goals: GoalHeads | None = None
    reward: Reward | None = None
    termination: Termination | None = None
    decoder: Decoder | None = None


def can_reach(schema: Schema) -> bool:
    """Whether goal heads can be fitted: bounded vector actions, no exogenous signals."""
    return not goal_obstacles(schema)


def check_goals(schema: Schema) -> None:
    """Checks that goal heads can be fitted.

    Raises:
        ConfigError: an action is unbounded or discrete, or the schema has exogenous signals or no actions.
    """
    found = goal_obstacles(schema)
    if found:
        raise ConfigError(
            f"goal heads need bounded vector actions and no exogenous signals, but {', '.join(found)}. Add low and "
            "high to the actions (worldline schema STORE), or learn without goals (--no-goals, goals=False)."
        )


def goal_obstacles(schema: Schema) -> list[str]:
    """What prevents goal heads, such as "'wind' is exogenous"; empty if they can be fitted."""
    if not schema.actions:
        return ["there are no actions"]
    others = [s for s in schema.actions if s.kind is not Kind.VECTOR or s.low is None or s.high is None]
    return [
        *(
            f"the action {signal.name!r} is {'unbounded' if signal.kind is Kind.VECTOR else 'discrete'}"
            for signal in others
        ),
        *(f"{signal.name!r} is exogenous" for signal in schema.exogenous),
    ]


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """The stored latents, the model with refined dynamics, and the losses of the refinement.

    Args:
        table: latents of the training episodes.
        imagination: the model, with the generator for all draws of the heads.
        losses: mean training loss of each tenth of the updates, in order; empty without updates.
    """

    table: LatentTable
    imagination: Imagination
    losses: tuple[float, ...]


def refine_dynamics(
    model: WorldModel,
    store: Store,
    split: Split,
    inputs: tuple[str, ...],
    config: HeadsConfig,
    *,
    progress: OnProgress | None = None,
) -> Refinement:
    """Encodes the training episodes, and trains the model's rollout further on their latents.

    Args:
        model: in evaluation mode. Only its rollout changes, by `dynamics_updates`; frozen at the end.
        store: to read from.
        split: only `train` is read.
        inputs: observation signals that the model takes.
        config: see `HeadsConfig`.
        progress: called after each update.

    Raises:
        ConfigError: `config.goals` is True, but actions are unbounded or discrete, or the schema has exogenous signals.
            There are updates for a model in closed form.
    """
    if config.goals:
        check_goals(store.schema)
    if model.closed_form and config.dynamics_updates:
        updates = config.dynamics_updates
        raise ConfigError(f"heads.dynamics_updates is {updates}. It must be 0: the family is fitted in closed form.")
    generator = torch.Generator(device_of(model)).manual_seed(config.seed)
    tell(progress, "encode", 0)
    table = LatentTable.of(trace(model, store, split.train, inputs, generator=generator), split.train)
    tell(progress, "encode", 1)
    imagination = Imagination(model, store.schema, generator)
    fit = _UpdatePlan({"dynamics": config.dynamics_updates}, config, progress, "refine dynamics").fit("dynamics")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        losses = _fit_dynamics(model, table, imagination, fit)
    return Refinement(table=table, imagination=imagination, losses=losses)


def fit_heads(
    model: WorldModel,
    store: Store,
    split: Split,
    inputs: tuple[str, ...],
    config: HeadsConfig,
    *,
    refinement: Refinement | None = None,
    progress: OnProgress | None = None,
) -> Heads:
    """Fits the heads of a trained model.

    Args:
        model: in evaluation mode; frozen at the end.
        store: to read from.
        split: only `train` is read.
        inputs: observation signals that the model takes.
        config: see `HeadsConfig`.
        refinement: of this model with this configuration; by default the dynamics are refined first.
        progress: called after each update, with counts over all heads.

    Raises:
        ConfigError: `config.goals` is True, but actions are unbounded or discrete, or the schema has exogenous signals.
    """
    refinement = refinement or refine_dynamics(model, store, split, inputs, config, progress=progress)
    table, imagination = refinement.table, refinement.imagination
    plan = _UpdatePlan.of(store, split, inputs, config, progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights
        mahalanobis = MahalanobisScore(MahalanobisConfig(latent_size=table.features.shape[1])).to(table.device)
        mahalanobis.fit(table.features.cpu())
        readout = fit_readout(store, table, imagination, plan.fit("readout"))
        goals, reward, termination, decoder = None, None, None, None
        if config.goals:
            pictures = picture_goals(model, store, split.train, inputs)
            goals = _fit_goals(replace(table, pictures=pictures), imagination, config, plan)
        if plan.updates["reward"]:
            reward = fit_reward(store, table, imagination, plan.fit("reward"))
        if plan.updates["termination"]:
            termination = fit_termination(store, table, imagination, plan.fit("termination"))
        if plan.updates["decoder"]:
            decoder = fit_decoder(store, table, _images(store, inputs), imagination.generator, plan.fit("decoder"))
    return Heads(
        readout=readout,
        mahalanobis=mahalanobis,
        goals=goals,
        reward=reward,
        termination=termination,
        decoder=decoder,
    )


def fit_goal_heads(
    model: WorldModel,
    store: Store,
    split: Split,
    inputs: tuple[str, ...],
    config: HeadsConfig,
    *,
    progress: OnProgress | None = None,
) -> GoalHeads:
    """Fits the heads for goals of a model whose other heads are fitted. The dynamics are not refined.

    Args:
        model: in evaluation mode; does not change.
        store: to read from.
        split: only `train` is read.
        inputs: observation signals that the model takes.
        config: its updates of other heads are ignored.
        progress: called after each update.

    Raises:
        ConfigError: actions are unbounded or discrete, or the schema has exogenous signals.
    """
    config = replace(config, goals=True, dynamics_updates=0)
    refinement = refine_dynamics(model, store, split, inputs, config, progress=progress)
    table = replace(refinement.table, pictures=picture_goals(model, store, split.train, inputs))
    plan = _UpdatePlan(_goal_updates(config), config, progress, "fit goal heads")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights
        return _fit_goals(table, refinement.imagination, config, plan)


def _fit_goals(table: LatentTable, imagination: Imagination, config: HeadsConfig, plan: _UpdatePlan) -> GoalHeads:
    """Fits the heads for goals on stored latents."""
    distance = fit_distance(table, imagination, plan.fit("distance"), far=config.far)
    inverse = fit_inverse(table, distance, imagination, plan.fit("inverse"))
    landmarks = None
    if config.num_landmarks:
        landmarks = fit_landmarks(
            table,
            distance,
            imagination.present,
            imagination.generator,
            num_landmarks=config.num_landmarks,
            reach=config.reach,
        )
    return GoalHeads(distance=distance, inverse=inverse, landmarks=landmarks)


def _goal_updates(config: HeadsConfig) -> dict[str, int]:
    return {"distance": config.distance_updates, "inverse": config.inverse_updates}


class _UpdatePlan:
    """The number of updates of each head, and a counter over all heads."""

    def __init__(
        self, updates: Mapping[str, int], config: HeadsConfig, progress: OnProgress | None, stage: str
    ) -> None:
        self.updates, self._config, self._progress, self._stage, self._done = updates, config, progress, stage, 0

    @classmethod
    def of(
        cls, store: Store, split: Split, inputs: tuple[str, ...], config: HeadsConfig, progress: OnProgress | None
    ) -> _UpdatePlan:
        """The plan for these logs; heads without data get no updates."""
        ends = bool(store.terminated[list(split.train)].any())
        updates = {
            "readout": config.readout_updates,
            **(_goal_updates(config) if config.goals else {}),
            "reward": config.outcome_updates if store.schema.of(Role.REWARD) else 0,
            "termination": config.outcome_updates if ends else 0,
            "decoder": config.decoder_updates if _images(store, inputs) else 0,
        }
        return cls(updates, config, progress, "fit heads")

    def fit(self, head: str) -> Fit:
        """The settings of the fit of this head."""
        return Fit(
            updates=self.updates[head],
            batch_size=self._config.batch_size,
            unroll=self._config.unroll,
            width=self._config.width,
            learning_rate=self._config.learning_rate,
            tick=self._tick,
        )

    def _tick(self) -> None:
        self._done += 1
        tell(self._progress, self._stage, self._done, sum(self.updates.values()))


def _images(store: Store, inputs: tuple[str, ...]) -> tuple[Signal, ...]:
    return tuple(store.schema[name] for name in inputs if store.schema[name].kind is Kind.IMAGE)


def _fit_dynamics(model: WorldModel, table: LatentTable, imagination: Imagination, fit: Fit) -> tuple[float, ...]:
    """Trains open-loop prediction of the stored latents. The encoder is not run, so it gets no gradient."""
    if not fit.updates:  # a model in closed form has no parameters for the optimiser
        model.eval().requires_grad_(False)
        return ()
    steps, losses = min(fit.unroll, int(table.length.max()) - 1), list[Tensor]()
    model.requires_grad_(True)
    for optimizer in fit.optimise(model):
        start = table.starts(fit.batch_size, steps, imagination.generator)
        with autocast(table.device):
            path = imagination.logged(table, start, steps).float()
        rows = start[:, None] + torch.arange(steps + 1, device=table.device)
        loss = model.forecast_error(table.features[rows], path.transpose(0, 1), table.whole[rows])
        descend(optimizer, loss)
        losses.append(loss.detach())
    return tuple(float(part.mean()) for part in torch.stack(losses).tensor_split(min(NUM_LOOKS, len(losses))))
