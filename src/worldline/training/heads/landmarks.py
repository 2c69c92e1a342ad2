"""Landmarks: latents from the logs and the steps between them, for goals beyond the range of the distance head.

Source: planning over stored states, "Search on the replay buffer" (1906.05253). Unlike there, an edge needs a logged
path from near one landmark to near another, so the distance head is evaluated at short range only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import BoundedConfig, Positive, Size
from worldline.errors import DataError
from worldline.training.heads.base import Fit, Head, HeadData
from worldline.training.heads.distance import Distance
from worldline.training.stored_latents import LatentTable

MAX_CANDIDATES: Final = 4096
"""Maximum number of stored latents among which landmarks are chosen."""
LATENTS_AT_ONCE: Final = 64
"""Stored latents that are compared with all landmarks at once; few enough for the CPU cache."""


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


class Landmarks(Head):
    """M latents and the steps of the shortest logged path between each pair; infinite if there is none."""

    may_be_infinite: ClassVar[tuple[str, ...]] = ("steps",)
    """Tensors in which infinity has a meaning."""

    name = "landmarks"
    Config = LandmarksConfig
    config: LandmarksConfig
    latents: Tensor
    steps: Tensor

    def __init__(self, config: LandmarksConfig) -> None:
        super().__init__(config)
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
        beyond = torch.stack([(self.steps + to_goal).amin(1) for to_goal in last])
        length = first + beyond
        shortest = length.amin(1, keepdim=True)
        best = beyond.masked_fill(length > shortest + 1, torch.inf).argmin(1)
        far = (distance.between(start, end) > reach) & shortest[:, 0].isfinite()
        after = beyond.gather(1, best[:, None])[:, 0]
        return Aim(
            latent=torch.where(far[:, None], self.latents[best], goal),
            after=torch.where(far, after, torch.zeros_like(after)),
        )

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether landmarks are configured."""
        return data.config.num_landmarks > 0

    @classmethod
    @torch.no_grad()
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Landmarks:
        """Latents that are far from each other, and the shortest logged paths between them.

        Raises:
            DataError: no observation is complete.
        """
        table, distance = data.table, heads[Distance.name]
        assert isinstance(distance, Distance)
        num_landmarks, reach = data.config.num_landmarks, data.config.reach
        latents = table.features[:, data.imagination.present]
        config = LandmarksConfig(latent_size=latents.shape[1], num_landmarks=num_landmarks, reach=reach)
        known = table.whole.nonzero()[:, 0]
        if not len(known):
            raise DataError(
                "no observation holds all inputs of the model, so no landmark can be chosen",
                fix="Learn from fewer signals, or set num_landmarks to 0.",
            )
        # Landmarks: states that are spread as far apart as a random part of the logs allows.
        order = torch.randperm(len(known), generator=data.imagination.generator, device=table.device)
        places = known[order[:MAX_CANDIDATES]]
        head = cls(config).to(table.device)
        head.latents.copy_(latents[places[_spread(distance, distance.embed(latents[places]), num_landmarks)]])
        # The nearest landmark of each stored latent, and the distances from and to it.
        marks = distance.embed(head.latents)
        nearest, coming, leaving = [], [], []
        for some in latents.split(LATENTS_AT_ONCE):
            rows = distance.embed(some)[:, None]
            to, back = distance.between(marks, rows), distance.between(rows, marks)
            closest = (to + back).argmin(1, keepdim=True)
            nearest.append(closest[:, 0])
            coming.append(to.gather(1, closest)[:, 0])
            leaving.append(back.gather(1, closest)[:, 0])
        legs = _legs(table, torch.cat(nearest), torch.cat(coming), torch.cat(leaving), config)
        # At least the distance of the head: else aiming beyond a landmark could look longer than stopping at it. At
        # most half the reach: so the next landmark is within reach before the present one is reached.
        legs = torch.maximum(legs, distance.between(marks[:, None], marks))
        legs = legs.masked_fill(legs > reach / 2, torch.inf).fill_diagonal_(0.0)
        for through in range(num_landmarks):  # Floyd and Warshall: all shortest paths
            legs = torch.minimum(legs, legs[:, through, None] + legs[through])
        head.steps.copy_(legs)
        return head.eval()


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


def _spread(distance: Distance, places: Float[Tensor, "P size"], count: int) -> Tensor:
    """Indices [count] of places, each the furthest from those before it; they repeat if there are too few places."""
    chosen, left = [0], torch.full((len(places),), torch.inf, device=places.device)
    while len(chosen) < count:
        last = places[chosen[-1]]
        left = torch.minimum(left, torch.maximum(distance.between(places, last), distance.between(last, places)))
        chosen.append(int(left.argmax()))
    return torch.tensor(chosen, device=places.device)


def _legs(
    table: LatentTable, nearest: Tensor, coming: Tensor, leaving: Tensor, config: LandmarksConfig
) -> Float[Tensor, "M M"]:
    """The steps of the shortest logged path from near one landmark to near another; infinite without one."""
    count, rows = config.num_landmarks, torch.arange(len(nearest), device=table.device)
    legs = torch.full((count * count,), torch.inf, device=table.device)
    for gap in range(1, int(config.reach / 2) + 1):
        start = rows[(table.steps_after >= gap) & table.whole & table.whole.roll(-gap)]
        there = start + gap
        length = coming[start] + gap + leaving[there]
        legs.scatter_reduce_(0, nearest[start] * count + nearest[there], length, "amin")
    return legs.view(count, count)
