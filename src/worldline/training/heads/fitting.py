"""Fitting of all heads on a frozen model, in order.

Before the heads, `refine_dynamics` trains the model's rollout further on stored latents. This needs a fortieth of the
time per transition, because images are not encoded again. Rare events, such as a wall that stops a move, need many
transitions (docs/design/dynamics.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.device import autocast, device_of
from worldline.errors import ConfigError
from worldline.models.base import WorldModel
from worldline.progress import OnProgress, tell
from worldline.training.batches import picture_goals, trace
from worldline.training.heads.base import NUM_LOOKS, Fit, Head, HeadData, HeadsConfig, descend
from worldline.training.heads.decoder import Decoder
from worldline.training.heads.distance import Distance, check_goals
from worldline.training.heads.inverse import Inverse
from worldline.training.heads.mahalanobis import MahalanobisScore
from worldline.training.heads.outcomes import Reward, Termination
from worldline.training.heads.readout import Readout
from worldline.training.stored_latents import Imagination, LatentTable

HEADS: Final[tuple[type[Head], ...]] = (MahalanobisScore, Readout, Distance, Inverse, Reward, Termination, Decoder)
"""All heads in the order of their fits."""


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
    fit = _fits({"dynamics": config.dynamics_updates}, config, progress, "refine dynamics")["dynamics"]
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
) -> dict[str, Head]:
    """The heads of a trained model by name: those that the settings ask for and the logs can train.

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
    table = refinement.table
    if config.goals:
        table = replace(table, pictures=picture_goals(model, store, split.train, inputs))
    data = HeadData(store=store, table=table, imagination=refinement.imagination, inputs=inputs, config=config)
    fitted = [kind for kind in HEADS if kind.can_fit(data)]
    updates = {kind.name: int(getattr(config, kind.updates)) if kind.updates else 0 for kind in fitted}
    fits, heads = _fits(updates, config, progress, "fit heads"), dict[str, Head]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights
        for kind in fitted:
            heads[kind.name] = kind.fit_to(data, fits[kind.name], heads)
    return heads


def _fits(updates: Mapping[str, int], config: HeadsConfig, progress: OnProgress | None, stage: str) -> dict[str, Fit]:
    """The settings of each fit by name; all fits together count the updates of the stage."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        tell(progress, stage, done, sum(updates.values()))

    shared = {name: getattr(config, name) for name in ("batch_size", "unroll", "width", "learning_rate")}
    return {name: Fit(updates=number, tick=tick, **shared) for name, number in updates.items()}


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
