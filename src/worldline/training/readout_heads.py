"""Fitting of the heads that read latents: signals, reward, termination and images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from worldline.data.store import Store
from worldline.device import autocast
from worldline.models.heads.decoder import Decoder, DecoderConfig
from worldline.models.heads.outcome import Reward, RewardConfig, Termination, TerminationConfig
from worldline.models.heads.readout import Readout, ReadoutConfig
from worldline.models.layers.codes import code_size, to_code
from worldline.schema import Kind, Role, Signal
from worldline.training.batches import to_tensor
from worldline.training.head_fitting import Fit, descend
from worldline.training.stored_latents import Imagination, LatentTable, Paths

MAX_DECODER_FRAMES, MAX_DECODER_BYTES = 4096, 2**28
"""Maximum number and size of the images that a decoder is fitted on."""
MAX_VALIDATION_FRAMES: Final = 256
UPDATE_PIXELS: Final = 2**17
"""Approximate number of pixels per update; a few frames suffice, because each has many pixels."""
MIN_DECODER_BATCH: Final = 8
DECODER_RATE_RATIO: Final = 5.0
"""Learning rate of the decoder, relative to that of the other heads."""


def fit_readout(store: Store, table: LatentTable, imagination: Imagination, fit: Fit) -> Readout:
    """Fits the readout of all vector and discrete observations.

    The first stage is a ridge regression on encoded latents. The second trains linear map and correction on predicted
    latents too. Each component keeps the regression unless the second stage reduces its error on held-out episodes.

    Args:
        store: holds the ground truth.
        table: the latents.
        imagination: the model.
        fit: settings; with 0 updates there is no second stage.
    """
    signals = tuple(signal for signal in store.schema.observations if signal.kind is not Kind.IMAGE)
    head = Readout(ReadoutConfig(latent_size=table.features.shape[1], signals=signals, width=fit.width))
    if not signals:
        return head.eval().requires_grad_(False).to(table.device)
    codes, known = _codes(store, table, signals)
    head.fit_linear(table.features.cpu(), codes, known, table.held_out.cpu(), whole=fit.updates == 0)
    head, codes, known = head.to(table.device), codes.to(table.device), known.to(table.device)
    target, linear = head.normaliser(codes).where(known, 0.0), copy.deepcopy(head)

    def errors(one: Readout, paths: Paths) -> tuple[Tensor, Tensor]:
        """Sum and count of the squared errors of each component."""
        counted = (known[paths.rows] & paths.inside[..., None]).float()
        error = (one.scores(paths.features) - target[paths.rows]).square() * counted
        return error.sum((0, 1)), counted.sum((0, 1))

    validation = imagination.exam(table, table.held_out, fit.unroll) if fit.updates else None
    before = codes.new_zeros(()) if validation is None else errors(linear, validation)[0].detach()

    def judge() -> float:
        assert validation is not None
        return float(torch.minimum(errors(head, validation)[0], before).sum())

    for optimizer in fit.optimise(head, None if validation is None else judge):
        paths = imagination.draw(table, ~table.held_out, fit.batch_size, fit.unroll)
        error, count = errors(head, paths)
        descend(optimizer, error.sum() / count.sum().clamp(min=1))
    if validation is not None:
        head.take(linear, errors(head, validation)[0] >= before)
    return head


def fit_reward(store: Store, table: LatentTable, imagination: Imagination, fit: Fit) -> Reward | None:
    """Fits the head for the reward of a step, the sum over all reward signals; None if the logs hold none.

    Args:
        store: holds the rewards.
        table: the latents.
        imagination: the model.
        fit: settings.
    """
    signals, steps = store.schema.of(Role.REWARD), table.steps_after > 0
    if not signals or not steps.any():
        return None
    earned = [_rewards(store, signals, episode) for episode in table.numbers]
    reward = torch.cat(earned).to(table.device)  # of the step after each row; 0 after the last row
    size = table.actions.shape[1]
    head = Reward(RewardConfig(latent_size=table.features.shape[1], action_size=size, width=fit.width)).to(table.device)
    before = steps.nonzero()[:, 0]
    head.fit_normaliser(table.features[before + 1].cpu(), table.actions[before].cpu(), reward[before].cpu())
    target = head.normaliser(reward[:, None])[:, 0]

    def error(paths: Paths) -> Tensor:
        inside, rows = paths.inside[1:].float(), paths.rows[:-1]
        both = torch.stack([paths.features[1:], table.features[paths.rows[1:]]])
        actions = table.actions[rows].expand(2, -1, -1, -1)
        squared = (head.scores(both, actions) - target[rows]).square().mean(0)
        return torch.as_tensor((squared * inside).sum() / inside.sum().clamp(min=1))

    validation = imagination.exam(table, table.held_out & steps, fit.unroll)
    for optimizer in fit.optimise(head, None if validation is None else lambda: float(error(validation))):
        paths = imagination.draw(table, ~table.held_out & steps, fit.batch_size, fit.unroll)
        descend(optimizer, error(paths))
    return head


def fit_termination(store: Store, table: LatentTable, imagination: Imagination, fit: Fit) -> Termination | None:
    """Fits the head for terminal states; None if no episode ends in one.

    Args:
        store: holds the ends of episodes.
        table: the latents.
        imagination: the model.
        fit: settings.
    """
    ends = to_tensor(store.terminated[table.episode.cpu().numpy()], table.device)
    terminal = ends & (table.steps_after == 0)
    if not terminal.any():
        return None
    held_out = table.held_out
    if not (terminal & held_out).any() or not (terminal & ~held_out).any():
        held_out = torch.zeros_like(held_out)  # both parts need a terminal state
    head = Termination(TerminationConfig(latent_size=table.features.shape[1], width=fit.width)).to(table.device)
    head.fit_rate(table.features.cpu(), terminal.cpu())

    def error(paths: Paths) -> Tensor:
        inside = paths.inside.float()
        both = torch.stack([paths.features, table.features[paths.rows]])
        target = terminal[paths.rows].float().expand(2, -1, -1)
        entropy = binary_cross_entropy_with_logits(head.logits(both), target, reduction="none").mean(0)
        return (entropy * inside).sum() / inside.sum()

    validation = imagination.exam(table, held_out, fit.unroll)
    for optimizer in fit.optimise(head, None if validation is None else lambda: float(error(validation))):
        descend(optimizer, error(imagination.draw(table, ~held_out, fit.batch_size, fit.unroll)))
    return head


def fit_decoder(
    store: Store, table: LatentTable, images: tuple[Signal, ...], generator: torch.Generator, fit: Fit
) -> Decoder | None:
    """Fits the decoder of `images` on up to `MAX_DECODER_FRAMES` frames; None without images.

    Args:
        store: holds the images.
        table: the latents.
        images: image signals to decode.
        generator: for all draws.
        fit: settings; updates use fewer frames than states if images are large, and a higher learning rate.
    """
    if not images:
        return None
    head = Decoder(DecoderConfig(latent_size=table.features.shape[1], images=images)).to(table.device)
    frame_bytes = sum(signal.size for signal in images)
    count = min(len(table.features), MAX_DECODER_FRAMES, max(1, MAX_DECODER_BYTES // frame_bytes))
    rows = torch.randperm(len(table.features), generator=generator, device=table.device)[:count]
    frames = [_frames(store, table, signal, rows) for signal in images]
    for number, (pictures, known) in enumerate(frames):
        head.of(number).fit(pictures[:, None], known[:, None])

    def error(some: Tensor) -> Tensor:
        latents, parts = table.features[rows[some]], []
        for number, (pictures, known) in enumerate(frames):
            camera, seen = head.of(number), known[some].float()
            with autocast(table.device):
                shown = camera(latents).float()
            squared = (shown - camera.scores(pictures[some])).square().mean((1, 2, 3))
            parts.append((squared * seen).sum() / seen.sum().clamp(min=1))
        return torch.stack(parts).sum()

    held_out = table.held_out[rows]
    validation, fitted = held_out.nonzero()[:MAX_VALIDATION_FRAMES, 0], (~held_out).nonzero()[:, 0]
    pixels = sum(signal.shape[0] * signal.shape[1] for signal in images)
    batch_size = min(fit.batch_size, max(MIN_DECODER_BATCH, UPDATE_PIXELS // pixels))
    fit = replace(fit, learning_rate=DECODER_RATE_RATIO * fit.learning_rate)
    for optimizer in fit.optimise(head, (lambda: float(error(validation))) if len(validation) else None):
        drawn = torch.randint(len(fitted), (batch_size,), generator=generator, device=table.device)
        descend(optimizer, error(fitted[drawn]))
    return head


def _codes(
    store: Store, table: LatentTable, signals: Sequence[Signal]
) -> tuple[Float[Tensor, "M size"], Bool[Tensor, "M size"]]:
    """The concatenated codes of these signals in every row (0 where missing), and whether each was observed."""
    codes, known = [], []
    for signal in signals:
        lengths = [(episode, int(store.num_steps[episode]) + 1) for episode in table.numbers]
        seen = to_tensor(np.concatenate([store.observed(signal.name, e, 0, rows) for e, rows in lengths]))
        values = torch.cat([to_tensor(store.read(signal.name, e, 0, rows)) for e, rows in lengths])
        values = values.where(seen.view(-1, *[1] * (values.ndim - 1)), 0)
        codes.append(to_code(signal, values))
        known.append(seen[:, None].expand(-1, code_size(signal)))
    return torch.cat(codes, -1), torch.cat(known, -1)


def _rewards(store: Store, signals: Sequence[Signal], episode: int) -> Float[Tensor, " T1"]:
    """The summed reward of each step, then a 0."""
    steps = int(store.num_steps[episode])
    total = np.zeros(steps + 1, np.float32)
    for signal in signals:
        total[:-1] += store.read(signal.name, episode, 0, steps).reshape(steps, -1).sum(1)
    return to_tensor(total)


def _frames(store: Store, table: LatentTable, signal: Signal, rows: Tensor) -> tuple[Tensor, Bool[Tensor, " K"]]:
    """The images [K, height, width, channels] of these rows, and whether each was observed."""
    places = torch.stack([table.episode[rows], rows - table.first[rows]], 1).cpu().numpy()
    pictures = np.empty((len(rows), 1, *signal.shape), signal.dtype)
    store.read_into(signal.name, places, pictures)
    known = [store.observed(signal.name, episode, step, step + 1)[0] for episode, step in places.tolist()]
    return to_tensor(pictures[:, 0], table.device), to_tensor(np.array(known), table.device)
