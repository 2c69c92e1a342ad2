from __future__ import annotations

import pytest
import torch
from tests.train.hairpin import LENGTH, WAY, straight, walks

from worldline.errors import ConfigError
from worldline.heads.landmarks import Landmarks, LandmarksConfig
from worldline.train.imagination import Table
from worldline.train.reaching import fit_landmarks

REACH = 1.5
ALL = 2 * LENGTH + 2
"""Steps from one end of the hairpin to the other."""
BOTH = walks(WAY, WAY.flip(0))


def fitted(table: Table = BOTH, count: int = len(WAY)) -> Landmarks:
    generator = torch.Generator().manual_seed(0)
    return fit_landmarks(table, straight(), slice(None), generator, num_landmarks=count, reach=REACH)


def test_a_far_goal_is_approached_by_the_logged_way_and_not_through_the_wall() -> None:
    now, goal = WAY[[0, 3, 22]], WAY[[22, 19, 5]]
    aim = fitted().aim(straight(), now, goal)
    torch.testing.assert_close(aim.latent, WAY[[1, 4, 21]])
    torch.testing.assert_close(aim.after, torch.tensor([ALL - 1.0, 15.0, 16.0]))


def test_a_goal_within_reach_is_headed_for_directly() -> None:
    goal = WAY[:1] + torch.tensor([0.7, 0.2])
    aim = fitted().aim(straight(), WAY[:1], goal)
    assert torch.equal(aim.latent, goal)
    assert aim.after.tolist() == [0.0]


def test_where_no_logged_way_leads_there_the_goal_itself_is_headed_for() -> None:
    aim = fitted(walks(WAY)).aim(straight(), WAY[[22, 0]], WAY[[0, 22]])
    torch.testing.assert_close(aim.latent, torch.stack([WAY[0], WAY[1]]))  # never walked backwards; forwards it was
    assert aim.after.tolist() == [0.0, ALL - 1.0]
    nowhere = torch.tensor([[50.0, 50.0]])
    assert torch.equal(fitted().aim(straight(), nowhere, WAY[:1]).latent, WAY[:1])


def test_fewer_landmarks_never_promise_a_shorter_way_than_there_is() -> None:
    marks = fitted(count=12)
    for start, goal in ((0, 22), (2, 18), (20, 1)):
        now = WAY[start, None]
        aim = marks.aim(straight(), now, WAY[goal, None])
        told = float(straight().between(now, aim.latent) + aim.after)
        assert abs(goal - start) - 1e-4 <= told <= 1.6 * abs(goal - start)
    assert marks.steps.diagonal().eq(0).all()


def test_what_was_not_whole_joins_nothing() -> None:
    broken = walks(WAY, WAY.flip(0))
    broken.whole[[11, 12 + len(WAY) - 1]] = False  # the step between the corridors, in both directions
    broken.whole[[10, 12, 10 + len(WAY), 12 + len(WAY)]] = False
    apart = fitted(broken, count=18)
    rows = [int((apart.latents - WAY[place]).norm(dim=1).argmin()) for place in (4, 18)]
    assert apart.steps[rows[0], rows[1]].isinf()
    assert apart.steps[rows[1], rows[0]].isinf()


@pytest.mark.parametrize(("count", "reach"), [(0, 1.0), (3, 0.0), (3, float("nan"))])
def test_what_makes_no_map_is_refused(count: int, reach: float) -> None:
    with pytest.raises(ConfigError, match="num_landmarks"):
        LandmarksConfig(latent_size=2, num_landmarks=count, reach=reach)
