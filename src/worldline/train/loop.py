"""The training loop: windows in, updates out, with curves, a collapse guard, and a way to stop and go on."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from worldline.config import to_json
from worldline.contracts.world_model import Losses, Window, WorldModel
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.errors import CollapseError, ConfigError
from worldline.nn.precision import autocast
from worldline.train.batches import fold, to_window
from worldline.train.checkpoint import (
    Checkpoint,
    deferred_interrupt,
    load_checkpoint,
    restore_batches,
    save_checkpoint,
)
from worldline.train.health import guard, measure_health

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        num_updates: optimiser steps.
        window: observations a window, at least 3.
        batch_size: windows an update.
        learning_rate: peak of the schedule: linear warm-up, then a cosine to 0.
        warm_up: share of the updates that warm up, 0 to 1.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        num_checks: how often validation loss and health of the latents are measured.
        min_rank: smallest effective rank of the latents that the guard accepts.
        min_deviation: smallest deviation of the latents that the guard accepts.
        seed: of initial weights, batches and the loss's own draws.
    """

    num_updates: int
    window: int = 5
    batch_size: int = 64
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    num_checks: int = 20
    min_rank: float = 2.0
    min_deviation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_updates", 1), ("window", 3), ("batch_size", 2), ("num_checks", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least {least}.")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training left behind, beside the model's weights.

    Args:
        curves: one row a check: `step`, each loss term as `train_<term>` and `validation_<term>`,
            `effective_rank`, `deviation`, `straightness`.
        elapsed_s: wall time of all sittings.
    """

    curves: tuple[dict[str, float], ...]
    elapsed_s: float


def train(
    model: WorldModel,
    store: Store,
    split: Split,
    signals: Sequence[str],
    config: TrainingConfig,
    *,
    folder: Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Trains `model` in place.

    Ctrl-C is waited with until the update is complete, then saves a checkpoint into `folder` and raises; `resume` goes
    on from it to the same result. A run that is complete leaves its checkpoint too, so that what comes after it can be
    interrupted without losing it; the caller removes `folder`.

    Args:
        model: built with its normaliser fitted.
        store: to read from.
        split: only `train` and `validation` are read.
        signals: the observation signals that the model takes.
        config: see `TrainingConfig`.
        folder: for the checkpoint.
        resume: go on from the checkpoint in `folder`.
        progress: called after each update.

    Raises:
        CollapseError: the latents collapsed; the model is left as it was then.
        BundleError: there is nothing to resume.
        KeyboardInterrupt: as it came, once the checkpoint is written.
    """
    inputs = [signal.name for signal in (*store.schema.actions, *store.schema.exogenous)]
    windows = Windows(store, config.window, split.train, [*signals, *inputs])
    checked = Windows(store, config.window, split.validation, [*signals, *inputs])
    validation = to_window(checked.sample(256, np.random.default_rng(config.seed)), store.schema)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    fingerprint = _fingerprint(model, store, split, config)
    batches = np.random.default_rng(config.seed)
    started, curves, step = time.monotonic(), list[dict[str, float]](), 0
    if resume:
        state = load_checkpoint(folder, model, optimizer, generator, fingerprint)
        batches, curves, step = restore_batches(state.batches), list(state.curves), state.step
        started -= state.elapsed_s
    every = max(1, config.num_updates // config.num_checks)

    def save() -> None:
        elapsed_s, drawn = time.monotonic() - started, dict(batches.bit_generator.state)
        state = Checkpoint(step=step, fingerprint=fingerprint, batches=drawn, curves=curves, elapsed_s=elapsed_s)
        save_checkpoint(folder, model, optimizer, generator, state)

    model.train()
    with deferred_interrupt() as pass_on_interrupt:
        try:
            batch = None
            while step < config.num_updates:
                batch = windows.sample(config.batch_size, batches, into=batch)
                window = to_window(batch, store.schema)
                losses = _update(model, optimizer, window, _learning_rate(config, step), config.clip_norm, generator)
                step += 1
                if step % every == 0 or step == config.num_updates:
                    curves.append({"step": float(step), **_named("train", losses)})
                    curves[-1] |= _check(model, windows, validation, store, config, step)
                if progress is not None:
                    progress(step, config.num_updates)
                pass_on_interrupt()
            recompute_batch_norm(model, windows, store, num_batches=50, seed=config.seed)
        except KeyboardInterrupt:
            save()
            raise
        save()
    model.eval()
    return Trained(curves=tuple(curves), elapsed_s=time.monotonic() - started)


def _fingerprint(model: WorldModel, store: Store, split: Split, config: TrainingConfig) -> str:
    """Differs where a run would give another result."""
    parts = to_json(config), to_json(model.config), str(model), store.content_hash(), str(split)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _update(
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    window: Window,
    learning_rate: float,
    clip_norm: float,
    generator: torch.Generator,
) -> Losses:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with autocast():
        losses = model.loss(window, generator=generator)
    optimizer.zero_grad()
    losses.total.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    if not torch.isfinite(norm):
        terms = ", ".join(f"{name} {float(term.detach()):.3g}" for name, term in losses.terms.items())
        raise CollapseError(
            f"the gradient is not finite ({terms}). Lower the learning rate, or check the data for outliers."
        )
    optimizer.step()
    return losses


def _learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm = max(1, round(config.warm_up * config.num_updates))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, config.num_updates - warm)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _named(prefix: str, losses: Losses) -> dict[str, float]:
    return {f"{prefix}_{name}": float(term.detach()) for name, term in losses.terms.items()}


@torch.no_grad()
def _check(
    model: WorldModel, windows: Windows, validation: Window, store: Store, config: TrainingConfig, step: int
) -> dict[str, float]:
    """Validation loss and health, with the guard."""
    recompute_batch_norm(model, windows, store, num_batches=4, seed=step)
    model.eval()
    generator = torch.Generator().manual_seed(config.seed)
    with autocast():
        losses = model.loss(validation, generator=generator)
        health = measure_health(fold(model, validation, generator=generator))
    model.train()
    guard(health, step=step, min_rank=config.min_rank, min_deviation=config.min_deviation)
    return _named("validation", losses) | asdict(health)


@torch.no_grad()
def recompute_batch_norm(model: WorldModel, windows: Windows, store: Store, *, num_batches: int, seed: int) -> None:
    """Replaces running averages by exact ones: stale averages can inflate the loss a hundredfold."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
    was_training = model.training
    model.train()
    batches, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for _ in range(num_batches):
        with autocast():
            model.loss(to_window(windows.sample(64, batches), store.schema), generator=generator)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(was_training)
