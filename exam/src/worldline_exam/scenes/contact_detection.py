"""Detection of contacts from positions, by one rule for truth and prediction, and of impossible configurations.

The gap between a disc and a rim, a wall or another disc comes from the functions of the planning constraints
(src/worldline/planning/costs/contact.py). A contact is a frame with a small gap, no larger than in the adjacent frames,
and a reversal of the motion along the normal. From the two frames before to the two frames after, the velocity along
the normal rises by at least `MIN_KICK`. So two discs that pass close to each other are no contact.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.planning import Point, away_from_wall

Floats = NDArray[np.floating]

MAX_CONTACT_GAP: Final = 0.6
"""Largest gap of a contact, in radii: more than half of the relative motion of two fast discs in a frame."""
MIN_KICK: Final = 0.03
"""Smallest change of velocity along the normal in a contact, m per frame: twice the effect of a full tilt."""
WINDOW: Final = 2
"""Frames by which a predicted contact may be early or late."""
SLACK: Final = 0.1
"""Largest penetration beyond the simulator's own, in radii."""


@dataclass(frozen=True, kw_only=True)
class ContactScene:
    """Geometry of the table and its discs.

    Args:
        size: edge length of the table, m.
        radius: radius of every disc, m.
        wall: both ends of a straight wall, m.
        half_width: half the width of that wall, m.
        num_discs: number D of discs.
    """

    size: float
    radius: float
    wall: tuple[Point, Point]
    half_width: float
    num_discs: int

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of discs in the order of `gaps`."""
        return tuple(combinations(range(self.num_discs), 2))

    @property
    def discs_of(self) -> tuple[tuple[int, ...], ...]:
        """The discs of each of the K surfaces."""
        return (*((disc,) for disc in range(self.num_discs) for _ in range(5)), *self.pairs)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each surface: "rim", "pen" or "discs"."""
        return (*(("rim",) * 4 + ("pen",)) * self.num_discs, *("discs",) * len(self.pairs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaps:
    """Gaps between discs and surfaces.

    Args:
        gap: [E, T, K] m, negative for a penetration. K is 5 for each disc (left, right, lower, upper rim, the pen's
            wall), then one for each pair.
        normal: [E, T, K, 2], direction away from the surface.
        place: [E, T, K, 2] m, position of the disc; for a pair, of the first relative to the second.
    """

    gap: Floats
    normal: Floats
    place: Floats


def gaps(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Gaps:
    """The gaps of all discs to all surfaces and to each other."""
    distances, normals, places = [], [], []
    rims = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    for disc in range(table.num_discs):
        place = position[:, :, disc]
        for axis, normal in enumerate(rims):
            inner = place[..., axis // 2]
            distances.append((inner if axis % 2 == 0 else table.size - inner) - table.radius)
            normals.append(np.broadcast_to(np.array(normal), place.shape))
            places.append(place)
        away = away_from_wall(torch.from_numpy(place), *table.wall).numpy()
        distance = np.linalg.norm(away, axis=-1)
        distances.append(distance - table.radius - table.half_width)
        normals.append(away / np.maximum(distance, 1e-9)[..., None])
        places.append(place)
    for first, other in table.pairs:
        away = position[:, :, first] - position[:, :, other]
        distance = np.linalg.norm(away, axis=-1)
        distances.append(distance - 2 * table.radius)
        normals.append(away / np.maximum(distance, 1e-9)[..., None])
        places.append(away)
    return Gaps(gap=np.stack(distances, 2), normal=np.stack(normals, 2), place=np.stack(places, 2))


def contacts(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Bool[np.ndarray, "E T K"]:
    """Mask of contacts; none in the first two and last two frames, and none at positions that are not finite."""
    seen = gaps(position, table)
    before, now, after = seen.gap[:, 1:-3], seen.gap[:, 2:-2], seen.gap[:, 3:-1]
    motion = np.diff(seen.place, axis=1)
    turned = ((motion[:, 3:] - motion[:, :-3]) * seen.normal[:, 2:-2]).sum(-1)
    lowest = (now <= before) & (now < after)
    inner = lowest & (now <= MAX_CONTACT_GAP * table.radius) & (turned >= MIN_KICK)
    return np.pad(inner, ((0, 0), (2, 2), (0, 0)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Counts of matched contacts in each rollout, without the first contact of each disc.

    Args:
        hits: [E], true contacts that were predicted.
        missed: [E], true contacts that were not predicted.
        false: [E], predicted contacts without a true one.
    """

    hits: Floats
    missed: Floats
    false: Floats


def tally(truth: Bool[np.ndarray, "E T K"], found: Bool[np.ndarray, "E T K"], table: ContactScene) -> Tally:
    """Matches true contacts with predicted ones of the same discs and surface within `WINDOW` frames.

    A contact counts if one of its discs had a contact at an earlier frame of the rollout. Predicting it requires the
    outcome of the earlier one.
    """
    late_truth, late_found = _later(truth, table), _later(found, table)
    hits, missed, false = (np.zeros(len(truth)) for _ in range(3))
    for scene, surface in zip(*np.nonzero((truth | found).any(1)), strict=True):
        free = list(np.flatnonzero(found[scene, :, surface]))
        for frame in np.flatnonzero(truth[scene, :, surface]):
            # Greedy in time with the earliest match in the window is optimal: no other choice matches more.
            match = next((candidate for candidate in free if abs(candidate - frame) <= WINDOW), None)
            if match is not None:
                free.remove(match)
            if late_truth[scene, frame, surface]:
                hits[scene] += match is not None
                missed[scene] += match is None
        false[scene] += late_found[scene, free, surface].sum()
    return Tally(hits=hits, missed=missed, false=false)


def depth(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Float[np.ndarray, "E T"]:
    """Largest penetration of a disc into a rim, the wall or another disc, m; 0 if there is none."""
    return np.asarray(np.maximum(-gaps(position, table).gap.min(-1), 0.0))


def miscounted(position: Float[np.ndarray, "E T D 2"], table: ContactScene) -> Bool[np.ndarray, "E T"]:
    """Mask of frames with a wrong number of discs.

    A disc is gone if its position is not finite or its centre is off the table. Two discs are one if their centres
    are closer than half of the contact distance.
    """
    gone = ~np.isfinite(position) | (position < 0) | (position > table.size)
    wrong = gone.any((-1, -2))
    for first, other in table.pairs:
        apart = np.linalg.norm(position[:, :, first] - position[:, :, other], axis=-1)
        wrong |= apart < table.radius
    return np.asarray(wrong)


def _later(touched: Bool[np.ndarray, "E T K"], table: ContactScene) -> Bool[np.ndarray, "E T K"]:
    """The contacts of discs that had a contact at an earlier frame."""
    later = np.zeros_like(touched)
    for disc in range(table.num_discs):
        own = np.array([disc in discs for discs in table.discs_of])
        any_yet = np.logical_or.accumulate(touched[:, :, own].any(-1), axis=1)
        before = np.concatenate([np.zeros_like(any_yet[:, :1]), any_yet[:, :-1]], 1)
        later |= touched & before[..., None] & own
    return later
