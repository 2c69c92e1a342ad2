"""Fits what a goal is reached by.

Distance: among all quasimetrics that call every single step at most 1, the one that holds far pairs furthest apart is
the least number of steps. Source: Wang et al., "Optimal goal-reaching reinforcement learning via quasimetric learning"
(2304.01203), here with steps imagined by the model, so that it does not matter how well the logged policy did.

A goal of which only the pictures are known stands for all states that look like that. None of them may be further from
it than 0; then, by the triangle inequality, it is no further from anywhere than the nearest of them.

Inverse: a policy that follows the distance downhill for as many steps as are left, differentiated through the model.

Landmarks: latents from all over the logs, joined where an episode led from beside one to beside another; see
`models/heads/landmarks.py`.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from worldline.errors import DataError
from worldline.models.heads.distance import Distance, DistanceConfig
from worldline.models.heads.inverse import Inverse, InverseConfig
from worldline.models.heads.landmarks import Landmarks, LandmarksConfig
from worldline.models.layers.precision import autocast
from worldline.training.head_fitting import Fit, descend
from worldline.training.stored_latents import Imagination, LatentTable

FAR_SHARPNESS, FAR_WEIGHT, STEP_WEIGHT = 0.1, 0.3, 30.0
"""Of the two parts of the distance's loss; chosen on Two Rooms (benchmarks/log/demo.md)."""

MAX_PLACES: Final = 4096
"""Stored latents that landmarks are chosen among."""
ROWS: Final = 64
"""Stored latents that are compared with all landmarks at once: few enough for a processor's cache."""

LAST_WEIGHT: Final = 1.0
"""Of the distance after the last step that is left, which counts among all of them besides."""


def fit_distance(table: LatentTable, imagination: Imagination, fit: Fit, *, far: float) -> Distance:
    """The distance head: far pairs apart, single steps at most 1, a state in the goal of its own pictures.

    Args:
        table: the latents.
        imagination: the model.
        fit: how.
        far: steps beyond which pairs are no longer pushed apart as strongly.
    """
    now = imagination.present  # a goal is one observation: it has no past to be compared
    size, pictures = table.features[:, now].shape[1], table.pictures
    head = Distance(DistanceConfig(latent_size=size, width=fit.width, pictures=pictures is not None))
    count = 2 * fit.batch_size
    for optimizer in fit.optimise(head):
        here, goal = table.pairs(count, imagination.generator)
        start = table.features[here]
        following = table.features[torch.minimum(here + 1, table.first[here] + table.length[here] - 1)]
        with torch.no_grad(), autocast():
            after = imagination.step(start, imagination.random_actions(count)).float()
        with autocast():
            embedded = head.embed(torch.cat([start, after, following, table.features[goal]])[:, now]).float()
        before, imagined, logged, there = embedded.chunk(4)
        step = torch.cat([head.between(before, imagined), head.between(before, logged)])
        apart = torch.cat([head.between(before, there), head.between(imagined, there)])
        loss = _push(far, apart).mean() + STEP_WEIGHT * (step - 1).relu().square().mean()
        if pictures is not None:
            with autocast():
                shown = head.embed_pictures(pictures.latents[goal]).float()
            apart = _push(far, head.between(before, shown)) + _push(far, head.between(imagined, shown))
            taken = pictures.taken[goal].float()
            due = apart / 2 + STEP_WEIGHT * head.between(there, shown).square()
            loss = loss + (due * taken).sum() / taken.sum().clamp(min=1)
        descend(optimizer, loss)
    return head


