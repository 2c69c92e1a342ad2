"""Landmarks: latents from the logs and the steps between them, for goals beyond the range of the distance head.

Source: planning over stored states, "Search on the replay buffer" (1906.05253). Unlike there, an edge needs a logged
path from near one landmark to near another, so the distance head is evaluated at short range only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Positive, Size
from worldline.models.heads.distance import Distance


@dataclass(frozen=True, kw_only=True)
class LandmarksConfig(BoundedConfig):
    """Size of the map.

    Args:
        latent_size: D of the model.
        num_landmarks: M, at least 1. Neighbours should be less than half the reach apart.
        reach: maximum distance at which the distance head is used, steps, above 0.
    """

    latent_size: Size
    num_landmarks: Size
    reach: Positive


class Landmarks(nn.Module):
    """M latents and the steps of the shortest logged path between each pair; infinite if there is none."""

    may_be_infinite: ClassVar[tuple[str, ...]] = ("steps",)
    """Tensors in which infinity has a meaning."""

    latents: Tensor
    steps: Tensor

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("latents", torch.zeros(config.num_landmarks, config.latent_size))
        self.register_buffer("steps", torch.full((config.num_landmarks, config.num_landmarks), torch.inf))

    def aim(self, distance: Distance, now: Float[Tensor, "W D"], goal: Float[Tensor, "W D"]) -> Aim:
        """The subgoal on the way to `goal`: the goal itself if it is near or no logged path leads to it.

        Otherwise it is the landmark within reach on the shortest path to the goal. Among equally short paths (within
        one step) it is the landmark nearest to the goal.

        Args:
            distance: the head that the landmarks were fitted with.
            now: present latents.
            goal: latents of the goals.
        """
        reach, marks = self.config.reach, distance.embed(self.latents)
        start, end = distance.embed(now), distance.embed(goal)
        first = _within(distance.between(start[:, None], marks), reach)
        last = _within(distance.between(marks, end[:, None]), reach)
        beyond = torch.stack([(self.steps + steps).amin(1) for steps in last])
        length = first + beyond
        shortest = length.amin(1, keepdim=True)
        best = beyond.masked_fill(length > shortest + 1, torch.inf).argmin(1)
        far = (distance.between(start, end) > reach) & shortest[:, 0].isfinite()
        after = beyond.gather(1, best[:, None])[:, 0]
        return Aim(
            latent=torch.where(far[:, None], self.latents[best], goal),
            after=torch.where(far, after, torch.zeros_like(after)),
        )


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A subgoal.

    Args:
        latent: of the landmark or the goal.
        after: steps from there to the goal; 0 if it is the goal.
    """

    latent: Float[Tensor, "W D"]
    after: Float[Tensor, " W"]


def _within(steps: Tensor, reach: float) -> Tensor:
    return torch.where(steps <= reach, steps, torch.inf)
