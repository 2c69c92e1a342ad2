from __future__ import annotations

import pytest
import torch
from tests.models.partial_model import PartialModel
from tests.models.windows import seeded
from tests.testing.toy_windows import window_of
from torch import Tensor

from worldline.models.base import Belief, Inputs, LatentRollout, Window, WorldModel
from worldline.models.jepa import Latent
from worldline.testing.toys import Integrator
from worldline.training.batches import fold
from worldline.training.measures import ControlMeasures, _decodability, measure_control

DECAY = 0.9


class Exact(PartialModel):
    """The integrator itself, with actions scaled by `gain`, and latents scaled by `size`."""

    def __init__(self, gain: float = 1.0, size: float = 1.0) -> None:
        super().__init__()
        self.gain, self.size = gain, size

    def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
        return Latent(latent=self.size * window.observations["position"][:, -1])

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Latent:
        return Latent(latent=self.size * step.observations["position"][:, 0])

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        latent, path = belief.features(), []
        for step in range(inputs.actions.shape[2]):
            latent = DECAY * latent + self.size * self.gain * inputs.actions[:, :, step]
            path.append(latent)
        return LatentRollout(features=torch.stack(path, 2)[:, :, None], final=Latent(latent=latent.flatten(0, 1)))

    def belief(self, features: Tensor) -> Latent:
        return Latent(latent=features)


def measured(model: WorldModel) -> ControlMeasures:
    toy = Integrator(wind=False, camera=False)
    window = window_of(toy.episodes(64, 6, seed=0), toy.schema)
    generator = torch.Generator().manual_seed(1)
    draws = 1 if model.deterministic else 2
    features = torch.stack([fold(model, window, generator=generator) for _ in range(draws)])
    return measure_control(model, window, features, torch.arange(64), seed=0)


@pytest.mark.parametrize("size", [1.0, 0.01, 100.0])
def test_the_truth_has_every_measure_at_1_whatever_the_scale_of_its_latents(size: float) -> None:
    found = measured(Exact(size=size))
    assert found.open_loop_skill == pytest.approx(1, abs=1e-6)
    assert found.zero_action_gap == pytest.approx(1, abs=1e-6)
    assert found.shuffled_action_gap == pytest.approx(1, abs=1e-6)
    assert found.action_decodability == pytest.approx(1, abs=1e-2)
    assert found.control == pytest.approx(1, abs=1e-2)


def test_a_model_that_draws_is_measured_by_what_it_expects() -> None:
    class Drawing(Exact):
        """Its latents are the truth and as much noise, new in each."""

        deterministic = False

        def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
            return self._drawn(super().encode(window, generator=generator).latent, generator)

        def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Latent:
            return self._drawn(step.observations["position"][:, 0], generator)

        def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
            found = super().rollout(belief, inputs, generator=generator)
            noise = torch.randn(found.features.shape, generator=generator)
            return LatentRollout(features=found.features + 0.3 * noise, final=found.final)

        @staticmethod
        def _drawn(position: Tensor, generator: torch.Generator) -> Latent:
            return Latent(latent=position + 0.3 * torch.randn(position.shape, generator=generator))

    found, blind = measured(Drawing()), measured(Drawing(gain=0.0))
    assert min(found.open_loop_skill, found.zero_action_gap, found.shuffled_action_gap) > 0.9
    assert max(blind.zero_action_gap, blind.shuffled_action_gap) < 0.05
    assert blind.control < found.control


def test_a_model_that_ignores_actions_is_worth_nothing() -> None:
    found = measured(Exact(gain=0.0))
    assert (found.zero_action_gap, found.shuffled_action_gap) == (0, 0)
    assert found.control <= 0.5  # its latents still tell which action was taken, its predictions do not


def test_what_a_memory_knows_of_the_actions_does_not_count() -> None:
    class Remembering(Exact):
        """Its predictions ignore the actions, and its features hold the last one."""

        def __init__(self, present: slice) -> None:
            super().__init__(gain=0.0)
            self.present = present

        def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Latent:
            return Latent(latent=torch.cat([torch.zeros(64, 2), step.past.actions[:, 0, 0]], -1))

        def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
            return Latent(latent=torch.zeros(64, 4))

        def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
            path = torch.cat([torch.zeros_like(inputs.actions), inputs.actions], -1)[:, :, None]
            return LatentRollout(features=path, final=belief)

    assert measured(Remembering(slice(None))).control > 0.5
    assert measured(Remembering(slice(2))).control <= 0


def test_noise_does_not_show_the_actions_however_windows_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    episode = torch.arange(64) // 16
    rows = torch.randn(4, 7, 32, generator=generator)[episode]  # the windows of an episode are one and the same
    actions = torch.randn(4, 6, 2, generator=generator)[episode]
    past = Inputs(actions=actions[:, None], exogenous=None, step_s=torch.ones(64, 6))
    assert _decodability(rows, past, episode) < 0.2


def test_actions_that_act_the_wrong_way_are_worse_than_none() -> None:
    found = measured(Exact(gain=-1.0))
    assert found.zero_action_gap < -0.5
    assert found.control < measured(Exact(gain=0.5)).control < measured(Exact()).control


def test_latents_that_forget_what_the_actions_did_show_it() -> None:
    class Forgetful(Exact):
        def encode(self, window: Window, *, generator: torch.Generator) -> Latent:
            return Latent(latent=torch.ones_like(window.observations["position"][:, -1]))

        def update(self, *arguments: object, generator: torch.Generator) -> Latent:
            return Latent(latent=torch.ones(64, 2) + 1e-3 * torch.randn(64, 2, generator=seeded(1)))

    assert measured(Forgetful()).action_decodability < 0.1


def test_a_decodability_that_swings_does_not_outweigh_a_tenth_of_the_error() -> None:
    """The checks of a greenhouse after 300 and 1,350 updates, whose errors differ by ten times."""
    early = ControlMeasures(
        open_loop_skill=0.947, zero_action_gap=0.963, shuffled_action_gap=0.97, action_decodability=0.643
    )
    late = ControlMeasures(
        open_loop_skill=0.996, zero_action_gap=0.997, shuffled_action_gap=0.998, action_decodability=0.259
    )
    assert late.control > early.control + 0.05
