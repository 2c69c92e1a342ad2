from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.windows import HEADING, LAMP, POSITION, PUSH, WIND, fit, hide, random_window, seeded
from tests.testing.toy_windows import window_of

from worldline.errors import ConfigError, UnknownNameError
from worldline.models.base import Inputs, Window
from worldline.models.rssm import Rssm, RssmConfig, divergence, draw, log_probabilities, symexp_bins, two_hot_loss
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model
from worldline.testing.rollouts import pick_entries
from worldline.testing.toys import Integrator

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 3))


SCORE = Signal(name="score", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,))
SMALL = {"hidden_size": 12, "num_groups": 3, "num_classes": 4, "width": 16, "channels": 4, "image_width": 16}
BATCH, LENGTH = 4, 4


def model(*inputs: str, exogenous: bool = True, reward: bool = False, **settings: Any) -> Rssm:
    torch.manual_seed(0)
    signals = (CAMERA, POSITION, HEADING, LAMP, PUSH, *((WIND,) if exogenous else ()), *((SCORE,) if reward else ()))
    return Rssm(schema=Schema(signals=signals), config=RssmConfig(inputs=inputs, **{**SMALL, **settings}))


def window(*, exogenous: bool = True, told: bool = False, batch: int = BATCH, length: int = LENGTH) -> Window:
    signals = (CAMERA, POSITION, HEADING, LAMP, PUSH, *((WIND,) if exogenous else ()))
    seen, generator = random_window(Schema(signals=signals), batch, length), seeded(6)
    seen.observations["position"].mul_(2).add_(3)
    return replace(
        seen,
        reward=torch.randn(batch, length - 1, generator=generator) if told else None,
        terminated=torch.rand(batch, length - 1, generator=generator) < 0.2 if told else None,
    )


def states(of: Rssm, on: Window) -> torch.Tensor:
    """Every state [B, H, D] that a window leads to; equal seeds, so that they are those of one pass."""
    length = on.past.actions.shape[2] + 1
    return torch.stack([of.encode(on.first(k + 1), generator=seeded()).features()[:, 0] for k in range(length)], 1)


def fix(network: torch.nn.Module, bias: torch.Tensor) -> None:
    """Makes the last layer say `bias`, whatever comes in."""
    last = list(network.modules())[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(bias.flatten())


def position_of(net: Rssm, features: torch.Tensor) -> torch.Tensor:
    """The reconstructed position of a model with this input alone."""
    assert net.vectors is not None
    return net.vectors.normaliser.inverse(net.vector_decoder(features))


@pytest.mark.parametrize(("inputs", "settings", "exogenous"), [
    (("camera",), {}, False),
    (("position", "heading"), {"num_samples": 3}, True),
    (("lamp",), {"free_nats": 0.0}, False),
    (("lamp", "camera", "position"), {"reward": True, "continuation": True}, True),
])  # fmt: skip
def test_conforms(inputs: tuple[str, ...], settings: dict[str, Any], exogenous: bool) -> None:
    check_model(model(*inputs, exogenous=exogenous, **settings), window(exogenous=exogenous))


@pytest.mark.parametrize("inputs", [("camera",), ("position", "lamp")])
def test_conforms_once_fitted_to_windows_that_tell_rewards_and_ends(inputs: tuple[str, ...]) -> None:
    fitted = model(*inputs, reward=True, continuation=True)
    fitted.fit_normaliser(window(told=True))
    check_model(fitted, window(told=True))


def test_the_divergence_of_known_distributions() -> None:
    even, uneven, sure, unsure = ([0.5, 0.5], [0.25, 0.75], [0.99, 0.01], [0.01, 0.99])
    left = torch.tensor([[even, even], [sure, even], [sure, sure]]).log()
    right = torch.tensor([[uneven, even], [unsure, uneven], [sure, sure]]).log()
    small, large = math.log(4 / 3) / 2, 0.98 * math.log(99)
    found = divergence(left, right, free_nats=0.0)
    torch.testing.assert_close(found, torch.tensor([small, large + small, 0.0]), atol=1e-6, rtol=1e-5)
    found = divergence(left, right, free_nats=1.0)
    torch.testing.assert_close(found, torch.tensor([1.0, large + small, 1.0]))


def test_each_side_of_the_divergence_moves_its_own_network() -> None:
    """Of one observation: the prior goes to the posterior ten times as fast as the posterior to the prior."""
    net, seen = model("position", free_nats=0.0, vector_weight=0.0), window(length=1)
    shares = torch.tensor([0.7, 0.1, 0.1, 0.1])
    fix(net.prior, torch.zeros(3, 4))
    fix(net.posterior, shares.log().repeat(3, 1))
    losses = net.loss(seen, generator=seeded())
    mixed = 0.99 * shares + 0.01 / 4
    due = 3 * (mixed * (4 * mixed).log()).sum()
    assert losses.weights == {"dynamics": 1.0, "representation": 0.1, "vectors": 0.0}
    for name, moved, still in (("dynamics", net.prior, net.posterior), ("representation", net.posterior, net.prior)):
        torch.testing.assert_close(losses.terms[name], due)
        both = [list(moved.modules())[-1].bias, list(still.modules())[-1].bias]
        gradients = torch.autograd.grad(losses.terms[name], both, retain_graph=True, allow_unused=True)
        assert gradients[0] is not None
        assert gradients[0].abs().min() > 0
        assert gradients[1] is None or not gradients[1].any()


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4))
def test_no_class_is_impossible_and_none_is_certain(logits: list[float]) -> None:
    chances = log_probabilities(torch.tensor(logits)).exp()
    assert chances.sum().item() == pytest.approx(1, abs=1e-5)
    assert chances.min() >= 0.01 / 4 - 1e-6
    assert chances.max() <= 0.99 + 0.01 / 4 + 1e-6


