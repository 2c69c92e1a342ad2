from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.windows import HEADING, LAMP, POSITION, PUSH, WIND, complete, cut, fit, random_window, seeded
from tests.testing.toy_windows import window_of

from worldline.errors import ConfigError
from worldline.models.base import Belief, Inputs, Window
from worldline.models.ensemble import Ensemble, EnsembleConfig
from worldline.models.layers.member_networks import MemberLinear
from worldline.models.layers.standardizer import Normaliser
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model
from worldline.testing.rollouts import pick_entries
from worldline.testing.toys import Integrator

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3))


NOISE, SPREAD = 0.2, 1.47
"""Deviation of the toy's noise, and of its positions, metres."""


def build(*signals: Signal, exogenous: bool = True, **settings: Any) -> Ensemble:
    torch.manual_seed(0)
    schema = Schema(signals=(*signals, PUSH, *((WIND,) if exogenous else ())))
    config = EnsembleConfig(inputs=tuple(one.name for one in signals), **{"width": 16, **settings})
    return Ensemble(schema=schema, config=config)


def window(*, exogenous: bool = True, batch: int = 4, length: int = 5) -> Window:
    signals = (POSITION, HEADING, LAMP, PUSH, *((WIND,) if exogenous else ()))
    return random_window(Schema(signals=signals), batch, length)


@pytest.mark.parametrize(("signals", "history", "exogenous", "linear"), [
    ((POSITION,), 1, True, True),
    ((POSITION,), 3, False, False),
    ((LAMP, HEADING, POSITION), 1, False, True),
    ((LAMP, HEADING, POSITION), 3, True, False),
])  # fmt: skip
def test_conforms(signals: tuple[Signal, ...], history: int, exogenous: bool, linear: bool) -> None:
    seen = window(exogenous=exogenous, batch=40 if linear else 4)
    gain = 0.1 if linear else 0.0
    model = build(*signals, exogenous=exogenous, history=history, linear=linear, noise=not linear, gain=gain)
    if not linear:  # the residual of a forecast that is not fitted begins at 0
        check_model(model, seen)
    model.fit_normaliser(seen)
    check_model(model, seen)


def test_it_conforms_when_it_is_told_how_long_steps_take() -> None:
    seen = window()
    seen = replace(seen, past=replace(seen.past, step_s=1 + torch.rand(4, 4, generator=seeded())))
    model = build(POSITION, timed=True)
    model.fit_normaliser(seen)
    check_model(model, seen)
    belief, longer = model.encode(seen, generator=seeded()), replace(seen.past, step_s=2 * seen.past.step_s)
    usual, other = (model.rollout(belief, past, generator=seeded()).features[..., :2] for past in (seen.past, longer))
    assert not torch.allclose(usual, other)


def test_a_picture_is_refused_with_the_families_that_take_one() -> None:
    with pytest.raises(ConfigError, match=r"camera.*jepa, rssm, features, lewm"):
        build(CAMERA, POSITION)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_likelihood_by_hand(beta: float) -> None:
    model, seen = build(POSITION, beta=beta, path_weight=0.0).eval(), window()
    seen.observed["position"][1, 2] = False
    seen.observations["position"][1, 2] = math.nan
    found = model.loss(seen, generator=seeded()).terms["step"]
    rows = []
    with torch.no_grad():
        for step in range(4):
            belief = model.encode(seen.first(step + 1), generator=seeded())
            mean, variance = one_step(model, belief, seen.past.steps(slice(step, step + 1)))
            known = seen.observed["position"][:, step + 1]
            error = (mean - seen.observations["position"][:, None, step + 1]).square()
            value = 0.5 * (error / variance + variance.log()) * variance**beta
            rows.append(value[known])
    torch.testing.assert_close(found, torch.cat(rows).mean((1, 2)).mean(), rtol=1e-5, atol=1e-5)


def last_layer(model: Ensemble) -> MemberLinear:
    layer = model.layers[-1]
    assert isinstance(layer, MemberLinear)
    return layer


