"""Can this model be controlled with? What a validation loss does not tell: whether its predictions use the actions.

Choosing a checkpoint by validation loss alone picks models that ignore the actions. Each measure is 1 for a perfect
model and at most 0 for one that has learned nothing of the kind; none depends on the scale of the latents, so that
checkpoints with other latents can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.models.base import Inputs, Window, WorldModel

RIDGE = 1e-3
"""Penalty of the regression that decodes actions, relative to the size of its inputs."""
SLACK = 0.25
"""Added to what decodability lacks, so that its last digits decide nothing."""
MAX_ROWS = 1500
"""Transitions that decodability is measured on; the regression takes the cube of them."""


@dataclass(frozen=True, kw_only=True)
class ControlMeasures:
    """How useful a model is for control, on windows that it was not trained on.

    Args:
        open_loop_skill: 1 - error of the open-loop rollout / error of a latent that stands still.
        zero_action_gap: 1 - error / error of the same rollout under the mean action.
        shuffled_action_gap: 1 - error / error of the same rollout under another window's actions.
        action_decodability: R² of a linear regression from two successive latents to the action between them, on
            episodes that it was not fitted on.
    """

    open_loop_skill: float
    zero_action_gap: float
    shuffled_action_gap: float
    action_decodability: float

    @property
    def control(self) -> float:
        """1 - the geometric mean of what the weakest of the first three and decodability lack; chooses the checkpoint.

        Halving an error counts alike wherever it stands, and a regression that swings does not outweigh it.
        """
        weakest = min(self.open_loop_skill, self.zero_action_gap, self.shuffled_action_gap)
        return 1 - math.sqrt((1 - weakest) * (1 + SLACK - self.action_decodability))


@torch.no_grad()
def measure_control(
    model: WorldModel, window: Window, features: Float[Tensor, "R B H D"], episode: Int[Tensor, " B"], *, seed: int
) -> ControlMeasures:
    """The measures of `model` in evaluation mode.

    Errors are those of expected latents. Of a model that draws, R is 2: the product of two independent errors is, on
    average, the square of the expected one, where the square of either would be mostly the noise of its draws.

    Args:
        model: as it stands.
        window: B windows of at least 3 observations.
        features: what `fold` gives for `window`, R times. Only those that show the present count: a memory knows the
            actions.
        episode: that each window is from.
        seed: of the model's draws and of the shuffle.
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
    still = _product(features[:, :, known - 1 : known] - truth)
    mean = error(future.actions.mean((0, 1, 2)).expand_as(future.actions).contiguous())
    shuffled = error(future.actions.roll(1, 0))
    return ControlMeasures(
        open_loop_skill=_better(own, still),
        zero_action_gap=_better(own, mean),
        shuffled_action_gap=_better(own, shuffled),
        action_decodability=_decodability(features.mean(0), window.past, episode),
    )


def _product(errors: Float[Tensor, "R B T D"]) -> float:
    """The mean square of the expected error, from R independent ones; at least 0."""
    return max(0.0, float((errors[0] * errors[-1]).mean()))


def _better(error: float, floor: float) -> float:
    """1 - error / floor, at least -1; 0 where neither errs."""
    least = 1e-12
    return 0.0 if max(error, floor) <= least else max(-1.0, 1 - error / max(floor, least))


def _decodability(features: Float[Tensor, "B H D"], past: Inputs, episode: Int[Tensor, " B"]) -> float:
    """R² on half of the episodes, of a ridge regression fitted on the other half; 0 where there is one episode."""
    numbers = episode.unique()
    if len(numbers) < 2:
        return 0.0
    first = torch.isin(episode, numbers[: len(numbers) // 2])
    inputs = torch.cat([features[:, :-1], features.diff(dim=1)], -1).double()
    actions = past.actions[:, 0].double()
    fit, fit_actions = _thin(inputs[first]), _thin(actions[first])
    test, test_actions = inputs[~first].flatten(0, 1), actions[~first].flatten(0, 1)
    spread = fit.std(0).clamp(min=1e-9)
    centre, mean = fit.mean(0), fit_actions.mean(0)
    fit, test = (fit - centre) / spread, (test - centre) / spread
    products = fit @ fit.T  # in the space of rows: latents may be wider than there are rows
    penalty = RIDGE * products.diagonal().mean().clamp(min=1e-9) * torch.eye(len(products), dtype=torch.double)
    weights = torch.linalg.solve(products + penalty.to(products.device), fit_actions - mean)
    left = (test @ (fit.T @ weights) + mean - test_actions).square().sum()
    total = (test_actions - mean).square().sum()
    return max(-1.0, 1 - float(left / total)) if float(total) > 1e-12 else 0.0


def _thin(values: Float[Tensor, "B T size"]) -> Float[Tensor, "M size"]:
    rows = values.flatten(0, 1)
    return rows[:: -(-len(rows) // MAX_ROWS)]