def test_draws_are_one_hot_as_often_as_their_probability_and_have_its_gradient() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log().requires_grad_()
    noise = torch.rand(20_000, 3, generator=seeded())
    drawn = draw(log_probabilities(logits).expand(20_000, 3), noise)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(-1) == 1).all()
    due = log_probabilities(logits).exp()
    torch.testing.assert_close(drawn.mean(0), due, atol=0.015, rtol=0)
    worth = torch.tensor([1.0, -2.0, 5.0])
    found = torch.autograd.grad((drawn.mean(0) * worth).sum(), logits)[0]
    torch.testing.assert_close(found, torch.autograd.grad((due * worth).sum(), logits)[0])


@torch.no_grad()
def test_nothing_observed_is_the_prior() -> None:
    """The very draw of a rollout from the step before, and no divergence."""
    net, seen = model("camera", "position", free_nats=0.0).eval(), window()
    fix(net.posterior, torch.tensor([9.0, 0.0, 0.0, 0.0]).repeat(3, 1))
    blind = hide(seen, 1, LENGTH - 1, "camera", "position")
    generator = seeded()
    before = net.encode(seen.first(LENGTH - 1), generator=generator)
    imagined = net.rollout(before, seen.past.steps(slice(-1, None)), generator=generator)
    found = net.encode(blind, generator=seeded()).features()
    torch.testing.assert_close(found[1], imagined.final.features()[1])
    assert (found[[0, 2, 3]] != imagined.final.features()[[0, 2, 3]]).any()
    nothing = replace(seen, observed={name: torch.zeros_like(flags) for name, flags in seen.observed.items()})
    assert all(term == 0 for term in net.loss(nothing, generator=seeded()).terms.values())


@torch.no_grad()
def test_the_errors_of_reconstruction_are_those_of_what_was_observed() -> None:
    net, seen = model("camera", "position", "lamp").eval(), window(batch=6)
    net.fit_normaliser(seen)
    seen = hide(hide(hide(seen, 0, 1, "position"), 2, 3, "camera"), 3, 2, "camera", "position", "lamp")
    terms = net.loss(seen, generator=seeded()).terms
    decoder = net.image_decoders[0]
    found = decoder.images(states(net, seen).flatten(0, 1)).unflatten(0, (6, LENGTH))
    some = (seen.observed["camera"] | seen.observed["position"] | seen.observed["lamp"]).sum()
    pixels = (found - seen.observations["camera"]) / decoder.deviation
    images = (pixels.square().mean((2, 3, 4)) * seen.observed["camera"]).sum() / some
    assert terms["images"] == pytest.approx(images.item(), rel=0.01)  # decoded pictures are cut at 0 and 255
    alone = model("position").eval()
    alone.fit_normaliser(window(batch=6))
    seen = hide(window(batch=6), 0, 1, "position")
    scale = window(batch=6).observations["position"].flatten(0, 1).std(0)
    error = (position_of(alone, states(alone, seen)) - seen.observations["position"]) / scale
    due = error[seen.observed["position"]].square().sum(-1).mean()
    torch.testing.assert_close(alone.loss(seen, generator=seeded()).terms["vectors"], due)