@torch.no_grad()
def drifting(model: Ensemble, steps: torch.Tensor, variance: float) -> Ensemble:
    """The model made to say, whatever it sees, that each member's [M] step is all that changes, but for noise."""
    last = last_layer(model)
    last.weight.zero_()
    size = model.upper.shape[1]
    last.bias[:, 0, :size] = steps[:, None]
    last.bias[:, 0, size:] = math.log(variance)
    model.upper.fill_(50.0)
    model.lower.fill_(-50.0)
    return model.eval()


def drawn(model: Ensemble, belief: Belief, inputs: Inputs, count: int) -> torch.Tensor:
    """So many rollouts of each entry, [count, B, M, T, D]."""
    index = torch.arange(len(inputs.step_s)).repeat(count)
    repeated = Inputs(
        actions=inputs.actions[index],
        exogenous=None if inputs.exogenous is None else inputs.exogenous[index],
        step_s=inputs.step_s[index],
    )
    paths = model.rollout(belief.select(index), repeated, generator=seeded()).features[:, 0].detach()
    return paths.unflatten(0, (count, -1))


def two_moments(*pairs: tuple[list[float], list[float]]) -> Window:
    """Windows of two positions each; one that holds NaN was not observed."""
    positions = torch.tensor(pairs)
    return replace(
        complete({"position": positions}, torch.ones(len(pairs), 1, 2)),
        observed={"position": ~positions.isnan().any(-1)},
    )


def test_every_term_of_standing_still_by_hand() -> None:
    model = drifting(build(POSITION, exogenous=False, history=1, beta=0.5), torch.zeros(5), 0.25)
    model.codes.change.fill_(0.5)
    unknown = [math.nan, math.nan]
    seen = two_moments(([0.0, 0.0], [0.3, -0.4]), ([1.0, 2.0], unknown), (unknown, [3.0, 4.0]))
    losses = model.loss(seen, generator=seeded())
    # The first window alone counts. In units of a change its errors are 0.6 and 0.8; 0.25 ** beta is 0.5.
    step = sum(0.5 * (error**2 / 0.25 + math.log(0.25)) * 0.5 for error in (0.6, 0.8)) / 2
    path = (0.09 / (0.09 + 0.25) + 0.16 / (0.16 + 0.25)) / 2
    found = {name: float(term.detach()) for name, term in losses.terms.items()}
    assert found == pytest.approx({"step": step, "path": path, "bounds": 100.0}, rel=1e-5)
    assert losses.weights == {"step": 1.0, "path": 1.0, "bounds": 0.01}


def test_a_gap_is_filled_with_what_each_member_predicts() -> None:
    steps = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0])
    model, seen = drifting(build(POSITION, LAMP, history=2), steps, 0.25), window()
    seen.observed["position"][:, 3:] = False
    seen.observations["position"][:, 3:] = math.nan
    seen.observed["lamp"][:] = False
    belief = model.encode(seen, generator=seeded())
    due = seen.observations["position"][:, None, 2] + 2 * steps[:, None]
    torch.testing.assert_close(belief.codes[:, :, 0, :2], due)
    torch.testing.assert_close(belief.stale[0, 0], torch.tensor([[2 / 3, 1.0], [1 / 2, 1.0]]))
    assert bool((belief.codes[..., 2:] == 0).all())  # never seen: the mean
    variance = drawn(model, belief, seen.past.steps(slice(1)), 20_000)[:, 0].var(0).mean(0)[0, :5]
    torch.testing.assert_close(variance, torch.tensor([0.25, 0.25, 1.25, 1.25, 1.25]), rtol=0.05, atol=0)


