"""Finding contacts from positions alone, by one rule for truth and prediction, and what solid things cannot do.

The gap between a disc and a rim, a wall or another disc is read by the functions that plans are constrained by
(worldline.planning.costs.contact). There is a contact at a frame where the gap is small, no larger than at the frames beside
it, and where the motion along the normal has been turned: from the two frames before to the two frames after, the
velocity along it rises by at least `LEAST_KICK`. Two discs that pass each other close by are thus no contact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.planning import Point, away_from_wall

Floats = NDArray[np.floating]

NEAR: Final = 0.6
"""Gap below which there may be a contact, in radii: more than half of what two fast discs move in a frame."""
LEAST_KICK: Final = 0.03
"""Change of the motion along the normal that makes a contact, m a frame: twice what a full tilt gives."""
WINDOW: Final = 2
"""Frames by which a predicted contact may be early or late."""
SLACK: Final = 0.1
"""How deep something may be in another beyond the simulator's own, in radii."""


@dataclass(frozen=True, kw_only=True)
class ContactScene:
    """What discs can touch.

    Args:
        size: edge of the table, from 0, m.
        radius: of every disc, m.
        wall: both ends of a straight wall, m.
        half_width: of that wall, m.
        num_discs: D.
    """

    size: float
    radius: float
    wall: tuple[Point, Point]
    half_width: float
    num_discs: int

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of discs, in the order in which `gaps` has them."""
        return tuple(combinations(range(self.num_discs), 2))

    @property
    def discs_of(self) -> tuple[tuple[int, ...], ...]:
        """The discs that each of the K surfaces belongs to."""
        return (*((disc,) for disc in range(self.num_discs) for _ in range(5)), *self.pairs)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each surface "rim", "pen" or "discs"."""
        return (*(("rim",) * 4 + ("pen",)) * self.num_discs, *("discs",) * len(self.pairs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaps:
    """How far discs are from touching.

    Args:
        gap: [E, T, K] m, negative where one is in another; K is 5 for each disc (left, right, lower, upper rim, the
            pen's wall), then one for each pair.
        normal: [E, T, K, 2] away from what is touched.
        place: [E, T, K, 2] m, of the disc; of a pair that of the first from the second.
    """

    gap: Floats
    normal: Floats
    place: Floats


def gaps(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Gaps:
    """The gap to everything that can be touched."""
    found, normals, places = [], [], []
    rims = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    for disc in range(table.num_discs):
        place = position[:, :, disc]
        for axis, normal in enumerate(rims):
            inner = place[..., axis // 2]
            found.append((inner if axis % 2 == 0 else table.size - inner) - table.radius)
            normals.append(np.broadcast_to(np.array(normal), place.shape))
            places.append(place)
        away = away_from_wall(place, *table.wall)
        distance = np.linalg.norm(away, axis=-1)
        found.append(distance - table.radius - table.half_width)
        normals.append(away / np.maximum(distance, 1e-9)[..., None])
        places.append(place)
    for one, other in table.pairs:
        away = position[:, :, one] - position[:, :, other]
        distance = np.linalg.norm(away, axis=-1)
        found.append(distance - 2 * table.radius)
        normals.append(away / np.maximum(distance, 1e-9)[..., None])
        places.append(away)
    return Gaps(gap=np.stack(found, 2), normal=np.stack(normals, 2), place=np.stack(places, 2))


def contacts(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Bool[np.ndarray, "E T K"]:
    """Where contacts are; none in the first two and last two frames, and none where a position is not finite."""
    seen = gaps(position, table)
    before, now, after = seen.gap[:, 1:-3], seen.gap[:, 2:-2], seen.gap[:, 3:-1]
    motion = np.diff(seen.place, axis=1)
    turned = ((motion[:, 3:] - motion[:, :-3]) * seen.normal[:, 2:-2]).sum(-1)
    lowest = (now <= before) & (now < after)
    inner = lowest & (now <= NEAR * table.radius) & (turned >= LEAST_KICK)
    return np.pad(inner, ((0, 0), (2, 2), (0, 0)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """How predicted contacts meet the true ones, of each rollout; the first of each disc are left out.

    Args:
        hits: [E] true contacts that were predicted.
        missed: [E] true contacts that were not.
        false: [E] predicted contacts that were none.
    """

    hits: Floats
    missed: Floats
    false: Floats


def tally(truth: Bool[np.ndarray, "E T K"], found: Bool[np.ndarray, "E T K"], table: ContactScene) -> Tally:
    """Pairs every true contact with a predicted one of the same discs and surface within `WINDOW` frames.

    A contact counts where one of its discs has had another at an earlier frame of the same rollout, so that it can
    only be predicted by who knows what the earlier one led to.
    """
    late_truth, late_found = _later(truth, table), _later(found, table)
    hits, missed, false = (np.zeros(len(truth)) for _ in range(3))
    for scene, surface in zip(*np.nonzero((truth | found).any(1)), strict=True):
        free = list(np.flatnonzero(found[scene, :, surface]))
        for frame in np.flatnonzero(truth[scene, :, surface]):
            # In order of time, the earliest one within reach: no other choice pairs more.
            met = next((one for one in free if abs(one - frame) <= WINDOW), None)
            if met is not None:
                free.remove(met)
            if late_truth[scene, frame, surface]:
                hits[scene] += met is not None
                missed[scene] += met is None
        false[scene] += late_found[scene, free, surface].sum()
    return Tally(hits=hits, missed=missed, false=false)


def depth(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Float[np.ndarray, "E T"]:
    """How deep the deepest disc is in a rim, the wall or another disc, m; 0 where none is."""
    return np.asarray(np.maximum(-gaps(position, table).gap.min(-1), 0.0))


def miscounted(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Bool[np.ndarray, "E T"]:
    """Where there are not as many discs as there should be.

    A disc is gone where its position is not finite or its middle is off the table; two are one where their middles are
    less than half of what they can be apart.
    """
    gone = ~np.isfinite(position) | (position < 0) | (position > table.size)
    wrong = gone.any((-1, -2))
    for one, other in table.pairs:
        apart = np.linalg.norm(position[:, :, one] - position[:, :, other], axis=-1)
        wrong |= apart < table.radius
    return np.asarray(wrong)


def _later(found: Bool[np.ndarray, "E T K"], table: ContactScene) -> Bool[np.ndarray, "E T K"]:
    """The contacts of discs that have had one at an earlier frame."""
    later = np.zeros_like(found)
    for disc in range(table.num_discs):
        own = np.array([disc in discs for discs in table.discs_of])
        any_yet = np.logical_or.accumulate(found[:, :, own].any(-1), axis=1)
        before = np.concatenate([np.zeros_like(any_yet[:, :1]), any_yet[:, :-1]], 1)
        later |= found & before[..., None] & own
    return later
