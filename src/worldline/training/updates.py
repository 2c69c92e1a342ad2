"""Updates of a training: draw windows, compute loss and clipped gradient, apply the optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worldline.config import BoundedConfig, Bounds, Positive, Size, Weight
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import WindowBatch, Windows
from worldline.device import autocast, device_of, generator_on
from worldline.models.base import Losses, Window, WorldModel
from worldline.training.batches import covering_window, to_window, window_signals
from worldline.training.distributed import average_gradients, mean_over_processes, share_of

FUSED: Final = ("cpu", "cuda")
"""Devices on which one kernel updates all weights."""
OPEN_LOOP_RATE: Final = 0.3
"""Learning rate of updates with open-loop predictions only, relative to that of single steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(BoundedConfig):
    """Settings of training.

    Args:
        num_updates: optimiser steps; 0 for a family in closed form.
        window: observations per window, at least 3.
        batch_size: windows per update, over all processes.
        learning_rate: maximum of the schedule: linear warm-up, then a cosine to 0.
        warm_up: share of the updates in the warm-up, 0 to 1.
        weight_decay: of AdamW.
        clip_norm: maximum norm of the gradient.
        num_checks: number of validations; each writes a checkpoint.
        num_validation: maximum number of validation windows.
        open_loop_share: share of the updates that use open-loop predictions only; they follow updates on single steps
            only, and their schedule starts again at a lower rate. 0 for no such order. See `WorldModel.open_loop`.
        choose: which weights are kept: those with the best control score (see `ControlMeasures`), those with the
            lowest validation loss, or the last.
        min_rank: smallest accepted effective rank of the latents.
        min_deviation: smallest accepted standard deviation of the latents.
        precision: "auto" for half precision if the device supports it, or "float32".
        seed: of initial weights, batches and the draws of the loss.
    """

    num_updates: Annotated[int, Bounds(at_least=0)]
    window: Annotated[int, Bounds(at_least=3)] = 5
    batch_size: Annotated[int, Bounds(at_least=2)] = 64
    learning_rate: Positive = 2e-3
    warm_up: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.1
    weight_decay: Weight = 1e-4
    clip_norm: Positive = 1.0
    num_checks: Size = 20
    num_validation: Annotated[int, Bounds(at_least=4)] = 256
    open_loop_share: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.0
    choose: Literal["control", "validation", "last"] = "control"
    min_rank: float = 2.0
    min_deviation: float = 0.05
    precision: Literal["auto", "float32"] = "auto"
    seed: int = 0

    @property
    def first_open_loop(self) -> int:
        """The first update that uses open-loop predictions only; `num_updates` for none."""
        return round((1 - self.open_loop_share) * self.num_updates)


@dataclass(frozen=True, kw_only=True)
class GradientSummary:
    """Losses and gradient norm of a batch; the clipped gradient itself is in the model.

    Args:
        losses: without gradient; means over all processes.
        norm: of the gradient before clipping.
    """

    losses: Losses
    norm: float


class Updates:
    """The updates of a training. Each is `gradient`, then `apply` unless the gradient is invalid.

    Args:
        model: in training mode, with a fitted normaliser.
        store: to read from.
        split: only `train` is read.
        signals: observation signals that the model takes.
        config: see `TrainingConfig`.
    """

    def __init__(
        self, model: WorldModel, store: Store, split: Split, signals: Sequence[str], config: TrainingConfig
    ) -> None:
        self.model, self.config, self.schema = model, config, store.schema
        self.device = device_of(model)
        names = window_signals(store.schema, (*signals, *model.targets))
        self.windows = Windows(store, config.window, split.train, names)
        rate, decay, fused = config.learning_rate, config.weight_decay, self.device.type in FUSED
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=fused)
        self.generator = torch.Generator("cpu").manual_seed(config.seed)
        self.batches = np.random.default_rng(config.seed)
        self.single_steps: Callable[[torch.Generator], Losses] | None = None
        if config.open_loop_share and model.fits_linear:
            covering = covering_window(store, split.train, signals, history=model.context, device=self.device)
            self.single_steps = model.single_steps(covering)
        self._batch: WindowBatch | None = None  # reused buffer, which saves allocations
        self._ahead: tuple[NDArray[np.int64], Window] | None = None  # the next windows, and where they start

    def gradient(self, step: int) -> GradientSummary:
        """Computes the gradient of the next batch, after `step` updates; weights do not change."""
        config = self.config
        self.model.open_loop = step >= config.first_open_loop if config.open_loop_share else None
        self.optimizer.zero_grad()
        on_rows = self.single_steps is not None and self.model.open_loop is False
        with self.precision():
            if self.single_steps is not None and on_rows:
                losses = self.single_steps(self.generator)
            else:
                window = self._read(self.windows.draw(config.batch_size, self.batches))
                losses = self.model.loss(window, generator=generator_on(self.device, self.generator))
        losses.total.backward()
        average_gradients(self.model)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if self.device.type != "cpu" and not on_rows:  # reads while the GPU computes; the next update repeats the draw
            starts = self.windows.draw(config.batch_size, deepcopy(self.batches))
            self._ahead = starts, self._read(starts)
        return GradientSummary(losses=_mean(losses), norm=float(norm))

    def precision(self) -> torch.autocast:
        """The autocast context for losses."""
        return autocast(self.device, enabled=self.config.precision == "auto")

    def _read(self, starts: NDArray[np.int64]) -> Window:
        """The windows of this process, unless they were read ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead[0], starts):
            return ahead[1]
        self._batch = self.windows.read(share_of(starts), into=self._batch)
        return to_window(self._batch, self.schema, self.device)

    def apply(self, step: int, *, caution: float = 1.0) -> None:
        """Applies the last gradient to the weights.

        Args:
            step: number of updates before this one.
            caution: factor of the learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = caution * _learning_rate(self.config, step)
        self.optimizer.step()


def _learning_rate(config: TrainingConfig, step: int) -> float:
    first, rate = config.first_open_loop, config.learning_rate
    if step < first:
        return rate * _schedule(config.warm_up, step, first)
    return OPEN_LOOP_RATE * rate * _schedule(config.warm_up, step - first, config.num_updates - first)


def _schedule(warm_up: float, step: int, num_updates: int) -> float:
    """The share of the maximum rate: a linear warm-up, then a cosine to 0."""
    warm = max(1, round(warm_up * num_updates))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, num_updates - warm))) / 2


def _mean(losses: Losses) -> Losses:
    """Each term's mean over all processes, without gradient."""
    means = {name: mean_over_processes(float(term.detach())) for name, term in losses.terms.items()}
    terms = {name: torch.tensor(mean, device="cpu") for name, mean in means.items()}
    return Losses(terms=terms, weights=losses.weights)
