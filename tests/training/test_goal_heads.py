from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.models.partial_model import PartialModel
from tests.training.hairpin import walks
from tests.training.head_data import head_data
from torch import Tensor

from worldline.models.base import Belief, Inputs, LatentRollout
from worldline.models.jepa import Latent
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.batches import PictureGoals
from worldline.training.heads.base import Fit, by_name
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.inverse import Inverse
from worldline.training.stored_latents import LatentTable

SCHEMA = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
)
FIT = Fit(updates=150, batch_size=32, unroll=2, width=32, learning_rate=3e-3, tick=lambda: None)


class Line(PartialModel):
    """The latent is where a thing is, and a 0."""

    def belief(self, features: Tensor) -> Belief:
        return Latent(latent=features)

    def move(self, place: Tensor, last: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        return place + push, last

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        place, last = belief.features()[:, 0].repeat_interleave(inputs.actions.shape[1], 0).unbind(-1)
        path = []
        for push in inputs.actions.flatten(0, 1)[..., 0].unbind(1):
            place, last = self.move(place, last, push)
            path.append(torch.stack([place, last], -1))
        features = torch.stack(path, 1).unflatten(0, inputs.actions.shape[:2])[:, :, None]
        return LatentRollout(features=features, final=Latent(latent=path[-1]))


class Backwards(Line):
    """A push first leads the wrong way, then twice as far the right way; the latent holds the last one too."""

    def move(self, place: Tensor, last: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        return place - push + 2 * last, push


class Gap(Distance):
    """How far the places are apart, exactly."""

    def embed(self, latents: Tensor) -> Tensor:
        return latents[..., :1]

    def between(self, start: Tensor, goal: Tensor) -> Tensor:
        return (start - goal).abs().sum(-1)


def table(places: Tensor) -> LatentTable:
    """Episodes of latents at rest, [episodes, observations] places; their inputs do not matter."""
    return walks(*torch.stack([places, torch.zeros_like(places)], -1))


def exact() -> Gap:
    return Gap(DistanceConfig(latent_size=2, width=2, size=2))


def latent(*places: float) -> Tensor:
    return torch.tensor([[place, 0.0] for place in places])


def test_it_goes_to_the_goal_and_no_further() -> None:
    torch.manual_seed(0)
    spread = 2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) - 1
    head = Inverse.fit_to(head_data(table(spread), Line(), SCHEMA), FIT, by_name(exact()))
    assert head.config.longest == 4
    start, goal = latent(0.0, 0.0, -0.6, 0.3), latent(0.5, -0.5, 0.2, 0.3)
    for steps in (1, 2, 4):
        action = head(start, goal, torch.full((4,), steps))[:, 0]
        torch.testing.assert_close(action, (goal - start)[:, 0], rtol=0, atol=0.2)


def test_how_many_steps_are_left_decides_where_to_go_first() -> None:
    """The goal is three ahead. With one step left a push backwards comes nearest, with more a push forwards does."""
    torch.manual_seed(0)
    pair = torch.tensor([0.0, 3.0]).repeat(50, 1)
    fit = replace(FIT, updates=300, unroll=3, learning_rate=1e-2)
    head = Inverse.fit_to(head_data(table(pair), Backwards(), SCHEMA), fit, by_name(exact()))
    first = [float(head(latent(0.0), latent(3.0), torch.tensor([steps]))) for steps in (1, 2, 3, 4, 6)]
    assert first[0] < -0.8
    assert min(first[1:]) > 0.8


@pytest.mark.slow
def test_the_distance_counts_steps() -> None:
    """Steps of at most 1 along a line; logged steps are 0.5 long."""
    torch.manual_seed(0)
    begin = 4 * torch.rand(100, 1, generator=torch.Generator().manual_seed(1))
    walk = begin + 0.5 * torch.arange(13.0)
    fit = Fit(updates=600, batch_size=64, unroll=2, width=64, learning_rate=1e-3, tick=lambda: None)
    head = Distance.fit_to(head_data(table(walk), Line(), SCHEMA), fit, {})
    start, goal = latent(2.0, 2.0, 2.0, 8.0), latent(3.0, 5.0, 8.0, 2.0)
    torch.testing.assert_close(head(start, goal), torch.tensor([1.0, 3.0, 6.0, 6.0]), rtol=0.25, atol=0.3)


def test_what_never_changes_during_an_episode_does_not_matter_for_goals_of_pictures() -> None:
    """The second feature numbers the episodes, as a logged target would."""
    torch.manual_seed(0)
    walk = 2 * torch.rand(40, 12, generator=torch.Generator().manual_seed(1)) - 1
    states = table(walk)
    states.features[:, 1] = states.episode.float()
    shown = PictureGoals(latents=states.features, taken=torch.ones(walk.numel(), dtype=torch.bool))
    states, fit = replace(states, pictures=shown), replace(FIT, updates=20)
    distance = Distance.fit_to(head_data(states, Line(), SCHEMA), fit, {})
    inverse = Inverse.fit_to(head_data(states, Line(), SCHEMA), fit, by_name(distance))
    place, other = torch.tensor([[0.3, 0.0]]), torch.tensor([[0.3, 7.0]])
    torch.testing.assert_close(distance.embed(place), distance.embed(other), rtol=0, atol=0)
    torch.testing.assert_close(distance.embed_pictures(place), distance.embed_pictures(other), rtol=0, atol=0)
    steps = torch.tensor([2])
    torch.testing.assert_close(inverse(place, other, steps), inverse(other, place, steps), rtol=0, atol=0)
    assert not torch.equal(distance.embed(place), distance.embed(place + 1))
    rows, goals = states.pairs(1000, torch.Generator().manual_seed(0))
    assert 0.3 < (states.episode[rows] != states.episode[goals]).float().mean() < 0.6
