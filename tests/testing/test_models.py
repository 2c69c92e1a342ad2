from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tests.testing.planted import altered, catches, instead
from tests.testing.toy_windows import window_of
from torch import Tensor, nn

from worldline.errors import InputError
from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel
from worldline.testing import check_model
from worldline.testing.models import ModelCase
from worldline.testing.toys import Integrator


@dataclass(frozen=True, kw_only=True)
class State(Belief):
    state: Tensor

    def features(self) -> Tensor:
        return self.state

    def select(self, index: Tensor) -> Belief:
        return replace(self, state=self.state[index])


class LinearModel(WorldModel):
    """The smallest correct model: a linear filter. Faults override one of its small methods."""

    def __init__(self, noise: float = 0.0, num_samples: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.num_samples = noise, num_samples
        self.encoder = nn.Linear(2, 3)
        self.transition = nn.Linear(3, 3)
        self.push = nn.Linear(2, 3)
        self.wind = nn.Linear(2, 3)

    def fit_normaliser(self, window: Window) -> None:
        pass  # the toy is measured in metres, and they are about 1 already

    def belief(self, features: Tensor) -> Belief:
        return State(state=features[:, None].expand(-1, self.num_samples, -1))

    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        position, observed = window.observations["position"], window.observed["position"]
        first = self.seen(position[:, 0], observed[:, 0])
        belief: Belief = State(state=first[:, None].expand(-1, self.num_samples, -1))
        for step in range(1, position.shape[1]):
            belief = self.update(belief, window.step(step), generator=generator)
        return belief

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Belief:
        predicted = self.rollout(belief, step.past, generator=generator).features[:, 0, :, 0]
        mask = step.observed["position"][:, 0]
        seen = self.seen(step.observations["position"][:, 0], mask)[:, None]
        return State(state=torch.where(mask[:, None, None], 0.5 * (predicted + seen), predicted))

    def seen(self, position: Tensor, observed: Tensor) -> Tensor:
        return self.encoder(position.where(observed[:, None], 0.0))

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        num, horizon = inputs.actions.shape[1:3]
        state = self.start(belief)[:, None].expand(-1, num, -1, -1)
        drive = self.drive(inputs)
        path = []
        for step in range(horizon):
            state = self.transition(state) + drive[:, :, step, None] + self.draw(state, generator)
            path.append(state)
            state = self.carry(state)
        features = self.ordered(torch.stack(path, 3))
        return LatentRollout(features=features, final=State(state=self.last(features)))

    def start(self, belief: Belief) -> Tensor:
        return belief.features()

    def drive(self, inputs: Inputs) -> Tensor:
        return self.push(inputs.actions) + self.wind(inputs.exogenous)[:, None]

    def draw(self, state: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, num_samples, size = state.shape
        return self.noise * torch.randn(batch, 1, num_samples, size, generator=generator)

    def carry(self, state: Tensor) -> Tensor:
        return state

    def ordered(self, features: Tensor) -> Tensor:
        return features

    def last(self, features: Tensor) -> Tensor:
        return features[..., -1, :].flatten(0, 1)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        mask = window.observed["position"]
        latents = self.seen(window.observations["position"].flatten(0, 1), mask.flatten()).unflatten(0, mask.shape)
        start = State(state=latents[:, :1])
        imagined = self.rollout(start, window.past, generator=generator).features[:, 0].mean(1)
        both = (mask[:, 1:] & mask[:, :1])[..., None]
        error = ((imagined - latents[:, 1:]).square() * both).sum() / both.sum()
        return Losses(terms={"prediction": error, "spread": -latents.std()}, weights={"prediction": 1.0, "spread": 0.1})


class Late(LinearModel):
    def drive(self, inputs):
        drive = super().drive(inputs)
        return torch.cat([torch.zeros_like(drive[:, :, :1]), drive[:, :, :-1]], 2)


class NoisePerCandidate(LinearModel):
    def draw(self, state, generator):
        return 0.1 * torch.randn(state.shape, generator=generator)


Unseeded = instead(LinearModel, draw=lambda self, state, generator: 0.1 * torch.randn(state[:, :1].shape))


class LastObservationOnly(LinearModel):
    def encode(self, window, *, generator):
        state = self.seen(window.observations["position"][:, -1], window.observed["position"][:, -1])
        return State(state=state[:, None])


class FinalInAnotherOrder(LinearModel):
    def last(self, features):
        return features[..., -1, :].transpose(0, 1).flatten(0, 1)


IgnoresMasks = instead(LinearModel, seen=lambda self, position, observed: self.encoder(position.nan_to_num()))


class LossIgnoresMasks(LinearModel):
    def loss(self, window, *, generator):
        return super().loss(
            replace(window, observed={"position": torch.ones_like(window.observed["position"])}), generator=generator
        )


MutatesBelief = instead(LinearModel, start=lambda self, belief: belief.features().mul_(0.9))


class MutatesArguments(LinearModel):
    def drive(self, inputs):
        inputs.actions.data.mul_(0.9)
        return super().drive(inputs)


class CountsCalls(LinearModel):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def start(self, belief):
        self.calls += 1
        return super().start(belief)


class ActionBlind(LinearModel):
    def drive(self, inputs):
        return super().drive(replace(inputs, actions=torch.zeros_like(inputs.actions)))


class SelectsNothing(LinearModel):
    def encode(self, window, *, generator):
        return Stuck(state=super().encode(window, generator=generator).features())


class Stuck(State):
    def select(self, index):
        return replace(self, state=self.state[: len(index)].repeat(2, 1, 1)[: len(index)])


ForgetsStored = instead(LinearModel, belief=lambda self, features: LinearModel.belief(self, torch.zeros_like(features)))


class NormaliserIgnoresMasks(LinearModel):
    def fit_normaliser(self, window):
        self.encoder.bias.copy_(-self.encoder(window.observations["position"]).mean((0, 1)))


class NormaliserDividesByNothing(LinearModel):
    def fit_normaliser(self, window):
        self.push.weight.div_(window.past.actions.std((0, 1, 2)) * 0)


class NoSamples(LinearModel):
    def encode(self, window, *, generator):
        return State(state=super().encode(window, generator=generator).features()[:, 0])


class NanLoss(LinearModel):
    def loss(self, window, *, generator):
        losses = super().loss(window, generator=generator)
        return replace(losses, terms={**losses.terms, "prediction": losses.terms["prediction"] * torch.nan})


class UntrainedPart(LinearModel):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class DropoutFromNowhere(LinearModel):
    def loss(self, window, *, generator):
        losses = super().loss(window, generator=generator)
        return replace(
            losses,
            terms={**losses.terms, "dropout": nn.functional.dropout(torch.ones(100)).sum()},
            weights={**losses.weights, "dropout": 1.0},
        )


MODEL_FAULTS = [
    (
        altered(LinearModel, "TwiceTheSamples", ordered=lambda features: features.repeat(1, 1, 2, 1, 1)),
        "shapes",
        "features has",
    ),
    (NoSamples, "shapes", "features have shape"),
    (altered(LinearModel, "Peeking", drive=lambda drive: drive.roll(-1, 2)), "no_peek", ""),
    (Late, "actions_matter", ""),
    (altered(LinearModel, "Shuffled", ordered=lambda features: features.flip(1)), "candidates_independent", ""),
    (NoisePerCandidate, "candidates_independent", ""),
    (Unseeded, "seeds_reproduce", ""),
    (
        altered(LinearModel, "BatchStatisticsInRollout", drive=lambda drive: drive - drive.mean(0)),
        "batch_independent",
        "",
    ),
    (LastObservationOnly, "update_equals_encode", ""),
    (FinalInAnotherOrder, "rollout_final", ""),
    (IgnoresMasks, "masks_hide", ""),
    (LossIgnoresMasks, "masks_hide", ""),
    (MutatesBelief, "belief_immutable", ""),
    (MutatesArguments, "arguments_unchanged", ""),
    (CountsCalls, "arguments_unchanged", ""),
    (ActionBlind, "actions_matter", ""),
    (altered(LinearModel, "Detached", ordered=torch.detach), "differentiable", ""),
    (altered(LinearModel, "DetachedBetweenSteps", carry=torch.detach), "differentiable", ""),
    (SelectsNothing, "beliefs_kept", ""),
    (ForgetsStored, "beliefs_kept", ""),
    (NormaliserIgnoresMasks, "masks_hide", ""),
    (NormaliserDividesByNothing, "masks_hide", ""),
    (NanLoss, "loss_terms", ""),
    (
        altered(
            LinearModel, "Weightless", loss=lambda losses: replace(losses, weights={"prediction": 1.0, "other": 1.0})
        ),
        "loss_terms",
        "",
    ),
    (UntrainedPart, "loss_terms", ""),
    (DropoutFromNowhere, "loss_terms", ""),
]


WINDOW = window_of(Integrator(noise=0.1).episodes(4, 4, seed=0), Integrator(camera=False).schema)
test_a_planted_fault_is_caught = catches(MODEL_FAULTS, lambda model: ModelCase(model=model, window=WINDOW))


@pytest.mark.parametrize("model", [LinearModel(), LinearModel(noise=0.1, num_samples=2)], ids=["exact", "drawing"])
def test_a_correct_model_passes(model: LinearModel) -> None:
    check_model(model, WINDOW)


def test_an_action_blind_model_may_say_so() -> None:
    check_model(ActionBlind(), WINDOW, expect_action_effect=False)


def test_the_model_is_left_as_it_was() -> None:
    model = LinearModel().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, WINDOW)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_window_that_tells_nothing_is_refused() -> None:
    still = replace(WINDOW, past=replace(WINDOW.past, actions=torch.zeros_like(WINDOW.past.actions)))
    with pytest.raises(InputError, match="actions that vary"):
        check_model(LinearModel(), still)
