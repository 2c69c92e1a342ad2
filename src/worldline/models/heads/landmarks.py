"""Places from the logs, and how many steps lie between them: a map for goals that are too far for the distance head.

Source: planning over stored states, "Search on the replay buffer" (1906.05253); here a leg has to have been walked in
the logs, from beside one landmark to beside another, so that the distance head is asked for short ways only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.heads.distance import Distance


@dataclass(frozen=True, kw_only=True)
class LandmarksConfig:
    """Size of the map.

    Args:
        latent_size: D of the model.
        num_landmarks: M, at least 1; so many that neighbours are less than half the reach apart.
        reach: steps within which the distance head is believed, above 0.
    """

    latent_size: int
    num_landmarks: int
    reach: float

    def __post_init__(self) -> None:
        if self.num_landmarks < 1 or not 0 < self.reach < math.inf:
            raise ConfigError(
                f"num_landmarks {self.num_landmarks} must be at least 1, reach {self.reach} above 0, and finite."
            )


class Landmarks(nn.Module):
    """M latents, and the steps of the shortest logged way from each to each; infinite where there is none."""

    latents: Tensor
    steps: Tensor

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("latents", torch.zeros(config.num_landmarks, config.latent_size))
        self.register_buffer("steps", torch.full((config.num_landmarks, config.num_landmarks), torch.inf))

    def aim(self, distance: Distance, now: Float[Tensor, "W D"], goal: Float[Tensor, "W D"]) -> Aim:
        """What to head for in order to reach `goal`: the goal itself where it is near or no logged way is known.

        Else it is the landmark within reach from which the way is shortest; of those on equally short ways the one
        that is furthest along.

        Args:
            distance: the head that the landmarks were fitted with.
            now: present latents.
            goal: latents.
        """
        reach, marks = self.config.reach, distance.embed(self.latents)
        here, there = distance.embed(now), distance.embed(goal)
        first = _within(distance.between(here[:, None], marks), reach)
        last = _within(distance.between(marks, there[:, None]), reach)
        beyond = torch.stack([(self.steps + one).amin(1) for one in last])
        length = first + beyond
        shortest = length.amin(1, keepdim=True)
        best = beyond.masked_fill(length > shortest + 1, torch.inf).argmin(1)
        far = (distance.between(here, there) > reach) & shortest[:, 0].isfinite()
        after = beyond.gather(1, best[:, None])[:, 0]
        return Aim(
            latent=torch.where(far[:, None], self.latents[best], goal),
            after=torch.where(far, after, torch.zeros_like(after)),
        )


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What to head for.

    Args:
        latent: of the landmark or the goal.
        after: steps from there to the goal; 0 where it is the goal.
    """

    latent: Float[Tensor, "W D"]
    after: Float[Tensor, " W"]


def _within(steps: Tensor, reach: float) -> Tensor:
    return torch.where(steps <= reach, steps, torch.inf)
