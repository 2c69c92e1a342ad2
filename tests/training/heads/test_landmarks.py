from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.partial_model import PartialModel
from tests.training.hairpin import LENGTH, WAY, Straight, straight, walks
from tests.training.head_data import head_data
from torch import Tensor

from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.heads.base import Fit, HeadsConfig, by_name
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.landmarks import Landmarks
from worldline.training.stored_latents import LatentTable

REACH = 5.0
UNUSED = Fit(updates=0, batch_size=1, unroll=1, width=1, learning_rate=1.0, tick=lambda: None)
PLANE = Schema(signals=(Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),))
ALL = 2 * LENGTH + 6
"""Steps from one end of the hairpin to the other."""
BOTH = walks(WAY, WAY.flip(0))


def fitted(
    table: LatentTable = BOTH, count: int = len(WAY), distance: Distance | None = None, reach: float = REACH
) -> Landmarks:
    config = HeadsConfig(num_landmarks=count, reach=reach)
    data = head_data(table, PartialModel(), PLANE, config)
    return Landmarks.fit_to(data, UNUSED, by_name(distance or straight()))


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


class Uphill(Straight):
    """As the crow flies, and half as far again to the extent that it goes up."""

    def between(self, start: Tensor, goal: Tensor) -> Tensor:
        return super().between(start, goal) + 0.5 * (goal - start)[..., 1].relu()


@pytest.mark.parametrize("seed", range(6))
def test_ways_are_the_shortest_over_legs_that_were_walked(seed: int) -> None:
    """Against plain loops: every walk of every episode, from beside one landmark to beside another."""
    generator = torch.Generator().manual_seed(seed)
    table = walks(*[torch.randn(12, 2, generator=generator).mul(0.8).cumsum(0) for _ in range(4)])
    table.whole[torch.randperm(48, generator=generator)[:9]] = False
    head, reach = Uphill(DistanceConfig(latent_size=2, width=2, size=2)), 7.0
    marks = fitted(table, 9, head, reach)
    places, count = table.features, 9
    known = {tuple(place.tolist()) for place in places[table.whole]}
    assert {tuple(mark.tolist()) for mark in marks.latents} <= known
    assert len(marks.latents.unique(dim=0)) == count

    def steps(start: Tensor, goal: Tensor) -> float:
        return float(head.between(start, goal))

    beside = [min(range(count), key=lambda m: steps(marks.latents[m], x) + steps(x, marks.latents[m])) for x in places]
    due = torch.full((count, count), torch.inf).fill_diagonal_(0.0)
    for begin, end in combinations(range(len(places)), 2):
        if table.episode[begin] != table.episode[end] or not (table.whole[begin] and table.whole[end]):
            continue
        here, there = beside[begin], beside[end]
        walked = steps(marks.latents[here], places[begin]) + end - begin + steps(places[end], marks.latents[there])
        leg = max(walked, steps(marks.latents[here], marks.latents[there]))
        if leg <= reach / 2:
            due[here, there] = min(float(due[here, there]), leg)
    for through, here, there in product(range(count), repeat=3):
        due[here, there] = min(due[here, there], due[here, through] + due[through, there])
    torch.testing.assert_close(marks.steps, due, rtol=1e-4, atol=1e-4)
    assert (due.isfinite() & (due > 0)).any()


def test_where_nothing_was_seen_whole_no_landmark_can_be_chosen() -> None:
    blind = walks(WAY)
    blind.whole[:] = False
    with pytest.raises(DataError, match="no landmark"):
        fitted(blind)
