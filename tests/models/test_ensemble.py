from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.contracts.world_model import Inputs, Window
from worldline.errors import ConfigError
from worldline.models.ensemble import Ensemble, EnsembleConfig
from worldline.testing import check_model
from worldline.testing.toys import Integrator

POSITION = Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
HEADING = Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)
CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(64, 64, 3))
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="m")
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(2,), unit="m")
NOISE = 0.2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(*signals: Signal, exogenous: bool = True, **settings: Any) -> Ensemble:
    torch.manual_seed(0)
    schema = Schema(signals=(*signals, PUSH, *((WIND,) if exogenous else ())))
    config = EnsembleConfig(inputs=tuple(one.name for one in signals), **{"width": 16, **settings})
    return Ensemble(schema=schema, config=config)


def window(*, exogenous: bool = True, batch: int = 4, length: int = 5) -> Window:
    generator = seeded(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    values = {
        "position": normal(batch, length, 2),
        "heading": 360 * torch.rand(batch, length, 1, generator=generator),
        "lamp": torch.randint(3, (batch, length), generator=generator),
    }
    return Window(
        observations=values,
        observed={name: torch.ones(batch, length, dtype=torch.bool) for name in values},
        past=Inputs(
            actions=normal(batch, 1, length - 1, 2),
            exogenous=normal(batch, length - 1, 2) if exogenous else None,
            step_s=torch.ones(batch, length - 1),
        ),
    )


@pytest.mark.parametrize("exogenous", [True, False], ids=["wind", "calm"])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(
    "signals", [(POSITION,), (LAMP, POSITION), (HEADING,)], ids=lambda s: "+".join(o.name for o in s)
)
def test_conforms(signals: tuple[Signal, ...], history: int, exogenous: bool) -> None:
    seen = window(exogenous=exogenous)
    model = build(*signals, exogenous=exogenous, history=history)
    check_model(model, seen)
    model.fit_normaliser(seen)
    check_model(model, seen)


def test_a_picture_is_refused_with_the_families_that_take_one() -> None:
    with pytest.raises(ConfigError, match=r"camera.*jepa, rssm, features, lewm"):
        build(CAMERA, POSITION)


@pytest.mark.parametrize(
    "settings",
    [{"inputs": ()}, {"num_members": 1}, {"history": 0}, {"beta": 2.0}, {"blanked": 1.0}, {"path_weight": -1.0}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EnsembleConfig(**{"inputs": ("position",), **settings})


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


def one_step(model: Ensemble, belief: Any, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each member [B, M, size], from rollouts alone: their draws are mean + deviation * noise."""
    many = [
        model.rollout(belief, inputs, generator=seeded(seed)).features[:, 0, :, 0, : len(model.codes.owner)]
        for seed in range(2)
    ]
    noises = [torch.randn(many[0].shape, generator=seeded(seed)) for seed in range(2)]
    deviation = (many[0] - many[1]) / (noises[0] - noises[1])
    return many[0] - deviation * noises[0], deviation.square()


def test_features_begin_with_the_present_and_are_the_belief() -> None:
    model, seen = build(POSITION, history=3).eval(), window()
    model.fit_normaliser(seen)
    belief = model.encode(seen, generator=seeded())
    scores = model.codes(seen.observations, seen.observed)[:, -1]
    torch.testing.assert_close(belief.features()[:, :, :2], scores[:, None].expand(-1, 5, -1))
    again = model.belief(belief.features().mean(1))
    torch.testing.assert_close(again.features(), belief.features())
    future = replace(window(length=4).past)
    pair = [model.rollout(one, future, generator=seeded()).features for one in (belief, again)]
    torch.testing.assert_close(*pair)


def test_a_particle_keeps_its_member() -> None:
    model, seen = build(POSITION, history=2).eval(), window()
    with torch.no_grad():
        for parameter in (model.layers[-1].weight, model.layers[-1].bias):
            parameter[3] += 5  # member 3 drifts
    before = build(POSITION, history=2).eval()
    paths = [
        one.rollout(one.encode(seen, generator=seeded()), window(length=6).past, generator=seeded()).features
        for one in (model, before)
    ]
    moved = (paths[0] - paths[1]).abs().amax((0, 1, 3, 4))
    assert (moved > 1e-3).tolist() == [False, False, False, True, False]


def trained(
    toy: Integrator, *, num_episodes: int = 60, updates: int = 400, missing: float = 0.0, **settings: Any
) -> Ensemble:
    """A small model of the toy after some seconds."""
    torch.manual_seed(0)
    model = Ensemble(schema=toy.schema, config=EnsembleConfig(inputs=("position",), **{"width": 48, **settings}))
    whole = logged(toy, num_episodes, seed=0)
    generator = seeded(1)
    if missing:
        hidden = torch.rand(whole.observed["position"].shape, generator=generator) < missing
        values = whole.observations["position"].masked_fill(hidden[..., None], math.nan)
        whole = replace(whole, observations={"position": values}, observed={"position": ~hidden})
    model.fit_normaliser(whole)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - update / updates)
        rows = torch.randint(num_episodes, (64,), generator=generator)
        first = int(torch.randint(12, (1,), generator=generator))
        optimizer.zero_grad()
        model.loss(part(whole, rows, first, 9), generator=generator).total.backward()
        optimizer.step()
    return model.eval()


def logged(toy: Integrator, num_episodes: int, *, seed: int) -> Window:
    episodes = toy.episodes(num_episodes, 20, seed=seed)

    def batch(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    return Window(
        observations={"position": batch([one.observations["position"] for one in episodes])},
        observed={"position": torch.ones(num_episodes, 21, dtype=torch.bool)},
        past=Inputs(
            actions=batch([one.actions["push"] for one in episodes])[:, None],
            exogenous=batch([one.exogenous["wind"] for one in episodes]) if toy.wind else None,
            step_s=torch.full((num_episodes, 20), 0.1),
        ),
    )


def part(whole: Window, rows: torch.Tensor, first: int, length: int) -> Window:
    past = whole.past.steps(slice(first, first + length - 1))
    return Window(
        observations={name: value[rows, first : first + length] for name, value in whole.observations.items()},
        observed={name: value[rows, first : first + length] for name, value in whole.observed.items()},
        past=Inputs(
            actions=past.actions[rows],
            exogenous=None if past.exogenous is None else past.exogenous[rows],
            step_s=past.step_s[rows],
        ),
    )


def open_loop(model: Ensemble, toy: Integrator, steps: int) -> tuple[float, float]:
    """RMSE of the mean path and of standing still at the last of some steps, in metres, on fresh episodes."""
    test = logged(toy, 200, seed=9)
    belief = model.encode(test.first(3), generator=seeded())
    with torch.no_grad():
        paths = model.rollout(belief, test.past.steps(slice(2, 2 + steps)), generator=seeded()).features
    size = len(model.codes.owner)
    normaliser = model.codes.normalisers[0]
    found = normaliser.inverse(paths[:, 0, :, -1, :size].mean(1))
    truth, still = test.observations["position"][:, 2 + steps], test.observations["position"][:, 2]
    return float((found - truth).square().mean().sqrt()), float((still - truth).square().mean().sqrt())


@pytest.fixture(scope="module")
def noisy() -> Ensemble:
    return trained(Integrator(noise=NOISE, camera=False))


def spreads(model: Ensemble, at: torch.Tensor) -> tuple[float, float]:
    """Aleatoric and epistemic deviation of one step from positions [B, 2], metres."""
    toy = Integrator(noise=NOISE, camera=False)
    rows = logged(toy, len(at), seed=4)
    seen = replace(rows, observations={"position": at[:, None].expand(-1, 21, -1)}).first(model.config.history)
    found = model.uncertainty(model.encode(seen, generator=seeded()), rows.past.steps(slice(5, 6)), generator=seeded())
    return float(found.aleatoric.mean().sqrt()), float(found.epistemic.mean().sqrt())


def test_noise_of_the_world_is_told_from_what_was_not_learned(noisy: Ensemble) -> None:
    inside = torch.randn(100, 2, generator=seeded()) * 0.7
    noise, doubt = spreads(noisy, inside)
    assert noise == pytest.approx(NOISE, rel=0.2)
    assert doubt < 0.5 * noise
    assert spreads(noisy, inside + 15.0)[1] > 3 * doubt


@pytest.mark.slow
def test_more_data_takes_the_doubt_and_leaves_the_noise() -> None:
    toy, inside = Integrator(noise=NOISE, camera=False), torch.randn(100, 2, generator=seeded()) * 0.7
    few, many = (spreads(trained(toy, num_episodes=count), inside) for count in (6, 200))
    assert many[1] < 0.7 * few[1]
    assert many[0] == pytest.approx(NOISE, rel=0.2)


@pytest.mark.parametrize("steps", [5, 10])
def test_it_beats_standing_still(noisy: Ensemble, steps: int) -> None:
    found, still = open_loop(noisy, Integrator(noise=NOISE, camera=False), steps)
    assert found < 0.6 * still


@pytest.mark.slow
def test_a_sensor_that_is_missing_half_of_the_time_teaches_nearly_as_much(noisy: Ensemble) -> None:
    toy = Integrator(noise=NOISE, camera=False)
    whole, _ = open_loop(noisy, toy, 5)
    gaps, still = open_loop(trained(toy, missing=0.5), toy, 5)
    assert gaps < whole + 0.25 * (still - whole)


@pytest.mark.slow
def test_three_steps_show_a_speed_that_one_does_not() -> None:
    class Cart(Integrator):
        """The push changes the speed, which is not observed."""

        def episodes(self, num_episodes: int, num_steps: int, *, seed: int) -> Any:
            made = []
            for one in super().episodes(num_episodes, num_steps, seed=seed):
                speed = np.concatenate([np.zeros((1, 2)), one.actions["push"]]).cumsum(0) * 0.3
                speed = speed - speed.mean(0)
                made.append(replace(one, observations={"position": speed.cumsum(0).astype(np.float32)}))
            return made

    toy = Cart(noise=0.0, wind=False, camera=False)
    errors = [open_loop(trained(toy, history=history, updates=250), toy, 5)[0] for history in (1, 3)]
    assert errors[1] < 0.5 * errors[0]
