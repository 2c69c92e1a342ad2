"""The training loop, with validation, a guard against divergence, and checkpoints to resume from."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from worldline.config import to_json
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.device import device_of
from worldline.errors import CollapseError, ConfigError, StoppedError
from worldline.models.base import Losses, Window, WorldModel
from worldline.models.layers.gather import num_processes
from worldline.progress import OnProgress, tell
from worldline.training.batches import fold, to_tensor, to_window, window_signals
from worldline.training.checkpoint import Checkpoint, deferred_interrupt, load_checkpoint, save_checkpoint
from worldline.training.distributed import is_main, share_of, wait_for_all
from worldline.training.measures import guard, measure_control, measure_health
from worldline.training.tracking import Tracker
from worldline.training.updates import GradientSummary, TrainingConfig, Updates

MAX_RETURNS = 5
"""Maximum number of returns to the last checkpoint."""
MAX_LOSS_JUMP = 20.0
"""Maximum increase of the loss over its running average, relative to the average (at least 1)."""
RECALIBRATION_BATCH_SIZE = 64
"""Minimum number of windows per batch for the statistics of batch normalisation."""
RECALIBRATION_BATCHES = 50
"""Number of batches for these statistics at the end of training."""
SHARE_PENALTY = 0.02
"""Relative decrease of the validation loss that a trained part must bring, see `WorldModel.shares`."""
LOSS_AVERAGE_DECAY = 0.98
"""Decay of the running average of the loss."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The results of training, in addition to the model's weights.

    Args:
        curves: one row per validation, none for a model in closed form: `step`, each loss term as `train_<term>` and
            `validation_<term>`, the total `validation` loss (open loop only with `TrainingConfig.open_loop_share`),
            `effective_rank`, `deviation`, `straightness`, and `control`: the control score with each of
            `ControlMeasures`, or the negative validation loss where that chooses the weights. `share` is that of
            `WorldModel.shares` with the lowest validation loss.
        chosen_step: number of updates of the kept weights.
        notes: one entry with the reason for each return to a checkpoint.
        elapsed_s: wall time, including earlier parts of a resumed run, s.
    """

    curves: tuple[dict[str, float], ...]
    chosen_step: int
    notes: tuple[str, ...]
    elapsed_s: float

    @property
    def control(self) -> float:
        """The score of the kept weights by which seeds are compared, see `curves`; 0 without a training."""
        return next((row["control"] for row in self.curves if row["step"] == self.chosen_step), 0.0)


def train(
    model: WorldModel,
    store: Store,
    split: Split,
    signals: Sequence[str],
    config: TrainingConfig,
    *,
    folder: Path,
    resume: bool = False,
    progress: OnProgress | None = None,
    trackers: Sequence[Tracker] = (),
    name: str = "run",
) -> Trained:
    """Trains `model` in place; a model in closed form does not change.

    Each validation writes a checkpoint. A run that was killed continues from it with `resume`, to the same weights bit
    for bit. Ctrl-C takes effect after the current update and writes another checkpoint. If the loss or its gradient is
    not finite, or the loss diverges, the run returns to its last checkpoint. It continues with other windows at half
    the learning rate. A completed run leaves its checkpoint; the caller removes `folder`. Within `processes` each
    process computes its share of every batch; the first writes files and prints the sizes. Checkpoints fit any number.

    Args:
        model: with a fitted normaliser.
        store: to read from.
        split: only `train` and `validation` are read.
        signals: observation signals that the model takes.
        config: see `TrainingConfig`.
        folder: for the checkpoint.
        resume: continue from the checkpoint in `folder`.
        progress: called after each update, with the loss. If it raises `StoppedError`, a checkpoint is written.
        trackers: receive the results of each validation.
        name: of the run, for the trackers.

    Raises:
        CollapseError: the latents collapsed, or the loss diverged too often; the model keeps its weights of then.
        ConfigError: `num_updates` does not suit the family, or processes cannot share the batch equally.
        BundleError: there is no checkpoint to resume from.
        KeyboardInterrupt: on Ctrl-C, after the checkpoint is written.
        StoppedError: raised by `progress`, after the checkpoint is written.
    """
    if model.closed_form != (config.num_updates == 0):
        need = "must be 0: the family is fitted in closed form" if model.closed_form else "must be at least 1"
        raise ConfigError(f"training.num_updates is {config.num_updates}. It {need}.")
    if model.closed_form:
        return Trained(curves=(), chosen_step=0, notes=(), elapsed_s=0.0)
    run = Run(model, store, split, signals, config, folder)
    if resume:
        run.load()
    else:
        if model.fits_linear:  # training may not improve on what was fitted before, or on pretrained weights
            run.validate({})
        run.save()
    active = trackers if is_main() else ()
    settings = {"training": json.loads(to_json(config)), "model": json.loads(to_json(model.config))}
    for tracker in active:
        tracker.start(f"{name}-seed{config.seed}", settings, step=run.step)
    try:
        with deferred_interrupt() as interrupted:
            try:
                while run.step < config.num_updates:
                    row = run.advance()
                    if row is not None:
                        for tracker in active:
                            tracker.log(run.step, {name: value for name, value in row.items() if name != "step"})
                    tell(progress, "learn", run.step, config.num_updates, loss=run.loss)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
            except (KeyboardInterrupt, StoppedError):
                if num_processes() == 1:  # several may stop at different updates; their last checkpoint remains
                    run.save()
                raise
        return run.finish()
    finally:
        for tracker in active:
            tracker.finish()


class Run:
    """A run in progress: the state that `Checkpoint` stores, with its model, optimizer and generators."""

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
        each, size = len(share_of(np.arange(config.batch_size))), config.batch_size
        if num_processes() > 1 and is_main():
            print(f"{num_processes()} processes, {each} windows each, {size} per update")
        self.updates = Updates(model, store, split, signals, config)
        names = window_signals(store.schema, (*signals, *model.targets))
        checked = Windows(store, config.window, split.validation, names)
        # A fixed seed: trainings with different seeds validate on the same windows and are comparable.
        drawn = checked.read(np.unique(checked.draw(config.num_validation, np.random.default_rng(0)), axis=0))
        self.validation = to_window(drawn, store.schema, self.updates.device)
        self.episodes = to_tensor(drawn.starts[:, 0])
        self.fingerprint = _fingerprint(model, store, split, config)
        self.step, self.curves, self.notes = 0, list[dict[str, float]](), list[str]()
        self.typical: float | None = None
        self.loss: float | None = None
        self.untrained: float | None = None
        self.best: dict[str, Tensor] = {}
        self.every = math.ceil(config.num_updates / config.num_checks)
        self.started = time.monotonic()
        model.train()

    def advance(self) -> dict[str, float] | None:
        """One update, or one return to the last checkpoint; returns the row of the curves after a validation."""
        summary = self.updates.gradient(self.step)
        problem = self._problem(summary)
        if problem:
            self._go_back(problem)
            return None
        self.updates.apply(self.step, caution=0.5 ** len(self.notes))
        self.step += 1
        self.loss = total = float(summary.losses.total)
        usual = total if self.typical is None else self.typical
        self.typical = LOSS_AVERAGE_DECAY * usual + (1 - LOSS_AVERAGE_DECAY) * total
        if self.step % self.every and self.step not in (self.config.first_open_loop, self.config.num_updates):
            return None
        self.model.on_validation(self._sample, self.step / self.config.num_updates)
        return self.validate(_named("train", summary.losses))

    def validate(self, training: Mapping[str, float]) -> dict[str, float]:
        """Validates, keeps the weights if they are the best, and writes a checkpoint; returns the row of the curves.

        Args:
            training: further columns of the row.
        """
        row = {"step": float(self.step), **training, **self.evaluate()}
        if all(self._score(row) >= self._score(earlier) for earlier in self.curves):
            with self.model.shrunk(row.get("share", 1.0)):
                self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.curves.append(row)
        self.save()
        return row

    def _sample(self, num: int) -> Window:
        """Windows of the training data, the same at each validation."""
        sample = self.updates.windows.sample(num, np.random.default_rng(0))
        return to_window(sample, self.store.schema, self.updates.device)

    def finish(self) -> Trained:
        """Loads the kept weights, recomputes batch statistics and sets evaluation mode."""
        if self.config.choose != "last" and self.best:
            self.model.load_state_dict(self.best)
        self.model.open_loop = None
        self.recalibrate_batch_norm(RECALIBRATION_BATCHES, seed=self.config.seed)
        self.model.eval()
        curves, notes, elapsed_s = tuple(self.curves), tuple(self.notes), time.monotonic() - self.started
        return Trained(curves=curves, chosen_step=self._chosen(), notes=notes, elapsed_s=elapsed_s)

    def save(self) -> None:
        """Writes the checkpoint."""
        if is_main():
            state = Checkpoint(
                step=self.step,
                fingerprint=self.fingerprint,
                batches=dict(self.updates.batches.bit_generator.state),
                curves=self.curves,
                elapsed_s=time.monotonic() - self.started,
                typical_loss=self.typical,
                notes=self.notes,
            )
            save_checkpoint(self.folder, self.model, self.updates.optimizer, self.updates.generator, state, self.best)
        wait_for_all()

    def load(self) -> None:
        """Restores the run from its checkpoint."""
        optimizer, generator = self.updates.optimizer, self.updates.generator
        state, self.best = load_checkpoint(self.folder, self.model, optimizer, generator, self.fingerprint)
        self.updates.batches.bit_generator.state = state.batches
        self.step, self.curves, self.notes = state.step, state.curves, state.notes
        self.typical, self.started = state.typical_loss, time.monotonic() - state.elapsed_s

    def _problem(self, summary: GradientSummary) -> str:
        """The problem of a loss or of the norm of its gradient; "" without one."""
        terms = ", ".join(f"{name} {float(term):.3g}" for name, term in summary.losses.terms.items())
        total, norm = float(summary.losses.total), summary.norm
        if not math.isfinite(total) or not math.isfinite(norm):
            return f"the {'gradient' if math.isfinite(total) else 'loss'} is not finite ({terms})"
        usual = self.typical
        if usual is not None and total > usual + MAX_LOSS_JUMP * max(1.0, abs(usual)):
            return f"the loss jumped from {usual:.3g} to {total:.3g} ({terms})"
        return ""

    def _go_back(self, problem: str) -> None:
        """Returns to the last checkpoint; later windows and a lower learning rate follow."""
        batches, notes, started = self.updates.batches.bit_generator.state, self.notes, self.started
        note = f"after {self.step} updates {problem}"
        if len(notes) == MAX_RETURNS:
            raise CollapseError(
                f"{note}, for the {MAX_RETURNS + 1}th time. Lower the learning rate, or check the data for outliers."
            )
        self.load()
        self.updates.batches.bit_generator.state, self.started = batches, started
        self.notes = [*notes, f"{note}: returned to update {self.step} and halved the learning rate"]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Validation loss, health of the latents with the guard, and control measures."""
        config, model = self.config, self.model
        model.open_loop = None
        self.recalibrate_batch_norm(4, seed=self.step)
        model.eval()
        generator = torch.Generator(self.updates.device).manual_seed(config.seed)
        with self.updates.precision():
            losses = model.loss(self.validation, generator=generator)
            total, chosen = float(losses.total), {}
            if config.open_loop_share:
                model.open_loop = True
                tried = {share: self._shrunk_loss(share, generator) for share in model.shares}
                share = min(tried, key=lambda one: tried[one] * (1 + SHARE_PENALTY * one))
                total, chosen = tried[share], {"share": share} if len(tried) > 1 else {}
            draws = 1 if model.deterministic else 2
            features = torch.stack([fold(model, self.validation, generator=generator) for _ in range(draws)])
            control = {"control": -total}
            if config.choose != "validation":
                measures = measure_control(model, self.validation, features, self.episodes, seed=config.seed)
                control = asdict(measures) | {"control": measures.control}
        model.train()
        health = measure_health(features[0, ..., model.present])
        guard(health, step=self.step, min_rank=config.min_rank, min_deviation=config.min_deviation)
        return _named("validation", losses) | asdict(health) | control | chosen | {"validation": total}

    def _shrunk_loss(self, share: float, generator: torch.Generator) -> float:
        """The validation loss with a share of the trained part; without it, training does not change the loss."""
        if not share and self.untrained is not None:
            return self.untrained
        with self.model.shrunk(share):
            loss = float(self.model.loss(self.validation, generator=generator).total)
        if not share:
            self.untrained = loss
        return loss

    def recalibrate_batch_norm(self, num_batches: int, *, seed: int) -> None:
        """Replaces running batch statistics by exact ones over `num_batches` batches."""
        with self.updates.precision():
            recompute_batch_norm(self.model, self.updates.windows, self.store, num_batches=num_batches, seed=seed)

    def _chosen(self) -> int:
        if self.config.choose == "last" or not self.curves:
            return self.step
        return int(max(self.curves, key=lambda row: (self._score(row), row["step"]))["step"])

    def _score(self, row: Mapping[str, float]) -> float:
        """The score of a validation by which weights are kept; higher is better."""
        return -row["validation"] if self.config.choose == "validation" else row["control"]


def _fingerprint(model: WorldModel, store: Store, split: Split, config: TrainingConfig) -> str:
    parts = to_json(config), to_json(model.config), str(model), store.content_hash(), str(split)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _named(prefix: str, losses: Losses) -> dict[str, float]:
    return {f"{prefix}_{name}": float(term.detach()) for name, term in losses.terms.items()}


@torch.no_grad()
def recompute_batch_norm(model: WorldModel, windows: Windows, store: Store, *, num_batches: int, seed: int) -> None:
    """Replaces running averages by exact ones, because stale averages can increase the loss a hundredfold.

    Modules that stay in evaluation mode, such as a frozen encoder, keep theirs.
    """
    was_training = model.training
    model.train()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in norms if layer.training]
    if not layers:
        model.train(was_training)
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
    device, batches = device_of(model), np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    size = num_processes() * -(-RECALIBRATION_BATCH_SIZE // num_processes())  # equally many per process
    for _ in range(num_batches):
        window = to_window(windows.read(share_of(windows.draw(size, batches))), store.schema, device)
        model.loss(window, generator=generator)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(was_training)
