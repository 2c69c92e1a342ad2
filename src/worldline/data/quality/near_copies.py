"""Near-duplicates among many episodes, found by hashing quantised outlines."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MAX_DUPLICATE_DEVIATION: Final = 0.01
"""Largest difference of near-duplicate episodes in any compared value, in standard deviations."""


def near_pairs(lengths: Sequence[int], rows: Sequence[Floats]) -> list[tuple[int, int]]:
    """Pairs of positions with equal lengths and nearly equal outlines, by the later and then the earlier one.

    Args:
        lengths: of episodes, in steps.
        rows: outline [P] of each.
    """
    if len(lengths) < 2:
        return []
    outlines = np.stack(rows)
    deviation = outlines.std(0)
    live = deviation > 1e-6 * np.abs(outlines).max(0, initial=0)
    if not live.any():
        return []
    scores = (outlines[:, live] / deviation[live]).astype(np.float32)
    pairs: set[tuple[int, int]] = set()
    for offset in (0.0, 0.25, 0.5, 0.75):  # a pair that the edge of one grid separates shares a cell of another
        buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for index, cell in enumerate(np.floor(scores + offset).astype(np.int16)):
            key = (lengths[index], hashlib.blake2b(cell.tobytes(), digest_size=8).digest())
            for other in buckets[key][-20:]:
                if np.abs(scores[index] - scores[other]).max() <= MAX_DUPLICATE_DEVIATION:
                    pairs.add((other, index))
            buckets[key].append(index)
    return sorted(pairs, key=lambda pair: pair[::-1])
