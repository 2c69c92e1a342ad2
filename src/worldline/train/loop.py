"""The training loop: windows in, updates out; guarded, measured, and able to stop at any moment and go on."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldline.config import to_json
from worldline.contracts.world_model import Losses, WorldModel
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import WindowBatch, Windows
from worldline.errors import CollapseError, ConfigError
from worldline.nn.gather import num_processes
from worldline.nn.precision import autocast
from worldline.train.average import Average
from worldline.train.batches import fold, to_window, window_signals
from worldline.train.checkpoint import (
    Checkpoint,
    deferred_interrupt,
    load_checkpoint,
    restore_batches,
    save_checkpoint,
)
from worldline.train.health import guard, measure_health
from worldline.train.measures import measure_control
from worldline.train.parallel import average_gradients, is_main, mean_over_processes, share_of, wait_for_all
from worldline.train.tracking import Tracker

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

MOST_RETURNS = 5
"""How often the guard goes back before it gives up."""
DIVERGED = 20.0
"""A loss this many times its usual size above its usual value has diverged."""
MEMORY = 0.98
"""Share of the usual loss that each update keeps."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        num_updates: optimiser steps.
        window: observations a window, at least 3.
        batch_size: windows an update, of all processes together.
        accumulate: pieces that each batch is computed in, to save memory; a regulariser of batches sees one piece.
        learning_rate: peak of the schedule: linear warm-up, then a cosine to 0.
        warm_up: share of the updates that warm up, 0 to 1.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        average: decay of a moving average of the parameters that is measured and kept in their place; 0 for none.
        num_checks: how often the model is measured and a checkpoint written.
        num_validation: windows that it is measured on, at most.
        choose: what is kept in the end: the checkpoint that is best for control, see `ControlMeasures`, or the last.
        min_rank: smallest effective rank of the latents that the guard accepts.
        min_deviation: smallest deviation of the latents that the guard accepts.
        precision: "auto" for half precision where the processor multiplies it faster, or "float32".
        seed: of initial weights, batches and the loss's own draws.
    """

    num_updates: int
    window: int = 5
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average: float = 0.0
    num_checks: int = 20
    num_validation: int = 256
    choose: Literal["control", "last"] = "control"
    min_rank: float = 2.0
    min_deviation: float = 0.05
    precision: Literal["auto", "float32"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        leasts = {"num_updates": 1, "window": 3, "batch_size": 2, "num_checks": 1, "accumulate": 1, "num_validation": 4}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least {least}.")
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise ConfigError(
                f"accumulate is {self.accumulate} and batch_size {self.batch_size}. Each piece must hold equally many "
                "windows, at least 2."
            )
        for name, choices in (("choose", ("control", "last")), ("precision", ("auto", "float32"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}. Choose {' or '.join(choices)}.")
        if not (0 <= self.warm_up <= 1 and self.learning_rate > 0 and self.clip_norm > 0):
            raise ConfigError(
                f"warm_up is {self.warm_up}, learning_rate {self.learning_rate}, clip_norm {self.clip_norm}. warm_up "
                "must be in [0, 1], the others above 0."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average}. It must be in [0, 1).")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training left behind, beside the model's weights.

    Args:
        curves: one row a check: `step`, each loss term as `train_<term>` and `validation_<term>`,
            `effective_rank`, `deviation`, `straightness`, each of `ControlMeasures`, and `control`.
        chosen_step: updates after which the weights that were kept were reached.
        notes: one for each time that the guard went back, with the reason.
        elapsed_s: wall time of all sittings.
    """

    curves: tuple[dict[str, float], ...]
    chosen_step: int
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def control(self) -> float:
        """What the weights that were kept are worth for control, see `ControlMeasures`."""
        return next(row["control"] for row in self.curves if row["step"] == self.chosen_step)


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
    trackers: Sequence[Tracker] = (),
    name: str = "run",
) -> Trained:
    """Trains `model` in place.

    A checkpoint is written at each check, so a run that is killed at any moment goes on with `resume` to the same
    weights, bit for bit. Ctrl-C is waited with until the update is complete, then saves one more and raises. Where
    the loss or its gradient is not finite, or has run away, the run goes back to its last checkpoint and goes on with
    other windows at half the learning rate. A run that is complete leaves its checkpoint too; the caller removes
    `folder`. In several processes (`torchrun`) each takes its share of every batch, and the first one writes.

    Args:
        model: built with its normaliser fitted.
        store: to read from.
        split: only `train` and `validation` are read.
        signals: the observation signals that the model takes.
        config: see `TrainingConfig`.
        folder: for the checkpoint.
        resume: go on from the checkpoint in `folder`.
        progress: called after each update.
        trackers: told of each check.
        name: of the run, for the trackers.

    Raises:
        CollapseError: the latents collapsed, or the loss ran away again and again; the model is left as it was then.
        BundleError: there is nothing to resume.
        KeyboardInterrupt: as it came, once the checkpoint is written.
    """
    run = _Run(model, store, split, signals, config, folder)
    if resume:
        run.load()
    else:
        run.save()
    told = trackers if is_main() else ()
    settings = {"training": json.loads(to_json(config)), "model": json.loads(to_json(model.config))}
    for tracker in told:
        tracker.start(f"{name}-seed{config.seed}", settings, step=run.step)
    try:
        with deferred_interrupt() as pass_on_interrupt:
            try:
                while run.step < config.num_updates:
                    row = run.advance()
                    if row is not None:
                        for tracker in told:
                            tracker.log(run.step, {name: value for name, value in row.items() if name != "step"})
                    if progress is not None:
                        progress(run.step, config.num_updates)
                    pass_on_interrupt()
            except KeyboardInterrupt:
                if num_processes() == 1:  # several need not stop at the same update; their last check is on disk
                    run.save()
                raise
        return run.finish()
    finally:
        for tracker in told:
            tracker.finish()


