from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.windows import HEADING, LAMP, POSITION, PUSH, WIND, complete, fit, random_window, seeded
from tests.testing.toy_windows import window_of

from worldline.errors import ConfigError, UnknownNameError
from worldline.models.base import Window
from worldline.models.token import Bins, Token, TokenConfig, TokenModel, TokenState
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model
from worldline.testing.log_edits import hide
from worldline.testing.rollouts import pick_entries
from worldline.testing.toys import Integrator

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3))


GEAR = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2)


SMALL = {"num_bins": 12, "context_steps": 3, "width": 16, "num_heads": 2}
BATCH, LENGTH = 4, 5
TOY = Integrator(wind=False, camera=False)


def model(*inputs: str, exogenous: bool = True, **settings: Any) -> TokenModel:
    torch.manual_seed(0)
    signals = (CAMERA, POSITION, HEADING, LAMP, PUSH, GEAR, *((WIND,) if exogenous else ()))
    config = TokenConfig(inputs=inputs, **{**SMALL, **settings})
    return TokenModel(schema=Schema(signals=signals), config=config).eval()


def window(*, exogenous: bool = True, batch: int = BATCH, length: int = LENGTH) -> Window:
    signals = (POSITION, HEADING, LAMP, PUSH, GEAR, *((WIND,) if exogenous else ()))
    return random_window(Schema(signals=signals), batch, length)


def bins(*, num_bins: int = 12, smoothing: float = 0.75, margin: int = 0) -> Bins:
    return Bins(num_bins=num_bins, smoothing=smoothing, margin=margin, width=8)


SLOW = pytest.mark.slow
FEW: dict[str, Any] = {"horizon": 3, "num_candidates": 2}


@pytest.mark.parametrize("exogenous", [True, pytest.param(False, marks=SLOW)], ids=["wind", "calm"])
@pytest.mark.parametrize("inputs", [
    ("lamp", "heading"),
    *(pytest.param(one, marks=SLOW) for one in (("lamp",), ("position",), ("heading", "position"))),
])  # fmt: skip
def test_conforms(inputs: tuple[str, ...], exogenous: bool) -> None:
    acts = inputs != ("lamp",)  # a choice that is drawn stays what it is until its chances have changed enough
    check_model(model(*inputs, exogenous=exogenous), window(exogenous=exogenous), expect_action_effect=acts, **FEW)


@pytest.mark.parametrize("settings", [{"num_samples": 3}, pytest.param({"smoothing": 0.0, "hidden": 0.0}, marks=SLOW)])
def test_conforms_once_its_bins_are_fitted(settings: dict[str, Any]) -> None:
    fitted = model("position", "lamp", **settings)
    fitted.fit_normaliser(window())
    check_model(fitted, window(), **FEW)


