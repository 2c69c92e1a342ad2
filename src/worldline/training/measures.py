"""Measures of a model in training: how much its predictions use the actions, and the health of its latents.

A checkpoint chosen by validation loss alone may ignore the actions. Each measure is 1 for a perfect model and at most 0
for one that has learned nothing. Measures do not depend on the scale of the latents, so checkpoints are comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.errors import CollapseError
from worldline.models.base import Inputs, Window, WorldModel


@dataclass(frozen=True, kw_only=True)
class Health:
    """Measures of the diversity of latents.

    Args:
        effective_rank: exponential of the entropy of the normalised singular values, 1 to D.
            Source: Roy and Vetterli, "The effective rank" (2007).
        deviation: standard deviation, averaged over dimensions.
        straightness: mean cosine between successive changes, -1 to 1.
    """

    effective_rank: float
    deviation: float
    straightness: float


def measure_health(features: Float[Tensor, "B H D"]) -> Health:
    """The health of B sequences of H latents, H at least 3."""
    features = features.cpu()  # for double precision
    flat = features.flatten(0, 1).double()
    values = torch.linalg.svdvals(flat - flat.mean(0))
    share = values / values.sum().clamp(min=1e-12)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    change = features.diff(dim=1)
    cosine = torch.cosine_similarity(change[:, :-1], change[:, 1:], dim=-1)
    rank, deviation = float(entropy.exp()), float(flat.std(0).mean())
    return Health(effective_rank=rank, deviation=deviation, straightness=float(cosine.mean()))


def guard(health: Health, *, step: int, min_rank: float, min_deviation: float) -> None:
    """Raises if the latents have collapsed.

    Args:
        health: of validation latents.
        step: number of updates before the measurement.
        min_rank: smallest accepted effective rank.
        min_deviation: smallest accepted standard deviation.

    Raises:
        CollapseError: the effective rank or the standard deviation is too small.
    """
    if not health.deviation >= min_deviation:
        raise CollapseError(
            f"after {step} updates the standard deviation of the latents is {health.deviation:.2g}, "
            f"below {min_deviation:g}: all observations look the same to the model. "
            "Raise the weight of SIGReg, lower the learning rate, or check that the observations change."
        )
    if not health.effective_rank >= min_rank:
        raise CollapseError(
            f"after {step} updates the latents fill {health.effective_rank:.2g} dimensions, "
            f"fewer than {min_rank:g}: the model encodes a single quantity, often the slowest. "
            "Raise the weight of SIGReg or constant_size, or log more diverse episodes."
        )


RIDGE = 1e-3
"""Penalty of the regression that decodes actions, relative to the size of its inputs."""
DECODABILITY_OFFSET = 0.25
"""Added to 1 - decodability, so that small differences near perfect decodability have little weight."""
MAX_ROWS = 1500
"""Maximum number of transitions in the regression of decodability; its time grows with their cube."""


@dataclass(frozen=True, kw_only=True)
class ControlMeasures:
    """Usefulness of a model for control, on held-out windows.

    Args:
        open_loop_skill: 1 - error of the open-loop rollout / error of persistence of the latent.
        zero_action_gap: 1 - error / error of the same rollout under the mean action.
        shuffled_action_gap: 1 - error / error of the same rollout under another window's actions.
        action_decodability: R² of a linear regression from two successive latents to the action between them, on
            held-out episodes.
    """

    open_loop_skill: float
    zero_action_gap: float
    shuffled_action_gap: float
    action_decodability: float

    @property
    def control(self) -> float:
        """The score that chooses the checkpoint: 1 - the geometric mean of two shortfalls from 1.

        They are those of the smallest of the first three measures and of decodability. With the geometric mean, halving
        an error counts the same at any level, and a noisy decodability does not dominate.
        """
        weakest = min(self.open_loop_skill, self.zero_action_gap, self.shuffled_action_gap)
        return 1 - math.sqrt((1 - weakest) * (1 + DECODABILITY_OFFSET - self.action_decodability))


@torch.no_grad()
def measure_control(
    model: WorldModel, window: Window, features: Float[Tensor, "R B H D"], episode: Int[Tensor, " B"], *, seed: int
) -> ControlMeasures:
    """The measures of `model` in evaluation mode.

    Errors are those of expected latents. For a stochastic model R is 2: the expected product of two independent errors
    is the square of the expected error. The square of one error would mostly be the noise of its draws.

    Args:
        model: in evaluation mode.
        window: B windows of at least 3 observations.
        features: results of R calls of `fold` on `window`. Only features of the present count, because a memory
            contains the actions.
        episode: episode of each window, on the CPU.
        seed: of the model's draws.
    """
    known = min(model.context, features.shape[2] - 2)
    features = features[..., model.present]
    future = window.past.steps(slice(known - 1, None))
    truth = features[:, :, known:]

    def generators() -> list[torch.Generator]:
        return [torch.Generator(features.device).manual_seed(seed + number) for number in range(len(features))]

    beliefs = [model.encode(window.first(known), generator=generator) for generator in generators()]

    def error(actions: Tensor) -> float:
        inputs, draws = replace(future, actions=actions), zip(beliefs, generators(), strict=True)
        imagined = [model.rollout(belief, inputs, generator=own).features[:, 0].mean(1) for belief, own in draws]
        return _product(torch.stack(imagined)[..., model.present].float() - truth)

    own = error(future.actions)
    persistence = _product(features[:, :, known - 1 : known] - truth)
    mean = error(future.actions.mean((0, 1, 2)).expand_as(future.actions).contiguous())
    shuffled = error(future.actions.roll(1, 0))
    return ControlMeasures(
        open_loop_skill=_skill(own, persistence),
        zero_action_gap=_skill(own, mean),
        shuffled_action_gap=_skill(own, shuffled),
        action_decodability=_decodability(features.mean(0), window.past, episode),
    )


def _product(errors: Float[Tensor, "R B T D"]) -> float:
    """The mean square of the expected error, from R independent errors; at least 0."""
    return max(0.0, float((errors[0] * errors[-1]).mean()))


def _skill(error: float, baseline: float) -> float:
    """1 - error / baseline, at least -1; 0 if both errors are 0."""
    tiny = 1e-12
    return 0.0 if max(error, baseline) <= tiny else max(-1.0, 1 - error / max(baseline, tiny))


def _decodability(features: Float[Tensor, "B H D"], past: Inputs, episode: Int[Tensor, " B"]) -> float:
    """R² on half of the episodes of a ridge regression fitted on the other half; 0 with a single episode."""
    numbers = episode.unique()
    if len(numbers) < 2:
        return 0.0
    first = torch.isin(episode, numbers[: len(numbers) // 2])
    inputs = torch.cat([features[:, :-1], features.diff(dim=1)], -1).cpu().double()
    actions = past.actions[:, 0].cpu().double()
    fit, fit_actions = _thin(inputs[first]), _thin(actions[first])
    test, test_actions = inputs[~first].flatten(0, 1), actions[~first].flatten(0, 1)
    spread = fit.std(0).clamp(min=1e-9)
    centre, mean = fit.mean(0), fit_actions.mean(0)
    fit, test = (fit - centre) / spread, (test - centre) / spread
    products = fit @ fit.T  # dual form, because latents may have more components than there are rows
    penalty = RIDGE * products.diagonal().mean().clamp(min=1e-9)
    identity = torch.eye(len(products), dtype=products.dtype, device=products.device)
    weights = torch.linalg.solve(products + penalty * identity, fit_actions - mean)
    residual = (test @ (fit.T @ weights) + mean - test_actions).square().sum()
    total = (test_actions - mean).square().sum()
    return max(-1.0, 1 - float(residual / total)) if float(total) > 1e-12 else 0.0


def _thin(values: Float[Tensor, "B T size"]) -> Float[Tensor, "M size"]:
    rows = values.flatten(0, 1)
    return rows[:: -(-len(rows) // MAX_ROWS)]