def _push(far: float, apart: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    return torch.as_tensor(FAR_WEIGHT * softplus(far - apart, beta=FAR_SHARPNESS))


def fit_inverse(table: LatentTable, distance: Distance, imagination: Imagination, fit: Fit) -> Inverse:
    """The inverse head: the policy under which the imagined distances to the goal are least in the steps left.

    It is fitted for 1 to twice as many steps left as are imagined. What comes after them does not count; the last of
    them counts twice. Where more are left than are imagined, it is to come as near as it can.

    Args:
        table: the latents.
        distance: the fitted head.
        imagination: the model.
        fit: how.
    """
    now = imagination.present
    head = Inverse(
        InverseConfig(
            latent_size=table.features[:, now].shape[1],
            low=tuple(imagination.low.tolist()),
            high=tuple(imagination.high.tolist()),
            width=fit.width,
            longest=2 * fit.unroll,
        )
    )
    elapsed = torch.arange(1, fit.unroll + 1)[:, None]
    for optimizer in fit.optimise(head):
        here, goal = table.pairs(fit.batch_size, imagination.generator)
        num_steps = torch.randint(1, head.config.longest + 1, (fit.batch_size,), generator=imagination.generator)
        latent, wanted = table.features[here], table.features[goal][:, now]
        there = distance.embed(wanted)
        if table.pictures is not None:  # every other goal is one of pictures, where there were any
            some = table.pictures.taken[goal] & (torch.arange(len(goal)) % 2 == 0)
            wanted[some] = table.pictures.latents[goal[some]]
            there[some] = distance.embed_pictures(wanted[some])
        path = []
        with autocast():
            for step in range(fit.unroll):
                latent = imagination.step(latent, head(latent[:, now], wanted, num_steps - step))
                path.append(latent[:, now])
            left = distance.between(distance.embed(torch.stack(path)).float(), there)
        weight = (elapsed <= num_steps).float() + LAST_WEIGHT * (elapsed == num_steps)
        descend(optimizer, (weight * left).sum() / weight.sum())
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
    """The map: landmarks as far from each other as they can be, and the shortest ways between them in the logs.

    Args:
        table: the latents.
        distance: the fitted head.
        present: of each latent, what a goal is compared with.
        generator: of the places to choose among.
        num_landmarks: see `LandmarksConfig`.
        reach: likewise.

    Raises:
        DataError: no observation is whole.
    """
    latents = table.features[:, present]
    config = LandmarksConfig(latent_size=latents.shape[1], num_landmarks=num_landmarks, reach=reach)
    known = table.whole.nonzero()[:, 0]
    if not len(known):
        raise DataError(
            "no observation holds all that the model takes, so no landmark can be chosen",
            fix="Learn from fewer signals, or without landmarks.",
        )
    places = known[torch.randperm(len(known), generator=generator)[:MAX_PLACES]]
    head = Landmarks(config)
    head.latents.copy_(latents[places[_spread(distance, distance.embed(latents[places]), num_landmarks)]])
    marks = distance.embed(head.latents)
    nearest, coming, leaving = [], [], []
    for some in latents.split(ROWS):
        rows = distance.embed(some)[:, None]
        to, back = distance.between(marks, rows), distance.between(rows, marks)
        beside = (to + back).argmin(1, keepdim=True)
        nearest.append(beside[:, 0])
        coming.append(to.gather(1, beside)[:, 0])
        leaving.append(back.gather(1, beside)[:, 0])
    legs = _legs(table, torch.cat(nearest), torch.cat(coming), torch.cat(leaving), config)
    # As long as the head says at least: to head for what lies behind a landmark then never looks longer than to stop
    # at it. And half the reach at most: once a landmark is half as near, the next one is in reach.
    legs = torch.maximum(legs, distance.between(marks[:, None], marks))
    legs = legs.masked_fill(legs > reach / 2, torch.inf).fill_diagonal_(0.0)
    for through in range(num_landmarks):
        legs = torch.minimum(legs, legs[:, through, None] + legs[through])
    head.steps.copy_(legs)
    return head.eval()


def _spread(distance: Distance, places: Float[Tensor, "P size"], count: int) -> Tensor:
    """Places [count], each the furthest from those before it; in the end any where there are too few."""
    chosen, left = [0], torch.full((len(places),), torch.inf)
    while len(chosen) < count:
        last = places[chosen[-1]]
        left = torch.minimum(left, torch.maximum(distance.between(places, last), distance.between(last, places)))
        chosen.append(int(left.argmax()))
    return torch.tensor(chosen)


def _legs(
    table: LatentTable, nearest: Tensor, coming: Tensor, leaving: Tensor, config: LandmarksConfig
) -> Float[Tensor, "M M"]:
    """The steps of the shortest walk from beside one landmark to beside another; infinite where there was none."""
    count, rows = config.num_landmarks, torch.arange(len(nearest))
    legs = torch.full((count * count,), torch.inf)
    for gap in range(1, int(config.reach / 2) + 1):
        start = rows[(table.steps_after >= gap) & table.whole & table.whole.roll(-gap)]
        there = start + gap
        length = coming[start] + gap + leaving[there]
        legs.scatter_reduce_(0, nearest[start] * count + nearest[there], length, "amin")
    return legs.view(count, count)
