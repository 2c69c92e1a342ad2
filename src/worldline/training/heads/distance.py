"""The distance head: the number of steps between two latents.

Consider all quasimetrics in which a single step has at most length 1. The one with the largest distances of far pairs
is the minimum number of steps. Source: Wang et al., "Optimal goal-reaching reinforcement learning via quasimetric
learning" (2304.01203). Unlike there, steps are also predicted by the model under random actions, so the quality of the
logged policy does not matter.

An image-only goal stands for all states with these images. The distance of each of them to it is trained to 0. So, by
the triangle inequality, it is no further from any state than the nearest of them. In the first half of the updates this
term does not train the embedding of states: it would be much larger than the others, and draw all states together.

With such goals, the distance and the inverse head ignore features that never change during an episode, such as a logged
target. Pairs from one episode would relate distances and actions to them. Every second goal then comes from any
episode.

Sources: the quasimetric form of IQE and MRN (arXiv 2208.08133); training on predicted latents: arXiv 2608.12959.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from worldline.config import BoundedConfig, Size
from worldline.device import autocast
from worldline.errors import ConfigError
from worldline.models.layers.mlp import mlp
from worldline.schema import Kind, Schema
from worldline.training.heads.base import Fit, Head, HeadData, descend

FAR_SHARPNESS, FAR_WEIGHT, STEP_WEIGHT = 0.1, 0.3, 30.0
"""Sharpness and weight of the term for far pairs, and weight of the term for single steps, in the loss of the distance;
chosen on Two Rooms (benchmarks/log/demo.md)."""
PICTURE_WEIGHT: Final = 3.0
"""Weight of the distance between a state and its images. A large one draws states together."""
JOINT_SHARE: Final = 0.5
"""Share of the updates, the last ones, in which image-only goals train the embedding of states."""


@dataclass(frozen=True, kw_only=True)
class DistanceConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: units of the two hidden layers.
        size: dimension of the embedding; one half gives the symmetric, the other the asymmetric part of distances.
        pictures: whether the head also embeds goals that consist of images only.
    """

    latent_size: Size
    width: Size = 256
    size: Size = 128
    pictures: bool = False


class Distance(Head):
    """A quasimetric: at least 0, 0 from a latent to itself, triangle inequality, not symmetric."""

    name = "distance"
    updates = "distance_updates"
    Config = DistanceConfig
    config: DistanceConfig

    def __init__(self, config: DistanceConfig) -> None:
        super().__init__(config)
        sizes = [config.latent_size, config.width, config.width, config.size]
        self.embedding = mlp(sizes)
        self.pictures = mlp(sizes) if config.pictures else None

    def embed(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """Embeddings of latents."""
        return torch.as_tensor(self.embedding(latents))

    def embed_pictures(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """Embeddings of latents of image-only goals; each stands for all states with these images."""
        assert self.pictures is not None, "the head was fitted without image-only goals"
        return torch.as_tensor(self.pictures(latents))

    def between(self, start: Float[Tensor, "... size"], goal: Float[Tensor, "... size"]) -> Float[Tensor, "..."]:
        """Steps from `start` to `goal`, both embedded."""
        half = self.config.size // 2
        # 1e-6 keeps the gradient of the root finite at 0.
        symmetric = (start[..., :half] - goal[..., :half]).square().sum(-1).add(1e-6).sqrt()
        return symmetric + (goal[..., half:] - start[..., half:]).relu().amax(-1)

    def forward(self, start: Float[Tensor, "... D"], goal: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """Steps from latent `start` to latent `goal`."""
        return self.between(self.embed(start), self.embed(goal))

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether goals are wanted; `check_goals` has checked that the signals support them."""
        return data.config.goals

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Distance:
        """The head with large distances of far pairs, at most 1 per step, and 0 from a state to its images."""
        table, imagination, far = data.table, data.imagination, data.config.far
        now = imagination.present  # a goal is one observation without a past
        kept, pictures = table.changing[now], table.pictures
        head = cls(DistanceConfig(latent_size=len(kept), width=fit.width, pictures=pictures is not None))
        head.to(table.device)
        count = 2 * fit.batch_size
        for update, optimizer in enumerate(fit.optimise(head)):
            # Random states, the states one step later by the model and by the log, and goals.
            rows, goal = table.pairs(count, imagination.generator)
            start = table.features[rows]
            following = table.features[torch.minimum(rows + 1, table.first[rows] + table.length[rows] - 1)]
            with torch.no_grad(), autocast(table.device):
                after = imagination.step(start, imagination.random_actions(count)).float()
            with autocast(table.device):
                states = torch.cat([start, after, following, table.features[goal]])[:, now] * kept
                embedded = head.embed(states).float()
            before, imagined, logged, there = embedded.chunk(4)
            # Far pairs are pushed apart; a step longer than 1 is drawn together.
            step = torch.cat([head.between(before, imagined), head.between(before, logged)])
            apart = torch.cat([head.between(before, there), head.between(imagined, there)])
            loss = _push(far, apart).mean() + STEP_WEIGHT * (step - 1).relu().square().mean()
            if pictures is not None:
                with autocast(table.device):
                    shown = head.embed_pictures(pictures.latents[goal] * kept).float()
                if update < (1 - JOINT_SHARE) * fit.updates:
                    before, imagined, there = before.detach(), imagined.detach(), there.detach()
                apart = _push(far, head.between(before, shown)) + _push(far, head.between(imagined, shown))
                taken = pictures.taken[goal].float()
                term = apart / 2 + PICTURE_WEIGHT * head.between(there, shown).square()
                loss = loss + (term * taken).sum() / taken.sum().clamp(min=1)
            descend(optimizer, loss)
        for embedding in (head.embedding, head.pictures):
            ignore_inputs(embedding, ~kept)
        return head


@torch.no_grad()
def ignore_inputs(network: nn.Sequential | None, inputs: Bool[Tensor, " D"]) -> None:
    """Makes a network independent of some of its inputs, which were 0 in its fit."""
    if network is not None:
        layer = network[0]
        assert isinstance(layer, nn.Linear)
        layer.weight[:, inputs] = 0


def _push(far: float, apart: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    return torch.as_tensor(FAR_WEIGHT * softplus(far - apart, beta=FAR_SHARPNESS))


def check_goals(schema: Schema) -> None:
    """Checks that goal heads can be fitted.

    Raises:
        ConfigError: an action is unbounded or discrete, or the schema has exogenous signals or no actions.
    """
    obstacles = goal_obstacles(schema)
    if obstacles:
        raise ConfigError(
            f"goal heads need bounded vector actions and no exogenous signals, but {', '.join(obstacles)}. Add low and "
            "high to the actions (worldline schema STORE), or learn without goals (--no-goals, goals=False)."
        )


def goal_obstacles(schema: Schema) -> list[str]:
    """What prevents goal heads, such as "'wind' is exogenous"; empty if they can be fitted."""
    if not schema.actions:
        return ["there are no actions"]
    others = [s for s in schema.actions if s.kind is not Kind.VECTOR or s.low is None or s.high is None]
    problems = {s.name: "unbounded" if s.kind is Kind.VECTOR else "discrete" for s in others}
    obstacles = [f"the action {name!r} is {problem}" for name, problem in problems.items()]
    return obstacles + [f"{signal.name!r} is exogenous" for signal in schema.exogenous]