class _Run:
    """A run in progress: what `Checkpoint` describes, with the objects that it describes."""

    def __init__(
        self,
        model: WorldModel,
        store: Store,
        split: Split,
        signals: Sequence[str],
        config: TrainingConfig,
        folder: Path,
    ) -> None:
        self.model, self.store, self.config, self.folder = model, store, config, folder
        names = window_signals(store.schema, (*signals, *model.targets))
        self.windows = Windows(store, config.window, split.train, names)
        checked = Windows(store, config.window, split.validation, names)
        # The same windows whatever the seed, so that trainings can be compared.
        drawn = checked.read(np.unique(checked.draw(config.num_validation, np.random.default_rng(0)), axis=0))
        self.validation, self.episodes = to_window(drawn, store.schema), torch.from_numpy(drawn.starts[:, 0])
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.average = Average(model, config.average) if config.average else None
        self.generator = torch.Generator().manual_seed(config.seed)
        self.batches = np.random.default_rng(config.seed)
        self.fingerprint = _fingerprint(model, store, split, config)
        self.step, self.curves, self.notes = 0, list[dict[str, float]](), list[str]()
        self.typical: float | None = None
        self.batch: WindowBatch | None = None  # filled anew each time, which spares the system finding memory
        self.best: dict[str, Tensor] = {}
        self.every = math.ceil(config.num_updates / config.num_checks)
        self.started = time.monotonic()
        model.train()

    def advance(self) -> dict[str, float] | None:
        """One update, or one return to the last checkpoint; the row of the curves where a check was due."""
        losses, problem = self._update()
        if problem:
            self._go_back(problem)
            return None
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        if self.step % self.every and self.step != self.config.num_updates:
            return None
        with self._kept_weights():
            row = {"step": float(self.step), **_named("train", losses), **self._check()}
            self._remember_best(row)
        self.curves.append(row)
        self.save()
        return row

    def finish(self) -> Trained:
        """Leaves the model with the weights that are kept, exact statistics, and in evaluation mode."""
        if self.config.choose == "control" and self.best:
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.values, strict=False)
        self._recompute_batch_norm(num_batches=50, seed=self.config.seed)
        self.model.eval()
        return Trained(
            curves=tuple(self.curves),
            chosen_step=self._chosen(),
            notes=tuple(self.notes),
            elapsed_s=time.monotonic() - self.started,
        )

    def save(self) -> None:
        """Writes the checkpoint."""
        if is_main():
            state = Checkpoint(
                step=self.step,
                fingerprint=self.fingerprint,
                batches=dict(self.batches.bit_generator.state),
                curves=self.curves,
                elapsed_s=time.monotonic() - self.started,
                typical_loss=self.typical,
                notes=self.notes,
            )
            others = {"best": self.best, "average": {} if self.average is None else self.average.values}
            save_checkpoint(self.folder, self.model, self.optimizer, self.generator, state, others)
        wait_for_all()

    def load(self) -> Checkpoint:
        """Goes to where the checkpoint was written."""
        state, groups = load_checkpoint(self.folder, self.model, self.optimizer, self.generator, self.fingerprint)
        self.batches, self.curves, self.step = restore_batches(state.batches), list(state.curves), state.step
        self.typical, self.notes = state.typical_loss, list(state.notes)
        self.best = groups.get("best", {})
        if self.average is not None:
            self.average.load(groups["average"])
        self.started = time.monotonic() - state.elapsed_s
        return state

    def _update(self) -> tuple[Losses, str]:
        """The losses of one batch, and what is wrong with it; where nothing is, the optimiser has made its step."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(config, self.step) / 2 ** len(self.notes)
        self.optimizer.zero_grad()
        starts = self.windows.draw(config.batch_size, self.batches)
        pieces = list[Losses]()
        for piece in np.split(starts, config.accumulate):
            self.batch = self.windows.read(share_of(piece), into=self.batch)
            window = to_window(self.batch, self.store.schema)
            with _precision(config):
                losses = self.model.loss(window, generator=self.generator)
            (losses.total / config.accumulate).backward()
            pieces.append(losses)
        losses = _mean(pieces)
        average_gradients(self.model)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        total = float(losses.total)
        problem = self._problem(total, float(norm), losses)
        if not problem:
            self.optimizer.step()
            usual = total if self.typical is None else self.typical
            self.typical = MEMORY * usual + (1 - MEMORY) * total
        return losses, problem

    def _problem(self, total: float, norm: float, losses: Losses) -> str:
        """What is wrong with a loss and the norm of its gradient; "" where nothing is."""
        terms = ", ".join(f"{name} {float(term.detach()):.3g}" for name, term in losses.terms.items())
        if not math.isfinite(total) or not math.isfinite(norm):
            return f"the {'gradient' if math.isfinite(total) else 'loss'} is not finite ({terms})"
        usual = self.typical
        if usual is not None and total > usual + DIVERGED * max(1.0, abs(usual)):
            return f"the loss jumped from {usual:.3g} to {total:.3g} ({terms})"
        return ""

    def _go_back(self, problem: str) -> None:
        """To the last checkpoint, on with other windows, more carefully."""
        batches, notes = self.batches, self.notes
        note = f"after {self.step} updates {problem}"
        if len(notes) == MOST_RETURNS:
            raise CollapseError(
                f"{note}, for the {MOST_RETURNS + 1}th time. Lower the learning rate, or check the data for outliers."
            )
        started = self.started
        state = self.load()
        self.batches, self.started = batches, started
        self.notes = [*notes, f"{note}: went back to update {state.step} and halved the learning rate"]

    @contextmanager
    def _kept_weights(self) -> Iterator[None]:
        """Has the model use what is kept of it in the end: the average, where there is one."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    @torch.no_grad()
    def _check(self) -> dict[str, float]:
        """Validation loss, health with the guard, and what the model is worth for control."""
        config, model = self.config, self.model
        self._recompute_batch_norm(num_batches=4, seed=self.step)
        model.eval()
        generator = torch.Generator().manual_seed(config.seed)
        with _precision(config):
            losses = model.loss(self.validation, generator=generator)
            features = fold(model, self.validation, generator=generator)
            control = measure_control(model, self.validation, features, self.episodes, seed=config.seed)
        model.train()
        health = measure_health(features[..., model.present])
        guard(health, step=self.step, min_rank=config.min_rank, min_deviation=config.min_deviation)
        return _named("validation", losses) | asdict(health) | asdict(control) | {"control": control.control}

    def _remember_best(self, row: Mapping[str, float]) -> None:
        if all(row["control"] >= earlier["control"] for earlier in self.curves):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _chosen(self) -> int:
        """The update whose weights are kept."""
        if self.config.choose == "last" or not self.curves:
            return self.step
        return int(max(self.curves, key=lambda row: (row["control"], row["step"]))["step"])

    def _recompute_batch_norm(self, *, num_batches: int, seed: int) -> None:
        with _precision(self.config):
            recompute_batch_norm(self.model, self.windows, self.store, num_batches=num_batches, seed=seed)


def _fingerprint(model: WorldModel, store: Store, split: Split, config: TrainingConfig) -> str:
    """Differs where a run would give another result."""
    parts = to_json(config), to_json(model.config), str(model), store.content_hash(), str(split)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm = max(1, round(config.warm_up * config.num_updates))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, config.num_updates - warm)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _precision(config: TrainingConfig) -> torch.autocast:
    return autocast() if config.precision == "auto" else torch.autocast("cpu", enabled=False)


def _mean(pieces: Sequence[Losses]) -> Losses:
    """Each term's mean over the pieces of a batch, and over all processes; without gradient."""
    terms = {
        name: torch.tensor(
            mean_over_processes(float(sum(piece.terms[name].detach() for piece in pieces)) / len(pieces))
        )
        for name in pieces[0].terms
    }
    return Losses(terms=terms, weights=pieces[0].weights)


def _named(prefix: str, losses: Losses) -> dict[str, float]:
    return {f"{prefix}_{name}": float(term.detach()) for name, term in losses.terms.items()}


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
    size = 64 + -64 % num_processes()  # which all processes can share
    for _ in range(num_batches):
        model.loss(to_window(windows.read(share_of(windows.draw(size, batches))), store.schema), generator=generator)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(was_training)
