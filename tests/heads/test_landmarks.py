from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.hairpin import LENGTH, WAY, straight, walks

from worldline.errors import ConfigError
from worldline.heads.landmarks import Landmarks, LandmarksConfig
from worldline.train.imagination import Table
from worldline.train.reaching import fit_landmarks

REACH = 5.0
ALL = 2 * LENGTH + 6
"""Steps from one end of the hairpin to the other."""
BOTH = walks(WAY, WAY.flip(0))


def fitted(table: Table = BOTH, count: int = len(WAY)) -> Landmarks:
    generator = torch.Generator().manual_seed(0)
    return fit_landmarks(table, straight(), slice(None), generator, num_landmarks=count, reach=REACH)


MARKS = fitted()


def test_a_far_goal_is_approached_by_the_logged_way_and_not_through_the_wall() -> None:
    now, goal = WAY[[0, 3, 26]], WAY[[26, 24, 5]]
    aim = fitted().aim(straight(), now, goal)
    torch.testing.assert_close(aim.latent, WAY[[5, 8, 21]])
    torch.testing.assert_close(aim.after, torch.tensor([ALL - 5.0, 16.0, 16.0]))


def test_a_goal_within_reach_is_headed_for_directly() -> None:
    goal = WAY[:1] + torch.tensor([0.7, 0.2])
    aim = fitted().aim(straight(), WAY[:1], goal)
    assert torch.equal(aim.latent, goal)
    assert aim.after.tolist() == [0.0]


def test_where_no_logged_way_leads_there_the_goal_itself_is_headed_for() -> None:
    aim = fitted(walks(WAY)).aim(straight(), WAY[[26, 0]], WAY[[0, 26]])
    torch.testing.assert_close(aim.latent, WAY[[0, 5]])  # never walked backwards; forwards it was
    assert aim.after.tolist() == [0.0, ALL - 5.0]
    nowhere = torch.tensor([[50.0, 50.0]])
    assert torch.equal(fitted().aim(straight(), nowhere, WAY[:1]).latent, WAY[:1])


@given(st.integers(0, len(WAY) - 1), st.integers(0, len(WAY) - 1))
def test_who_walks_from_aim_to_aim_arrives(start: int, goal: int) -> None:
    """Within the steps that were promised, which are those of the walk but for a corner that is cut."""
    place, steps = WAY[start, None], 0.0
    while float((place - WAY[goal]).norm()) > 0:
        aim = MARKS.aim(straight(), place, WAY[goal, None])
        leg = float(straight().between(place, aim.latent))
        assert 0 < leg <= REACH
        assert steps + leg + float(aim.after) <= abs(goal - start) + 1e-4
        steps, place = steps + leg, aim.latent
    assert steps >= abs(goal - start) - 4  # two corners, each cut by less than two steps; never through the wall


def test_what_was_not_whole_joins_nothing() -> None:
    broken = walks(WAY, WAY.flip(0))
    broken.whole[[*range(10, 17), *range(10 + len(WAY), 17 + len(WAY))]] = False  # all between the corridors
    apart = fitted(broken, count=20)
    rows = [int((apart.latents - WAY[place]).norm(dim=1).argmin()) for place in (4, 22)]
    assert apart.steps[rows[0], rows[1]].isinf()
    assert apart.steps[rows[1], rows[0]].isinf()


@pytest.mark.parametrize(("count", "reach"), [(0, 1.0), (3, 0.0), (3, float("nan"))])
def test_what_makes_no_map_is_refused(count: int, reach: float) -> None:
    with pytest.raises(ConfigError, match="num_landmarks"):
        LandmarksConfig(latent_size=2, num_landmarks=count, reach=reach)