def test_conforms_where_it_only_watches() -> None:
    watching = model("lamp", actions=False)
    assert not watching.action_conditioned
    assert model("position", "lamp").action_conditioned
    check_model(watching, window(), expect_action_effect=False, horizon=2, num_candidates=2)
    start = watching.encode(window(), generator=seeded())
    both = [
        watching.rollout(start, replace(window().past, actions=actions), generator=seeded()).features
        for actions in (window().past.actions, 1 - window().past.actions)
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("actions", [True, False])
def test_stepping_with_a_cache_gives_what_reading_everything_again_gives(actions: bool) -> None:
    """Also where the story has grown longer than the attention reaches."""
    net, seen, past = model("position", "lamp", actions=actions, context_steps=2), window(length=3), window().past
    with torch.no_grad():
        cached = net.rollout(net.encode(seen, generator=seeded()), past, generator=seeded(7)).features[:, 0, 0]
        scores, known = net._scores(seen)
        told, given = net._embed(scores, known), net._given(seen.past)[:, 0]
        read = [net.begin.expand(BATCH, 1, -1), told[:, 0]]
        for step in range(2):
            read += [given[:, step], told[:, step + 1]]
        generator, future = seeded(7), net._given(past)[:, 0]
        for step in range(future.shape[1]):
            uniform, drawn = torch.rand(BATCH, 1, 1, 3, generator=generator)[:, 0, 0], []
            read.append(future[:, step])
            for number, (token, head) in enumerate(zip(net.told, net.heads, strict=True)):
                assert isinstance(token, Token)
                last = net.transformer(torch.cat(read, 1))[0][:, -1]
                drawn.append(token.draw(head(last), uniform[:, number]))
                read.append(token.embed(drawn[-1])[:, None])
            torch.testing.assert_close(cached[:, step], torch.cat(drawn, -1), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_cross_entropy_of_what_was_observed() -> None:
    """Heads that see nothing give the same chances always: the rest is counting."""
    net = model("position", "lamp", smoothing=0.0)
    biases = []
    for head in net.heads:
        assert isinstance(head, torch.nn.Linear)
        torch.nn.init.zeros_(head.weight)
        biases.append(torch.nn.init.normal_(head.bias, generator=seeded(3)).detach())
    seen = window()
    seen.observed["position"][1, 2] = seen.observed["lamp"][0, 0] = seen.observed["lamp"][3, 4] = False
    due = []
    for entry in range(BATCH):
        for step in range(LENGTH):
            if seen.observed["position"][entry, step]:
                for number in range(2):
                    value = float(seen.observations["position"][entry, step, number])
                    nearest = min(range(12), key=lambda k: abs(-4 + 8 * k / 11 - value))
                    due.append(-float(biases[number].log_softmax(0)[nearest]))
            if seen.observed["lamp"][entry, step]:
                lamp = int(seen.observations["lamp"][entry, step])
                due.append(-float(biases[2].log_softmax(0)[lamp]))
    losses = net.loss(seen, generator=seeded())
    assert losses.weights == {"tokens": 1.0}
    assert float(losses.total.detach()) == pytest.approx(sum(due) / len(due), rel=1e-5)


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    probes=st.lists(st.floats(-1e5, 1e5, width=32), min_size=2, max_size=20),
    margin=st.sampled_from([0, 3]),
)
def test_binning_is_monotone_and_bounded_for_any_data(values: list[float], probes: list[float], margin: int) -> None:
    token = bins(margin=margin)
    token.fit(torch.tensor(values)[:, None])
    assert (token.levels.diff() > 0).all()
    numbers = token.bin(token.scores(torch.tensor(sorted(probes))[:, None])[:, 0])
    assert (numbers.diff() >= 0).all()
    assert 0 <= numbers.min() <= numbers.max() < 12


def test_a_value_that_is_frequent_takes_no_bins_from_the_others() -> None:
    shut = torch.zeros(900, 1)
    token = bins(num_bins=32)
    token.fit(torch.cat([shut, torch.linspace(0, 1, 100)[:, None]]))
    gaps = token.levels.diff()
    assert gaps.max() < 1.5 * gaps.min()


@given(st.floats(-2.75, 2.75), st.sampled_from([0.75, 1.5]))
def test_what_is_drawn_from_the_target_is_the_value(value: float, smoothing: float) -> None:
    """Levels lie 0.25 apart, yet a perfect prediction of a sure value has next to no spread."""
    token = bins(num_bins=33, smoothing=smoothing)
    chances = torch.special.ndtr((token._edges() - value) / (0.25 * smoothing)).diff()
    drawn = token.draw(chances.clamp(min=1e-30).log().expand(5, -1), torch.tensor([0.01, 0.3, 0.5, 0.7, 0.99]))
    assert (drawn - value).abs().max() < 0.02


def test_draws_follow_the_distribution_and_have_its_exact_gradient() -> None:
    token = bins(num_bins=9)
    logits = torch.randn(9, generator=seeded()).requires_grad_()
    uniform = (torch.arange(4000) + 0.5) / 4000
    drawn = token.draw(logits.expand(4000, -1), uniform)
    torch.testing.assert_close(drawn.mean(), token.mean(logits)[0], atol=2e-3, rtol=0)
    (found,) = torch.autograd.grad(drawn.mean(), logits)
    (due,) = torch.autograd.grad(token.mean(logits)[0], logits)
    torch.testing.assert_close(found, due, atol=5e-3, rtol=0)


def test_of_a_missing_value_the_belief_holds_what_is_expected() -> None:
    net, seen = model("position", "lamp"), window()
    gone = hide(seen, torch.arange(LENGTH).expand(BATCH, -1) == LENGTH - 1, "nan")
    before = net.encode(seen.first(LENGTH - 1), generator=seeded())
    found = net.encode(gone, generator=seeded()).features()[:, 0]
    with torch.no_grad():
        given = net._given(seen.past)[:, 0, -1]
        assert isinstance(before, TokenState)
        read, _ = net.transformer(torch.cat([before.last, given], 1), cache=before.cache)
        first = net.told[0]
        assert isinstance(first, Bins)
        torch.testing.assert_close(found[:, :1], first.mean(net.heads[0](read[:, -1])))
    torch.testing.assert_close(found[:, 2:].sum(-1), torch.ones(BATCH))


def test_what_was_missing_is_told_as_missing() -> None:
    net, seen = model("position"), window()
    hidden = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    hidden[0, 1] = True
    gone = hide(seen, hidden, "nan")
    whole, part = (net.encode(on, generator=seeded()) for on in (seen, gone))
    assert torch.equal(whole.features(), part.features())
    after = [net.rollout(belief, seen.past, generator=seeded()).features for belief in (whole, part)]
    assert not torch.allclose(after[0][0], after[1][0])
    torch.testing.assert_close(after[0][1:], after[1][1:])


def test_a_world_without_noise_is_learned() -> None:
    """Against one step that stands still, and against the best that can be said without knowing the push."""
    informed, seconds = learned(), window_of(TOY.episodes(64, 10, seed=2), TOY.schema)
    error = one_step_errors(informed, seconds)
    blind_optimum = math.sqrt(1 / 3)
    assert error < 0.5 * blind_optimum
    start = informed.encode(seconds.first(3), generator=seeded())
    with torch.no_grad():
        imagined = informed.rollout(start, seconds.past.steps(slice(2, None)), generator=seeded()).features[:, 0, 0]
    due = informed._scores(seconds)[0][:, 2:]
    standing_still = (due[:, 1:] - due[:, :1]).square().mean().sqrt()
    assert (imagined - due[:, 1:]).square().mean().sqrt() < 0.6 * standing_still


def test_a_discrete_signal_is_learned() -> None:
    """A lamp that goes round by one with gear 0 and by two with gear 1."""

    def logs(generator: torch.Generator, batch: int = 32) -> Window:
        gear = torch.randint(2, (batch, 5), generator=generator)
        start = torch.randint(3, (batch, 1), generator=generator)
        lamp = torch.cat([start, start + (gear + 1).cumsum(1)], 1) % 3
        actions = torch.cat([torch.zeros(batch, 5, 2), torch.nn.functional.one_hot(gear, 2)], -1)
        return complete({"lamp": lamp}, actions)

    net, seen = fit(model("lamp", exogenous=False, hidden=0.0), logs, 150, lr=1e-2), logs(seeded(1))
    start = net.encode(seen.first(1), generator=seeded())
    imagined = net.rollout(start, seen.past, generator=seeded()).features[:, 0, 0]
    assert (imagined.argmax(-1) == seen.observations["lamp"][:, 1:]).float().mean() > 0.98


def test_signals_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'position'"):
        model("positon")
    with pytest.raises(ConfigError, match=r"'camera' is an image.*jepa, rssm, features, lewm"):
        model("position", "camera")


def learned() -> TokenModel:
    """Trained on the toy for a few seconds."""
    torch.manual_seed(0)
    config = TokenConfig(inputs=("position",), num_bins=48, context_steps=2, width=32)
    net, data = TokenModel(schema=TOY.schema, config=config), window_of(TOY.episodes(1000, 4, seed=1), TOY.schema)
    net.fit_normaliser(data)
    return fit(net, lambda draw: pick_entries(data, torch.randint(1000, (32,), generator=draw)), 150, lr=1e-2)


def one_step_errors(net: TokenModel, seen: Window) -> float:
    """Root mean square of expectations of the last observation, metres."""
    last = torch.zeros_like(seen.observed["position"])
    last[:, -1] = True
    with torch.no_grad():
        scores = net.encode(hide(seen, last, "nan"), generator=seeded()).features()[:, 0]
    parts = [token.normaliser.inverse(scores[:, [n]]) for n, token in enumerate(net.told) if isinstance(token, Bins)]
    return float((torch.cat(parts, -1) - seen.observations["position"][:, -1]).square().mean().sqrt())
