from __future__ import annotations

import pytest

from worldline.planning.planners.deadline import HEADROOM, DeadlineBatcher


def after(*laps: tuple[int, float], left_s: float = 12.0) -> DeadlineBatcher:
    """A pace of which so many sequences took so many seconds each time, with so many seconds left."""
    times = [0.0]
    pace = DeadlineBatcher(sum(took_s for _, took_s in laps) + left_s, first=laps[0][0], clock=lambda: times[0])
    for count, took_s in laps:
        assert pace.next(count) == count
        times[0] += took_s
    return pace


@pytest.mark.parametrize(
    ("laps", "count", "expected"),
    [
        ([(4, 8.0)], 4, 4),  # 8 s with head room are 12 s
        ([(4, 8.1)], 4, 0),
        ([(4, 8.1)], 1, 0),  # one is not known to be any faster
        ([(4, 2.0)], 16, 16),  # in proportion
        ([(4, 2.0)], 99, 16),  # as many as fit
        ([(4, 2.0), (64, 40.0)], 64, 4),  # what is known to fit
        ([(4, 2.0), (8, 2.5), (64, 40.0)], 64, 8),
        ([(4, 0.0)], 10**6, 10**6),
    ],
)
def test_what_fits_follows_from_what_was_measured(laps: list[tuple[int, float]], count: int, expected: int) -> None:
    assert HEADROOM == 1.5
    assert after(*laps).next(count) == expected


def test_the_longest_time_of_a_size_counts() -> None:
    times = [0.0]
    pace = DeadlineBatcher(100.0, first=4, clock=lambda: times[0])
    for took_s in (10.0, 30.0, 10.0):
        assert pace.next(4) == 4
        times[0] += took_s
    assert pace.next(4) == 4  # 50 s are left, 45 s are needed
    times[0] += 10.0
    assert pace.next(4) == 0
