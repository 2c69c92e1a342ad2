"""Fitting of the heads for goals: distance, inverse dynamics and landmarks.

Distance: consider all quasimetrics in which a single step has at most length 1. The one with the largest distances of
far pairs is the minimum number of steps. Source: Wang et al., "Optimal goal-reaching reinforcement learning via
quasimetric learning" (2304.01203). Unlike there, steps are also predicted by the model under random actions, so the
quality of the logged policy does not matter.

An image-only goal stands for all states with these images. The distance of each of them to it is trained to 0. So, by
the triangle inequality, it is no further from any state than the nearest of them. In the first half of the updates this
term does not train the embedding of states: it would be much larger than the others, and draw all states together.

With such goals, both heads ignore features that never change during an episode, such as a logged target. Pairs from one
episode would relate distances and actions to them. Every second goal then comes from any episode.

Inverse: a policy that minimises the distance over the remaining steps, by gradients through the model.

Landmarks: latents from the logs, connected if an episode leads from near one to near another; see
`models/heads/landmarks.py`.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from worldline.device import autocast
from worldline.errors import DataError
from worldline.models.heads.distance import Distance, DistanceConfig
from worldline.models.heads.inverse import Inverse, InverseConfig
from worldline.models.heads.landmarks import Landmarks, LandmarksConfig
from worldline.training.head_fitting import Fit, descend
from worldline.training.stored_latents import Imagination, LatentTable

FAR_SHARPNESS, FAR_WEIGHT, STEP_WEIGHT = 0.1, 0.3, 30.0
"""Sharpness and weight of the term for far pairs, and weight of the term for single steps, in the loss of the distance;
chosen on Two Rooms (benchmarks/log/demo.md)."""

PICTURE_WEIGHT: Final = 3.0
"""Weight of the distance between a state and its images, for benchmarks/picture_goals.py. A large one draws states
together."""
JOINT_SHARE: Final = 0.5
"""Share of the updates, the last ones, in which image-only goals train the embedding of states."""

MAX_LANDMARK_CANDIDATES: Final = 4096
"""Maximum number of stored latents among which landmarks are chosen."""
LATENTS_AT_ONCE: Final = 64
"""Stored latents that are compared with all landmarks at once; few enough for the CPU cache."""

LAST_STEP_WEIGHT: Final = 1.0
"""Additional weight of the distance after the last remaining step; all steps have weight 1."""


def fit_distance(table: LatentTable, imagination: Imagination, fit: Fit, *, far: float) -> Distance:
    """Fits the distance head: large distances of far pairs, at most 1 per step, and 0 from a state to its images.

    Args:
        table: the latents.
        imagination: the model.
        fit: settings.
        far: distance beyond which pairs are pushed apart less strongly, steps.
    """
    now = imagination.present  # a goal is one observation without a past
    kept, pictures = table.changing[now], table.pictures
    head = Distance(DistanceConfig(latent_size=len(kept), width=fit.width, pictures=pictures is not None))
    head.to(table.device)
    count = 2 * fit.batch_size
    for update, optimizer in enumerate(fit.optimise(head)):
        rows, goal = table.pairs(count, imagination.generator)
        start = table.features[rows]
        following = table.features[torch.minimum(rows + 1, table.first[rows] + table.length[rows] - 1)]
        with torch.no_grad(), autocast(table.device):
            after = imagination.step(start, imagination.random_actions(count)).float()
        with autocast(table.device):
            embedded = head.embed(torch.cat([start, after, following, table.features[goal]])[:, now] * kept).float()
        before, imagined, logged, there = embedded.chunk(4)
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
        _ignore(embedding, ~kept)
    return head


@torch.no_grad()
def _ignore(network: nn.Sequential | None, inputs: Bool[Tensor, " D"]) -> None:
    """Makes a network independent of some of its inputs, which were 0 in its fit."""
    if network is not None:
        layer = network[0]
        assert isinstance(layer, nn.Linear)
        layer.weight[:, inputs] = 0


def _push(far: float, apart: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    return torch.as_tensor(FAR_WEIGHT * softplus(far - apart, beta=FAR_SHARPNESS))


def fit_inverse(table: LatentTable, distance: Distance, imagination: Imagination, fit: Fit) -> Inverse:
    """Fits the inverse head: the policy with the smallest predicted distances to the goal over the remaining steps.

    The number of remaining steps is drawn from 1 to twice the length of a rollout. Steps after them do not count, and
    the last of them counts twice. With more remaining steps than the rollout has, all steps of the rollout count.

    Args:
        table: the latents.
        distance: the fitted head.
        imagination: the model.
        fit: settings.
    """
    now = imagination.present
    kept = table.changing[now]
    head = Inverse(
        InverseConfig(
            latent_size=len(kept),
            low=tuple(imagination.low.tolist()),
            high=tuple(imagination.high.tolist()),
            width=fit.width,
            longest=2 * fit.unroll,
        )
    ).to(table.device)
    elapsed = torch.arange(1, fit.unroll + 1, device=table.device)[:, None]
    for optimizer in fit.optimise(head):
        rows, goal = table.pairs(fit.batch_size, imagination.generator)
        num_steps = torch.randint(
            1, head.config.longest + 1, (fit.batch_size,), generator=imagination.generator, device=table.device
        )
        latent, wanted = table.features[rows], table.features[goal][:, now]
        there = distance.embed(wanted)
        if table.pictures is not None:  # every second goal is image-only, if its images were observed
            some = table.pictures.taken[goal] & (torch.arange(len(goal), device=table.device) % 2 == 0)
            wanted[some] = table.pictures.latents[goal[some]]
            there[some] = distance.embed_pictures(wanted[some])
        path = []
        with autocast(table.device):
            for step in range(fit.unroll):
                action = head(latent[:, now] * kept, wanted * kept, num_steps - step)
                latent = imagination.step(latent, action)
                path.append(latent[:, now])
            left = distance.between(distance.embed(torch.stack(path)).float(), there)
        weight = (elapsed <= num_steps).float() + LAST_STEP_WEIGHT * (elapsed == num_steps)
        descend(optimizer, (weight * left).sum() / weight.sum())
    _ignore(head.layers, ~kept.repeat(2))
    return head


@torch.no_grad()
def fit_landmarks(
    table: LatentTable,
    distance: Distance,
    present: slice,
    generator: torch.Generator,
    *,
    num_landmarks: int,
    reach: float,
) -> Landmarks:
    """Fits the landmarks: latents that are far from each other, and the shortest logged paths between them.

    Args:
        table: the latents.
        distance: the fitted head.
        present: the features of a latent that describe the present state.
        generator: draws the candidates.
        num_landmarks: see `LandmarksConfig`.
        reach: see `LandmarksConfig`.

    Raises:
        DataError: no observation is complete.
    """
    latents = table.features[:, present]
    config = LandmarksConfig(latent_size=latents.shape[1], num_landmarks=num_landmarks, reach=reach)
    known = table.whole.nonzero()[:, 0]
    if not len(known):
        raise DataError(
            "no observation holds all inputs of the model, so no landmark can be chosen",
            fix="Learn from fewer signals, or set num_landmarks to 0.",
        )
    places = known[torch.randperm(len(known), generator=generator, device=table.device)[:MAX_LANDMARK_CANDIDATES]]
    head = Landmarks(config).to(table.device)
    head.latents.copy_(latents[places[_spread(distance, distance.embed(latents[places]), num_landmarks)]])
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
    # At least the distance of the head: else aiming beyond a landmark could look longer than stopping at it. At most
    # half the reach: so the next landmark is within reach before the present one is reached.
    legs = torch.maximum(legs, distance.between(marks[:, None], marks))
    legs = legs.masked_fill(legs > reach / 2, torch.inf).fill_diagonal_(0.0)
    for through in range(num_landmarks):
        legs = torch.minimum(legs, legs[:, through, None] + legs[through])
    head.steps.copy_(legs)
    return head.eval()


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