def one_step(model: Ensemble, belief: Any, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each member [B, M, size], from rollouts alone: their draws are mean + deviation * noise."""
    many = [
        model.rollout(belief, inputs, generator=seeded(seed)).features[:, 0, :, 0, : len(model.codes.owner)]
        for seed in range(2)
    ]
    noises = [torch.randn(many[0].shape, generator=seeded(seed)) for seed in range(2)]
    deviation = (many[0] - many[1]) / (noises[0] - noises[1])
    return many[0] - deviation * noises[0], deviation.square()


def test_a_linear_base_knows_a_linear_world_before_training() -> None:
    """Positions move by the push of the step before: a history of 2 knows it."""
    seen = window(exogenous=False, batch=200, length=12)
    push, position = seen.past.actions[:, 0], seen.observations["position"]
    for step in range(2, 12):
        position[:, step] = 0.9 * position[:, step - 1] + 0.5 * push[:, step - 2]
    kept = cut(seen, slice(1, 12))
    model = build(POSITION, exogenous=False, history=2, linear=True, noise=False).eval()
    with torch.no_grad():
        last_layer(model).weight.zero_()
        last_layer(model).bias.zero_()
    model.fit_normaliser(kept)
    belief = model.encode(kept.first(3), generator=seeded())
    paths = [model.rollout(belief, kept.past.steps(slice(2, 10)), generator=seeded(n)).features for n in range(2)]
    assert torch.equal(*paths)  # no noise
    found = model.codes.normalisers[0].inverse(paths[0][:, 0, :, :, :2])
    torch.testing.assert_close(found, position[:, None, 4:].expand_as(found), rtol=1e-3, atol=1e-3)
    assert model.base is not None
    assert float(model.base.residual[1].max()) < 0.02 < float(model.base.residual[0].min())


def without_networks(model: Ensemble) -> Ensemble:
    """The model with the linear forecasts alone."""
    with torch.no_grad():
        last_layer(model).weight.zero_()
        last_layer(model).bias.zero_()
    return model


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_an_offset_removes_the_bias_on_a_plant_that_drifts(gain: float) -> None:
    def logs(drift: float) -> Window:
        seen = window(exogenous=False, batch=100, length=30)
        push, position = seen.past.actions[:, 0], seen.observations["position"]
        for step in range(29):
            position[:, step + 1] = 0.9 * position[:, step] + 0.5 * push[:, step] + drift
        return seen

    model = build(POSITION, exogenous=False, history=1, linear=True, noise=False, gain=gain).eval()
    model.fit_normaliser(logs(0.0))
    without_networks(model)
    seen = logs(0.3)
    belief = model.encode(seen.first(12), generator=seeded())
    path = model.rollout(belief, seen.past.steps(slice(11, None)), generator=seeded()).features.detach()[:, 0, :, :, :2]
    miss = model.codes.normalisers[0].inverse(path) - seen.observations["position"][:, None, 12:]
    bias = 0.3 * (1 - 0.9**18) / 0.1  # after 18 steps
    assert float(miss[:, :, -1].mean()) == pytest.approx(0.0 if gain else -bias, abs=0.02)


def moving(batch: int, length: int, speed: torch.Tensor) -> Window:
    """Positions that move by `speed` [batch, 1, 2] in every step."""
    seen = window(exogenous=False, batch=batch, length=length)
    start = torch.randn(batch, 1, 2, generator=torch.Generator().manual_seed(5))
    seen.observations["position"].copy_(start + speed * torch.arange(length)[None, :, None])
    return seen


def test_each_member_knows_all_episodes_but_those_of_its_part() -> None:
    speed = torch.full((100, 1, 2), 0.1)
    speed[40:60] = -0.7  # the third of five parts moves the other way
    seen = replace(moving(100, 8, speed), episode=torch.arange(100))
    model = build(POSITION, exogenous=False, history=1, linear=True, noise=False, folds=True)
    assert model.num_folds == 0  # the number of episodes is not known yet
    model.num_episodes = 100
    model.fit_normaliser(seen)
    assert model.num_folds == 5
    without_networks(model).eval()
    belief = model.encode(seen.first(1), generator=seeded())
    features = model.rollout(belief, seen.past.steps(slice(1)), generator=seeded()).features[:, 0, :, 0, :2]
    moved = model.codes.normalisers[0].inverse(features) - seen.observations["position"][:, None, 0]
    torch.testing.assert_close(moved[:, 2], torch.full_like(moved[:, 2], 0.1), rtol=0, atol=1e-3)
    assert moved[:, [0, 1, 3, 4]].mean() < 0
    alone = model.without_fold(2)
    features = alone.rollout(belief, seen.past.steps(slice(1)), generator=seeded()).features[:, 0, :, 0, :2]
    others = alone.codes.normalisers[0].inverse(features) - seen.observations["position"][:, None, 0]
    torch.testing.assert_close(others, moved[:, 2:3].expand_as(others))


@pytest.mark.parametrize("training", [True, False])
def test_a_part_trains_all_members_but_its_own_which_it_validates(training: bool) -> None:
    seen = replace(window(exogenous=False, batch=6, length=12), episode=torch.full((6,), 4))
    model = build(POSITION, exogenous=False, history=2, linear=True, noise=False, folds=True, bootstrap=False)
    model.num_episodes = 10  # two episodes in each of five parts, so episode 4 belongs to the third
    model.fit_normaliser(seen)
    model.train(training).loss(seen, generator=seeded()).total.backward()
    gradient = last_layer(model).weight.grad
    assert gradient is not None
    used = gradient.abs().flatten(1).sum(1) > 0
    assert used.tolist() == [training, training, not training, training, training]


def test_networks_see_nothing_beyond_the_logged_range() -> None:
    seen = window(exogenous=False, batch=60, length=12)
    model = build(POSITION, exogenous=False, history=2, linear=True, noise=False).eval()
    model.fit_normaliser(seen)
    assert model.base is not None
    model.base.weight.zero_()  # the linear forecast is not limited
    far = seen.first(2).observations["position"].abs().amax() * torch.tensor([1e2, 1e4])
    changes = []
    for distance in far:
        there = {"position": seen.observations["position"][:, :2] + distance}
        belief = model.encode(replace(seen.first(2), observations=there), generator=seeded())
        path = model.rollout(belief, seen.past.steps(slice(1, 2)), generator=seeded()).features
        changes.append(path[:, 0, :, 0, :2] - belief.features()[..., :2])
    torch.testing.assert_close(*changes, rtol=0, atol=0.1)


def test_a_particle_keeps_its_member() -> None:
    model, seen = build(POSITION, history=2).eval(), window()
    with torch.no_grad():
        for parameter in (last_layer(model).weight, last_layer(model).bias):
            parameter[3] += 5  # member 3 drifts
    before = build(POSITION, history=2).eval()
    paths = [
        one.rollout(one.encode(seen, generator=seeded()), window(length=6).past, generator=seeded()).features
        for one in (model, before)
    ]
    moved = (paths[0] - paths[1]).abs().amax((0, 1, 3, 4))
    assert (moved > 1e-3).tolist() == [False, False, False, True, False]


def trained(toy: Integrator, *, num_episodes: int = 60, updates: int = 120, missing: float = 0.0, **rest) -> Ensemble:
    """A small model of the toy after some seconds."""
    torch.manual_seed(0)
    model = Ensemble(schema=toy.schema, config=EnsembleConfig(inputs=("position",), **{"width": 32, **rest}))
    whole = window_of(toy.episodes(num_episodes, 20, seed=0), toy.schema)
    if missing:
        hidden = torch.rand(whole.observed["position"].shape, generator=seeded(1)) < missing
        values = whole.observations["position"].masked_fill(hidden[..., None], math.nan)
        whole = replace(whole, observations={"position": values}, observed={"position": ~hidden})
    model.fit_normaliser(whole)

    def draw(generator: torch.Generator) -> Window:
        rows = torch.randint(num_episodes, (64,), generator=generator)
        first = int(torch.randint(12, (1,), generator=generator))
        return cut(pick_entries(whole, rows), slice(first, first + 9))

    return fit(model, draw, updates, lr=1e-2)


def open_loop(model: Ensemble, toy: Integrator, steps: int) -> tuple[float, float]:
    """RMSE of the mean path and of standing still at the last of some steps, in metres, on fresh episodes."""
    test = window_of(toy.episodes(200, 20, seed=9), toy.schema)
    belief = model.encode(test.first(3), generator=seeded())
    with torch.no_grad():
        paths = model.rollout(belief, test.past.steps(slice(2, 2 + steps)), generator=seeded()).features
    size = len(model.codes.owner)
    normaliser = model.codes.normalisers[0]
    assert isinstance(normaliser, Normaliser)
    found = normaliser.inverse(paths[:, 0, :, -1, :size].mean(1))
    truth, still = test.observations["position"][:, 2 + steps], test.observations["position"][:, 2]
    return float((found - truth).square().mean().sqrt()), float((still - truth).square().mean().sqrt())


@pytest.fixture(scope="module")
def noisy() -> Ensemble:
    return trained(Integrator(noise=NOISE, camera=False))


def spreads(model: Ensemble, at: torch.Tensor) -> tuple[float, float]:
    """Aleatoric and epistemic deviation of one step from positions [B, 2], metres."""
    toy = Integrator(noise=NOISE, camera=False)
    rows = window_of(toy.episodes(len(at), 20, seed=4), toy.schema)
    seen = replace(rows, observations={"position": at[:, None].expand(-1, 21, -1)}).first(model.config.history)
    ahead = drawn(model, model.encode(seen, generator=seeded()), rows.past.steps(slice(5, 6)), 100)[..., 0, :2]
    unit = model.codes.deviation[:2].square()
    return float((ahead.var(0) * unit).mean().sqrt()), float((ahead.mean(0).var(1) * unit).mean().sqrt())


def inside() -> torch.Tensor:
    """Positions such as the logs hold."""
    return SPREAD * torch.randn(200, 2, generator=seeded())


def test_noise_of_the_world_is_told_from_what_was_not_learned(noisy: Ensemble) -> None:
    noise, doubt = spreads(noisy, inside())
    assert noise == pytest.approx(NOISE, rel=0.2)
    assert doubt < 0.5 * noise
    assert spreads(noisy, inside() + 10 * SPREAD)[1] > 3 * doubt


@pytest.mark.parametrize("steps", [5, 10])
def test_it_beats_standing_still_and_is_near_the_best(noisy: Ensemble, steps: int) -> None:
    toy = Integrator(noise=NOISE, camera=False)
    found, still = open_loop(noisy, toy, steps)
    best = NOISE * math.sqrt(sum(toy.decay ** (2 * step) for step in range(steps)))
    best *= math.sqrt(1 + 1 / noisy.config.num_members)  # the mean of so many particles has noise of its own
    assert found < 0.5 * still
    assert found < 1.2 * best


@pytest.mark.slow
def test_a_sensor_that_is_missing_half_of_the_time_teaches_nearly_as_much(noisy: Ensemble) -> None:
    toy = Integrator(noise=NOISE, camera=False)
    assert open_loop(trained(toy, missing=0.5, updates=250), toy, 5)[0] < 1.1 * open_loop(noisy, toy, 5)[0]


def test_members_learn_single_steps_of_other_folds_and_validations_choose_their_share() -> None:
    model = build(POSITION, exogenous=False, history=2, linear=True, noise=False, folds=True)
    seen = replace(window(exogenous=False, batch=40, length=9), episode=torch.arange(40))
    model.num_episodes = 40
    model.fit_normaliser(seen)
    steps = model.single_steps(seen)
    assert steps is not None
    linear = [part.clone() for part in model.layers.parameters()]
    optimizer = torch.optim.Adam(model.layers.parameters(), 1e-2)
    first = float(steps(seeded()).total.detach())
    for _ in range(200):
        optimizer.zero_grad()
        steps(seeded()).total.backward()
        optimizer.step()
    assert float(steps(seeded()).total.detach()) < 0.5 * first
    # Shares: all of it, none of it, and all of it again.
    model.eval()

    def predicted() -> torch.Tensor:
        belief = model.encode(seen.first(3), generator=seeded())
        return model.rollout(belief, seen.past.steps(range(3, 5)), generator=seeded()).features[..., 0]

    whole = predicted()
    with model.shrunk(0.0):
        none = predicted()
    assert torch.equal(predicted(), whole)
    assert (whole - none).abs().max() > 0.01
    for part, start in zip(model.layers.parameters(), linear, strict=True):
        part.data.copy_(0 * start)
    torch.testing.assert_close(predicted(), none)