def test_reward_and_end_belong_to_the_state_that_a_step_leads_to() -> None:
    net, seen = model("position", reward=True, continuation=True).eval(), window(told=True)
    net.fit_normaliser(seen)
    torch.nn.init.normal_(net.reward_head[-1].weight, generator=seeded())
    after, terms = states(net, seen)[:, 1:], net.loss(seen, generator=seeded()).terms
    bins = symexp_bins(63, limit=6.0)
    scores = (seen.reward - seen.reward.mean()) / seen.reward.std()
    torch.testing.assert_close(terms["reward"], two_hot_loss(net.reward_head(after), scores, bins).mean())
    going_on = net.continuation_head(after)[..., 0].sigmoid()
    due = -torch.where(seen.terminated, 1 - going_on, going_on).log().mean()
    torch.testing.assert_close(terms["continuation"], due)


def test_a_repeated_belief_goes_on_with_other_draws_that_all_candidates_share() -> None:
    net, seen = model("position", num_samples=2).eval(), window()
    belief = net.encode(seen, generator=seeded())
    assert belief.features().shape == (BATCH, 2, 24)
    assert (belief.features()[:, 0] != belief.features()[:, 1]).any(-1).all()
    repeated = belief.select(torch.zeros(5, dtype=torch.long))
    actions = seen.past.actions[:1].expand(5, 3, -1, -1)
    inputs = Inputs(actions=actions, exogenous=seen.past.exogenous[:1].expand(5, -1, -1), step_s=torch.ones(5, 3))
    features = net.rollout(repeated, inputs, generator=seeded()).features
    assert torch.equal(features[:, 0], features[:, 2])
    paths = features[:, 0].flatten(0, 1).flatten(1)
    assert len(paths.unique(dim=0)) == 10


def test_signals_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'camera'"):
        model("camra")
    odd = replace(CAMERA, shape=(32, 40, 3))
    with pytest.raises(ConfigError, match=r"32 by 40 .*multiples of 16"):
        Rssm(schema=Schema(signals=(odd, PUSH)), config=RssmConfig(inputs=("camera",)))


TOY = Integrator(noise=0.2, wind=False, camera=False)
HORIZON = 4


def logs(num: int, seed: int) -> Window:
    """Windows of the toy; the reward is where a push leads to, and beyond 0.5 m the episode ends."""
    seen = window_of(TOY.episodes(num, 7, seed=seed), TOY.schema)
    position = seen.observations["position"]
    return replace(seen, reward=100 * position[:, 1:, 0], terminated=position[:, 1:, 1] > 0.5)


@pytest.fixture(scope="module")
def trained() -> Rssm:
    torch.manual_seed(0)
    schema = Schema(signals=(*TOY.schema.signals, SCORE))
    config = RssmConfig(inputs=("position",), hidden_size=48, num_groups=6, num_classes=8, width=48, continuation=True)
    net, data = Rssm(schema=schema, config=config), logs(500, 0)
    net.fit_normaliser(data)
    return fit(net, lambda draw: pick_entries(data, torch.randint(500, (32,), generator=draw)), 100, lr=8e-3)


@torch.no_grad()
def test_it_learns_to_predict(trained: Rssm) -> None:
    """Open loop it errs far less than standing still does, and no less than the noise allows."""
    seen, start = logs(200, 1), 7 - HORIZON
    belief = trained.encode(seen.first(start + 1), generator=seeded()).select(torch.arange(200).repeat_interleave(8))
    future = seen.past.steps(slice(start, None))
    inputs = replace(
        future, actions=future.actions.repeat_interleave(8, 0), step_s=future.step_s.repeat_interleave(8, 0)
    )
    paths = trained.rollout(belief, inputs, generator=seeded()).features[:, 0, 0]
    found = position_of(trained, paths).unflatten(0, (200, 8))
    due = seen.observations["position"]
    exact, best = due[:, start], []
    for step in range(HORIZON):
        exact = 0.9 * exact + future.actions[:, 0, step]
        best.append(exact)
    least, ours, still = (
        (one - due[:, start + 1 :]).square().mean((0, 2)).sqrt()
        for one in (torch.stack(best, 1), found.mean(1), due[:, start : start + 1])
    )
    assert (ours < 0.6 * still).all()
    assert (ours > 0.95 * least).all()
    assert (found.std(1).mean((0, 2)) > 0.05).all()


@torch.no_grad()
def test_it_learns_reconstruction_reward_and_end(trained: Rssm) -> None:
    seen = logs(200, 2)
    after = states(trained, seen)[:, 1:]
    position = seen.observations["position"][:, 1:]
    assert (position_of(trained, after) - position).square().mean() < 0.1 * position.var()
    likely = trained.reward_head(after).argmax(-1)
    reward = trained.rewards.inverse(symexp_bins(63, limit=6.0)[likely][..., None])[..., 0]
    assert (reward - seen.reward).square().mean() < 0.2 * seen.reward.var()
    told = trained.continuation_head(after)[..., 0] < 0
    assert (told == seen.terminated).float().mean() > 0.9
    assert 0.2 < seen.terminated.float().mean() < 0.8
